//! The settings of the engine in Redis.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    OpenError,
    url::{self, InvalidUrl},
};

/// `[redis]`: the shape of many nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where Redis is: `redis://[user:password@]host:port[/db]`, `redis-sentinel://h1:26379,h2:26379/service` or
    /// `redis-cluster://h1:6379,h2:6379`; `rediss…` for TLS. Default: "", the embedded store.
    pub url: String,
    /// What every key begins with, so that several services can share one Redis. Default: "unpoll:".
    pub prefix: String,
    /// What an accepted event has reached: `replicated` (the replicas, too), `primary`, or `auto`: `primary` with a warning until every
    /// primary has a replica in step, and `replicated` from then on for as long as the node runs; it looks at its start and at each
    /// heartbeat. A level that was reached is not given up when replicas go: new events are refused with 503. Default: "auto".
    pub durability: Durable,
    /// How long a write may wait for its replicas, in milliseconds. Default: 500.
    pub wait_ms: u64,
    /// At level `replicated` a write waits for every replica in step; one that is gone, or has not followed for so long, is still waited
    /// for during so long, in seconds. Default: 10. Events are refused with 503 meanwhile: such a replica may have been made the
    /// primary, and what is accepted without it would be lost. Keep it longer than a failover takes.
    pub replica_gone_secs: u64,
    /// Take a server that keeps nothing on disk. Default: false.
    pub allow_volatile: bool,
    /// How long a connection may take to open, and a command to be answered, in milliseconds. Default: 1000.
    pub answer_within_ms: u64,
    /// How long a request waits for Redis to come back before it is refused, in milliseconds. Default: 2000.
    pub patience_ms: u64,
    /// Commands that may wait for one connection; above it they are refused. Default: 65536.
    pub commands_max: usize,
    /// Every so often a node says that it lives, in milliseconds. Default: 2000.
    pub heartbeat_ms: u64,
    /// A node that said nothing for so long is dead, in seconds. Default: 15.
    pub node_lost_secs: u64,
    /// The name of a dead node is given to another after so long, in seconds. Default: 600.
    pub name_kept_secs: u64,
    /// How far the clock of a node may differ from that of Redis before it is corrected, in milliseconds. Default: 2000.
    pub clock_skew_max_ms: u64,
    /// Rows of devices that logged in lately, about 1 KiB each: kept for a minute, so that a login is one round trip. Default: 20000.
    pub rows_max: usize,
    /// Arrivals that may wait for the dispatcher; more are dropped and counted. Default: 65536.
    pub arrivals_max: usize,
    /// Hints that may wait for their way to other nodes; more are dropped. Default: 65536.
    pub hints_max: usize,
}

/// What an accepted event has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durable {
    /// `primary` until every primary has a replica in step, `replicated` from then on.
    Auto,
    /// The replicas.
    Replicated,
    /// The primary.
    Primary,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: String::new(),
            prefix: "unpoll:".to_owned(),
            durability: Durable::Auto,
            wait_ms: 500,
            replica_gone_secs: 10,
            allow_volatile: false,
            answer_within_ms: 1_000,
            patience_ms: 2_000,
            commands_max: 65_536,
            heartbeat_ms: 2_000,
            node_lost_secs: 15,
            name_kept_secs: 600,
            clock_skew_max_ms: 2_000,
            rows_max: 20_000,
            arrivals_max: 65_536,
            hints_max: 65_536,
        }
    }
}

impl Config {
    pub(super) fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms.max(1))
    }

    pub(super) fn replica_gone(&self) -> Duration {
        Duration::from_secs(self.replica_gone_secs.max(1))
    }

    pub(super) fn answer_within(&self) -> Duration {
        Duration::from_millis(self.answer_within_ms.max(1))
    }

    pub(super) fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms)
    }

    pub(super) fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms.clamp(100, self.node_lost_secs.max(1) * 500))
    }

    /// Whether the settings ask for this engine.
    pub fn is_used(&self) -> bool {
        !self.url.is_empty()
    }

    /// Checks what can be checked without a server.
    ///
    /// # Errors
    /// The URL cannot be read.
    pub fn check(&self) -> Result<(), InvalidUrl> {
        if self.is_used() {
            url::Target::parse(&self.url).map(|_| ())
        } else {
            Ok(())
        }
    }

    /// Whether a node that starts accepts at level `replicated`, with so many replicas in step.
    pub(super) fn starts_replicated(&self, in_step: u32) -> Result<bool, OpenError> {
        match self.durability {
            Durable::Primary => Ok(false),
            Durable::Replicated if in_step == 0 => Err(OpenError::NoReplica),
            Durable::Replicated => Ok(true),
            Durable::Auto if in_step == 0 => {
                tracing::warn!(
                    "Redis has no replica: events are accepted at level primary, and its loss loses them. Add a replica, which is taken into account at once, or set redis.durability = \"primary\""
                );
                Ok(false)
            }
            Durable::Auto => Ok(true),
        }
    }
}
