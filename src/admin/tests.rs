//! The door as a client sees it.

use std::time::Duration;

use axum::{body::Body, http::Request};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::ServiceExt;

use super::*;
use crate::{crew::Crew, domain::Timestamp, store::StoreStats};

/// Goes with the time of the runtime, which a test stops and moves.
struct RuntimeClock(Instant);

impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_000_000).plus(self.0.elapsed())
    }
}

fn state(stats: StoreStats, checks: Vec<Check>) -> AdminState {
    let metrics = Metrics::new().expect("no metric twice");
    let clock = Arc::new(RuntimeClock(Instant::now()));
    StoreGauges::register(metrics.registry(), Arc::new(move || stats), Arc::new(|| 3), clock.clone()).expect("registered");
    AdminState {
        metrics,
        readiness: Arc::new(move || checks.clone()),
        domain: "push.example".into(),
        node: "n<1>".into(),
        clock,
        report: Arc::new(|| Box::pin(async { Some(json!({ "validated": false })) })),
    }
}

fn door(stats: StoreStats, checks: Vec<Check>) -> Router {
    let state = state(stats, checks);
    let live = Live::new(state.clone());
    routes(state.clone(), &live).merge(probes(state))
}

async fn ask(door: &Router, path: &str) -> Response {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    door.clone().oneshot(request).await.expect("an answer")
}

async fn get(door: Router, path: &str) -> (u16, String, String) {
    let response = ask(&door, path).await;
    let kind = response.headers()["content-type"].to_str().expect("text").to_owned();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, kind, String::from_utf8(body.to_vec()).expect("UTF-8"))
}

fn stats() -> StoreStats {
    StoreStats {
        queued: Some(12_345),
        oldest_queued_at: Some(Timestamp(400_000)),
        devices: 7,
        disk_bytes: 5_000,
        free_bytes: 6_000,
        writable: true,
        ..StoreStats::default()
    }
}

