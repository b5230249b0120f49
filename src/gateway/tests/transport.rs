//! Sockets, TLS, admission, closing.

use std::time::Duration;

use super::{Device, Link, Offer, OfferOne, Service, event, now};

use tokio::{io::AsyncWriteExt, net::TcpStream};

#[tokio::test]
async fn a_device_logs_in_with_starttls_and_gets_an_event() {
    let mut service = Service::start().await;
    let mut device = Device::plain(&service).await.starttls(&service).await;
    device.login("box").await;
    device.bind().await;
    device.present().await;
    service.ready("box").await;
    let link = service.link("box").unwrap();
    assert_eq!(link.offer(&event("box", 1, r#"{"data":"é"}"#), now()), Offer::Taken);
    device.hear("{\"data\":\"é\"}").await;
    assert_eq!(
        service.metric(r#"unpoll_sessions{node="n1",transport="xmpp"}"#).as_deref(),
        Some("1")
    );
}

#[tokio::test]
async fn without_require_tls_a_device_logs_in_in_clear() {
    let mut service = Service::with(|config| config.require_tls = false).await;
    let mut device = Device::plain(&service).await;
    device.login("box").await;
    device.bind().await;
    device.present().await;
    service.ready("box").await;
}

#[tokio::test]
async fn words_cut_at_every_byte_are_understood() {
    let mut service = Service::start().await;
    let mut device = Device::tls(&service).await;
    device.login("box").await;
    device
        .trickle("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
        .await;
    device.hear("</iq>").await;
    device.present().await;
    service.ready("box").await;
}

#[tokio::test]
async fn tls_records_cut_at_every_byte_are_understood() {
    let mut service = Service::start().await;
    let mut device = Device::tls_in_bytes(&service).await;
    device.login("box").await;
    device.bind().await;
    device.present().await;
    service.ready("box").await;
    // While half a record is here, an event is sealed.
    let link = service.link("box").unwrap();
    for number in 1..=20 {
        device.send("<presence/>").await;
        assert_eq!(link.offer(&event("box", number, r#"{"n":1}"#), now()), Offer::Taken);
        device.hear(r#"{"n":1}"#).await;
    }
}

#[tokio::test]
async fn a_device_that_knows_only_tls_1_2_is_served() {
    let mut service = Service::start().await;
    let mut device = Device::tls12(&service).await;
    device.login("box").await;
    device.bind().await;
    device.present().await;
    service.ready("box").await;
    let large = format!(r#"{{"data":"{}","end":1}}"#, "x".repeat(60 * 1024));
    assert_eq!(service.link("box").unwrap().offer(&event("box", 1, &large), now()), Offer::Taken);
    device.hear(r#""end":1}"#).await;
    device.send("</stream:stream>").await;
    device.hear_the_end().await;
}

#[tokio::test]
async fn new_keys_at_every_write_are_followed() {
    let mut service = Service::start().await;
    let mut device = Device::tls_with_key_updates(&service).await;
    device.login("box").await;
    device.bind().await;
    device.present().await;
    service.ready("box").await;
    assert_eq!(
        service.link("box").unwrap().offer(&event("box", 1, r#"{"n":1}"#), now()),
        Offer::Taken
    );
    device.hear(r#"{"n":1}"#).await;
}

#[tokio::test]
async fn a_client_of_another_protocol_is_refused_and_one_without_alpn_is_not() {
    let service = Service::start().await;
    assert!(Device::tls_as(&service, &["h2", "http/1.1"]).await.is_err());
    let mut device = Device::tls_as(&service, &[]).await.unwrap();
    device.login("box").await;
    service
        .until("counted", async |service| {
            service.metric(r#"unpoll_connections_refused_total{reason="tls"}"#).as_deref() == Some("1")
        })
        .await;
}

#[tokio::test]
async fn who_does_not_log_in_in_time_is_told_so() {
    let service = Service::with(|config| config.login_within_secs = 1).await;
    let mut silent = Device::plain(&service).await;
    let mut handshake = TcpStream::connect(service.gateway.addresses().xmpps).await.unwrap();
    handshake.write_all(&[0x16, 3, 1, 0]).await.unwrap();
    let end = silent.hear_the_end().await;
    assert!(end.contains("<policy-violation") && end.contains("</stream:stream>"), "{end}");
    let mut byte = [0];
    assert_eq!(tokio::io::AsyncReadExt::read(&mut handshake, &mut byte).await.unwrap(), 0);
    service
        .until("both counted", async |service| {
            service.metric(r#"unpoll_logins_total{result="timed-out"}"#).as_deref() == Some("2")
                && service.metric("unpoll_connections_unauthenticated").as_deref() == Some("0")
        })
        .await;
}

#[tokio::test]
async fn beyond_the_cap_a_connection_reads_why_it_is_refused() {
    let service = Service::with(|config| config.unauthenticated_max = 1).await;
    let mut first = Device::plain(&service).await;
    // Had it said nothing, it would have to go.
    first.send("<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='localhost' version='1.0'>").await;
    first.hear("</stream:features>").await;
    let end = Device::plain(&service).await.hear_the_end().await;
    assert!(end.contains("<resource-constraint") && end.contains("<stream:stream"), "{end}");
}

#[tokio::test]
pub(super) async fn beyond_sessions_max_a_device_reads_why_it_is_refused() {
    let mut service = Service::with(|config| config.sessions_max = 1).await;
    let mut early = Device::tls(&service).await;
    let _first = service.online("first").await;
    early.login("second").await;
    early
        .send("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
        .await;
    assert!(early.hear_the_end().await.contains("<resource-constraint"));
}

#[tokio::test]
async fn an_error_reaches_a_device_that_goes_on_sending() {
    let service = Service::start().await;
    let mut device = Device::tls(&service).await;
    device.login("box").await;
    device.bind().await;
    device.send(&format!("<message><body>{}", "x".repeat(300 * 1024))).await;
    let end = device.hear_the_end().await;
    assert!(end.contains("<policy-violation") && end.ends_with("</stream:stream>"), "{end}");
}

/// Offers events until the socket takes no more for a while; returns how many were taken.
async fn fill(link: &dyn Link, json: impl Fn(u64) -> String) -> u64 {
    let (mut taken, mut full) = (0, 0);
    while full < 5 {
        while link.offer(&event("box", taken + 1, &json(taken + 1)), now()) == Offer::Taken {
            taken += 1;
            assert!(taken < 1000, "the socket takes everything");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let behind = link.behind().unwrap();
        if behind.room == 0 {
            full += 1;
        } else {
            full = 0;
            link.caught_up(behind.refused);
        }
    }
    taken
}

#[tokio::test]
pub(super) async fn a_device_that_does_not_read_is_sent_no_more_than_it_takes_and_all_of_it_later() {
    let mut service = Service::with(|config| {
        config.window_max_events = 10_000;
        config.window_max_bytes = 64 * 1024 * 1024;
    })
    .await;
    let mut device = service.online("box").await;
    let link = service.link("box").unwrap();
    let large = "x".repeat(60 * 1024);
    let json = |number: u64| format!(r#"{{"n":{number},"data":"{large}"}}"#);
    let taken = fill(&*link, json).await;
    for number in 1..=taken {
        device.hear(&format!(r#"{{"n":{number},"#)).await;
    }
    service.ready("box").await;
    assert_eq!(link.offer(&event("box", taken + 1, "{}"), now()), Offer::Taken);
}

#[tokio::test]
pub(super) async fn a_device_that_takes_nothing_for_too_long_is_given_up() {
    let mut service = Service::with(|config| {
        config.window_max_events = 10_000;
        config.window_max_bytes = 64 * 1024 * 1024;
        config.write_stalled_secs = 1;
    })
    .await;
    let _device = service.online("box").await;
    let link = service.link("box").unwrap();
    let large = format!(r#"{{"data":"{}"}}"#, "x".repeat(60 * 1024));
    fill(&*link, |_| large.clone()).await;
    service
        .until("it is given up", async |service| {
            service
                .metric(r#"unpoll_session_events_total{event="close",reason="stalled"}"#)
                .as_deref()
                == Some("1")
        })
        .await;
    assert_eq!(service.state("box").await, "away");
    assert!(link.behind().is_none());
}
