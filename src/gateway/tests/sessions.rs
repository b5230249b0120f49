//! Sessions: seats, resumption, signals, the end.

use std::time::Duration;

use axum::{Extension, body::Body, http::Request};
use tokio::time::Instant;
use tower::ServiceExt;

use super::{Device, DeviceSignal, Offer, OfferOne, Service, event, id, key, now};
use crate::{
    domain::{Caller, Epoch, Outcome, Scope, Urgency},
    store::Arrival,
};

#[tokio::test]
pub(super) async fn an_acknowledged_event_ends_and_presence_follows() {
    let mut service = Service::start().await;
    assert_eq!(service.state("box").await, "offline");
    let mut device = service.online("box").await;
    assert_eq!(service.state("box").await, "online");
    let link = service.link("box").unwrap();
    let first = event("box", 1, "{}");
    assert_eq!(link.offer(&first, now()), Offer::Taken);
    assert_eq!(link.offer(&first, now()), Offer::Taken, "the cursor covers it");
    assert!(link.holds(first.id));
    device.hear("</message>").await;
    device.acknowledge(2).await;
    match service.signal().await {
        DeviceSignal::Ended { device, epoch, events, .. } => {
            assert_eq!((device, epoch), (id("box"), Epoch(1)));
            assert_eq!(events, [(first.id, first.located, Outcome::Delivered)]);
        }
        other => panic!("{other:?}"),
    }
    assert!(!link.holds(first.id));
    device.send("</stream:stream>").await;
    device.hear("</stream:stream>").await;
    match service.signal().await {
        DeviceSignal::Returned { events, at_once, .. } => assert!(events.is_empty() && at_once == Some(true)),
        other => panic!("{other:?}"),
    }
    service
        .until("released", async |service| service.store.holder(&key("box")).is_none())
        .await;
    assert!(service.link("box").is_none());
    assert_eq!(service.state("box").await, "offline");
    let found = service.presence.of(&key("box")).await.unwrap();
    let crate::presence::Found::Device(presence) = found else {
        panic!()
    };
    assert_eq!(
        (presence.session_epoch, presence.connected_at, presence.node),
        (Some(Epoch(1)), None, None)
    );
    assert!(presence.last_seen_at.is_some());
}

