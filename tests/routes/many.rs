//! Many events in one request: each stands alone, in order.

use std::{convert::Infallible, fmt::Write as _, sync::atomic::Ordering, time::Duration};

use axum::body::Body;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use unpoll::domain::Limits;

use crate::scene::{Answer, Scene};

const LINES: (&str, &str) = ("content-type", "application/x-ndjson");
const BATCH: (&str, &str) = ("content-type", "application/cloudevents-batch+json; charset=utf-8");

fn native(device: &str, data: usize) -> String {
    json!({"target": {"device": device}, "data": data}).to_string()
}

fn cloud(id: usize) -> Value {
    json!({"specversion": "1.0", "id": id.to_string(), "source": "/s", "type": "t", "pushdevice": "box", "data": id})
}

impl Scene {
    async fn many(&self, query: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let path = format!("/v1/events{query}");
        self.request("push", "POST", &path, headers, body).await
    }

    /// The numbers that wait for a device, in their order.
    async fn numbers(&self, device: &str) -> Vec<u64> {
        let waiting = self.waiting(device).await;
        let data = |json: &str| serde_json::from_str::<Value>(json).unwrap()["data"].as_u64().unwrap();
        waiting.iter().map(|event| data(&event.event.json.0)).collect()
    }
}

/// The lines of an answer, without its last one; and that.
fn lines(answer: &Answer) -> (Vec<Value>, Value) {
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    assert!(answer.body.ends_with('\n'), "{answer:?}");
    let mut lines: Vec<Value> = answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.pop().unwrap();
    assert!(last.get("summary").is_some(), "{last}");
    (lines, last)
}

fn slug(item: &Value) -> &str {
    item["problem"]["type"].as_str().unwrap().rsplit('/').next().unwrap()
}

/// Events, and between them all that can be wrong with a line.
fn mixed() -> Vec<u8> {
    let mut body = Vec::new();
    for line in [
        native("box", 0).as_bytes(),
        b"{\"target\":",
        b"",
        cloud(1).to_string().as_bytes(),
        b"{\"data\":\"\xff\"}",
        native("nobody", 9).as_bytes(),
        format!("{{\"data\":\"{}\"}}", "x".repeat(256 * 1024)).as_bytes(),
        b"[]",
        json!({"target": {"device": "box"}, "data": 9, "tll": 5}).to_string().as_bytes(),
        b"\r",
        native("other", 2).as_bytes(),
    ] {
        body.extend_from_slice(line);
        body.push(b'\n');
    }
    body.extend_from_slice(native("box", 3).as_bytes());
    body
}

