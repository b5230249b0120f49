//! The rows of FAST tokens (XEP-0484): one a device, all its tokens in it.

use super::{draft::Draft, engine::Space, keys, steps::Book};
use crate::{
    domain::{FastChange, FastTokens, TenantId},
    store::{DeviceKey, StoreError, codec::damaged},
};

/// Reads a row. None: there are no tokens.
pub(super) fn decode(row: Option<&[u8]>) -> Result<FastTokens, StoreError> {
    row.map_or_else(
        || Ok(FastTokens::default()),
        |row| serde_json::from_slice(row).map_err(|_| damaged("FAST tokens")),
    )
}

/// Changes the tokens of the device with that ordinal.
pub(super) fn change(
    draft: &mut Draft<'_>,
    tenant: TenantId,
    ordinal: u32,
    generation: u32,
    change: &FastChange,
) -> Result<(), StoreError> {
    let key = keys::fast_tokens(tenant, ordinal);
    let before = decode(draft.get(Space::Rows, &key)?.as_deref())?;
    let mut after = before.clone().of_generation(generation);
    after.apply(change);
    if after == before {
        return Ok(());
    }
    if after.is_empty() {
        draft.remove(Space::Rows, key);
    } else {
        let row = serde_json::to_vec(&after).map_err(|error| StoreError::Corrupt(error.to_string().into()))?;
        draft.put(Space::Rows, key, row);
    }
    // That a token was used may be learnt again; what was given out or taken back must hold.
    if change.fresh.is_some() || change.invalidate {
        draft.must_sync();
    }
    Ok(())
}

impl Book {
    pub(super) fn change_fast_tokens(
        &mut self,
        draft: &mut Draft<'_>,
        device: &DeviceKey,
        generation: u32,
        tokens: &FastChange,
    ) -> Result<(), StoreError> {
        let shared = std::sync::Arc::clone(&self.shared);
        let state = self.states.load(draft, device, &shared.seats)?;
        if state.credential_generation != generation {
            return Err(StoreError::Conflict("the credentials of the device were changed".into()));
        }
        change(draft, device.tenant, state.ordinal, generation, tokens)
    }
}
