//! Receipts and the ledger's minutes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use parking_lot::RwLock;
use tokio::sync::Notify;

use super::{
    EmbeddedStore,
    draft::Draft,
    engine::{Engine, Space},
    keys,
    op::Op,
    positions::position_of,
    receipt::Packed,
    steps::Book,
};
use crate::{
    domain::TenantId,
    store::{FeedBounds, Receipt, Records, StoreError, figures},
};

impl Book {
    pub(super) fn add_minute(draft: &mut Draft<'_>, minute: u64, node: &str, figures: &[(String, f64)]) -> Result<(), StoreError> {
        let key = keys::minute(minute, node);
        let mut sum = BTreeMap::new();
        if let Some(row) = draft.get(Space::Log, &key)? {
            figures::add_figures(&row, &mut sum)?;
        }
        for (name, figure) in figures {
            *sum.entry(name.clone()).or_insert(0.0) += figure;
        }
        draft.put(Space::Log, key, figures::encode_figures(sum.iter()));
        draft.must_sync();
        Ok(())
    }
}

/// How far the receipts of each tenant go, as of the last commit: rows of one that is under way may be seen one by one, and it may yet
/// fail.
#[derive(Default)]
pub(super) struct Ends {
    newest: RwLock<HashMap<TenantId, u64>>,
    written: Notify,
}

impl Ends {
    pub(super) fn of(engine: &Engine, tenants: impl Iterator<Item = u16>) -> Result<Self, StoreError> {
        let ends = Self::default();
        ends.newest.write().extend(tenants.map(|tenant| (TenantId(tenant), 0)));
        ends.read_again(engine)?;
        Ok(ends)
    }

    /// Reads the ends of all tenants from the rows.
    pub(super) fn read_again(&self, engine: &Engine) -> Result<(), StoreError> {
        for (tenant, newest) in self.newest.write().iter_mut() {
            let rows = engine.range(Space::Log, &keys::receipt(*tenant, 0), &keys::receipt(*tenant, u64::MAX));
            if let Some((key, _)) = { rows }.next_back().transpose()? {
                *newest = position_of(&key)?;
            }
        }
        Ok(())
    }

    /// A commit holds that wrote receipts up to those positions.
    pub(super) fn committed(&self, ends: impl Iterator<Item = (TenantId, u64)>) {
        let mut ends = ends.peekable();
        if ends.peek().is_some() {
            self.newest.write().extend(ends);
            self.written.notify_one();
        }
    }

    fn newest(&self, tenant: TenantId) -> u64 {
        self.newest.read().get(&tenant).copied().unwrap_or(0)
    }
}

#[async_trait]
impl Records for EmbeddedStore {
    async fn receipts(&self, tenant: TenantId, after: u64, limit: usize) -> Result<Vec<Receipt>, StoreError> {
        let to = self.shared.receipts.newest(tenant);
        let Some(from) = after.checked_add(1).filter(|from| *from <= to) else {
            return Ok(Vec::new());
        };
        self.shared.read(|engine| {
            let mut found = Vec::new();
            for row in engine.range(Space::Log, &keys::receipt(tenant, from), &keys::receipt(tenant, to)) {
                if found.len() >= limit {
                    break;
                }
                let (key, value) = row?;
                Packed::of(position_of(&key)?, &value)?.add_to(&mut found, after, limit)?;
            }
            Ok(found)
        })
    }

    async fn receipt_bounds(&self, tenant: TenantId) -> Result<FeedBounds, StoreError> {
        let newest = self.shared.receipts.newest(tenant);
        if newest == 0 {
            return Ok(FeedBounds::default());
        }
        self.shared.read(|engine| {
            let first = engine
                .range(Space::Log, &keys::receipt(tenant, 0), &keys::receipt(tenant, newest))
                .next();
            let first = first
                .transpose()?
                .map(|(key, row)| Packed::of(position_of(&key)?, &row).map(|row| row.first()));
            let oldest = first.unwrap_or(Ok(newest))?;
            Ok(FeedBounds { oldest, newest })
        })
    }

    async fn receipts_written(&self) {
        self.shared.receipts.written.notified().await;
    }

    async fn add_ledger_minute(&self, minute: u64, node: &str, figures: &[(String, f64)]) -> Result<(), StoreError> {
        let (node, figures) = (node.to_owned(), figures.to_vec());
        self.ask(|answer| Op::AddMinute(minute, node, figures, answer)).await?
    }

    async fn ledger(&self, from: u64, to: u64) -> Result<BTreeMap<String, f64>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let read = move || {
            shared.read(|engine| {
                let mut sum = BTreeMap::new();
                if from >= to {
                    return Ok(sum);
                }
                let end = keys::minute(to, "");
                for row in engine.range(Space::Log, &keys::minute(from, ""), &end) {
                    let (key, value) = row?;
                    if *key < *end {
                        figures::add_figures(&value, &mut sum)?;
                    }
                }
                Ok(sum)
            })
        };
        // A year of minutes takes seconds: off the event loop.
        let sum = tokio::task::spawn_blocking(read).await;
        sum.unwrap_or_else(|_| Err(StoreError::Unavailable("the reading of the ledger was cut short".into())))
    }
}
