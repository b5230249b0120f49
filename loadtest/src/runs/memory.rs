//! `loadtest redis-memory`: what a device, a session and an event take in Redis, and what a login costs it.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use loadtest::{
    Error, process,
    process::Machine,
    redis::{Info, Kind},
    report,
};
use serde::Serialize;
use tokio::{task::JoinSet, time::Instant};

use super::{
    board::body,
    cost::{RedisCost, per},
    fleet::Fleet,
    service::{KEYS, Service, Shape, until},
    target::Protection,
};

/// Processes that devices are spread over.
const PROCESSES: u64 = 2;
/// Connections that post events.
const POSTERS: u64 = 16;
/// Memory stands still when it changes by no more than this for [`STILL_FOR`].
const STILL_WITHIN: f64 = 32_768.0;
const STILL_FOR: Duration = Duration::from_secs(3);
/// How long that may take, and how long events may.
const WITHIN: Duration = Duration::from_secs(120);

/// What a connected device, a device with a password, and the first event of 500 bytes that waits for a device may take, in bytes.
const ASKED: [f64; 3] = [170.0, 600.0, 1229.0];

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub shape: Shape,
    /// How many devices connect, and how many others events wait for.
    #[arg(long, default_value_t = 10_000)]
    devices: u64,
    /// Events that wait for each of those after the first.
    #[arg(long, default_value_t = 4)]
    further: u64,
    /// Bytes of the events' data.
    #[arg(long, default_value_t = 500)]
    bytes: usize,
}

#[derive(Serialize)]
struct Report {
    asked: Asked,
    steps: Vec<Step>,
    logins: Login,
    sessions_up: u64,
    applied: u64,
    repeats: u64,
    stopped_cleanly: bool,
    passed: bool,
    machine: Machine,
}

#[derive(Serialize)]
struct Asked {
    devices: u64,
    further: u64,
    bytes: usize,
    replicas: usize,
    transport: Protection,
}

/// What was added, and the memory that it took.
#[derive(Serialize)]
struct Step {
    what: &'static str,
    count: u64,
    /// By the memory in use before and after.
    bytes_each: f64,
    /// By MEMORY USAGE of the keys, for each kind of key that changed.
    kinds: BTreeMap<String, f64>,
}

/// What the logins of the connected devices cost.
#[derive(Serialize)]
struct Login {
    redis: RedisCost,
    node_cpu_us: f64,
    per_second: f64,
}

/// What Redis holds at a moment.
struct Held {
    memory: f64,
    kinds: BTreeMap<String, Kind>,
}

impl Held {
    /// Waits until the memory stands still, and reads it.
    async fn now(service: &Service) -> Result<Self, Error> {
        let end = Instant::now() + WITHIN;
        let (mut memory, mut since) = (Info::of(&service.redis)?.memory(), Instant::now());
        while since.elapsed() < STILL_FOR && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = Info::of(&service.redis)?.memory();
            if (now - memory).abs() > STILL_WITHIN {
                (memory, since) = (now, Instant::now());
            }
        }
        let kinds = service.redis.usage(KEYS)?;
        Ok(Self { memory, kinds })
    }

    /// What was added since.
    fn since(&self, before: &Self, what: &'static str, count: u64) -> Step {
        let each = |more: f64| more / count.max(1) as f64;
        let mut kinds = BTreeMap::new();
        for name in self.kinds.keys().chain(before.kinds.keys()) {
            let bytes = |held: &Self| held.kinds.get(name).map_or(0.0, |kind| kind.bytes as f64);
            let more = each(bytes(self) - bytes(before));
            if more.abs() >= 0.5 {
                kinds.insert(name.clone(), more);
            }
        }
        Step {
            what,
            count,
            bytes_each: each(self.memory - before.memory),
            kinds,
        }
    }
}

