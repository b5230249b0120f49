//! Rows on their way: from an outbox of a bucket, where the step that ended an event wrote its receipt, and the step of a seat what the feed
//! of presence tells, into the log of their tenant.
//!
//! Each row has a position in its outbox, and the log remembers the last one that it took from there: a row is moved once, by
//! whichever nodes try, whatever is lost between the steps.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{
    RedisStore, Shared, feed,
    keys::{self, BUCKETS, Slot},
    receipt,
    reply::{self, Reply, p48},
    script,
    shards::Route,
};
use crate::{
    domain::TenantId,
    store::{StoreError, codec::damaged},
};

/// How often outboxes are looked at.
const EVERY: Duration = Duration::from_millis(200);
/// How often all outboxes that this node looks after are looked at: a dead node may have left some.
const ALL_EVERY: Duration = Duration::from_secs(5);
/// Rows of one step.
const ROWS: usize = 500;
/// Outboxes emptied at once.
const TOGETHER: usize = 32;

/// Outboxes in which this node wrote.
#[derive(Default)]
pub(super) struct Outboxes {
    written: Mutex<BTreeSet<Outbox>>,
    emptied: Mutex<BTreeMap<Outbox, Emptied>>,
    news: Notify,
}

/// The outbox of a log in a bucket.
type Outbox = (Log, u16);

/// What rows are moved into: one of each a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Log {
    /// Receipts.
    Receipts,
    /// The feed of presence.
    Feed,
}

impl Log {
    const ALL: [Self; 2] = [Self::Receipts, Self::Feed];

    /// The letter of its outboxes.
    pub(super) fn outbox(self) -> char {
        match self {
            Self::Receipts => 'o',
            Self::Feed => 'u',
        }
    }

    /// The counter of positions in an outbox.
    fn counter(self) -> &'static str {
        match self {
            Self::Receipts => "t",
            Self::Feed => "u",
        }
    }

    /// The counter of events whose rows are there still.
    fn events(self) -> Option<char> {
        match self {
            Self::Receipts => Some('n'),
            Self::Feed => None,
        }
    }

    /// How long an outbox is left alone after it was emptied: what gathers meanwhile is moved in one step. Receipts are many.
    fn left_alone(self) -> Duration {
        match self {
            Self::Receipts => Duration::from_secs(1),
            Self::Feed => EVERY,
        }
    }

    /// The name of its key.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Receipts => "log",
            Self::Feed => "feed",
        }
    }

    /// The key that remembers how far each source was moved.
    pub(super) fn moved(self) -> &'static str {
        match self {
            Self::Receipts => "moved",
            Self::Feed => "feed-moved",
        }
    }
}

/// What this node did last with an outbox.
#[derive(Clone, Copy)]
struct Emptied {
    at: Instant,
    /// What was moved and is still there. It goes with the next look.
    moved: Option<Moved>,
}

/// Rows that were moved.
#[derive(Clone, Copy)]
struct Moved {
    /// The position before the first.
    base: u64,
    /// How many.
    rows: usize,
}

/// One move at a time.
pub(super) struct Mover {
    /// When the last round began that emptied all there was.
    complete_at: Instant,
}

impl Default for Mover {
    fn default() -> Self {
        Self {
            complete_at: Instant::now(),
        }
    }
}

/// In the place of a length: it is longer, and follows in two bytes.
pub(super) const LONG: u8 = 255;

/// Rows of one tenant out of one outbox, as [`script::APPEND`] takes them.
#[derive(Default)]
pub(super) struct Rows {
    positions: Vec<u8>,
    rows: Vec<u8>,
}

impl Rows {
    pub(super) fn push(&mut self, position: u64, row: &[u8]) -> Result<(), StoreError> {
        let long = u16::try_from(row.len()).map_err(|_| damaged("a receipt"))?;
        self.positions.extend_from_slice(&p48(position));
        match u8::try_from(long) {
            Ok(length) if length < LONG => self.rows.push(length),
            _ => {
                self.rows.push(LONG);
                self.rows.extend_from_slice(&long.to_be_bytes());
            }
        }
        self.rows.extend_from_slice(row);
        Ok(())
    }
}

impl Shared {
    /// A receipt may have been written there.
    pub(super) fn touch(&self, bucket: u16) {
        self.touched((Log::Receipts, bucket));
    }

    /// A row of the feed of presence may have been.
    pub(super) fn touch_feed(&self, bucket: u16) {
        self.touched((Log::Feed, bucket));
    }

    fn touched(&self, outbox: Outbox) {
        if self.outboxes.written.lock().insert(outbox) {
            self.outboxes.news.notify_one();
        }
    }

    /// All outboxes that this node looks after are looked at in the next round: a dead node may have left receipts there.
    pub(super) fn look_at_outboxes(&self) {
        let mine: Vec<u16> = (0..BUCKETS).filter(|bucket| self.nodes.looks_after(*bucket)).collect();
        let mut written = self.outboxes.written.lock();
        for log in Log::ALL {
            written.extend(mine.iter().map(|bucket| (log, *bucket)));
        }
    }

    /// Takes the outboxes that are to be emptied now: those in which something was written, and those where something that was moved
    /// waits to be dropped. `all`: those that were emptied a moment ago, too.
    fn to_empty(&self, all: bool) -> BTreeSet<Outbox> {
        let now = Instant::now();
        let emptied = self.outboxes.emptied.lock();
        let rested = |(log, _): &Outbox, done: &Emptied| all || now >= done.at + log.left_alone();
        let mut written = self.outboxes.written.lock();
        let (mut due, later): (BTreeSet<Outbox>, BTreeSet<Outbox>) = std::mem::take(&mut *written)
            .into_iter()
            .partition(|outbox| emptied.get(outbox).is_none_or(|done| rested(outbox, done)));
        *written = later;
        due.extend(
            emptied
                .iter()
                .filter(|(outbox, done)| done.moved.is_some() && rested(outbox, done))
                .map(|(outbox, _)| outbox),
        );
        due
    }

