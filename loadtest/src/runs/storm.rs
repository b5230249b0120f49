//! `loadtest storm`: boxes that all lose their connections at once and come back, beside sessions that stay up.

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use loadtest::{
    Error,
    process::{self, Machine},
    storm::Return,
};
use serde::Serialize;

use super::{
    boxes::Boxes,
    storm_report::{Asked, Report},
    target::{Manner, Place},
    watcher::Watcher,
};

/// How often memory is read while boxes come back.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How the connections are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// The boxes reset them; the server stays up.
    Cut,
    /// The server is killed with SIGKILL and started again.
    Kill,
}

/// How boxes spread their tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Jitter {
    /// All at once, and again a tenth of a second after each failure.
    None,
    /// After a time drawn from zero to `--pause`, doubled at each failure.
    Full,
}

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    manner: Manner,
    /// How many boxes come back.
    #[arg(long, default_value_t = 15_000)]
    devices: u64,
    /// Processes that they are spread over.
    #[arg(long, default_value_t = 2)]
    drivers: u64,
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

/// Runs it. False when a box did not come back in time, or a session that should stay up did not.
pub async fn run(arguments: Arguments) -> Result<bool, Error> {
    let quiet = if arguments.how == How::Cut { arguments.quiet } else { 0 };
    process::allow_files(quiet + 8)?;
    let environment: &[_] = match arguments.no_admission {
        true => &[("UNPOLL_XMPP_LOGIN_TURNS_MAX", "1000000".to_owned())],
        false => &[],
    };
    let mut target = arguments.place.target_with(environment).await?.with(arguments.manner);
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
    let mut boxes = Boxes::log_in(
        &target.recipe,
        arguments.drivers,
        arguments.devices,
        arguments.place.at_once,
        coming_back,
    )
    .await?;
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
        How::Cut => boxes.cut().await?,
        How::Kill => {
            boxes.lost().await?;
            target.kill_and_start().await?;
            cpu = Duration::ZERO;
        }
    }
    let end = start + Duration::from_secs(arguments.within);
    let mut memory_most_bytes = 0;
    let all = loop {
        tokio::time::sleep(LOOK_EVERY).await;
        memory_most_bytes = memory_most_bytes.max(process::memory(target.pid)?);
        let look = boxes.look().await?;
        if look.back >= arguments.devices && look.up == arguments.devices {
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
    let (look, returned) = (boxes.look().await?, boxes.report().await?);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let memory_after_bytes = process::memory(target.pid)?;
    let refused_busy = target.metric("unpoll_connections_refused_total{reason=\"busy\"}").await?;
    let kept = watched
        .as_ref()
        .is_none_or(|quiet| quiet.dropped == 0 && quiet.applied == quiet.posted);
    let report = Report {
        asked: Asked {
            devices: arguments.devices,
            transport: target.recipe.transport(),
            login: arguments.manner.login,
            tickets: arguments.manner.tickets,
            drivers: arguments.drivers,
            how: arguments.how,
            jitter: arguments.jitter,
            pause_secs: arguments.pause,
            resume: arguments.resume,
            admission: !arguments.no_admission,
            pinned: arguments.place.pin,
        },
        seconds: all,
        up: look.up,
        resumed: returned.resumed,
        back: returned.back.summary(),
        login: returned.login.summary(),
        tries_failed: returned.failed,
        cpu_us_per_return: server_cpu.as_secs_f64() * 1e6 / arguments.devices.max(1) as f64,
        server_cpu_seconds: server_cpu.as_secs_f64(),
        driver_cpu_seconds: returned.driver_cpu.as_secs_f64(),
        memory_before_bytes,
        memory_most_bytes,
        memory_after_bytes,
        refused_busy,
        quiet: watched,
        passed: all.is_some() && kept,
        machine: Machine::here(),
    };
    drop(boxes);
    target.stop().await?;
    report.print(arguments.place.json)?;
    Ok(report.passed)
}
