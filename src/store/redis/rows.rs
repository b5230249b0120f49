//! Rows of devices that logged in lately: a login reads the row and claims the seat, and with the row at hand it is one round trip;
//! while Redis is away, none.
//!
//! A row may be a minute old. Whoever acts on one claims with the generation of its credentials, which a changed row refuses.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::store::{Device, DeviceKey};

/// How long a row is taken for true.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// The rows, in two generations: when the younger is full or old, the older goes.
pub(super) struct Rows {
    max: usize,
    inner: Mutex<Inner>,
}

struct Inner {
    since: Instant,
    younger: HashMap<DeviceKey, (Instant, Box<Device>)>,
    older: HashMap<DeviceKey, (Instant, Box<Device>)>,
}

impl Rows {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max: max.max(2),
            inner: Mutex::new(Inner {
                since: Instant::now(),
                younger: HashMap::new(),
                older: HashMap::new(),
            }),
        }
    }

    pub(super) fn get(&self, device: &DeviceKey, now: Instant) -> Option<Box<Device>> {
        let inner = self.inner.lock();
        let (at, row) = inner.younger.get(device).or_else(|| inner.older.get(device))?;
        (now.duration_since(*at) < KEPT_FOR).then(|| row.clone())
    }

    pub(super) fn put(&self, device: &DeviceKey, row: &Device, now: Instant) {
        let mut inner = self.inner.lock();
        if inner.younger.len() >= self.max / 2 || now.duration_since(inner.since) >= KEPT_FOR {
            inner.older = std::mem::take(&mut inner.younger);
            inner.since = now;
        }
        inner.younger.insert(device.clone(), (now, Box::new(row.clone())));
    }

    pub(super) fn forget(&self, device: &DeviceKey) {
        let mut inner = self.inner.lock();
        inner.younger.remove(device);
        inner.older.remove(device);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{Cohort, TenantId, Timestamp},
        store::Device,
    };

    fn key(id: &str) -> DeviceKey {
        DeviceKey {
            tenant: TenantId(0),
            device: id.parse().unwrap(),
        }
    }

    fn row(id: &str) -> Device {
        Device {
            id: id.parse().unwrap(),
            ordinal: 1,
            user: None,
            attributes: serde_json::Map::new(),
            cohort: Cohort::Push,
            credentials: vec![],
            credential_generation: 0,
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
        }
    }

    #[test]
    fn a_row_lasts_a_minute_and_there_are_not_too_many() {
        let (rows, start) = (Rows::new(8), Instant::now());
        rows.put(&key("a"), &row("a"), start);
        assert!(rows.get(&key("a"), start + KEPT_FOR / 2).is_some());
        assert!(rows.get(&key("a"), start + KEPT_FOR).is_none());
        for n in 0..100 {
            let id = format!("d{n}");
            rows.put(&key(&id), &row(&id), start);
            let inner = rows.inner.lock();
            assert!(inner.younger.len() + inner.older.len() <= 8);
        }
        assert!(rows.get(&key("d99"), start).is_some());
        rows.forget(&key("d99"));
        assert!(rows.get(&key("d99"), start).is_none());
    }
}
