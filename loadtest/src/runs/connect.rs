//! `loadtest connect`: what an idle session and a login cost the server.

use std::time::{Duration, Instant};

use clap::Args;
use loadtest::{
    Error,
    process::{self, Machine},
    report::{self, Summary},
};
use serde::Serialize;

use super::{
    fleet::{Count, Fleet},
    target::{Manner, Place, Protection, Target, Way},
};

/// How long a pushed event may take to its device.
const PUSH_WITHIN: Duration = Duration::from_secs(30);

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    manner: Manner,
    /// How many devices.
    #[arg(long, default_value_t = 5000)]
    devices: u64,
    /// Measure memory at these numbers of devices; the last is `--devices`.
    #[arg(long, value_delimiter = ',', default_value = "1000,5000")]
    steps: Vec<u64>,
    /// Seconds of rest before memory is read.
    #[arg(long, default_value_t = 5)]
    rest: u64,
    /// Seconds to hold all sessions idle at the end, measuring the server's CPU.
    #[arg(long, default_value_t = 0)]
    hold: u64,
    /// Push one event to each of so many of the devices, and check that each gets it and that no session ends.
    #[arg(long, default_value_t = 0)]
    push: u64,
    /// Spread the devices over so many processes.
    #[arg(long, default_value_t = 1)]
    processes: u64,
}

#[derive(Serialize)]
struct Step {
    devices: u64,
    up: u64,
    memory_bytes: u64,
    /// Against the step before: bytes a session.
    memory_per_session: f64,
    login_seconds: f64,
    logins_per_second: f64,
    cpu_us_per_login: f64,
    login: Summary,
}

#[derive(Serialize)]
struct Report {
    asked: Asked,
    idle_memory_bytes: u64,
    steps: Vec<Step>,
    hold: Option<Hold>,
    push: Option<Pushed>,
    seen: Count,
    server_stopped_cleanly: bool,
    passed: bool,
    machine: Machine,
}

#[derive(Serialize)]
struct Asked {
    devices: u64,
    transport: Protection,
    login: Way,
    tickets: bool,
    at_once: usize,
    processes: u64,
    pinned: bool,
}

#[derive(Serialize)]
struct Hold {
    seconds: f64,
    cpu_us_per_session_second: f64,
}

#[derive(Serialize)]
struct Pushed {
    asked: u64,
    accepted: u64,
    reached: u64,
    applied: u64,
    seconds: f64,
}

/// Runs it. False when a session or an event was lost.
pub async fn run(arguments: Arguments) -> Result<bool, Error> {
    let steps = steps(&arguments);
    process::allow_files(arguments.devices.div_ceil(arguments.processes.max(1)))?;
    let target = arguments.place.target().await?.with(arguments.manner);
    target.provision(arguments.devices).await?;
    let mut fleet = Fleet::new(&target.recipe, arguments.processes).await?;
    if arguments.manner.login == Way::Fast {
        let mut first = 0;
        for last in &steps {
            fleet.earn(first..*last, arguments.place.at_once).await?;
            first = *last;
        }
    }
    tokio::time::sleep(Duration::from_secs(arguments.rest)).await;
    let idle_memory_bytes = process::memory(target.pid)?;

    let (mut done, mut have, mut memory) = (Vec::new(), 0, idle_memory_bytes);
    for devices in steps {
        let step = climb(&arguments, &target, &mut fleet, have..devices, memory).await?;
        (have, memory) = (devices, step.memory_bytes);
        done.push(step);
    }
    let hold = match arguments.hold {
        0 => None,
        seconds => Some(hold(&target, &mut fleet, seconds).await?),
    };
    let push = match arguments.push.min(arguments.devices) {
        0 => None,
        some => Some(push(&arguments, &target, &mut fleet, some).await?),
    };
    let seen = fleet.count().await?;
    let lost = push
        .as_ref()
        .is_some_and(|push| push.accepted != push.asked || push.reached != push.asked || push.applied != push.asked);
    let transport = target.recipe.transport();
    drop(fleet);
    let server_stopped_cleanly = target.stop().await?;
    let report = Report {
        asked: Asked {
            devices: arguments.devices,
            transport,
            login: arguments.manner.login,
            tickets: arguments.manner.tickets,
            at_once: arguments.place.at_once,
            processes: arguments.processes,
            pinned: arguments.place.pin,
        },
        idle_memory_bytes,
        steps: done,
        hold,
        push,
        passed: seen.up == arguments.devices && seen.dropped == 0 && !lost && server_stopped_cleanly,
        seen,
        server_stopped_cleanly,
        machine: Machine::here(),
    };
    report.print(arguments.place.json)?;
    Ok(report.passed)
}

