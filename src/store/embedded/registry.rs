//! The registry: devices, keys, tenants. Changes are steps of the writer, look-ups go to the rows or to RAM.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use serde_json::Map;

use super::{
    EmbeddedStore, Shared, change::NewChange, draft::Draft, engine::Space, fast, key_uses, keys, op::Op, op::PutDevice, record::device_id,
    reported, rows, rows::DeviceHead, steps::Book, users,
};
use crate::{
    domain::{Departure, DeviceId, FastChange, FastTokens, RateLimit, Report, Reported, TenantId, Timestamp, UserId},
    store::{
        ApiKey, Device, DeviceChange, DeviceKey, KeyUse, Registered, Registry, Rotation, Seat, StoreError, Tenant,
        change::{apply, check_credentials},
        codec::damaged,
        registry::next_tenant,
        rotation::{Rotated, Secret, rotate},
    },
};

impl Book {
    pub(super) fn put_device(&mut self, draft: &mut Draft<'_>, put: &PutDevice) -> Result<(Device, bool), StoreError> {
        let PutDevice {
            device: key,
            change,
            create,
            now,
        } = put;
        let row = draft.get(Space::Rows, &keys::device(key))?;
        let head = row.as_deref().map(DeviceHead::decode).transpose()?;
        let known = match &row {
            Some(row) => rows::decode_device(key.device.clone(), row)?,
            None => None,
        };
        if known.is_none() && !create {
            return Err(if head.is_some() {
                StoreError::RemovedDevice
            } else {
                StoreError::UnknownDevice
            });
        }
        check_credentials(change, self.shared.limits.credentials_max)?;
        if !self.shared.writable.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(StoreError::NoSpace);
        }
        let (mut device, is_new) = match known {
            Some(device) => (device, false),
            None => {
                let device = self.new_device(draft, key, head, *now)?;
                if let Some(head) = head {
                    go_on_counting(draft, key.tenant, head.ordinal, device.ordinal)?;
                }
                (device, true)
            }
        };
        let before = device.clone();
        apply(&mut device, change);
        if !is_new && device == before {
            return Ok((device, false));
        }
        device.updated_at = *now;
        draft.put(Space::Rows, keys::device(key), rows::encode_device(&device)?);
        users::move_device(draft, key, before.user.as_ref(), device.user.as_ref());
        draft.must_sync();
        self.totals.move_device((!is_new).then_some(before.cohort), Some(device.cohort));
        self.touched.push(key.clone());
        if is_new {
            self.states.forget(key);
        } else if let Some(state) = self.states.get_mut(key) {
            state.credential_generation = device.credential_generation;
        }
        Ok((device, is_new))
    }

    /// A device with an ordinal that was never used, and a credential generation that no earlier device of that id had.
    fn new_device(
        &self,
        draft: &mut Draft<'_>,
        key: &DeviceKey,
        tombstone: Option<DeviceHead>,
        now: Timestamp,
    ) -> Result<Device, StoreError> {
        let counter = keys::last_ordinal(key.tenant);
        let last = match draft.get(Space::Rows, &counter)? {
            Some(row) => u32::from_be_bytes(row.as_ref().try_into().map_err(|_| damaged("the last ordinal"))?),
            None => 0,
        };
        let ordinal = last
            .checked_add(1)
            .ok_or_else(|| StoreError::Conflict("the tenant has had as many devices as there are numbers".into()))?;
        draft.put(Space::Rows, counter, ordinal.to_be_bytes());
        Ok(Device {
            id: key.device.clone(),
            ordinal,
            user: None,
            attributes: Map::new(),
            cohort: crate::domain::Cohort::default(),
            credentials: Vec::new(),
            credential_generation: tombstone.map_or(0, |head| head.credential_generation + 1),
            created_at: now,
            updated_at: now,
        })
    }

    pub(super) fn remove_device(&mut self, draft: &mut Draft<'_>, key: &DeviceKey, now: Timestamp) -> Result<Option<Seat>, StoreError> {
        let row = draft.get(Space::Rows, &keys::device(key))?.ok_or(StoreError::UnknownDevice)?;
        let head = DeviceHead::decode(&row)?;
        if head.removed {
            return Err(StoreError::RemovedDevice);
        }
        let shared = Arc::clone(&self.shared);
        // Of the state the seat alone matters, so a damaged event does not keep a device from being removed.
        let seat = match self.states.load(draft, key, &shared.seats) {
            Ok(state) => state.held.as_ref().map(|held| held.seat.clone()),
            Err(_) => shared.seats.read().get(key).map(|held| held.seat.clone()),
        };
        let told = match &seat {
            Some(seat) => Some(seat.clone()),
            None => Self::left_behind(draft, key.tenant, head.ordinal)?,
        };
        if let Some(seat) = &told {
            let change = NewChange::disconnected(&key.device, seat, now, Departure::Removed);
            self.tell(draft, key.tenant, &change);
            draft.remove(Space::Rows, keys::seat(key.tenant, head.ordinal));
        }
        self.fail_all(draft, key, head.ordinal, now)?;
        let tombstone = DeviceHead {
            removed: true,
            updated_at: now,
            ..head
        };
        draft.remove(Space::Rows, keys::fast_tokens(key.tenant, head.ordinal));
        draft.remove(Space::Rows, keys::reported(key.tenant, head.ordinal));
        draft.put(Space::Rows, keys::device(key), tombstone.tombstone());
        users::move_device(draft, key, rows::decode_user(&row)?.as_ref(), None);
        draft.must_sync();
        self.states.forget(key);
        self.touched.push(key.clone());
        self.seat_changes.push((key.clone(), None));
        self.totals.move_device(rows::decode_cohort(&row)?, None);
        Ok(seat)
    }

    pub(super) fn put_key(draft: &mut Draft<'_>, hash: &[u8; 32], key: &ApiKey) -> Result<(), StoreError> {
        draft.put(Space::Rows, keys::api_key(hash), json(key)?);
        draft.must_sync();
        Ok(())
    }

    /// The secrets of a key as they are in memory. Memory follows the commits, so of two changes in one commit the second is
    /// refused: it would not see the first.
    fn secrets(&mut self, tenant: TenantId, id: &str) -> Result<Vec<Secret>, StoreError> {
        if std::mem::replace(&mut self.keys_changed, true) {
            return Err(StoreError::Busy);
        }
        let keys = self.shared.keys.read();
        let of_key = keys.iter().filter(|(_, key)| key.tenant == tenant.0 && key.id == id);
        Ok(of_key.map(|(hash, key)| (*hash, ApiKey::clone(key))).collect())
    }

    pub(super) fn rotate_key(
        &mut self,
        draft: &mut Draft<'_>,
        tenant: TenantId,
        id: &str,
        rotation: &Rotation,
    ) -> Result<Option<Rotated>, StoreError> {
        let Some(rotated) = rotate(&self.secrets(tenant, id)?, rotation)? else {
            return Ok(None);
        };
        for (hash, key) in [Some(&rotated.newest), rotated.before.as_ref()].into_iter().flatten() {
            draft.put(Space::Rows, keys::api_key(hash), json(key)?);
        }
        for hash in &rotated.ended {
            draft.remove(Space::Rows, keys::api_key(hash));
        }
        draft.must_sync();
        Ok(Some(rotated))
    }

    pub(super) fn revoke_key(&mut self, draft: &mut Draft<'_>, tenant: TenantId, id: &str) -> Result<bool, StoreError> {
        let secrets = self.secrets(tenant, id)?;
        for (hash, _) in &secrets {
            draft.remove(Space::Rows, keys::api_key(hash));
            draft.must_sync();
        }
        draft.remove(Space::Rows, keys::key_use(tenant, id));
        Ok(!secrets.is_empty())
    }

    pub(super) fn put_tenant(draft: &mut Draft<'_>, tenant: &Tenant) -> Result<(), StoreError> {
        if tenants(draft)?.values().any(|other| tenant.excludes(other)) {
            return Err(StoreError::Conflict(
                "another tenant has that name or domain, or it was removed".into(),
            ));
        }
        draft.put(Space::Rows, keys::tenant(tenant.id), json(tenant)?);
        draft.must_sync();
        Ok(())
    }

    pub(super) fn add_tenant(draft: &mut Draft<'_>, new: &Tenant) -> Result<Option<Tenant>, StoreError> {
        let id = next_tenant(tenants(draft)?.keys()).ok_or_else(|| StoreError::Conflict("no number is left for a tenant".into()))?;
        let tenant = Tenant { id, ..new.clone() };
        Self::put_tenant(draft, &tenant)?;
        Ok(Some(tenant))
    }

    /// Ends a tenant that has no device, its keys and its webhooks. Answers what is left of it; `None`: there is none.
    pub(super) fn remove_tenant(&mut self, draft: &mut Draft<'_>, id: TenantId, now: Timestamp) -> Result<Option<Tenant>, StoreError> {
        let known = tenants(draft)?.remove(&id.0).filter(|known| known.removed_at.is_none());
        let Some(known) = known else { return Ok(None) };
        let there = |row: &[u8]| DeviceHead::decode(row).map(|head| !head.removed);
        let prefix = keys::device_row(id, "");
        let mut occupied = false;
        // What the same commit adds, then what is there.
        for row in draft.changed(Space::Rows, &prefix).filter_map(|(_, change)| change.row.as_ref()) {
            occupied |= there(row)?;
        }
        for row in draft.engine().prefix(Space::Rows, &prefix) {
            if occupied {
                break;
            }
            let (key, row) = row?;
            occupied = !draft.changes_row(Space::Rows, &key) && there(&row)?;
        }
        if occupied {
            return Err(StoreError::Conflict("the tenant has devices; remove them first".into()));
        }
        for (hash, key) in self.shared.keys.read().iter().filter(|(_, key)| key.tenant == id.0) {
            draft.remove(Space::Rows, keys::api_key(hash));
            draft.remove(Space::Rows, keys::key_use(id, &key.id));
        }
        self.forget_webhooks(draft, id)?;
        let removed_at = Some(now);
        let tenant = Tenant { removed_at, ..known };
        draft.put(Space::Rows, keys::tenant(id.0), json(&tenant)?);
        draft.must_sync();
        Ok(Some(tenant))
    }
}

