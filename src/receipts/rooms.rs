//! How many streams there may be at once: of all tenants, and of each.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::Config;
use crate::{
    domain::{Refusal, TenantId},
    http::sse::RETRY,
};

/// The streams that are open, of each tenant.
#[derive(Clone)]
pub(super) struct Rooms {
    config: Config,
    open: Arc<Mutex<HashMap<TenantId, usize>>>,
}

/// Room for one stream, given back when it is dropped.
pub(super) struct Room {
    rooms: Rooms,
    tenant: TenantId,
}

impl Rooms {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            open: Arc::default(),
        }
    }

    /// Room for a stream of that tenant.
    pub(super) fn enter(&self, tenant: TenantId) -> Result<Room, Refusal> {
        let refuse = |limit, of| {
            let retry_after = RETRY * 5;
            Err(Refusal::TooManyConsumers { limit, of, retry_after })
        };
        let mut open = self.open.lock();
        if open.values().sum::<usize>() >= self.config.streams_max {
            return refuse(self.config.streams_max, "at this node");
        }
        let of_tenant = open.entry(tenant).or_default();
        if *of_tenant >= self.config.streams_max_per_tenant {
            return refuse(self.config.streams_max_per_tenant, "for this tenant at this node");
        }
        *of_tenant += 1;
        Ok(Room {
            rooms: self.clone(),
            tenant,
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut open = self.rooms.open.lock();
        if let Some(of_tenant) = open.get_mut(&self.tenant) {
            *of_tenant -= 1;
            if *of_tenant == 0 {
                open.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_cannot_take_all_the_room_and_room_comes_back() {
        let rooms = Rooms::new(Config {
            streams_max: 3,
            streams_max_per_tenant: 2,
        });
        let one: Vec<Room> = (0..2).map(|_| rooms.enter(TenantId(1)).unwrap()).collect();
        assert!(matches!(rooms.enter(TenantId(1)), Err(Refusal::TooManyConsumers { limit: 2, .. })));
        let two = rooms.enter(TenantId(2)).unwrap();
        assert!(matches!(rooms.enter(TenantId(2)), Err(Refusal::TooManyConsumers { limit: 3, .. })));
        drop(one);
        assert!(rooms.enter(TenantId(2)).is_ok() && rooms.enter(TenantId(1)).is_ok());
        drop(two);
        assert!(rooms.open.lock().is_empty(), "nothing is kept of who is gone");
    }
}
