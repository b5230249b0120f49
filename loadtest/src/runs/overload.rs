//! `loadtest overload`: more events than the server can take, in an open loop: how much it still accepts, and how fast.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use clap::Args;
use loadtest::{
    Error, Poster,
    crowd::Crowd,
    process::{self, Machine},
    report::{self, Summary},
};
use serde::Serialize;
use tokio::task::JoinSet;

use super::{
    board::{Board, body},
    pacer::{Pacer, Queue, scatter},
    target::{Place, Target},
};

/// Events that wait for a connection of the driver, at most: more are not offered. Few, because how long they wait is not the server's doing.
const WAITING_MAX: usize = 256;
/// What a server may answer that takes no more.
const SHED: [u16; 2] = [429, 503];

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub place: Place,
    /// How many devices are connected; events go to devices drawn at random.
    #[arg(long, default_value_t = 1000)]
    devices: u64,
    /// Posters of the first part, which finds the peak: each posts again as soon as it has its answer.
    #[arg(long, default_value_t = 64)]
    posters: usize,
    /// Connections of the second part; a server that is started serves as many. An event that finds all of them waiting is not offered:
    /// a server that gives no more than a part of a processor to refusals leaves the others waiting for theirs.
    #[arg(long, default_value_t = 4000)]
    connections: usize,
    /// The load of the second part, as a multiple of the peak: events are due at random times, however long those before take.
    #[arg(long, default_value_t = 3.0)]
    factor: f64,
    /// Seconds of each part.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seconds of load before each.
    #[arg(long, default_value_t = 2)]
    warmup: u64,
    /// Bytes of the event's data.
    #[arg(long, default_value_t = 300)]
    bytes: usize,
    /// The share of the peak that must still be accepted.
    #[arg(long, default_value_t = 0.8)]
    goodput: f64,
    /// The longest 99th percentile of what is accepted, from when it was due to its answer, in milliseconds.
    #[arg(long, default_value_t = 500)]
    p99_ms: u64,
    /// Seconds after which an accepted event that is still missing at its device is lost.
    #[arg(long, default_value_t = 60)]
    patience: u64,
}

/// What one part came to.
#[derive(Serialize)]
struct Part {
    answered_per_second: f64,
    accepted_per_second: f64,
    /// From when an event was due, or posted, to its answer.
    accepted: Summary,
    refused: BTreeMap<u16, u64>,
    /// Events that were due while all connections of the driver waited for answers.
    not_offered: u64,
    /// What part of those that were due that is.
    not_offered_share: f64,
    failed: BTreeMap<String, u64>,
    lost: u64,
    server_cpu_cores: f64,
}

#[derive(Serialize)]
struct Report {
    factor: f64,
    peak: Part,
    overload: Part,
    goodput: f64,
    passed: bool,
    machine: Machine,
}

/// Runs it. False when too little was accepted, too slowly, or anything that was accepted is lost.
pub async fn run(arguments: Arguments) -> Result<bool, Error> {
    process::allow_files(arguments.devices + (arguments.posters + arguments.connections) as u64)?;
    let room = (arguments.connections + arguments.posters + 64).to_string();
    let target = arguments.place.target_with(&[("UNPOLL_HTTP_CONNECTIONS_MAX", room)]).await?;
    target.provision(arguments.devices).await?;
    let peak = part(&arguments, &target, None).await?;
    let rate = peak.accepted_per_second * arguments.factor;
    let overload = part(&arguments, &target, Some(rate)).await?;
    let stopped_cleanly = target.stop().await?;
    let goodput = overload.accepted_per_second / peak.accepted_per_second.max(1.0);
    let report = Report {
        factor: arguments.factor,
        passed: goodput >= arguments.goodput
            && overload.accepted.p99_us <= arguments.p99_ms * 1000
            && overload.refused.keys().all(|status| SHED.contains(status))
            && peak.failed.is_empty()
            && overload.failed.is_empty()
            && peak.lost + overload.lost == 0
            && stopped_cleanly,
        goodput,
        peak,
        overload,
        machine: Machine::here(),
    };
    report.print(arguments.place.json)?;
    Ok(report.passed)
}

