//! Events to several devices, and to those of a user.

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::{Value, json};
use unpoll::{
    domain::{Limits, Outcome, TenantId},
    store::{Mailbox, Settle},
};

use crate::scene::{Answer, START, Scene, key};

/// A scene whose devices `tv` and `radio` are those of `ann`.
async fn scene() -> Scene {
    let scene = Scene::new().await;
    for device in ["tv", "radio"] {
        let body = json!({"user": "ann"});
        scene.send("PUT", &format!("/v1/devices/{device}"), &body).await.expect(201);
    }
    scene
}

fn event(target: &Value, more: &Value) -> Value {
    let mut event = json!({"target": target, "type": "t", "data": 1});
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event
}

fn id_of(answer: &Answer) -> String {
    answer.json()["id"].as_str().unwrap().to_owned()
}

impl Scene {
    async fn to(&self, target: Value, more: Value) -> Answer {
        self.native(&event(&target, &more)).await
    }

    async fn keyed(&self, key: &str, target: Value, more: Value) -> Answer {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        self.post(&headers, event(&target, &more).to_string()).await
    }

    /// The device, the state and the id of each delivery of an event.
    async fn deliveries(&self, event: &str, query: &str) -> Vec<(String, String, String)> {
        let page = self.get(&format!("/v1/events/{event}/deliveries{query}")).await.expect(200).json();
        let text = |item: &Value, name: &str| item[name].as_str().unwrap().to_owned();
        let items = page["items"].as_array().unwrap();
        assert!(items.iter().all(|item| item["event"] == *event), "{page}");
        items
            .iter()
            .map(|item| (text(item, "device"), text(item, "state"), text(item, "delivery")))
            .collect()
    }

    async fn end(&self, device: &str, id: &str, outcome: Outcome) {
        let id = id.parse().unwrap();
        let end = Settle {
            device: key(device),
            id,
            located: self.store.locate(TenantId(0), id).unwrap(),
            outcome,
            at: START,
            epoch: None,
            told: None,
        };
        self.store.settle(vec![end]).await.remove(0).unwrap();
    }

    async fn count(&self, device: &str) -> usize {
        self.waiting(device).await.len()
    }
}

