//! Random and mutated requests: an answer for each, never 500, and nothing stored but what was accepted.

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use serde_json::Value;

use crate::scene::Scene;

const SEEDS: [&str; 3] = [
    r#"{"id":"1","source":"/s","type":"t","time":"2026-11-22T01:30:00Z","data":{"a":[1,"\ud83d\udcfa",null]},"target":{"device":"box"},"ttl":60,"urgency":"high","collapse_key":"k","require":"received"}"#,
    r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"box","pushttl":60,"traceparent":"00-1","data":{"x":1.0}}"#,
    r#"{"user":"ann","attributes":{"a":{"b":1}},"cohort":"push","credentials":[]}"#,
];

/// How a seed is damaged: at a place, some bytes are replaced by others.
#[derive(Clone, Debug)]
struct Damage {
    seed: usize,
    cuts: Vec<(prop::sample::Index, usize, Vec<u8>)>,
    kind: usize,
}

fn damage() -> impl Strategy<Value = Damage> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..4),
        "[\\[\\]{}\",:\\\\0-9eE.+-]{1,3}".prop_map(String::into_bytes),
        prop::sample::select(vec!["null", "\"push\":", "\\ud800", "\u{fffe}", "true,", "\"data\":1,", "[[[[[[[["])
            .prop_map(|text| text.as_bytes().to_vec()),
    ];
    let cuts = prop::collection::vec((any::<prop::sample::Index>(), 0..6_usize, piece), 0..4);
    (0..SEEDS.len(), cuts, 0..4_usize).prop_map(|(seed, cuts, kind)| Damage { seed, cuts, kind })
}

fn body(damage: &Damage) -> Vec<u8> {
    let mut body = SEEDS[damage.seed].as_bytes().to_vec();
    for (place, length, piece) in &damage.cuts {
        let at = place.index(body.len() + 1);
        let end = (at + length).min(body.len());
        body.splice(at..end, piece.iter().copied());
    }
    body
}

#[test]
fn damaged_requests_are_answered_and_nothing_else_is_stored() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let scene = runtime.block_on(Scene::new());
    let mut accepted = std::collections::HashSet::new();
    let accepted = std::cell::RefCell::new(&mut accepted);
    let mut runner = TestRunner::new(Config {
        cases: 1_500,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&damage(), |damage| {
        let kinds = [
            "application/json",
            "application/cloudevents+json",
            "application/octet-stream",
            "text/plain; charset=x",
        ];
        let binary = [
            ("ce-specversion", "1.0"),
            ("ce-id", "%31"),
            ("ce-source", "/s"),
            ("ce-type", "t"),
            ("ce-pushdevice", "box"),
        ];
        let mut headers = vec![("content-type", kinds[damage.kind])];
        if damage.kind == 2 {
            headers.extend(binary);
        }
        let body = body(&damage);
        let answer = runtime.block_on(scene.post(&headers, body.clone()));
        prop_assert!(
            matches!(answer.status, 200 | 202 | 400 | 404 | 409 | 413 | 415 | 429),
            "{:?}",
            answer
        );
        if answer.status == 202 {
            accepted.borrow_mut().insert(answer.json()["id"].as_str().unwrap().to_owned());
        }
        if damage.kind == 1 {
            accepted.borrow_mut().extend(runtime.block_on(among_others(&scene, &body))?);
        }
        let answer = runtime.block_on(scene.request("admin", "PUT", "/v1/devices/other", &[], body));
        prop_assert!(matches!(answer.status, 200 | 400 | 413), "{:?}", answer);
        Ok(())
    });
    outcome.unwrap();
    let waiting = runtime.block_on(scene.waiting("box"));
    for event in &waiting {
        assert!(
            serde_json::from_str::<serde_json::Value>(&event.event.json.0).is_ok(),
            "{}",
            event.event.json.0
        );
    }
    let accepted = accepted.into_inner();
    assert!(!accepted.is_empty(), "some damage is harmless");
    for event in waiting {
        assert!(accepted.contains(&event.id.to_string()), "stored without a 202");
    }
}

/// The same as a line among others, whose neighbours are taken whatever it is, and as an event of a batch. The ids that were told.
async fn among_others(scene: &Scene, body: &[u8]) -> Result<Vec<String>, TestCaseError> {
    let path = "/v1/events?results=all";
    let neighbour = r#"{"target":{"device":"other"},"ttl":0,"type":"t"}"#.as_bytes();
    let lines = [neighbour, body, neighbour].join(&b'\n');
    let kind = [("content-type", "application/x-ndjson")];
    let told = scene.request("push", "POST", path, &kind, lines).await;
    prop_assert_eq!(told.status, 200);
    let read = |body: &str| -> Vec<Value> { body.lines().filter_map(|line| serde_json::from_str(line).ok()).collect() };
    let mut items = read(&told.body);
    prop_assert!(items.len() >= 3, "{:?}", told);
    prop_assert_eq!(&items[0]["status"], 202);
    prop_assert_eq!(&items[items.len() - 2]["status"], 202);
    let kind = [("content-type", "application/cloudevents-batch+json")];
    let told = scene.request("push", "POST", path, &kind, [b"[", body, b"]"].concat()).await;
    prop_assert!(matches!(told.status, 200 | 400 | 413), "{:?}", told);
    items.extend(read(&told.body));
    let accepted = items.iter().filter(|item| item["status"] == 202);
    Ok(accepted.map(|item| item["id"].as_str().unwrap().to_owned()).collect())
}
