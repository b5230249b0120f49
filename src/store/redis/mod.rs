//! The engine of many nodes: Redis, alone, with Sentinels or as a cluster.
//!
//! Nodes keep nothing that matters. What belongs to one device is in one slot (`keys`), and each step on it is one script of one
//! round trip (`script`), gathered into pipelines (`lane`) to the primary of its slot (`shards`). Which nodes live, and what they
//! share, is in `nodes`. Receipts, and what the feed of presence tells (`feed`), go from the outbox of a bucket into
//! the logs of a tenant (`mover`); every bucket is swept by one of the nodes (`housekeeping`), and one ends the seats of those that
//! are dead (`losses`).

mod access;
mod announce;
mod audit;
mod borrowed;
mod breaker;
mod channel;
mod check;
mod claim;
mod config;
mod connection;
mod counters;
mod device;
mod enqueue;
mod export;
mod exported;
mod feed;
mod groups;
mod held;
mod housekeeping;
mod import;
mod imported;
mod key_uses;
mod keys;
mod lane;
mod loss;
mod losses;
mod mailbox;
mod metrics;
mod mover;
mod nodes;
mod reading;
mod receipt;
mod record;
mod records;
mod registry;
mod replicas;
mod reply;
mod rows;
mod script;
mod seat;
mod settle;
mod shards;
mod shared;
mod tenants;
mod tickets;
mod topology;
mod url;
mod users;
mod webhooks;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub use access::AccessError;
pub use borrowed::{look_at, remove_all};
pub use config::{Config, Durable};
pub use metrics::RedisMetrics;
pub use url::InvalidUrl;

use super::{Addressed, Arrival, DeviceKey, Peer, StoreError, Watches};
use crate::domain::{CorrectedClock, Epoch, EventIdKey, Generation, Limits, TenantId};
use counters::Counters;
use keys::Keys;
use nodes::Nodes;
use shards::Shards;
use shared::Memory;

/// Why the engine does not open. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL cannot be read.
    #[error("redis.url: {0}")]
    Url(#[from] InvalidUrl),
    /// A file that connections need.
    #[error(transparent)]
    Access(#[from] AccessError),
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
    /// What other nodes say through Redis.
    pub published: mpsc::Receiver<Vec<u8>>,
}

/// What tasks of the store and its callers share.
pub(crate) struct Shared {
    config: Config,
    limits: Limits,
    clock: Arc<CorrectedClock>,
    clock_is_wrong: AtomicBool,
    keys: Keys,
    shards: Shards,
    nodes: Nodes,
    memory: Memory,
    counters: Counters,
    ids: EventIdKey,
    /// A [`Generation`]; another one after an import.
    generation: AtomicU32,
    arrivals: mpsc::Sender<Arrival>,
    hints: mpsc::Sender<Addressed>,
    missed_arrivals: AtomicU64,
    watches: Arc<Watches>,
    outboxes: mover::Outboxes,
    /// Up to where the receipts of each tenant are as durable as is promised.
    seen: Mutex<HashMap<(TenantId, mover::Log), u64>>,
    held: held::Held,
    rows: rows::Rows,
    metrics: RedisMetrics,
}

impl Shared {
    fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Relaxed))
    }
}

/// The store in Redis. Cheap to share; [`RedisStore::close`] gives the node's name back.
pub struct RedisStore {
    shared: Arc<Shared>,
    stop: CancellationToken,
    mover: tokio::sync::Mutex<mover::Mover>,
    losses: tokio::sync::Mutex<losses::Round>,
    housekeeping: tokio::sync::Mutex<housekeeping::Round>,
    /// The minute of the ledger that was written last, and its row before the write that may not have been answered.
    ledger: tokio::sync::Mutex<Option<(String, Option<Vec<u8>>)>>,
}

/// The layout that this program writes and reads.
const FORMAT: u32 = 1;

/// How long the first steps of a node are tried: a replica may be late, or a primary have just been replaced.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// And the pause between.
const START_PAUSE: Duration = Duration::from_millis(200);

