//! What all nodes share and answer from memory: the identity of the store, API keys, tenants.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
};

use parking_lot::RwLock;
use redis::Cmd;

use super::{
    FORMAT, OpenError, Shared,
    keys::{Keys, SHARED, Slot},
    reply, script,
    shards::{Route, Shards},
};
use crate::{
    domain::TenantId,
    store::{
        ApiKey, Rotation, StoreError, Tenant,
        codec::damaged,
        rotation::{Secret, rotate},
    },
};

/// How often a change of a key is tried because somebody else changed it meanwhile.
const TRIES: usize = 5;

/// Keys and tenants, as of the last change that this node knows of.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) keys: RwLock<HashMap<[u8; 32], Arc<ApiKey>>>,
    pub(super) tenants: RwLock<BTreeMap<u16, Arc<Tenant>>>,
}

/// What makes this store itself.
pub(super) struct Identity {
    pub(super) generation: u32,
    pub(super) id_secret: [u8; 32],
}

fn command(name: &str, arguments: &[&[u8]]) -> Cmd {
    let mut cmd = redis::cmd(name);
    for argument in arguments {
        cmd.arg(*argument);
    }
    cmd
}

/// Reads the identity; the first node makes it.
pub(super) async fn identity(shards: &Shards, keys: &Keys) -> Result<Identity, OpenError> {
    let key = keys.shared("identity");
    let durable = Route::durable(Slot::of(SHARED));
    let mut made = [0; 36];
    aws_lc_rs::rand::fill(&mut made).map_err(|_| OpenError::Random)?;
    let fresh = [&FORMAT.to_be_bytes()[..], &made].concat();
    // The first of several that start at once wins; all read what is there.
    shards.ask(durable, |_| command("SET", &[key.as_bytes(), &fresh, b"NX"])).await?;
    let row = shards.ask(durable, |_| command("GET", &[key.as_bytes()])).await?;
    let (found, identity) = Identity::read(row)?;
    if found > FORMAT {
        return Err(OpenError::Newer { found, known: FORMAT });
    }
    Ok(identity)
}

impl Identity {
    /// Reads the row: the format of all that is in Redis, and the identity.
    fn read(row: redis::Value) -> Result<(u32, Self), StoreError> {
        let read = || -> Option<(u32, Self)> {
            let row = reply::bytes(row)?;
            let (format, rest) = row.split_first_chunk()?;
            let (generation, rest) = rest.split_first_chunk()?;
            let identity = Self {
                generation: u32::from_be_bytes(*generation).max(1),
                id_secret: rest.try_into().ok()?,
            };
            Some((u32::from_be_bytes(*format), identity))
        };
        read().ok_or_else(|| damaged("the identity of the store"))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        [&FORMAT.to_be_bytes()[..], &self.generation.to_be_bytes(), &self.id_secret].concat()
    }
}

impl Shared {
    /// Sees to it that the default tenant has its domain.
    pub(super) async fn first_tenant(&self, domain: &str) -> Result<(), StoreError> {
        let limits = self.read_tenants().await?.get(&0).and_then(|known| known.limits);
        let tenant = Tenant {
            id: 0,
            name: "default".to_owned(),
            domain: domain.to_owned(),
            limits,
            removed_at: None,
        };
        self.store_shared("tenants", b"0", &json(&tenant)?).await
    }

    /// Writes one row that all nodes answer from memory; they learn of it with their next heartbeat.
    pub(super) async fn store_shared(&self, name: &str, field: &[u8], row: &[u8]) -> Result<(), StoreError> {
        let (hash, version) = (self.keys.shared(name), self.keys.shared("version"));
        let durable = Route::durable(Slot::of(SHARED));
        self.shards
            .ask(durable, |_| command("HSET", &[hash.as_bytes(), field, row]))
            .await?;
        self.shards.ask(durable, |_| command("INCR", &[version.as_bytes()])).await?;
        Ok(())
    }

    /// The same for a row that must not be there yet. False: it is, and nothing was stored.
    pub(super) async fn add_shared(&self, name: &str, field: &[u8], row: &[u8]) -> Result<bool, StoreError> {
        let (hash, version) = (self.keys.shared(name), self.keys.shared("version"));
        let durable = Route::durable(Slot::of(SHARED));
        let added = self
            .shards
            .ask(durable, |_| command("HSETNX", &[hash.as_bytes(), field, row]))
            .await?;
        self.shards.ask(durable, |_| command("INCR", &[version.as_bytes()])).await?;
        Ok(reply::int(&added) == Some(1))
    }

    /// Takes rows away. False: none of them was there.
    pub(super) async fn drop_shared(&self, name: &str, fields: &[&[u8]]) -> Result<bool, StoreError> {
        let (hash, version) = (self.keys.shared(name), self.keys.shared("version"));
        let durable = Route::durable(Slot::of(SHARED));
        let make = |_| {
            let mut cmd = command("HDEL", &[hash.as_bytes()]);
            for field in fields {
                cmd.arg(*field);
            }
            cmd
        };
        let dropped = self.shards.ask(durable, make).await?;
        self.shards.ask(durable, |_| command("INCR", &[version.as_bytes()])).await?;
        Ok(reply::int(&dropped).is_some_and(|dropped| dropped > 0))
    }

