//! `loadtest nodes`: what an event costs each of several nodes on one Redis, and Redis.

use std::{sync::Arc, time::Duration};

use clap::Args;
use loadtest::{Error, Poster, process, redis::Info};
use tokio::{task::JoinSet, time::Instant};

use super::{
    board::{Board, body},
    cost::{Hints, NodesCpu, RedisCost, Sampled, per},
    nodes_report::{Asked, Events, Report, Run},
    pacer::{Pacer, Queue, WAITING_MAX, scatter},
    receivers::{Clock, Receivers},
    service::{KEYS, Service, Shape},
};

/// How often it is looked whether everything arrived.
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub shape: Shape,
    /// How many nodes; each number is a run of its own, with a Redis of its own.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4")]
    nodes: Vec<usize>,
    /// Runs through all of these, by turns: on a machine whose speed changes, one does not compare.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// How many devices are connected, evenly to all nodes, in a process for each node.
    #[arg(long, default_value_t = 1000)]
    devices: u64,
    /// Events a second over all nodes, due at random times however long those before take. Each node is posted to in turn, and each
    /// event goes to a device drawn at random: with N nodes, N−1 of N events cross.
    #[arg(long, default_value_t = 4000.0)]
    rate: f64,
    /// The rate is for each node, not over all.
    #[arg(long)]
    per_node: bool,
    /// How many posters, each with a kept connection to each node.
    #[arg(long, default_value_t = 64)]
    posters: usize,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seconds of load before that.
    #[arg(long, default_value_t = 3)]
    warmup: u64,
    /// Seconds with all devices connected and no events before that: what a service at rest costs.
    #[arg(long, default_value_t = 5)]
    rest: u64,
    /// Seconds after what is measured in which single calls of Redis are timed, to tell one script from another.
    #[arg(long, default_value_t = 0)]
    sample: u64,
    /// Bytes of the event's data.
    #[arg(long, default_value_t = 500)]
    bytes: usize,
    /// Seconds after which an event that is still missing is lost.
    #[arg(long, default_value_t = 30)]
    patience: u64,
}

/// What has been used up to a moment.
struct Mark {
    at: Instant,
    nodes: Vec<Duration>,
    driver: Duration,
    redis: Info,
    replicas: Duration,
    received: u64,
}

impl Mark {
    async fn now(service: &Service, receivers: &mut Receivers) -> Result<Self, Error> {
        // Redis is asked here and now; what is posted waits for a millisecond at most, at the begin and at the end.
        let (nodes, redis, replicas) = (service.cpu()?, Info::of(&service.redis)?, service.cpu_of_replicas()?);
        let (at, driver) = (Instant::now(), process::cpu(std::process::id())?);
        Ok(Self {
            at,
            nodes,
            driver,
            redis,
            replicas,
            received: receivers.look().await?.received,
        })
    }

    fn seconds_since(&self, before: &Self) -> f64 {
        (self.at - before.at).as_secs_f64()
    }

    /// CPU of the nodes, each and all.
    fn nodes_since(&self, before: &Self, count: f64) -> NodesCpu {
        let used = self
            .nodes
            .iter()
            .zip(&before.nodes)
            .map(|(now, before)| now.saturating_sub(*before));
        let each: Vec<f64> = used.map(|used| per(used, count)).collect();
        NodesCpu {
            all_us: each.iter().sum(),
            each_us: each,
        }
    }
}

/// Runs it. False when an event or a session was lost, a POST refused, or less offered than was asked.
pub async fn run(arguments: Arguments) -> Result<bool, Error> {
    let most = arguments.nodes.iter().max().copied().unwrap_or(1);
    process::allow_files((arguments.posters * most) as u64)?;
    let mut runs = Vec::new();
    for _ in 0..arguments.rounds.max(1) {
        for nodes in &arguments.nodes {
            let run = one(&arguments, *nodes).await?;
            if !arguments.shape.json {
                run.print();
            }
            runs.push(run);
        }
    }
    let asked = Asked {
        nodes: arguments.nodes.clone(),
        rounds: arguments.rounds,
        devices: arguments.devices,
        transport: arguments.shape.transport(),
        rate: arguments.rate,
        per_node: arguments.per_node,
        posters: arguments.posters,
        seconds: arguments.seconds,
        warmup: arguments.warmup,
        bytes: arguments.bytes,
        replicas: arguments.shape.replicas,
        pinned: arguments.shape.pin,
    };
    let report = Report::new(asked, runs);
    report.print(arguments.shape.json)?;
    Ok(report.passed)
}