/// Whether a tenant was there and was removed.
pub(super) fn is_removed(draft: &Draft<'_>, id: TenantId) -> Result<bool, StoreError> {
    let row = draft.get(Space::Rows, &keys::tenant(id.0))?;
    let known = row.map(|row| serde_json::from_slice::<Tenant>(&row)).transpose();
    Ok(known
        .map_err(|_| damaged("a tenant"))?
        .is_some_and(|known| known.removed_at.is_some()))
}

/// All tenants, also those that were removed, as the steps before in the same commit leave them.
fn tenants(draft: &Draft<'_>) -> Result<BTreeMap<u16, Tenant>, StoreError> {
    let rows = draft.prefix(Space::Rows, b"t")?;
    let read = |row: &[u8]| serde_json::from_slice(row).map_err(|_| damaged("a tenant"));
    rows.values()
        .map(|row| read(row).map(|tenant: Tenant| (tenant.id, tenant)))
        .collect()
}

fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|e| StoreError::Corrupt(e.to_string().into()))
}

/// A device that returns counts on where it was: whoever kept the last number of each lane over the removal would take numbers
/// that start anew for repeats.
fn go_on_counting(draft: &mut Draft<'_>, tenant: TenantId, from: u32, to: u32) -> Result<(), StoreError> {
    let before = keys::numbers(tenant, from);
    if let Some(numbers) = draft.get(Space::Rows, &before)? {
        draft.put(Space::Rows, keys::numbers(tenant, to), numbers);
        draft.remove(Space::Rows, before);
    }
    Ok(())
}