    /// Empties one outbox.
    async fn empty(&self, outbox: Outbox) -> Result<usize, StoreError> {
        let (log, bucket) = outbox;
        let kinds = [Some(log.outbox()), Some('c'), log.events()];
        let keys: Vec<String> = kinds.into_iter().flatten().map(|kind| self.keys.bucket(kind, bucket)).collect();
        let slot = Slot::of_bucket(bucket);
        let mut before = self.outboxes.emptied.lock().get(&outbox).and_then(|done| done.moved);
        let mut moved = 0;
        loop {
            // Where a lost server may have taken positions along that a log on another one remembers, they start higher. One server, or one
            // that takes its place, has of both what it had at one moment: there they must stay, or what was moved is moved again.
            let floor = if self.shards.replicated() || self.shards.is_one() {
                0
            } else {
                self.shards.floor()
            };
            let make = |_| {
                let mut cmd = script::OUTBOX.call(&keys);
                cmd.arg(ROWS).arg(floor);
                match before {
                    Some(moved) => cmd.arg(moved.base).arg(moved.rows),
                    None => cmd.arg("").arg("0"),
                };
                cmd.arg(log.counter());
                cmd
            };
            let mut reply = Reply::new(self.shards.ask(Route::durable(slot), make).await?, "an outbox")?;
            let base = reply.count()?;
            let mut list = Reply::new(reply.next()?, "an outbox")?;
            let mut of_tenant: BTreeMap<u16, Rows> = BTreeMap::new();
            let mut count = 0;
            for position in base + 1.. {
                let Ok(row) = list.next() else { break };
                let row = reply::bytes(row).ok_or_else(|| list.damaged())?;
                count += 1;
                let read = match log {
                    Log::Receipts => receipt::read_outbox(&row, bucket, &self.ids),
                    Log::Feed => feed::read_outbox(&row),
                };
                let taken = read.and_then(|(tenant, row)| of_tenant.entry(tenant.0).or_default().push(position, &row));
                if let Err(error) = taken {
                    tracing::error!(error = %error, "a row in an outbox of bucket {bucket} cannot be read and is left out: {error}");
                }
            }
            for (tenant, rows) in of_tenant {
                self.append(TenantId(tenant), log, &bucket.to_string(), &rows).await?;
            }
            moved += count;
            before = (count > 0).then_some(Moved { base, rows: count });
            let done = Emptied {
                at: Instant::now(),
                moved: before,
            };
            self.outboxes.emptied.lock().insert(outbox, done);
            if count < ROWS {
                return Ok(moved);
            }
        }
    }

    /// Adds to a log what was not taken from that source yet: positions of a source rise.
    pub(super) async fn append(&self, tenant: TenantId, log: Log, source: &str, rows: &Rows) -> Result<(), StoreError> {
        let keys = [self.keys.tenant(tenant, log.name()), self.keys.tenant(tenant, log.moved())];
        let floor = if self.shards.replicated() { 0 } else { self.shards.floor() };
        let make = |_| {
            let mut cmd = script::APPEND.call(&keys);
            cmd.arg(source).arg(floor).arg(&rows.positions).arg(&rows.rows);
            cmd
        };
        self.shards
            .ask(Route::durable(Slot::of(&keys::tenant_tag(tenant))), make)
            .await
            .map(|_| ())
    }
}

/// Moves what this node wrote. Answers how many receipts.
pub(super) async fn round(store: &RedisStore) -> Result<usize, StoreError> {
    go_round(store, true).await
}

async fn go_round(store: &RedisStore, all: bool) -> Result<usize, StoreError> {
    let mut mover = store.mover.lock().await;
    let shared = &store.shared;
    let began = Instant::now();
    let mut emptied = stream::iter(shared.to_empty(all))
        .map(|outbox| async move { (outbox, shared.empty(outbox).await) })
        .buffer_unordered(TOGETHER);
    let (mut moved, mut failed) = (0, None);
    while let Some((outbox, result)) = emptied.next().await {
        match result {
            Ok(rows) => moved += rows,
            Err(error) => {
                shared.outboxes.written.lock().insert(outbox);
                failed = Some(error);
            }
        }
    }
    if failed.is_none() {
        mover.complete_at = began;
    }
    shared.metrics.receipts_lag(mover.complete_at.elapsed());
    failed.map_or(Ok(moved), Err)
}

/// Moves receipts as they come, until the store is gone.
pub(super) async fn run(store: Weak<RedisStore>) {
    let mut all_at = Instant::now();
    loop {
        let Some(shared) = store.upgrade().map(|store| Arc::clone(&store.shared)) else {
            return;
        };
        let _ = tokio::time::timeout_at(all_at, shared.outboxes.news.notified()).await;
        tokio::time::sleep(EVERY).await;
        if Instant::now() >= all_at {
            all_at = Instant::now() + ALL_EVERY;
            shared.look_at_outboxes();
        }
        drop(shared);
        let Some(store) = store.upgrade() else { return };
        if let Err(error) = go_round(&store, false).await {
            tracing::debug!("receipts wait in their outboxes: {error}");
        }
    }
}
