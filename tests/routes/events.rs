//! What a good event becomes.

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::{Value, json};

use crate::scene::{START, Scene};

const NATIVE: [(&str, &str); 1] = [("content-type", "application/json")];
const STRUCTURED: [(&str, &str); 1] = [("content-type", "application/cloudevents+json; charset=utf-8")];

#[tokio::test]
async fn a_native_event_keeps_its_bytes_and_gets_what_it_left_out() {
    let scene = Scene::new().await;
    let data = "{ \"b\" : 1.50e+3,\n \"a\":[ ], \"t\":\"Жалюзи & 電視 <tag> 📺\\u0000\\ufffe\" }";
    let body =
        format!(r#"{{"data":{data},"target":{{"device":"BOX"}},"ttl":60,"urgency":"high","collapse_key":"todo","require":"received"}}"#);
    let answer = scene.post(&NATIVE, body).await.expect(202);
    let told = answer.json();
    let id = told["id"].as_str().unwrap();
    assert_eq!(told, json!({"id": id, "state": "queued", "durability": "disk"}));
    assert_eq!(
        (answer.header("location"), answer.header("push-durability")),
        (&*format!("/v1/events/{id}"), "disk")
    );
    let waiting = scene.waiting("box").await;
    let event = &waiting[0].event;
    assert_eq!((event.accepted_at, event.ttl), (START, Duration::from_secs(60)));
    assert_eq!(
        (event.urgency.as_str(), event.require.as_str(), event.collapse_key.as_deref()),
        ("high", "received", Some("todo"))
    );
    let text = event.json.0.to_string();
    assert!(text.ends_with(&format!("\"data\":{data}}}")), "{text}");
    let read: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&read["specversion"], &read["source"]),
        (&json!("1.0"), &json!("/unpoll/localhost"))
    );
    assert_eq!(
        (&read["type"], &read["time"]),
        (&json!("com.unpoll.event"), &json!(START.to_string()))
    );
    assert_eq!(read["id"].as_str().unwrap().len(), 32);
    assert_eq!(scene.metric("unpoll_events_accepted_total", "disk"), 1.0);
}

#[tokio::test]
async fn a_native_event_keeps_its_own_attributes_and_needs_no_data() {
    let scene = Scene::new().await;
    let event = json!({"id": "1", "source": "/s", "type": "t", "time": "2026-11-22T01:30:00+01:00", "target": {"device": "box"}});
    scene.native(&event).await.expect(202);
    let expected = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","time":"2026-11-22T01:30:00+01:00"}"#;
    assert_eq!(scene.only().await, expected);
}

#[tokio::test]
async fn ten_kilobytes_of_unicode_arrive_byte_for_byte() {
    let scene = Scene::new().await;
    let data = format!("\"{}\"", "电视 & жук <b>📺 ".repeat(500));
    assert!(data.len() > 10_000);
    scene
        .post(&NATIVE, format!(r#"{{"target":{{"device":"box"}},"data":{data}}}"#))
        .await
        .expect(202);
    assert!(scene.only().await.contains(&data));
}

#[tokio::test]
async fn a_structured_cloud_event_reaches_the_device_without_its_options() {
    let scene = Scene::new().await;
    let body = r#"{"specversion":"1.0","id":"7","source":"/s","type":"t","subject":"box","traceparent":"00-1-2-01","n":5,"ok":true,
        "gone":null,"pushttl":60,"pushurgency":"low","pushcollapsekey":"k","pushrequire":"received","data":{"x" : 1.0}}"#;
    scene.post(&STRUCTURED, body).await.expect(202);
    let expected = concat!(
        r#"{"specversion":"1.0","id":"7","source":"/s","type":"t","subject":"box","traceparent":"00-1-2-01","n":5,"ok":true,"#,
        r#""data":{"x" : 1.0}}"#
    );
    assert_eq!(scene.only().await, expected);
    let waiting = scene.waiting("box").await;
    let event = &waiting[0].event;
    assert_eq!(
        (event.ttl, event.urgency.as_str(), event.require.as_str()),
        (Duration::from_secs(60), "low", "received")
    );
    assert_eq!(event.collapse_key.as_deref(), Some("k"));
}

#[tokio::test]
async fn a_target_goes_before_the_subject() {
    let scene = Scene::new().await;
    let body = json!({"specversion": "1.0", "id": "7", "source": "/s", "type": "t", "subject": "other", "pushdevice": "box"});
    scene.post(&STRUCTURED, body.to_string()).await.expect(202);
    assert_eq!((scene.waiting("box").await.len(), scene.waiting("other").await.len()), (1, 0));
}

#[tokio::test]
async fn a_binary_cloud_event_is_put_together_from_its_headers() {
    let scene = Scene::new().await;
    let with = |kind: &'static str| {
        [
            ("content-type", kind),
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "/s"),
            ("ce-type", "\"quoted \\\"t\\\"\""),
            ("ce-title", "%E9%9B%BB 100%"),
            ("ce-pushdevice", "box"),
            ("ce-pushttl", "60"),
            ("urgency", "high"),
        ]
    };
    scene.post(&with("application/json"), " {\"a\": 1} ").await.expect(202);
    let read: Value = serde_json::from_str(&scene.only().await).unwrap();
    assert_eq!(
        (&read["title"], &read["type"], &read["data"]),
        (&json!("電 100%"), &json!("quoted \"t\""), &json!({"a": 1}))
    );
    assert_eq!(read["datacontenttype"], "application/json");
    assert!(read.get("pushttl").is_none());
    assert_eq!(scene.waiting("box").await[0].event.ttl, Duration::from_secs(60));

    let mut png = with("image/png");
    png[2].1 = "2";
    scene.post(&png, b"\x89PNG\x00".to_vec()).await.expect(202);
    let read: Value = serde_json::from_str(&scene.waiting("box").await[1].event.json.0).unwrap();
    assert_eq!(
        (&read["data_base64"], &read["datacontenttype"]),
        (&json!("iVBORwA="), &json!("image/png"))
    );
}

