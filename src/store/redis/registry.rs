//! The registry: rows are read, changed here, and exchanged for what they were read as.

use std::{collections::HashMap, sync::Arc, time::Instant};

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, future::try_join, stream};
use redis::Value;

use super::{
    RedisStore, Shared,
    device::{Head, Row},
    feed,
    keys::{self, BUCKETS, Slot},
    mover::Log,
    record::{self, Ending},
    reply::{self, Reply},
    script,
    seat::Record,
    shards::Route,
    shared::json,
};
use crate::{
    domain::{
        Clock as _, Cohort, Departure, DeviceId, FastChange, FastTokens, Outcome, RateLimit, Reason, Report, Reported, TenantId, Timestamp,
        UserId,
    },
    store::{
        ApiKey, Device, DeviceChange, DeviceKey, Hint, KeyUse, Registered, Registry, Rotation, Seat, StoreError, Tenant,
        change::{apply, check_credentials},
        codec::damaged,
    },
};

/// How often a row is read anew because somebody else changed it meanwhile.
const TRIES: usize = 20;
/// Buckets asked at once where all are.
const TOGETHER: usize = 128;

/// Buckets asked at once where few will do.
const NEARBY: usize = 8;

/// FAST tokens as they are to be after a change. Empty: none.
pub(super) fn changed_tokens(row: &[u8], generation: u32, change: &FastChange) -> Result<Vec<u8>, StoreError> {
    let mut tokens = read_tokens(row)?.of_generation(generation);
    tokens.apply(change);
    if tokens.is_empty() { Ok(Vec::new()) } else { json(&tokens) }
}

pub(super) fn read_tokens(row: &[u8]) -> Result<FastTokens, StoreError> {
    if row.is_empty() {
        return Ok(FastTokens::default());
    }
    serde_json::from_slice(row).map_err(|_| damaged("FAST tokens"))
}

pub(super) fn key_of(tenant: TenantId, name: &[u8]) -> Option<DeviceKey> {
    let device = std::str::from_utf8(name).ok()?.parse().ok()?;
    Some(DeviceKey { tenant, device })
}

fn contended() -> StoreError {
    StoreError::Unavailable("the device is being changed by others all the time".into())
}

/// The counter of a cohort; push has none.
pub(super) fn counter(cohort: Cohort) -> &'static str {
    match cohort {
        Cohort::Push => "",
        Cohort::Poll => "l",
        Cohort::Control => "k",
    }
}

impl Shared {
    /// An ordinal that no device of the tenant ever had.
    async fn next_ordinal(&self, tenant: TenantId) -> Result<u32, StoreError> {
        let key = self.keys.tenant(tenant, "ordinal");
        let make = |_| {
            let mut cmd = redis::cmd("INCR");
            cmd.arg(&key);
            cmd
        };
        let value = self.shards.ask(Route::durable(Slot::of(&keys::tenant_tag(tenant))), make).await?;
        reply::int(&value)
            .and_then(|ordinal| u32::try_from(ordinal).ok())
            .ok_or_else(|| StoreError::Conflict("the tenant has had as many devices as there are numbers".into()))
    }

    pub(super) async fn registered(&self, device: &DeviceKey) -> Result<Registered, StoreError> {
        let Some(row) = self.row('d', device).await? else {
            return Ok(Registered::Unknown);
        };
        if let Some(row) = Row::decode(device.device.clone(), &row)? {
            return Ok(Registered::Present(Box::new(row.device)));
        }
        let removed_at = Head::read(&row)?.updated_at;
        let kept = std::time::Duration::from_secs(self.limits.tombstone_kept_secs);
        if self.clock.now() >= removed_at.plus(kept) {
            Ok(Registered::Unknown)
        } else {
            Ok(Registered::Removed(removed_at))
        }
    }

