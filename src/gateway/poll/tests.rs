//! The door on the real store: who may, what is shown, what is reported.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, http::Request};
use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{Config, Door, Parts, PollMetrics, cursor::Vector, routes};
use crate::{
    crew::Crew,
    domain::{
        Carried, Clock, Cohort, Credential, Data, DeviceId, DeviceSignal, Epoch, Event, EventId, Exchange, Generation, ManualClock,
        Password, PollMeter, PollResult, Polled, Poller, Require, ScramSecret, TenantId, Timestamp, Urgency,
    },
    gateway::{Behind, Link, Links, Offer},
    http::{self, HttpMetrics},
    store::{
        Arrival, DeviceChange, DeviceKey, Mailbox, NewEvent, QueuedEvent, Registry,
        embedded::{self, EmbeddedStore},
    },
};

const START: Timestamp = Timestamp(1_800_000_000_000);
const TENANT: TenantId = TenantId(0);

fn key(device: &str) -> DeviceKey {
    DeviceKey {
        tenant: TENANT,
        device: device.parse().unwrap(),
    }
}

/// What the ledger was told.
#[derive(Default)]
struct Notes {
    polls: Mutex<Vec<(Poller, Polled)>>,
    delivered: Mutex<Vec<(Timestamp, Timestamp, Timestamp)>>,
    traffic: Mutex<Vec<(Exchange, Carried, Carried, u64)>>,
}

impl PollMeter for Notes {
    fn polled(&self, poller: &Poller, poll: Polled) {
        self.polls.lock().push((poller.clone(), poll));
    }

    fn poll_delivered(&self, _: &Poller, accepted_at: Timestamp, expires_at: Timestamp, now: Timestamp) {
        self.delivered.lock().push((accepted_at, expires_at, now));
    }

    fn poll_traffic(&self, _: &Poller, exchange: Exchange, inward: Carried, outward: Carried, payload: u64) {
        self.traffic.lock().push((exchange, inward, outward, payload));
    }
}

/// One session, of `box`, that holds some events.
#[derive(Default)]
struct OneLink(Mutex<Vec<EventId>>);

impl Link for OneLink {
    fn epoch(&self) -> Epoch {
        Epoch(7)
    }
    fn offer(&self, _: &Arc<QueuedEvent>, _: Timestamp) -> Offer {
        Offer::Later
    }
    fn behind(&self) -> Option<Behind> {
        None
    }
    fn refill(&self, _: &Arc<QueuedEvent>, _: Timestamp) -> Offer {
        Offer::Later
    }
    fn caught_up(&self, _: u64) -> bool {
        false
    }
    fn holds(&self, id: EventId) -> bool {
        self.0.lock().contains(&id)
    }
    fn give_up(&self, id: EventId) {
        self.0.lock().retain(|held| *held != id);
    }
}

struct TheLinks(Arc<OneLink>);

impl Links for TheLinks {
    fn link(&self, _: TenantId, device: &DeviceId) -> Option<Arc<dyn Link>> {
        (device.as_str() == "box").then(|| self.0.clone() as Arc<dyn Link>)
    }
    fn all(&self) -> Vec<(TenantId, DeviceId, Arc<dyn Link>)> {
        Vec::new()
    }
    fn dismiss(&self, _: TenantId, _: &DeviceId, _: Epoch) {}
}

struct Scene {
    store: Arc<EmbeddedStore>,
    clock: Arc<ManualClock>,
    notes: Arc<Notes>,
    link: Arc<OneLink>,
    signals: mpsc::Receiver<DeviceSignal>,
    counted: Arc<AtomicU64>,
    metrics: prometheus::Registry,
    stop: CancellationToken,
    router: Router,
    _arrivals: mpsc::Receiver<Arrival>,
    _folder: tempfile::TempDir,
}

struct Answer {
    status: u16,
    headers: axum::http::HeaderMap,
    body: Value,
}

impl Answer {
    #[track_caller]
    fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    fn ids(&self) -> Vec<&str> {
        let events = self.body["events"].as_array().unwrap();
        events.iter().map(|event| event["id"].as_str().unwrap()).collect()
    }

    fn next(&self) -> &str {
        self.body["next"].as_str().unwrap()
    }
}

