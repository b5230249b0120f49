//! Sessions that stay up while others come back, with events to them.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use loadtest::{
    Error, Options, Poster,
    crowd::Crowd,
    report::{Summary, Times},
};
use serde::Serialize;

use super::{
    board::{body, marker},
    target::Target,
};

/// How often it is looked whether they are logged in.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the sessions that stayed up felt.
#[derive(Clone, Serialize)]
pub struct Quiet {
    pub sessions: u64,
    pub calm: Summary,
    pub storm: Summary,
    pub posted: u64,
    pub applied: u64,
    pub dropped: u64,
}

/// Sessions that stay up, with events to them, on a thread of their own.
pub struct Watcher {
    shared: Arc<Shared>,
    thread: std::thread::JoinHandle<Result<Quiet, Error>>,
}

#[derive(Default)]
struct Shared {
    ready: AtomicBool,
    storm: AtomicBool,
    stop: AtomicBool,
    posted: AtomicU64,
    times: Mutex<[Times; 2]>,
}

impl Watcher {
    /// Logs them in and posts `rate` events a second, to one after the other.
    pub fn start(target: &Target, range: std::ops::Range<u64>, rate: u64) -> Result<Self, Error> {
        let (template, prefix, poster) = (target.recipe.template()?, target.recipe.prefix.clone(), target.poster()?);
        let shared: Arc<Shared> = Arc::default();
        let watched = shared.clone();
        let thread = std::thread::Builder::new().name("quiet".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(watch(&watched, template, &prefix, poster, range, rate))
        })?;
        Ok(Self { shared, thread })
    }

    /// Waits until they are up.
    pub async fn ready(&self) -> Result<(), Error> {
        while !self.shared.ready.load(Relaxed) {
            if self.thread.is_finished() {
                return Err(Error::Machine("the sessions that stay up did not log in".into()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// From now on events count as those of the storm.
    pub fn storm(&self) {
        self.shared.storm.store(true, Relaxed);
    }

    /// Ends it.
    pub fn stop(self) -> Result<Quiet, Error> {
        self.shared.stop.store(true, Relaxed);
        self.thread
            .join()
            .map_err(|_| Error::Machine("the thread of the sessions that stay up failed".into()))?
    }
}

async fn watch(
    shared: &Arc<Shared>,
    template: Options,
    prefix: &str,
    mut poster: Poster,
    range: std::ops::Range<u64>,
    rate: u64,
) -> Result<Quiet, Error> {
    let start = Instant::now();
    let seen = shared.clone();
    let on_event = Arc::new(move |_, event: &loadtest::event::Pushed| {
        let now = start.elapsed();
        if let Some((phase, _, posted)) = marker(&event.json)
            && let Some(times) = seen.times.lock().unwrap_or_else(PoisonError::into_inner).get_mut(phase)
        {
            times.add(now.saturating_sub(Duration::from_nanos(posted)));
        }
    });
    let mut crowd = Crowd::new(template, prefix, on_event);
    crowd.log_in(range.clone(), 16).await?;
    shared.ready.store(true, Relaxed);
    let mut tick = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate.max(1)).unwrap_or(u32::MAX));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (sessions, mut request) = (range.end - range.start, String::new());
    while !shared.stop.load(Relaxed) {
        tick.tick().await;
        let number = shared.posted.load(Relaxed);
        let phase = u8::from(shared.storm.load(Relaxed));
        let device = format!("{prefix}{}", range.start + number % sessions.max(1));
        let mark = format!("~{phase}.{number}.{}~", start.elapsed().as_nanos());
        body(&mut request, &device, &mark, 200);
        let answer = poster.post("/v1/events", request.as_bytes()).await?;
        if answer.status != 202 {
            return Err(Error::Http(format!(
                "POST /v1/events answered {}: {}",
                answer.status,
                answer.text()
            )));
        }
        shared.posted.fetch_add(1, Relaxed);
    }
    let (posted, end) = (shared.posted.load(Relaxed), Instant::now() + Duration::from_secs(10));
    while crowd.seen().applied.load(Relaxed) < posted && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let times = shared.times.lock().unwrap_or_else(PoisonError::into_inner);
    let [calm, storm] = &*times;
    Ok(Quiet {
        sessions,
        calm: calm.summary(),
        storm: storm.summary(),
        posted,
        applied: crowd.seen().applied.load(Relaxed),
        dropped: crowd.seen().dropped.load(Relaxed),
    })
}