    pub(super) async fn put(
        &self,
        key: &DeviceKey,
        change: &DeviceChange,
        create: bool,
        now: Timestamp,
    ) -> Result<(Device, bool), StoreError> {
        let bucket = key.bucket();
        let keys = [
            self.keys.device('d', key),
            self.keys.bucket('c', bucket),
            self.keys.tenant_bucket('i', bucket, key.tenant),
            self.keys.tenant_bucket('l', bucket, key.tenant),
        ];
        for _ in 0..TRIES {
            let (before, seat) = try_join(self.row('d', key), self.row('p', key)).await?;
            let before = before.unwrap_or_default();
            let head = if before.is_empty() { None } else { Some(Head::read(&before)?) };
            let known = match head {
                Some(_) => Row::decode(key.device.clone(), &before)?,
                None => None,
            };
            if known.is_none() && !create {
                return Err(if head.is_some() {
                    StoreError::RemovedDevice
                } else {
                    StoreError::UnknownDevice
                });
            }
            check_credentials(change, self.limits.credentials_max)?;
            let cohort_before = known.as_ref().map_or("", |row| counter(row.device.cohort));
            let is_new = known.is_none();
            let mut row = match known {
                Some(row) => row,
                None => Row {
                    device: Device {
                        id: key.device.clone(),
                        ordinal: self.next_ordinal(key.tenant).await?,
                        user: None,
                        attributes: serde_json::Map::new(),
                        cohort: Cohort::default(),
                        credentials: Vec::new(),
                        // One that no earlier device of that id had.
                        credential_generation: head.map_or(0, |head| head.credential_generation + 1),
                        created_at: now,
                        updated_at: now,
                    },
                    begins_behind: Record::read(seat.as_deref()).map_or(0, |record| record.number),
                },
            };
            let unchanged = row.device.clone();
            apply(&mut row.device, change);
            // Before the row says so; also where an entry was lost with its server.
            if let Some(user) = &row.device.user
                && (is_new || row.device.user != unchanged.user || self.entries_of(user, key).await?.is_empty())
            {
                self.add_entry(user, key).await?;
            }
            if !is_new && row.device == unchanged {
                return Ok((row.device, false));
            }
            let left = match &unchanged.user {
                Some(user) if row.device.user != unchanged.user => self.entries_of(user, key).await?,
                _ => Vec::new(),
            };
            row.device.updated_at = now;
            let after = row.encode()?;
            let ordinal = if is_new {
                row.device.ordinal.to_be_bytes().to_vec()
            } else {
                Vec::new()
            };
            let make = |_| {
                let mut cmd = script::PUT.call(&keys);
                cmd.arg(&before)
                    .arg(&after)
                    .arg(key.device.as_str())
                    .arg(&ordinal)
                    .arg(cohort_before)
                    .arg(counter(row.device.cohort));
                cmd
            };
            match self.shards.ask(Route::durable(Slot::of_bucket(bucket)), make).await? {
                Value::Int(1) => {
                    self.rows.forget(key);
                    if let Some(user) = &unchanged.user {
                        self.drop_entries(user, key, &left).await;
                    }
                    self.count(bucket).await?;
                    self.watches.wake([key]);
                    return Ok((row.device, is_new));
                }
                // Somebody changed it, or an answer was lost and this is the second try.
                Value::Int(_) => {}
                _ => return Err(damaged("the answer to a change of a device")),
            }
        }
        Err(contended())
    }

