//! Who may begin to log in.

use std::time::{Duration, Instant};

use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Device, Service};

async fn silent(service: &Service) -> TcpStream {
    TcpStream::connect(service.gateway.addresses().xmpps).await.unwrap()
}

async fn unauthenticated(service: &Service, count: &str) {
    service
        .until("all are there", async |service| {
            service.metric("unpoll_connections_unauthenticated").as_deref() == Some(count)
        })
        .await;
}

#[tokio::test]
async fn the_oldest_silent_connection_makes_room_for_one_that_speaks() {
    let mut service = Service::with(|config| config.unauthenticated_max = 3).await;
    let mut crowd = Vec::new();
    for _ in 0..3 {
        crowd.push(silent(&service).await);
    }
    unauthenticated(&service, "3").await;
    let began = Instant::now();
    let _device = service.online("box").await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(crowd[0].read(&mut [0; 8]).await.unwrap(), 0, "the oldest is closed");
    let refused = r#"unpoll_connections_refused_total{reason="silent"}"#;
    assert_eq!(service.metric(refused).as_deref(), Some("1"));
}

#[tokio::test]
async fn slow_senders_hold_no_handshake() {
    let mut service = Service::with(|config| config.handshakes_max = 1).await;
    let mut slow = Vec::new();
    for _ in 0..5 {
        let mut socket = silent(&service).await;
        socket.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        slow.push(socket);
    }
    unauthenticated(&service, "5").await;
    let _device = service.online("box").await;
    for socket in &mut slow {
        socket.write_all(&[0]).await.unwrap();
    }
    let _other = service.online("other").await;
}

#[tokio::test]
async fn a_login_beyond_the_rate_is_told_when_to_come_again() {
    let service = Service::with(|config| {
        config.logins_per_second = 1;
        config.login_wait_secs = 1;
        config.login_within_secs = 3;
        config.retry_after_secs = 40;
    })
    .await;
    let mut told = Vec::new();
    for _ in 0..6 {
        let mut device = Device::plain(&service).await;
        device.send("<?xml version='1.0'?>").await;
        told.push(tokio::spawn(async move { device.hear_the_end().await }));
    }
    let mut refused = 0;
    for told in told {
        let end = told.await.unwrap();
        if let Some((_, after)) = end.split_once("after='") {
            let after: u32 = after.split_once('\'').unwrap().0.parse().unwrap();
            assert!((20..=60).contains(&after), "{after}");
            assert!(end.contains("<resource-constraint"), "{end}");
            refused += 1;
        }
    }
    assert!((3..=5).contains(&refused), "{refused}");
    let count = service.metric(r#"unpoll_connections_refused_total{reason="busy"}"#).unwrap();
    assert_eq!(count, refused.to_string());
}

#[tokio::test]
pub(super) async fn a_crowd_that_logs_in_takes_turns_and_all_get_in() {
    let service = Service::with(|config| config.login_turns_max = 1).await;
    let mut crowd = Vec::new();
    for number in 0..40 {
        let mut device = Device::tls(&service).await;
        crowd.push(tokio::spawn(async move {
            device.login(&format!("box-{number}")).await;
            device.bind().await;
            device
        }));
    }
    for device in crowd {
        device.await.unwrap();
    }
    assert_eq!(service.metric(r#"unpoll_logins_total{result="bound"}"#).as_deref(), Some("40"));
}

#[tokio::test]
pub(super) async fn an_account_whose_logins_fail_again_and_again_is_slowed_and_not_locked() {
    let mut service = Service::with(|config| config.login_failures_max = 2).await;
    let wrong = format!(
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{}</auth>",
        BASE64_STANDARD.encode("\0box\0wrong")
    );
    let header = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='localhost' version='1.0'>";
    let mut device = Device::tls(&service).await;
    device.send(header).await;
    for _ in 0..3 {
        device.send(&wrong).await;
        device.hear("<not-authorized").await;
    }
    device.hear_the_end().await;
    let began = Instant::now();
    let _right = service.online("box").await;
    assert!(began.elapsed() >= Duration::from_secs(1) && began.elapsed() < Duration::from_secs(5));
    let began = Instant::now();
    let _other = service.online("other").await;
    assert!(began.elapsed() < Duration::from_secs(1), "nobody else is");
    assert_eq!(
        service.metric(r#"unpoll_devices_misbehaved_total{what="guessing"}"#).as_deref(),
        Some("1")
    );
}
