//! The commands a person types: a file for each.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage. Answers go to stdout: words and tables for people, with `--json` one JSON value a line
//! for scripts; what went wrong goes to stderr, one line, with what to do about it. Passwords and keys are never arguments.

mod check_config;
mod client;
mod demo;
mod device;
mod export;
mod fate;
mod health;
mod import;
mod key;
mod listen;
mod push;
pub mod reference_device;
mod report;
mod secret;
mod serve;
mod table;
mod tenant;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A push-notification service that replaces polling.
#[derive(Parser)]
#[command(name = "unpoll", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the service until SIGTERM or SIGINT.
    Serve(serve::Arguments),
    /// Shows the whole story: a server, boxes over TLS, a backend, the polls it avoided.
    Demo(demo::Arguments),
    /// The boxes of `unpoll demo`, in a process of their own.
    #[command(hide = true)]
    DemoBoxes,
    /// Adds, lists, shows and removes devices.
    Device(device::Arguments),
    /// Creates, lists, rotates and revokes API keys.
    Key(key::Arguments),
    /// Adds, lists, shows and removes tenants.
    Tenant(tenant::Arguments),
    /// Sends one event, and waits for its end if asked to; or a file of many.
    Push(push::Arguments),
    /// Prints receipts as they come: what became of events, a line each.
    Watch(watch::Arguments),
    /// Is a device: prints each event as one JSON line, acknowledges it, and resumes after a cut.
    Listen(listen::Arguments),
    /// Writes everything that a server keeps as lines of JSON, while it serves: a backup, or the way to another server. It holds secrets.
    Export(export::Arguments),
    /// Takes an export into a new server, which then is the one that was exported.
    Import(import::Arguments),
    /// Tells how much polling was avoided.
    Report(report::Arguments),
    /// Asks the server whose data directory is here whether it lives.
    Health(health::Arguments),
    /// Checks a settings file.
    CheckConfig(check_config::Arguments),
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// It tried (exit code 1).
    #[error("{0}")]
    Failed(String),
    /// It was asked in a wrong way (exit code 2).
    #[error("{0}")]
    Usage(String),
}

impl Failure {
    fn failed(message: impl ToString) -> Self {
        Self::Failed(message.to_string())
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Failed(message)
    }
}

type Outcome = Result<(), Failure>;

/// Reads the arguments, does what they ask, and answers with the exit code.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::CheckConfig(arguments) => check_config::run(&arguments),
        Command::Demo(arguments) => block_on(demo::run(arguments)),
        Command::DemoBoxes => block_on(demo::boxes::run()),
        Command::Device(arguments) => block_on(device::run(arguments)),
        Command::Key(arguments) => block_on(key::run(arguments)),
        Command::Tenant(arguments) => block_on(tenant::run(arguments)),
        Command::Push(arguments) => block_on(push::run(arguments)),
        Command::Watch(arguments) => block_on(watch::run(arguments)),
        Command::Listen(arguments) => block_on(listen::run(arguments)),
        Command::Export(arguments) => block_on(export::run(arguments)),
        Command::Import(arguments) => block_on(import::run(arguments)),
        Command::Report(arguments) => block_on(report::run(arguments)),
        Command::Health(arguments) => block_on(health::run(arguments)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("unpoll: {failure}");
            ExitCode::from(match failure {
                Failure::Failed(_) => 1,
                Failure::Usage(_) => 2,
            })
        }
    }
}

/// A runtime with a worker for each core.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("the runtime cannot start: {error}")))
}

fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    runtime()?.block_on(command)
}

/// Writes one line to stdout, at once. A reader that went away is a failure: nobody sees the rest.
fn say(line: impl std::fmt::Display) -> Outcome {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| Failure::Failed(format!("stdout cannot be written: {error}")))
}
