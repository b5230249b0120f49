//! Tenants and keys that an import brings, taken in alike by every engine.

use super::{KeyRow, Taken, TenantRow};
use crate::{
    domain::TenantId,
    store::{KeyUse, Registry, StoreError, Tenant},
};

/// Takes in a key.
pub(in crate::store) async fn import_key(store: &dyn Registry, key: &KeyRow) -> Result<Taken, StoreError> {
    let there = store.key(&key.hash).is_some();
    store.put_key(key.hash, key.key()).await?;
    if let Some(at) = key.last_used_at {
        let used = KeyUse {
            tenant: TenantId(key.tenant),
            id: key.id.as_str().into(),
            at,
        };
        store.note_key_uses(&[used]).await?;
    }
    Ok(if there { Taken::Present } else { Taken::Stored })
}

/// Takes in a tenant, but for the last of its ordinals. Of the default one only the limits: its domain is the one that this store was
/// opened with.
pub(in crate::store) async fn import_tenant(store: &dyn Registry, row: &TenantRow) -> Result<(), StoreError> {
    let tenant = match store.tenant(TenantId::default()) {
        Some(own) if row.id == own.id => Tenant {
            limits: row.limits,
            ..Tenant::clone(&own)
        },
        _ => row.tenant(),
    };
    store.put_tenant(tenant).await
}
