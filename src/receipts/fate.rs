//! What became of an event: its deliveries, one or as many as it has devices, each in its state of this moment.

use std::collections::{HashMap, HashSet};

use futures_util::future::join_all;

use super::Parts;
use crate::{
    domain::{Caller, DeliveryState, DeviceId, EventId, Refusal},
    store::{
        Delivery, DeviceKey, Group, SeatView, StoreError,
        group::{self, state_of_all},
    },
};

/// An event that a backend asks about.
pub(super) struct Fate {
    /// As it was asked for.
    pub id: EventId,
    /// Of an event to several devices its record.
    pub group: Option<Group>,
    /// In the order of the devices. One whose state is not kept any more is left out.
    pub deliveries: Vec<(Delivery, DeliveryState)>,
}

impl Fate {
    /// The state of the event as a whole.
    pub fn state(&self) -> DeliveryState {
        state_of_all(self.deliveries.iter().map(|(_, state)| *state))
    }
}

impl Parts {
    /// The event of the caller's tenant with that id. Ids that are malformed, unknown, or of another tenant look the same.
    pub(super) async fn fate(&self, caller: &Caller, id: &str) -> Result<Fate, Refusal> {
        let unknown = || Refusal::UnknownEvent(id.chars().take(64).collect());
        let event: EventId = id.parse().map_err(|_| unknown())?;
        let store = &*self.store;
        let (group, deliveries) = match store.locate_group(caller.tenant, event) {
            None => {
                let found = store.delivery(caller.tenant, event).await;
                let found = found.map_err(StoreError::refusal_of_all)?.ok_or_else(unknown)?;
                (None, vec![found])
            }
            Some(place) => {
                let found = store.group(place).await.map_err(StoreError::refusal_of_all)?.ok_or_else(unknown)?;
                let deliveries = group::deliveries_of(store, &found).await.map_err(StoreError::refusal_of_all)?;
                (Some(found), deliveries)
            }
        };
        let states = join_all(deliveries.iter().map(|delivery| self.state_of(caller, delivery))).await;
        Ok(Fate {
            id: event,
            group,
            deliveries: deliveries.into_iter().zip(states).collect(),
        })
    }

    /// Which of a device's deliveries are with its session now.
    pub(super) async fn dispatched(&self, key: DeviceKey, deliveries: &[Delivery]) -> HashSet<EventId> {
        let waiting = deliveries.iter().filter(|delivery| delivery.state == DeliveryState::Queued);
        let ids: Vec<EventId> = waiting.map(|delivery| delivery.id).collect();
        if ids.is_empty() {
            HashSet::new()
        } else {
            (self.dispatched)(key, ids).await
        }
    }

    /// The seats of the devices whose deliveries wait.
    pub(super) async fn seats_of<'a>(
        &self,
        caller: &Caller,
        deliveries: impl Iterator<Item = &'a Delivery>,
    ) -> Result<HashMap<DeviceId, SeatView>, Refusal> {
        let waiting = deliveries.filter(|delivery| delivery.state == DeliveryState::Queued);
        let devices: HashSet<&DeviceId> = waiting.map(|delivery| &delivery.device).collect();
        let key = |device: &&DeviceId| DeviceKey {
            tenant: caller.tenant,
            device: (*device).clone(),
        };
        let keys: Vec<DeviceKey> = devices.iter().map(key).collect();
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let mut seats = HashMap::new();
        for (key, seat) in keys.iter().zip(self.store.seats(&keys).await) {
            match seat {
                Ok(seat) => drop(seats.insert(key.device.clone(), seat)),
                // It was removed a moment ago.
                Err(StoreError::UnknownDevice | StoreError::RemovedDevice) => {}
                Err(error) => return Err(error.refusal(&key.device)),
            }
        }
        Ok(seats)
    }

    /// The state of one delivery, with what only the session and the clock know.
    async fn state_of(&self, caller: &Caller, delivery: &Delivery) -> DeliveryState {
        let key = DeviceKey {
            tenant: caller.tenant,
            device: delivery.device.clone(),
        };
        let dispatched = self.dispatched(key, std::slice::from_ref(delivery)).await;
        self.state(delivery, &dispatched)
    }

    pub(super) fn state(&self, delivery: &Delivery, dispatched: &HashSet<EventId>) -> DeliveryState {
        if delivery.state == DeliveryState::Queued && dispatched.contains(&delivery.id) {
            return DeliveryState::Dispatched;
        }
        // From its expiry on it is not written any more, though the sweeper may not have come by yet.
        if waits(delivery) && self.clock.now() >= delivery.expires_at {
            return DeliveryState::Expired;
        }
        delivery.state
    }
}

/// Whether it may still be delivered, as far as the store knows.
pub(super) fn waits(delivery: &Delivery) -> bool {
    matches!(delivery.state, DeliveryState::Queued | DeliveryState::Scheduled)
}