fn open(folder: &tempfile::TempDir, clock: Arc<ManualClock>) -> (Arc<EmbeddedStore>, mpsc::Receiver<Arrival>) {
    let config = embedded::Config {
        data_dir: folder.path().into(),
        ..embedded::Config::default()
    };
    EmbeddedStore::open(config, crate::domain::Limits::default(), clock).unwrap()
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

impl Scene {
    /// With the devices `box` and `other`, whose password is `secret`.
    async fn new(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(START);
        let (store, arrivals) = open(&folder, clock.clone());
        let (sender, signals) = mpsc::channel(8);
        let metrics = prometheus::Registry::new();
        let (notes, link, counted) = (Arc::<Notes>::default(), Arc::<OneLink>::default(), Arc::<AtomicU64>::default());
        let (count, stop) = (counted.clone(), CancellationToken::new());
        let parts = Parts {
            store: store.clone(),
            links: Arc::new(TheLinks(link.clone())),
            signals: sender,
            meter: notes.clone(),
            clock: clock.clone(),
            metrics: PollMetrics::register(&metrics).unwrap(),
            hosts: Arc::new(|host| (host == "localhost").then_some(TENANT)),
            interval_secs: 900,
            delivered: Arc::new(move |_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            }),
            stop: stop.clone(),
        };
        let scene = Self {
            store,
            clock,
            notes,
            link,
            signals,
            counted,
            metrics,
            stop,
            router: routes(Door::new(config, parts).unwrap()),
            _arrivals: arrivals,
            _folder: folder,
        };
        for device in ["box", "other"] {
            scene.password(device, "secret").await;
        }
        scene
    }

    async fn password(&self, device: &str, password: &str) {
        let secret = ScramSecret::derive(&Password(password.into()), 4_096).unwrap();
        let change = DeviceChange {
            credentials: Some(vec![Credential::Scram(secret)]),
            ..DeviceChange::default()
        };
        self.change(device, change).await;
    }

    async fn change(&self, device: &str, change: DeviceChange) {
        self.store.put_device(&key(device), change, true, self.clock.now()).await.unwrap();
    }

    async fn push(&self, device: &str, urgency: Urgency, json: &str) -> String {
        let event = Event {
            tenant: TENANT,
            device: device.parse().unwrap(),
            accepted_at: self.clock.now(),
            ttl: Duration::from_secs(3_600),
            urgency,
            collapse_key: None,
            require: Require::default(),
            json: Data(json.into()),
        };
        let new = NewEvent { event, idempotency: None };
        self.store.enqueue(vec![new]).await.remove(0).unwrap().id.to_string()
    }

    async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("/v1/devices/{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_string())).unwrap();
        let (head, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        }
    }

    async fn poll(&self, query: &str) -> Answer {
        let credentials = basic("box@localhost", "secret");
        let headers = [("authorization", credentials.as_str())];
        self.request("GET", &format!("box/events?{query}"), &headers, &Value::Null).await
    }

    async fn acks(&self, body: Value) -> Answer {
        let credentials = basic("box", "secret");
        self.request("POST", "box/acks", &[("authorization", &credentials)], &body).await
    }

    /// The status of a poll of `box` by that user with that password.
    async fn logs_in(&self, user: &str, password: &str) -> u16 {
        let credentials = basic(user, password);
        self.request("GET", "box/events", &[("authorization", &credentials)], &Value::Null)
            .await
            .status
    }

    fn metric(&self, line: &str) -> u64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.metrics.gather()).unwrap();
        let found = text.lines().find_map(|found| found.strip_prefix(line)).unwrap();
        found.trim().parse().unwrap()
    }

    fn logins(&self, result: &str) -> u64 {
        self.metric(&format!("unpoll_poll_logins_total{{result=\"{result}\"}}"))
    }

    fn results(&self) -> Vec<PollResult> {
        self.notes.polls.lock().iter().map(|(_, poll)| poll.result).collect()
    }
}

#[tokio::test]
async fn a_password_is_checked_once_and_then_known_until_its_time_is_over() {
    let scene = Scene::new(Config::default()).await;
    for _ in 0..5 {
        assert_eq!(scene.logs_in("box@LOCALHOST", "secret").await, 200);
    }
    assert_eq!(scene.logs_in("box", "secret").await, 200, "the id alone, in the default tenant");
    assert_eq!((scene.logins("checked"), scene.logins("known")), (1, 5));
    assert_eq!(scene.logs_in("box@localhost", "secreT").await, 401, "what is known is one password");
    scene.clock.advance(Duration::from_secs(599));
    scene.logs_in("box", "secret").await;
    assert_eq!(scene.logins("checked"), 1);
    scene.clock.advance(Duration::from_secs(1));
    assert_eq!(scene.logs_in("box", "secret").await, 200);
    assert_eq!((scene.logins("checked"), scene.logins("wrong")), (2, 1));
}

