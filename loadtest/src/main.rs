//! Load runs against an unpoll server: `loadtest connect`, `push`, `overload`, `poll` and `storm`; on Redis `nodes` and `redis-memory`.

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
    /// Post more events than the server can take: how many it still accepts, and how fast.
    Overload(runs::overload::Arguments),
    /// Poll, as boxes do that are not connected, in four ways: bytes, CPU and time of a poll.
    Poll(runs::poll::Arguments),
    /// Boxes lose their connections all at once and come back: time, CPU and memory of that, and what sessions that stay up feel.
    Storm(runs::storm::Arguments),
    /// Post events to several nodes on one Redis: CPU of an event on the nodes and in Redis, times, losses and repeats.
    Nodes(runs::nodes::Arguments),
    /// Fill a Redis with devices, sessions and events: memory and login CPU of each.
    RedisMemory(runs::memory::Arguments),
    /// A share of the devices of `connect --processes`, driven over stdin.
    #[command(hide = true)]
    Crowd,
    /// A share of the boxes of `storm`, driven over stdin.
    #[command(hide = true)]
    Boxes,
    /// The devices of one node of `nodes`, driven over stdin.
    #[command(hide = true)]
    Receivers,
    /// Devices that wander between nodes, driven over stdin by a test.
    #[command(hide = true)]
    Wander,
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
    let pin = match &run {
        Run::Connect(arguments) => arguments.place.pin,
        Run::Push(arguments) => arguments.place.pin,
        Run::Overload(arguments) => arguments.place.pin,
        Run::Poll(arguments) => arguments.place.pin,
        Run::Storm(arguments) => arguments.place.pin,
        Run::Nodes(arguments) => arguments.shape.pin,
        Run::RedisMemory(arguments) => arguments.shape.pin,
        // They inherit it.
        Run::Crowd | Run::Boxes | Run::Receivers | Run::Wander => false,
    };
    if pin {
        loadtest::process::pin(runs::DRIVER_CORE)?;
    }
    // One thread, so that the driver has one core at most and the server keeps the others.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match run {
            Run::Connect(arguments) => runs::connect::run(arguments).await,
            Run::Push(arguments) => runs::push::run(arguments).await,
            Run::Overload(arguments) => runs::overload::run(arguments).await,
            Run::Poll(arguments) => runs::poll::run(arguments).await,
            Run::Storm(arguments) => runs::storm::run(arguments).await,
            Run::Nodes(arguments) => runs::nodes::run(arguments).await,
            Run::RedisMemory(arguments) => runs::memory::run(arguments).await,
            Run::Crowd => runs::fleet::serve_parent().await.map(|()| true),
            Run::Boxes => runs::boxes::serve_parent().await.map(|()| true),
            Run::Receivers => runs::receivers::serve_parent().await.map(|()| true),
            Run::Wander => runs::wander::serve_parent().await.map(|()| true),
        }
    })
}
