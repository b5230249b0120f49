//! Each kind of bad event has its own answer, which names the field or the place, and nothing is stored.

use serde_json::{Value, json};
use unpoll::domain::Limits;

use crate::scene::{Answer, Scene};

/// A correct native event with some fields changed; `null` removes one.
fn event(changes: &Value) -> Value {
    changed(json!({"type": "test", "data": {"n": 1}, "target": {"device": "box"}}), changes)
}

fn changed(mut event: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            event.as_object_mut().unwrap().remove(name);
        } else {
            event[name] = value.clone();
        }
    }
    event
}

#[tokio::test]
async fn native_events() {
    let scene = Scene::new().await;
    let cases = [
        (json!({"colour": 1}), 400, "unknown-field", "colour"),
        (
            json!({"target": {"device": "box", "colour": 1}}),
            400,
            "unknown-field",
            "target.colour",
        ),
        (json!({"specversion": "1.0"}), 400, "unknown-field", "specversion"),
        (json!({"ttl": "soon"}), 400, "invalid-field", "ttl"),
        (json!({"ttl": 1.5}), 400, "invalid-field", "ttl"),
        (json!({"ttl": -1}), 400, "ttl-out-of-range", "-1"),
        (json!({"ttl": 28 * 86_400 + 1}), 400, "ttl-out-of-range", "2419200"),
        (json!({"ttl": u64::MAX}), 400, "ttl-out-of-range", "18446744073709551615"),
        (json!({"urgency": 7}), 400, "invalid-field", "urgency"),
        (json!({"urgency": "now"}), 400, "invalid-field", "urgency"),
        (json!({"require": "love"}), 400, "invalid-field", "require"),
        (json!({"time": "yesterday"}), 400, "invalid-field", "time"),
        (json!({"time": 5}), 400, "invalid-field", "time"),
        (json!({"id": ""}), 400, "invalid-field", "id"),
        (json!({"id": 5}), 400, "invalid-field", "id"),
        (json!({"source": []}), 400, "invalid-field", "source"),
        (json!({"type": {}}), 400, "invalid-field", "type"),
        (json!({"type": "x".repeat(17_000)}), 400, "invalid-field", "16384"),
        (json!({"collapse_key": "k".repeat(65)}), 400, "invalid-field", "collapse_key"),
        (json!({"collapse_key": ""}), 400, "invalid-field", "collapse_key"),
        (json!({"collapse_key": "a\nb"}), 400, "unprintable-text", "collapse_key"),
        (json!({"target": 5}), 400, "invalid-field", "target"),
        (json!({"target": null}), 400, "no-target", "target"),
        (json!({"target": {}}), 400, "no-target", "target"),
        (json!({"target": {"device": 5}}), 400, "invalid-field", "target.device"),
        (json!({"target": {"device": "b o x"}}), 400, "invalid-device-id", "offset 1"),
        (json!({"target": {"device": ""}}), 400, "invalid-device-id", "1 to 64"),
        (json!({"target": {"device": "nobody"}}), 404, "unknown-device", "nobody"),
        (
            json!({"target": {"device": "box", "user": "ann"}}),
            400,
            "two-targets",
            "target.user",
        ),
        (json!({"target": {"user": "ann"}}), 404, "unknown-user", "ann"),
        (
            json!({"target": {"all": true}}),
            400,
            "invalid-field",
            "not available in this version",
        ),
        (json!({"deliver_at": "noon"}), 400, "invalid-field", "deliver_at"),
        (json!({"deliver_at": 5}), 400, "invalid-field", "deliver_at"),
        (
            json!({"deliver_at": "9000-01-01T00:00:00Z"}),
            400,
            "invalid-field",
            "2419200 seconds ahead",
        ),
        (
            json!({"deliver_at": "2026-11-22T01:30:00Z", "ttl": 0}),
            400,
            "invalid-field",
            "now or never",
        ),
        (json!({"spread_seconds": 30}), 400, "invalid-field", "spread_seconds"),
        (json!({"receipts": "each"}), 400, "invalid-field", "receipts"),
        (json!({"rollout": {}}), 400, "invalid-field", "rollout"),
        (json!({"type": null, "data": null}), 400, "missing-field", "data"),
        (json!({"data": null, "data_base64": "!"}), 400, "invalid-field", "data_base64"),
        (json!({"data_base64": "AA=="}), 400, "invalid-field", "data_base64"),
        (json!({"data": "x".repeat(64 * 1024)}), 413, "data-too-large", "65536"),
        (json!({"data": {"text": "a\u{fffe}b"}}), 400, "unprintable-text", "U+FFFE"),
        (json!({"data": {"\u{ffff}": 1}}), 400, "unprintable-text", "offset 2"),
        (json!({"id": "\u{fffe}"}), 400, "unprintable-text", "id"),
        (json!({"collapse_key": "\u{ffff}"}), 400, "unprintable-text", "collapse_key"),
    ];
    for (changes, status, slug, detail) in cases {
        scene.native(&event(&changes)).await.refused(status, slug, detail);
    }
    assert!(scene.waiting("box").await.is_empty());
    assert!(scene.metric("unpoll_refusals_total", "unprintable-text") >= 4.0);
}

