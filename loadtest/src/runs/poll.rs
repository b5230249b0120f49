//! `loadtest poll`: what a poll costs the server, in four ways; the other side of what push avoids.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use loadtest::{
    Answer, Door, Error, Poller, Traffic,
    process::{self, Machine},
    report::Times,
};
use serde::Serialize;
use tokio::task::JoinSet;

use super::{
    poll_report::{Asked, Report, Shares, Turn},
    target::{Place, Target},
};

/// Counts passwords that were checked anew (PBKDF2).
const CHECKED: &str = "unpoll_poll_logins_total{result=\"checked\"}";

/// How a box polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// A new connection with a full TLS handshake for each poll, closed in good order.
    Cold,
    /// A new connection that resumes a TLS session for each poll.
    Resumed,
    /// One connection for all polls; 200 without events.
    Kept,
    /// The same with the entity tag of the answer before; 304.
    Unchanged,
}

impl Way {
    fn connects(self) -> bool {
        matches!(self, Self::Cold | Self::Resumed)
    }

    fn status(self) -> u16 {
        if self == Self::Unchanged { 304 } else { 200 }
    }
}

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub place: Place,
    /// How many boxes; at most `--at-once` of them poll at the same time.
    #[arg(long, default_value_t = 50)]
    boxes: u64,
    /// How many polls are measured of each way.
    #[arg(long, default_value_t = 50_000)]
    polls: u64,
    /// The ways.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "cold,resumed,kept,unchanged")]
    ways: Vec<Way>,
    /// Each request has a cookie of so many bytes, as the requests of many boxes have.
    #[arg(long, default_value_t = 0)]
    cookie: usize,
}

/// One box, and what it knows.
struct Boxed {
    poller: Poller,
    etag: Option<String>,
}

/// What the boxes of one worker saw.
#[derive(Default)]
struct Seen {
    times: Times,
    traffic: Traffic,
    statuses: BTreeMap<u16, u64>,
    failed: BTreeMap<String, u64>,
    resumed: u64,
    wrong: u64,
}

/// Runs it. False when a poll was not answered as it should be, or not over the connection that it should use.
pub async fn run(arguments: Arguments) -> Result<bool, Error> {
    process::allow_files(arguments.boxes)?;
    let rooms = arguments.boxes.saturating_add(64).max(1024);
    let target = arguments
        .place
        .target_with(&[("UNPOLL_HTTP_CONNECTIONS_MAX", rooms.to_string())])
        .await?;
    target.provision(arguments.boxes).await?;
    let door = target.door()?.with_cookie(arguments.cookie);
    let protection = warm(&arguments, &target, &door).await?;
    let checked = target.metric(CHECKED).await?;
    let mut turns = Vec::new();
    for way in &arguments.ways {
        turns.push(turn(&arguments, &target, &door, *way).await?);
    }
    let checked_since = match (checked, target.metric(CHECKED).await?) {
        (Some(before), Some(after)) => Some(after - before),
        _ => None,
    };
    let server_stopped_cleanly = target.stop().await?;
    let report = Report {
        asked: Asked {
            boxes: arguments.boxes,
            at_once: workers(&arguments),
            polls: arguments.polls,
            cookie: arguments.cookie,
            pinned: arguments.place.pin,
        },
        protection,
        passwords_checked: checked_since,
        passed: turns.iter().all(Turn::passed) && checked_since.unwrap_or(0.0) == 0.0 && server_stopped_cleanly,
        turns,
        server_stopped_cleanly,
        machine: Machine::here(),
    };
    report.print(arguments.place.json)?;
    Ok(report.passed)
}

fn workers(arguments: &Arguments) -> u64 {
    let most = arguments.boxes.clamp(1, 1 << 16);
    (arguments.place.at_once as u64).clamp(1, most)
}

/// Each box polls once, so that the server knows its password and PBKDF2 is no part of what is measured. Says how connections are
/// protected.
async fn warm(arguments: &Arguments, target: &Target, door: &Door) -> Result<String, Error> {
    let mut protection = String::new();
    for number in 0..arguments.boxes {
        let mut poller = Poller::new(door, &target.device(number), target.password(), false)?;
        let answer = poller.poll(None).await?;
        if answer.status != 200 {
            return Err(Error::Http(format!(
                "the first poll was answered {}: {}",
                answer.status,
                answer.text()
            )));
        }
        protection = poller.protection().unwrap_or(protection);
        poller.close().await?;
    }
    Ok(protection)
}

