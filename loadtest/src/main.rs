//! Load runs against an unpoll server: `loadtest connect`, `push`, `poll` and `storm`.

mod runs;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use loadtest::Error;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Fake devices and backends that measure an unpoll server from outside.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    run: Run,
}

#[derive(Subcommand)]
enum Run {
    /// Log in many devices: memory of a session, CPU and time of a login; then hold them, and push to some.
    Connect(runs::connect::Arguments),
    /// Post events to connected devices: CPU of an event, times from POST to device, losses and repeats.
    Push(runs::push::Arguments),
    /// Poll, as boxes do that are not connected, in four ways: bytes, CPU and time of a poll.
    Poll(runs::poll::Arguments),
    /// Boxes lose their connections all at once and come back: time, CPU and memory of that, and what sessions that stay up feel.
    Storm(runs::storm::Arguments),
    /// A share of the devices of `connect --processes`, driven over stdin.
    #[command(hide = true)]
    Crowd,
    /// A share of the boxes of `storm`, driven over stdin.
    #[command(hide = true)]
    Boxes,
}

fn main() -> ExitCode {
    let run = Arguments::parse().run;
    match perform(run) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}

/// True when the server did everything that it should.
fn perform(run: Run) -> Result<bool, Error> {
    let place = match &run {
        Run::Connect(arguments) => Some(&arguments.place),
        Run::Push(arguments) => Some(&arguments.place),
        Run::Poll(arguments) => Some(&arguments.place),
        Run::Storm(arguments) => Some(&arguments.place),
        Run::Crowd | Run::Boxes => None,
    };
    if place.is_some_and(|place| place.pin) {
        loadtest::process::pin(runs::DRIVER_CORE)?;
    }
    // One thread, so that the driver has one core at most and the server keeps the others.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match run {
            Run::Connect(arguments) => runs::connect::run(arguments).await,
            Run::Push(arguments) => runs::push::run(arguments).await,
            Run::Poll(arguments) => runs::poll::run(arguments).await,
            Run::Storm(arguments) => runs::storm::run(arguments).await,
            Run::Crowd => runs::fleet::serve_parent().await.map(|()| true),
            Run::Boxes => runs::boxes::serve_parent().await.map(|()| true),
        }
    })
}