#[tokio::test]
async fn bodies_that_are_no_event() {
    let scene = Scene::new().await;
    let post = async |body: Vec<u8>| -> Answer { scene.post(&[("content-type", "application/json")], body).await };
    let text = |text: &str| text.as_bytes().to_vec();
    let problem = post(text("{\"type\":\"t\",\n  \"data\": nope }"))
        .await
        .refused(400, "bad-json", "line 2");
    assert_eq!((&problem["line"], &problem["column"]), (&json!(2), &json!(12)));
    post(text("")).await.refused(400, "bad-json", "line 1");
    post(text("[]")).await.refused(400, "invalid-field", "the body");
    post(text("{}{}")).await.refused(400, "bad-json", "column 3");
    post(text(r#"{"type":"t","type":"u","target":{"device":"box"}}"#))
        .await
        .refused(400, "invalid-field", "twice");
    post(text(r#"{"type":"\ud800","target":{"device":"box"}}"#))
        .await
        .refused(400, "unprintable-text", "U+D800");
    let deep = format!(
        r#"{{"data":{}{},"target":{{"device":"box"}}}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    post(text(&deep)).await.refused(400, "invalid-field", "64 levels");
    let problem = post(b"{\"type\":\"t\xff\"}".to_vec()).await.refused(400, "bad-utf8", "offset 10");
    assert_eq!(problem["offset"], 10);
    post(vec![b' '; 256 * 1024 + 1]).await.refused(413, "body-too-large", "262144");
    assert!(scene.waiting("box").await.is_empty());
}

#[tokio::test]
async fn content_types_and_headers() {
    let scene = Scene::new().await;
    let body = event(&json!({})).to_string();
    let post = async |headers: &[(&str, &str)]| -> Answer { scene.post(headers, body.clone()).await };
    post(&[]).await.refused(415, "unsupported-media-type", "application/json");
    post(&[("content-type", "text/plain")])
        .await
        .refused(415, "unsupported-media-type", "text/plain");
    post(&[("content-type", "application/cloudevents+xml")])
        .await
        .refused(415, "unsupported-media-type", "xml");
    post(&[("content-type", "application/json; charset=utf-16")])
        .await
        .refused(415, "unsupported-media-type", "utf-16");
    let json = ("content-type", "application/json");
    post(&[json, ("ttl", "soon")]).await.refused(400, "invalid-field", "TTL");
    post(&[json, ("ttl", "-1")]).await.refused(400, "ttl-out-of-range", "-1");
    post(&[json, ("ttl", "99999999999999999999999")])
        .await
        .refused(400, "ttl-out-of-range", "9999");
    post(&[json, ("ttl", "5"), ("ttl", "5")])
        .await
        .refused(400, "invalid-field", "twice");
    post(&[json, ("urgency", "now")]).await.refused(400, "invalid-field", "Urgency");
    post(&[json, ("idempotency-key", "")])
        .await
        .refused(400, "invalid-field", "Idempotency-Key");
    post(&[json, ("idempotency-key", &"k".repeat(256))])
        .await
        .refused(400, "invalid-field", "255");
    let with = event(&json!({"ttl": 5, "urgency": "low"})).to_string();
    scene
        .post(&[json, ("ttl", "6")], with.clone())
        .await
        .refused(400, "invalid-field", "the header says 6");
    scene
        .post(&[json, ("urgency", "high")], with.clone())
        .await
        .refused(400, "invalid-field", "Urgency");
    assert!(scene.waiting("box").await.is_empty());
    scene.post(&[json, ("ttl", "5"), ("urgency", "low")], with).await.expect(202);
    for path in [
        "/v1/events?colour=red",
        "/v1/events?validate_only=perhaps",
        "/v1/events?validate_only=true&validate_only=true",
    ] {
        scene
            .request("push", "POST", path, &[json], body.clone())
            .await
            .refused(400, "invalid-parameter", "");
    }
}

#[tokio::test]
async fn structured_cloud_events() {
    let scene = Scene::new().await;
    let good = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "pushdevice": "box"});
    let cases = [
        (json!({"pushcolour": "red"}), 400, "unknown-field", "pushcolour"),
        (json!({"Colour": "red"}), 400, "invalid-field", "Colour"),
        (json!({"push_ttl": 5}), 400, "unknown-field", "push_ttl"),
        (json!({"id": null}), 400, "missing-field", "id"),
        (json!({"id": ""}), 400, "invalid-field", "id"),
        (json!({"id": 5}), 400, "invalid-field", "id"),
        (json!({"type": null}), 400, "missing-field", "type"),
        (json!({"source": null}), 400, "missing-field", "source"),
        (json!({"specversion": null}), 400, "missing-field", "specversion"),
        (json!({"specversion": "0.3"}), 400, "invalid-field", "specversion"),
        (json!({"specversion": 1.0}), 400, "invalid-field", "specversion"),
        (json!({"time": "noon"}), 400, "invalid-field", "time"),
        (json!({"subject": 5}), 400, "invalid-field", "subject"),
        (json!({"colour": {"r": 1}}), 400, "invalid-field", "colour"),
        (json!({"colour": 1.5}), 400, "invalid-field", "colour"),
        (json!({"colour": "\u{ffff}"}), 400, "unprintable-text", "colour"),
        (json!({"pushttl": "soon"}), 400, "invalid-field", "pushttl"),
        (json!({"pushttl": -1}), 400, "ttl-out-of-range", "-1"),
        (json!({"pushurgency": "now"}), 400, "invalid-field", "pushurgency"),
        (json!({"pushrequire": "love"}), 400, "invalid-field", "pushrequire"),
        (
            json!({"pushdeliverat": "9000-01-01T00:00:00Z"}),
            400,
            "invalid-field",
            "pushdeliverat",
        ),
        (json!({"pushspread": 5}), 400, "invalid-field", "not available in this version"),
        (json!({"pushdevice": null}), 400, "no-target", "target"),
        (json!({"pushdevice": null, "subject": "not a device"}), 400, "no-target", "target"),
        (json!({"pushdevice": null, "pushtopic": "news"}), 400, "invalid-field", "pushtopic"),
        (json!({"pushuser": "ann"}), 400, "two-targets", "pushuser"),
        (json!({"pushdevice": "b o x"}), 400, "invalid-device-id", "offset 1"),
        (json!({"data": 1, "data_base64": "AA=="}), 400, "invalid-field", "data_base64"),
        (json!({"data_base64": 5}), 400, "invalid-field", "data_base64"),
        (json!({"data": "\u{fffe}"}), 400, "unprintable-text", "data"),
    ];
    for (changes, status, slug, detail) in cases {
        let headers = [("content-type", "application/cloudevents+json")];
        let answer = scene.post(&headers, changed(good.clone(), &changes).to_string()).await;
        answer.refused(status, slug, detail);
    }
    assert!(scene.waiting("box").await.is_empty());
}

#[tokio::test]
async fn binary_cloud_events() {
    let scene = Scene::new().await;
    let post = async |extra: &[(&str, &str)], body: &'static [u8]| -> Answer {
        let mut headers = vec![("ce-specversion", "1.0"), ("ce-type", "t"), ("ce-source", "/s")];
        headers.extend_from_slice(extra);
        scene.post(&headers, body).await
    };
    let (id, target, json) = (("ce-id", "1"), ("ce-pushdevice", "box"), ("content-type", "application/json"));
    post(&[json, id, target, ("ce-pushcolour", "red")], b"{}")
        .await
        .refused(400, "unknown-field", "pushcolour");
    post(&[json, target], b"{}").await.refused(400, "missing-field", "id");
    post(&[json, id], b"{}").await.refused(400, "no-target", "target");
    post(&[json, id, target, ("ce-id", "2")], b"{}")
        .await
        .refused(400, "invalid-field", "twice");
    post(&[json, id, target, ("ce-datacontenttype", "x")], b"{}")
        .await
        .refused(400, "invalid-field", "Content-Type");
    post(&[json, id, target, ("ce-co-lour", "x")], b"{}")
        .await
        .refused(400, "invalid-field", "co-lour");
    post(&[json, id, target, ("ce-title", "%ff")], b"{}")
        .await
        .refused(400, "invalid-field", "title");
    post(&[json, id, target, ("ce-title", "%EF%BF%BE")], b"{}")
        .await
        .refused(400, "unprintable-text", "title");
    post(&[json, id, target], b"{").await.refused(400, "bad-json", "line 1");
    post(&[json, id, target], b"\"\xff\"").await.refused(400, "bad-utf8", "offset 1");
    post(&[json, id, target], "\"\u{fffe}\"".as_bytes())
        .await
        .refused(400, "unprintable-text", "data");
    post(&[("content-type", "image/png"), id, target], &[0; 64 * 1024 + 1])
        .await
        .refused(413, "data-too-large", "65536");
    assert!(scene.waiting("box").await.is_empty());
}

#[tokio::test]
async fn a_full_queue_and_a_removed_device() {
    let scene = Scene::with(Limits {
        queue_max_events: 2,
        ..Limits::default()
    })
    .await;
    scene.push(json!({"data": 1})).await;
    scene.push(json!({"data": 2})).await;
    let answer = scene.native(&event(&json!({}))).await;
    assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
    answer.refused(429, "queue-full", "box");
    scene.native(&event(&json!({"target": {"device": "other"}}))).await.expect(202);
    scene.delete("/v1/devices/box").await.expect(204);
    scene.native(&event(&json!({}))).await.refused(410, "removed-device", "box");
}

#[tokio::test]
async fn requests_without_right() {
    let scene = Scene::new().await;
    let body = event(&json!({})).to_string();
    let post = async |key: &str| -> Answer {
        let headers = [("content-type", "application/json")];
        scene.request(key, "POST", "/v1/events", &headers, body.clone()).await
    };
    let answer = post("none").await;
    assert_eq!(answer.header("www-authenticate"), "Bearer");
    answer.refused(401, "unauthenticated", "key");
    post("not-a-key").await.refused(401, "unauthenticated", "key");
    post("read").await.refused(403, "forbidden", "push");
    assert!(scene.waiting("box").await.is_empty());
    post("admin").await.expect(202);
    scene.get("/v1/nothing").await.refused(404, "unknown-path", "/v1/nothing");
    let answer = scene.request("push", "PATCH", "/v1/events", &[], "").await;
    assert_eq!(answer.header("allow"), "POST");
    answer.refused(405, "method-not-allowed", "PATCH");
}