#[tokio::test]
async fn a_repeat_is_the_same_event() {
    let scene = Scene::new().await;
    let key = [("content-type", "application/json"), ("idempotency-key", "k1")];
    let body = |data: u32| json!({"target": {"device": "box"}, "data": data}).to_string();
    let first = scene.post(&key, body(1)).await.expect(202).json();
    scene.clock.advance(Duration::from_secs(5));
    assert_eq!(scene.post(&key, body(1)).await.expect(200).json(), first);
    let problem = scene
        .post(&key, body(2))
        .await
        .refused(409, "key-reused", first["id"].as_str().unwrap());
    assert_eq!(problem["event"], first["id"]);
    // What was meant counts, not how it was said: the order of members, and headers for fields.
    let one = r#"{"target":{"device":"other"},"id":"1","source":"/s","type":"t","ttl":60,"data":[1]}"#;
    let other = r#"{"data":[1],"type":"t","source":"/s","id":"1","target":{"device":"other"}}"#;
    let first = scene.post(&NATIVE, one).await.expect(202).json();
    let again = scene
        .post(&[("content-type", "application/json"), ("ttl", "60")], other)
        .await
        .expect(200)
        .json();
    assert_eq!(again, first);
    assert_eq!((scene.waiting("box").await.len(), scene.waiting("other").await.len()), (1, 1));
    assert_eq!(scene.metric("unpoll_events_accepted_total", "disk"), 2.0, "a repeat is no event");
    // Source and id alone name no event of another kind of key, nor does an id without a source.
    scene.push(json!({"id": "k1"})).await;
    scene.push(json!({"id": "k1"})).await;
    assert_eq!(scene.waiting("box").await.len(), 3);
}

#[tokio::test]
async fn validate_only_checks_everything_and_stores_nothing() {
    let scene = Scene::new().await;
    let post = |body: Value| {
        let scene = &scene;
        async move {
            scene
                .request("push", "POST", "/v1/events?validate_only=true", &NATIVE, body.to_string())
                .await
        }
    };
    let answer = post(json!({"target": {"device": "box"}, "data": 1})).await.expect(200);
    assert_eq!(answer.json(), json!({"targets": 1}));
    post(json!({"target": {"device": "nobody"}, "data": 1}))
        .await
        .refused(404, "unknown-device", "nobody");
    post(json!({"target": {"device": "box"}, "ttl": -1, "data": 1}))
        .await
        .refused(400, "ttl-out-of-range", "-1");
    assert!(scene.waiting("box").await.is_empty());
}

#[tokio::test]
async fn a_newer_event_of_the_same_key_replaces_one_that_waits() {
    let scene = Scene::new().await;
    let old = scene.push(json!({"data": 1, "collapse_key": "k"})).await;
    let new = scene.push(json!({"data": 2, "collapse_key": "k"})).await;
    assert_eq!(scene.replaced.load(Ordering::Relaxed), 1);
    let fate = scene.get(&format!("/v1/events/{old}/deliveries")).await.expect(200).json();
    assert_eq!(
        (&fate["items"][0]["state"], &fate["items"][0]["replaced_by"]),
        (&json!("replaced"), &json!(new))
    );
}

#[tokio::test]
async fn an_event_of_ttl_zero_for_nobody_is_not_kept_and_says_so() {
    let scene = Scene::new().await;
    let answer = scene
        .native(&json!({"target": {"device": "box"}, "data": 1, "ttl": 0}))
        .await
        .expect(202);
    assert_eq!(
        (answer.header("push-durability"), &answer.json()["state"]),
        ("none", &json!("no_target"))
    );
    assert!(scene.waiting("box").await.is_empty());
}

#[tokio::test]
async fn a_stopping_service_takes_no_events() {
    let scene = Scene::new().await;
    scene.draining.store(true, Ordering::Relaxed);
    let answer = scene.native(&json!({"target": {"device": "box"}, "data": 1})).await;
    assert_eq!(answer.header("retry-after"), "5");
    answer.refused(503, "draining", "stopping");
    scene.get("/v1/limits").await.expect(200);
}
