//! Load shedding: what is accepted stays fast, and the rest is refused early, while that is cheap. Requests with many events are not measured
//! and not counted: they wait for room instead.
//!
//! The measure is the time that a posted event waits: for the store, and before that for a processor. The first is measured on each event, the
//! second by a task that sleeps and looks how late it is woken. A queue that only takes up a burst is empty again soon, so the
//! shortest wait within a tenth of a second is short; a queue that stands makes even the shortest wait long (as in CoDel,
//! RFC 8289 §3.1). While it is too long, fewer are let in at once: the bound on those that wait shrinks by a third each tenth of a
//! second, and grows again by a tenth. Whoever finds it reached is refused by the connection, before anything is routed, a key looked
//! up or a body read.
//!
//! To refuse is cheap and not free: it takes a processor as long as a third of an event does. So refusals take turns, as many a second as the settings
//! say, and who is refused waits for its turn on its connection: however many come, saying no costs a part of a processor at most.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    http::{HeaderValue, Method, Request, Response, StatusCode, header},
};
use bytes::Bytes;
use parking_lot::Mutex;
use prometheus::{IntGauge, Registry};
use serde::{Deserialize, Serialize};

use super::{HttpMetrics, problem};
use crate::{crew::Crew, domain::Refusal};

/// How long waits are compared before the bound is set anew.
const WINDOW: Duration = Duration::from_millis(100);
/// What a client is told that is refused.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often it is looked how late a task is woken.
const LOOK: Duration = Duration::from_millis(20);
/// The path whose requests wait for the store, and are shed.
const PATH: &str = "/v1/events";

/// When requests are refused early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long posted events may wait for a processor and for the store, in milliseconds. While even the shortest wait is longer, fewer
    /// are let in at once, and the rest is answered 429 `overloaded` before it is read. 0 turns that off. Default: 100.
    pub wait_target_ms: u64,
    /// The bound on those that wait at once is never set lower, so that the store has enough to write together. Default: 64.
    pub waiting_min: usize,
    /// Posts that are refused early in a second, at most; more wait for their turn on their connections. Each takes some 20 µs of a
    /// processor, so this bounds what it costs to refuse. Default: 2000.
    pub refusals_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            wait_target_ms: 100,
            waiting_min: 64,
            refusals_per_second: 2_000,
        }
    }
}

/// Decides who is let in. Cheap to clone.
#[derive(Clone)]
pub struct Shed(Arc<Inner>);

struct Inner {
    /// Events that wait for the store now.
    waiting: AtomicUsize,
    /// As many may.
    bound: AtomicUsize,
    /// How late a task was woken last, in microseconds: so long what came in waits for a processor.
    late: AtomicU64,
    control: Mutex<Control>,
    turns: Mutex<Turns>,
    gauge: IntGauge,
}

/// Sets the bound. Pure: the caller says what time it is.
#[derive(Debug)]
struct Control {
    target: Duration,
    least: usize,
    most: usize,
    bound: usize,
    window: Option<Window>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    shortest: Duration,
    /// The most that waited at once.
    waited: usize,
}

impl Control {
    /// One of `waiting` has waited that long. Answers the bound from now on.
    fn waited(&mut self, wait: Duration, waiting: usize, now: Instant) -> usize {
        let window = self.window.get_or_insert(Window {
            began: now,
            shortest: wait,
            waited: waiting,
        });
        window.shortest = window.shortest.min(wait);
        window.waited = window.waited.max(waiting);
        if now.saturating_duration_since(window.began) < WINDOW {
            return self.bound;
        }
        self.bound = if window.shortest > self.target && !self.target.is_zero() {
            // From what there was, and not from a bound that nobody reached.
            (self.bound.min(window.waited) * 2 / 3).max(self.least)
        } else {
            (self.bound + (self.bound / 10).max(1)).min(self.most)
        };
        self.window = None;
        self.bound
    }
}

/// When who is refused has its turn. Pure: the caller says what time it is.
#[derive(Debug)]
struct Turns {
    every: Duration,
    next: Option<Instant>,
}

impl Turns {
    /// How long the next one waits for its turn.
    fn take(&mut self, now: Instant) -> Duration {
        let turn = self.next.map_or(now, |next| next.max(now));
        self.next = Some(turn + self.every);
        turn.saturating_duration_since(now)
    }
}

