//! `unpoll demo`: the whole story on one machine. A server (or several nodes on a Redis, of which one is killed), boxes and a
//! backend, as separate processes over real sockets; some boxes drop off and come back, and a control cohort really polls beside them; at the end every accepted event is accounted
//! for, and what the ledger says of polling is compared with the polling that took place.

mod backend;
pub mod boxes;
mod fleet;
mod metrics;
mod node;
mod poller;
mod stage;
mod tally;
mod view;

use std::time::{Duration, SystemTime};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use self::{
    backend::Backend,
    boxes::Way,
    fleet::Fleet,
    stage::{Shared, Stage},
    tally::Tally,
    view::View,
};
use super::{Failure, Outcome, client::segment, device, say, secret};

/// The poll interval that the demo declares: short, so that some seconds show something.
const POLL_INTERVAL_SECS: u64 = 2;
/// How long all boxes may take to be online.
const ONLINE_WITHIN: Duration = Duration::from_secs(60);
/// How long the last events may take to arrive after the backend has stopped.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
/// How long the nodes may take to book what they counted.
const BOOKED_WITHIN: Duration = Duration::from_millis(2_500);
/// The view's pace.
const REDRAW: Duration = Duration::from_millis(250);
/// Reports and answers that may wait for the tally.
const NEWS_MAX: usize = 65_536;
/// Devices a request of the provisioning adds.
const DEVICES_A_REQUEST: usize = 500;

/// How large, and how long.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many boxes are pushed to.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    devices: u32,
    /// How many boxes poll beside them, so that the report can be validated; 500 or more are enough for that.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(0..=5_000))]
    control: u32,
    /// How long the backend posts, in seconds.
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Run several nodes on this Redis, and kill one of them in the middle: redis://host:port, redis-sentinel://h1,h2/service or
    /// redis-cluster://h1,h2 (rediss… for TLS). The demo's keys have a prefix of their own and are removed at the end. A password
    /// belongs in the file that UNPOLL_REDIS_PASSWORD_FILE names; other UNPOLL_REDIS_… settings count, too.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 3, requires = "redis", value_parser = clap::value_parser!(u8).range(2..=9))]
    nodes: u8,
}

/// Tells the story; a signal ends it early.
pub async fn run(arguments: Arguments) -> Outcome {
    let handler = |kind| signal(kind).map_err(|error| Failure::Failed(format!("signals cannot be handled: {error}")));
    let (mut terminate, mut interrupt) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    let shared = match &arguments.redis {
        Some(url) => Some(Shared::new(url, arguments.nodes.into())?),
        None => None,
    };
    if let Some(shared) = &shared {
        say(format!(
            "{} nodes; their keys in Redis begin with {}, and are removed at the end",
            arguments.nodes,
            shared.prefix()
        ))?;
    }
    let mut stage = Stage::new(POLL_INTERVAL_SECS, shared)?;
    let told = tokio::select! {
        told = async {
            stage.start().await?;
            tell(&arguments, &stage).await
        } => told,
        _ = terminate.recv() => Err(Failure::Failed("the demo was stopped".into())),
        _ = interrupt.recv() => Err(Failure::Failed("the demo was stopped".into())),
    };
    let told = told.map_err(|failure| stage.explain(failure));
    match (told, stage.clear().await) {
        (told, Ok(())) => told,
        (Ok(()), Err(left)) => Err(left),
        (Err(failure), Err(left)) => Err(Failure::Failed(format!("{failure}\n{left}"))),
    }
}

