//! The door on the real store: who may, what is shown, what is reported.

mod acks;
mod logins;
mod reading;
mod traffic;
mod waiting;

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
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{Config, Door, Parts, PollMetrics, cursor::Vector, routes};
use crate::{
    domain::{
        Carried, Clock, Cohort, Credential, Data, DeviceId, DeviceSignal, Epoch, Event, EventId, Exchange, Generation, ManualClock,
        Password, PollMeter, PollResult, Polled, Poller, Require, ScramSecret, TenantId, Timestamp, Urgency,
    },
    gateway::{Behind, DeviceTokens, Link, Links, Offer},
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
    fn offer_all(&self, arrivals: &[Arrival], _: Timestamp, offers: &mut Vec<Offer>) {
        offers.extend(arrivals.iter().map(|_| Offer::Later));
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
    fn told(&self, _: u32, _: bool) {}

    fn give_up(&self, id: EventId) {
        self.0.lock().retain(|held| *held != id);
    }
}

struct TheLinks(Arc<OneLink>);

impl Links for TheLinks {
    fn displace(&self, _: TenantId, _: &DeviceId, _: Epoch) {}

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
            tokens: DeviceTokens::default(),
            hosts: Arc::new(|host| (host == "localhost").then_some(TENANT)),
            interval_secs: 900,
            ended: Arc::new(move |_, _, _| {
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
            deliver_at: None,
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
