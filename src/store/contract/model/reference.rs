//! The reference: what a store should know and answer, in plain data.
//!
//! Where an engine has a choice (a row that is dropped at the next look, a seat whose node died a moment ago) the reference allows both.

use std::{collections::HashMap, sync::Arc};

use super::{
    super::{DeliveryState, DeviceKey, EventId, Outcome, Reason, Require, Settled, Timestamp, Told},
    Difference, differ,
    known::{Change, Coming, Device, Ending, Event, Owed, Pause},
    step::is_copy,
};
use crate::domain::{Epoch, Limits};

/// An idempotency key that is kept.
#[derive(Debug, Clone)]
struct Kept {
    event: usize,
    body: u8,
    may_be_free: bool,
}

/// Everything.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    limits: Limits,
    pub(super) devices: Vec<Device>,
    /// In order of acceptance.
    pub(super) events: Vec<Event>,
    keys: HashMap<(usize, u8), Kept>,
    places: u64,
    /// A server began a new run: numbers may skip.
    pub(super) skips: bool,
}

impl Reference {
    pub(super) fn new(limits: Limits, devices: impl IntoIterator<Item = DeviceKey>) -> Self {
        let device = |key| Device {
            key,
            known: false,
            present: false,
            life: 0,
            generation: 0,
            holder: None,
            epochs: Vec::new(),
            number: 0,
            seqs: [0; 4],
            changes: Vec::new(),
        };
        Self {
            limits,
            devices: devices.into_iter().map(device).collect(),
            events: Vec::new(),
            keys: HashMap::new(),
            places: 0,
            skips: false,
        }
    }

    pub(super) fn find(&self, id: EventId) -> Option<usize> {
        self.events.iter().rposition(|event| event.id == id)
    }

