//! The audit log of the gate, in the store.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    domain::{AuditEntry, Clock, Refusal, TenantId, Timestamp},
    http::Audit,
    store::{Store, StoreError},
};

/// Writes into the store.
pub(super) struct StoredAudit {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
}

#[async_trait]
impl Audit for StoredAudit {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn begin(&self, tenant: TenantId, entry: &AuditEntry) -> Result<u64, Refusal> {
        self.store.begin_audit(tenant, entry).await.map_err(StoreError::refusal_of_all)
    }

    async fn end(&self, tenant: TenantId, position: u64, begun: &AuditEntry, ended: &AuditEntry) -> Result<(), Refusal> {
        let ended = self.store.end_audit(tenant, position, begun, ended).await;
        ended.map_err(StoreError::refusal_of_all)
    }
}
