//! XEP-0352 with the whole service: what waits for a device that is inactive.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use serde_json::json;
use support::{Device, Service, wait_for};

/// The numbers of the events in a transcript.
fn numbers(text: &str) -> Vec<u64> {
    let found = text.match_indices("\"data\":").map(|(at, key)| &text[at + key.len()..]);
    let found = found.chain(text.match_indices("'data':").map(|(at, key)| &text[at + key.len()..]));
    found
        .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap())
        .collect()
}

#[test]
fn low_urgency_waits_for_an_inactive_device_and_comes_in_order_and_once() {
    let service = Service::start();
    let backend = service.backend();
    backend.add_device("box", "secret");
    let push = |urgency: &str, number: u64| {
        let event = json!({ "target": { "device": "box" }, "type": "test", "urgency": urgency, "data": number });
        backend.post(&event).expect(202).json()["id"].as_str().unwrap().to_owned()
    };
    let delivered = |id: &str| {
        wait_for("it is delivered", support::SOON, || {
            (backend.state(id) == "delivered").then_some(())
        });
    };
    let mut wire = Device::bound(&service, "box", "secret");
    wire.send("<presence/>");
    wire.until("<presence");
    wire.send("<inactive xmlns='urn:xmpp:csi:0'/><iq type='get' id='i'><ping xmlns='urn:xmpp:ping'/></iq>");
    wire.until("id='i'");
    let held: Vec<_> = (1..=40)
        .map(|number| push(if number % 2 == 0 { "low" } else { "very-low" }, number))
        .collect();
    let urgent = [push("normal", 100), push("high", 101)];
    let seen = wire.until("\u{27}high\u{27}") + &wire.until("</message>");
    assert!(numbers(&seen).iter().all(|number| *number >= 100), "{seen}");
    // The echo of the presence, the pong, and two events.
    wire.send("<a xmlns='urn:xmpp:sm:3' h='4'/>");
    urgent.iter().for_each(|id| delivered(id));
    assert!(held.iter().all(|id| backend.state(id) == "queued"), "they wait in the store");
    let later = push("normal", 102);
    wire.until("</message>");
    wire.send("<a xmlns='urn:xmpp:sm:3' h='5'/>");
    delivered(&later);
    wire.send("<active xmlns='urn:xmpp:csi:0'/>");
    let mut got = Vec::new();
    while got.len() < held.len() {
        got.extend(numbers(&wire.until("</message>")));
        wire.send(&format!("<a xmlns='urn:xmpp:sm:3' h='{}'/>", 5 + got.len()));
    }
    assert_eq!(got, (1..=40).collect::<Vec<_>>(), "each once, in order");
    held.iter().for_each(|id| delivered(id));
}