    pub(super) fn waiting(&self, device: usize) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |event| event.device == device && event.waits())
    }

    /// What a session is given at that time, in order.
    pub(super) fn deliverable(&self, device: usize, now: Timestamp) -> Vec<&Event> {
        let ready = |event: &&Event| event.pause.is_none() && event.expires_at > now;
        let mut found: Vec<_> = self.waiting(device).filter(ready).collect();
        found.sort_by_key(|event| (event.queue(), event.place));
        found
    }

    /// Whose old event a new one of that collapse key replaces.
    fn replaceable(&self, coming: &Coming) -> Option<usize> {
        let key = coming.collapse?;
        let same = |event: &Event| event.device == coming.device && event.waits() && event.collapse == Some(key);
        self.events.iter().position(same)
    }

    pub(super) fn owed(&self, coming: &Coming) -> Owed {
        let device = &self.devices[coming.device];
        if !device.present {
            return if device.known { Owed::Removed } else { Owed::Unknown };
        }
        if coming.ttl_secs == 0 {
            return Owed::Passed;
        }
        if let Some((key, body)) = coming.key
            && let Some(kept) = self.keys.get(&(coming.device, key))
        {
            let first = &self.events[kept.event];
            let over = coming.at >= first.accepted_at.plus(self.key_kept());
            if first.waits() || !over {
                return if kept.body == body {
                    Owed::Repeat(first.id, first.state)
                } else {
                    Owed::Reused(first.id)
                };
            }
        }
        let (count, bytes) = self.size(coming.device);
        let old = self.replaceable(coming).map(|index| self.events[index].json.len() as u64);
        let size = coming.json.len() as u64;
        let full = count - u32::from(old.is_some()) >= self.limits.queue_max_events
            || bytes - old.unwrap_or(0) + size > self.limits.queue_max_bytes;
        if full { Owed::Full(count, bytes) } else { Owed::New }
    }

    /// Whether the key of that post may be free: who finds it so may forget it.
    pub(super) fn forget_key(&mut self, coming: &Coming) -> bool {
        let Some((key, _)) = coming.key else { return false };
        let place = (coming.device, key);
        let free = self
            .keys
            .get(&place)
            .is_some_and(|kept| kept.may_be_free || self.events[kept.event].may_be_forgotten);
        if free {
            self.keys.remove(&place);
        }
        free
    }

    /// How many wait for a device, with how many bytes.
    pub(super) fn size(&self, device: usize) -> (u32, u64) {
        self.waiting(device)
            .fold((0, 0), |(count, bytes), event| (count + 1, bytes + event.json.len() as u64))
    }

    fn key_kept(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.limits.idempotency_kept_secs)
    }

    /// The event is stored. Answers what it replaced.
    pub(super) fn accept(&mut self, coming: &Coming, id: EventId, number: u64) -> Result<Vec<EventId>, Difference> {
        if self.find(id).is_some() {
            return differ(format!("the id {id} comes twice"));
        }
        let device = &mut self.devices[coming.device];
        if number <= device.number {
            return differ(format!("the number {number} comes after {}", device.number));
        }
        device.number = number;
        let life = device.life;
        let mut replaced = Vec::new();
        if let Some(old) = self.replaceable(coming) {
            // One that had expired before was not replaced: it would not have been delivered.
            if self.events[old].expires_at <= coming.at {
                self.expired(old, coming.at);
            } else {
                self.end(old, (DeliveryState::Replaced, None), coming.at, coming.at, None, None);
                self.events[old].replaced_by = Some(id);
                self.events[old].replaced_by_copy = coming.key.is_some_and(|(key, _)| is_copy(key));
                replaced.push(self.events[old].id);
            }
        }
        if let Some((key, body)) = coming.key {
            let kept = Kept {
                event: self.events.len(),
                body,
                may_be_free: false,
            };
            self.keys.insert((coming.device, key), kept);
        }
        self.places += 1;
        let from = coming.deliver_at.unwrap_or(coming.at);
        self.events.push(Event {
            id,
            device: coming.device,
            life,
            json: Arc::clone(&coming.json),
            urgency: coming.urgency,
            require: coming.require,
            collapse: coming.collapse,
            key: coming.key.map(|(key, _)| key),
            accepted_at: coming.at,
            deliver_at: coming.deliver_at,
            expires_at: from.plus(std::time::Duration::from_secs(coming.ttl_secs)),
            number,
            place: self.places,
            born: number,
            seq: 0,
            attempt: coming.deliver_at.map_or(1, |_| 0),
            state: coming.waits_as(),
            reason: None,
            late_ack: false,
            told: None,
            replaced_by: None,
            replaced_by_copy: false,
            at: Timestamp(0),
            epoch: None,
            pause: coming.deliver_at.map(|due| Pause {
                earliest: due,
                latest: due,
                later: false,
                fresh: false,
            }),
            may_be_forgotten: false,
            looked_expired: false,
        });
        Ok(replaced)
    }

    /// The number that an event has in its lane, as it is first seen.
    pub(super) fn number_in_lane(&mut self, event: usize, seq: u64) -> Result<(), Difference> {
        let event = &mut self.events[event];
        let last = &mut self.devices[event.device].seqs[event.urgency as usize];
        let fits = if self.skips { seq > *last } else { seq == *last + 1 };
        if !fits {
            return differ(format!("number {seq} in the lane {} comes after {last}", event.urgency));
        }
        (*last, event.seq) = (seq, seq);
        Ok(())
    }

    fn change(&mut self, event: usize, state: DeliveryState, reason: Option<Reason>, at: Timestamp, epoch: Option<Epoch>) {
        let event = &self.events[event];
        let change = Change {
            event: event.id,
            state,
            reason,
            at,
            epoch,
            latency_ms: u64::try_from(at.since(event.deliverable_from()).as_millis()).unwrap_or(u64::MAX),
        };
        self.devices[event.device].changes.push(change);
    }

    fn end(
        &mut self,
        index: usize,
        (state, reason): (DeliveryState, Option<Reason>),
        at: Timestamp,
        now: Timestamp,
        epoch: Option<Epoch>,
        told: Option<Arc<Told>>,
    ) {
        self.change(index, state, reason, at, epoch);
        let kept = self.key_kept();
        let event = &mut self.events[index];
        (event.state, event.reason) = (state, reason);
        (event.at, event.epoch, event.told, event.pause) = (at, epoch, told, None);
        if let Some(key) = event.key
            && now >= event.accepted_at.plus(kept)
            && self.keys.get(&(event.device, key)).is_some_and(|kept| kept.event == index)
        {
            self.keys.remove(&(event.device, key));
        }
    }

    /// An end, or a pause.
    pub(super) fn settle(&mut self, ending: &Ending, now: Timestamp) -> Settled {
        let Ending {
            event: index,
            outcome,
            at,
            epoch,
            ..
        } = *ending;
        let told = ending.told.clone();
        let event = &mut self.events[index];
        if !event.waits() {
            let before = event.state;
            let acknowledged = matches!(outcome, Outcome::Delivered | Outcome::Processed);
            let overtaken = matches!(before, DeliveryState::Replaced | DeliveryState::Cancelled | DeliveryState::Expired);
            event.late_ack |= acknowledged && overtaken;
            let processed = outcome == Outcome::Processed && before == DeliveryState::Delivered && event.told.is_none();
            if event.told.is_none() {
                event.told = told;
            }
            if processed {
                event.state = DeliveryState::Processed;
                (event.at, event.epoch) = (at, epoch);
                self.change(index, DeliveryState::Processed, None, at, epoch);
            }
            return Settled::Before(before);
        }
        let outcome = match outcome {
            Outcome::Delivered if event.require == Require::Processed => return Settled::OutcomeWanted,
            Outcome::Again { .. } if event.attempt >= self.limits.attempts_max => Outcome::Failed(Reason::TooManyAttempts),
            Outcome::Again { .. } if event.pause.is_some() => return Settled::Before(event.state),
            Outcome::Again { after, at_next_session } => {
                let due = at.plus(after);
                event.pause = Some(Pause {
                    earliest: due,
                    latest: due,
                    later: at_next_session,
                    fresh: true,
                });
                (event.told, event.epoch) = (told, epoch);
                self.change(index, DeliveryState::Queued, None, at, epoch);
                return Settled::Again;
            }
            other => other,
        };
        let event = &self.events[index];
        let settled = Settled::Now {
            outcome,
            waited: at.since(event.deliverable_from()),
            urgency: event.urgency,
            expires_at: event.expires_at,
        };
        self.end(index, (outcome.state(), outcome.reason()), at, now, epoch, told);
        settled
    }

    /// A session has the seat: what waits for one is due.
    pub(super) fn hasten(&mut self, device: usize, at: Timestamp) {
        for event in &mut self.events {
            let waits = event.device == device && event.waits();
            let Some(pause) = event.pause.as_mut().filter(|pause| waits && pause.later) else {
                continue;
            };
            if pause.fresh {
                pause.fresh = false;
                pause.later = pause.latest <= at;
                pause.latest = pause.latest.min(at);
            }
            pause.earliest = pause.earliest.min(at);
        }
    }

    /// It is at the tail again, as a look at it says.
    pub(super) fn requeued(&mut self, index: usize, seq: u64) -> Result<(), Difference> {
        let event = &mut self.events[index];
        event.attempt += 1;
        (event.state, event.pause) = (DeliveryState::Queued, None);
        event.number = 0;
        self.places += 1;
        event.place = self.places;
        self.number_in_lane(index, seq)
    }

    /// What expired by then, in the order in which it is ended.
    pub(super) fn overdue(&self, now: Timestamp) -> Vec<usize> {
        let mut found: Vec<usize> = (0..self.events.len())
            .filter(|index| self.events[*index].waits() && self.events[*index].expires_at <= now)
            .collect();
        found.sort_by_key(|index| (self.events[*index].queue(), self.events[*index].place));
        found
    }

    pub(super) fn expired(&mut self, index: usize, now: Timestamp) {
        self.end(index, (DeliveryState::Expired, None), now, now, None, None);
    }

    /// Housekeeping was done at that time: what it may have dropped.
    pub(super) fn swept(&mut self, now: Timestamp) {
        let state_kept = std::time::Duration::from_secs(self.limits.state_kept_secs);
        for event in &mut self.events {
            event.may_be_forgotten |= !event.waits() && now >= event.at.plus(state_kept);
        }
        let kept_for = self.key_kept();
        for kept in self.keys.values_mut() {
            let event = &self.events[kept.event];
            kept.may_be_free |= !event.waits() && now >= event.accepted_at.plus(kept_for);
        }
    }

    /// Whether the state of an event must be, and may be, known at that time.
    pub(super) fn remembered(&self, event: &Event, now: Timestamp) -> (bool, bool) {
        if event.waits() {
            return (true, true);
        }
        let may = now < event.at.plus(std::time::Duration::from_secs(self.limits.state_kept_secs));
        (may && !event.may_be_forgotten, may)
    }

    pub(super) fn remove(&mut self, device: usize, now: Timestamp) {
        let mut waiting: Vec<usize> = (0..self.events.len())
            .filter(|index| self.events[*index].device == device && self.events[*index].waits())
            .collect();
        waiting.sort_by_key(|index| (self.events[*index].queue(), self.events[*index].place));
        for index in waiting {
            let failed = (DeliveryState::Failed, Some(Reason::DeviceRemoved));
            self.end(index, failed, now, now, None, None);
        }
        self.keys.retain(|(owner, _), _| *owner != device);
        let device = &mut self.devices[device];
        (device.present, device.holder) = (false, None);
    }

    pub(super) fn add(&mut self, device: usize) {
        let device = &mut self.devices[device];
        if device.present {
            return;
        }
        if device.known {
            device.generation += 1;
        }
        device.life += 1;
        (device.known, device.present) = (true, true);
    }
}
