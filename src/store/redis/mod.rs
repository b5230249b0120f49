//! The engine of many nodes: Redis, alone, with Sentinels or as a cluster.
//!
//! Nodes keep nothing that matters. What belongs to one device is in one slot (`keys`), and each step on it is one script of one
//! round trip (`script`), gathered into pipelines (`lane`) to the primary of its slot (`shards`). Which nodes live, and what they
//! share, is in `nodes`. Receipts go from the outbox of a bucket into the log of a tenant (`mover`), and every bucket is swept by
//! one of the nodes (`sweep`).

mod breaker;
mod check;
mod counters;
mod device;
mod housekeeping;
mod keys;
mod lane;
mod mailbox;
mod metrics;
mod mover;
mod nodes;
mod reading;
mod record;
mod records;
mod registry;
mod reply;
mod script;
mod seat;
mod shards;
mod shared;
mod topology;
mod url;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use metrics::RedisMetrics;
pub use url::InvalidUrl;

use super::{Addressed, Arrival, Peer, StoreError, Watches};
use crate::domain::{Clock, EventIdKey, Generation, Limits};
use counters::Counters;
use keys::Keys;
use nodes::Nodes;
use shards::Shards;
use shared::Memory;

/// `[redis]`: the shape of many nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where Redis is: `redis://[user:password@]host:port[/db]`, `redis-sentinel://h1:26379,h2:26379/service` or
    /// `redis-cluster://h1:6379,h2:6379`; `rediss…` for TLS. Default: "", the embedded store.
    pub url: String,
    /// What every key begins with, so that several services can share one Redis. Default: "unpoll:".
    pub prefix: String,
    /// What an accepted event has reached: `replicated` (a replica, too), `primary`, or `auto`: replicated when every primary has a
    /// replica at the start, else primary with a warning. Default: "auto".
    pub durability: Durable,
    /// How long a write may wait for its replica, in milliseconds. Default: 500.
    pub wait_ms: u64,
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
    /// Arrivals that may wait for the dispatcher; more are dropped and counted. Default: 65536.
    pub arrivals_max: usize,
    /// Hints that may wait for their way to other nodes; more are dropped. Default: 65536.
    pub hints_max: usize,
}

/// What an accepted event has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durable {
    /// `replicated` where every primary has a replica at the start, else `primary`.
    Auto,
    /// A replica.
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
            allow_volatile: false,
            answer_within_ms: 1_000,
            patience_ms: 2_000,
            commands_max: 65_536,
            heartbeat_ms: 2_000,
            node_lost_secs: 15,
            name_kept_secs: 600,
            clock_skew_max_ms: 2_000,
            arrivals_max: 65_536,
            hints_max: 65_536,
        }
    }
}

impl Config {
    fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms.max(1))
    }

    fn answer_within(&self) -> Duration {
        Duration::from_millis(self.answer_within_ms.max(1))
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms)
    }

    fn heartbeat(&self) -> Duration {
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

    fn replicas_to_wait_for(&self, connected: u32) -> Result<u32, OpenError> {
        match self.durability {
            Durable::Primary => Ok(0),
            Durable::Replicated if connected == 0 => Err(OpenError::NoReplica),
            Durable::Replicated => Ok(1),
            Durable::Auto if connected == 0 => {
                tracing::warn!(
                    "Redis has no replica: events are accepted at level primary, and its loss loses them. Add a replica and restart, or set redis.durability = \"primary\""
                );
                Ok(0)
            }
            Durable::Auto => Ok(1),
        }
    }
}

/// Why the engine does not open. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL cannot be read.
    #[error("redis.url: {0}")]
    Url(#[from] InvalidUrl),
    /// No server answers.
    #[error("Redis is not reached: {0}")]
    Unreachable(String),
    /// An old version.
    #[error("Redis at {address} is version {version}; 7.0 or newer is needed")]
    TooOld {
        /// Which server.
        address: String,
        /// Its version.
        version: String,
    },
    /// A replica where the primary should be.
    #[error("Redis at {0} is a replica; name its primary, or the Sentinels (redis-sentinel://…/service)")]
    Replica(String),
    /// It throws away what it has promised to keep.
    #[error(
        "Redis at {address} evicts keys when its memory is full (maxmemory-policy {policy}), and so loses events; set maxmemory-policy noeviction"
    )]
    Evicts {
        /// Which server.
        address: String,
        /// Its policy.
        policy: String,
    },
    /// It keeps nothing on disk.
    #[error(
        "Redis at {0} has no append-only file, so that a restart loses everything; set appendonly yes, or redis.allow_volatile = true if that is meant"
    )]
    Volatile(String),
    /// It cannot do something that is needed.
    #[error("Redis at {address} does not allow what is needed: {what}")]
    Lacks {
        /// Which server.
        address: String,
        /// What it lacks.
        what: String,
    },
    /// `replicated` was asked for.
    #[error("redis.durability = \"replicated\", and a primary has no replica connected; connect one, or set \"primary\"")]
    NoReplica,
    /// A later version wrote what is there.
    #[error("what is in Redis has format {found}, this program reads up to {known}; use the version that wrote it, or a later one")]
    Newer {
        /// What is there.
        found: u32,
        /// The latest that this program knows.
        known: u32,
    },
    /// A first step failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// No random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// What other nodes must know to reach this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Where it takes hints: `host:port`.
    pub address: String,
    /// SHA-256 of its certificate.
    pub fingerprint: [u8; 32],
}

