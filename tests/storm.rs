//! A crowd before the door, and one honest device.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use loadtest::storm::{Return, Storm};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use support::{Device, Service, wait_for};

const SILENT: u32 = 5_000;
const SLOW: u32 = 100;

/// A connection from an address of its own: 50 connections each.
fn connect(number: u32, to: SocketAddr) -> TcpStream {
    let [_, _, high, low] = (number / 50).to_be_bytes();
    let from = SocketAddrV4::new(Ipv4Addr::new(127, 1, high, low + 1), 0);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.bind(&SocketAddr::from(from).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

#[test]
fn silent_sockets_and_slow_senders_keep_no_honest_device_out() {
    let service = Service::start();
    let backend = service.backend();
    backend.add_device("honest", "secret");
    let crowd: Vec<_> = (0..SILENT).map(|number| connect(number, service.xmpps)).collect();
    let slow: Vec<_> = (0..SLOW).map(|number| connect(SILENT + number, service.xmpps)).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let sending = std::thread::spawn({
        let stop = stop.clone();
        move || {
            // A TLS record that never ends, a byte a second.
            let mut bytes = [22, 3, 1, 64, 0].into_iter().chain(std::iter::repeat(1));
            while !stop.load(Ordering::Relaxed) {
                let byte = bytes.next().unwrap();
                for mut socket in &slow {
                    // Who takes too long is cut off after 10 s.
                    let _ = socket.write_all(&[byte]);
                }
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    });
    wait_for("the crowd is there", support::SOON, || {
        let there = service.metric("unpoll_connections_unauthenticated")?;
        (there >= f64::from(SILENT)).then_some(())
    });
    let mut slowest = Duration::ZERO;
    for round in 0..5 {
        let began = Instant::now();
        let mut device = Device::online(&service, "honest", "secret");
        slowest = slowest.max(began.elapsed());
        let id = backend.push("honest", &json!(round));
        assert_eq!(device.expect_event().id, id);
        device.acknowledge();
        device.kill(support::Kill::Close);
    }
    println!("slowest login beside {SILENT} silent sockets and {SLOW} slow senders: {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    stop.store(true, Ordering::Relaxed);
    sending.join().unwrap();
    drop(crowd);
}

#[test]
fn boxes_that_lose_their_connections_at_once_all_resume() {
    const BOXES: u64 = 60;
    let service = Service::start();
    let backend = service.backend();
    for number in 0..BOXES {
        backend.add_device(&format!("box-{number}"), "secret");
    }
    let template = Device::options(&service, "", "secret");
    let coming_back = Return {
        pause: Duration::from_millis(100),
        jitter: true,
        resume: true,
    };
    let storm = support::block_on(Storm::log_in(&template, "box-", 0..BOXES, 16, coming_back)).unwrap();
    assert_eq!(storm.returned().up, BOXES);
    storm.cut();
    wait_for("all are back", support::SOON, || {
        let returned = storm.returned();
        (returned.back.summary().count == BOXES && returned.up == BOXES).then_some(())
    });
    let returned = storm.returned();
    assert_eq!(returned.resumed, BOXES, "{:?}", returned.failed);
    drop(returned);
    assert_eq!(service.metric("unpoll_sessions_hibernating"), Some(0.0));
}

#[test]
fn boxes_come_back_by_the_token_that_their_first_login_earned() {
    const BOXES: u64 = 20;
    let service = Service::start();
    for number in 0..BOXES {
        service.backend().add_device(&format!("box-{number}"), "secret");
    }
    let template = support::Options {
        login: loadtest::Login::Sasl2,
        ..Device::options(&service, "", "secret")
    };
    let coming_back = Return {
        pause: Duration::from_millis(100),
        jitter: true,
        resume: true,
    };
    let storm = support::block_on(Storm::log_in(&template, "box-", 0..BOXES, 16, coming_back)).unwrap();
    storm.cut();
    wait_for("all are back", support::SOON, || {
        let returned = storm.returned();
        (returned.back.count() == BOXES && returned.up == BOXES).then_some(())
    });
    assert_eq!(storm.returned().resumed, BOXES, "{:?}", storm.returned().failed);
    let by_token = service.metric("unpoll_login_proofs_total{mechanism=\"HT-SHA-256-EXPR\"}");
    assert_eq!(by_token, Some(BOXES as f64));
}
