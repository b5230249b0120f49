//! The receipts of each tenant that somebody listens to, followed once for all of this node's streams.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::row::Row;
use crate::{
    domain::TenantId,
    http::{Tail, Tails},
    store::{Store, StoreError},
};

/// How often the store is asked for news that it does not tell of by itself.
const EVERY: Duration = Duration::from_millis(200);
/// The pause between two looks, however much is written: what comes meanwhile is read at once.
const PAUSE: Duration = Duration::from_millis(10);
/// Rows of one look.
const ROWS: usize = 1_000;
/// Rows that are kept for all streams of a tenant.
const KEPT: usize = 4_096;

/// Follows receipts. Clones share everything.
#[derive(Clone)]
pub(super) struct Follower {
    store: Arc<dyn Store>,
    tails: Tails<Row>,
}

impl Follower {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            tails: Tails::new(KEPT),
        }
    }

    /// The end of a tenant's receipts, followed as long as somebody has it.
    pub(super) async fn tail(&self, tenant: TenantId) -> Result<Arc<Tail<Row>>, StoreError> {
        let end = async { Ok(self.store.receipt_bounds(tenant).await?.newest) };
        self.tails.tail(tenant, end).await
    }

    /// Asks the store for news until the stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        let wait = async || {
            tokio::time::sleep(PAUSE).await;
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = self.store.receipts_written() => {}
            }
        };
        while stop.run_until_cancelled(wait()).await.is_some() {
            for (tenant, tail) in self.tails.followed() {
                // What cannot be read now is read at the next look.
                if let Err(error) = self.look(tenant, &tail).await {
                    match error {
                        StoreError::Unavailable(why) => tracing::debug!("streams of receipts wait: {why}"),
                        other => tracing::error!(error = %other, "receipts cannot be read: {other}"),
                    }
                }
            }
        }
    }

    async fn look(&self, tenant: TenantId, tail: &Tail<Row>) -> Result<(), StoreError> {
        loop {
            let receipts = self.store.receipts(tenant, tail.end(), ROWS).await?;
            if receipts.is_empty() {
                return Ok(());
            }
            let behind_all = self.store.receipt_bounds(tenant).await?.behind_all();
            let generation = self.store.generation();
            let rows = receipts.into_iter().map(|receipt| Row::of(receipt, generation));
            if !tail.take(rows.collect::<Result<_, _>>()?, ROWS, behind_all) {
                return Ok(());
            }
        }
    }
}