    /// The secrets of a key, as they are stored now.
    async fn secrets(&self, tenant: TenantId, id: &str) -> Result<Vec<Secret>, StoreError> {
        self.remember_all().await?;
        let keys = self.memory.keys.read();
        let of_key = keys.iter().filter(|(_, key)| key.tenant == tenant.0 && key.id == id);
        Ok(of_key.map(|(hash, key)| (*hash, ApiKey::clone(key))).collect())
    }

    /// Gives a key another secret, unless somebody else does at the same time.
    pub(super) async fn rotate(&self, tenant: TenantId, id: &str, rotation: &Rotation) -> Result<Option<ApiKey>, StoreError> {
        let keys = [self.keys.shared("keys"), self.keys.shared("version")];
        let slot = Slot::of(SHARED);
        for _ in 0..TRIES {
            let secrets = self.secrets(tenant, id).await?;
            // The answer to an earlier try was lost.
            if let Some((_, done)) = secrets.iter().find(|(hash, _)| *hash == rotation.hash) {
                return Ok(Some(done.clone()));
            }
            let Some(rotated) = rotate(&secrets, rotation)? else {
                return Ok(None);
            };
            let Some((newest, _)) = secrets.iter().find(|(_, key)| key.retires_at.is_none()) else {
                return Ok(None);
            };
            let read = |_| command("HGET", &[keys[0].as_bytes(), newest]);
            let Some(row) = reply::bytes(self.shards.ask(Route::read(slot), read).await?) else {
                continue;
            };
            // What is judged is what is there.
            let judged = serde_json::from_slice::<ApiKey>(&row).is_ok_and(|key| secrets.contains(&(*newest, key)));
            if !judged {
                continue;
            }
            let before = rotated.before.as_ref().map(|(_, key)| json(key)).transpose()?.unwrap_or_default();
            let (hash, key) = (&rotated.newest.0, json(&rotated.newest.1)?);
            let make = |_| {
                let mut cmd = script::ROTATE.call(&keys);
                cmd.arg(newest).arg(&row).arg(&before).arg(hash).arg(&key);
                for ended in &rotated.ended {
                    cmd.arg(ended);
                }
                cmd
            };
            if self.shards.ask(Route::durable(slot), make).await? == redis::Value::Int(1) {
                self.remember_all().await?;
                return Ok(Some(rotated.newest.1));
            }
        }
        Err(StoreError::Busy)
    }

    /// Ends a key. One that is rotated meanwhile ends with the secret that it was given.
    pub(super) async fn revoke(&self, tenant: TenantId, id: &str) -> Result<bool, StoreError> {
        let mut dropped = false;
        for _ in 0..TRIES {
            let secrets = self.secrets(tenant, id).await?;
            if secrets.is_empty() {
                self.drop_key_use(tenant, id).await?;
                return Ok(dropped);
            }
            let hashes: Vec<&[u8]> = secrets.iter().map(|(hash, _)| &hash[..]).collect();
            dropped |= self.drop_shared("keys", &hashes).await?;
        }
        Err(StoreError::Busy)
    }

    /// Whether this node is the one that makes the first key of a tenant. For a while: one that dies before it did must not lock
    /// everybody out.
    pub(super) async fn is_first(&self, tenant: TenantId) -> Result<bool, StoreError> {
        let key = self.keys.shared(&format!("first-key:{}", tenant.0));
        let won = self
            .shards
            .ask(Route::durable(Slot::of(SHARED)), |_| {
                command("SET", &[key.as_bytes(), self.nodes.name().as_bytes(), b"NX", b"PX", b"30000"])
            })
            .await?;
        Ok(won != redis::Value::Nil)
    }

    pub(super) async fn read_shared(&self, name: &str) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        let hash = self.keys.shared(name);
        let route = Route::read(Slot::of(SHARED));
        let rows = self.shards.ask(route, |_| command("HGETALL", &[hash.as_bytes()])).await?;
        reply::hash(rows, "rows that all nodes share")
    }

    /// The identity as it is stored.
    pub(super) async fn stored_identity(&self) -> Result<Identity, StoreError> {
        let key = self.keys.shared("identity");
        let route = Route::read(Slot::of(SHARED));
        let row = self.shards.ask(route, |_| command("GET", &[key.as_bytes()])).await?;
        Identity::read(row).map(|(_, identity)| identity)
    }

    /// Reads keys and tenants anew, and the identity, which an import changes.
    pub(super) async fn remember_all(&self) -> Result<(), StoreError> {
        let identity = self.stored_identity().await?;
        if self.generation.swap(identity.generation, Ordering::Relaxed) != identity.generation {
            self.ids.replace(&identity.id_secret);
        }
        let mut keys = HashMap::new();
        for (hash, row) in self.read_shared("keys").await? {
            let hash = <[u8; 32]>::try_from(hash).map_err(|_| damaged("the hash of an API key"))?;
            let key: ApiKey = serde_json::from_slice(&row).map_err(|_| damaged("an API key"))?;
            keys.insert(hash, Arc::new(key));
        }
        let tenants = self.read_tenants().await?;
        *self.memory.keys.write() = keys;
        *self.memory.tenants.write() = tenants;
        Ok(())
    }
}

pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Corrupt(error.to_string().into()))
}