#[tokio::test]
async fn a_changed_password_or_a_removed_device_ends_what_was_known_at_once() {
    let scene = Scene::new(Config::default()).await;
    assert_eq!(scene.logs_in("box", "secret").await, 200);
    scene.password("box", "changed").await;
    assert_eq!(scene.logs_in("box", "secret").await, 401);
    assert_eq!(scene.logs_in("box", "changed").await, 200);
    scene.store.remove_device(&key("box"), START).await.unwrap();
    assert_eq!(scene.logs_in("box", "changed").await, 401, "as a name that never was");
    scene.password("box", "anew").await;
    assert_eq!(scene.logs_in("box", "changed").await, 401);
    assert_eq!(scene.logs_in("box", "anew").await, 200);
    let nobody = DeviceChange {
        credentials: Some(Vec::new()),
        ..DeviceChange::default()
    };
    scene.change("box", nobody).await;
    assert_eq!(scene.logs_in("box", "anew").await, 401);
}

#[tokio::test]
async fn who_is_not_the_device_is_told_nothing_about_it() {
    let scene = Scene::new(Config::default()).await;
    let check = async |headers: &[(&str, &str)], path: &str, status, slug: &str| {
        let answer = scene.request("GET", path, headers, &Value::Null).await;
        assert_eq!(
            (answer.status, answer.body["type"].as_str()),
            (status, Some(format!("/problems/{slug}").as_str())),
            "{headers:?} {path}"
        );
        answer
    };
    let challenged = check(&[], "box/events", 401, "wrong-credentials").await;
    assert_eq!(challenged.headers["www-authenticate"], "Basic realm=\"unpoll\", charset=\"UTF-8\"");
    for header in ["Bearer secret", "Basic", "Basic %%%", "Basic Ym94", "Basic /w==", ""] {
        check(&[("authorization", header)], "box/events", 401, "wrong-credentials").await;
    }
    let (right, other) = (basic("box", "secret"), basic("other@localhost", "secret"));
    let twice = [("authorization", right.as_str()), ("authorization", right.as_str())];
    check(&twice, "box/events", 401, "wrong-credentials").await;
    for (user, password) in [
        ("box", "wrong"),
        ("box", ""),
        ("box@elsewhere", "secret"),
        ("box@localhost/there", "secret"),
        ("nobody", "secret"),
        ("no body", "secret"),
        ("", ""),
    ] {
        check(&[("authorization", &basic(user, password))], "box/events", 401, "wrong-credentials").await;
    }
    check(&[("authorization", &other)], "box/events", 403, "other-device").await;
    check(&[("authorization", &other)], "%ff/events", 404, "unknown-path").await;
    check(&[("authorization", &other)], "BOX/events", 403, "other-device").await;
    let folded = scene.request("GET", "BOX/events", &[("authorization", &right)], &Value::Null).await;
    assert_eq!(folded.status, 200);
    let head = scene
        .request("HEAD", "box/events", &[("authorization", &right)], &Value::Null)
        .await;
    assert_eq!((head.status, &head.body), (200, &Value::Null));
    // Of those, the ledger hears only what named a device that there is.
    let polls = scene.notes.polls.lock();
    let wrong = polls
        .iter()
        .filter(|(poller, poll)| poller.device.as_str() == "box" && poll.result == PollResult::Error);
    assert_eq!(wrong.count(), 2);
}

#[tokio::test]
async fn after_too_many_wrong_passwords_only_a_known_one_is_taken() {
    let config = Config {
        wrong_passwords_max: 3,
        ..Config::default()
    };
    let scene = Scene::new(config).await;
    assert_eq!(scene.logs_in("box", "secret").await, 200);
    for _ in 0..3 {
        assert_eq!(scene.logs_in("box", "guess").await, 401);
        assert_eq!(scene.logs_in("nobody", "guess").await, 401);
    }
    let checks = scene.logins("wrong");
    assert_eq!(
        (scene.logs_in("box", "guess").await, scene.logs_in("nobody", "guess").await),
        (429, 429)
    );
    assert_eq!((scene.logins("wrong"), scene.logins("refused")), (checks, 2), "no CPU was spent");
    assert_eq!(scene.logs_in("box", "secret").await, 200, "the device itself polls on");
    scene.clock.advance(Duration::from_secs(60));
    assert_eq!(scene.logs_in("box", "guess").await, 401);
}

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
        (json!({}), "missing-field", "ids or upto"),
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

#[tokio::test]
async fn a_long_poll_is_woken_by_its_event_and_by_nothing_else() {
    let scene = Arc::new(Scene::new(Config::default()).await);
    let polling = scene.clone();
    let poll = tokio::spawn(async move { polling.poll("wait=60").await });
    until(|| scene.metric("unpoll_polls_waiting") == 1).await;
    scene.push("other", Urgency::Normal, "{}").await;
    let id = scene.push("box", Urgency::Normal, "{}").await;
    let answer = tokio::time::timeout(Duration::from_secs(4), poll)
        .await
        .expect("before it looks again")
        .unwrap();
    assert_eq!((answer.ids(), &answer.body["poll_after_seconds"]), (vec![id.as_str()], &json!(0)));
    assert!(scene.notes.polls.lock()[0].1.long);
    assert_eq!(scene.metric("unpoll_polls_waiting"), 0);
    let asked = scene.poll("wait=60").await.expect(200);
    assert_eq!(asked.ids(), [&id], "what waits already is shown at once");
}

