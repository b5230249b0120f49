//! Devices, credentials, tenants, keys: what the registry keeps, and how it is asked.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{DeviceKey, Seat, StoreError};
use crate::domain::{
    Cohort, Credential, DeviceId, FastChange, FastTokens, RateLimit, Report, Reported, Scope, TenantId, Timestamp, UserId,
};

/// A device as the registry keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Its number within the tenant, never reused.
    pub ordinal: u32,
    /// Its owner.
    pub user: Option<UserId>,
    /// Facts of the backend about it: a JSON object.
    pub attributes: serde_json::Map<String, serde_json::Value>,
    /// How it learns of events.
    pub cohort: Cohort,
    /// Ways to log in. Never shown.
    pub credentials: Vec<Credential>,
    /// Rises with every change of the credentials.
    pub credential_generation: u32,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// A change of a device. A field that is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct DeviceChange {
    /// New owner; `Some(None)` takes the owner away.
    pub user: Option<Option<UserId>>,
    /// Attributes to set; a JSON `null` takes one away (RFC 7396). Applied onto `{}` when `replace`.
    pub attributes: Option<serde_json::Map<String, serde_json::Value>>,
    /// New cohort.
    pub cohort: Option<Cohort>,
    /// New credentials, all of them.
    pub credentials: Option<Vec<Credential>>,
    /// PUT: whatever is not named goes back to its default. Credentials stay unless given.
    pub replace: bool,
}

/// What a look at the registry finds.
#[derive(Debug, Clone, PartialEq)]
pub enum Registered {
    /// It is there.
    Present(Box<Device>),
    /// It was removed, and when.
    Removed(Timestamp),
    /// It never was, or was removed longer ago than tombstones are kept.
    Unknown,
}

/// One secret of an API key as the registry keeps it. The secret itself is nowhere, only its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Public id, for listing and revoking.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub tenant: u16,
    /// What it may do.
    pub scope: Scope,
    /// When it was made.
    pub created_at: Timestamp,
    /// How much may be posted with it. `None`: as the settings say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RateLimit>,
    /// When it ends. `None`: when it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When this secret of it ends, because the key was given a newer one. `None`: this is the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retires_at: Option<Timestamp>,
}

impl ApiKey {
    /// When this secret is worth nothing any more.
    pub fn ends_at(&self) -> Option<Timestamp> {
        [self.expires_at, self.retires_at].into_iter().flatten().min()
    }
}

/// That a key was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUse {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its public id: all its secrets are one.
    pub id: Arc<str>,
    /// When it was used last.
    pub at: Timestamp,
}

/// Another secret for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// SHA-256 of the new secret.
    pub hash: [u8; 32],
    /// Now.
    pub now: Timestamp,
    /// When the secret before it ends. Not later than now: at once, and so do all others of the key.
    pub retires_at: Timestamp,
}

/// A tenant: an XMPP domain of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its number. No other tenant ever has it.
    pub id: u16,
    /// Its name. The default tenant is `default`.
    pub name: String,
    /// Its XMPP domain.
    pub domain: String,
    /// How much all its keys together may post. `None`: as the settings say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RateLimit>,
    /// It was removed, and when. What it left, such as receipts, is kept as long as those of others, and nobody can ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<Timestamp>,
}

impl Tenant {
    /// Whether it cannot be there beside the other one, or, of the same number, in its place: one that was removed does not come back.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        if self.removed_at.is_some() {
            return false;
        }
        match (self.id == other.id, other.removed_at) {
            (true, removed_at) => removed_at.is_some(),
            (false, Some(_)) => false,
            (false, None) => self.domain == other.domain || self.name == other.name,
        }
    }
}

/// The number of a new tenant beside those that are or were there. `None`: all are used.
pub(super) fn next_tenant<'a>(there: impl Iterator<Item = &'a u16>) -> Option<u16> {
    there.max().map_or(Some(1), |last| last.checked_add(1))
}