impl Shared {
    /// Whether a tenant was there and was removed.
    pub(super) fn is_gone(&self, tenant: TenantId) -> bool {
        self.tenants.read().get(&tenant.0).is_some_and(|known| known.removed_at.is_some())
    }
}

#[async_trait]
impl Registry for EmbeddedStore {
    async fn put_device(
        &self,
        device: &DeviceKey,
        change: DeviceChange,
        create: bool,
        now: Timestamp,
    ) -> Result<(Device, bool), StoreError> {
        let put = Box::new(PutDevice {
            device: device.clone(),
            change,
            create,
            now,
        });
        self.ask(|answer| Op::PutDevice(put, answer)).await?
    }

    async fn device(&self, device: &DeviceKey) -> Result<Registered, StoreError> {
        self.shared.read(|engine| {
            let Some(row) = engine.get(Space::Rows, &keys::device(device))? else {
                return Ok(Registered::Unknown);
            };
            Ok(match rows::decode_device(device.device.clone(), &row)? {
                Some(device) => Registered::Present(Box::new(device)),
                None => {
                    let removed_at = DeviceHead::decode(&row)?.updated_at;
                    let kept = std::time::Duration::from_secs(self.shared.limits.tombstone_kept_secs);
                    if self.shared.clock.now() >= removed_at.plus(kept) {
                        Registered::Unknown
                    } else {
                        Registered::Removed(removed_at)
                    }
                }
            })
        })
    }