/// What a store that opened hands out.
pub struct Opened {
    /// The store.
    pub store: Arc<RedisStore>,
    /// Each event that was stored by this node for a device whose session is here.
    pub arrivals: mpsc::Receiver<Arrival>,
    /// The way into the same channel, for hints of other nodes.
    pub arrived: mpsc::Sender<Arrival>,
    /// What other nodes are to be told.
    pub hints: mpsc::Receiver<Addressed>,
    /// The other nodes that live.
    pub peers: watch::Receiver<Arc<[Peer]>>,
}

/// What tasks of the store and its callers share.
pub(crate) struct Shared {
    config: Config,
    limits: Limits,
    clock: Arc<dyn Clock>,
    keys: Keys,
    shards: Shards,
    nodes: Nodes,
    memory: Memory,
    counters: Counters,
    ids: EventIdKey,
    generation: Generation,
    arrivals: mpsc::Sender<Arrival>,
    hints: mpsc::Sender<Addressed>,
    missed_arrivals: AtomicU64,
    watches: Arc<Watches>,
    outboxes: mover::Outboxes,
    metrics: RedisMetrics,
}

/// The store in Redis. Cheap to share; [`RedisStore::close`] gives the node's name back.
pub struct RedisStore {
    shared: Arc<Shared>,
    stop: CancellationToken,
    mover: tokio::sync::Mutex<mover::Mover>,
    housekeeping: tokio::sync::Mutex<housekeeping::Round>,
    /// The minute of the ledger that was written last, and its row before the write that may not have been answered.
    ledger: tokio::sync::Mutex<Option<(String, Option<Vec<u8>>)>>,
}

/// The layout that this program writes and reads.
const FORMAT: u32 = 1;

impl RedisStore {
    /// Finds the servers, checks them, joins the other nodes, and starts the store's tasks. Call it within the runtime.
    /// `default_domain`: the XMPP domain of the default tenant. `door`: where other nodes reach this one.
    ///
    /// # Errors
    /// See [`OpenError`]: each says what to do.
    pub async fn open(
        config: Config,
        limits: Limits,
        clock: Arc<dyn Clock>,
        default_domain: &str,
        door: Option<Door>,
        metrics: RedisMetrics,
    ) -> Result<Opened, OpenError> {
        let keys = Keys::new(&config.prefix);
        let shards = Shards::open(&config, keys.clone(), metrics.clone()).await?;
        let identity = shared::identity(&shards, &keys).await?;
        let nodes = Nodes::join(&shards, &keys, &config, door, metrics.clone()).await?;
        let memory = Memory::default();
        let (arrivals, taken) = mpsc::channel(config.arrivals_max.max(1));
        let (hints, to_tell) = mpsc::channel(config.hints_max.max(1));
        let peers = nodes.peers();
        let shared = Arc::new(Shared {
            counters: Counters::default(),
            ids: EventIdKey::new(&identity.id_secret),
            generation: Generation(identity.generation),
            arrivals: arrivals.clone(),
            hints,
            missed_arrivals: AtomicU64::new(0),
            watches: Arc::default(),
            outboxes: mover::Outboxes::default(),
            config,
            limits,
            clock,
            keys,
            shards,
            nodes,
            memory,
            metrics,
        });
        shared.first_tenant(default_domain).await?;
        shared.remember_all().await?;
        shared.count_all().await?;
        shared.look_at_outboxes();
        let stop = CancellationToken::new();
        let store = Arc::new(Self {
            mover: tokio::sync::Mutex::default(),
            housekeeping: tokio::sync::Mutex::default(),
            ledger: tokio::sync::Mutex::default(),
            shared,
            stop,
        });
        store.start();
        Ok(Opened {
            store,
            arrivals: taken,
            arrived: arrivals,
            hints: to_tell,
            peers,
        })
    }

    fn start(self: &Arc<Self>) {
        let (shared, stop) = (self.shared.clone(), self.stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(nodes::beat(shared)).await });
        let (shared, stop) = (self.shared.clone(), self.stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(shared.keep_counts()).await });
        let (shared, stop) = (self.shared.clone(), self.stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(reading::follow_watches(shared)).await });
        let (store, stop) = (Arc::downgrade(self), self.stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(mover::run(store)).await });
    }

    /// The name of this node, `n1`.
    pub fn node(&self) -> Arc<str> {
        self.shared.nodes.name()
    }

    /// Whether Redis answers, and whether new events are durable as promised.
    pub fn health(&self) -> Health {
        let (serving, replicating) = self.shared.shards.health();
        Health {
            serving,
            replicating,
            joined: self.shared.nodes.may_claim(),
        }
    }

    /// Ends when the name of this node was given to another: its seats are nobody's, and it must start anew.
    pub async fn lost_its_name(&self) {
        self.shared.nodes.lost.cancelled().await;
    }

    /// Whether a node of that name lives.
    pub fn is_live(&self, node: &str) -> bool {
        self.shared.nodes.is_live(node)
    }

    /// Ends the store's tasks and gives the node's name back. Later calls of the store still work.
    pub async fn close(&self) {
        self.stop.cancel();
        self.shared.leave().await;
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What readiness asks of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Every shard answers: its circuit breaker is closed.
    pub serving: bool,
    /// What is written reaches a replica, where that is promised.
    pub replicating: bool,
    /// The other nodes count this one as live.
    pub joined: bool,
}
