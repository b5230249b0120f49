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
        let uses = self.drain();
        if uses.is_empty() {
            return;
        }
        if let Err(error) = store.note_key_uses(&uses).await {
            tracing::warn!(error = %error, "when keys were last used could not be written, and is tried again: {error}");
            self.give_back(uses);
        }
    }

    fn drain(&self) -> Vec<KeyUse> {
        let uses = std::mem::take(&mut *self.0.write());
        let each = uses.into_iter().map(|((tenant, id), at)| KeyUse {
            tenant,
            id,
            at: Timestamp(at.into_inner()),
        });
        each.collect()
    }

    fn give_back(&self, uses: Vec<KeyUse>) {
        uses.into_iter().for_each(|used| self.take(used.tenant, used.id, used.at));
    }

    /// Writes every minute, and at the end.
    pub async fn run(self, store: Arc<dyn Store>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(WRITE_EVERY)).await.is_some() {
            self.write(&*store).await;
        }
        self.write(&*store).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_written_stays_and_covers_nothing_newer() {
        let (uses, tenant) = (KeyUses::default(), TenantId(3));
        let take = |id: &str, at| uses.take(tenant, id.into(), Timestamp(at));
        take("a", 5);
        take("a", 4);
        take("b", 6);
        assert_eq!(uses.last(tenant, "a"), Some(Timestamp(5)));
        let refused = uses.drain();
        assert_eq!((refused.len(), uses.last(tenant, "a")), (2, None));
        take("a", 9);
        uses.give_back(refused);
        assert_eq!(uses.last(tenant, "a"), Some(Timestamp(9)));
        assert_eq!(uses.last(tenant, "b"), Some(Timestamp(6)));
        assert_eq!(uses.last(TenantId(0), "a"), None, "of another tenant");
        assert_eq!(uses.drain().len(), 2);
        assert!(uses.drain().is_empty());
    }
}
