//! Tenants come and go: rows that all nodes share.

use std::{collections::BTreeMap, sync::Arc};

use super::{Shared, shared::json};
use crate::{
    domain::{RateLimit, TenantId, Timestamp},
    store::{ApiKey, StoreError, Tenant, codec::damaged, registry::next_tenant},
};

/// How often a number is looked for anew because another node took it meanwhile.
const TRIES: usize = 20;

impl Shared {
    /// All tenants, also those that were removed.
    pub(super) async fn read_tenants(&self) -> Result<BTreeMap<u16, Arc<Tenant>>, StoreError> {
        let rows = self.read_shared("tenants").await?;
        let read = |row: &[u8]| serde_json::from_slice(row).map_err(|_| damaged("a tenant"));
        let tenants = rows
            .iter()
            .map(|(_, row)| read(row).map(|tenant: Tenant| (tenant.id, Arc::new(tenant))));
        tenants.collect()
    }

    /// Whether a tenant was there and was removed, as far as this node knows.
    pub(super) fn is_gone(&self, tenant: TenantId) -> bool {
        let tenants = self.memory.tenants.read();
        tenants.get(&tenant.0).is_some_and(|known| known.removed_at.is_some())
    }

    pub(super) async fn add_tenant(&self, name: &str, domain: &str, limits: Option<RateLimit>) -> Result<Arc<Tenant>, StoreError> {
        for _ in 0..TRIES {
            self.remember_all().await?;
            let tenant = {
                let known = self.memory.tenants.read();
                let id = next_tenant(known.keys()).ok_or_else(|| StoreError::Conflict("no number is left for a tenant".into()))?;
                let tenant = Tenant {
                    id,
                    name: name.to_owned(),
                    domain: domain.to_owned(),
                    limits,
                    removed_at: None,
                };
                if known.values().any(|other| tenant.excludes(other)) {
                    return Err(StoreError::Conflict("another tenant has that name or domain".into()));
                }
                tenant
            };
            // Of several nodes one gets the number, and the others look again: so no two tenants have one name.
            if self
                .add_shared("tenants", tenant.id.to_string().as_bytes(), &json(&tenant)?)
                .await?
            {
                let tenant = Arc::new(tenant);
                self.memory.tenants.write().insert(tenant.id, tenant.clone());
                return Ok(tenant);
            }
        }
        Err(StoreError::Conflict("other tenants are being made; try again".into()))
    }

    /// Ends a tenant and its keys. False: there is none.
    pub(super) async fn end_tenant(&self, id: TenantId, now: Timestamp) -> Result<bool, StoreError> {
        let known = self.memory.tenants.read().get(&id.0).cloned();
        let Some(known) = known else { return Ok(false) };
        let tenant = Tenant {
            removed_at: Some(now),
            ..Tenant::clone(&known)
        };
        self.store_shared("tenants", id.0.to_string().as_bytes(), &json(&tenant)?).await?;
        self.memory.tenants.write().insert(id.0, Arc::new(tenant));
        let keys: Vec<([u8; 32], Arc<ApiKey>)> = {
            let keys = self.memory.keys.read();
            let of_tenant = keys.iter().filter(|(_, key)| key.tenant == id.0);
            of_tenant.map(|(hash, key)| (*hash, key.clone())).collect()
        };
        for (hash, key) in keys {
            self.drop_shared("keys", &[&hash]).await?;
            self.drop_key_use(id, &key.id).await?;
            self.memory.keys.write().remove(&hash);
        }
        Ok(true)
    }
}