#[tokio::test]
async fn each_device_has_a_delivery_and_the_event_tells_of_all() {
    let scene = scene().await;
    let answer = scene
        .to(json!({"devices": ["tv", "BOX", "tv"]}), json!({"collapse_key": "k"}))
        .await
        .expect(202);
    let id = id_of(&answer);
    assert_eq!(answer.json(), json!({"id": id, "state": "queued", "durability": "disk"}));
    assert_eq!(answer.header("location"), format!("/v1/events/{id}"));
    assert_eq!(answer.header("push-durability"), "disk");
    assert_eq!(
        (scene.count("box").await, scene.count("tv").await, scene.count("radio").await),
        (1, 1, 0)
    );
    assert_eq!(scene.waiting("box").await[0].event.json, scene.waiting("tv").await[0].event.json);

    let path = format!("/v1/events/{id}");
    let shown = scene.request("push", "GET", &path, &[], "").await.expect(200).json();
    assert_eq!(
        (&shown["id"], &shown["state"], &shown["targets"]),
        (&json!(id), &json!("queued"), &json!(2))
    );
    assert_eq!((&shown["deliveries"]["queued"], &shown["collapse_key"]), (&json!(2), &json!("k")));
    let all = scene.deliveries(&id, "").await;
    let devices: Vec<_> = all.iter().map(|(device, state, _)| (device.as_str(), state.as_str())).collect();
    assert_eq!(devices, [("box", "queued"), ("tv", "queued")]);
    let of_tv = &all[1].2;
    assert_eq!(*of_tv, scene.waiting("tv").await[0].id.to_string(), "as its device knows it");

    scene.end("tv", of_tv, Outcome::Delivered).await;
    let shown = scene.get(&path).await.json();
    assert_eq!((&shown["state"], &shown["deliveries"]["delivered"]), (&json!("queued"), &json!(1)));
    assert_eq!(
        scene.deliveries(&id, "?state=delivered").await,
        [("tv".into(), "delivered".into(), of_tv.clone())]
    );
    assert_eq!(scene.deliveries(&id, "?device=box").await.len(), 1);
    let page = scene.get(&format!("{path}/deliveries?limit=1")).await.json();
    assert_eq!((page["items"].as_array().unwrap().len(), page["next"].is_string()), (1, true));
    let next = format!("?limit=1&cursor={}", page["next"].as_str().unwrap());
    assert_eq!(scene.deliveries(&id, &next).await[0].0, "tv");
    // By the id that a device knows, that delivery alone.
    let part = scene.get(&format!("/v1/events/{of_tv}")).await.expect(200).json();
    assert_eq!(
        (&part["part_of"], &part["targets"], &part["state"]),
        (&json!(id), &json!(1), &json!("delivered"))
    );
    let timeline = scene.get("/v1/devices/tv/deliveries").await.expect(200).json();
    assert_eq!(
        (&timeline["items"][0]["event"], &timeline["items"][0]["delivery"]),
        (&json!(id), &json!(of_tv))
    );
    scene.written.lock().unwrap().insert(all[0].2.parse().unwrap());
    assert_eq!(scene.get(&path).await.json()["state"], "dispatched");
    scene.end("box", &all[0].2, Outcome::Delivered).await;
    assert_eq!(scene.get(&path).await.json()["state"], "delivered");
    assert_eq!(scene.metric("unpoll_events_accepted_total", "disk"), 1.0, "it is one event");
}

#[tokio::test]
async fn an_event_to_a_user_reaches_the_devices_of_that_moment() {
    let scene = scene().await;
    let id = id_of(&scene.to(json!({"user": "ann"}), json!({})).await.expect(202));
    scene.send("PUT", "/v1/devices/new", &json!({"user": "ann"})).await.expect(201);
    let devices: Vec<String> = scene.deliveries(&id, "").await.into_iter().map(|(device, ..)| device).collect();
    assert_eq!(devices, ["radio", "tv"]);
    let cloud = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "pushuser": "ann", "subject": "box"});
    let headers = [("content-type", "application/cloudevents+json")];
    scene.post(&headers, cloud.to_string()).await.expect(202);
    assert_eq!((scene.count("new").await, scene.count("box").await), (1, 0));
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "2"),
        ("ce-source", "/s"),
        ("ce-type", "t"),
        ("ce-pushuser", "ann"),
    ];
    scene.post(&binary, "").await.expect(202);
    assert_eq!(scene.count("new").await, 2);
}