#[tokio::test]
pub(super) async fn a_session_whose_seat_was_lost_before_it_is_there_is_not_let_in() {
    let mut service = Service::start().await;
    // Another node claimed after this one, and its word is faster than the answer to the claim.
    service.gateway.links().displace(super::TENANT, &id("box"), Epoch(1));
    let mut device = Device::tls(&service).await;
    device.login("box").await;
    device
        .send("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
        .await;
    device.hear("<conflict").await;
    assert!(service.link("box").is_none());
    // The next claim is newer than that one.
    let device = service.online("box").await;
    assert_eq!(service.state("box").await, "online");
    drop(device);
}

#[tokio::test]
pub(super) async fn arrivals_wait_until_the_backlog_is_read() {
    let mut service = Service::start().await;
    let mut device = Device::tls(&service).await;
    device.login("box").await;
    device.bind().await;
    let link = service.link("box").unwrap();
    assert!(link.behind().is_none(), "no presence yet");
    assert_eq!(link.offer(&event("box", 3, "{}"), now()), Offer::Later);
    device.present().await;
    assert!(matches!(service.signal().await, DeviceSignal::Ready { .. }));
    let behind = link.behind().unwrap();
    assert_eq!((behind.room, behind.refused), (32, 1));
    assert_eq!(link.refill(&event("box", 1, r#"{"n":1}"#), now()), Offer::Taken);
    assert_eq!(link.refill(&event("box", 2, r#"{"n":2}"#), now()), Offer::Taken);
    assert_eq!(
        link.offer(&event("box", 4, r#"{"n":4}"#), now()),
        Offer::Later,
        "the backlog is being read"
    );
    assert!(!link.caught_up(behind.refused), "an arrival was refused meanwhile");
    let behind = link.behind().unwrap();
    assert_eq!(link.refill(&event("box", 3, r#"{"n":3}"#), now()), Offer::Taken);
    assert_eq!(link.refill(&event("box", 4, r#"{"n":4}"#), now()), Offer::Taken);
    assert!(link.caught_up(behind.refused));
    assert_eq!(link.offer(&event("box", 5, r#"{"n":5}"#), now()), Offer::Taken);
    for number in 1..=5 {
        device.hear(&format!(r#"{{"n":{number}}}"#)).await;
    }
}

#[tokio::test]
pub(super) async fn an_arrival_that_overtook_an_older_one_waits_for_it() {
    let mut service = Service::start().await;
    let mut device = service.online("box").await;
    let link = service.link("box").unwrap();
    let numbered = |number| event("box", number, &format!(r#"{{"n":{number}}}"#));
    assert_eq!(link.offer_after(Some(0), &numbered(1), now()), Offer::Taken);
    assert_eq!(link.offer_after(Some(2), &numbered(3), now()), Offer::Gap, "2 was not given");
    assert_eq!(link.offer_after(Some(3), &numbered(4), now()), Offer::Later);
    assert_eq!(
        link.offer_after(Some(1), &numbered(2), now()),
        Offer::Later,
        "the store is read now"
    );
    let behind = link.behind().unwrap();
    for number in 2..=4 {
        assert_eq!(link.refill(&numbered(number), now()), Offer::Taken);
    }
    assert!(link.caught_up(behind.refused));
    assert_eq!(link.offer_after(Some(4), &numbered(5), now()), Offer::Taken);
    for number in 1..=5 {
        device.hear(&format!(r#"{{"n":{number}}}"#)).await;
    }
}

#[tokio::test]
pub(super) async fn what_arrives_together_is_written_together_up_to_what_is_not_taken() {
    let mut service = Service::with(|config| config.window_max_events = 4).await;
    let mut device = service.online("box").await;
    let link = service.link("box").unwrap();
    let together = |numbers: std::ops::RangeInclusive<u64>| {
        let arrivals: Vec<_> = numbers
            .map(|number| Arrival {
                epoch: link.epoch(),
                event: event("box", number, &format!(r#"{{"n":{number}}}"#)),
                after: None,
            })
            .collect();
        let mut offers = vec![Offer::Gone];
        link.offer_all(&arrivals, now(), &mut offers);
        offers.split_off(1)
    };
    assert_eq!(together(1..=2), [Offer::Taken, Offer::Taken]);
    let heard = device.hear("<r xmlns='urn:xmpp:sm:3'/>").await;
    assert!(
        heard.contains(r#"{"n":1}"#) && heard.contains(r#"{"n":2}"#),
        "one request for both: {heard}"
    );
    // The last of them finds the window full.
    assert_eq!(together(3..=5), [Offer::Taken, Offer::Taken, Offer::Later]);
    assert!(device.hear("<r xmlns='urn:xmpp:sm:3'/>").await.contains(r#"{"n":4}"#));
    device.acknowledge(5).await;
    match service.signal().await {
        DeviceSignal::Ended { events, .. } => assert_eq!(events.len(), 4),
        other => panic!("{other:?}"),
    }
    assert!(matches!(service.signal().await, DeviceSignal::Ready { .. }));
    let behind = link.behind().unwrap();
    assert_eq!(link.refill(&event("box", 5, r#"{"n":5}"#), now()), Offer::Taken);
    assert!(link.caught_up(behind.refused));
    // One that is refused behind one that is taken.
    let gap = |number, after| Arrival {
        epoch: link.epoch(),
        event: event("box", number, &format!(r#"{{"n":{number}}}"#)),
        after: Some(after),
    };
    let mut offers = Vec::new();
    link.offer_all(&[gap(6, 5), gap(8, 7)], now(), &mut offers);
    assert_eq!(offers, [Offer::Taken, Offer::Gap]);
    device.hear(r#"{"n":6}"#).await;
}

#[tokio::test]
pub(super) async fn a_full_window_says_later_and_is_ready_again_after_an_acknowledgement() {
    let mut service = Service::with(|config| config.window_max_events = 2).await;
    let mut device = service.online("box").await;
    let link = service.link("box").unwrap();
    let offers: Vec<_> = (1..=3).map(|number| link.offer(&event("box", number, "{}"), now())).collect();
    assert_eq!(offers, [Offer::Taken, Offer::Taken, Offer::Later]);
    device.hear("</message>").await;
    device.acknowledge(2).await;
    assert!(matches!(service.signal().await, DeviceSignal::Ended { .. }));
    assert!(matches!(service.signal().await, DeviceSignal::Ready { .. }));
    assert_eq!(link.behind().unwrap().room, 1);
}

#[tokio::test]
pub(super) async fn a_lost_session_is_away_and_resumes_with_what_it_did_not_get() {
    let mut service = Service::start().await;
    let mut device = Device::tls(&service).await;
    device.login("box").await;
    device.bind().await;
    let previous = device.enable().await;
    device.present().await;
    service.ready("box").await;
    let link = service.link("box").unwrap();
    for number in 1..=2 {
        assert_eq!(
            link.offer(&event("box", number, &format!(r#"{{"n":{number}}}"#)), now()),
            Offer::Taken
        );
    }
    drop(device);
    match service.signal().await {
        DeviceSignal::Broke { events, at_once, .. } => assert_eq!((events.len(), at_once), (2, true)),
        other => panic!("{other:?}"),
    }
    service.until("away", async |service| service.state("box").await == "away").await;
    let away = service.link("box").unwrap();
    assert_eq!(away.offer(&event("box", 3, "{}"), now()), Offer::Later);
    assert!(away.behind().is_none() && away.holds(event("box", 2, "").id));

    let mut device = Device::tls(&service).await;
    device.login("box").await;
    // The presence and the first event arrived.
    device.resume(&previous, 2).await;
    device.hear("<resumed").await;
    let replay = device.hear("</message>").await;
    assert!(replay.contains(r#"{"n":2}"#) && !replay.contains(r#"{"n":1}"#), "{replay}");
    match service.signal().await {
        DeviceSignal::Ended { events, epoch, .. } => assert_eq!((events.len(), epoch), (1, Epoch(1))),
        other => panic!("{other:?}"),
    }
    service.ready("box").await;
    assert_eq!(away.offer(&event("box", 3, "{}"), now()), Offer::Gone);
    assert_eq!(
        service.link("box").unwrap().offer(&event("box", 3, r#"{"n":3}"#), now()),
        Offer::Taken
    );
    device.hear(r#"{"n":3}"#).await;
    assert_eq!(service.state("box").await, "online");
    assert_eq!(service.store.holder(&key("box")), Some(Epoch(1)));
    assert_eq!(service.metric("unpoll_sessions_hibernating").as_deref(), Some("0"));
}

#[tokio::test]
pub(super) async fn resuming_over_an_open_connection_ends_that_one_with_conflict() {
    let mut service = Service::start().await;
    let mut old = Device::tls(&service).await;
    old.login("box").await;
    old.bind().await;
    let previous = old.enable().await;
    old.present().await;
    service.ready("box").await;
    let mut new = Device::tls(&service).await;
    new.login("box").await;
    new.resume(&previous, 1).await;
    new.hear("<resumed").await;
    assert!(old.hear_the_end().await.contains("<conflict"));
    service.ready("box").await;
    assert_eq!(service.state("box").await, "online");
    assert_eq!(
        service
            .metric(&format!(r#"unpoll_sessions{{node="n1",transport="{}"}}"#, service.transport()))
            .as_deref(),
        Some("1")
    );
    let events = |labels| service.metric(&format!("unpoll_session_events_total{{{labels}}}"));
    assert_eq!(events(r#"event="resume",reason="connected""#).as_deref(), Some("1"));
    assert_eq!(events(r#"event="takeover",reason="bind""#).as_deref(), Some("0"));
    // Another device cannot have it, and learns nothing of it.
    let mut stranger = Device::tls(&service).await;
    stranger.login("stranger").await;
    stranger.resume(&previous, 1).await;
    let failed = stranger.hear("</failed>").await;
    assert!(failed.contains("<item-not-found") && failed.contains("h='0'"), "{failed}");
}

#[tokio::test]
pub(super) async fn a_newer_bind_takes_the_seat_and_the_older_session_returns_its_events() {
    let mut service = Service::start().await;
    let mut old = service.online("box").await;
    let first = event("box", 1, "{}");
    assert_eq!(service.link("box").unwrap().offer(&first, now()), Offer::Taken);
    let mut new = Device::tls(&service).await;
    new.login("box").await;
    new.bind().await;
    assert!(old.hear_the_end().await.contains("<conflict"));
    match service.signal().await {
        DeviceSignal::Returned {
            epoch, events, at_once, ..
        } => {
            assert_eq!((epoch, events, at_once), (Epoch(1), vec![(first.id, first.located)], Some(false)));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(service.store.holder(&key("box")), Some(Epoch(2)));
    assert_eq!(service.link("box").unwrap().epoch(), Epoch(2));
}

#[tokio::test]
pub(super) async fn a_new_bind_ends_a_session_that_waits_to_be_resumed_and_its_count_is_remembered() {
    let mut service = Service::start().await;
    let mut device = Device::tls(&service).await;
    device.login("box").await;
    device.bind().await;
    let previous = device.enable().await;
    device.present().await;
    service.ready("box").await;
    drop(device);
    service.until("away", async |service| service.state("box").await == "away").await;
    let mut device = Device::tls(&service).await;
    device.login("box").await;
    device.bind().await;
    assert!(matches!(service.signal().await, DeviceSignal::Returned { epoch: Epoch(1), .. }));
    let mut late = Device::tls(&service).await;
    late.login("box").await;
    late.resume(&previous, 1).await;
    let failed = late.hear("</failed>").await;
    assert!(failed.contains("h='1'"), "{failed}");
    late.bind().await;
}

#[tokio::test]
pub(super) async fn a_session_that_nobody_resumes_ends_and_gives_the_seat_up() {
    let mut service = Service::with(|config| config.resume_within_secs = 1).await;
    let device = service.online("box").await;
    let first = event("box", 1, "{}");
    assert_eq!(service.link("box").unwrap().offer(&first, now()), Offer::Taken);
    drop(device);
    match service.signal().await {
        DeviceSignal::Broke { events, at_once, .. } => {
            assert_eq!((events, at_once), (vec![(first.id, first.located)], true));
        }
        other => panic!("{other:?}"),
    }
    match service.signal().await {
        DeviceSignal::Returned { events, at_once, .. } => {
            assert_eq!(
                (events, at_once),
                (vec![(first.id, first.located)], None),
                "that its connection broke was told"
            );
        }
        other => panic!("{other:?}"),
    }
    service
        .until("released", async |service| service.store.holder(&key("box")).is_none())
        .await;
    assert!(service.link("box").is_none());
}

#[tokio::test]
pub(super) async fn a_silent_device_reads_offline_after_a_missed_probe() {
    let mut service = Service::with(|config| (config.keepalive_secs, config.overdue_secs) = (1, 1)).await;
    let mut device = service.online("box").await;
    let began = Instant::now();
    device.hear("<r xmlns='urn:xmpp:sm:3'/>").await;
    let end = device.hear_the_end().await;
    assert!(end.contains("<connection-timeout"), "{end}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // It was heard two seconds ago; 31 s vouch for it.
    assert_eq!(service.state("box").await, "away");
    assert_eq!(
        service
            .metric(r#"unpoll_session_events_total{event="close",reason="silent"}"#)
            .as_deref(),
        Some("1")
    );
}

#[tokio::test]
pub(super) async fn a_removed_device_is_thrown_out() {
    let mut service = Service::start().await;
    let mut device = service.online("box").await;
    let links = service.gateway.links();
    links.dismiss(super::TENANT, &id("box"), Epoch(7));
    assert!(service.link("box").is_some(), "another epoch");
    links.dismiss(super::TENANT, &id("box"), Epoch(1));
    assert!(device.hear_the_end().await.contains("<not-authorized"));
    assert!(matches!(service.signal().await, DeviceSignal::Returned { .. }));
}

#[tokio::test]
pub(super) async fn a_full_signal_channel_loses_no_signal() {
    let mut service = Service::with_channel(1, |_| {}).await;
    let mut device = service.online("box").await;
    let link = service.link("box").unwrap();
    for number in 1..=5 {
        assert_eq!(link.offer(&event("box", number, "{}"), now()), Offer::Taken);
        device.hear("</message>").await;
        device.acknowledge(u32::try_from(number).unwrap() + 1).await;
    }
    device.send("</stream:stream>").await;
    let mut ended = Vec::new();
    loop {
        match service.signal().await {
            DeviceSignal::Ended { events, .. } => ended.extend(events.into_iter().map(|(_, located, _)| located.number)),
            DeviceSignal::Returned { events, .. } => {
                assert!(events.is_empty());
                break;
            }
            DeviceSignal::Ready { .. } | DeviceSignal::Broke { .. } | DeviceSignal::Told { .. } => {}
        }
    }
    assert_eq!(ended, [1, 2, 3, 4, 5]);
}

#[tokio::test]
pub(super) async fn at_a_stop_devices_hear_it_and_their_last_acknowledgements_count() {
    let mut service = Service::start().await;
    let mut device = service.online("box").await;
    let away = service.online("away").await;
    drop(away);
    service.until("away", async |service| service.state("away").await == "away").await;
    let link = service.link("box").unwrap();
    assert_eq!(link.offer(&event("box", 1, "{}"), now()), Offer::Taken);
    assert_eq!(link.offer(&event("box", 2, "{}"), now()), Offer::Taken);
    let crew = service.links.clone();
    let stopping = tokio::spawn(async move { crew.dismiss(Instant::now() + Duration::from_secs(20)).await });
    device.hear("<system-shutdown").await;
    device.acknowledge(2).await;
    device.hear_the_end().await;
    drop(device);
    assert_eq!(stopping.await.unwrap(), 0);
    let (mut ended, mut returned) = (Vec::new(), Vec::new());
    while let Ok(signal) = service.signals.try_recv() {
        match signal {
            DeviceSignal::Ended { events, .. } => ended.extend(events.into_iter().map(|(_, located, _)| located.number)),
            DeviceSignal::Returned { events, .. } => {
                returned.push(events.into_iter().map(|(_, located)| located.number).collect::<Vec<_>>())
            }
            DeviceSignal::Ready { .. } | DeviceSignal::Broke { .. } | DeviceSignal::Told { .. } => {}
        }
    }
    returned.sort();
    assert_eq!((ended, returned), (vec![1], vec![vec![], vec![2]]));
    assert!(service.store.holder(&key("box")).is_none() && service.store.holder(&key("away")).is_none());
}

#[tokio::test]
pub(super) async fn a_store_that_is_down_is_no_wrong_password() {
    let service = Service::start().await;
    *service.store.down.lock() = true;
    let mut device = Device::tls(&service).await;
    device.show_password("box").await;
    device.hear("<temporary-auth-failure/>").await;
}

#[tokio::test]
async fn a_bug_in_one_connection_ends_that_one_and_no_other() {
    let mut service = Service::start().await;
    let mut other = service.online("box").await;
    let mut device = Device::tls(&service).await;
    // The store panics when asked for the device "bug".
    device.show_password("bug").await;
    device.hear_the_end().await;
    let gauge = |service: &Service| service.metric("unpoll_connections_unauthenticated");
    service
        .until("counted down", async |service| gauge(service).as_deref() == Some("0"))
        .await;
    let link = service.link("box").unwrap();
    assert_eq!(link.offer(&event("box", 1, "{}"), now()), Offer::Taken);
    other.hear("</message>").await;
}

#[tokio::test]
pub(super) async fn a_resumption_that_dies_of_the_same_event_is_told_each_time() {
    let mut service = Service::start().await;
    let mut device = Device::tls(&service).await;
    device.login("box").await;
    device.bind().await;
    let previous = device.enable().await;
    device.present().await;
    service.ready("box").await;
    let first = event("box", 1, "{}");
    assert_eq!(service.link("box").unwrap().offer(&first, now()), Offer::Taken);
    for _ in 0..2 {
        device.hear("</message>").await;
        drop(device);
        match service.signal().await {
            DeviceSignal::Broke { events, at_once, .. } => assert_eq!((events, at_once), (vec![(first.id, first.located)], true)),
            other => panic!("{other:?}"),
        }
        device = Device::tls(&service).await;
        device.login("box").await;
        device.resume(&previous, 1).await;
        device.hear("<resumed").await;
        service.ready("box").await;
    }
    // Given up while the session waits: a resumption leaves it out, and the counts still agree.
    device.hear("</message>").await;
    drop(device);
    assert!(matches!(service.signal().await, DeviceSignal::Broke { .. }));
    service.link("box").unwrap().give_up(first.id);
    let mut device = Device::tls(&service).await;
    device.login("box").await;
    device.resume(&previous, 1).await;
    device.hear("<resumed").await;
    service.ready("box").await;
    let second = event("box", 2, "{}");
    assert_eq!(service.link("box").unwrap().offer(&second, now()), Offer::Taken);
    let heard = device.hear("</message>").await;
    assert!(
        heard.contains(&second.id.to_string()) && !heard.contains(&first.id.to_string()),
        "{heard}"
    );
    device.acknowledge(2).await;
    match service.signal().await {
        DeviceSignal::Ended { events, .. } => assert_eq!(events, [(second.id, second.located, Outcome::Delivered)]),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
pub(super) async fn two_connections_that_fight_for_a_seat_are_slowed() {
    let service = Service::with(|config| config.seat_changes_max = 2).await;
    let mut devices = Vec::new();
    for _ in 0..3 {
        let mut device = Device::tls(&service).await;
        device.login("box").await;
        device.bind().await;
        devices.push(device);
    }
    let mut device = Device::tls(&service).await;
    device.login("box").await;
    let began = Instant::now();
    device.bind().await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(service.metric("unpoll_seat_changes_slowed_total").as_deref(), Some("1"));
}

#[tokio::test]
pub(super) async fn presence_is_told_over_http_to_who_may_read() {
    let mut service = Service::start().await;
    let _device = service.online("box").await;
    let ask = async |device: &str, scope| {
        let caller = Caller {
            tenant: super::TENANT,
            domain: "localhost".into(),
            key_id: Some("k".into()),
            key_name: "k".into(),
            also_push: false,
            scope,
            limits: crate::domain::CallerLimits::default(),
        };
        let routes = service.presence_routes().layer(Extension(caller));
        let request = Request::get(format!("/v1/devices/{device}/presence")).body(Body::empty()).unwrap();
        let response = routes.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        (status, serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default())
    };
    let (status, body) = ask("BOX", Scope::Read).await;
    assert_eq!(status, 200);
    let found: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        found,
        [
            "device",
            "state",
            "session_epoch",
            "connected_at",
            "last_seen_at",
            "node",
            "transport",
            "slow_since",
            "flooding",
            "last_close",
            "seat_changes"
        ]
    );
    assert_eq!(
        (&body["device"], &body["state"], &body["node"], &body["transport"]),
        (&"box".into(), &"online".into(), &"n1".into(), &service.transport().into())
    );
    assert_eq!(ask("unknown", Scope::Read).await.0, 404);
    assert_eq!(ask("removed", Scope::Admin).await.0, 410);
    assert_eq!(ask("a%20b", Scope::Read).await.0, 400);
    assert_eq!(ask("box", Scope::Push).await.0, 403);
}

#[tokio::test]
pub(super) async fn low_urgency_waits_in_the_store_while_the_device_is_inactive() {
    let mut service = Service::start().await;
    let mut device = service.online("box").await;
    let link = service.link("box").unwrap();
    let low = |number| {
        let mut low = (*event("box", number, &format!(r#"{{"n":{number}}}"#))).clone();
        low.event.urgency = Urgency::Low;
        std::sync::Arc::new(low)
    };
    device.send("<inactive xmlns='urn:xmpp:csi:0'/><r xmlns='urn:xmpp:sm:3'/>").await;
    device.hear("h='1'/>").await;
    assert_eq!(link.offer(&low(1), now()), Offer::Held);
    assert!(!link.holds(low(1).id), "it is not dispatched");
    assert_eq!(link.offer(&event("box", 2, r#"{"n":2}"#), now()), Offer::Taken);
    assert!(!device.hear("</message>").await.contains(r#"{"n":1}"#));
    let before = link.behind().unwrap();
    assert_eq!(before.cursor.rest, 2);
    device.send("<active xmlns='urn:xmpp:csi:0'/>").await;
    assert!(matches!(service.signal().await, DeviceSignal::Ready { .. }));
    assert_eq!(
        link.offer(&event("box", 3, "{}"), now()),
        Offer::Later,
        "what was held back goes first"
    );
    assert!(!link.caught_up(before.refused), "that refill read from too far ahead");
    let behind = link.behind().unwrap();
    assert_eq!(behind.cursor.rest, 0);
    assert_eq!(link.refill(&low(1), now()), Offer::Taken);
    assert_eq!(link.refill(&event("box", 2, r#"{"n":2}"#), now()), Offer::Taken, "written before");
    assert_eq!(link.refill(&event("box", 3, r#"{"n":3}"#), now()), Offer::Taken);
    assert!(link.caught_up(behind.refused));
    device.hear(r#"{"n":1}"#).await;
    assert!(!device.hear(r#"{"n":3}"#).await.contains(r#"{"n":2}"#));
    device.acknowledge(4).await;
    match service.signal().await {
        DeviceSignal::Ended { events, .. } => assert_eq!(events.len(), 3, "each once"),
        other => panic!("{other:?}"),
    }
}
