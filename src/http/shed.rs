//! Load shedding: what is accepted stays fast, and the rest is refused early, while that is cheap.
//!
//! The measure is the time that requests wait for the store. A queue that only takes up a burst is empty again soon, so the
//! shortest wait within a tenth of a second is short; a queue that stands makes even the shortest wait long (as in CoDel,
//! RFC 8289 §3.1). While it is too long, fewer are let in at once: the bound on those that wait shrinks by a third each tenth of a
//! second, and grows again by a tenth. Whoever finds it reached is refused before its key is looked up or its body read.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderValue, Method, Request, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use parking_lot::Mutex;
use prometheus::{IntGauge, Registry};
use serde::{Deserialize, Serialize};

use super::{HttpMetrics, problem};
use crate::domain::Refusal;

/// How long waits are compared before the bound is set anew.
const WINDOW: Duration = Duration::from_millis(100);
/// What a client is told that is refused.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The path whose requests wait for the store, and are shed.
const PATH: &str = "/v1/events";

/// When requests are refused early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long posted events may wait for the store, in milliseconds. While even the shortest wait is longer, fewer are let in at
    /// once, and the rest is answered 429 `overloaded` before it is read. 0 turns that off. Default: 100.
    pub wait_target_ms: u64,
    /// The bound on those that wait at once is never set lower, so that the store has enough to write together. Default: 64.
    pub waiting_min: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            wait_target_ms: 100,
            waiting_min: 64,
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
    control: Mutex<Control>,
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

impl Shed {
    /// `most` may wait at any time. Registers `unpoll_events_waiting_max`.
    ///
    /// # Errors
    /// When the metric is registered already.
    pub fn new(config: &Config, most: usize, registry: &Registry) -> prometheus::Result<Self> {
        let gauge = IntGauge::new(
            "unpoll_events_waiting_max",
            "Posted events that may wait for the store at once now; more are refused. It falls while the store is slow.",
        )?;
        registry.register(Box::new(gauge.clone()))?;
        let most = most.max(1);
        gauge.set(i64::try_from(most).unwrap_or(i64::MAX));
        Ok(Self(Arc::new(Inner {
            waiting: AtomicUsize::new(0),
            bound: AtomicUsize::new(most),
            control: Mutex::new(Control {
                target: Duration::from_millis(config.wait_target_ms),
                least: config.waiting_min.clamp(1, most),
                most,
                bound: most,
                window: None,
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
        let bound = inner.control.lock().waited(now.saturating_duration_since(self.since), waiting, now);
        if inner.bound.swap(bound, Ordering::Relaxed) != bound {
            inner.gauge.set(i64::try_from(bound).unwrap_or(i64::MAX));
        }
    }
}

/// Puts the shedding before everything else, the gate included.
pub fn shedding(routes: Router, shed: Shed, metrics: HttpMetrics) -> Router {
    routes.layer(middleware::from_fn_with_state((shed, metrics), pass))
}

async fn pass(State((shed, metrics)): State<(Shed, HttpMetrics)>, request: Request<Body>, next: Next) -> Response {
    if shed.full() && request.method() == Method::POST && request.uri().path() == PATH {
        metrics.answered(Some(PATH), Some("overloaded"), Duration::ZERO);
        return refusal();
    }
    next.run(request).await
}

/// The same every time, so it is made once.
fn refusal() -> Response {
    static BODY: LazyLock<Bytes> = LazyLock::new(|| {
        let refusal = Refusal::Overloaded { retry_after: RETRY_AFTER };
        serde_json::Value::Object(problem(&refusal)).to_string().into()
    });
    let mut response = (StatusCode::TOO_MANY_REQUESTS, BODY.clone()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER.as_secs()));
    response
}

#[cfg(test)]
mod tests {
    use axum::routing::post;
    use tower::ServiceExt;

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

    #[tokio::test]
    async fn who_finds_no_room_is_refused_before_the_gate_and_only_when_it_posts() {
        let registry = Registry::new();
        let shed = Shed::new(&Config::default(), 2, &registry).unwrap();
        let metrics = HttpMetrics::register(&registry).unwrap();
        let routes = Router::new().route(PATH, post(async || "in").get(async || "in"));
        let routes = shedding(routes, shed.clone(), metrics);
        let ask = async |method: &str| {
            let request = Request::builder().method(method).uri(PATH).body(Body::empty()).unwrap();
            routes.clone().oneshot(request).await.unwrap()
        };
        let one = shed.wait(1);
        assert_eq!(ask("POST").await.status(), 200);
        let two = shed.wait(1);
        let refused = ask("POST").await;
        assert_eq!(refused.status(), 429);
        assert_eq!(refused.headers()["retry-after"], "1");
        let body = axum::body::to_bytes(refused.into_body(), 4096).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["type"], &body["status"]), (&"/problems/overloaded".into(), &429.into()));
        assert_eq!(ask("GET").await.status(), 200);
        drop((one, two));
        assert_eq!(ask("POST").await.status(), 200);
    }
}