#[tokio::test]
async fn long_polls_have_bounds_and_end_with_their_time_their_credentials_and_the_service() {
    let scene = Arc::new(
        Scene::new(Config {
            waits_max: 3,
            waits_per_device_max: 2,
            ..Config::default()
        })
        .await,
    );
    let wait = |scene: &Arc<Scene>| {
        let scene = scene.clone();
        tokio::spawn(async move { scene.poll("wait=60").await })
    };
    let (first, second) = (wait(&scene), wait(&scene));
    until(|| scene.metric("unpoll_polls_waiting") == 2).await;
    let refused = scene.poll("wait=60").await.expect(429);
    assert_eq!(refused.headers["retry-after"], "10");
    assert_eq!(scene.poll("").await.status, 200, "a short poll needs no place");
    scene.password("box", "changed").await;
    assert_eq!((first.await.unwrap().status, second.await.unwrap().status), (401, 401));
    scene.password("box", "secret").await;
    let short = scene.poll("wait=1").await.expect(200);
    assert!(short.ids().is_empty());
    let last = wait(&scene);
    until(|| scene.metric("unpoll_polls_waiting") == 1).await;
    scene.stop.cancel();
    let ended = last.await.unwrap().expect(200);
    assert_eq!((ended.ids().len(), &ended.body["poll_after_seconds"]), (0, &json!(5)));
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

/// Over a real socket: what the ledger is charged is what the client saw.
#[tokio::test]
async fn each_exchange_is_charged_what_its_socket_carried() {
    let scene = Scene::new(Config::default()).await;
    let id = scene.push("box", Urgency::Normal, r#"{"specversion":"1.0"}"#).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, crew) = (listener.local_addr().unwrap(), Crew::default());
    let metrics = HttpMetrics::register(&prometheus::Registry::new()).unwrap();
    let router = http::mount_beside(
        Router::new().route("/gated", axum::routing::get(async || "")),
        scene.router.clone(),
        Arc::new(|_| None),
        metrics,
    );
    http::serve(listener, None, router, http::Config::default(), &crew);
    let mut socket = TcpStream::connect(address).await.unwrap();
    let credentials = basic("box@localhost", "secret");
    let head = |line: &str| format!("{line} HTTP/1.1\r\nhost: x\r\nauthorization: {credentials}\r\n");
    let body = json!({ "ids": [id] }).to_string();
    let requests = [
        head("GET /v1/devices/box/events") + "\r\n",
        head("GET /gated") + "\r\n",
        head("POST /v1/devices/box/acks") + &format!("content-length: {}\r\n\r\n{body}", body.len()),
        head("GET /v1/devices/box/events") + "\r\n",
    ];
    let mut answers = Vec::new();
    for request in &requests {
        socket.write_all(request.as_bytes()).await.unwrap();
        answers.push(read_answer(&mut socket).await);
    }
    assert_eq!(scene.notes.traffic.lock().len(), 2, "the last is not over yet");
    drop(socket);
    until(|| scene.notes.traffic.lock().len() == 3).await;
    let traffic = scene.notes.traffic.lock().clone();
    let expected = [
        (Exchange::Poll(PollResult::Events), 0, r#"{"specversion":"1.0"}"#.len()),
        (Exchange::Acks, 2, 0),
        (Exchange::Poll(PollResult::Empty), 3, 0),
    ];
    for ((exchange, inward, outward, payload), (expected, at, events)) in traffic.iter().zip(expected) {
        assert_eq!((*exchange, *payload), (expected, events as u64));
        assert_eq!(
            (inward.bytes, outward.bytes),
            (requests[at].len() as u64, answers[at] as u64),
            "{exchange:?}"
        );
        assert!(inward.packets >= 1 && outward.packets >= 1);
    }
    assert_eq!((traffic[0].1.packets, traffic[0].2.packets), (3, 2), "with the handshake of TCP");
    assert!(scene.logins("checked") == 1 && scene.results() == [PollResult::Events, PollResult::Empty]);
}

/// Reads one answer with a length; gives its size.
async fn read_answer(socket: &mut TcpStream) -> usize {
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = socket.read(&mut piece).await.unwrap();
        assert!(read > 0, "the connection is kept");
        answer.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&answer).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1).unwrap();
            if body.len() >= length.split("\r\n").next().unwrap().parse().unwrap() {
                return answer.len();
            }
        }
    }
}

/// Waits until a fact holds that ought to hold soon.
async fn until(fact: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if fact() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came");
}
