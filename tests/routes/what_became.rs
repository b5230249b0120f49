//! What became of an event.

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::json;
use unpoll::{
    domain::{Outcome, TenantId},
    store::{Mailbox, Settle},
};

use crate::scene::{Scene, key};

#[tokio::test]
async fn an_event_tells_its_state_and_the_counts_of_all() {
    let scene = Scene::new().await;
    let id = scene.push(json!({"data": 1, "collapse_key": "k", "ttl": 60})).await;
    let path = format!("/v1/events/{id}");
    let shown = scene.request("push", "GET", &path, &[], "").await.expect(200).json();
    assert_eq!(
        (&shown["id"], &shown["state"], &shown["collapse_key"]),
        (&json!(id), &json!("queued"), &json!("k"))
    );
    assert_eq!((&shown["urgency"], &shown["require"]), (&json!("normal"), &json!("acknowledged")));
    assert!(shown["accepted_at"].as_str() < shown["expires_at"].as_str(), "{shown}");
    assert_eq!(
        (&shown["deliveries"]["queued"], &shown["deliveries"]["delivered"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(shown["deliveries"].as_object().unwrap().len(), 12);
    scene.written.lock().unwrap().insert(id.parse().unwrap());
    assert_eq!(scene.get(&path).await.json()["state"], "dispatched");
    settle(&scene, &id, Outcome::Delivered).await;
    assert_eq!(scene.get(&path).await.json()["state"], "delivered");
    let items = scene.get(&format!("{path}/deliveries")).await.expect(200).json();
    let item = &items["items"][0];
    assert_eq!(
        (&item["device"], &item["state"], &item["attempt"], &item["seq"]),
        (&json!("box"), &json!("delivered"), &json!(1), &json!(1))
    );
    assert!(item["lane"].as_str().unwrap().starts_with("normal."), "{item}");
    assert!(items["next"].is_null());
}

async fn settle(scene: &Scene, id: &str, outcome: Outcome) {
    let event = id.parse().unwrap();
    let end = Settle {
        device: key("box"),
        id: event,
        located: scene.store.locate(TenantId(0), event).unwrap(),
        outcome,
        at: crate::scene::START,
        epoch: None,
        told: None,
    };
    scene.store.settle(vec![end]).await.remove(0).unwrap();
}

#[tokio::test]
async fn a_cancel_is_idempotent_and_never_undoes() {
    let scene = Scene::new().await;
    let (taken, kept) = (scene.push(json!({"data": 1})).await, scene.push(json!({"data": 2})).await);
    for _ in 0..2 {
        let answer = scene
            .request("push", "DELETE", &format!("/v1/events/{taken}"), &[], "")
            .await
            .expect(200);
        assert_eq!(answer.json(), json!({"cancelled": 1, "delivered": 0}));
    }
    assert_eq!(scene.cancelled.load(Ordering::Relaxed), 1, "counted once");
    settle(&scene, &kept, Outcome::Delivered).await;
    let answer = scene.delete(&format!("/v1/events/{kept}")).await.expect(200);
    assert_eq!(answer.json(), json!({"cancelled": 0, "delivered": 1}));
    assert!(scene.waiting("box").await.is_empty());
    scene
        .request("read", "DELETE", &format!("/v1/events/{kept}"), &[], "")
        .await
        .refused(403, "forbidden", "push");
}

#[tokio::test]
async fn an_event_reads_expired_from_its_expiry_on() {
    let scene = Scene::new().await;
    let id = scene.push(json!({"data": 1, "ttl": 60})).await;
    let state = async || scene.get(&format!("/v1/events/{id}")).await.expect(200).json()["state"].clone();
    scene.clock.advance(Duration::from_millis(59_999));
    assert_eq!(state().await, "queued");
    scene.clock.advance(Duration::from_millis(1));
    assert_eq!(state().await, "expired");
    let item = scene.get(&format!("/v1/events/{id}/deliveries?state=expired")).await.json()["items"][0].clone();
    assert_eq!(item["at"], item["expires_at"]);
    let answer = scene.delete(&format!("/v1/events/{id}")).await.expect(200).json();
    assert_eq!(answer, json!({"cancelled": 0, "delivered": 0}), "it had ended before");
    assert_eq!(state().await, "expired");
}

#[tokio::test]
async fn ids_of_nobody_look_the_same() {
    let scene = Scene::new().await;
    let id = scene.push(json!({"data": 1})).await;
    let foreign = "a".repeat(32);
    for wrong in ["nosuchevent", &foreign, &id.to_uppercase(), "%00", &"x".repeat(5000)] {
        for path in [format!("/v1/events/{wrong}"), format!("/v1/events/{wrong}/deliveries")] {
            scene.get(&path).await.refused(404, "unknown-event", "");
        }
        scene.delete(&format!("/v1/events/{wrong}")).await.refused(404, "unknown-event", "");
    }
    scene.get("/v1/events/%ff").await.refused(404, "unknown-path", "%ff");
}

#[tokio::test]
async fn deliveries_are_filtered() {
    let scene = Scene::new().await;
    let id = scene.push(json!({"data": 1})).await;
    let count = async |query: &str| {
        let page = scene.get(&format!("/v1/events/{id}/deliveries?{query}")).await.expect(200).json();
        page["items"].as_array().unwrap().len()
    };
    assert_eq!(count("").await, 1);
    assert_eq!(count("state=queued&device=BOX").await, 1);
    assert_eq!(count("state=delivered").await, 0);
    assert_eq!(count("device=other").await, 0);
    let refused = async |query: &str, detail: &str| {
        scene
            .get(&format!("/v1/events/{id}/deliveries?{query}"))
            .await
            .refused(400, "invalid-parameter", detail);
    };
    refused("state=lost", "lost").await;
    refused("limit=1001", "limit").await;
    refused("colour=red", "colour").await;
}

#[tokio::test]
async fn a_device_has_a_timeline_of_pages() {
    let scene = Scene::new().await;
    let mut posted = Vec::new();
    for n in 0..5 {
        posted.push(scene.push(json!({"data": n})).await);
        scene.clock.advance(Duration::from_secs(1));
    }
    posted.reverse();
    let (mut seen, mut path) = (Vec::new(), "/v1/devices/box/deliveries?limit=2".to_owned());
    loop {
        let page = scene.request("read", "GET", &path, &[], "").await.expect(200).json();
        seen.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| item["event"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/devices/box/deliveries?limit=2&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, posted);
    scene
        .get("/v1/devices/nobody/deliveries")
        .await
        .refused(404, "unknown-device", "nobody");
    scene
        .get("/v1/devices/box/deliveries?cursor=%21")
        .await
        .refused(400, "invalid-parameter", "cursor");
}