#[tokio::test(start_paused = true)]
async fn metrics_show_the_store_as_it_is_now() {
    let (status, kind, text) = get(door(stats(), vec![]), "/metrics").await;
    assert_eq!((status, kind.as_str()), (200, TEXT_FORMAT));
    for line in [
        "unpoll_queue_depth 12345",
        "unpoll_oldest_queued_seconds 600",
        "unpoll_devices 7",
        "unpoll_store_disk_bytes 5000",
        "unpoll_store_free_bytes 6000",
        "unpoll_store_writable 1",
        "unpoll_missed_arrivals_total 3",
        "# TYPE unpoll_missed_arrivals_total counter",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
}

#[tokio::test]
async fn what_the_store_has_not_counted_yet_is_not_a_number() {
    let (_, _, text) = get(door(StoreStats::default(), vec![]), "/metrics").await;
    for line in [
        "unpoll_queue_depth NaN",
        "unpoll_oldest_queued_seconds NaN",
        "unpoll_store_writable 0",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
}

#[tokio::test]
async fn one_failed_check_makes_the_service_not_ready_but_alive() {
    let good = Check::new("listeners", true, "5 listen");
    let bad = Check::new("store", false, "no space");
    let (status, _, text) = get(door(stats(), vec![good.clone()]), "/readyz").await;
    assert_eq!(status, 200);
    assert_eq!(
        text,
        r#"{"status":"ready","checks":[{"name":"listeners","ok":true,"detail":"5 listen"}]}"#
    );
    let failing = door(stats(), vec![good, bad]);
    let (status, _, text) = get(failing.clone(), "/readyz").await;
    assert_eq!(status, 503);
    assert!(
        text.starts_with(r#"{"status":"not-ready""#) && text.contains(r#""ok":false,"detail":"no space""#),
        "{text}"
    );
    assert_eq!(
        get(failing, "/healthz").await,
        (200, "application/json".into(), r#"{"status":"ok"}"#.into())
    );
}

#[tokio::test]
async fn the_page_loads_its_own_files_and_nothing_else() {
    let door = door(stats(), vec![]);
    let (mut to_read, mut seen) = (vec!["/".to_owned()], Vec::new());
    while let Some(path) = to_read.pop() {
        let response = ask(&door, &path).await;
        assert_eq!(response.status(), 200, "{path}");
        let policy = response.headers()["content-security-policy"].to_str().expect("text");
        assert!(
            policy.contains("default-src 'none'") && policy.contains("script-src 'self'") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        let tag = response.headers()["etag"].clone();
        let text = String::from_utf8(response.into_body().collect().await.expect("a body").to_bytes().to_vec()).expect("UTF-8");
        let outside = text.replace("http://www.w3.org/2000/svg", "");
        for forbidden in ["http://", "https://", "innerHTML", " style=\"", " onclick=", "eval("] {
            assert!(!outside.contains(forbidden), "{path} has {forbidden}");
        }
        let request = Request::get(path.as_str())
            .header("if-none-match", tag)
            .body(Body::empty())
            .expect("a request");
        assert_eq!(door.clone().oneshot(request).await.expect("an answer").status(), 304, "{path}");
        let links = text
            .split("=\"/assets/")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap_or_default());
        let imports = text
            .split("from \"./")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap_or_default());
        for name in links.chain(imports) {
            let found = format!("/assets/{name}");
            if !seen.contains(&found) {
                seen.push(found.clone());
                to_read.push(found);
            }
        }
    }
    assert!(seen.len() >= 8, "{seen:?}");
}

/// The events of one viewer, as they come.
struct Viewer {
    body: axum::body::BodyDataStream,
    text: String,
}

impl Viewer {
    async fn of(door: &Router) -> Self {
        let response = ask(door, "/live").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            body: response.into_body().into_data_stream(),
            text: String::new(),
        }
    }

    /// The next event's name and data; `None` at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        while !self.text.contains("\n\n") {
            self.text += std::str::from_utf8(&self.body.next().await?.expect("a piece")).expect("UTF-8");
        }
        let (event, rest) = self.text.split_once("\n\n").expect("an event");
        let line = |name: &str| {
            event
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default()
                .to_owned()
        };
        let event = (line("event: "), serde_json::from_str(&line("data: ")).expect("JSON"));
        self.text = rest.to_owned();
        Some(event)
    }

    async fn expect(&mut self, name: &str) -> Value {
        loop {
            let (found, data) = self.next().await.expect("the stream goes on");
            if found == name {
                return data;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_viewer_gets_what_was_before_and_then_each_second() {
    let state = state(stats(), vec![Check::new("store", false, "no space")]);
    let (live, crew) = (Live::new(state.clone()), Crew::default());
    let door = routes(state, &live);
    live.start(&crew);
    tokio::time::sleep(Duration::from_millis(20_500)).await;

    let mut viewer = Viewer::of(&door).await;
    let (name, hello) = viewer.next().await.expect("an event");
    assert_eq!((name.as_str(), &hello["node"]), ("hello", &json!("n<1>")));
    let points = hello["points"].as_array().expect("points");
    assert_eq!(points.len(), 11, "one each 2 s, although nobody watched");
    assert_eq!(points[1][0], 1_002_000);

    let first = viewer.expect("snapshot").await;
    assert_eq!(first["at"], 1_020_000, "the newest there is comes at once");
    assert_eq!((&first["queued"], &first["oldest_seconds"]), (&json!(12_345.0), &json!(620.0)));
    assert_eq!(
        (&first["ready"], &first["checks"][0]["detail"]),
        (&json!(false), &json!("no space"))
    );
    assert_eq!(first["sessions"], Value::Null, "no such metric, no figure");
    for second in 1..=5 {
        assert_eq!(viewer.expect("snapshot").await["at"], 1_020_000 + second * 1_000);
    }
    drop(viewer);
    assert_eq!(
        Viewer::of(&door).await.expect("report").await["validated"],
        false,
        "asked for as soon as somebody watched"
    );
}

#[tokio::test(start_paused = true)]
async fn the_report_is_asked_for_once_a_minute_and_only_while_somebody_watches() {
    let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counter = asked.clone();
    let state = AdminState {
        report: Arc::new(move || {
            let number = counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Box::pin(async move { Some(json!(number)) })
        }),
        ..state(stats(), vec![])
    };
    let (live, crew) = (Live::new(state.clone()), Crew::default());
    let door = routes(state, &live);
    live.start(&crew);
    let asked = || asked.load(std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(asked(), 0);
    let mut viewer = Viewer::of(&door).await;
    for number in 0..3 {
        assert_eq!(viewer.expect("report").await, number);
    }
    assert_eq!(asked(), 3);
    drop(viewer);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn viewers_share_what_is_made_and_are_bounded() {
    let state = state(stats(), vec![]);
    let (live, crew) = (Live::new(state.clone()), Crew::default());
    let door = routes(state, &live);
    live.start(&crew);
    let mut viewers = Vec::new();
    for _ in 0..VIEWERS_MAX {
        viewers.push(Viewer::of(&door).await);
    }
    let one_more = ask(&door, "/live").await;
    assert_eq!(
        (one_more.status().as_u16(), &one_more.headers()["retry-after"]),
        (503, &"10".parse().expect("a value"))
    );
    assert_eq!(one_more.headers()["content-type"], "application/problem+json");
    let said = axum::body::to_bytes(one_more.into_body(), 4_096).await.expect("a body");
    assert!(String::from_utf8_lossy(&said).contains(r#""/problems/too-many-viewers""#));

    let mut texts = Vec::new();
    for viewer in viewers.iter_mut().take(2) {
        viewer.body.next().await;
        while let Some(piece) = viewer.body.next().await {
            let piece = piece.expect("no error");
            if piece.starts_with(b"event: snapshot") {
                texts.push(piece);
                break;
            }
        }
    }
    assert_eq!(texts[0], texts[1]);
    assert!(std::ptr::eq(texts[0].as_ptr(), texts[1].as_ptr()), "one text for all");

    viewers.pop();
    assert_eq!(ask(&door, "/live").await.status(), 200, "who leaves makes room");
}

#[tokio::test(start_paused = true)]
async fn streams_end_when_the_service_stops() {
    let state = state(stats(), vec![]);
    let (live, crew) = (Live::new(state.clone()), Crew::default());
    let door = routes(state, &live);
    live.start(&crew);
    let mut viewer = Viewer::of(&door).await;
    viewer.expect("snapshot").await;
    assert_eq!(crew.dismiss(Instant::now() + Duration::from_secs(5)).await, 0);
    while viewer.next().await.is_some() {}
    let late = ask(&door, "/live").await;
    assert_eq!(late.status(), 503);
}