async fn tell(arguments: &Arguments, stage: &Stage) -> Outcome {
    let pushed = provision(stage, "push", arguments.devices).await?;
    let polling = provision(stage, "control", arguments.control).await?;
    let (report, mut reports) = mpsc::channel(NEWS_MAX);
    let (answer, mut answers) = mpsc::channel(NEWS_MAX);
    let names = |boxes: &[(String, String)]| boxes.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
    let (ids, control) = (names(&pushed), names(&polling));
    let all = ids.len() + control.len();
    let mut view = View::new(arguments.devices, arguments.seconds, POLL_INTERVAL_SECS);
    let mut tally = Tally::new(ids.len(), control.iter().cloned());
    let mut fleet = Fleet::new();
    fleet.add(stage, Way::Push, &pushed, &report).await?;
    fleet.add(stage, Way::Poll, &polling, &report).await?;
    drop(report);

    // The boxes connect.
    let connected = timeout(ONLINE_WITHIN, async {
        while tally.online() + tally.polling() < all {
            match reports.recv().await {
                Some(report) => tally.report(report)?,
                None => return Err(Failure::Failed("the processes of the boxes ended".into())),
            }
        }
        Ok(())
    });
    connected.await.unwrap_or_else(|_| {
        Err(Failure::Failed(format!(
            "only {} of {all} boxes came online",
            tally.online() + tally.polling()
        )))
    })?;

    // The backend posts, boxes come and go.
    let everyone = ids.iter().chain(&control).cloned().collect();
    let mut backend = Backend::new(stage.clients.clone(), everyone, answer);
    let began = Instant::now();
    let length = Duration::from_secs(arguments.seconds);
    let ends = began + length;
    let accident = stage.accident(began + length * 2 / 5);
    tokio::pin!(accident);
    let mut accident_is_over = false;
    let mut post = ticks(backend.pace());
    let mut trouble = ticks(Duration::from_secs(1));
    let mut redraw = ticks(REDRAW);
    let mut ledger = ticks(Duration::from_secs(1));
    let mut turn = 0;
    let unsettled = |backend: &Backend, tally: &Tally| !backend.is_idle() || tally.waiting() > 0;
    while Instant::now() < ends || !accident_is_over || unsettled(&backend, &tally) && Instant::now() < ends + SETTLED_WITHIN {
        let posting = Instant::now() < ends;
        tokio::select! {
            Some(report) = reports.recv() => tally.report(report)?,
            Some(posted) = answers.recv() => tally.posted(posted),
            _ = post.tick(), if posting => backend.post(),
            _ = trouble.tick(), if posting => {
                for _ in 0..(ids.len() / 40).max(1) {
                    turn += 1;
                    tally.troubled(fleet.trouble(&ids, turn).await?);
                }
            }
            happened = &mut accident, if !accident_is_over => {
                happened?;
                accident_is_over = true;
            }
            _ = redraw.tick() => view.show(&tally, stage.nodes().await, began.elapsed(), posting),
            _ = ledger.tick() => tally.polls_avoided = stage.polls_avoided().await,
        }
    }
    view.show(&tally, stage.nodes().await, began.elapsed(), false);
    while let Ok(posted) = answers.try_recv() {
        tally.posted(posted);
    }

    // The boxes say goodbye, which closes the ledger's account of their connected time.
    fleet.dismiss().await;
    while let Ok(report) = reports.try_recv() {
        tally.report(report)?;
    }
    if stage.is_shared() {
        // The first node tells of itself at once, and of the others what they have booked: they do so every second.
        tokio::time::sleep(BOOKED_WITHIN).await;
    }
    summary(stage, &tally, view).await
}

/// Adds the boxes through the API, as an operator would.
async fn provision(stage: &Stage, cohort: &str, devices: u32) -> Result<Vec<(String, String)>, Failure> {
    let mut boxes = Vec::new();
    for number in 1..=devices {
        boxes.push((format!("{cohort}-{number:04}"), secret::generate_password()?));
    }
    for some in boxes.chunks(DEVICES_A_REQUEST) {
        let mut lines = String::new();
        for (id, password) in some {
            lines.push_str(&json!({"id": id, "password": password, "cohort": cohort}).to_string());
            lines.push('\n');
        }
        let body = Some(("application/x-ndjson", lines.into_bytes()));
        let answer = stage.client()?.ask(Method::POST, "/v1/devices", body).await?;
        if device::refused(&answer) > 0 {
            return Err(Failure::Failed(format!("the server refused boxes: {answer}")));
        }
    }
    Ok(boxes)
}

/// What became of everything that was accepted; a failure when something was lost or applied twice.
async fn summary(stage: &Stage, tally: &Tally, view: View) -> Outcome {
    let (mut pending, mut lost) = (0_u64, Vec::new());
    for id in tally.missing() {
        match state(stage, id).await {
            Ok(state) if ["accepted", "scheduled", "queued", "dispatched"].contains(&state.as_str()) => pending += 1,
            Ok(state) => lost.push(format!("{id} ({state})")),
            Err(error) => lost.push(format!("{id} ({error})")),
        }
    }
    let metrics = stage.metrics().await?;
    let report = stage.client()?.ask(Method::GET, "/v1/reports/polling-avoided", None).await?;
    let nodes = stage.is_shared().then_some(stage.clients.len());
    view.summary(tally, nodes, pending, &lost, &metrics, &report)?;
    match (lost.len(), tally.applied_twice()) {
        (0, 0) => Ok(()),
        (lost, twice) => Err(Failure::Failed(format!(
            "{lost} accepted events were lost and {twice} were applied twice"
        ))),
    }
}

/// The state of an event's only delivery.
async fn state(stage: &Stage, id: &str) -> Result<String, Failure> {
    let event = stage
        .client()?
        .ask(Method::GET, &format!("/v1/events/{}", segment(id)), None)
        .await?;
    let counted = |counts: &Value| {
        let counts = counts.as_object()?;
        Some(
            counts
                .iter()
                .find(|(_, count)| count.as_u64().is_some_and(|count| count > 0))?
                .0
                .clone(),
        )
    };
    event
        .get("state")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .or_else(|| {
            ["deliveries", "states", "counts"]
                .iter()
                .find_map(|field| counted(event.get(field)?))
        })
        .ok_or_else(|| Failure::Failed(format!("the server does not tell its state: {event}")))
}

fn ticks(pace: Duration) -> tokio::time::Interval {
    let mut ticks = interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Microseconds since 1970: backend and boxes are on one machine, so their times compare.
fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