async fn turn(arguments: &Arguments, target: &Target, door: &Door, way: Way) -> Result<Turn, Error> {
    let workers = workers(arguments);
    let mut shares: Vec<Vec<Boxed>> = Vec::new();
    for worker in 0..workers {
        let mut share = Vec::new();
        for number in (worker..arguments.boxes).step_by(usize::try_from(workers).unwrap_or(usize::MAX)) {
            let poller = Poller::new(door, &target.device(number), target.password(), way == Way::Resumed)?;
            let mut one = Boxed { poller, etag: None };
            // A first poll outside the measure: it brings the ticket, the connection, the entity tag.
            one.etag = one.poller.poll(None).await?.header("etag").map(str::to_owned);
            if way.connects() {
                one.poller.close().await?;
            }
            share.push(one);
        }
        shares.push(share);
    }
    let left = Arc::new(AtomicU64::new(arguments.polls));
    let (start, server, driver) = (Instant::now(), process::cpu(target.pid)?, process::cpu(std::process::id())?);
    let mut tasks = JoinSet::new();
    for share in shares {
        let left = left.clone();
        tasks.spawn(async move { poll(share, way, &left).await });
    }
    let (mut seen, mut boxes) = (Seen::default(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (share, part) = done.map_err(|e| Error::Machine(e.to_string()))?;
        boxes.push(share);
        seen.add(part);
    }
    let seconds = start.elapsed().as_secs_f64();
    let cpu = |pid, before: Duration| Ok::<_, Error>(process::cpu(pid)?.saturating_sub(before).as_secs_f64() * 1e6);
    let (server, driver) = (cpu(target.pid, server)?, cpu(std::process::id(), driver)?);
    for one in boxes.iter_mut().flatten() {
        one.poller.close().await?;
    }
    Ok(seen.turn(way, arguments.polls, seconds, server, driver))
}

/// Polls with one box after the other until none is left to make.
async fn poll(mut share: Vec<Boxed>, way: Way, left: &AtomicU64) -> (Vec<Boxed>, Seen) {
    let mut seen = Seen::default();
    let before: Traffic = total(&share);
    let take = || left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
    'all: loop {
        for one in &mut share {
            if !take() {
                break 'all;
            }
            let start = Instant::now();
            let answer = one.poller.poll(one.etag.as_deref().filter(|_| way == Way::Unchanged)).await;
            let took = start.elapsed();
            seen.note(way, one, answer, took);
            if way.connects()
                && let Err(error) = one.poller.close().await
            {
                *seen.failed.entry(error.to_string()).or_default() += 1;
            }
        }
        if share.is_empty() {
            break;
        }
    }
    seen.traffic = total(&share).since(&before);
    (share, seen)
}

fn total(share: &[Boxed]) -> Traffic {
    let mut all = Traffic::default();
    share.iter().for_each(|one| all.add(&one.poller.traffic()));
    all
}

impl Seen {
    fn note(&mut self, way: Way, one: &mut Boxed, answer: Result<Answer, Error>, took: Duration) {
        let resumed = one.poller.resumed() == Some(true);
        match answer {
            Ok(answer) => {
                self.times.add(took);
                *self.statuses.entry(answer.status).or_default() += 1;
                self.resumed += u64::from(way.connects() && resumed);
                let empty = answer.status != 200 || answer.text().contains("\"events\":[]");
                self.wrong += u64::from(answer.status != way.status() || !empty || way.connects() && resumed != (way == Way::Resumed));
            }
            Err(error) => *self.failed.entry(error.to_string()).or_default() += 1,
        }
    }

    fn add(&mut self, other: Self) {
        self.times.add_counts(&other.times.counts());
        self.traffic.add(&other.traffic);
        self.resumed += other.resumed;
        self.wrong += other.wrong;
        let add = |into: &mut u64, more: u64| *into += more;
        for (status, count) in other.statuses {
            add(self.statuses.entry(status).or_default(), count);
        }
        for (error, count) in other.failed {
            add(self.failed.entry(error).or_default(), count);
        }
    }

    fn turn(self, way: Way, asked: u64, seconds: f64, server_us: f64, driver_us: f64) -> Turn {
        let polls: u64 = self.statuses.values().sum();
        let each = polls.max(1) as f64;
        Turn {
            way,
            asked,
            polls,
            wrong: self.wrong,
            statuses: self.statuses,
            failed: self.failed,
            resumed: self.resumed,
            seconds,
            polls_per_second: polls as f64 / seconds,
            cpu_us_per_poll: server_us / each,
            driver_cpu_us_per_poll: driver_us / each,
            time: self.times.summary(),
            each: Shares::of(&self.traffic, each),
            traffic: self.traffic,
        }
    }
}
