//! Receipts and the ledger's minutes.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use redis::Value;

use super::{
    RedisStore, Shared,
    keys::{self, Slot},
    mover, record,
    reply::{self, Reply},
    shards::Route,
};
use crate::{
    domain::TenantId,
    store::{Receipt, Records, StoreError, codec::damaged, figures},
};

/// Hours read at once.
const TOGETHER: usize = 32;

/// The position of an entry of a log, out of its id.
pub(super) fn position_of(id: &[u8]) -> Option<u64> {
    std::str::from_utf8(id).ok()?.split_once('-')?.0.parse().ok()
}

/// Entries of a log: positions and receipts.
pub(super) fn read_entries(value: Value) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
    let Value::Array(entries) = value else { return Ok(Vec::new()) };
    let mut found = Vec::with_capacity(entries.len());
    for entry in entries {
        let mut entry = Reply::new(entry, "a log of receipts")?;
        let position = position_of(&entry.bytes()?).ok_or_else(|| entry.damaged())?;
        let fields = reply::hash(entry.next()?, "a log of receipts")?;
        let (_, receipt) = fields.into_iter().next().ok_or_else(|| damaged("a log of receipts"))?;
        found.push((position, receipt));
    }
    Ok(found)
}

impl Shared {
    /// Entries of a tenant's log behind a position.
    pub(super) async fn entries(&self, tenant: TenantId, after: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let key = self.keys.tenant(tenant, "log");
        let make = |_| {
            let mut cmd = redis::cmd("XRANGE");
            cmd.arg(&key).arg(format!("({after}-0")).arg("+").arg("COUNT").arg(limit);
            cmd
        };
        read_entries(self.shards.ask(Route::read(Slot::of(&keys::tenant_tag(tenant))), make).await?)
    }

    async fn hour(&self, hour: u64) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
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
        mover::round(self).await?;
        let entries = self.shared.entries(tenant, after, limit).await?;
        entries
            .into_iter()
            .map(|(position, bytes)| record::read_receipt(position, &bytes))
            .collect()
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
