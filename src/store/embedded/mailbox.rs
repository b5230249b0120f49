//! The mailbox: steps go to the writer, reads go to the rows.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;

use super::{
    EmbeddedStore, Shared, born,
    device_state::Held,
    engine::{Engine, Space},
    keys::{self, Place},
    op::{Goodbye, Op},
    record::{self, decode_end, decode_event},
    rows::{DeviceHead, Numbers},
};
use crate::{
    domain::{Departure, Epoch, EventId, Generation, Located, Queue, TenantId, Timestamp},
    store::{
        Claimed, Cursor, Delivery, DeviceKey, Enqueued, Mailbox, NewEvent, NewSeat, Page, QueuedEvent, SeatView, Settle, Settled,
        StoreError, StoreStats, Swept, Watch, codec::damaged,
    },
};

fn head(engine: &Engine, device: &DeviceKey) -> Result<DeviceHead, StoreError> {
    let row = engine.get(Space::Rows, &keys::device(device))?.ok_or(StoreError::UnknownDevice)?;
    let head = DeviceHead::decode(&row)?;
    if head.removed { Err(StoreError::RemovedDevice) } else { Ok(head) }
}

impl Shared {
    /// Adds what waits in one queue behind `after`, until the page has one more than `limit`.
    fn read_queue(
        &self,
        engine: &Engine,
        page: &mut Vec<Arc<QueuedEvent>>,
        from: Place,
        bucket: u16,
        limit: usize,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let to = Place { number: u64::MAX, ..from };
        for row in engine.range(Space::Events, &from.event_key(), &to.event_key()) {
            if page.len() > limit {
                break;
            }
            let (key, value) = row?;
            let place = Place::read(&key).ok_or_else(|| damaged("the key of an event"))?;
            let (facts, json) = decode_event(&value)?;
            if facts.expires_at() > now && facts.due.is_none() {
                let id = self.ids.seal(facts.born(place).located(bucket));
                page.push(Arc::new(record::queued_event(id, place, bucket, self.generation(), &facts, json)?));
            }
        }
        Ok(())
    }

    /// What became of the event that was born at that place.
    fn read_delivery(&self, engine: &Engine, place: Place, id: EventId) -> Result<Option<Delivery>, StoreError> {
        // At one moment: between two looks an event may leave its queue. One that leaves it just now is told of by its end.
        let view = engine.glance();
        let end = view.get(Space::Ends, &place.end_key())?;
        let ending = end.as_deref().map(decode_end).transpose()?;
        if let Some((_, row)) = born::find(place, |space, key| view.get(space, key))? {
            let ending = ending.map(|(_, ending)| ending);
            let facts = decode_event(&row)?.0;
            let group = facts.group(&self.ids, place.tenant);
            return record::delivery(id, group, self.generation(), &facts, ending.as_ref()).map(Some);
        }
        let Some((facts, ending)) = ending else { return Ok(None) };
        let kept = Duration::from_secs(self.limits.state_kept_secs);
        if ending.waits_at.is_some() || self.clock.now() >= ending.at.plus(kept) {
            return Ok(None);
        }
        let group = facts.group(&self.ids, place.tenant);
        record::delivery(id, group, self.generation(), &facts, Some(&ending)).map(Some)
    }

    /// Deliveries of a device below a number, newest first: each with its number now, and where it was born.
    fn places(&self, engine: &Engine, from: Place, to: Place, limit: usize) -> Result<Vec<(u64, Place)>, StoreError> {
        let mut places = Vec::new();
        for row in engine.range(Space::Events, &from.event_key(), &to.event_key()).rev().take(limit) {
            let (key, row) = row?;
            let place = Place::read(&key).ok_or_else(|| damaged("the key of an event"))?;
            places.push((place.number, decode_event(&row)?.0.born(place)));
        }
        let (mut ends, now, kept) = (0, self.clock.now(), Duration::from_secs(self.limits.state_kept_secs));
        for row in engine.range(Space::Ends, &from.end_key(), &to.end_key()).rev() {
            let (key, row) = row?;
            // What waits again is found where it waits; what is past its time may lie before what ended later.
            let ending = decode_end(&row)?.1;
            if ending.waits_at.is_some() || now >= ending.at.plus(kept) {
                continue;
            }
            places.extend(key.get(1..).and_then(Place::read).map(|place| (place.number, place)));
            ends += 1;
            if ends >= limit {
                break;
            }
        }
        Ok(places)
    }
}

#[async_trait]
impl Mailbox for EmbeddedStore {
    async fn enqueue(&self, events: Vec<NewEvent>) -> Vec<Result<Enqueued, StoreError>> {
        let count = events.len();
        if count == 0 {
            return Vec::new();
        }
        match self.ask_now(|answer| Op::Enqueue(events, answer)).await {
            Ok(results) => results,
            Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
        }
    }

    async fn claim(&self, device: &DeviceKey, session: NewSeat) -> Result<Claimed, StoreError> {
        let device = device.clone();
        self.ask(|answer| Op::Claim(device, session, answer)).await?
    }

