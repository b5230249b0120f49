//! `loadtest push`: what one event costs the server, from POST to settled, and how long it takes to its device.

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
    Error, Poster,
    crowd::Crowd,
    process::{self, Machine},
    report::{self, Summary},
};
use serde::Serialize;
use tokio::{sync::Notify, task::JoinSet};

use super::{
    board::{Board, Slot, cloud, native},
    target::{Place, Protection, Target},
};

/// Accepted events whose state is asked for at the end.
const SETTLED_SAMPLE: usize = 100;

/// What a poster waits for before its next request.
#[derive(Clone, Copy, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Wait {
    /// The answer, and the event at the device: at most one event under way for each poster.
    Device,
    /// The answer only.
    Answer,
}

/// In which form events are posted.
#[derive(Clone, Copy, Debug, ValueEnum, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Form {
    /// One native event a request.
    Single,
    /// A CloudEvents batch: each event has an id, which is its key, too.
    Batch,
    /// Native events, one a line.
    Ndjson,
}

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub place: Place,
    /// How many devices are connected; events go to them in turn.
    #[arg(long, default_value_t = 1000)]
    devices: u64,
    /// How many posters, each with a kept connection.
    #[arg(long, default_value_t = 32)]
    posters: usize,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seconds before that.
    #[arg(long, default_value_t = 2)]
    warmup: u64,
    /// Bytes of the event's data.
    #[arg(long, default_value_t = 300)]
    bytes: usize,
    /// Seconds an event may take to its device: a poster that waits for it then posts the next, and at the end what is still
    /// missing is lost.
    #[arg(long, default_value_t = 30)]
    patience: u64,
    /// What a poster waits for.
    #[arg(long, value_enum, default_value_t = Wait::Device)]
    wait: Wait,
    /// In which form events are posted.
    #[arg(long, value_enum, default_value_t = Form::Single)]
    form: Form,
    /// Events of one request, where the form takes several.
    #[arg(long, default_value_t = 100)]
    per_request: u64,
}

#[derive(Serialize)]
struct Report {
    asked: Asked,
    seconds: f64,
    events: u64,
    events_per_second: f64,
    cpu_us_per_event: f64,
    driver_cpu_us_per_event: f64,
    post: Summary,
    post_to_device: Summary,
    accepted: u64,
    received: u64,
    lost: u64,
    repeats: u64,
    late: u64,
    refused: BTreeMap<u16, u64>,
    refusal: Option<String>,
    failed: BTreeMap<String, u64>,
    settled_asked: usize,
    settled: usize,
    sessions_up: u64,
    acknowledgements: u64,
    memory_bytes: u64,
    server_stopped_cleanly: bool,
    passed: bool,
    machine: Machine,
}

#[derive(Serialize)]
struct Asked {
    devices: u64,
    transport: Protection,
    posters: usize,
    seconds: u64,
    warmup: u64,
    bytes: usize,
    wait: Wait,
    form: Form,
    per_request: u64,
    pinned: bool,
}

struct Mark {
    at: Instant,
    server: Duration,
    driver: Duration,
    received: u64,
}

impl Mark {
    fn now(target: &Target, board: &Board) -> Result<Self, Error> {
        let received = board.tally().received_count;
        Ok(Self {
            at: Instant::now(),
            server: process::cpu(target.pid)?,
            driver: process::cpu(std::process::id())?,
            received,
        })
    }
}

