//! Receipts and the ledger's minutes.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use redis::Value;

use super::{
    RedisStore, Shared,
    keys::{self, Slot},
    mover::{self, Log},
    receipt,
    reply::{self, Reply},
    shards::Route,
};
use crate::{
    domain::TenantId,
    store::{FeedBounds, Receipt, Records, StoreError, codec::damaged, figures},
};

/// Hours read at once.
const TOGETHER: usize = 32;

/// Entries of a log read at once, at most; each may have hundreds of rows.
const ENTRIES: usize = 16;

/// The position of an entry of a log, out of its id.
fn position_of(id: &[u8]) -> Option<u64> {
    std::str::from_utf8(id).ok()?.split_once('-')?.0.parse().ok()
}

/// The rows of an entry of a log, each with its position: that of the entry is the position of its last row.
fn read_entry(entry: Value) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
    let mut entry = Reply::new(entry, "a log of receipts")?;
    let last = position_of(&entry.bytes()?).ok_or_else(|| entry.damaged())?;
    let fields = reply::hash(entry.next()?, "a log of receipts")?;
    let (_, rows) = fields.into_iter().next().ok_or_else(|| damaged("a log of receipts"))?;
    let (mut found, mut left) = (Vec::new(), rows.as_slice());
    let row = |left: &mut &[u8]| -> Option<Vec<u8>> {
        let (length, mut rest) = left.split_first()?;
        let mut length = usize::from(*length);
        if length == usize::from(mover::LONG) {
            let (long, behind) = rest.split_first_chunk()?;
            (length, rest) = (usize::from(u16::from_be_bytes(*long)), behind);
        }
        let (row, rest) = rest.split_at_checked(length)?;
        *left = rest;
        Some(row.to_vec())
    };
    while !left.is_empty() {
        found.push((0, row(&mut left).ok_or_else(|| damaged("a log of receipts"))?));
    }
    for ((position, _), behind) in found.iter_mut().rev().zip(0..) {
        *position = last.checked_sub(behind).ok_or_else(|| damaged("a log of receipts"))?;
    }
    Ok(found)
}

impl Shared {
    /// Rows of a tenant's log behind a position.
    pub(super) async fn logged(&self, tenant: TenantId, log: Log, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let (key, moved) = (self.keys.tenant(tenant, log.name()), self.keys.tenant(tenant, log.moved()));
        let route = Route::read(Slot::of(&keys::tenant_tag(tenant)));
        let first = |_| {
            let mut cmd = redis::cmd("HGET");
            cmd.arg(&moved).arg("first");
            cmd
        };
        // Where the log begins may be in the middle of an entry.
        let first = reply::int(&self.shards.ask(route, first).await?).and_then(|first| u64::try_from(first).ok());
        let after = after.max(first.unwrap_or(0).saturating_sub(1));
        let (mut found, mut behind) = (Vec::new(), after);
        while found.len() < limit {
            let make = |_| {
                let mut cmd = redis::cmd("XRANGE");
                cmd.arg(&key)
                    .arg(format!("({behind}-0"))
                    .arg("+")
                    .arg("COUNT")
                    .arg(limit.min(ENTRIES));
                cmd
            };
            let Value::Array(entries) = self.shards.ask(route, make).await? else {
                break;
            };
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                found.extend(read_entry(entry)?.into_iter().filter(|(position, _)| *position > after));
            }
            behind = found.last().map_or(behind, |(position, _)| *position);
        }
        found.truncate(limit);
        Ok(found)
    }

    /// The positions of the oldest and the newest row that is kept, as far as they are known: `first` is not where none was dropped yet.
    async fn ends_of(&self, tenant: TenantId, log: Log) -> Result<(Option<u64>, Option<u64>), StoreError> {
        let moved = self.keys.tenant(tenant, log.moved());
        let make = |_| {
            let mut cmd = redis::cmd("HMGET");
            cmd.arg(&moved).arg("first").arg("last");
            cmd
        };
        let found = self.shards.ask(Route::read(Slot::of(&keys::tenant_tag(tenant))), make).await?;
        let mut found = Reply::new(found, "the ends of a log")?;
        let mut position = || Ok::<_, StoreError>(reply::int(&found.next()?).and_then(|position| u64::try_from(position).ok()));
        Ok((position()?, position()?))
    }

    /// The ends of a tenant's log, up to where nothing is lost with a server that promises not to. A row that no replica has may be
    /// lost with its primary, and is then moved again, perhaps to another position; whoever has seen it would take that one for another.
    async fn lasting_ends(&self, tenant: TenantId, log: Log) -> Result<(Option<u64>, Option<u64>), StoreError> {
        let (first, last) = self.ends_of(tenant, log).await?;
        let Some(mut newest) = last else { return Ok((first, None)) };
        let known = self.seen.lock().get(&(tenant, log)).copied().unwrap_or(0);
        if self.shards.replicated() && newest > known {
            let moved = self.keys.tenant(tenant, log.moved());
            let make = |_| {
                // A write that changes nothing: the wait for replicas behind it covers all that was written before.
                let mut cmd = redis::cmd("HINCRBY");
                cmd.arg(&moved).arg("last").arg(0);
                cmd
            };
            let found = self.shards.ask(Route::durable(Slot::of(&keys::tenant_tag(tenant))), make).await?;
            let confirmed = reply::int(&found).and_then(|last| u64::try_from(last).ok());
            newest = confirmed.ok_or_else(|| damaged("the ends of a log"))?;
            let mut seen = self.seen.lock();
            let seen = seen.entry((tenant, log)).or_default();
            *seen = newest.max(*seen);
        }
        Ok((first, Some(newest)))
    }

    /// Rows of a tenant's log behind a position, as far as they last.
    pub(super) async fn lasting(&self, tenant: TenantId, log: Log, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let newest = self.lasting_ends(tenant, log).await?.1.unwrap_or(0);
        if newest <= after {
            return Ok(Vec::new());
        }
        let mut rows = self.logged(tenant, log, after, limit).await?;
        rows.retain(|(position, _)| *position <= newest);
        Ok(rows)
    }

    /// How far a tenant's log goes, of which nothing is lost with a server that promises not to.
    pub(super) async fn bounds_of(&self, tenant: TenantId, log: Log) -> Result<FeedBounds, StoreError> {
        let (first, last) = self.lasting_ends(tenant, log).await?;
        let Some(newest) = last else { return Ok(FeedBounds::default()) };
        Ok(FeedBounds {
            oldest: first.unwrap_or(1).min(newest),
            newest,
        })
    }

    pub(super) async fn hour(&self, hour: u64) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        let key = self.keys.hour(hour);
        let make = |_| {
            let mut cmd = redis::cmd("HGETALL");
            cmd.arg(&key);
            cmd
        };
        reply::hash(
            self.shards.ask(Route::read(Slot::of(&keys::hour_tag(hour))), make).await?,
            "minutes of the ledger",
        )
    }
}

