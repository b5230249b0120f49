//! Deliveries: what waits for a session, how it ends, and what is known of it.

use std::{sync::Arc, time::Duration};

use super::DeviceKey;
use crate::domain::{DeliveryState, DeviceId, Epoch, Event, EventId, Lane, Located, Outcome, Queue, Reason, Seq, Timestamp, Told, Urgency};

/// How far a session has read the two queues of its device: the last storage number of each. Zero: nothing yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor {
    /// In the queue of urgency `high`.
    pub first: u64,
    /// In the queue of the rest.
    pub rest: u64,
}

impl Cursor {
    /// Whether the record is at or before this cursor.
    pub fn covers(&self, queue: Queue, number: u64) -> bool {
        match queue {
            Queue::First => number <= self.first,
            Queue::Rest => number <= self.rest,
        }
    }

    /// Moves to that record, never back.
    pub fn advance(&mut self, queue: Queue, number: u64) {
        let place = match queue {
            Queue::First => &mut self.first,
            Queue::Rest => &mut self.rest,
        };
        *place = (*place).max(number);
    }
}

/// An event that waits in a queue (or, with a TTL of 0, in passing): all that a session needs to write it.
#[derive(Debug, Clone)]
pub struct QueuedEvent {
    /// Its id.
    pub id: EventId,
    /// Where its record is.
    pub located: Located,
    /// Its lane.
    pub lane: Lane,
    /// Its number within the lane.
    pub seq: Seq,
    /// Which delivery of it this is, from 1. Rises when it is queued again, not when it is written again.
    pub attempt: u32,
    /// The event itself.
    pub event: Event,
}

/// An event that was stored (or passed, with a TTL of 0) for a device whose seat somebody held at that moment.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The holder of the seat.
    pub epoch: Epoch,
    /// The event.
    pub event: Arc<QueuedEvent>,
    /// The number that was given before to an event of the device, where arrivals may overtake one another: a session that was not
    /// given that one reads on in the store first. `None`: they come in the order of their numbers.
    pub after: Option<u64>,
}

impl Arrival {
    /// As `after`: the session reads on in the store, whatever it was given. For an event whose number in its lane is not known here.
    pub const READ_FIRST: u64 = u64::MAX;
}

/// A page of what waits: first the urgent, then the rest by acceptance.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The events, in the order in which to write them.
    pub events: Vec<Arc<QueuedEvent>>,
    /// Whether more waits behind them.
    pub more: bool,
}

/// The end of one delivery.
#[derive(Debug, Clone)]
pub struct Settle {
    /// Whose tenant and which device.
    pub device: DeviceKey,
    /// Which event.
    pub id: EventId,
    /// Where its record is.
    pub located: Located,
    /// How it ended.
    pub outcome: Outcome,
    /// When.
    pub at: Timestamp,
    /// The holder of the seat, when a session reported it. `None`: an API call or the sweeper.
    pub epoch: Option<Epoch>,
    /// What the device says of it, in more words.
    pub told: Option<Arc<Told>>,
}

/// What `settle` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It ended by this call. `waited` is the time from acceptance to the outcome.
    Now {
        /// How: another than was asked for when it was to be put off once too often.
        outcome: Outcome,
        /// From acceptance, or from its `deliver_at`, to `at`.
        waited: Duration,
        /// How urgent it was.
        urgency: Urgency,
        /// Until when it could be delivered.
        expires_at: Timestamp,
    },
    /// It waits again, and will be at the tail of its lane after its pause: [`super::Mailbox::requeue_due`].
    Again,
    /// `delivered`, of an event that requires an outcome: nothing was changed.
    OutcomeWanted,
    /// It had ended before; that state stays, but for `delivered`, which an outcome `done` makes `processed`. A `delivered` that
    /// comes after `replaced`, `cancelled` or `expired` is kept as `late-ack` in its record, and the first outcome after
    /// `delivered` in its own words. Also an event that was put off already and is put off again.
    Before(DeliveryState),
    /// There is no such event (any more).
    Unknown,
}

/// What is known of a delivery.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// The event, or its copy for this device.
    pub id: EventId,
    /// The event to several devices that it is a copy of.
    pub group: Option<EventId>,
    /// The device.
    pub device: DeviceId,
    /// `scheduled`, `queued`, or how it ended. (`dispatched` is known to the session's node alone.)
    pub state: DeliveryState,
    /// Why it ended so.
    pub reason: Option<Reason>,
    /// An acknowledgement came after the end.
    pub late_ack: bool,
    /// What the device said of it last. While it waits: why it waits again.
    pub told: Option<Arc<Told>>,
    /// The event that replaced it: of a copy the group.
    pub replaced_by: Option<EventId>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Before that it is not delivered.
    pub deliver_at: Option<Timestamp>,
    /// Until when it may be delivered.
    pub expires_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Its urgency.
    pub urgency: Urgency,
    /// Its lane and number.
    pub lane: Lane,
    /// Its number within the lane. 0: none yet, it is scheduled.
    pub seq: Seq,
    /// Which delivery of it this is. 0: none yet, it is scheduled.
    pub attempt: u32,
    /// The holder of the seat that ended it.
    pub session_epoch: Option<Epoch>,
    /// Its collapse key, as its backend gave it.
    pub collapse_key: Option<Arc<str>>,
    /// What makes it delivered.
    pub require: crate::domain::Require,
}
