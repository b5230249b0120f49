//! The audit log. Beside the entries of a tenant is a row with the last position and how many there are.

use async_trait::async_trait;

use super::{EmbeddedStore, draft::Draft, engine::Space, keys, op::Op, positions::position_of, steps::Book};
use crate::{
    domain::{AuditEntry, TenantId},
    store::{
        AuditLog, StoreError, audit_position,
        codec::damaged,
        transfer::{AuditRow, Taken},
    },
};

/// The row beside the entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Audited {
    last: u64,
    pub(super) count: u64,
}

impl Audited {
    pub(super) fn decode(row: Option<&[u8]>) -> Result<Self, StoreError> {
        let Some(row) = row else { return Ok(Self::default()) };
        let read = || {
            let (last, count) = row.split_first_chunk()?;
            Some((u64::from_be_bytes(*last), u64::from_be_bytes(count.try_into().ok()?)))
        };
        let (last, count) = read().ok_or_else(|| damaged("the length of an audit log"))?;
        Ok(Self { last, count })
    }

    fn read(draft: &Draft<'_>, tenant: TenantId) -> Result<Self, StoreError> {
        Self::decode(draft.get(Space::Log, &keys::audited(tenant))?.as_deref())
    }

    fn write(self, draft: &mut Draft<'_>, tenant: TenantId) {
        let row = [self.last.to_be_bytes(), self.count.to_be_bytes()].concat();
        draft.put(Space::Log, keys::audited(tenant), row);
    }
}

fn encode(entry: &AuditEntry) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(entry).map_err(|error| StoreError::Corrupt(error.to_string().into()))
}

pub(super) fn decode(row: &[u8]) -> Result<AuditEntry, StoreError> {
    serde_json::from_slice(row).map_err(|_| damaged("an entry of the audit log"))
}

impl Book {
    pub(super) fn begin_audit(draft: &mut Draft<'_>, tenant: TenantId, entry: &AuditEntry) -> Result<u64, StoreError> {
        let mut audited = Audited::read(draft, tenant)?;
        audited.last = audit_position(entry.at).max(audited.last.saturating_add(1));
        audited.count += 1;
        draft.put(Space::Log, keys::audit(tenant, audited.last), encode(entry)?);
        audited.write(draft, tenant);
        draft.must_sync();
        Ok(audited.last)
    }

    pub(super) fn end_audit(draft: &mut Draft<'_>, tenant: TenantId, position: u64, ended: &AuditEntry) -> Result<(), StoreError> {
        let key = keys::audit(tenant, position);
        // Of one that was dropped meanwhile, nothing is to be told.
        if draft.get(Space::Log, &key)?.is_some() {
            draft.put(Space::Log, key, encode(ended)?);
            draft.must_sync();
        }
        Ok(())
    }

    pub(super) fn import_audit(draft: &mut Draft<'_>, rows: &[AuditRow]) -> Result<Taken, StoreError> {
        let mut taken = Taken::Present;
        for row in rows {
            let tenant = TenantId(row.tenant);
            let key = keys::audit(tenant, row.position);
            if draft.get(Space::Log, &key)?.is_some() {
                continue;
            }
            let mut audited = Audited::read(draft, tenant)?;
            audited.last = audited.last.max(row.position);
            audited.count += 1;
            draft.put(Space::Log, key, encode(&row.entry)?);
            audited.write(draft, tenant);
            taken = Taken::Stored;
        }
        Ok(taken)
    }
}

/// An entry goes: there is one less.
pub(super) fn forgotten(draft: &mut Draft<'_>, key: &[u8]) -> Result<(), StoreError> {
    let tenant = keys::tenant_of(key).ok_or_else(|| damaged("the key of an entry of the audit log"))?;
    let mut audited = Audited::read(draft, tenant)?;
    audited.count = audited.count.saturating_sub(1);
    audited.write(draft, tenant);
    Ok(())
}

#[async_trait]
impl AuditLog for EmbeddedStore {
    async fn begin_audit(&self, tenant: TenantId, entry: &AuditEntry) -> Result<u64, StoreError> {
        let entry = Box::new(entry.clone());
        self.ask(|answer| Op::BeginAudit(tenant, entry, answer)).await?
    }

    async fn end_audit(&self, tenant: TenantId, position: u64, _begun: &AuditEntry, ended: &AuditEntry) -> Result<(), StoreError> {
        let ended = Box::new(ended.clone());
        self.ask(|answer| Op::EndAudit(tenant, position, ended, answer)).await?
    }

    async fn audit(&self, tenant: TenantId, from: u64, to: u64, limit: usize) -> Result<Vec<(u64, AuditEntry)>, StoreError> {
        let Some(last) = to.checked_sub(1) else { return Ok(Vec::new()) };
        self.shared.read(|engine| {
            let rows = engine.range(Space::Log, &keys::audit(tenant, from), &keys::audit(tenant, last));
            rows.take(limit)
                .map(|row| {
                    let (key, value) = row?;
                    Ok((position_of(&key)?, decode(&value)?))
                })
                .collect()
        })
    }
}
