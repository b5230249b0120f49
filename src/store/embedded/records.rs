//! Receipts and the ledger's minutes.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;

use super::{EmbeddedStore, draft::Draft, engine::Space, keys, op::Op, rows, steps::Book, steps::position_of};
use crate::{
    domain::TenantId,
    store::{Receipt, Records, StoreError, figures},
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

#[async_trait]
impl Records for EmbeddedStore {
    async fn receipts(&self, tenant: TenantId, after: u64, limit: usize) -> Result<Vec<Receipt>, StoreError> {
        let Some(from) = after.checked_add(1) else { return Ok(Vec::new()) };
        self.shared.read(|engine| {
            let mut found = Vec::new();
            for row in engine
                .range(Space::Log, &keys::receipt(tenant, from), &keys::receipt(tenant, u64::MAX))
                .take(limit)
            {
                let (key, value) = row?;
                found.push(rows::decode_receipt(position_of(&key)?, &value)?);
            }
            Ok(found)
        })
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