impl Shed {
    /// `most` may wait at any time. Registers `unpoll_events_waiting_max`.
    ///
    /// # Errors
    /// When the metric is registered already.
    pub fn new(config: &Config, most: usize, registry: &Registry) -> prometheus::Result<Self> {
        let gauge = IntGauge::new(
            "unpoll_events_waiting_max",
            "Events of requests with one that may wait for the store at once now; more are refused. It falls while the store is slow.",
        )?;
        registry.register(Box::new(gauge.clone()))?;
        let most = most.max(1);
        gauge.set(i64::try_from(most).unwrap_or(i64::MAX));
        Ok(Self(Arc::new(Inner {
            waiting: AtomicUsize::new(0),
            bound: AtomicUsize::new(most),
            late: AtomicU64::new(0),
            control: Mutex::new(Control {
                target: Duration::from_millis(config.wait_target_ms),
                least: config.waiting_min.clamp(1, most),
                most,
                bound: most,
                window: None,
            }),
            turns: Mutex::new(Turns {
                every: Duration::from_secs(1) / config.refusals_per_second.max(1),
                next: None,
            }),
            gauge,
        })))
    }

    /// So many events begin to wait for the store; drop it when they have their answer. Nothing is refused here: who comes that far
    /// was let in.
    pub fn wait(&self, events: usize) -> Waiting {
        self.0.waiting.fetch_add(events, Ordering::Relaxed);
        Waiting {
            shed: self.clone(),
            events,
            since: Instant::now(),
        }
    }

    /// A task was woken so late.
    fn woken(&self, late: Duration) {
        let micros = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        self.0.late.store(micros, Ordering::Relaxed);
    }

    /// Whether nobody else is let in now.
    fn full(&self) -> bool {
        self.0.waiting.load(Ordering::Relaxed) >= self.0.bound.load(Ordering::Relaxed)
    }
}

/// Events that wait for the store.
pub struct Waiting {
    shed: Shed,
    events: usize,
    since: Instant,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let inner = &*self.shed.0;
        let waiting = inner.waiting.fetch_sub(self.events, Ordering::Relaxed);
        let now = Instant::now();
        let wait = now.saturating_duration_since(self.since) + Duration::from_micros(inner.late.load(Ordering::Relaxed));
        let bound = inner.control.lock().waited(wait, waiting, now);
        if inner.bound.swap(bound, Ordering::Relaxed) != bound {
            inner.gauge.set(i64::try_from(bound).unwrap_or(i64::MAX));
        }
    }
}

/// What connections ask before they read on. Cheap to clone.
#[derive(Clone)]
pub struct Shedding {
    shed: Shed,
    metrics: HttpMetrics,
}

impl Shedding {
    /// Refuses as `shed` says, and counts that.
    pub fn new(shed: Shed, metrics: HttpMetrics) -> Self {
        Self { shed, metrics }
    }

    /// Keeps looking how long what comes in waits for a processor, until the crew stops.
    pub fn watch(&self, crew: &Crew) {
        let (shed, stop) = (self.shed.clone(), crew.stop_token());
        crew.spawn(async move {
            loop {
                let due = tokio::time::Instant::now() + LOOK;
                if stop.run_until_cancelled(tokio::time::sleep_until(due)).await.is_none() {
                    return;
                }
                shed.woken(due.elapsed());
            }
        });
    }

    /// The answer to a request that is not let in, once it has its turn.
    pub(super) async fn refuse<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        if !self.shed.full() || request.method() != Method::POST || request.uri().path() != PATH {
            return None;
        }
        let wait = self.shed.0.turns.lock().take(Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        self.metrics.answered(Some(PATH), Some("overloaded"), wait);
        Some(refusal())
    }
}

