//! Each kind of bad input to `POST /v1/events` has its own documented answer, and nothing of it is stored.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use serde_json::{Value, json};
use support::{Answer, Backend, Service};

/// A service with the device `box`, which has never connected: whatever is stored stays pending.
fn service() -> (Service, Backend) {
    let service = Service::start();
    let backend = service.backend();
    backend.add_device("box", "secret");
    (service, backend)
}

#[track_caller]
fn refused(answer: &Answer, status: u16, slug: &str, detail: &str) {
    let body = answer.json();
    assert_eq!((answer.status, answer.slug().as_str()), (status, slug), "{answer:?}");
    assert_eq!(body["status"], status, "the status is in the body, too: {body}");
    assert!(body["title"].is_string(), "{body}");
    assert!(
        body["detail"].as_str().unwrap().contains(detail),
        "the detail does not name {detail:?}: {body}"
    );
    assert_eq!(answer.header("retry-after").is_some(), matches!(status, 429 | 503), "{answer:?}");
}

#[track_caller]
fn nothing_stored(backend: &Backend, device: &str) {
    let page = backend.get(&format!("/v1/devices/{device}/deliveries")).expect(200).json();
    assert_eq!(page["items"], json!([]), "something was stored");
}

/// A correct event with some fields changed; `null` removes one.
fn event(changes: Value) -> Value {
    let mut event = json!({ "type": "test", "data": { "n": 1 }, "target": { "device": "box" } });
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            event.as_object_mut().unwrap().remove(name);
        } else {
            event[name] = value.clone();
        }
    }
    event
}

#[test]
fn a_bad_native_event_is_refused_by_name_and_not_stored() {
    let (_service, backend) = service();
    let check = |changes: Value, status, slug, detail| refused(&backend.post(&event(changes)), status, slug, detail);
    check(json!({ "colour": 1 }), 400, "unknown-field", "colour");
    check(
        json!({ "target": { "device": "box", "colour": 1 } }),
        400,
        "unknown-field",
        "colour",
    );
    check(json!({ "ttl": "soon" }), 400, "invalid-field", "ttl");
    check(json!({ "urgency": 7 }), 400, "invalid-field", "urgency");
    check(json!({ "urgency": "now" }), 400, "invalid-field", "urgency");
    check(json!({ "require": "love" }), 400, "invalid-field", "require");
    check(json!({ "time": "yesterday" }), 400, "invalid-field", "time");
    check(json!({ "target": 5 }), 400, "invalid-field", "target");
    check(json!({ "collapse_key": "k".repeat(65) }), 400, "invalid-field", "collapse_key");
    check(json!({ "target": null }), 400, "no-target", "target");
    check(json!({ "target": {} }), 400, "no-target", "target");
    check(json!({ "target": { "device": "box", "user": "ann" } }), 400, "two-targets", "user");
    check(json!({ "type": null, "data": null }), 400, "missing-field", "data");
    check(json!({ "target": { "device": "b o x" } }), 400, "invalid-device-id", "offset 1");
    check(json!({ "target": { "device": "nobody" } }), 404, "unknown-device", "nobody");
    check(json!({ "ttl": -1 }), 400, "ttl-out-of-range", "-1");
    check(json!({ "ttl": 28 * 86_400 + 1 }), 400, "ttl-out-of-range", "2419200");
    check(json!({ "data": "x".repeat(64 * 1024) }), 413, "data-too-large", "65536");
    check(json!({ "data": { "text": "a\u{fffe}b" } }), 400, "unprintable-text", "FFFE");
    nothing_stored(&backend, "box");
}

#[test]
fn a_body_that_is_no_json_is_refused_with_the_place() {
    let (_service, backend) = service();
    let post = |body: &[u8]| backend.request("POST", "/v1/events", &[("content-type", "application/json")], body);
    refused(&post(b"{\"type\":\"t\",\n  \"data\": nope }"), 400, "bad-json", "line 2");
    refused(&post(b""), 400, "bad-json", "line");
    refused(&post(b"[]"), 400, "invalid-field", "");
    refused(
        &post(b"{\"type\":\"t\xff\",\"target\":{\"device\":\"box\"}}"),
        400,
        "bad-utf8",
        "offset 10",
    );
    refused(&post(&vec![b' '; 256 * 1024 + 1]), 413, "body-too-large", "262144");
    let other = backend.request("POST", "/v1/events", &[("content-type", "text/plain")], b"{}");
    refused(&other, 415, "unsupported-media-type", "text/plain");
    nothing_stored(&backend, "box");
}