#[async_trait]
impl Records for RedisStore {
    async fn receipts(&self, tenant: TenantId, after: u64, limit: usize) -> Result<Vec<Receipt>, StoreError> {
        let rows = self.shared.lasting(tenant, Log::Receipts, after, limit).await?;
        rows.into_iter()
            .map(|(position, bytes)| receipt::read_receipt(position, &bytes))
            .collect()
    }

    async fn receipt_bounds(&self, tenant: TenantId) -> Result<FeedBounds, StoreError> {
        self.shared.bounds_of(tenant, Log::Receipts).await
    }

    async fn add_ledger_minute(&self, minute: u64, node: &str, new: &[(String, f64)]) -> Result<(), StoreError> {
        let hour = minute / 60;
        let key = self.shared.keys.hour(hour);
        // The incarnation is in it: nobody but this process writes this row, so that reading, adding and writing are one step.
        let (_, incarnation) = self.shared.nodes.me();
        let field = format!("{minute}:{node}:{incarnation}");
        let slot = Slot::of(&keys::hour_tag(hour));
        let mut one_at_a_time = self.ledger.lock().await;
        // A write whose answer was lost may have been done: what was there before it is remembered, so that it is not added twice.
        if one_at_a_time.as_ref().is_none_or(|(of, _)| *of != field) {
            let make = |_| {
                let mut cmd = redis::cmd("HGET");
                cmd.arg(&key).arg(&field);
                cmd
            };
            let before = reply::bytes(self.shared.shards.ask(Route::read(slot), make).await?);
            *one_at_a_time = Some((field.clone(), before));
        }
        let mut sum = BTreeMap::new();
        if let Some((_, Some(row))) = &*one_at_a_time {
            figures::add_figures(row, &mut sum)?;
        }
        for (name, figure) in new {
            *sum.entry(name.clone()).or_insert(0.0) += figure;
        }
        let row = figures::encode_figures(sum.iter());
        let make = |_| {
            let mut cmd = redis::cmd("HSET");
            cmd.arg(&key).arg(&field).arg(&row);
            cmd
        };
        // A sum: writing it twice comes to the same.
        self.shared.shards.ask(Route::durable(slot), make).await?;
        *one_at_a_time = Some((field, Some(row)));
        Ok(())
    }

    async fn ledger(&self, from: u64, to: u64) -> Result<BTreeMap<String, f64>, StoreError> {
        let mut sum = BTreeMap::new();
        if from >= to {
            return Ok(sum);
        }
        let mut hours = stream::iter(from / 60..=(to - 1) / 60)
            .map(|hour| self.shared.hour(hour))
            .buffer_unordered(TOGETHER);
        while let Some(rows) = hours.next().await {
            for (field, row) in rows? {
                let minute = std::str::from_utf8(&field)
                    .ok()
                    .and_then(|field| field.split_once(':')?.0.parse::<u64>().ok());
                let minute = minute.ok_or_else(|| damaged("minutes of the ledger"))?;
                if (from..to).contains(&minute) {
                    figures::add_figures(&row, &mut sum)?;
                }
            }
        }
        Ok(sum)
    }
}