/// Runs it. False when an event or a session was lost, or a POST refused.
pub async fn run(arguments: Arguments) -> Result<bool, Error> {
    process::allow_files(arguments.devices + arguments.posters as u64)?;
    let target = arguments.place.target().await?;
    target.provision(arguments.devices).await?;
    let slot = |_| Slot {
        expects: AtomicU64::new(u64::MAX),
        arrived: Notify::new(),
    };
    let board = Arc::new(Board {
        slots: (0..arguments.posters).map(slot).collect(),
        ..Board::new(Instant::now(), Duration::from_secs(arguments.patience))
    });
    let seen = board.clone();
    let mut crowd = Crowd::new(
        target.recipe.template()?,
        &target.recipe.prefix,
        Arc::new(move |_, event| seen.arrived(event)),
    );
    crowd.log_in(0..arguments.devices, arguments.place.at_once).await?;

    let mut posters = JoinSet::new();
    for index in 0..arguments.posters {
        let (poster, board, prefix) = (target.poster()?, board.clone(), target.recipe.prefix.clone());
        let load = Load {
            prefix,
            devices: arguments.devices,
            bytes: arguments.bytes,
            wait: arguments.wait,
            form: arguments.form,
            per_request: arguments.per_request(),
        };
        posters.spawn(post(index, poster, board, load));
    }
    tokio::time::sleep(Duration::from_secs(arguments.warmup)).await;
    board.tally().measured = true;
    let from = Mark::now(&target, &board)?;
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    let to = Mark::now(&target, &board)?;
    board.stop.store(true, Relaxed);
    while posters.join_next().await.is_some() {}
    everything_received(&board).await;
    let (settled_asked, settled) = settled(&target, &board).await?;
    let end = Mark::now(&target, &board)?;

    let memory_bytes = process::memory(target.pid)?;
    let (sessions_up, acknowledgements) = (crowd.seen().up.load(Relaxed), crowd.seen().acks.load(Relaxed));
    let repeats_dropped = crowd.seen().repeats.load(Relaxed);
    let transport = target.recipe.transport();
    drop(crowd);
    let server_stopped_cleanly = target.stop().await?;
    let tally = board.tally();
    let (seconds, events) = ((to.at - from.at).as_secs_f64(), to.received - from.received);
    let complete = (end.received - from.received).max(1) as f64;
    let lost = tally.accepted.without(&tally.received);
    let report = Report {
        asked: Asked {
            devices: arguments.devices,
            transport,
            posters: arguments.posters,
            seconds: arguments.seconds,
            warmup: arguments.warmup,
            bytes: arguments.bytes,
            wait: arguments.wait,
            form: arguments.form,
            per_request: arguments.per_request(),
            pinned: arguments.place.pin,
        },
        seconds,
        events,
        events_per_second: events as f64 / seconds,
        cpu_us_per_event: end.server.saturating_sub(from.server).as_secs_f64() * 1e6 / complete,
        driver_cpu_us_per_event: end.driver.saturating_sub(from.driver).as_secs_f64() * 1e6 / complete,
        post: tally.post.summary(),
        post_to_device: tally.device.summary(),
        accepted: tally.accepted_count,
        received: tally.received_count,
        lost,
        repeats: tally.repeats + repeats_dropped,
        late: tally.late,
        refused: tally.refused.clone(),
        refusal: tally.refusal.clone(),
        failed: tally.failed.clone(),
        settled_asked,
        settled,
        sessions_up,
        acknowledgements,
        memory_bytes,
        server_stopped_cleanly,
        passed: lost == 0
            && events > 0
            && tally.repeats == 0
            && tally.refused.is_empty()
            && tally.failed.is_empty()
            && settled == settled_asked
            && sessions_up == arguments.devices
            && server_stopped_cleanly,
        machine: Machine::here(),
    };
    report.print(arguments.place.json)?;
    Ok(report.passed)
}

/// What a poster posts.
struct Load {
    prefix: String,
    devices: u64,
    bytes: usize,
    wait: Wait,
    form: Form,
    per_request: u64,
}

impl Arguments {
    fn per_request(&self) -> u64 {
        if self.form == Form::Single { 1 } else { self.per_request.max(1) }
    }
}

impl Load {
    /// The request with these events, all posted now.
    fn write(&self, into: &mut String, index: usize, numbers: std::ops::Range<u64>, posted: Duration) {
        into.clear();
        let is_batch = self.form == Form::Batch;
        into.push_str(if is_batch { "[" } else { "" });
        for number in numbers.clone() {
            let device = format!("{}{}", self.prefix, number % self.devices);
            let marker = format!("~{index}.{number}.{}~", posted.as_nanos());
            if number > numbers.start {
                into.push(if is_batch { ',' } else { '\n' });
            }
            if is_batch {
                cloud(into, number, &device, &marker, self.bytes);
            } else {
                native(into, &device, &marker, self.bytes);
            }
        }
        into.push_str(if is_batch { "]" } else { "" });
    }

    /// Sends it. Now and then the ids of the events are asked for, too.
    async fn send(&self, poster: &mut Poster, request: &str, with_ids: bool) -> Result<loadtest::Answer, Error> {
        let (path, kind) = match (self.form, with_ids) {
            (Form::Single, _) => ("/v1/events", "application/json"),
            (Form::Batch, false) => ("/v1/events", "application/cloudevents-batch+json"),
            (Form::Batch, true) => ("/v1/events?results=all", "application/cloudevents-batch+json"),
            (Form::Ndjson, false) => ("/v1/events", "application/x-ndjson"),
            (Form::Ndjson, true) => ("/v1/events?results=all", "application/x-ndjson"),
        };
        poster.request("POST", path, &[("content-type", kind)], request.as_bytes()).await
    }
}

/// Of so many requests of a poster one asks for the ids of its events, where it has no more than so many: the answer comes while
/// the request is sent, and a poster reads when it has sent all.
const IDS_EVERY: u64 = 50;
const WITH_IDS_MAX: u64 = 1_000;

