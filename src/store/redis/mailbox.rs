//! The mailbox: each step is one script on the slot of its device.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
};

use async_trait::async_trait;
use futures_util::future::join_all;

use super::{
    RedisStore,
    held::{Check, Goodbye},
    housekeeping,
};
use crate::{
    domain::{Clock as _, Departure, Epoch, EventId, Generation, Located, Outcome, TenantId, Timestamp},
    store::{
        Claimed, Cursor, Delivery, DeviceKey, Enqueued, Mailbox, NewEvent, NewSeat, Page, SeatView, Settle, Settled, StoreError,
        StoreStats, Swept, Unread, Watch,
    },
};

#[async_trait]
impl Mailbox for RedisStore {
    async fn enqueue(&self, events: Vec<NewEvent>) -> Vec<Result<Enqueued, StoreError>> {
        if let [_] = events.as_slice() {
            return match events.into_iter().next() {
                Some(one) => vec![self.shared.enqueue_one(one).await],
                None => Vec::new(),
            };
        }
        let count = events.len();
        // Events of one device keep their order; devices do not wait for one another.
        let mut of_device: HashMap<DeviceKey, Vec<(usize, NewEvent)>> = HashMap::new();
        for (index, new) in events.into_iter().enumerate() {
            let device = DeviceKey {
                tenant: new.event.tenant,
                device: new.event.device.clone(),
            };
            of_device.entry(device).or_default().push((index, new));
        }
        let in_order = async |events: Vec<(usize, NewEvent)>| {
            let mut answers = Vec::with_capacity(events.len());
            for (index, new) in events {
                answers.push((index, self.shared.enqueue_one(new).await));
            }
            answers
        };
        let mut answers: Vec<_> = join_all(of_device.into_values().map(in_order))
            .await
            .into_iter()
            .flatten()
            .collect();
        debug_assert_eq!(answers.len(), count);
        answers.sort_unstable_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    async fn claim(&self, device: &DeviceKey, session: NewSeat) -> Result<Claimed, StoreError> {
        match self.shared.claim_seat(device, &session).await {
            // What a token changes must be stored; any other session need not wait for Redis.
            Err(StoreError::Unavailable(why)) if session.fast.is_none() => {
                tracing::debug!("a session begins without its seat, which is claimed later: {why}");
                let as_read = Check::Generation(session.credential_generation);
                Ok(self.shared.seat_unclaimed(device, &session, as_read))
            }
            claimed => claimed,
        }
    }

    fn seats_unread(&self) -> bool {
        true
    }

    async fn claim_unread(&self, device: &DeviceKey, session: NewSeat, unread: Unread) -> Result<Claimed, StoreError> {
        Ok(self.shared.seat_unclaimed(device, &session, Check::Row(Box::new(unread))))
    }

    async fn pending(&self, device: &DeviceKey, after: Cursor, limit: usize) -> Result<Page, StoreError> {
        self.shared.read_pending(device, after, limit).await
    }

    async fn settle(&self, ends: Vec<Settle>) -> Vec<Result<Settled, StoreError>> {
        let strangers = match self.shared.strangers(&ends).await {
            Ok(strangers) => strangers,
            Err(why) => return ends.iter().map(|_| Err(why.clone())).collect(),
        };
        let settle = async |end: &Settle| {
            if !strangers.is_empty() && strangers.contains(&(end.device.clone(), end.located.ordinal)) {
                return Ok(Settled::Unknown);
            }
            self.shared.settle_one(end).await
        };
        // What is said of one event, and the receipts of one device, keep their order, though a step may take two scripts: the second word of
        // an event does, and `processed` may. Devices do not wait for one another.
        let mut events = HashSet::with_capacity(ends.len());
        if ends.iter().all(|end| end.outcome != Outcome::Processed && events.insert(end.id)) {
            return join_all(ends.iter().map(settle)).await;
        }
        let mut of_device: HashMap<&DeviceKey, Vec<(usize, &Settle)>> = HashMap::new();
        for (index, end) in ends.iter().enumerate() {
            of_device.entry(&end.device).or_default().push((index, end));
        }
        let in_order = async |ends: Vec<(usize, &Settle)>| {
            let mut settled = Vec::with_capacity(ends.len());
            for (index, end) in ends {
                settled.push((index, settle(end).await));
            }
            settled
        };
        let settled = join_all(of_device.into_values().map(in_order)).await;
        let mut settled: Vec<_> = settled.into_iter().flatten().collect();
        settled.sort_unstable_by_key(|(index, _)| *index);
        settled.into_iter().map(|(_, settled)| settled).collect()
    }

    async fn requeue_due(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.shared.requeue_due(now, limit).await
    }

    async fn release(&self, device: &DeviceKey, epoch: Epoch, last_seen_at: Timestamp, why: Departure) -> Result<bool, StoreError> {
        let held = &self.shared.held;
        held.give_up(device, epoch);
        let goodbye = Goodbye {
            epoch,
            last_seen_at,
            at: self.shared.clock.now(),
            why,
        };
        match self.shared.release_seat(device, goodbye).await {
            Err(StoreError::Unavailable(_)) => {
                held.owe_release(device, goodbye);
                Ok(true)
            }
            Ok(true) => {
                held.remember_goodbye(device, goodbye);
                Ok(true)
            }
            released => released,
        }
    }

    async fn seat(&self, device: &DeviceKey) -> Result<SeatView, StoreError> {
        self.shared.read_seat(device).await
    }

    async fn seats(&self, devices: &[DeviceKey]) -> Vec<Result<SeatView, StoreError>> {
        self.shared.read_seats(devices).await
    }

    async fn delivery(&self, tenant: TenantId, id: EventId) -> Result<Option<Delivery>, StoreError> {
        self.shared.read_delivery(tenant, id).await
    }

    async fn deliveries(&self, device: &DeviceKey, before: Option<EventId>, limit: usize) -> Result<Vec<Delivery>, StoreError> {
        self.shared.read_deliveries(device, before, limit).await
    }

    async fn sweep(&self, now: Timestamp) -> Result<Swept, StoreError> {
        housekeeping::round(self, now).await
    }

    fn watch(&self, device: &DeviceKey) -> Watch {
        self.shared.watches.watch(device)
    }

    fn generation(&self) -> Generation {
        self.shared.generation()
    }

    fn locate(&self, tenant: TenantId, id: EventId) -> Option<Located> {
        self.shared.ids.open(id).filter(|located| located.tenant == tenant)
    }

    fn stats(&self) -> StoreStats {
        let (serving, replicating) = self.shared.shards.health();
        self.shared.counters.stats(serving && replicating)
    }

    fn missed_arrivals(&self) -> u64 {
        self.shared.missed_arrivals.load(Ordering::Relaxed)
    }
}