    async fn remove(&self, key: &DeviceKey, now: Timestamp) -> Result<Option<Seat>, StoreError> {
        let bucket = key.bucket();
        let keys: Vec<String> = [
            ('d', true),
            ('p', true),
            ('q', true),
            ('s', true),
            ('o', false),
            ('c', false),
            ('z', false),
            ('w', false),
            ('f', true),
            ('e', true),
        ]
        .into_iter()
        .map(|(kind, of_device)| {
            if of_device {
                self.keys.device(kind, key)
            } else {
                self.keys.bucket(kind, bucket)
            }
        })
        .chain([
            self.keys.tenant_bucket('l', bucket, key.tenant),
            self.keys.bucket(Log::Feed.outbox(), bucket),
        ])
        .collect();
        let ending = Ending::encode(Outcome::Failed(Reason::DeviceRemoved), now, None, None)?;
        let member = keys::member(key);
        let kept_until = now.plus(std::time::Duration::from_secs(self.limits.tombstone_kept_secs));
        for _ in 0..TRIES {
            let before = self.row('d', key).await?.ok_or(StoreError::UnknownDevice)?;
            let Some(row) = Row::decode(key.device.clone(), &before)? else {
                return Err(StoreError::RemovedDevice);
            };
            let tombstone = Head {
                removed: true,
                updated_at: now,
                ..Head::read(&before)?
            };
            let left = match &row.device.user {
                Some(user) => self.entries_of(user, key).await?,
                None => Vec::new(),
            };
            let prefix = record::receipt_prefix(key.tenant, Some(row.device.ordinal), &key.device);
            let make = |_| {
                let mut cmd = script::REMOVE.call(&keys);
                cmd.arg(&before)
                    .arg(tombstone.encode())
                    .arg(&ending)
                    .arg(now.0)
                    .arg(&prefix)
                    .arg(&member)
                    .arg(key.device.as_str())
                    .arg(counter(row.device.cohort))
                    .arg(kept_until.0)
                    .arg(feed::left(now, Departure::Removed));
                cmd
            };
            let value = self.shards.ask(Route::durable(Slot::of_bucket(bucket)), make).await?;
            let mut reply = Reply::new(value, "the answer to a removal")?;
            if reply.int()? == 1 {
                let seat = self.live_seat(&reply.bytes()?).await;
                self.rows.forget(key);
                if let Some(user) = &row.device.user {
                    self.drop_entries(user, key, &left).await;
                }
                self.count(bucket).await?;
                self.touch(bucket);
                self.touch_feed(bucket);
                self.watches.wake([key]);
                if let Some(seat) = seat.as_ref().filter(|seat| *seat.node != *self.nodes.name()) {
                    let (device, epoch) = (key.clone(), seat.epoch);
                    self.hint(&seat.node, Hint::Removed { device, epoch });
                }
                return Ok(seat);
            }
        }
        Err(contended())
    }

    /// Exchanges a row of a device, as long as a part of the device's own row (`from..=to`, counted from 1) is what it must be.
    async fn exchange(
        &self,
        kind: char,
        device: &DeviceKey,
        (from, to, must_be): (u8, u8, &[u8]),
        change: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, StoreError>,
    ) -> Result<bool, StoreError> {
        let keys = [self.keys.device('d', device), self.keys.device(kind, device)];
        let mut before = self.row(kind, device).await?.unwrap_or_default();
        for _ in 0..TRIES {
            let after = change(&before)?;
            let changes = after.is_some();
            // Also without a change: whether the device is there is said either way.
            let after = after.unwrap_or_else(|| before.clone());
            let make = |_| {
                let mut cmd = script::EXCHANGE.call(&keys);
                cmd.arg(from).arg(to).arg(must_be).arg(&before).arg(&after);
                cmd
            };
            let route = Route::durable(Slot::of_bucket(device.bucket()));
            let mut reply = Reply::new(self.shards.ask(route, make).await?, "the answer to an exchange")?;
            match reply.int()? {
                0 => return Err(StoreError::UnknownDevice),
                1 => return Err(StoreError::RemovedDevice),
                2 => return Err(StoreError::Conflict("the credentials of the device were changed".into())),
                3 => {
                    let now = reply.bytes()?;
                    // The answer to an earlier try was lost.
                    if now == after {
                        return Ok(changes);
                    }
                    before = now;
                }
                4 => return Ok(changes),
                _ => return Err(reply.damaged()),
            }
        }
        Err(contended())
    }

