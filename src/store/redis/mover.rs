//! Receipts on their way: from the outbox of a bucket, where the step that ended an event wrote them, into the log of their tenant.
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
    RedisStore, Shared,
    keys::{self, BUCKETS, Slot},
    record,
    reply::{self, Reply},
    script,
    shards::Route,
};
use crate::{domain::TenantId, store::StoreError};

/// How long receipts may gather.
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
    written: Mutex<BTreeSet<u16>>,
    news: Notify,
}

/// One move at a time.
#[derive(Default)]
pub(super) struct Mover;

impl Shared {
    /// A receipt may have been written there.
    pub(super) fn touch(&self, bucket: u16) {
        if self.outboxes.written.lock().insert(bucket) {
            self.outboxes.news.notify_one();
        }
    }

    /// All outboxes that this node looks after are looked at in the next round: a dead node may have left receipts there.
    pub(super) fn look_at_outboxes(&self) {
        let mine: Vec<u16> = (0..BUCKETS).filter(|bucket| self.nodes.looks_after(*bucket)).collect();
        self.outboxes.written.lock().extend(mine);
    }

    /// Empties one outbox.
    async fn empty(&self, bucket: u16) -> Result<usize, StoreError> {
        let keys = [self.keys.bucket('o', bucket), self.keys.bucket('c', bucket)];
        let slot = Slot::of_bucket(bucket);
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
                cmd
            };
            let mut reply = Reply::new(self.shards.ask(Route::durable(slot), make).await?, "an outbox")?;
            let base = reply.count()?;
            let mut rows = Vec::new();
            let mut list = Reply::new(reply.next()?, "an outbox")?;
            while let Ok(row) = list.next() {
                rows.push(reply::bytes(row).ok_or_else(|| list.damaged())?);
            }
            if rows.is_empty() {
                return Ok(moved);
            }
            let mut of_tenant: BTreeMap<u16, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
            for (position, row) in (base + 1..).zip(&rows) {
                match record::read_outbox(row, bucket, &self.ids) {
                    Ok((tenant, receipt)) => of_tenant.entry(tenant.0).or_default().push((position, receipt)),
                    Err(error) => tracing::error!(error = %error, "a receipt in bucket {bucket} cannot be read and is left out: {error}"),
                }
            }
            for (tenant, receipts) in of_tenant {
                self.append(TenantId(tenant), bucket, &receipts).await?;
            }
            let make = |_| {
                let mut cmd = script::TRIM.call(&keys);
                cmd.arg(base).arg(rows.len());
                cmd
            };
            self.shards.ask(Route::durable(slot), make).await?;
            moved += rows.len();
            if rows.len() < ROWS {
                return Ok(moved);
            }
        }
    }

    async fn append(&self, tenant: TenantId, bucket: u16, receipts: &[(u64, Vec<u8>)]) -> Result<(), StoreError> {
        let keys = [self.keys.tenant(tenant, "log"), self.keys.tenant(tenant, "moved")];
        let floor = if self.shards.replicated() { 0 } else { self.shards.floor() };
        let make = |_| {
            let mut cmd = script::APPEND.call(&keys);
            cmd.arg(bucket).arg(floor);
            for (position, receipt) in receipts {
                cmd.arg(*position).arg(receipt);
            }
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
    let _one_at_a_time = store.mover.lock().await;
    let shared = &store.shared;
    let written = std::mem::take(&mut *shared.outboxes.written.lock());
    let mut emptied = stream::iter(written)
        .map(|bucket| async move { (bucket, shared.empty(bucket).await) })
        .buffer_unordered(TOGETHER);
    let (mut moved, mut failed) = (0, None);
    while let Some((bucket, result)) = emptied.next().await {
        match result {
            Ok(rows) => moved += rows,
            Err(error) => {
                shared.outboxes.written.lock().insert(bucket);
                failed = Some(error);
            }
        }
    }
    shared.metrics.unmoved(shared.outboxes.written.lock().len());
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
        if let Err(error) = round(&store).await {
            tracing::debug!("receipts wait in their outboxes: {error}");
        }
    }
}
