//! What a device reports of itself, from its presence to the backend that asks.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use serde_json::{Value, json};
use support::{Backend, Device, Service, Settings, wait_for};

fn presence(inside: &str) -> String {
    format!("<presence>{inside}</presence>")
}

fn attributes(json: &str) -> String {
    format!("<attributes xmlns='urn:unpoll:event:1'><json>{json}</json></attributes>")
}

const BERLIN: &str = "<geoloc xmlns='http://jabber.org/protocol/geoloc'><accuracy>20</accuracy><lat>52.52</lat><lon>13.4</lon></geoloc>";

fn shown(backend: &Backend, device: &str) -> Value {
    backend.get(&format!("/v1/devices/{device}")).expect(200).json()
}

#[track_caller]
fn reads(backend: &Backend, device: &str, expected: &Value) {
    wait_for(&format!("{device} reads {expected}"), support::SOON, || {
        (shown(backend, device)["reported"] == *expected).then_some(())
    });
}

#[test]
fn what_a_device_reports_is_shown_and_outlives_session_and_service() {
    let settings = Settings::default()
        .set("UNPOLL_XMPP_LOCATION", "true")
        .set("UNPOLL_XMPP_REPORTED_EVERY_SECS", "3600");
    let mut service = Service::start_with(settings);
    let backend = service.backend();
    backend.add_device("box", "secret");
    let before = shown(&backend, "box");
    assert_eq!((&before["reported"], &before["reported_at"]), (&json!({}), &Value::Null));
    let mut wire = Device::bound(&service, "box", "secret");
    wire.send(&presence(&(attributes(r#"{"fw":"7.1"}"#) + BERLIN)));
    wire.until("<presence");
    let here = json!({"lat": 52.52, "lon": 13.4, "accuracy": 20.0});
    reads(&backend, "box", &json!({"fw": "7.1", "location": here}));
    let first = shown(&backend, "box");
    assert!(first["reported_at"].is_string() && first["attributes"] == json!({}), "{first}");
    // From now on the last word waits its hour, but for a service that stops.
    for fw in ["7.2", "7.3", "7.4"] {
        wire.send(&presence(&attributes(&format!(r#"{{"fw":"{fw}"}}"#))));
        wire.until("<presence");
    }
    assert_eq!(shown(&backend, "box")["reported_at"], first["reported_at"]);
    assert_eq!(service.stop(), Some(0));
    service.run();
    let backend = service.backend();
    reads(&backend, "box", &json!({"fw": "7.4", "location": here}));
    let listed = backend.get("/v1/devices").expect(200).json();
    assert_eq!(listed["items"][0]["reported"]["fw"], "7.4");
    // The backend's own facts are other ones.
    let put = backend
        .send("PUT", "/v1/devices/box", &json!({"attributes": {"fw": "9"}}))
        .expect(200)
        .json();
    assert_eq!((&put["attributes"]["fw"], &put["reported"]["fw"]), (&json!("9"), &json!("7.4")));
}

#[test]
fn a_location_is_written_down_for_who_asks_for_it_only() {
    let service = Service::start();
    let backend = service.backend();
    backend.add_device("box", "secret");
    let mut wire = Device::bound(&service, "box", "secret");
    wire.send(&presence(&(attributes(r#"{"fw":"7.1"}"#) + BERLIN)));
    wire.until("<presence");
    reads(&backend, "box", &json!({"fw": "7.1"}));
}