async fn post(index: usize, mut poster: Poster, board: Arc<Board>, load: Load) {
    let mut request = String::with_capacity((load.bytes + 200) * usize::try_from(load.per_request).unwrap_or(1));
    let mut requests = 0;
    while !board.stop.load(Relaxed) {
        let first = board.next.fetch_add(load.per_request, Relaxed);
        let numbers = first..first + load.per_request;
        if let Some(slot) = board.slots.get(index) {
            slot.expects.store(first, Relaxed);
        }
        let posted = board.start.elapsed();
        load.write(&mut request, index, numbers.clone(), posted);
        let with_ids = requests % IDS_EVERY == 0 && load.per_request <= WITH_IDS_MAX;
        let answer = load.send(&mut poster, &request, with_ids).await;
        requests += 1;
        let took = board.start.elapsed().saturating_sub(posted);
        let accepted = match load.form {
            Form::Single => board.answered(first, answer, took),
            Form::Batch | Form::Ndjson => board.answered_together(numbers.clone(), answer, took),
        };
        if !accepted {
            // A server that refuses is not hammered.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        for number in numbers.filter(|_| matches!(load.wait, Wait::Device)) {
            if let Some(slot) = board.slots.get(index) {
                slot.expects.store(number, Relaxed);
            }
            if !arrived(&board, index, number).await {
                board.tally().late += 1;
            }
        }
    }
}

async fn arrived(board: &Board, index: usize, number: u64) -> bool {
    let Some(slot) = board.slots.get(index) else { return false };
    let wait = async {
        while !board.tally().received.contains(number) {
            slot.arrived.notified().await;
        }
    };
    tokio::time::timeout(board.patience, wait).await.is_ok()
}

async fn everything_received(board: &Board) {
    let end = Instant::now() + board.patience;
    let missing = || {
        let tally = board.tally();
        tally.accepted.without(&tally.received)
    };
    while missing() > 0 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Asks for the state of a sample of the accepted events until all are delivered, at most 10 s: how many were asked, how many are.
async fn settled(target: &Target, board: &Board) -> Result<(usize, usize), Error> {
    let ids = board.tally().ids.clone();
    let step = ids.len().div_ceil(SETTLED_SAMPLE).max(1);
    let sample: Vec<&String> = ids.iter().rev().step_by(step).collect();
    let (mut poster, end) = (target.poster()?, Instant::now() + Duration::from_secs(10));
    let mut settled = 0;
    for id in &sample {
        loop {
            let answer = poster.get(&format!("/v1/events/{id}")).await?;
            if answer.status == 200 && delivered(&answer.json()?) {
                settled += 1;
                break;
            }
            if Instant::now() > end {
                eprintln!("loadtest: event {id} is not delivered: {} {}", answer.status, answer.text());
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok((sample.len(), settled))
}

/// Whether the state, or the count per state, of an event for one device says that it was delivered.
fn delivered(event: &serde_json::Value) -> bool {
    let count = |of: &serde_json::Value| of.get("delivered").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let states = ["counts", "states", "deliveries"].iter().filter_map(|name| event.get(name));
    event.get("state").and_then(serde_json::Value::as_str) == Some("delivered") || states.map(count).sum::<u64>() > 0
}

impl Report {
    fn print(&self, json: bool) -> Result<(), Error> {
        if json {
            return report::print_json(self);
        }
        let asked = &self.asked;
        println!(
            "asked     {} devices, {:?}, {} posters, {:?} with {} events a request, {} s after {} s, {} bytes of data, waits for {:?}{}",
            asked.devices,
            asked.transport,
            asked.posters,
            asked.form,
            asked.per_request,
            asked.seconds,
            asked.warmup,
            asked.bytes,
            asked.wait,
            report::placement(asked.pinned)
        );
        println!(
            "got       {} events in {:.1} s: {:.0}/s",
            self.events, self.seconds, self.events_per_second
        );
        println!(
            "cpu       {:.1} µs of the server's an event (posted, on disk, at the device, acknowledged, settled); the driver's {:.1} µs",
            self.cpu_us_per_event, self.driver_cpu_us_per_event
        );
        println!("post      {}", self.post);
        println!("to device {}", self.post_to_device);
        println!(
            "events    {} accepted, {} received, {} lost, {} repeats, {} late; {} of {} asked for are settled",
            self.accepted, self.received, self.lost, self.repeats, self.late, self.settled, self.settled_asked
        );
        println!(
            "sessions  {} up, {} acknowledgements, {:.1} MiB RssAnon",
            self.sessions_up,
            self.acknowledgements,
            self.memory_bytes as f64 / 1048576.0
        );
        if !self.refused.is_empty() || !self.failed.is_empty() {
            println!("refused   {:?} {:?} {:?}", self.refused, self.refusal, self.failed);
        }
        println!("machine   {}", self.machine);
        println!("{}", if self.passed { "passed" } else { "FAILED" });
        Ok(())
    }
}
