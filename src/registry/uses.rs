//! When keys were last used: gathered in memory, and written once a minute, so that no request pays for it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{Caller, TenantId, Timestamp},
    store::{KeyUse, Store},
};

/// Between two writes: what a crash loses at most, and what other nodes do not know yet.
const WRITE_EVERY: Duration = Duration::from_secs(60);

/// By tenant and id of the key: the last time, in milliseconds since 1970.
type Unwritten = HashMap<(TenantId, Arc<str>), AtomicU64>;

/// Keys that were used and are not written yet: as many as there are keys, at most. Cheap to clone.
#[derive(Clone, Default)]
pub struct KeyUses(Arc<RwLock<Unwritten>>);

impl KeyUses {
    /// The caller came with its key. Who comes with a token has none.
    pub fn note(&self, caller: &Caller, now: Timestamp) {
        if let Some(id) = &caller.key_id {
            self.take(caller.tenant, id.clone(), now);
        }
    }

    fn take(&self, tenant: TenantId, id: Arc<str>, at: Timestamp) {
        let key = (tenant, id);
        if let Some(last) = self.0.read().get(&key) {
            last.fetch_max(at.0, Ordering::Relaxed);
            return;
        }
        self.0.write().entry(key).or_default().fetch_max(at.0, Ordering::Relaxed);
    }

    /// When a key was last used at this node, if that is not written yet.
    pub(super) fn last(&self, tenant: TenantId, id: &str) -> Option<Timestamp> {
        let uses = self.0.read();
        let last = uses.get(&(tenant, Arc::from(id)))?;
        Some(Timestamp(last.load(Ordering::Relaxed)))
    }

    /// Writes what is not written yet. What the store does not take is tried again the next time.
    pub async fn write(&self, store: &dyn Store) {
        let uses = std::mem::take(&mut *self.0.write());
        if uses.is_empty() {
            return;
        }
        let uses = uses.into_iter().map(|((tenant, id), at)| KeyUse {
            tenant,
            id,
            at: Timestamp(at.into_inner()),
        });
        let uses: Vec<KeyUse> = uses.collect();
        if let Err(error) = store.note_key_uses(&uses).await {
            tracing::warn!(error = %error, "when keys were last used could not be written, and is tried again: {error}");
            uses.into_iter().for_each(|used| self.take(used.tenant, used.id, used.at));
        }
    }

    /// Writes every minute, and at the end.
    pub async fn run(self, store: Arc<dyn Store>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(WRITE_EVERY)).await.is_some() {
            self.write(&*store).await;
        }
        self.write(&*store).await;
    }
}
