//! Devices that do not read, that send too much, that ask for another keepalive, that are old.

use std::time::Duration;

use socket2::SockRef;

use super::{Device, Offer, OfferOne, Service, event, key, now};
use crate::gateway::sessions::Entry;

/// TCP_USER_TIMEOUT, and when the kernel's own keepalive starts.
fn kernel(service: &Service, device: &str) -> (Option<Duration>, Duration) {
    let Some(Entry::Live(connection)) = service.gateway.shared.sessions.get(&key(device)) else {
        panic!("{device} is not connected");
    };
    let socket = SockRef::from(&connection.socket);
    (socket.tcp_user_timeout().unwrap(), socket.tcp_keepalive_time().unwrap())
}

#[tokio::test]
pub(super) async fn the_kernel_gives_up_on_data_that_nobody_takes_on_every_port() {
    let mut service = Service::start().await;
    let _tls = service.online("tls").await;
    let mut starttls = Device::plain(&service).await.starttls(&service).await;
    starttls.login("starttls").await;
    starttls.bind().await;
    for device in ["tls", "starttls"] {
        assert_eq!(
            kernel(&service, device),
            (Some(Duration::from_secs(60)), Duration::from_secs(600)),
            "{device}"
        );
    }
    starttls
        .send("<presence><keepalive xmlns='urn:unpoll:event:1' seconds='1800'/></presence>")
        .await;
    starttls.hear("</presence>").await;
    let kept = kernel(&service, "starttls").1;
    assert_eq!(kept, Duration::from_secs(3600), "it wakes no device that asked not to be woken");
}