    /// One row of each of many devices, in order.
    async fn rows(&self, kind: char, keys: Vec<DeviceKey>) -> Result<Vec<(DeviceKey, Option<Vec<u8>>)>, StoreError> {
        let row = |key: DeviceKey| async move {
            let row = self.row(kind, &key).await?;
            Ok::<_, StoreError>((key, row))
        };
        stream::iter(keys).map(row).buffered(TOGETHER).try_collect().await
    }

    /// Names of a bucket's devices behind one, in order.
    pub(super) async fn names(&self, bucket: u16, tenant: TenantId, after: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let key = self.keys.tenant_bucket('l', bucket, tenant);
        let make = |_| {
            let mut cmd = redis::cmd("ZRANGEBYLEX");
            cmd.arg(&key).arg(after).arg("+").arg("LIMIT").arg(0).arg(limit);
            cmd
        };
        match self.shards.ask(Route::read(Slot::of_bucket(bucket)), make).await? {
            Value::Array(names) => Ok(names.into_iter().filter_map(reply::bytes).collect()),
            _ => Err(damaged("the names of devices")),
        }
    }

    /// The next devices of a tenant in order of their ids: a few names of each bucket, and more of those whose names ran out
    /// before the page was full.
    async fn list(&self, tenant: TenantId, after: Option<&DeviceId>, limit: usize) -> Result<Vec<DeviceKey>, StoreError> {
        let few = (limit * 3 / usize::from(BUCKETS) + 2).min(limit.max(1));
        let first = after.map_or_else(|| b"-".to_vec(), |after| format!("({after}").into_bytes());
        let read = |bucket, after: Vec<u8>, count| async move {
            let names = self.names(bucket, tenant, &after, count).await?;
            Ok::<_, StoreError>((bucket, names.len() >= count, names))
        };
        let mut open: Vec<(u16, Vec<u8>)> = (0..BUCKETS).map(|bucket| (bucket, first.clone())).collect();
        let mut found: Vec<(Vec<u8>, u16)> = Vec::new();
        let mut count = few;
        while !open.is_empty() {
            let pages: Vec<_> = stream::iter(open)
                .map(|(bucket, after)| read(bucket, after, count))
                .buffer_unordered(TOGETHER)
                .try_collect()
                .await?;
            let mut ends = Vec::new();
            for (bucket, more, names) in pages {
                if more && let Some(last) = names.last() {
                    ends.push((bucket, last.clone()));
                }
                found.extend(names.into_iter().map(|name| (name, bucket)));
            }
            found.sort_unstable();
            found.truncate(limit);
            // A bucket matters still when it may have names before the last one of the page.
            let last = found.last().map(|(name, _)| name.clone());
            let full = found.len() >= limit;
            open = ends
                .into_iter()
                .filter(|(_, end)| !full || last.as_ref().is_some_and(|last| end < last))
                .map(|(bucket, end)| (bucket, [b"(", end.as_slice()].concat()))
                .collect();
            count = limit;
        }
        let device = |(name, _): (Vec<u8>, u16)| key_of(tenant, &name).ok_or_else(|| damaged("the name of a device"));
        found.into_iter().map(device).collect()
    }

    pub(super) async fn devices_of(&self, keys: Vec<DeviceKey>) -> Result<Vec<Device>, StoreError> {
        let mut devices = Vec::with_capacity(keys.len());
        for (key, row) in self.rows('d', keys).await? {
            // One that was removed between the two looks is left out.
            if let Some(row) = row
                && let Some(row) = Row::decode(key.device, &row)?
            {
                devices.push(row.device);
            }
        }
        Ok(devices)
    }
}

#[async_trait]
impl Registry for RedisStore {
    async fn put_device(
        &self,
        device: &DeviceKey,
        change: DeviceChange,
        create: bool,
        now: Timestamp,
    ) -> Result<(Device, bool), StoreError> {
        self.shared.put(device, &change, create, now).await
    }

    async fn device(&self, device: &DeviceKey) -> Result<Registered, StoreError> {
        self.shared.registered(device).await
    }

