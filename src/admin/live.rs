//! `GET /live`: the figures as server-sent events. One task makes them once a second for all who watch.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    AdminState,
    figures::Figures,
    history::{COLUMNS, History, POINTS_MAX, STEP, Totals},
    snapshot::Snapshot,
};
use crate::{crew::Crew, domain::Refusal};

/// How many may watch at once.
pub const VIEWERS_MAX: usize = 64;
/// How often figures are sent.
const PACE: Duration = Duration::from_secs(1);
/// How often the report is asked for, while somebody watches.
const REPORT_EACH: Duration = Duration::from_secs(60);
/// How long it may take.
const REPORT_WITHIN: Duration = Duration::from_secs(30);
/// When a browser that lost its stream, or found no room, is to try again.
const RETRY: Duration = Duration::from_secs(2);

/// The figures of the page, and the task that makes them.
pub struct Live {
    state: AdminState,
    frames: watch::Sender<Arc<Frame>>,
    reports: Arc<watch::Sender<Bytes>>,
    shared: Shared,
}

/// What each request of the page needs.
#[derive(Clone)]
pub(super) struct Shared {
    /// What does not change.
    hello: Arc<Value>,
    frames: watch::Receiver<Arc<Frame>>,
    reports: watch::Receiver<Bytes>,
    rooms: Arc<Semaphore>,
    history: Arc<Mutex<History>>,
}

/// The figures of one second. Their text is made when the first viewer takes it, and shared by all: none watches, none is made.
#[derive(Default)]
struct Frame {
    snapshot: Option<Snapshot>,
    text: OnceLock<Bytes>,
}

impl Frame {
    fn text(&self) -> Bytes {
        let text = || {
            self.snapshot
                .as_ref()
                .map_or_else(Bytes::new, |snapshot| message("snapshot", snapshot))
        };
        self.text.get_or_init(text).clone()
    }
}

impl Live {
    /// The page's figures, not yet running.
    pub fn new(state: AdminState) -> Self {
        let (frames, frames_seen) = watch::channel(Arc::default());
        let (reports, reports_seen) = watch::channel(Bytes::new());
        let hello = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "node": &*state.node,
            "domain": &*state.domain,
            "step_ms": STEP.as_millis() as u64,
            "points_max": POINTS_MAX,
            "columns": COLUMNS,
        });
        Self {
            state,
            frames,
            reports: Arc::new(reports),
            shared: Shared {
                hello: Arc::new(hello),
                frames: frames_seen,
                reports: reports_seen,
                rooms: Arc::new(Semaphore::new(VIEWERS_MAX)),
                history: Arc::default(),
            },
        }
    }

    pub(super) fn shared(&self) -> Shared {
        self.shared.clone()
    }

    /// Makes figures until the crew stops; then all streams end. Should it fail, only the page is without figures.
    pub fn start(self, crew: &Crew) {
        let stop = crew.stop_token();
        let helpers = crew.clone();
        crew.spawn(self.run(helpers, stop));
    }

    async fn run(self, helpers: Crew, stop: CancellationToken) {
        let mut ticks = interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut next_point, mut next_report) = (Instant::now(), Instant::now());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let now = Instant::now();
            let watched = self.shared.rooms.available_permits() < VIEWERS_MAX;
            // Half a pace early is on time: ticks are not exact.
            let point = now + PACE / 2 >= next_point;
            if point {
                next_point = now + STEP;
            }
            if watched || point {
                self.sample(point);
            }
            if watched && now >= next_report {
                next_report = now + REPORT_EACH;
                helpers.spawn(self.report());
            }
        }
    }

    fn sample(&self, point: bool) {
        let at = self.state.clock.now();
        let figures = Figures::new(self.state.metrics.registry().gather());
        let latest = {
            let mut history = self.shared.history.lock();
            if point {
                history.push(Totals::of(&figures, at));
            }
            history.latest()
        };
        let snapshot = Snapshot::of(&figures, &self.state, at, latest);
        self.frames.send_replace(Arc::new(Frame {
            snapshot: Some(snapshot),
            text: OnceLock::new(),
        }));
    }

    /// Asks for the report, and gives it to all who watch.
    fn report(&self) -> impl Future<Output = ()> + Send + 'static {
        let (asked, reports) = ((self.state.report)(), self.reports.clone());
        async move {
            match timeout(REPORT_WITHIN, asked).await {
                Ok(Some(report)) => {
                    reports.send_replace(message("report", &report));
                }
                Ok(None) => {} // who could not make it has logged why
                Err(_) => warn!("the report of polling avoided took longer than {REPORT_WITHIN:?}; the page goes without"),
            }
        }
    }
}

/// The stream of one viewer.
struct Viewer {
    frames: watch::Receiver<Arc<Frame>>,
    reports: watch::Receiver<Bytes>,
    first: Option<Bytes>,
    _room: OwnedSemaphorePermit,
}

/// The handler. A viewer who reads slowly misses seconds instead of making them wait in memory; one who is gone is dropped by
/// the socket's clock (`[http] write_secs`).
pub(super) async fn live(State(shared): State<Shared>) -> Response {
    let room = shared.rooms.clone().try_acquire_owned();
    let ended = shared.frames.has_changed().is_err();
    let (Ok(room), false) = (room, ended) else {
        return refusal(ended).into_response();
    };
    let viewer = shared.viewer(room);
    let stream = stream::unfold(viewer, |mut viewer| async move {
        let text = viewer.next().await?;
        Some((Ok::<_, Infallible>(text), viewer))
    });
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/event-stream"),
        (header::CACHE_CONTROL.as_str(), "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS.as_str(), "nosniff"),
        ("x-accel-buffering", "no"), // a proxy before it must not collect
    ];
    (headers, Body::from_stream(stream)).into_response()
}

fn refusal(ended: bool) -> Refusal {
    let retry_after = RETRY * 5;
    if ended {
        Refusal::Draining { retry_after }
    } else {
        Refusal::TooManyViewers {
            limit: VIEWERS_MAX,
            retry_after,
        }
    }
}

impl Shared {
    fn viewer(mut self, room: OwnedSemaphorePermit) -> Viewer {
        let points = self.history.lock().points();
        let mut hello = Value::clone(&self.hello);
        hello["points"] = json!(points);
        let first = [
            Bytes::from(format!("retry: {}\n", RETRY.as_millis())),
            message("hello", &hello),
            self.reports.borrow_and_update().clone(),
            self.frames.borrow_and_update().text(),
        ];
        Viewer {
            frames: self.frames,
            reports: self.reports,
            first: Some(first.concat().into()),
            _room: room,
        }
    }
}

impl Viewer {
    /// What to send next. `None`: the figures have ended.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        tokio::select! {
            changed = self.frames.changed() => {
                changed.ok()?;
                Some(self.frames.borrow_and_update().text())
            }
            changed = self.reports.changed() => {
                changed.ok()?;
                Some(self.reports.borrow_and_update().clone())
            }
        }
    }
}

/// One server-sent event (HTML, "Server-sent events"). JSON has no line ends of its own.
fn message(event: &str, data: &impl Serialize) -> Bytes {
    match serde_json::to_string(data) {
        Ok(data) => format!("event: {event}\ndata: {data}\n\n").into(),
        Err(error) => {
            warn!(%error, "the page's figures have no JSON form: {error}");
            Bytes::from_static(b": no figures\n\n")
        }
    }
}