/// Tries a first step again while the store is not available; each may be done twice.
async fn patiently<T, E: Into<OpenError>, F: Future<Output = Result<T, E>>>(step: impl Fn() -> F) -> Result<T, OpenError> {
    let until = Instant::now() + START_PATIENCE;
    loop {
        match step().await.map_err(Into::into) {
            Err(OpenError::Store(StoreError::Unavailable(why))) if Instant::now() < until => {
                tracing::debug!("a first step is tried again: {why}");
                tokio::time::sleep(START_PAUSE).await;
            }
            done => return done,
        }
    }
}

impl RedisStore {
    /// Finds the servers, checks them, joins the other nodes, and starts the store's tasks. Call it within the runtime.
    /// `default_domain`: the XMPP domain of the default tenant. `door`: where other nodes reach this one.
    ///
    /// # Errors
    /// See [`OpenError`]: each says what to do.
    pub async fn open(
        config: Config,
        limits: Limits,
        clock: Arc<CorrectedClock>,
        default_domain: &str,
        door: Option<Door>,
        metrics: RedisMetrics,
    ) -> Result<Opened, OpenError> {
        let keys = Keys::new(&config.prefix);
        let shards = Shards::open(&config, keys.clone(), metrics.clone()).await?;
        let identity = patiently(|| shared::identity(&shards, &keys)).await?;
        let nodes = Nodes::join(&shards, &keys, &config, door, metrics.clone()).await?;
        let memory = Memory::default();
        let (arrivals, taken) = mpsc::channel(config.arrivals_max.max(1));
        let (hints, to_tell) = mpsc::channel(config.hints_max.max(1));
        let peers = nodes.peers();
        let shared = Arc::new(Shared {
            counters: Counters::default(),
            ids: EventIdKey::new(&identity.id_secret),
            generation: AtomicU32::new(identity.generation),
            arrivals: arrivals.clone(),
            hints,
            missed_arrivals: AtomicU64::new(0),
            watches: Arc::default(),
            outboxes: mover::Outboxes::default(),
            seen: Mutex::default(),
            held: held::Held::default(),
            rows: rows::Rows::new(config.rows_max),
            config,
            limits,
            clock,
            clock_is_wrong: AtomicBool::new(false),
            keys,
            shards,
            nodes,
            memory,
            metrics,
        });
        patiently(|| shared.first_tenant(default_domain)).await?;
        shared.remember_all().await?;
        shared.count_all().await?;
        patiently(|| shared.index_users()).await?;
        shared.look_at_outboxes();
        let stop = CancellationToken::new();
        let store = Arc::new(Self {
            mover: tokio::sync::Mutex::default(),
            losses: tokio::sync::Mutex::default(),
            housekeeping: tokio::sync::Mutex::default(),
            ledger: tokio::sync::Mutex::default(),
            shared,
            stop,
        });
        let (came, published) = mpsc::channel(store.shared.config.hints_max.max(1));
        store.start(came);
        Ok(Opened {
            published,
            store,
            arrivals: taken,
            arrived: arrivals,
            hints: to_tell,
            peers,
        })
    }

    fn start(self: &Arc<Self>, came: mpsc::Sender<Vec<u8>>) {
        let (shared, stop) = (self.shared.clone(), self.stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(channel::listen(shared, came)).await });
        let (shared, stop) = (self.shared.clone(), self.stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(nodes::beat(shared)).await });
        let (shared, stop) = (self.shared.clone(), self.stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(shared.keep_counts()).await });
        let (shared, stop) = (self.shared.clone(), self.stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(reading::follow_watches(shared)).await });
        let (shared, stop) = (self.shared.clone(), self.stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(held::settle_debts(shared)).await });
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

    /// The seat that a session here held, of that epoch or an older one, is another node's: Redis is not told of it again.
    pub fn seat_is_lost(&self, device: &DeviceKey, epoch: Epoch) {
        self.shared.held.give_up(device, epoch);
    }

    /// Hints for sessions here were lost: all of them are compared with the store.
    pub fn hints_were_lost(&self) {
        self.shared.missed_arrivals.fetch_add(1, Ordering::Relaxed);
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
