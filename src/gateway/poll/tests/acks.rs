//! What an acknowledgement ends, and what is wrong with a request.

use super::*;

#[tokio::test]
async fn upto_ends_what_was_shown_and_nothing_else_however_many_pages_it_is() {
    let scene = Scene::new(Config::default()).await;
    for number in 0..230 {
        let urgency = if number % 3 == 0 { Urgency::High } else { Urgency::Normal };
        scene.push("box", urgency, &number.to_string()).await;
    }
    let (mut next, mut shown) = (String::new(), 0);
    for _ in 0..2 {
        let query = if next.is_empty() { String::new() } else { format!("after={next}") };
        let page = scene.poll(&query).await.expect(200);
        shown += page.ids().len();
        next = page.next().to_owned();
    }
    assert_eq!(shown, 200);
    scene.clock.advance(Duration::from_secs(5));
    let done = scene.acks(json!({ "upto": next })).await.expect(200);
    assert_eq!(done.body, json!({ "acknowledged": 200, "ended_before": 0, "unknown": [] }));
    assert_eq!(scene.poll("").await.ids().len(), 30);
    assert_eq!(scene.acks(json!({ "upto": next })).await.body["acknowledged"], 0);
    assert_eq!(scene.counted.load(Ordering::Relaxed), 200);
    let delivered = scene.notes.delivered.lock();
    assert_eq!(delivered.len(), 200);
    let (expires_at, now) = (START.plus(Duration::from_secs(3_600)), START.plus(Duration::from_secs(5)));
    assert!(delivered.iter().all(|one| *one == (START, expires_at, now)));
}

#[tokio::test]
async fn ids_end_once_and_unknown_ones_are_named() {
    let mut scene = Scene::new(Config::default()).await;
    let a = scene.push("box", Urgency::Normal, "{}").await;
    let b = scene.push("box", Urgency::Normal, "{}").await;
    let others = scene.push("other", Urgency::Normal, "{}").await;
    // A session of the device has both on its way.
    *scene.link.0.lock() = vec![a.parse().unwrap(), b.parse().unwrap()];
    let done = scene.acks(json!({ "ids": [&a, &a, &others, "rubbish"] })).await.expect(200);
    assert_eq!(
        done.body,
        json!({ "acknowledged": 1, "ended_before": 1, "unknown": ["rubbish", &others] })
    );
    assert_eq!(scene.counted.load(Ordering::Relaxed), 1);
    assert_eq!(
        *scene.link.0.lock(),
        [b.parse().unwrap()],
        "the session does not wait for it any more"
    );
    let told = scene.signals.try_recv();
    assert!(matches!(told, Ok(DeviceSignal::Ready { epoch: Epoch(7), .. })), "{told:?}");
    assert_eq!(
        scene
            .store
            .delivery(TENANT, others.parse().unwrap())
            .await
            .unwrap()
            .unwrap()
            .state
            .as_str(),
        "queued"
    );
    assert_eq!(scene.acks(json!({ "ids": [] })).await.expect(200).body["acknowledged"], 0);
    assert!(scene.signals.try_recv().is_err(), "nothing was in its way");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_named() {
    let scene = Scene::new(Config {
        acks_max: 2,
        ..Config::default()
    })
    .await;
    for (query, name) in [
        ("wait=61", "wait"),
        ("wait=-1", "wait"),
        ("wait=x", "wait"),
        ("wait=1&wait=2", "wait"),
        ("limit=5", "limit"),
    ] {
        assert_eq!(scene.poll(query).await.expect(400).body["parameter"], name, "{query}");
    }
    for (body, slug, field) in [
        (json!({}), "missing-field", "ids, upto or outcomes"),
        (json!({ "ids": [], "upto": "x" }), "invalid-field", "upto"),
        (json!({ "ids": [], "id": 1 }), "unknown-field", "id"),
        (json!({ "ids": "a" }), "invalid-field", "ids"),
        (json!({ "ids": [1] }), "invalid-field", "ids[0]"),
        (json!({ "ids": ["a", "b", "c"] }), "invalid-field", "ids"),
        (json!({ "upto": 1 }), "invalid-field", "upto"),
        (json!([]), "invalid-field", "the body"),
    ] {
        let refused = scene.acks(body.clone()).await.expect(400);
        assert_eq!(
            (&refused.body["type"], &refused.body["field"]),
            (&json!(format!("/problems/{slug}")), &json!(field)),
            "{body}"
        );
    }
}
