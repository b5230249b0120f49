//! Real Redis servers on free ports of loopback, each with a directory of its own; they end with the value that started them.
//!
//! Calls block, and wait for facts: a server that is started answers, a failover that was waited for has happened.

mod cluster;
mod info;
mod sample;
mod sentinels;
mod server;
mod usage;

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

pub use cluster::Cluster;
pub use info::{Command, Info};
pub use sample::Calls;
pub use sentinels::Sentinels;
pub use server::{Server, Settings, Tls};
pub use usage::Kind;

/// How long any fact is waited for.
const SOON: Duration = Duration::from_secs(60);

/// What did not come about.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// The program is not there, or does not start.
    #[error("redis-server cannot be started (apt-get install redis-server): {0}")]
    Start(#[from] std::io::Error),
    /// A server refuses a command.
    #[error("redis: {0}")]
    Command(#[from] redis::RedisError),
    /// Something that was to happen did not.
    #[error("waited {} s for {what}; the log of the server ends with:\n{log}", SOON.as_secs())]
    Late {
        /// What.
        what: String,
        /// The end of the log.
        log: String,
    },
    /// `redis-cli` failed.
    #[error("redis-cli: {0}")]
    Cli(String),
}

fn free_port() -> Result<u16, std::io::Error> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until `is` says so; `log` is asked when it does not.
fn until(what: &str, mut is: impl FnMut() -> bool, log: impl FnOnce() -> String) -> Result<(), RedisError> {
    let end = Instant::now() + SOON;
    while !is() {
        if Instant::now() >= end {
            return Err(RedisError::Late {
                what: what.to_owned(),
                log: log(),
            });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