    async fn pending(&self, device: &DeviceKey, after: Cursor, limit: usize) -> Result<Page, StoreError> {
        let waiting = self
            .shared
            .seats
            .read()
            .get(device)
            .map(|held| held.waiting.load(Ordering::Relaxed));
        if waiting == Some(0) {
            return Ok(Page::default());
        }
        let now = self.shared.clock.now();
        self.shared.read(|engine| {
            let ordinal = head(engine, device)?.ordinal;
            let bucket = device.bucket();
            let mut events = Vec::new();
            for (queue, after) in [(Queue::First, after.first), (Queue::Rest, after.rest)] {
                let Some(number) = after.checked_add(1) else { continue };
                let from = Place {
                    tenant: device.tenant,
                    ordinal,
                    queue,
                    number,
                };
                self.shared.read_queue(engine, &mut events, from, bucket, limit, now)?;
            }
            let more = events.len() > limit;
            events.truncate(limit);
            Ok(Page { events, more })
        })
    }

    async fn settle(&self, ends: Vec<Settle>) -> Vec<Result<Settled, StoreError>> {
        let count = ends.len();
        if count == 0 {
            return Vec::new();
        }
        match self.ask(|answer| Op::Settle(ends, answer)).await {
            Ok(results) => results,
            Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
        }
    }

    async fn requeue_due(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let (from, to) = keys::due_until(now);
        let due = self
            .shared
            .read(|engine| Ok(engine.range(Space::Rows, &from, &to).next().transpose()?.is_some()))?;
        if !due {
            return Ok(0);
        }
        self.ask(|answer| Op::RequeueDue(now, limit, answer)).await?
    }

    async fn release(&self, device: &DeviceKey, epoch: Epoch, last_seen_at: Timestamp, why: Departure) -> Result<bool, StoreError> {
        let device = device.clone();
        let goodbye = Goodbye { epoch, last_seen_at, why };
        self.ask(|answer| Op::Release(device, goodbye, answer)).await?
    }

    async fn seat(&self, device: &DeviceKey) -> Result<SeatView, StoreError> {
        let held = self.shared.seats.read().get(device).cloned();
        let view = |held: &Held, waiting| SeatView {
            seat: Some(held.seat.clone()),
            last_epoch: held.seat.epoch,
            last_seen_at: held.last_seen_at,
            waiting,
        };
        if let Some(held) = &held
            && let Some(waiting) = held.waiting()
        {
            return Ok(view(held, waiting));
        }
        self.shared.read(|engine| {
            let ordinal = head(engine, device)?.ordinal;
            let mut waiting = 0;
            for row in engine.prefix(Space::Events, &keys::device_prefix(device.tenant, ordinal)) {
                row?;
                waiting += 1;
            }
            if let Some(held) = &held {
                return Ok(view(held, waiting));
            }
            let numbers = match engine.get(Space::Rows, &keys::numbers(device.tenant, ordinal))? {
                Some(row) => Numbers::decode(&row)?,
                None => Numbers::default(),
            };
            Ok(SeatView {
                seat: None,
                last_epoch: numbers.epoch,
                last_seen_at: numbers.last_seen_at,
                waiting,
            })
        })
    }

    async fn delivery(&self, tenant: TenantId, id: EventId) -> Result<Option<Delivery>, StoreError> {
        let Some(place) = self.locate(tenant, id).and_then(Place::of) else {
            return Ok(None);
        };
        self.shared.read(|engine| self.shared.read_delivery(engine, place, id))
    }

    async fn deliveries(&self, device: &DeviceKey, before: Option<EventId>, limit: usize) -> Result<Vec<Delivery>, StoreError> {
        self.shared.read(|engine| {
            let before = match before.map(|id| self.locate(device.tenant, id).and_then(Place::of)) {
                None => u64::MAX,
                Some(None) => return Ok(Vec::new()),
                Some(Some(born)) => born::find(born, |space, key| engine.get(space, key))?.map_or(born.number, |(place, _)| place.number),
            };
            let ordinal = head(engine, device)?.ordinal;
            let mut places = Vec::new();
            for queue in [Queue::First, Queue::Rest] {
                let at = |number| Place {
                    tenant: device.tenant,
                    ordinal,
                    queue,
                    number,
                };
                places.extend(self.shared.places(engine, at(0), at(before.saturating_sub(1)), limit)?);
            }
            places.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
            places.dedup();
            let mut found = Vec::new();
            for (_, born) in places {
                if found.len() >= limit {
                    break;
                }
                let id = self.shared.ids.seal(born.located(device.bucket()));
                found.extend(self.shared.read_delivery(engine, born, id)?);
            }
            Ok(found)
        })
    }

    async fn sweep(&self, now: Timestamp) -> Result<Swept, StoreError> {
        super::sweep::round(self, now).await
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

    fn missed_arrivals(&self) -> u64 {
        self.shared.missed_arrivals.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn stats(&self) -> StoreStats {
        let totals = *self.shared.totals.lock();
        let oldest = self.shared.oldest_queued.load(Ordering::Relaxed);
        StoreStats {
            queued: Some(totals.queued),
            oldest_queued_at: Some(Timestamp(oldest)).filter(|_| oldest > 0 && totals.queued > 0),
            devices: totals.devices,
            devices_polling: totals.polling,
            devices_control: totals.control,
            disk_bytes: self.shared.disk_bytes.load(Ordering::Relaxed),
            free_bytes: self.shared.free_bytes.load(Ordering::Relaxed),
            writable: self.shared.writable.load(Ordering::Relaxed),
        }
    }
}