    async fn device_for_login(&self, device: &DeviceKey) -> Result<Registered, StoreError> {
        let now = Instant::now();
        if let Some(row) = self.shared.rows.get(device, now) {
            return Ok(Registered::Present(row));
        }
        let found = self.device(device).await?;
        if let Registered::Present(row) = &found {
            self.shared.rows.put(device, row, now);
        }
        Ok(found)
    }

    async fn neighbours(&self, device: &DeviceKey, limit: usize) -> Result<Vec<Device>, StoreError> {
        let first = device.bucket();
        let mut buckets = stream::iter(0..BUCKETS)
            .map(|distance| async move {
                // Behind the name in its own bucket, and all of the buckets that follow.
                let after = if distance == 0 { format!("({}", device.device) } else { "-".into() };
                let bucket = (first + distance) % BUCKETS;
                self.shared.names(bucket, device.tenant, after.as_bytes(), limit).await
            })
            .buffered(NEARBY);
        let mut keys = Vec::new();
        while let Some(names) = buckets.next().await {
            keys.extend(names?.iter().filter_map(|name| key_of(device.tenant, name)));
            if keys.len() >= limit {
                break;
            }
        }
        keys.truncate(limit);
        self.shared.devices_of(keys).await
    }

    async fn devices(&self, tenant: TenantId, after: Option<&DeviceId>, limit: usize) -> Result<Vec<Device>, StoreError> {
        let keys = self.shared.list(tenant, after, limit).await?;
        self.shared.devices_of(keys).await
    }

    async fn devices_of(&self, tenant: TenantId, user: &UserId, after: Option<&DeviceId>, limit: usize) -> Result<Vec<Device>, StoreError> {
        self.shared.devices_of_user(tenant, user, after, limit).await
    }

    async fn remove_device(&self, device: &DeviceKey, now: Timestamp) -> Result<Option<Seat>, StoreError> {
        self.shared.remove(device, now).await
    }

    async fn fast_tokens(&self, device: &DeviceKey, generation: u32) -> Result<FastTokens, StoreError> {
        let row = self.shared.row('f', device).await?.unwrap_or_default();
        Ok(read_tokens(&row)?.of_generation(generation))
    }

    async fn change_fast_tokens(&self, device: &DeviceKey, generation: u32, change: FastChange) -> Result<(), StoreError> {
        let guard = generation.to_be_bytes();
        self.shared
            .exchange('f', device, (7, 10, &guard), |row| {
                changed_tokens(row, generation, &change).map(Some)
            })
            .await
            .map(|_| ())
    }

    async fn report(&self, device: &DeviceKey, report: Report, now: Timestamp) -> Result<bool, StoreError> {
        // Byte 1 is the version: nothing of the device's row need stay.
        self.shared
            .exchange('e', device, (1, 1, &[1]), |row| {
                let mut reported = read_reported(row)?.unwrap_or_default();
                if reported.take(report.clone(), now) {
                    json(&reported).map(Some)
                } else {
                    Ok(None)
                }
            })
            .await
    }

    async fn reported(&self, tenant: TenantId, devices: &[Device]) -> Result<Vec<Option<Reported>>, StoreError> {
        let keys: Vec<DeviceKey> = devices
            .iter()
            .map(|device| DeviceKey {
                tenant,
                device: device.id.clone(),
            })
            .collect();
        let rows = self.shared.rows('e', keys).await?;
        rows.into_iter().map(|(_, row)| read_reported(&row.unwrap_or_default())).collect()
    }

    async fn put_key(&self, hash: [u8; 32], key: ApiKey) -> Result<(), StoreError> {
        self.shared.store_shared("keys", &hash, &json(&key)?).await?;
        self.shared.memory.keys.write().insert(hash, Arc::new(key));
        Ok(())
    }

    async fn put_first_key(&self, hash: [u8; 32], key: ApiKey) -> Result<bool, StoreError> {
        if !self.keys(TenantId(key.tenant)).await?.is_empty() || !self.shared.is_first(TenantId(key.tenant)).await? {
            return Ok(false);
        }
        self.put_key(hash, key).await.map(|()| true)
    }