/// Devices, credentials, tenants and keys.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// Adds or changes a device, durably. With `create` false an unknown device is refused. Adding a removed device makes a
    /// new one of the same id, with a new ordinal: nothing that waited for the old one reaches it.
    ///
    /// # Errors
    /// `UnknownDevice`, `RemovedDevice` (only when `create` is false), `NoSpace`.
    async fn put_device(
        &self,
        device: &DeviceKey,
        change: DeviceChange,
        create: bool,
        now: Timestamp,
    ) -> Result<(Device, bool), StoreError>;

    /// Looks one up.
    async fn device(&self, device: &DeviceKey) -> Result<Registered, StoreError>;

    /// The same for a login: it may be a minute old, because a claim with the generation of its credentials finds out.
    async fn device_for_login(&self, device: &DeviceKey) -> Result<Registered, StoreError> {
        self.device(device).await
    }

    /// Some devices that are always the same for one id, whether it is known or not: those behind it in an order that is the engine's
    /// own, and from the beginning of it when there are none behind.
    async fn neighbours(&self, device: &DeviceKey, limit: usize) -> Result<Vec<Device>, StoreError> {
        let behind = self.devices(device.tenant, Some(&device.device), limit).await?;
        if behind.is_empty() {
            return self.devices(device.tenant, None, limit).await;
        }
        Ok(behind)
    }

    /// Devices in order of their ids, behind `after`.
    async fn devices(&self, tenant: TenantId, after: Option<&DeviceId>, limit: usize) -> Result<Vec<Device>, StoreError>;

    /// Devices of a user in order of their ids, behind `after`. By an index that is never behind the rows, so that it costs what it
    /// finds, however many devices there are.
    async fn devices_of(&self, tenant: TenantId, user: &UserId, after: Option<&DeviceId>, limit: usize) -> Result<Vec<Device>, StoreError>;

    /// Removes a device: leaves a tombstone, fails what waits for it (`device-removed`), ends its seat. Answers the seat that
    /// was held, so that the session can be told.
    ///
    /// # Errors
    /// `UnknownDevice`, `RemovedDevice`.
    async fn remove_device(&self, device: &DeviceKey, now: Timestamp) -> Result<Option<Seat>, StoreError>;

    /// The device's FAST tokens that were earned with credentials of `generation`. They go with the device.
    async fn fast_tokens(&self, device: &DeviceKey, generation: u32) -> Result<FastTokens, StoreError>;

    /// Changes the device's FAST tokens, durably, for a login without a claim (with one, [`NewSeat::fast`](super::NewSeat::fast) takes it along).
    /// Tokens of another generation go.
    ///
    /// # Errors
    /// `UnknownDevice`, `RemovedDevice`; `Conflict` when the credentials are not of `generation` any more.
    async fn change_fast_tokens(&self, device: &DeviceKey, generation: u32, change: FastChange) -> Result<(), StoreError>;

    /// Takes in what a device reports of itself, durably. False: it says nothing new. What was reported goes with the device.
    ///
    /// # Errors
    /// `UnknownDevice`, `RemovedDevice`, `NoSpace`.
    async fn report(&self, device: &DeviceKey, report: Report, now: Timestamp) -> Result<bool, StoreError>;

    /// What each of these devices reported, in order.
    async fn reported(&self, tenant: TenantId, devices: &[Device]) -> Result<Vec<Option<Reported>>, StoreError>;

    /// Stores a key under the SHA-256 of its text.
    async fn put_key(&self, hash: [u8; 32], key: ApiKey) -> Result<(), StoreError>;

    /// The same, when the tenant has no key yet and no other node is making one. False: nothing was stored.
    async fn put_first_key(&self, hash: [u8; 32], key: ApiKey) -> Result<bool, StoreError>;

    /// The key of that hash. Called for every request, so it answers from memory.
    fn key(&self, hash: &[u8; 32]) -> Option<Arc<ApiKey>>;

    /// All keys of a tenant, once for each secret.
    async fn keys(&self, tenant: TenantId) -> Result<Vec<ApiKey>, StoreError>;

    /// Gives a key another secret, in one step: of several at once, one does. Answers the key with it; `None`: there is none of that id.
    ///
    /// # Errors
    /// `Conflict` when two of its secrets live and the one before the last is not to end now; `Busy` when the key is being changed.
    async fn rotate_key(&self, tenant: TenantId, id: &str, rotation: Rotation) -> Result<Option<ApiKey>, StoreError>;

    /// Ends a key with all its secrets. `false`: there was none of that id.
    async fn revoke_key(&self, tenant: TenantId, id: &str) -> Result<bool, StoreError>;

    /// Notes when keys were last used. An earlier time than the one that is noted changes nothing, and a key that is not there is left
    /// out. Answers before it is durable: what a crash takes is known again with the next use.
    async fn note_key_uses(&self, uses: &[KeyUse]) -> Result<(), StoreError>;

    /// When the keys of a tenant were last used, as far as it was noted, by their ids. It stays when a key is given another secret, and
    /// goes with the key.
    async fn key_uses(&self, tenant: TenantId) -> Result<HashMap<Arc<str>, Timestamp>, StoreError>;

    /// Stores a tenant as it is, under its number.
    ///
    /// # Errors
    /// `Conflict` when another has its name or domain, or when it was removed.
    async fn put_tenant(&self, tenant: Tenant) -> Result<(), StoreError>;

    /// Makes a tenant, durably, with a number that none ever had. All nodes know it within a heartbeat.
    ///
    /// # Errors
    /// `Conflict` when another has its name or domain, or no number is left.
    async fn add_tenant(&self, name: &str, domain: &str, limits: Option<RateLimit>) -> Result<Arc<Tenant>, StoreError>;

    /// Removes a tenant that has no device, and with it its keys, and its webhooks with all that waits for them. False: there is none.
    ///
    /// # Errors
    /// `Conflict` when it has devices.
    async fn remove_tenant(&self, tenant: TenantId, now: Timestamp) -> Result<bool, StoreError>;

    /// All tenants, in order of their numbers. Answers from memory.
    fn tenants(&self) -> Vec<Arc<Tenant>>;

    /// The tenant of that number. Called for every request, so it answers from memory.
    fn tenant(&self, tenant: TenantId) -> Option<Arc<Tenant>> {
        self.tenants().into_iter().find(|known| known.id == tenant.0)
    }

    /// The tenant of that XMPP domain, in lower case. Called for every stream, so it answers from memory.
    fn tenant_at(&self, domain: &str) -> Option<Arc<Tenant>> {
        self.tenants().into_iter().find(|known| known.domain == domain)
    }
}