#[tokio::test]
async fn what_cannot_be_taken_is_said_and_nothing_is_stored() {
    let scene = scene().await;
    scene.send("PUT", "/v1/devices/gone", &json!({})).await.expect(201);
    scene.delete("/v1/devices/gone").await.expect(204);
    for n in 0..65 {
        scene
            .send("PUT", &format!("/v1/devices/box-{n}"), &json!({"user": "crowd"}))
            .await
            .expect(201);
    }
    let many = |count: usize| (0..count).map(|n| format!("box-{n}")).collect::<Vec<_>>();
    for (target, status, slug, detail) in [
        (json!({"devices": []}), 400, "invalid-field", "target.devices"),
        (json!({"devices": "box"}), 400, "invalid-field", "a list"),
        (json!({"devices": ["box", 5]}), 400, "invalid-field", "a list"),
        (json!({"devices": ["box", "b x"]}), 400, "invalid-device-id", "offset 1"),
        (json!({"devices": ["box", "nobody"]}), 404, "unknown-device", "nobody"),
        (json!({"devices": ["box", "gone"]}), 410, "removed-device", "gone"),
        (json!({"devices": many(65)}), 413, "too-many-targets", "64"),
        (json!({"devices": ["box"], "user": "ann"}), 400, "two-targets", "target.user"),
        (json!({"user": "nobody"}), 404, "unknown-user", "nobody"),
        (json!({"user": "crowd"}), 413, "too-many-targets", "64"),
        (json!({"user": 5}), 400, "invalid-field", "target.user"),
        (json!({"user": "a b"}), 400, "invalid-field", "offset 1"),
    ] {
        let answer = scene.to(target.clone(), json!({})).await.expect(status);
        let problem = answer.json();
        assert!(problem["type"].as_str().unwrap().ends_with(slug), "{target}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{target}: {problem}");
    }
    for device in ["box", "tv", "box-0", "gone-0"] {
        assert!(device == "gone-0" || scene.count(device).await == 0, "{device}");
    }
    scene.to(json!({"devices": many(64)}), json!({})).await.expect(202);
    assert_eq!(scene.count("box-63").await, 1);
    // Looked at, and not stored.
    for (target, count) in [
        (json!({"devices": ["box", "tv"]}), 2),
        (json!({"user": "ann"}), 2),
        (json!({"device": "tv"}), 1),
    ] {
        let headers = [("content-type", "application/json")];
        let body = event(&target, &json!({})).to_string();
        let looked = scene.request("push", "POST", "/v1/events?validate_only=true", &headers, body).await;
        assert_eq!(looked.expect(200).json(), json!({"targets": count}), "{target}");
    }
    assert_eq!(scene.count("tv").await, 0);
}

#[tokio::test]
async fn a_repeat_is_the_same_event_whatever_became_of_its_devices() {
    let scene = scene().await;
    let first = scene.keyed("k", json!({"devices": ["tv", "radio"]}), json!({})).await.expect(202);
    let again = scene.keyed("k", json!({"devices": ["radio", "tv"]}), json!({})).await.expect(200);
    assert_eq!(again.json(), first.json(), "the order of devices means nothing");
    assert_eq!(again.header("location"), first.header("location"));
    let other = scene
        .keyed("k", json!({"devices": ["radio", "tv"]}), json!({"data": 2}))
        .await
        .expect(409);
    assert!(other.json()["detail"].as_str().unwrap().contains(&id_of(&first)), "{other:?}");
    // Another target is another scope.
    for target in [json!({"devices": ["tv"]}), json!({"user": "ann"}), json!({"device": "tv"})] {
        assert_ne!(id_of(&scene.keyed("k", target, json!({})).await.expect(202)), id_of(&first));
    }
    assert_eq!((scene.count("tv").await, scene.count("radio").await), (4, 2));
    // `source` and `id` are a key, too.
    let named = json!({"id": "7", "source": "/s"});
    let one = scene.to(json!({"user": "ann"}), named.clone()).await.expect(202);
    assert_eq!(scene.to(json!({"user": "ann"}), named.clone()).await.expect(200).json(), one.json());
    scene.delete("/v1/devices/radio").await.expect(204);
    scene.send("PATCH", "/v1/devices/tv", &json!({"user": null})).await.expect(200);
    let again = scene.to(json!({"user": "ann"}), named).await.expect(200);
    assert_eq!(id_of(&again), id_of(&one));
    let again = scene.keyed("k", json!({"devices": ["tv", "radio"]}), json!({})).await.expect(200);
    assert_eq!((id_of(&again), &again.json()["state"]), (id_of(&first), &json!("queued")));
    // An hour later it is free, unless a delivery still waits.
    scene.clock.advance(Duration::from_secs(3_600));
    scene.keyed("k", json!({"devices": ["tv"]}), json!({})).await.expect(200);
    let alone = scene.deliveries(&id_of(&first), "?device=tv").await.remove(0);
    scene.end("tv", &alone.2, Outcome::Delivered).await;
    scene.send("PUT", "/v1/devices/radio", &json!({})).await.expect(201);
    let fresh = scene
        .keyed("k", json!({"devices": ["tv", "radio"]}), json!({"data": 2}))
        .await
        .expect(202);
    assert_ne!(id_of(&fresh), id_of(&first));
}

