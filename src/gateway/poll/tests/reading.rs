//! What is shown, and where that leaves the device.

use super::*;

#[tokio::test]
async fn a_device_reads_on_without_acknowledging_and_sees_everything_without_a_cursor() {
    let scene = Scene::new(Config {
        page_max_events: 2,
        page_max_bytes: 20,
        ..Config::default()
    })
    .await;
    let empty = scene.poll("after=").await.expect(200);
    assert_eq!(empty.body["poll_after_seconds"], 900);
    assert_eq!(empty.headers["retry-after"], "900");
    let a = scene.push("box", Urgency::Normal, r#"{"a":1}"#).await;
    let b = scene.push("box", Urgency::Low, r#"{"b":"longer than 20"}"#).await;
    let c = scene.push("box", Urgency::High, r#"{"c":3}"#).await;
    let first = scene.poll("").await.expect(200);
    assert_eq!(first.ids(), [&c, &a], "high goes first");
    assert_eq!(
        (first.body["events"][0]["seq"].as_u64(), &first.body["events"][0]["event"]),
        (Some(1), &json!({"c": 3}))
    );
    assert!(first.body["events"][0]["lane"].as_str().unwrap().starts_with("high."));
    assert_eq!(
        (&first.body["poll_after_seconds"], first.headers["retry-after"].as_bytes()),
        (&json!(0), &b"0"[..])
    );
    let second = scene.poll(&format!("after={}", first.next())).await.expect(200);
    assert_eq!(second.ids(), [&b], "one event always fits");
    // One that comes behind the cursor of its own queue is seen, whatever was read of the other.
    let d = scene.push("box", Urgency::High, r#"{"d":4}"#).await;
    let third = scene.poll(&format!("after={}", second.next())).await.expect(200);
    assert_eq!(third.ids(), [&d]);
    let known = third.headers["etag"].to_str().unwrap().to_owned();
    let headers = [("authorization", basic("box", "secret")), ("if-none-match", known.clone())];
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let query = format!("box/events?after={}", third.next());
    let unchanged = scene.request("GET", &query, &headers, &Value::Null).await.expect(304);
    assert_eq!(
        (&unchanged.headers["etag"], unchanged.headers["retry-after"].as_bytes()),
        (&known.parse().unwrap(), &b"900"[..])
    );
    let all = scene.request("GET", "box/events", &headers, &Value::Null).await.expect(200);
    assert_eq!(all.ids(), [&c, &d], "what waits is never hidden by an entity tag");
    let last = *scene.results().last().unwrap();
    assert_eq!((scene.results()[0], last), (PollResult::Empty, PollResult::Events));
    assert!(scene.results().contains(&PollResult::NotModified));
}

#[tokio::test]
async fn a_cursor_of_another_life_hides_nothing_and_one_of_nobody_is_refused() {
    let scene = Scene::new(Config::default()).await;
    let a = scene.push("box", Urgency::Normal, "{}").await;
    let b = scene.push("other", Urgency::Normal, "{}").await;
    let next = scene.poll("").await.expect(200).next().to_owned();
    let generation = scene.store.generation();
    let elsewhere = Vector::start(Generation(generation.0 ^ 1)).text();
    assert_eq!(
        scene.poll(&format!("after={elsewhere}")).await.expect(200).ids(),
        [&a],
        "another generation"
    );
    let credentials = basic("other", "secret");
    let query = format!("other/events?after={next}");
    let others = scene.request("GET", &query, &[("authorization", &credentials)], &Value::Null).await;
    assert_eq!(others.expect(200).ids(), [&b], "the cursor of another device");
    // Another store with the same generation: its ids are not sealed by this one.
    let mut forged = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(&next).unwrap();
    *forged.last_mut().unwrap() ^= 1;
    let forged = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(forged);
    for garbage in [
        forged.as_str(),
        "%20",
        "AAAA",
        "EQAAAAA",
        &next[..next.len() - 2],
        &format!("{next}AA"),
    ] {
        let refused = scene.poll(&format!("after={garbage}")).await.expect(400);
        assert_eq!(refused.body["parameter"], "after", "{garbage}");
        let refused = scene.acks(json!({ "upto": garbage })).await.expect(400);
        assert_eq!(refused.body["field"], "upto", "{garbage}");
    }
    let nothing = scene.acks(json!({ "upto": elsewhere })).await.expect(200);
    assert_eq!(nothing.body, json!({ "acknowledged": 0, "ended_before": 0, "unknown": [] }));
    // Removed and added again, it is another device.
    scene.store.remove_device(&key("box"), START).await.unwrap();
    scene.password("box", "secret").await;
    let c = scene.push("box", Urgency::Normal, "{}").await;
    assert_eq!(scene.poll(&format!("after={next}")).await.expect(200).ids(), [&c]);
}

#[tokio::test]
async fn a_device_keeps_its_own_pace_unless_the_operator_sets_one() {
    let scene = Scene::new(Config::default()).await;
    let own = |secs: Value| DeviceChange {
        attributes: Some(Map::from_iter([("poll_interval_secs".to_owned(), secs)])),
        cohort: Some(Cohort::Control),
        ..DeviceChange::default()
    };
    scene.change("box", own(json!(30))).await;
    assert_eq!(scene.poll("").await.body["poll_after_seconds"], 30);
    {
        let polls = scene.notes.polls.lock();
        assert_eq!((polls[0].0.cohort, polls[0].0.poll_interval_secs), (Cohort::Control, Some(30)));
    }
    scene.change("box", own(json!(0))).await;
    assert_eq!(scene.poll("").await.body["poll_after_seconds"], 900);
    let scene = Scene::new(Config {
        poll_after_secs: 77,
        ..Config::default()
    })
    .await;
    scene.change("box", own(json!(30))).await;
    assert_eq!(scene.poll("").await.headers["retry-after"], "77");
}