#[tokio::test]
pub(super) async fn a_device_that_does_not_read_is_named_and_then_why_it_was_given_up() {
    let mut service = Service::with(|config| {
        config.window_max_events = 10_000;
        config.window_max_bytes = 64 * 1024 * 1024;
        // It is named after a third of that, and a busy machine must look in between.
        config.write_stalled_secs = 9;
    })
    .await;
    let _device = service.online("box").await;
    assert!(service.presence("box").await["slow_since"].is_null());
    let link = service.link("box").unwrap();
    let large = format!(r#"{{"data":"{}"}}"#, "x".repeat(60 * 1024));
    let mut number = 1;
    while link.offer(&event("box", number, &large), now()) == Offer::Taken {
        number += 1;
    }
    service
        .until("it is named", async |service| {
            service.presence("box").await["slow_since"].is_string()
        })
        .await;
    let named = r#"unpoll_devices_misbehaved_total{what="slow-reader"}"#;
    assert_eq!(service.metric(named).as_deref(), Some("1"));
    service
        .until("it is given up", async |service| {
            service.presence("box").await["last_close"].is_object()
        })
        .await;
    let presence = service.presence("box").await;
    assert_eq!(presence["last_close"]["reason"], "stalled");
    assert!(presence["slow_since"].is_null() && presence["last_close"]["at"].is_string());
    assert_eq!(service.metric(named).as_deref(), Some("1"), "one incident");
}

#[tokio::test]
async fn a_device_that_sends_too_much_is_slowed_by_its_own_tcp_and_nobody_else() {
    let mut service = Service::with(|config| {
        config.flood_stanzas_per_second = 200;
        config.flood_stanzas_burst = 100;
        config.flood_patience_secs = 3;
    })
    .await;
    let mut other = service.online("other").await;
    let mut device = service.online("box").await;
    let flood = tokio::spawn(async move {
        let mut sent = 0;
        // Until the service is through with it.
        while device.try_send(&"<r xmlns='urn:xmpp:sm:3'/>".repeat(50)).await && sent < 1_000_000 {
            sent += 50;
        }
        device.hear_the_end().await
    });
    service
        .until("it is named", async |service| service.presence("box").await["flooding"] == true)
        .await;
    other.send("<r xmlns='urn:xmpp:sm:3'/>").await;
    tokio::time::timeout(Duration::from_secs(1), other.hear("<a ")).await.unwrap();
    let end = flood.await.unwrap();
    let answers = end.matches("<a xmlns").count();
    assert!(answers < 2_000, "{answers} were read, of as many as it could send");
    service
        .until("it is ended", async |service| {
            service.presence("box").await["last_close"].is_object()
        })
        .await;
    assert_eq!(service.presence("other").await["state"], "online");
    assert_eq!(
        service.metric(r#"unpoll_devices_misbehaved_total{what="flood"}"#).as_deref(),
        Some("1")
    );
}

#[tokio::test]
async fn who_pauses_after_too_much_is_read_to_the_end() {
    let mut service = Service::with(|config| {
        config.flood_stanzas_per_second = 200;
        config.flood_stanzas_burst = 100;
    })
    .await;
    let mut device = service.online("box").await;
    device.send(&"<r xmlns='urn:xmpp:sm:3'/>".repeat(400)).await;
    device.send("<iq type='get' id='last'><ping xmlns='urn:xmpp:ping'/></iq>").await;
    device.hear("id='last'").await;
}

#[tokio::test]
async fn presence_and_the_kernel_follow_the_keepalive_that_a_device_asks_for() {
    let mut service = Service::with(|config| {
        config.keepalive_secs = 1;
        config.keepalive_min_secs = 1;
        config.overdue_secs = 1;
    })
    .await;
    let mut device = Device::tls(&service).await;
    device.login("box").await;
    device.bind().await;
    device.enable().await;
    device
        .send("<presence><keepalive xmlns='urn:unpoll:event:1' seconds='2'/></presence>")
        .await;
    let echo = device.hear("</presence>").await;
    assert!(echo.contains("seconds='2'"), "{echo}");
    service.ready("box").await;
    let asked = std::time::Instant::now();
    device.hear("<r ").await;
    assert!(asked.elapsed() >= Duration::from_millis(1900), "{:?}", asked.elapsed());
}

#[tokio::test]
pub(super) async fn a_keepalive_that_was_asked_for_outlives_a_resumption() {
    let mut service = Service::with(|config| {
        config.keepalive_secs = 1;
        config.overdue_secs = 1;
    })
    .await;
    let mut device = Device::tls(&service).await;
    device.login("box").await;
    device.bind().await;
    let previous = device.enable().await;
    device
        .send("<presence><keepalive xmlns='urn:unpoll:event:1' seconds='600'/></presence>")
        .await;
    device.hear("</presence>").await;
    service.ready("box").await;
    drop(device);
    service
        .until("it waits", async |service| service.state("box").await == "away")
        .await;
    let mut again = Device::tls(&service).await;
    again.login("box").await;
    again.resume(&previous, 1).await;
    again.hear("<resumed ").await;
    let view = crate::presence::Sessions::session(&*service.gateway.shared, super::TENANT, &super::id("box")).unwrap();
    assert_eq!(view.keepalive, Some(Duration::from_secs(600)));
    assert_eq!(service.state("box").await, "online");
}

#[tokio::test]
pub(super) async fn an_old_connection_is_reset_and_its_session_resumed() {
    let mut service = Service::with(|config| config.session_lifetime_secs = 1).await;
    let mut device = Device::tls(&service).await;
    device.login("box").await;
    device.bind().await;
    let previous = device.enable().await;
    device.present().await;
    service.ready("box").await;
    device.acknowledge(1).await;
    let end = device.hear_the_end().await;
    assert!(end.contains("<reset "), "{end}");
    service
        .until("it waits", async |service| service.state("box").await == "away")
        .await;
    assert_eq!(service.presence("box").await["last_close"]["reason"], "old");
    let mut again = Device::tls(&service).await;
    again.login("box").await;
    again.resume(&previous, 1).await;
    again.hear("<resumed ").await;
}

#[tokio::test]
pub(super) async fn a_cloned_identity_shows_in_presence() {
    let service = Service::start().await;
    let mut clones = Vec::new();
    for _ in 0..4 {
        let mut device = Device::tls(&service).await;
        device.login("box").await;
        device.bind().await;
        clones.push(device);
    }
    let presence = service.presence("box").await;
    assert_eq!(presence["seat_changes"], 3);
    service
        .until("the older ones are gone", async |service| {
            service.presence("box").await["last_close"]["reason"] == "conflict"
        })
        .await;
}
