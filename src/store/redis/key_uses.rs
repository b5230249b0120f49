//! When API keys were last used: a hash beside that of the keys, which no node needs in memory.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    Shared,
    keys::{SHARED, Slot},
    shards::Route,
};
use crate::{
    domain::{TenantId, Timestamp},
    store::{KeyUse, StoreError, codec::damaged},
};

/// The hash: tenant, colon, id of the key; milliseconds since 1970.
const NAME: &str = "key-uses";

/// When each key was last used, by tenant and id.
pub(super) type Noted = HashMap<(TenantId, Arc<str>), Timestamp>;

impl Shared {
    pub(super) async fn read_key_uses(&self) -> Result<Noted, StoreError> {
        let rows = self.read_shared(NAME).await?;
        let read = |field: &[u8], at: &[u8]| {
            let (tenant, id) = std::str::from_utf8(field).ok()?.split_once(':')?;
            let at = std::str::from_utf8(at).ok()?.parse().ok()?;
            Some(((TenantId(tenant.parse().ok()?), Arc::from(id)), Timestamp(at)))
        };
        let rows = rows.iter().map(|(field, at)| read(field, at));
        rows.collect::<Option<_>>().ok_or_else(|| damaged("the last use of an API key"))
    }

    /// Notes what is news of keys that are there. Two nodes that do so at once may leave the earlier of two times, which are a minute
    /// apart at most.
    pub(super) async fn note_key_uses(&self, uses: &[KeyUse]) -> Result<(), StoreError> {
        self.remember_all().await?;
        let there: HashSet<(TenantId, Arc<str>)> = {
            let keys = self.memory.keys.read();
            keys.values().map(|key| (TenantId(key.tenant), key.id.as_str().into())).collect()
        };
        let noted = self.read_key_uses().await?;
        let news: Vec<(String, u64)> = uses
            .iter()
            .map(|used| ((used.tenant, used.id.clone()), used.at))
            .filter(|(key, at)| there.contains(key) && noted.get(key).is_none_or(|noted| noted < at))
            .map(|((tenant, id), at)| (field(tenant, &id), at.0))
            .collect();
        if news.is_empty() {
            return Ok(());
        }
        let hash = self.keys.shared(NAME);
        let make = |_| {
            let mut cmd = redis::cmd("HSET");
            cmd.arg(&hash);
            for (field, at) in &news {
                cmd.arg(field).arg(at);
            }
            cmd
        };
        self.shards.ask(Route::quick(Slot::of(SHARED)), make).await.map(|_| ())
    }

    /// Forgets a key that is gone.
    pub(super) async fn drop_key_use(&self, tenant: TenantId, id: &str) -> Result<(), StoreError> {
        let (hash, field) = (self.keys.shared(NAME), field(tenant, id));
        let make = |_| {
            let mut cmd = redis::cmd("HDEL");
            cmd.arg(&hash).arg(&field);
            cmd
        };
        self.shards.ask(Route::quick(Slot::of(SHARED)), make).await.map(|_| ())
    }
}

fn field(tenant: TenantId, id: &str) -> String {
    format!("{}:{id}", tenant.0)
}
