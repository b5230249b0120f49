//! Half-open connections: a device that lost its network without a word. TCP says nothing; only the keepalive tells.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{Device, Kill, Service, Settings, wait_for, wait_for_presence};

/// docs/ARCHITECTURE.md: `offline` within keepalive + 30 s of the last proof of life. 3 s are for this test's machine.
const BOUND: Duration = Duration::from_secs(5 + 30 + 3);

#[test]
fn a_device_whose_socket_dies_silently_reads_offline_in_time_and_gets_its_events_when_it_returns() {
    let service = Service::start_with(Settings::default().set("UNPOLL_XMPP_KEEPALIVE_SECS", "5"));
    let backend = service.backend();
    for id in ["idle", "busy", "alive"] {
        backend.add_device(id, "secret");
    }
    let (mut idle, mut busy, alive) = (
        Device::online(&service, "idle", "secret"),
        Device::online(&service, "busy", "secret"),
        Device::online(&service, "alive", "secret"),
    );
    for id in ["idle", "busy", "alive"] {
        wait_for_presence(&backend, id, "online");
    }
    let first = backend.push("busy", &json!("before"));
    assert_eq!(busy.expect_event().id, first);
    wait_for("the first is delivered", support::SOON, || {
        (backend.state(&first) == "delivered").then_some(())
    });

    // From here on two sockets stay open and nobody reads or answers at the other end.
    idle.kill(Kill::Silent);
    busy.kill(Kill::Silent);
    let silent_since = Instant::now();
    let lost = backend.push("busy", &json!("into the dead socket"));
    let mut offline = [None, None];
    while offline.contains(&None) {
        let waited = silent_since.elapsed();
        assert!(
            waited < BOUND,
            "after {waited:?}: idle {}, busy {}",
            backend.presence("idle"),
            backend.presence("busy")
        );
        for (id, since) in ["idle", "busy"].into_iter().zip(&mut offline) {
            if since.is_none() && backend.presence(id) == "offline" {
                *since = Some(waited);
            }
        }
        // The third answers its probes all the while.
        assert_eq!(alive.event(Duration::from_millis(300)), None);
    }
    println!("offline after {offline:?}");
    assert_eq!(backend.presence("alive"), "online", "a device that answers stays online");
    assert_ne!(backend.state(&lost), "delivered");

    let waiting = backend.push("idle", &json!("while away"));
    for (device, id) in [(&mut idle, &waiting), (&mut busy, &lost)] {
        device.reconnect().expect("it comes back");
        let event = device.expect_event();
        assert_eq!(&event.id, id);
        assert!(event.delayed.is_some(), "it waited: {event:?}");
    }
    assert_eq!(busy.record().repeats(), 0, "what was acknowledged does not come again");
    wait_for("it is delivered in the end", support::SOON, || {
        (backend.state(&lost) == "delivered").then_some(())
    });
}