/// Runs it. False when a session or an event was lost.
pub async fn run(arguments: Arguments) -> Result<bool, Error> {
    process::allow_files(POSTERS)?;
    let (devices, events) = (arguments.devices, arguments.devices * (1 + arguments.further));
    let service = arguments.shape.start(1).await?;
    let (here, away) = (service.recipe(0, "here-")?, service.recipe(0, "away-")?);
    let mut steps = Vec::new();

    let empty = Held::now(&service).await?;
    for recipe in [&here, &away] {
        recipe.provision(&mut service.poster(0)?, 0..devices).await?;
    }
    let registered = Held::now(&service).await?;
    steps.push(registered.since(&empty, "device with a password", 2 * devices));

    let mut connected = Fleet::new(&here, PROCESSES).await?;
    let logins = log_in(&arguments, &service, &mut connected).await?;
    let online = Held::now(&service).await?;
    steps.push(online.since(&registered, "connected device", devices));
    let sessions_up = connected.count().await?.up;
    // Their sockets are needed; what Redis holds of them stays while their sessions may be resumed.
    drop(connected);

    post(&arguments, &service, 0..devices).await?;
    let first = Held::now(&service).await?;
    steps.push(first.since(&online, "first waiting event of a device", devices));
    post(&arguments, &service, devices..events).await?;
    let all = Held::now(&service).await?;
    steps.push(all.since(&first, "each further one", events - devices));

    let mut receivers = Fleet::new(&away, PROCESSES).await?;
    receivers.log_in(0..devices, arguments.shape.at_once).await?;
    let mut seen = receivers.count().await?;
    let end = Instant::now() + WITHIN;
    while seen.applied < events && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(100)).await;
        seen = receivers.count().await?;
    }
    let delivered = events as f64;
    until("all events to be settled", async || {
        Ok(service.sum("unpoll_deliveries_total{reason=\"none\",state=\"delivered\"").await? >= delivered)
    })
    .await?;
    until("all receipts to be in their log", async || {
        Ok(service.sum("unpoll_receipts_unmoved").await? == 0.0)
    })
    .await?;
    let ended = Held::now(&service).await?;
    steps.push(ended.since(&online, "delivered event, its device's session among it", events));

    drop(receivers);
    let stopped_cleanly = service.stop().await?;
    let report = Report {
        asked: Asked {
            devices,
            further: arguments.further,
            bytes: arguments.bytes,
            replicas: arguments.shape.replicas,
            transport: arguments.shape.transport(),
        },
        steps,
        logins,
        sessions_up,
        applied: seen.applied,
        repeats: seen.repeats,
        stopped_cleanly,
        passed: sessions_up == devices && seen.applied == events && seen.up == devices && seen.repeats == 0 && stopped_cleanly,
        machine: Machine::here(),
    };
    report.print(arguments.shape.json)?;
    Ok(report.passed)
}

/// Connects the devices: what a login costs.
async fn log_in(arguments: &Arguments, service: &Service, fleet: &mut Fleet) -> Result<Login, Error> {
    let all = |cpu: Vec<Duration>| cpu.iter().sum::<Duration>();
    let (redis, node, start) = (Info::of(&service.redis)?, all(service.cpu()?), Instant::now());
    fleet.log_in(0..arguments.devices, arguments.shape.at_once).await?;
    let (took, devices) = (start.elapsed(), arguments.devices as f64);
    Ok(Login {
        redis: RedisCost::between(&redis, &Info::of(&service.redis)?, devices),
        node_cpu_us: per(all(service.cpu()?).saturating_sub(node), devices),
        per_second: devices / took.as_secs_f64(),
    })
}

/// Posts events of these numbers, to one device after the other.
async fn post(arguments: &Arguments, service: &Service, numbers: std::ops::Range<u64>) -> Result<(), Error> {
    let mut posters: JoinSet<Result<(), Error>> = JoinSet::new();
    for first in 0..POSTERS {
        let (mut poster, devices, bytes) = (service.poster(0)?, arguments.devices, arguments.bytes);
        let numbers = (numbers.start + first..numbers.end).step_by(usize::try_from(POSTERS).unwrap_or(usize::MAX));
        posters.spawn(async move {
            let mut request = String::new();
            for number in numbers {
                body(
                    &mut request,
                    &format!("away-{}", number % devices),
                    &format!("~0.{number}.0~"),
                    bytes,
                );
                let answer = poster.post("/v1/events", request.as_bytes()).await?;
                if answer.status != 202 {
                    return Err(Error::Http(format!(
                        "POST /v1/events answered {}: {}",
                        answer.status,
                        answer.text()
                    )));
                }
            }
            Ok(())
        });
    }
    while let Some(done) = posters.join_next().await {
        done.map_err(|error| Error::Machine(error.to_string()))??;
    }
    Ok(())
}

impl Report {
    fn print(&self, json: bool) -> Result<(), Error> {
        if json {
            return report::print_json(self);
        }
        let (asked, logins) = (&self.asked, &self.logins);
        println!(
            "asked     {} devices that connect, {} others for which 1 + {} events of {} bytes wait, {:?}, {} replica(s)",
            asked.devices, asked.devices, asked.further, asked.bytes, asked.transport, asked.replicas
        );
        for step in &self.steps {
            println!("memory    {:.0} B a {} ({})", step.bytes_each, step.what, step.count);
            let kinds: Vec<String> = step.kinds.iter().map(|(name, bytes)| format!("{name} {bytes:.0}")).collect();
            println!(
                "  keys    {} B by MEMORY USAGE: {}",
                step.kinds.values().sum::<f64>().round(),
                kinds.join(", ")
            );
        }
        let [presence, row, event] = ASKED;
        println!("          asked: {row} B a device with a password, {presence} B a connected one, {event} B a first waiting event");
        println!(
            "login     {:.1} µs of Redis CPU, {:.0} µs of the node's, {:.0} bytes of AOF; {:.0}/s",
            logins.redis.cpu_us_per_event, logins.node_cpu_us, logins.redis.aof_bytes_per_event, logins.per_second
        );
        logins.redis.print_commands("          ", "a login");
        println!(
            "events    {} applied, {} repeats; {} sessions up",
            self.applied, self.repeats, self.sessions_up
        );
        println!("machine   {}", self.machine);
        println!("{}", if self.passed { "passed" } else { "FAILED" });
        Ok(())
    }
}
