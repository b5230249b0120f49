//! `loadtest storm`: boxes that all lose their connections at once and come back, beside sessions that stay up.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use loadtest::{
    Error, Options, Poster,
    crowd::Crowd,
    process::{self, Machine},
    report::{Summary, Times},
    storm::{Return, Storm},
};
use serde::Serialize;

use super::{
    board::{body, marker},
    target::{Place, Protection, Target},
};

/// How often memory is read while boxes come back.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How the connections are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum How {
    /// The boxes reset them; the server stays up.
    Cut,
    /// The server is killed with SIGKILL and started again.
    Kill,
}

/// How boxes spread their tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Jitter {
    /// All at once, and again a tenth of a second after each failure.
    None,
    /// After a time drawn from zero to `--pause`, doubled at each failure.
    Full,
}

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub place: Place,
    /// How many boxes come back.
    #[arg(long, default_value_t = 15_000)]
    devices: u64,
    /// How many sessions stay up beside them, with an event to one of them each time. Only with `--how cut`.
    #[arg(long, default_value_t = 500)]
    quiet: u64,
    /// Events a second to those.
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// How the connections are lost. `kill` needs `--spawn`.
    #[arg(long, value_enum, default_value = "cut")]
    how: How,
    /// How boxes spread their tries.
    #[arg(long, value_enum, default_value = "full")]
    jitter: Jitter,
    /// Seconds of the first pause with `--jitter full`.
    #[arg(long, default_value_t = 10)]
    pause: u64,
    /// Boxes resume their sessions instead of logging in anew.
    #[arg(long)]
    resume: bool,
    /// The server takes no turns in logins (needs `--spawn`): what the storm is like without admission.
    #[arg(long)]
    no_admission: bool,
    /// Seconds of calm before, to compare with.
    #[arg(long, default_value_t = 10)]
    calm: u64,
    /// Seconds within which all must be back.
    #[arg(long, default_value_t = 180)]
    within: u64,
}

#[derive(Serialize)]
struct Report {
    asked: Asked,
    /// Until all were back.
    seconds: Option<f64>,
    up: u64,
    resumed: u64,
    back: Summary,
    login: Summary,
    tries_failed: BTreeMap<String, u64>,
    cpu_us_per_return: f64,
    server_cpu_seconds: f64,
    memory_before_bytes: u64,
    memory_most_bytes: u64,
    memory_after_bytes: u64,
    refused_busy: Option<f64>,
    quiet: Option<Quiet>,
    passed: bool,
    machine: Machine,
}

#[derive(Serialize)]
struct Asked {
    devices: u64,
    transport: Protection,
    how: How,
    jitter: Jitter,
    pause_secs: u64,
    resume: bool,
    admission: bool,
    pinned: bool,
}

/// What the sessions that stayed up felt.
#[derive(Clone, Serialize)]
struct Quiet {
    sessions: u64,
    calm: Summary,
    storm: Summary,
    posted: u64,
    applied: u64,
    dropped: u64,
}