#[tokio::test]
async fn it_is_replaced_cancelled_and_scheduled_as_one() {
    let scene = scene().await;
    let todo = || json!({"collapse_key": "todo"});
    let alone = id_of(&scene.to(json!({"device": "tv"}), todo()).await);
    let first = id_of(&scene.to(json!({"user": "ann"}), todo()).await);
    let later = json!({"collapse_key": "todo", "deliver_at": START.plus(Duration::from_secs(60)).to_string()});
    let second = scene.to(json!({"user": "ann"}), later).await.expect(202);
    assert_eq!(second.json()["state"], "scheduled");
    let second = id_of(&second);
    assert_eq!(scene.replaced.load(Ordering::Relaxed), 2);
    let shown = scene.get(&format!("/v1/events/{first}")).await.json();
    assert_eq!(
        (&shown["state"], &shown["replaced_by"], &shown["deliveries"]["replaced"]),
        (&json!("replaced"), &json!(second), &json!(2))
    );
    assert_eq!(
        scene.get(&format!("/v1/events/{alone}")).await.json()["state"],
        "queued",
        "another target"
    );
    let path = format!("/v1/events/{second}");
    assert_eq!(
        scene.delete(&path).await.expect(200).json(),
        json!({"cancelled": 2, "delivered": 0})
    );
    assert_eq!(
        scene.delete(&path).await.expect(200).json(),
        json!({"cancelled": 2, "delivered": 0})
    );
    assert_eq!(scene.cancelled.load(Ordering::Relaxed), 2);
    assert_eq!(scene.get(&path).await.json()["state"], "cancelled");

    let third = id_of(&scene.to(json!({"user": "ann"}), json!({})).await);
    let of_tv = scene.deliveries(&third, "?device=tv").await.remove(0).2;
    scene.end("tv", &of_tv, Outcome::Delivered).await;
    let answer = scene.delete(&format!("/v1/events/{third}")).await.expect(200);
    assert_eq!(answer.json(), json!({"cancelled": 1, "delivered": 1}));
    // Now or never, and stored nowhere.
    let now = scene.to(json!({"user": "ann"}), json!({"ttl": 0})).await.expect(202);
    assert_eq!(
        (&now.json()["state"], &now.json()["durability"]),
        (&json!("no_target"), &json!("none"))
    );
    scene.get(&format!("/v1/events/{}", id_of(&now))).await.expect(404);
}

#[tokio::test]
async fn a_full_queue_keeps_no_other_device_from_it() {
    let limits = Limits {
        queue_max_events: 1,
        ..Limits::default()
    };
    let scene = Scene::with(limits).await;
    scene.to(json!({"device": "box"}), json!({})).await.expect(202);
    let answer = scene.to(json!({"devices": ["box", "other"]}), json!({})).await.expect(202);
    assert_eq!(answer.json()["state"], "queued");
    let id = id_of(&answer);
    let states: Vec<_> = scene
        .deliveries(&id, "")
        .await
        .into_iter()
        .map(|(device, state, _)| (device, state))
        .collect();
    assert_eq!(states, [("box".into(), "failed".into()), ("other".into(), "queued".into())]);
    let page = scene.get(&format!("/v1/events/{id}/deliveries?state=failed")).await.json();
    assert_eq!(page["items"][0]["reason"], "queue-full");
    // Where no queue has room nothing is stored.
    let refused = scene.keyed("k", json!({"devices": ["box", "other"]}), json!({})).await.expect(429);
    assert!(refused.json()["type"].as_str().unwrap().ends_with("queue-full"), "{refused:?}");
    scene.delete(&format!("/v1/events/{id}")).await.expect(200);
    scene
        .keyed("k", json!({"devices": ["box", "other"]}), json!({"data": 2}))
        .await
        .expect(202);
}