#[tokio::test]
async fn a_bad_line_spoils_no_other_and_each_has_its_answer() {
    let scene = Scene::new().await;
    let answer = scene.many("?results=all", &[LINES], mixed()).await.expect(200);
    let (items, last) = lines(&answer);
    let indexes: Vec<_> = items.iter().map(|item| item["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, (0..10).collect::<Vec<_>>());
    let statuses: Vec<_> = items.iter().map(|item| item["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [202, 400, 202, 400, 404, 413, 400, 400, 202, 202]);
    let slugs: Vec<_> = [1, 3, 4, 5, 6, 7].into_iter().map(|at| slug(&items[at])).collect();
    assert_eq!(
        slugs,
        [
            "bad-json",
            "bad-utf8",
            "unknown-device",
            "item-too-large",
            "invalid-field",
            "unknown-field"
        ]
    );
    assert_eq!((&items[0]["state"], &items[0]["durability"]), (&json!("queued"), &json!("disk")));
    assert_eq!((scene.numbers("box").await, scene.numbers("other").await), (vec![0, 1, 3], vec![2]));
    for (at, device, place) in [(0, "box", 0), (2, "box", 1), (8, "other", 0)] {
        assert_eq!(items[at]["id"], scene.waiting(device).await[place].id.to_string());
    }
    assert_eq!(
        last["summary"],
        json!({"total": 10, "accepted": 4, "repeated": 0, "durability": {"disk": 4}, "refused": 6})
    );
    assert_eq!(scene.metric("unpoll_events_accepted_total", "disk"), 4.0);
    assert_eq!(scene.metric("unpoll_events_refused_total", "unknown-device"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_round_that_is_done_at_once_is_followed_by_the_next_at_once() {
    let scene = Scene::new().await;
    // Three rounds: one to one device, and two to several, because a round has 128 deliveries.
    let several = json!({"target": {"devices": ["box", "other"]}, "data": 1}).to_string() + "\n";
    let body = native("box", 0) + "\n" + &several.repeat(70);
    let before = tokio::time::Instant::now();
    let answer = scene.many("?validate_only=true", &[LINES], body).await.expect(200).json();
    assert_eq!(answer["valid"], 71);
    // What is only looked at waits for nothing: the clock stands, unless somebody waits for it.
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
}

#[tokio::test]
async fn errors_are_told_alone_and_a_summary_names_the_first_of_them() {
    let scene = Scene::new().await;
    let (items, last) = lines(&scene.many("?results=errors", &[LINES], mixed()).await.expect(200));
    let indexes: Vec<_> = items.iter().map(|item| item["index"].as_u64().unwrap()).collect();
    assert_eq!((indexes, &last["summary"]["accepted"]), (vec![1, 3, 4, 5, 6, 7], &json!(4)));

    let mut body = String::from("nonsense\n").repeat(250);
    body.push_str(&native("box", 7));
    let answer = scene.many("", &[LINES], body).await.expect(200);
    let told = answer.json();
    assert_eq!(answer.header("content-type"), "application/json");
    let failed = told["failed"].as_array().unwrap();
    assert_eq!((failed.len(), &told["left_off"], &told["refused"]), (100, &json!(150), &json!(250)));
    assert_eq!((&failed[99]["index"], slug(&failed[99])), (&json!(99), "bad-json"));
    assert_eq!((&told["total"], &told["accepted"]), (&json!(251), &json!(1)));
    assert_eq!(told.get("problem"), None);
    let none = scene.many("", &[LINES], "\n \n").await.expect(200).json();
    assert_eq!((&none["total"], &none["failed"]), (&json!(0), &json!([])));
}

#[tokio::test]
async fn a_batch_is_taken_event_by_event_or_refused_whole() {
    let scene = Scene::with(Limits {
        batch_max_bytes: 1024 * 1024,
        ..Limits::default()
    })
    .await;
    let batch = json!([cloud(0), {"specversion": "1.0"}, 5, native("box", 9), cloud(1)]);
    let (items, last) = lines(&scene.many("?results=all", &[BATCH], batch.to_string()).await.expect(200));
    let statuses: Vec<_> = items.iter().map(|item| item["status"].as_u64().unwrap()).collect();
    assert_eq!((statuses, slug(&items[1])), (vec![202, 400, 400, 400, 202], "missing-field"));
    assert_eq!((scene.numbers("box").await, &last["summary"]["accepted"]), (vec![0, 1], &json!(2)));
    // Source and id are the keys.
    let again = scene.many("", &[BATCH], batch.to_string()).await.expect(200).json();
    assert_eq!(
        (&again["repeated"], &again["accepted"], &again["durability"]),
        (&json!(2), &json!(0), &json!({"disk": 2}))
    );
    assert_eq!(scene.many("", &[BATCH], "[]").await.expect(200).json()["total"], 0);

    let post = async |body: String| scene.many("", &[BATCH], body).await;
    let more: Vec<Value> = (0..1_001).map(cloud).collect();
    post(json!(more).to_string()).await.refused(413, "too-many-events", "1000");
    post(format!("[{}]", "1,".repeat(2_000)))
        .await
        .refused(413, "too-many-events", "ndjson");
    post(" ".repeat(1024 * 1024 + 1)).await.refused(413, "body-too-large", "1048576");
    post(cloud(5).to_string()).await.refused(400, "invalid-field", "an array");
    let problem = post(format!("[{},\n{}", cloud(5), cloud(6)))
        .await
        .refused(400, "bad-json", "line 2");
    assert_eq!(problem["line"], 2);
    post(format!("[{}] x", cloud(5))).await.refused(400, "bad-json", "column");
    scene
        .many("", &[BATCH], b"[\"\xff\"]".to_vec())
        .await
        .refused(400, "bad-utf8", "offset 2");
    assert_eq!(scene.waiting("box").await.len(), 2, "nothing of a refused batch is stored");
}

#[tokio::test]
async fn headers_say_it_for_all_and_a_key_counts_the_events() {
    let scene = Scene::new().await;
    let key = ("idempotency-key", "k");
    let body = [
        native("box", 0),
        native("box", 1),
        json!({"target": {"device": "box"}, "data": 2, "ttl": 5}).to_string(),
    ]
    .join("\n");
    let headers = [LINES, key, ("ttl", "60"), ("urgency", "high")];
    let (items, _) = lines(&scene.many("?results=all", &headers, body.clone()).await.expect(200));
    assert_eq!((slug(&items[2]), &items[2]["problem"]["field"]), ("invalid-field", &json!("TTL")));
    let waiting = scene.waiting("box").await;
    assert!(
        waiting.len() == 2
            && waiting
                .iter()
                .all(|event| event.event.ttl.as_secs() == 60 && event.event.urgency.as_str() == "high")
    );

    let (again, last) = lines(&scene.many("?results=all", &headers, body).await.expect(200));
    assert_eq!(
        (&again[1]["id"], &again[1]["status"], &last["summary"]["repeated"]),
        (&items[1]["id"], &json!(200), &json!(2))
    );
    // One of them alone.
    let alone = [
        ("content-type", "application/json"),
        ("idempotency-key", "k#1"),
        ("ttl", "60"),
        ("urgency", "high"),
    ];
    let alone = scene.post(&alone, native("box", 1)).await.expect(200).json();
    assert_eq!(alone["id"], items[1]["id"]);
    // Another event under the key of one: that one is refused.
    let other = scene
        .many("", &[LINES, key], [native("box", 5), native("other", 6)].join("\n"))
        .await
        .expect(200)
        .json();
    assert_eq!((slug(&other["failed"][0]), &other["accepted"]), ("key-reused", &json!(1)));

    let refused = async |header: (&str, &str)| scene.many("", &[LINES, header], native("box", 9)).await;
    refused(("ttl", "soon")).await.refused(400, "invalid-field", "TTL");
    refused(("idempotency-key", ""))
        .await
        .refused(400, "invalid-field", "Idempotency-Key");
    for query in ["?results=some", "?results=all&results=all", "?colour=red"] {
        scene.many(query, &[LINES], "").await.refused(400, "invalid-parameter", "");
    }
    let single = ("content-type", "application/json");
    scene
        .many("?results=all", &[single], native("box", 9))
        .await
        .refused(400, "invalid-parameter", "results");
    scene
        .many("", &[("content-type", "application/x-ndjson; charset=utf-16")], "")
        .await
        .refused(415, "unsupported-media-type", "utf-16");
    assert_eq!(scene.numbers("box").await, [0, 1]);
}

#[tokio::test]
async fn validate_only_looks_at_each_and_stores_nothing() {
    let scene = Scene::new().await;
    let told = scene.many("?validate_only=true", &[LINES], mixed()).await.expect(200).json();
    assert_eq!(
        (&told["total"], &told["valid"], &told["targets"], &told["refused"]),
        (&json!(10), &json!(4), &json!(4), &json!(6))
    );
    assert_eq!(slug(&told["failed"][2]), "unknown-device");
    let batch = json!([cloud(0), cloud(1)]).to_string();
    let (items, last) = lines(&scene.many("?validate_only=true&results=all", &[BATCH], batch).await.expect(200));
    assert_eq!(
        (&items[1], &last["summary"]["valid"]),
        (&json!({"index": 1, "status": 200, "targets": 1}), &json!(2))
    );
    assert!(scene.waiting("box").await.is_empty());
}

#[tokio::test]
async fn a_full_queue_is_told_event_by_event() {
    let scene = Scene::with(Limits {
        queue_max_events: 3,
        ..Limits::default()
    })
    .await;
    let body: Vec<String> = (0..6).map(|n| native(if n == 5 { "other" } else { "box" }, n)).collect();
    let (items, _) = lines(&scene.many("?results=errors", &[LINES], body.join("\n")).await.expect(200));
    assert_eq!(items.len(), 2);
    for item in &items {
        assert_eq!(
            (&item["status"], slug(item), &item["retry_after"]),
            (&json!(429), "queue-full", &json!(60))
        );
    }
    assert_eq!((scene.numbers("box").await, scene.numbers("other").await), (vec![0, 1, 2], vec![5]));
}

/// A body that the test sends piece by piece.
fn piecewise() -> (mpsc::UnboundedSender<String>, Body) {
    let (pieces, sent) = mpsc::unbounded_channel::<String>();
    let body = stream::unfold(
        sent,
        |mut sent| async move { Some((Ok::<_, Infallible>(sent.recv().await?), sent)) },
    );
    (pieces, Body::from_stream(body))
}

#[tokio::test]
async fn outcomes_are_told_while_the_request_is_still_sent_and_a_stop_refuses_the_rest() {
    let scene = Scene::new().await;
    let (pieces, body) = piecewise();
    let mut answer = scene.open("/v1/events?results=all", &[LINES], body).await;
    pieces
        .send(format!("{}\n{}\n{{\"target", native("box", 0), native("other", 1)))
        .unwrap();
    let mut told = String::new();
    while told.lines().count() < 2 {
        told.push_str(&answer.piece().await.unwrap());
    }
    scene.draining.store(true, Ordering::Relaxed);
    pieces
        .send(format!("\":{{\"device\":\"box\"}},\"data\":2}}\n{}\n", native("box", 3)))
        .unwrap();
    drop(pieces);
    while let Some(piece) = answer.piece().await {
        told.push_str(&piece);
    }
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let statuses: Vec<_> = told.iter().map(|line| line["status"].as_u64()).collect();
    assert_eq!(statuses, [Some(202), Some(202), Some(503), Some(503), None]);
    assert_eq!((slug(&told[2]), &told[3]["retry_after"]), ("draining", &json!(5)));
    assert_eq!(told[4]["summary"]["total"], 4);
    assert_eq!(scene.numbers("box").await, [0], "what was told is stored, the rest is not");
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_answer_is_not_read_ends_with_a_problem() {
    let scene = Scene::new().await;
    let (pieces, body) = piecewise();
    let mut answer = scene.open("/v1/events?results=errors", &[LINES], body).await;
    // Each piece is told by itself, and nobody reads.
    for _ in 0..50 {
        pieces.send("nonsense\n".into()).unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert!(pieces.send("more\n".into()).is_err(), "the request is not read on");
    let mut told = String::new();
    while let Some(piece) = answer.piece().await {
        told.push_str(&piece);
    }
    let mut told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = told.pop().unwrap();
    assert_eq!((slug(&last), &last["problem"]["status"]), ("answer-unread", &json!(408)));
    let total = last["summary"]["total"].as_u64().unwrap();
    assert!((5..50).contains(&total), "{last}");
    let indexes: Vec<_> = told.iter().map(|item| item["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, (0..total).collect::<Vec<_>>(), "whatever was read is told");
}

#[tokio::test]
async fn a_body_that_breaks_leaves_what_came_before_it() {
    let scene = Scene::new().await;
    let broken = |whole: &str| {
        let pieces = [Ok(whole.to_owned()), Err("cut")];
        Body::from_stream(stream::iter(pieces))
    };
    let told = scene
        .many("", &[LINES], broken(&format!("{}\n{}", native("box", 0), native("box", 1))))
        .await
        .expect(200)
        .json();
    assert_eq!((&told["total"], &told["accepted"]), (&json!(2), &json!(1)));
    assert_eq!((slug(&told), slug(&told["failed"][0])), ("body-broken", "body-broken"));
    assert_eq!(scene.numbers("box").await, [0], "a line without its end may be half a line");
    // Where nothing came, the request itself is refused.
    scene.many("", &[LINES], broken("")).await.refused(400, "body-broken", "");
    scene.many("", &[BATCH], broken("[")).await.refused(400, "body-broken", "");
}

#[tokio::test]
async fn ten_thousand_events_keep_the_order_of_each_device() {
    const DEVICES: usize = 8;
    let scene = Scene::new().await;
    for device in 0..DEVICES {
        scene.send("PUT", &format!("/v1/devices/d{device}"), &json!({})).await.expect(201);
    }
    let mut body = String::new();
    for n in 0..10_000 {
        writeln!(body, "{}", native(&format!("d{}", n * n % 7 % DEVICES), n)).unwrap();
    }
    // Each device takes 2,000; the rest is refused, one by one.
    let told = scene.many("", &[LINES], body).await.expect(200).json();
    let (accepted, refused) = (told["accepted"].as_u64().unwrap(), told["refused"].as_u64().unwrap());
    assert_eq!((accepted + refused, slug(&told["failed"][0])), (10_000, "queue-full"));
    let mut stored = 0;
    for device in 0..DEVICES {
        let numbers = scene.numbers(&format!("d{device}")).await;
        assert!(numbers.is_sorted(), "d{device}: {numbers:?}");
        stored += numbers.len();
    }
    assert!(stored > 0);
}