    async fn devices(&self, tenant: TenantId, after: Option<&DeviceId>, limit: usize) -> Result<Vec<Device>, StoreError> {
        let mut from = keys::device_row(tenant, after.map_or("", DeviceId::as_str));
        if after.is_some() {
            from.push(0);
        }
        let to = keys::device_row(tenant, "\u{7f}");
        self.shared.read(|engine| {
            let mut found = Vec::new();
            for row in engine.range(Space::Rows, &from, &to) {
                if found.len() >= limit {
                    break;
                }
                let (key, value) = row?;
                let id = key.get(3..).and_then(|id| std::str::from_utf8(id).ok());
                let id = device_id(id.ok_or_else(|| damaged("the key of a device"))?)?;
                found.extend(rows::decode_device(id, &value)?);
            }
            Ok(found)
        })
    }

    async fn devices_of(&self, tenant: TenantId, user: &UserId, after: Option<&DeviceId>, limit: usize) -> Result<Vec<Device>, StoreError> {
        self.shared.read(|engine| users::devices(engine, tenant, user, after, limit))
    }

    async fn remove_device(&self, device: &DeviceKey, now: Timestamp) -> Result<Option<Seat>, StoreError> {
        let device = device.clone();
        self.ask(|answer| Op::RemoveDevice(device, now, answer)).await?
    }

    async fn fast_tokens(&self, device: &DeviceKey, generation: u32) -> Result<FastTokens, StoreError> {
        self.shared.read(|engine| {
            let Some(row) = engine.get(Space::Rows, &keys::device(device))? else {
                return Ok(FastTokens::default());
            };
            let row = engine.get(Space::Rows, &keys::fast_tokens(device.tenant, DeviceHead::decode(&row)?.ordinal))?;
            Ok(fast::decode(row.as_deref())?.of_generation(generation))
        })
    }

    async fn change_fast_tokens(&self, device: &DeviceKey, generation: u32, change: FastChange) -> Result<(), StoreError> {
        let device = device.clone();
        self.ask(|answer| Op::ChangeFastTokens(device, generation, Box::new(change), answer))
            .await?
    }

    async fn report(&self, device: &DeviceKey, report: Report, now: Timestamp) -> Result<bool, StoreError> {
        let device = device.clone();
        self.ask(|answer| Op::Report(device, report, now, answer)).await?
    }

