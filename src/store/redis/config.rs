//! The settings of the engine in Redis.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{OpenError, url::Target};

/// `[redis]`: the shape of many nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where Redis is: `redis://[user:password@]host:port[/db]`, `redis-sentinel://h1:26379,h2:26379/service` or
    /// `redis-cluster://h1:6379,h2:6379`; `rediss…` for TLS. Default: "", the embedded store.
    pub url: String,
    /// A file with the password, where it is not in the URL. It is read for each new connection. Default: "".
    pub password_file: PathBuf,
    /// A file with the authorities, in PEM, of which one must have issued the certificates of the servers (and Sentinels); each
    /// must be for the name or address by which its server is reached. Default: "", those that the system trusts.
    pub tls_ca: PathBuf,
    /// A file with the certificate, in PEM, that the node shows to servers that ask for one (`tls-auth-clients`), with what is
    /// between it and its authority. The files of TLS are read for each new connection. Default: "".
    pub tls_certificate: PathBuf,
    /// A file with its private key, in PEM. Default: "".
    pub tls_key: PathBuf,
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
            password_file: PathBuf::new(),
            tls_ca: PathBuf::new(),
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
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

    /// What is wrong and can be seen without a server: each with the setting and what to do.
    pub fn problems(&self) -> Vec<String> {
        if !self.is_used() {
            return Vec::new();
        }
        let target = match Target::parse(&self.url) {
            Ok(target) => target,
            Err(error) => return vec![format!("redis.url: {error}")],
        };
        let is_set = |path: &PathBuf| !path.as_os_str().is_empty();
        let mut problems = Vec::new();
        if is_set(&self.tls_certificate) != is_set(&self.tls_key) {
            problems.push("redis.tls_certificate and redis.tls_key go together: set both, or neither".to_owned());
        }
        if !target.tls && [&self.tls_ca, &self.tls_certificate, &self.tls_key].into_iter().any(is_set) {
            problems.push("redis.tls_… is set, and redis.url is without TLS: write rediss… for redis…".to_owned());
        }
        if target.has_password() && is_set(&self.password_file) {
            problems.push("redis.url has a password, and redis.password_file names another: keep one of them".to_owned());
        }
        problems
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_do_not_go_together_are_named() {
        let check = |change: &dyn Fn(&mut Config), expected: &[&str]| {
            let mut config = Config {
                url: "rediss://me@h".into(),
                ..Config::default()
            };
            change(&mut config);
            let problems = config.problems();
            assert_eq!(problems.len(), expected.len(), "{problems:?}");
            for (problem, expected) in problems.iter().zip(expected) {
                assert!(problem.contains(expected), "{problem}");
            }
        };
        check(&|_| {}, &[]);
        check(&|config| config.url = "http://h".into(), &["redis.url: an unknown scheme"]);
        check(&|config| config.tls_key = "k".into(), &["go together"]);
        check(
            &|config| {
                config.url = "redis://h".into();
                config.tls_ca = "ca".into();
            },
            &["write rediss"],
        );
        check(
            &|config| {
                config.url = "rediss://me:hush@h".into();
                config.password_file = "p".into();
            },
            &["keep one of them"],
        );
        check(&|config| config.url = String::new(), &[]);
    }
}