#[tokio::test]
async fn each_device_counts_in_the_limit_of_a_key() {
    let scene = scene().await;
    // A second gives nothing that a test could wait for.
    let body = json!({"name": "slow", "scope": "push", "limits": {"deliveries_per_second": 1, "burst": 1_000}});
    let made = scene.send("POST", "/v1/keys", &body).await.expect(201).json();
    let key = made["key"].as_str().unwrap().to_owned();
    let left = async |target: Value| {
        let headers = [("content-type", "application/json")];
        let body = event(&target, &json!({})).to_string();
        let answer = scene.request(&key, "POST", "/v1/events", &headers, body).await;
        let left = answer.header("ratelimit").split(';').nth(1).unwrap().to_owned();
        left.strip_prefix("r=").unwrap().parse::<u64>().unwrap()
    };
    let first = left(json!({"device": "tv"})).await;
    // As much as a slow machine gives meanwhile.
    let second = left(json!({"user": "ann"})).await;
    assert!((first - 2..first).contains(&second), "{first} {second}");
    let third = left(json!({"devices": ["tv", "radio", "box", "other"]})).await;
    assert!((second - 4..second - 1).contains(&third), "{second} {third}");
}

#[tokio::test]
async fn lines_to_one_and_to_several_keep_the_order_of_each_device() {
    let scene = scene().await;
    let mut body = String::new();
    for n in 0..300 {
        let target = match n % 4 {
            0 => json!({"devices": ["tv", "radio"]}),
            1 => json!({"device": "tv"}),
            2 => json!({"user": "ann"}),
            _ => json!({"device": "radio"}),
        };
        body += &format!("{}\n", json!({"target": target, "data": n}));
    }
    body += &format!("{}\n", json!({"target": {"user": "nobody"}, "data": 1}));
    let headers = [("content-type", "application/x-ndjson"), ("idempotency-key", "all")];
    let path = "/v1/events?results=all";
    let answer = scene.request("push", "POST", path, &headers, body.clone()).await.expect(200);
    let lines: Vec<Value> = answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[..300].iter().all(|line| line["status"] == 202), "{}", answer.body);
    assert_eq!(lines[300]["status"], 404);
    let numbers = async |device: &str| {
        let data = |json: &str| serde_json::from_str::<Value>(json).unwrap()["data"].as_u64().unwrap();
        let waiting = scene.waiting(device).await;
        waiting.iter().map(|event| data(&event.event.json.0)).collect::<Vec<_>>()
    };
    assert_eq!(numbers("tv").await, (0..300).filter(|n| n % 4 != 3).collect::<Vec<_>>());
    assert_eq!(numbers("radio").await, (0..300).filter(|n| n % 4 != 1).collect::<Vec<_>>());
    let again = scene.request("push", "POST", "/v1/events", &headers, body).await.expect(200).json();
    assert_eq!(
        (&again["repeated"], &again["accepted"], &again["refused"]),
        (&json!(300), &json!(0), &json!(1))
    );
    assert_eq!(numbers("tv").await.len(), 225);
    let batch = json!([
        {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "pushuser": "ann"},
        {"specversion": "1.0", "id": "2", "source": "/s", "type": "t", "pushdevice": "tv"},
    ]);
    let headers = [("content-type", "application/cloudevents-batch+json")];
    let looked = scene
        .request("push", "POST", "/v1/events?validate_only=true", &headers, batch.to_string())
        .await;
    let looked = looked.expect(200).json();
    assert_eq!((&looked["valid"], &looked["targets"]), (&json!(2), &json!(3)));
    assert_eq!(scene.post(&headers, batch.to_string()).await.expect(200).json()["accepted"], 2);
}