/// Runs it. False when a box did not come back in time, or a session that should stay up did not.
pub async fn run(arguments: Arguments) -> Result<bool, Error> {
    let quiet = if arguments.how == How::Cut { arguments.quiet } else { 0 };
    process::allow_files(arguments.devices + quiet + 8)?;
    let environment: &[_] = match arguments.no_admission {
        true => &[("UNPOLL_XMPP_LOGIN_TURNS_MAX", "1000000".to_owned())],
        false => &[],
    };
    let mut target = arguments.place.target_with(environment).await?;
    target.provision(arguments.devices + quiet).await?;
    let watcher = match quiet {
        0 => None,
        _ => Some(Watcher::start(
            &target,
            arguments.devices..arguments.devices + quiet,
            arguments.rate,
        )?),
    };
    let coming_back = Return {
        pause: match arguments.jitter {
            Jitter::None => Duration::ZERO,
            Jitter::Full => Duration::from_secs(arguments.pause),
        },
        jitter: arguments.jitter == Jitter::Full,
        resume: arguments.resume,
    };
    let template = target.recipe.template()?;
    let prefix = target.recipe.prefix.clone();
    let storm = Storm::log_in(&template, &prefix, 0..arguments.devices, arguments.place.at_once, coming_back).await?;
    if let Some(watcher) = &watcher {
        watcher.ready().await?;
    }
    tokio::time::sleep(Duration::from_secs(arguments.calm)).await;
    if let Some(watcher) = &watcher {
        watcher.storm();
    }
    let memory_before_bytes = process::memory(target.pid)?;
    let (start, mut cpu) = (Instant::now(), process::cpu(target.pid)?);
    match arguments.how {
        How::Cut => storm.cut(),
        How::Kill => {
            storm.lost();
            target.kill_and_start().await?;
            cpu = Duration::ZERO;
        }
    }
    let end = start + Duration::from_secs(arguments.within);
    let mut memory_most_bytes = 0;
    let all = loop {
        tokio::time::sleep(LOOK_EVERY).await;
        memory_most_bytes = memory_most_bytes.max(process::memory(target.pid)?);
        let back = storm.returned().back.summary().count;
        if back >= arguments.devices && storm.returned().up == arguments.devices {
            break Some(start.elapsed().as_secs_f64());
        }
        if Instant::now() >= end {
            break None;
        }
    };
    let watched = match watcher {
        Some(watcher) => Some(watcher.stop()?),
        None => None,
    };
    let server_cpu = process::cpu(target.pid)?.saturating_sub(cpu);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let memory_after_bytes = process::memory(target.pid)?;
    let refused_busy = target.metric("unpoll_connections_refused_total{reason=\"busy\"}").await?;
    let transport = target.recipe.transport();
    let report = {
        let returned = storm.returned();
        let kept = watched
            .as_ref()
            .is_none_or(|quiet| quiet.dropped == 0 && quiet.applied == quiet.posted);
        Report {
            asked: Asked {
                devices: arguments.devices,
                transport,
                how: arguments.how,
                jitter: arguments.jitter,
                pause_secs: arguments.pause,
                resume: arguments.resume,
                admission: !arguments.no_admission,
                pinned: arguments.place.pin,
            },
            seconds: all,
            up: returned.up,
            resumed: returned.resumed,
            back: returned.back.summary(),
            login: returned.login.summary(),
            tries_failed: returned.failed.clone(),
            cpu_us_per_return: server_cpu.as_secs_f64() * 1e6 / arguments.devices.max(1) as f64,
            server_cpu_seconds: server_cpu.as_secs_f64(),
            memory_before_bytes,
            memory_most_bytes,
            memory_after_bytes,
            refused_busy,
            quiet: watched,
            passed: all.is_some() && kept,
            machine: Machine::here(),
        }
    };
    drop(storm);
    target.stop().await?;
    report.print(arguments.place.json)?;
    Ok(report.passed)
}

/// Sessions that stay up, with events to them, on a thread of their own: the storm's driver must not be what they feel.
struct Watcher {
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
    fn start(target: &Target, range: std::ops::Range<u64>, rate: u64) -> Result<Self, Error> {
        let (template, prefix, poster) = (target.recipe.template()?, target.recipe.prefix.clone(), target.poster()?);
        let shared: Arc<Shared> = Arc::default();
        let watched = shared.clone();
        let thread = std::thread::Builder::new().name("quiet".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(watch(&watched, template, &prefix, poster, range, rate))
        })?;
        Ok(Self { shared, thread })
    }

    async fn ready(&self) -> Result<(), Error> {
        while !self.shared.ready.load(Relaxed) {
            if self.thread.is_finished() {
                return Err(Error::Machine("the sessions that stay up did not log in".into()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    fn storm(&self) {
        self.shared.storm.store(true, Relaxed);
    }

    fn stop(self) -> Result<Quiet, Error> {
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

impl Report {
    fn print(&self, json: bool) -> Result<(), Error> {
        if json {
            let text = serde_json::to_string_pretty(self).map_err(|e| Error::Machine(e.to_string()))?;
            println!("{text}");
            return Ok(());
        }
        let asked = &self.asked;
        println!(
            "asked     {} boxes, {:?}, {:?}, jitter {:?} ({} s){}{}{}",
            asked.devices,
            asked.transport,
            asked.how,
            asked.jitter,
            asked.pause_secs,
            if asked.resume { ", resuming" } else { "" },
            if asked.admission { "" } else { ", without admission" },
            if asked.pinned { ", server on core 0, driver on core 1" } else { "" }
        );
        match self.seconds {
            Some(seconds) => println!("back      all in {seconds:.1} s, {} resumed", self.resumed),
            None => println!("back      NOT ALL: {} are up, {} resumed", self.up, self.resumed),
        }
        println!("  after   {}", self.back);
        println!("  login   {}", self.login);
        println!("  failed  {:?}, refused as busy {:?}", self.tries_failed, self.refused_busy);
        println!(
            "server    {:.1} s of CPU, {:.0} µs a box; {:.1} MiB before, {:.1} at most, {:.1} after",
            self.server_cpu_seconds,
            self.cpu_us_per_return,
            mib(self.memory_before_bytes),
            mib(self.memory_most_bytes),
            mib(self.memory_after_bytes)
        );
        if let Some(quiet) = &self.quiet {
            println!(
                "quiet     {} sessions, {} events posted, {} applied, {} dropped",
                quiet.sessions, quiet.posted, quiet.applied, quiet.dropped
            );
            println!("  calm    {}", quiet.calm);
            println!("  storm   {}", quiet.storm);
        }
        println!("machine   {}", self.machine);
        println!("{}", if self.passed { "passed" } else { "FAILED" });
        Ok(())
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}