/// Connects the devices and posts, as fast as answers come or at a rate.
async fn part(arguments: &Arguments, target: &Target, rate: Option<f64>) -> Result<Part, Error> {
    let start = Instant::now();
    let board = Arc::new(Board::new(start, Duration::from_secs(arguments.patience)));
    let seen = board.clone();
    let mut crowd = Crowd::new(
        target.recipe.template()?,
        &target.recipe.prefix,
        Arc::new(move |_, event| seen.arrived(event)),
    );
    crowd.log_in(0..arguments.devices, arguments.place.at_once).await?;

    let (pacer, queue) = match rate {
        Some(rate) => {
            let (pacer, queue) = Pacer::start(rate, WAITING_MAX, start)?;
            (Some(pacer), Some(queue))
        }
        None => (None, None),
    };
    let mut posters = JoinSet::new();
    let count = if rate.is_some() { arguments.connections } else { arguments.posters };
    for _ in 0..count {
        let posting = Posting {
            poster: target.poster()?,
            board: board.clone(),
            prefix: target.recipe.prefix.clone(),
            devices: arguments.devices.max(1),
            bytes: arguments.bytes,
        };
        posters.spawn(posting.run(queue.clone()));
    }
    drop(queue);
    tokio::time::sleep(Duration::from_secs(arguments.warmup)).await;
    let before = Counted::now(&board, target)?;
    board.tally().measured = true;
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    let after = Counted::now(&board, target)?;
    board.tally().measured = false;
    board.stop.store(true, Relaxed);
    let (offered, not_offered) = match pacer {
        Some(pacer) => pacer.stop().await?,
        None => (0, 0),
    };
    while posters.join_next().await.is_some() {}

    let end = Instant::now() + board.patience;
    let lost = loop {
        let missing = {
            let tally = board.tally();
            tally.accepted.without(&tally.received)
        };
        if missing == 0 || Instant::now() >= end {
            break missing;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    drop(crowd);
    let tally = board.tally();
    let seconds = (after.at - before.at).as_secs_f64();
    Ok(Part {
        answered_per_second: (after.answered - before.answered) as f64 / seconds,
        accepted_per_second: (after.accepted - before.accepted) as f64 / seconds,
        accepted: tally.post.summary(),
        refused: tally.refused.clone(),
        not_offered,
        not_offered_share: not_offered as f64 / (offered + not_offered).max(1) as f64,
        failed: tally.failed.clone(),
        lost,
        server_cpu_cores: after.server.saturating_sub(before.server).as_secs_f64() / seconds,
    })
}

/// What was counted up to a moment.
struct Counted {
    at: Instant,
    accepted: u64,
    answered: u64,
    server: Duration,
}

impl Counted {
    fn now(board: &Board, target: &Target) -> Result<Self, Error> {
        let server = process::cpu(target.pid)?;
        let tally = board.tally();
        Ok(Self {
            at: Instant::now(),
            accepted: tally.accepted_count,
            answered: tally.accepted_count + tally.refused.values().sum::<u64>(),
            server,
        })
    }
}

/// One connection.
struct Posting {
    poster: Poster,
    board: Arc<Board>,
    prefix: String,
    devices: u64,
    bytes: usize,
}

impl Posting {
    /// Posts what is due, or always the next. An answer that refuses is no reason to wait: that is what the run is about.
    async fn run(mut self, queue: Option<Queue>) {
        let mut request = String::with_capacity(self.bytes + 200);
        while !self.board.stop.load(Relaxed) {
            let (number, at) = match &queue {
                Some(queue) => match queue.next().await {
                    Some(due) => (due.number, due.at),
                    None => return,
                },
                None => (self.board.next.fetch_add(1, Relaxed), self.board.start.elapsed()),
            };
            let device = format!("{}{}", self.prefix, scatter(number) % self.devices);
            body(&mut request, &device, &format!("~0.{number}.{}~", at.as_nanos()), self.bytes);
            let answer = self.poster.post("/v1/events", request.as_bytes()).await;
            self.board.answered(number, answer, self.board.start.elapsed().saturating_sub(at));
        }
    }
}

impl Report {
    fn print(&self, json: bool) -> Result<(), Error> {
        if json {
            return report::print_json(self);
        }
        for (name, part) in [("peak", &self.peak), ("overload", &self.overload)] {
            println!(
                "{name:9} {:.0} answered/s, {:.0} accepted/s, {:.1} % not offered, {} lost, {:.2} cores of the server",
                part.answered_per_second,
                part.accepted_per_second,
                part.not_offered_share * 100.0,
                part.lost,
                part.server_cpu_cores
            );
            println!("          accepted {}", part.accepted);
            if !part.refused.is_empty() || !part.failed.is_empty() {
                println!("          refused {:?} {:?}", part.refused, part.failed);
            }
        }
        println!("goodput   {:.0} % of the peak at {} times it", self.goodput * 100.0, self.factor);
        println!("machine   {}", self.machine);
        println!("{}", if self.passed { "passed" } else { "FAILED" });
        Ok(())
    }
}
