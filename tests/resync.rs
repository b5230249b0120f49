//! Hints may be lost; events may not: what the dispatcher was not told of arrives by the resync.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::collections::BTreeSet;

use serde_json::json;
use support::{Device, Service, Settings, wait_for};

#[test]
fn events_whose_hint_was_lost_arrive_all_the_same() {
    // A channel of one place drops hints as soon as two events share a commit.
    let service = Service::start_with(Settings::default().set("UNPOLL_STORE_ARRIVALS_MAX", "1"));
    let backend = service.backend();
    backend.add_device("box", "secret");
    let device = Device::online(&service, "box", "secret");
    let mut sent = BTreeSet::new();
    let mut round = 0;
    while service.metric("unpoll_missed_arrivals_total").unwrap() == 0.0 {
        round += 1;
        assert!(round <= 50, "no hint was lost in {} events", sent.len());
        let posted: Vec<String> = std::thread::scope(|scope| {
            let posters: Vec<_> = (0..16)
                .map(|n| {
                    let backend = &backend;
                    scope.spawn(move || backend.push("box", &json!({ "n": n })))
                })
                .collect();
            posters.into_iter().map(|poster| poster.join().unwrap()).collect()
        });
        sent.extend(posted);
    }
    let mut arrived = BTreeSet::new();
    let mut last = 0;
    while arrived.len() < sent.len() {
        let event = device.expect_event();
        assert!(event.seq > last, "in order: {event:?} after {last}");
        last = event.seq;
        arrived.insert(event.id);
        device.acknowledge();
    }
    assert_eq!(arrived, sent);
    for id in &sent {
        wait_for("it is delivered", support::SOON, || {
            (backend.state(id) == "delivered").then_some(())
        });
    }
}
