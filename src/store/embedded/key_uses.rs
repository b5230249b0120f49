//! When API keys were last used: a row beside each.

use std::{collections::HashMap, sync::Arc};

use super::{
    draft::Draft,
    engine::{Engine, Space},
    keys,
    steps::Book,
};
use crate::{
    domain::{TenantId, Timestamp},
    store::{KeyUse, StoreError, codec::damaged},
};

impl Book {
    /// Notes what is news. It is not synced: the next use tells it again.
    pub(super) fn note_key_uses(&self, draft: &mut Draft<'_>, uses: &[KeyUse]) -> Result<(), StoreError> {
        for used in uses {
            let row = keys::key_use(used.tenant, &used.id);
            let noted = draft.get(Space::Rows, &row)?.map(|noted| decode(&noted)).transpose()?;
            if noted.is_none_or(|noted| noted < used.at) && self.has_key(draft, used)? {
                draft.put(Space::Rows, row, used.at.0.to_be_bytes());
            }
        }
        Ok(())
    }

    /// Whether the key is there: memory names its secrets, and the draft knows those that the same commit takes away.
    fn has_key(&self, draft: &Draft<'_>, used: &KeyUse) -> Result<bool, StoreError> {
        let known = self.shared.keys.read();
        let secrets = known.iter().filter(|(_, key)| key.tenant == used.tenant.0 && *key.id == *used.id);
        for (hash, _) in secrets {
            if draft.get(Space::Rows, &keys::api_key(hash))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Those of a tenant, by the ids of the keys.
pub(super) fn of_tenant(engine: &Engine, tenant: TenantId) -> Result<HashMap<Arc<str>, Timestamp>, StoreError> {
    let mut found = HashMap::new();
    for row in engine.prefix(Space::Rows, &keys::key_use(tenant, "")) {
        let (key, value) = row?;
        let id = key.get(3..).and_then(|id| std::str::from_utf8(id).ok());
        let id = id.ok_or_else(|| damaged("the last use of an API key"))?;
        found.insert(id.into(), decode(&value)?);
    }
    Ok(found)
}

pub(super) fn decode(row: &[u8]) -> Result<Timestamp, StoreError> {
    let at = row.try_into().map_err(|_| damaged("the last use of an API key"))?;
    Ok(Timestamp(u64::from_be_bytes(at)))
}