fn steps(arguments: &Arguments) -> Vec<u64> {
    let mut steps: Vec<u64> = arguments
        .steps
        .iter()
        .copied()
        .filter(|step| *step > 0 && *step < arguments.devices)
        .collect();
    steps.push(arguments.devices);
    steps.sort_unstable();
    steps.dedup();
    steps
}

async fn climb(arguments: &Arguments, target: &Target, fleet: &mut Fleet, range: std::ops::Range<u64>, before: u64) -> Result<Step, Error> {
    let logins = (range.end - range.start) as f64;
    let devices = range.end;
    let (start, cpu) = (Instant::now(), process::cpu(target.pid)?);
    let times = fleet.log_in(range, arguments.place.at_once).await?;
    let login_seconds = start.elapsed().as_secs_f64();
    // What the server still does for these logins belongs to them too.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let cpu = process::cpu(target.pid)?.saturating_sub(cpu);
    tokio::time::sleep(Duration::from_secs(arguments.rest)).await;
    let memory_bytes = process::memory(target.pid)?;
    Ok(Step {
        devices,
        up: fleet.count().await?.up,
        memory_bytes,
        memory_per_session: (memory_bytes as f64 - before as f64) / logins,
        login_seconds,
        logins_per_second: logins / login_seconds,
        cpu_us_per_login: cpu.as_secs_f64() * 1e6 / logins,
        login: times.summary(),
    })
}

async fn hold(target: &Target, fleet: &mut Fleet, seconds: u64) -> Result<Hold, Error> {
    let (start, cpu) = (Instant::now(), process::cpu(target.pid)?);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let cpu = process::cpu(target.pid)?.saturating_sub(cpu);
    let (up, seconds) = (fleet.count().await?.up, start.elapsed().as_secs_f64());
    Ok(Hold {
        seconds,
        cpu_us_per_session_second: cpu.as_secs_f64() * 1e6 / seconds / up.max(1) as f64,
    })
}

async fn push(arguments: &Arguments, target: &Target, fleet: &mut Fleet, some: u64) -> Result<Pushed, Error> {
    let (mut poster, start) = (target.poster()?, Instant::now());
    let mut accepted = 0;
    for index in 0..some {
        let device = target.device(index * arguments.devices / some);
        let body = format!("{{\"target\":{{\"device\":\"{device}\"}},\"type\":\"load.connect\",\"data\":{{\"n\":{index}}}}}");
        let answer = poster.post("/v1/events", body.as_bytes()).await?;
        if answer.status == 202 {
            accepted += 1;
        } else {
            eprintln!(
                "loadtest: POST /v1/events for {device} answered {}: {}",
                answer.status,
                answer.text()
            );
        }
    }
    let end = Instant::now() + PUSH_WITHIN;
    let mut count = fleet.count().await?;
    while count.reached < some && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
        count = fleet.count().await?;
    }
    Ok(Pushed {
        asked: some,
        accepted,
        reached: count.reached,
        applied: count.applied,
        seconds: start.elapsed().as_secs_f64(),
    })
}

impl Report {
    fn print(&self, json: bool) -> Result<(), Error> {
        if json {
            return report::print_json(self);
        }
        let (asked, machine) = (&self.asked, &self.machine);
        println!(
            "asked     {} devices, {:?}{}, {:?}, {} logins at once, {} process(es){}",
            asked.devices,
            asked.transport,
            if asked.tickets { " with tickets" } else { "" },
            asked.login,
            asked.at_once,
            asked.processes,
            report::placement(asked.pinned)
        );
        println!(
            "idle      {:.1} MiB RssAnon with all devices registered and none connected",
            mib(self.idle_memory_bytes)
        );
        for step in &self.steps {
            println!(
                "step      {} devices, {} up: {:.1} MiB, {:.2} KiB a session against the step before",
                step.devices,
                step.up,
                mib(step.memory_bytes),
                step.memory_per_session / 1024.0
            );
            println!(
                "  login   {:.0}/s, {:.0} µs of server CPU each, {}",
                step.logins_per_second, step.cpu_us_per_login, step.login
            );
        }
        if let Some(hold) = &self.hold {
            println!(
                "hold      {:.1} s: {:.3} µs of server CPU a session and second",
                hold.seconds, hold.cpu_us_per_session_second
            );
        }
        if let Some(push) = &self.push {
            println!(
                "push      {} asked, {} accepted, {} devices reached, {} events applied in {:.2} s",
                push.asked, push.accepted, push.reached, push.applied, push.seconds
            );
        }
        let seen = &self.seen;
        println!(
            "sessions  {} up, {} dropped, {} repeats {:?}",
            seen.up, seen.dropped, seen.repeats, seen.reasons
        );
        println!("machine   {machine}");
        println!("{}", if self.passed { "passed" } else { "FAILED" });
        Ok(())
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}
