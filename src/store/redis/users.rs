//! The index of users: a sorted set for each, in a slot of its own, because the devices of one are in many slots and a look-up must not
//! ask them all.
//!
//! A device and its user cannot change in one step, so the index holds at least what the rows say, and a look-up compares with them. An
//! entry is added before the row is written, and the entries that were read before it are taken away after it. Each has a number of its own:
//! whoever is late takes away what it read, never what a later change added.

use futures_util::{StreamExt, TryStreamExt, stream};
use redis::Value;

use super::{
    Shared,
    device::Row,
    keys::{self, BUCKETS, SHARED, Slot},
    registry::key_of,
    reply,
    shards::Route,
};
use crate::{
    domain::{DeviceId, TenantId, UserId},
    store::{Device, DeviceKey, StoreError, codec::damaged},
};

/// Says that every device is in the index.
const INDEXED: &str = "users-indexed";
/// Buckets gone through at once where the index is made.
const TOGETHER: usize = 64;
/// Names of a bucket read at once there.
const PAGE: usize = 1_000;

/// What ends the id in an entry; its number is behind it.
const END: u8 = 0;
/// Behind every entry of the device that is before it.
const BEHIND: u8 = 1;

/// An end of a range of entries.
fn bound(sign: u8, device: &DeviceId, end: u8) -> Vec<u8> {
    [&[sign], device.as_str().as_bytes(), &[end]].concat()
}

fn entries(value: Value) -> Result<Vec<Vec<u8>>, StoreError> {
    match value {
        Value::Array(entries) => Ok(entries.into_iter().filter_map(reply::bytes).collect()),
        _ => Err(damaged("the devices of a user")),
    }
}

impl Shared {
    fn route_of_user(&self, tenant: TenantId, user: &UserId) -> (String, Slot) {
        (self.keys.user(tenant, user), Slot::of(&keys::user_tag(tenant, user)))
    }

    async fn user_range(&self, tenant: TenantId, user: &UserId, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let (key, slot) = self.route_of_user(tenant, user);
        let make = |_| {
            let mut cmd = redis::cmd("ZRANGEBYLEX");
            cmd.arg(&key).arg(from).arg(to).arg("LIMIT").arg(0).arg(limit);
            cmd
        };
        entries(self.shards.ask(Route::read(slot), make).await?)
    }

    /// The entries of a device under a user: to be read before its row is written, and dropped after it.
    pub(super) async fn entries_of(&self, user: &UserId, device: &DeviceKey) -> Result<Vec<Vec<u8>>, StoreError> {
        let (from, to) = (bound(b'[', &device.device, END), bound(b'(', &device.device, BEHIND));
        self.user_range(device.tenant, user, &from, &to, PAGE).await
    }

    /// Adds an entry, before the row says so.
    pub(super) async fn add_entry(&self, user: &UserId, device: &DeviceKey) -> Result<(), StoreError> {
        let mut number = [0; 8];
        aws_lc_rs::rand::fill(&mut number).map_err(|_| StoreError::Unavailable("the system gives no random numbers".into()))?;
        let entry = [device.device.as_str().as_bytes(), &[END], &number].concat();
        let (key, slot) = self.route_of_user(device.tenant, user);
        let make = |_| {
            let mut cmd = redis::cmd("ZADD");
            cmd.arg(&key).arg(0).arg(&entry);
            cmd
        };
        self.shards.ask(Route::durable(slot), make).await.map(|_| ())
    }

    /// Takes entries away, after the row says so. One that stays costs a look-up a comparison, so a failure is no failure of the change.
    pub(super) async fn drop_entries(&self, user: &UserId, device: &DeviceKey, left: &[Vec<u8>]) {
        if left.is_empty() {
            return;
        }
        let (key, slot) = self.route_of_user(device.tenant, user);
        let make = |_| {
            let mut cmd = redis::cmd("ZREM");
            cmd.arg(&key).arg(left);
            cmd
        };
        if let Err(error) = self.shards.ask(Route::quick(slot), make).await {
            tracing::debug!("{} stays in the index of a user that it left: {error}", device.device);
        }
    }

    /// Devices of a user in order of their ids.
    pub(super) async fn devices_of_user(
        &self,
        tenant: TenantId,
        user: &UserId,
        after: Option<&DeviceId>,
        limit: usize,
    ) -> Result<Vec<Device>, StoreError> {
        let mut from = after.map_or_else(|| b"-".to_vec(), |after| bound(b'(', after, BEHIND));
        let mut found = Vec::new();
        while found.len() < limit {
            let wanted = limit - found.len();
            let entries = self.user_range(tenant, user, &from, b"+", wanted).await?;
            let mut keys: Vec<DeviceKey> = Vec::with_capacity(entries.len());
            for entry in &entries {
                let id = entry.split(|byte| *byte == END).next().unwrap_or_default();
                keys.push(key_of(tenant, id).ok_or_else(|| damaged("a device of a user"))?);
            }
            // A device may have several.
            keys.dedup();
            let Some(last) = keys.last() else { break };
            from = bound(b'(', &last.device, BEHIND);
            let devices = self.devices_of(keys).await?;
            found.extend(devices.into_iter().filter(|device| device.user.as_ref() == Some(user)));
            if entries.len() < wanted {
                break;
            }
        }
        Ok(found)
    }

    /// Makes the index of what an earlier version wrote without one. Nodes that start together may do it twice.
    pub(super) async fn index_users(&self) -> Result<(), StoreError> {
        let mark = self.keys.shared(INDEXED);
        let command = |name: &str, arguments: &[&str]| {
            let mut cmd = redis::cmd(name);
            cmd.arg(&mark).arg(arguments);
            cmd
        };
        let slot = Slot::of(SHARED);
        let marked = self.shards.ask(Route::read(slot), |_| command("EXISTS", &[])).await?;
        if reply::int(&marked) == Some(1) {
            return Ok(());
        }
        let tenants: Vec<TenantId> = self.memory.tenants.read().keys().copied().map(TenantId).collect();
        if self.counters.stats(true).devices > 0 {
            for tenant in tenants {
                let buckets = stream::iter(0..BUCKETS).map(|bucket| self.index_bucket(bucket, tenant));
                let count: u64 = buckets
                    .buffer_unordered(TOGETHER)
                    .try_fold(0, |sum, count| async move { Ok(sum + count) })
                    .await?;
                tracing::info!("{count} devices of tenant {} are now found by their users", tenant.0);
            }
        }
        self.shards.ask(Route::durable(slot), |_| command("SET", &["1"])).await.map(|_| ())
    }

    async fn index_bucket(&self, bucket: u16, tenant: TenantId) -> Result<u64, StoreError> {
        let (mut after, mut count) = (b"-".to_vec(), 0);
        loop {
            let names = self.names(bucket, tenant, &after, PAGE).await?;
            let Some(last) = names.last() else { return Ok(count) };
            after = [b"(", last.as_slice()].concat();
            for name in &names {
                let device = key_of(tenant, name).ok_or_else(|| damaged("the name of a device"))?;
                let row = self.row('d', &device).await?.unwrap_or_default();
                if row.is_empty() {
                    continue;
                }
                let row = Row::decode(device.device.clone(), &row)?;
                if let Some(user) = row.and_then(|row| row.device.user)
                    && self.entries_of(&user, &device).await?.is_empty()
                {
                    self.add_entry(&user, &device).await?;
                    count += 1;
                }
            }
        }
    }
}