    async fn reported(&self, tenant: TenantId, devices: &[Device]) -> Result<Vec<Option<Reported>>, StoreError> {
        self.shared.read(|engine| {
            let row = |device: &Device| reported::decode(engine.get(Space::Rows, &keys::reported(tenant, device.ordinal))?.as_deref());
            devices.iter().map(row).collect()
        })
    }

    async fn put_key(&self, hash: [u8; 32], key: ApiKey) -> Result<(), StoreError> {
        self.ask(|answer| Op::PutKey(hash, key, answer)).await?
    }

    async fn put_first_key(&self, hash: [u8; 32], key: ApiKey) -> Result<bool, StoreError> {
        if !self.keys(TenantId(key.tenant)).await?.is_empty() {
            return Ok(false);
        }
        self.put_key(hash, key).await.map(|()| true)
    }

    fn key(&self, hash: &[u8; 32]) -> Option<Arc<ApiKey>> {
        self.shared.keys.read().get(hash).cloned()
    }

    async fn keys(&self, tenant: TenantId) -> Result<Vec<ApiKey>, StoreError> {
        let mut found: Vec<ApiKey> = {
            let keys = self.shared.keys.read();
            keys.values()
                .filter(|key| key.tenant == tenant.0)
                .map(|key| ApiKey::clone(key))
                .collect()
        };
        found.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(found)
    }

    async fn rotate_key(&self, tenant: TenantId, id: &str, rotation: Rotation) -> Result<Option<ApiKey>, StoreError> {
        let id = id.to_owned();
        self.ask(|answer| Op::RotateKey(tenant, id, rotation, answer)).await?
    }

    async fn revoke_key(&self, tenant: TenantId, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.ask(|answer| Op::RevokeKey(tenant, id, answer)).await?
    }

    async fn note_key_uses(&self, uses: &[KeyUse]) -> Result<(), StoreError> {
        let uses = uses.to_vec();
        self.ask(|answer| Op::NoteKeyUses(uses, answer)).await?
    }

    async fn key_uses(&self, tenant: TenantId) -> Result<HashMap<Arc<str>, Timestamp>, StoreError> {
        self.shared.read(|engine| key_uses::of_tenant(engine, tenant))
    }

    async fn put_tenant(&self, tenant: Tenant) -> Result<(), StoreError> {
        self.ask(|answer| Op::PutTenant(tenant, answer)).await?
    }

    async fn add_tenant(&self, name: &str, domain: &str, limits: Option<RateLimit>) -> Result<Arc<Tenant>, StoreError> {
        let new = Tenant {
            id: 0,
            name: name.to_owned(),
            domain: domain.to_owned(),
            limits,
            removed_at: None,
        };
        let made = self.ask(|answer| Op::AddTenant(Box::new(new), answer)).await??;
        made.map(Arc::new).ok_or_else(|| damaged("the answer to a new tenant"))
    }

    async fn remove_tenant(&self, tenant: TenantId, now: Timestamp) -> Result<bool, StoreError> {
        let removed = self.ask(|answer| Op::RemoveTenant(tenant, now, answer)).await??;
        Ok(removed.is_some())
    }

    fn tenants(&self) -> Vec<Arc<Tenant>> {
        let tenants = self.shared.tenants.read();
        tenants.values().filter(|tenant| tenant.removed_at.is_none()).cloned().collect()
    }

    fn tenant(&self, tenant: TenantId) -> Option<Arc<Tenant>> {
        let tenants = self.shared.tenants.read();
        tenants.get(&tenant.0).filter(|tenant| tenant.removed_at.is_none()).cloned()
    }

    fn tenant_at(&self, domain: &str) -> Option<Arc<Tenant>> {
        let tenants = self.shared.tenants.read();
        let found = tenants
            .values()
            .find(|tenant| tenant.domain == domain && tenant.removed_at.is_none());
        found.cloned()
    }
}
