//! The index of users: a row for each device that has one, changed in the commit that changes the device.

use super::{
    draft::Draft,
    engine::{Engine, Space},
    keys,
    record::device_id,
    rows,
};
use crate::{
    domain::{DeviceId, TenantId, UserId},
    store::{Device, DeviceKey, StoreError, codec::damaged},
};

/// Says that every device is in the index.
const INDEXED: &[u8] = b"Musers";
/// Rows of one commit where the index is made.
const TOGETHER: usize = 10_000;

/// A device had one user, and has another.
pub(super) fn move_device(draft: &mut Draft<'_>, device: &DeviceKey, from: Option<&UserId>, to: Option<&UserId>) {
    if from == to {
        return;
    }
    if let Some(user) = from {
        draft.remove(Space::Rows, keys::of_user(device.tenant, user, device.device.as_str()));
    }
    if let Some(user) = to {
        draft.put(Space::Rows, keys::of_user(device.tenant, user, device.device.as_str()), Vec::new());
    }
}

/// Devices of a user in order of their ids.
pub(super) fn devices(
    engine: &Engine,
    tenant: TenantId,
    user: &UserId,
    after: Option<&DeviceId>,
    limit: usize,
) -> Result<Vec<Device>, StoreError> {
    let begin = keys::of_user(tenant, user, "");
    let mut from = keys::of_user(tenant, user, after.map_or("", DeviceId::as_str));
    if after.is_some() {
        from.push(0);
    }
    let to = keys::of_user(tenant, user, "\u{7f}");
    let mut found = Vec::new();
    for row in engine.range(Space::Rows, &from, &to) {
        if found.len() >= limit {
            break;
        }
        let (key, _) = row?;
        let id = key.get(begin.len()..).and_then(|id| std::str::from_utf8(id).ok());
        let id = device_id(id.ok_or_else(|| damaged("the key of a device of a user"))?)?;
        // Between the two reads it may have been removed, or have been given to another.
        let row = engine.get(Space::Rows, &keys::device_row(tenant, id.as_str()))?;
        let device = row.map(|row| rows::decode_device(id, &row)).transpose()?.flatten();
        found.extend(device.filter(|device| device.user.as_ref() == Some(user)));
    }
    Ok(found)
}

/// Makes the index of a store that an earlier version wrote without one.
pub(super) fn index_all(engine: &Engine) -> Result<(), StoreError> {
    if engine.get(Space::Rows, INDEXED)?.is_some() {
        return Ok(());
    }
    let (mut draft, mut count) = (Draft::new(engine), 0);
    for row in engine.prefix(Space::Rows, b"d") {
        let (key, row) = row?;
        let Some(user) = rows::decode_user(&row)? else { continue };
        let (tenant, id) = read_device(&key).ok_or_else(|| damaged("the key of a device"))?;
        draft.put(Space::Rows, keys::of_user(tenant, &user, id), Vec::new());
        count += 1;
        if count % TOGETHER == 0 {
            engine.commit(std::mem::replace(&mut draft, Draft::new(engine)).finish())?;
        }
    }
    draft.put(Space::Rows, INDEXED, Vec::new());
    draft.must_sync();
    engine.commit(draft.finish())?;
    if count > 0 {
        tracing::info!("{count} devices are now found by their users");
    }
    Ok(())
}

fn read_device(key: &[u8]) -> Option<(TenantId, &str)> {
    let (tenant, id) = key.strip_prefix(b"d")?.split_first_chunk()?;
    Some((TenantId(u16::from_be_bytes(*tenant)), std::str::from_utf8(id).ok()?))
}