#[test]
fn a_bad_cloud_event_is_refused() {
    let (_service, backend) = service();
    let structured = |changes: Value| {
        let mut event = json!({ "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "pushdevice": "box" });
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                event.as_object_mut().unwrap().remove(name);
            } else {
                event[name] = value.clone();
            }
        }
        let headers = [("content-type", "application/cloudevents+json")];
        backend.request("POST", "/v1/events", &headers, event.to_string().as_bytes())
    };
    refused(&structured(json!({ "pushcolour": "red" })), 400, "unknown-field", "pushcolour");
    refused(&structured(json!({ "id": null })), 400, "missing-field", "id");
    refused(&structured(json!({ "type": null })), 400, "missing-field", "type");
    refused(&structured(json!({ "source": null })), 400, "missing-field", "source");
    refused(&structured(json!({ "specversion": "0.3" })), 400, "invalid-field", "specversion");
    refused(&structured(json!({ "pushttl": "soon" })), 400, "invalid-field", "pushttl");
    refused(&structured(json!({ "pushdevice": null })), 400, "no-target", "target");
    refused(
        &structured(json!({ "pushdevice": null, "subject": "not a device" })),
        400,
        "no-target",
        "target",
    );
    refused(&structured(json!({ "pushuser": "ann" })), 400, "two-targets", "pushuser");
    let binary = |headers: &[(&str, &str)]| {
        let mut all = vec![
            ("content-type", "application/json"),
            ("ce-specversion", "1.0"),
            ("ce-type", "t"),
            ("ce-source", "/s"),
        ];
        all.extend_from_slice(headers);
        backend.request("POST", "/v1/events", &all, b"{}")
    };
    refused(
        &binary(&[("ce-id", "1"), ("ce-pushdevice", "box"), ("ce-pushcolour", "red")]),
        400,
        "unknown-field",
        "pushcolour",
    );
    refused(&binary(&[("ce-pushdevice", "box")]), 400, "missing-field", "id");
    refused(&binary(&[("ce-id", "1")]), 400, "no-target", "target");
    nothing_stored(&backend, "box");
}

#[test]
fn one_key_with_two_bodies_is_a_conflict_that_names_the_first_event() {
    let (_service, backend) = service();
    let headers = [("content-type", "application/json"), ("idempotency-key", "k1")];
    let post = |changes: Value| backend.request("POST", "/v1/events", &headers, event(changes).to_string().as_bytes());
    let first = post(json!({})).expect(202).json();
    refused(
        &post(json!({ "data": { "n": 2 } })),
        409,
        "key-reused",
        first["id"].as_str().unwrap(),
    );
    let repeat = post(json!({})).expect(200).json();
    assert_eq!(repeat, first, "a repeat is answered with the same body");
    let page = backend.get("/v1/devices/box/deliveries").expect(200).json();
    assert_eq!(page["items"].as_array().unwrap().len(), 1, "{page}");
}

#[test]
fn an_event_for_a_removed_device_is_gone() {
    let (_service, backend) = service();
    assert!(matches!(backend.delete("/v1/devices/box").status, 200 | 204));
    refused(&backend.post(&event(json!({}))), 410, "removed-device", "box");
}

#[test]
fn a_full_queue_refuses_and_says_when_to_come_back() {
    let service = Service::start_with(support::Settings::default().set("UNPOLL_LIMITS_QUEUE_MAX_EVENTS", "3"));
    let backend = service.backend();
    backend.add_device("box", "secret");
    backend.add_device("other", "secret");
    let events: Vec<String> = (0..3).map(|n| backend.push("box", &json!({ "n": n }))).collect();
    refused(&backend.post(&event(json!({}))), 429, "queue-full", "box");
    backend.push("other", &json!({ "n": 0 }));
    let page = backend.get("/v1/devices/box/deliveries").expect(200).json();
    let kept: Vec<&str> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|item| item["event_id"].as_str())
        .collect();
    assert_eq!(page["items"].as_array().unwrap().len(), events.len(), "{kept:?}");
}

#[test]
fn requests_without_right_are_refused() {
    let (_service, backend) = service();
    let post = |key: &str| backend.with_key(key).post(&event(json!({})));
    refused(&post(""), 401, "unauthenticated", "key");
    refused(&post("not-a-key"), 401, "unauthenticated", "key");
    let made = backend.send("POST", "/v1/keys", &json!({ "name": "reader", "scope": "read" }));
    assert!(matches!(made.status, 200 | 201), "{made:?}");
    let key = made.json()["key"].as_str().expect("the key is shown once").to_owned();
    refused(&post(&key), 403, "forbidden", "push");
    backend.with_key(&key).get("/v1/devices/box").expect(200);
    refused(&backend.get("/v1/nothing"), 404, "unknown-path", "/v1/nothing");
    refused(
        &backend.request("PATCH", "/v1/events", &[], b""),
        405,
        "method-not-allowed",
        "PATCH",
    );
    refused(&backend.get("/v1/events/nosuchevent"), 404, "unknown-event", "nosuchevent");
    refused(&backend.get("/v1/devices?limit=5000"), 400, "invalid-parameter", "limit");
    nothing_stored(&backend, "box");
}