    fn key(&self, hash: &[u8; 32]) -> Option<Arc<ApiKey>> {
        self.shared.memory.keys.read().get(hash).cloned()
    }

    async fn keys(&self, tenant: TenantId) -> Result<Vec<ApiKey>, StoreError> {
        self.shared.remember_all().await?;
        let mut found: Vec<ApiKey> = {
            let keys = self.shared.memory.keys.read();
            keys.values()
                .filter(|key| key.tenant == tenant.0)
                .map(|key| ApiKey::clone(key))
                .collect()
        };
        found.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(found)
    }

    async fn rotate_key(&self, tenant: TenantId, id: &str, rotation: Rotation) -> Result<Option<ApiKey>, StoreError> {
        self.shared.rotate(tenant, id, &rotation).await
    }

    async fn revoke_key(&self, tenant: TenantId, id: &str) -> Result<bool, StoreError> {
        self.shared.revoke(tenant, id).await
    }

    async fn note_key_uses(&self, uses: &[KeyUse]) -> Result<(), StoreError> {
        self.shared.note_key_uses(uses).await
    }

    async fn key_uses(&self, tenant: TenantId) -> Result<HashMap<Arc<str>, Timestamp>, StoreError> {
        let all = self.shared.read_key_uses().await?;
        let of_tenant = all.into_iter().filter(|((of, _), _)| *of == tenant);
        Ok(of_tenant.map(|((_, id), at)| (id, at)).collect())
    }

    async fn put_tenant(&self, tenant: Tenant) -> Result<(), StoreError> {
        self.shared.remember_all().await?;
        let taken = self.shared.memory.tenants.read().values().any(|other| tenant.excludes(other));
        if taken {
            return Err(StoreError::Conflict(
                "another tenant has that name or domain, or it was removed".into(),
            ));
        }
        let field = tenant.id.to_string();
        self.shared.store_shared("tenants", field.as_bytes(), &json(&tenant)?).await?;
        self.shared.memory.tenants.write().insert(tenant.id, Arc::new(tenant));
        Ok(())
    }

    async fn add_tenant(&self, name: &str, domain: &str, limits: Option<RateLimit>) -> Result<Arc<Tenant>, StoreError> {
        self.shared.add_tenant(name, domain, limits).await
    }

    async fn remove_tenant(&self, tenant: TenantId, now: Timestamp) -> Result<bool, StoreError> {
        self.shared.remember_all().await?;
        if self.tenant(tenant).is_none() {
            return Ok(false);
        }
        // A device that another node adds at this moment stays behind, where nobody reaches it.
        if !self.devices(tenant, None, 1).await?.is_empty() {
            return Err(StoreError::Conflict("the tenant has devices; remove them first".into()));
        }
        if !self.shared.end_tenant(tenant, now).await? {
            return Ok(false);
        }
        // None is added from here on. What an end in the midst of it leaves is nobody's, and housekeeping takes it.
        self.sweep_webhooks().await.map(|_| true)
    }

    fn tenants(&self) -> Vec<Arc<Tenant>> {
        let tenants = self.shared.memory.tenants.read();
        tenants.values().filter(|tenant| tenant.removed_at.is_none()).cloned().collect()
    }

    fn tenant(&self, tenant: TenantId) -> Option<Arc<Tenant>> {
        let tenants = self.shared.memory.tenants.read();
        tenants.get(&tenant.0).filter(|tenant| tenant.removed_at.is_none()).cloned()
    }

    fn tenant_at(&self, domain: &str) -> Option<Arc<Tenant>> {
        let tenants = self.shared.memory.tenants.read();
        let found = tenants
            .values()
            .find(|tenant| tenant.domain == domain && tenant.removed_at.is_none());
        found.cloned()
    }
}

pub(super) fn read_reported(row: &[u8]) -> Result<Option<Reported>, StoreError> {
    if row.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(row).map(Some).map_err(|_| damaged("what a device reported"))
}