async fn one(arguments: &Arguments, nodes: usize) -> Result<Run, Error> {
    let service = arguments.shape.start(nodes).await?;
    let (start, clock) = Clock::now();
    let board = Arc::new(Board::new(start, Duration::from_secs(arguments.patience)));
    service
        .recipe(0, PREFIX)?
        .provision(&mut service.poster(0)?, 0..arguments.devices)
        .await?;
    let mut receivers = log_in(arguments, &service, clock, nodes).await?;

    tokio::time::sleep(Duration::from_secs(1)).await;
    let calm = Mark::now(&service, &mut receivers).await?;
    tokio::time::sleep(Duration::from_secs(arguments.rest)).await;
    let calmed = Mark::now(&service, &mut receivers).await?;

    let rate = if arguments.per_node {
        arguments.rate * nodes as f64
    } else {
        arguments.rate
    };
    let (pacer, queue) = Pacer::start(rate, WAITING_MAX, start)?;
    let mut posters = JoinSet::new();
    for _ in 0..arguments.posters {
        let mut to = Vec::new();
        for node in 0..nodes {
            to.push(service.poster(node)?);
        }
        posters.spawn(post(to, queue.clone(), board.clone(), arguments.devices, arguments.bytes));
    }
    drop(queue);
    tokio::time::sleep(Duration::from_secs(arguments.warmup)).await;
    board.tally().measured = true;
    receivers.measure().await?;
    let from = Mark::now(&service, &mut receivers).await?;
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    let to = Mark::now(&service, &mut receivers).await?;
    let scripts = sample(&service, &mut receivers, arguments.sample).await?;
    let (_, not_offered) = pacer.stop().await?;
    while posters.join_next().await.is_some() {}
    let settled = everything_settled(&service, &mut receivers, &board).await?;

    let accepted = board.tally().accepted_count;
    let hints = Hints::read(&service, accepted).await?;
    let accepted_at = service
        .sum(&format!(
            "unpoll_events_accepted_total{{durability=\"{}\"",
            arguments.shape.durability()
        ))
        .await?;
    let memory = service.memory()?;
    let up = receivers.look().await?.up;
    let (seen, times) = receivers.report().await?;
    drop(receivers);
    let stopped_cleanly = service.stop().await?;

    let tally = board.tally();
    let events = Events {
        accepted: tally.accepted_count,
        accepted_at_level: accepted_at as u64,
        received: tally.accepted_count - tally.accepted.without(&seen.received).min(tally.accepted_count),
        settled,
        lost: tally.accepted.without(&seen.received),
        repeats: seen.repeats,
        not_offered,
        refused: tally.refused.clone(),
        refusal: tally.refusal.clone(),
        failed: tally.failed.clone(),
    };
    let (seconds, count) = (to.seconds_since(&from), (to.received - from.received) as f64);
    let (rested, rest_seconds) = (calmed.nodes_since(&calm, 1.0), calmed.seconds_since(&calm));
    Ok(Run {
        nodes,
        durability: arguments.shape.durability(),
        seconds,
        events_per_second: count / seconds,
        post: tally.post.summary(),
        post_to_device: times.summary(),
        cpu: to.nodes_since(&from, count),
        redis: RedisCost::between(&from.redis, &to.redis, count),
        replicas_cpu_us_per_event: per(to.replicas.saturating_sub(from.replicas), count),
        driver_cpu_us_per_event: per(to.driver.saturating_sub(from.driver), count),
        rest_nodes_us_per_second: rested.all_us / rest_seconds,
        rest_redis_us_per_second: per(calmed.redis.cpu().saturating_sub(calm.redis.cpu()), rest_seconds),
        scripts,
        hints,
        sessions_up: up,
        sessions_dropped: seen.dropped,
        reasons: seen.reasons,
        acknowledgements: seen.acknowledgements,
        node_memory_bytes: memory,
        stopped_cleanly,
        passed: events.all_well() && up == arguments.devices && stopped_cleanly,
        events,
    })
}

/// Names of devices begin with this.
const PREFIX: &str = "load-";

/// Each node gets its share of the devices.
async fn log_in(arguments: &Arguments, service: &Service, clock: Clock, nodes: usize) -> Result<Receivers, Error> {
    let mut shares = Vec::new();
    let (all, mut first) = (nodes as u64, 0);
    for node in 0..nodes {
        let last = arguments.devices * (node as u64 + 1) / all;
        shares.push((service.recipe(node, PREFIX)?, first..last));
        first = last;
    }
    Receivers::log_in(clock, shares, arguments.shape.at_once).await
}

/// Times single calls of Redis for so long, while the load goes on.
async fn sample(service: &Service, receivers: &mut Receivers, seconds: u64) -> Result<Vec<Sampled>, Error> {
    if seconds == 0 {
        return Ok(Vec::new());
    }
    let before = Info::of(&service.redis)?;
    let received = receivers.look().await?.received;
    service.redis.begin_sample()?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let events = receivers.look().await?.received - received;
    let commands = Info::of(&service.redis)?.commands_since(&before);
    Ok(Sampled::of(service.redis.end_sample(KEYS)?, &commands, events as f64))
}

async fn post(mut nodes: Vec<Poster>, queue: Queue, board: Arc<Board>, devices: u64, bytes: usize) {
    let mut request = String::with_capacity(bytes + 200);
    while let Some(due) = queue.next().await {
        let device = scatter(due.number) % devices.max(1);
        let mark = format!("~0.{}.{}~", due.number, due.at.as_nanos());
        body(&mut request, &format!("{PREFIX}{device}"), &mark, bytes);
        let to = due.number % nodes.len().max(1) as u64;
        let Some(poster) = nodes.get_mut(usize::try_from(to).unwrap_or(0)) else {
            return;
        };
        let answer = poster.post("/v1/events", request.as_bytes()).await;
        board.answered(due.number, answer, board.start.elapsed().saturating_sub(due.at));
    }
}

/// Waits until everything accepted is at its device and settled, as long as patience says. Answers how many are settled, as the
/// nodes count them.
async fn everything_settled(service: &Service, receivers: &mut Receivers, board: &Board) -> Result<u64, Error> {
    let (accepted, end) = (board.tally().accepted_count, Instant::now() + board.patience);
    loop {
        let received = receivers.look().await?.received;
        let settled = service.sum("unpoll_deliveries_total{reason=\"none\",state=\"delivered\"").await? as u64;
        if (received >= accepted && settled >= accepted) || Instant::now() >= end {
            return Ok(settled);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
