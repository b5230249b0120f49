//! The rows of what devices report of themselves: one a device.

use std::sync::{Arc, atomic::Ordering};

use super::{draft::Draft, engine::Space, keys, rows::DeviceHead, steps::Book};
use crate::{
    domain::{Report, Reported, Timestamp},
    store::{DeviceKey, StoreError, codec::damaged},
};

/// Reads a row. `None`: it reported nothing.
pub(super) fn decode(row: Option<&[u8]>) -> Result<Option<Reported>, StoreError> {
    row.map(|row| serde_json::from_slice(row).map_err(|_| damaged("what a device reported")))
        .transpose()
}

impl Book {
    pub(super) fn report(
        &mut self,
        draft: &mut Draft<'_>,
        device: &DeviceKey,
        report: &Report,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let row = draft.get(Space::Rows, &keys::device(device))?.ok_or(StoreError::UnknownDevice)?;
        let head = DeviceHead::decode(&row)?;
        if head.removed {
            return Err(StoreError::RemovedDevice);
        }
        let shared = Arc::clone(&self.shared);
        if !shared.writable.load(Ordering::Relaxed) {
            return Err(StoreError::NoSpace);
        }
        let key = keys::reported(device.tenant, head.ordinal);
        let mut reported = decode(draft.get(Space::Rows, &key)?.as_deref())?.unwrap_or_default();
        if !reported.take(report.clone(), now) {
            return Ok(false);
        }
        let row = serde_json::to_vec(&reported).map_err(|error| StoreError::Corrupt(error.to_string().into()))?;
        draft.put(Space::Rows, key, row);
        draft.must_sync();
        Ok(true)
    }
}
