//! Positions in the logs of tenants.

use std::collections::HashMap;

use super::{draft::Draft, engine::Space, keys};
use crate::{
    domain::TenantId,
    store::{StoreError, codec::damaged},
};

/// The last position of each tenant's receipts, as this commit leaves it.
#[derive(Default)]
pub(super) struct Positions {
    last: HashMap<TenantId, u64>,
    /// Those that this commit changed.
    new: HashMap<TenantId, u64>,
}

impl Positions {
    pub(super) fn get(&self, tenant: &TenantId) -> Option<&u64> {
        self.last.get(tenant)
    }

    pub(super) fn insert(&mut self, tenant: TenantId, position: u64) {
        self.last.insert(tenant, position);
        self.new.insert(tenant, position);
    }

    pub(super) fn clear(&mut self) {
        self.last.clear();
        self.new.clear();
    }

    /// What the commit that now holds changed.
    pub(super) fn committed(&mut self) -> impl Iterator<Item = (TenantId, u64)> {
        self.new.drain()
    }
}

/// The position of the next receipt of a tenant.
pub(super) fn next_position(draft: &Draft<'_>, positions: &mut Positions, tenant: TenantId) -> Result<u64, StoreError> {
    let position = match positions.get(&tenant) {
        Some(position) => position + 1,
        None => last_position(draft, tenant)? + 1,
    };
    positions.insert(tenant, position);
    Ok(position)
}

/// The last position in the tenant's log. The sweeper never drops the last receipt, so positions rise for ever.
pub(super) fn last_position(draft: &Draft<'_>, tenant: TenantId) -> Result<u64, StoreError> {
    let last = draft
        .engine()
        .range(Space::Log, &keys::receipt(tenant, 0), &keys::receipt(tenant, u64::MAX))
        .next_back()
        .transpose()?;
    match last {
        Some((key, _)) => position_of(&key),
        None => Ok(0),
    }
}

/// The position in a receipt's key.
pub(super) fn position_of(key: &[u8]) -> Result<u64, StoreError> {
    let bytes = key.get(3..).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    bytes.map(u64::from_be_bytes).ok_or_else(|| damaged("the key of a receipt"))
}