/// The same every time, so it is made once.
fn refusal() -> Response<Body> {
    static BODY: LazyLock<Bytes> = LazyLock::new(|| {
        let refusal = Refusal::Overloaded { retry_after: RETRY_AFTER };
        serde_json::Value::Object(problem(&refusal)).to_string().into()
    });
    let mut response = Response::new(Body::from(BODY.clone()));
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER.as_secs()));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> Control {
        Control {
            target: Duration::from_millis(50),
            least: 8,
            most: 1_000,
            bound: 1_000,
            window: None,
        }
    }

    /// Lets waits of that length end for a second, a millisecond apart.
    fn second(control: &mut Control, start: Instant, from: u64, wait: Duration) -> usize {
        for milli in 0..1_000 {
            let waiting = control.bound.min(600);
            control.waited(wait, waiting, start + Duration::from_millis(from * 1_000 + milli));
        }
        control.bound
    }

    #[test]
    fn a_queue_that_stands_shrinks_the_bound_and_a_short_one_lets_it_grow() {
        let (mut control, start) = (control(), Instant::now());
        assert_eq!(second(&mut control, start, 0, Duration::from_millis(10)), 1_000);
        let shrunk = second(&mut control, start, 1, Duration::from_millis(60));
        assert!((8..60).contains(&shrunk), "{shrunk}");
        let least = second(&mut control, start, 2, Duration::from_millis(60));
        assert_eq!(least, 8);
        let grown = second(&mut control, start, 3, Duration::from_millis(10));
        assert!((16..60).contains(&grown), "{grown}");
    }

    #[test]
    fn one_short_wait_shows_that_nothing_stands() {
        let (mut control, start) = (control(), Instant::now());
        for milli in 0..1_000 {
            let wait = if milli % 50 == 0 { 1 } else { 200 };
            control.waited(Duration::from_millis(wait), 600, start + Duration::from_millis(milli));
        }
        assert_eq!(control.bound, 1_000);
    }

    #[test]
    fn without_a_target_the_bound_stays() {
        let (mut control, start) = (control(), Instant::now());
        control.target = Duration::ZERO;
        assert_eq!(second(&mut control, start, 0, Duration::from_secs(9)), 1_000);
    }

    fn shedding(most: usize) -> (Shed, Shedding) {
        let registry = Registry::new();
        let shed = Shed::new(&Config::default(), most, &registry).unwrap();
        let metrics = HttpMetrics::register(&registry).unwrap();
        (shed.clone(), Shedding::new(shed, metrics))
    }

    fn request(method: &str) -> Request<()> {
        Request::builder().method(method).uri(PATH).body(()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_is_refused_and_only_when_it_posts() {
        let (shed, shedding) = shedding(2);
        let ask = async |method: &str| shedding.refuse(&request(method)).await;
        let one = shed.wait(1);
        assert!(ask("POST").await.is_none());
        let two = shed.wait(1);
        let refused = ask("POST").await.unwrap();
        assert_eq!(refused.status(), 429);
        assert_eq!(refused.headers()["retry-after"], "1");
        let body = axum::body::to_bytes(refused.into_body(), 4096).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["type"], &body["status"]), (&"/problems/overloaded".into(), &429.into()));
        assert!(ask("GET").await.is_none());
        drop((one, two));
        assert!(ask("POST").await.is_none());
    }

    #[test]
    fn refusals_take_turns_and_what_nobody_took_is_not_saved_up() {
        let (every, start) = (Duration::from_millis(10), Instant::now());
        let mut turns = Turns { every, next: None };
        let waits: Vec<_> = (0..4).map(|_| turns.take(start)).collect();
        assert_eq!(waits, [0, 1, 2, 3].map(|turn| every * turn));
        assert_eq!(turns.take(start + every), every * 3);
        let later = start + Duration::from_secs(5);
        assert_eq!([turns.take(later), turns.take(later)], [Duration::ZERO, every]);
    }

    #[test]
    fn a_long_wait_for_a_processor_shrinks_the_bound_as_one_for_the_store_does() {
        let (shed, _) = shedding(1_000);
        let began = Instant::now();
        let wait_for = |done: &dyn Fn(usize) -> bool| {
            while !done(shed.0.bound.load(Ordering::Relaxed)) {
                assert!(began.elapsed() < Duration::from_secs(60), "the bound stays at {:?}", shed.0.bound);
                drop((shed.wait(600), std::thread::sleep(Duration::from_millis(1))));
            }
        };
        shed.woken(Duration::from_millis(150));
        wait_for(&|bound| bound < 300);
        shed.woken(Duration::ZERO);
        wait_for(&|bound| bound > 300);
    }
}
