//! What the reference knows: events, devices, and what is owed to whom.

use std::sync::Arc;

use super::super::{DeliveryState, DeviceKey, EventId, Outcome, Queue, Reason, Require, Timestamp, Told, Urgency};
use crate::domain::Epoch;

/// An event that was accepted.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) id: EventId,
    pub(super) device: usize,
    /// The life of the device in which it was accepted.
    pub(super) life: u32,
    pub(super) json: Arc<str>,
    pub(super) urgency: Urgency,
    pub(super) require: Require,
    pub(super) collapse: Option<u8>,
    pub(super) key: Option<u8>,
    pub(super) accepted_at: Timestamp,
    pub(super) deliver_at: Option<Timestamp>,
    pub(super) expires_at: Timestamp,
    /// Where it waits. 0: at a tail that nobody has seen yet.
    pub(super) number: u64,
    /// The order of numbers, seen or not.
    pub(super) place: u64,
    pub(super) born: u64,
    pub(super) seq: u64,
    pub(super) attempt: u32,
    pub(super) state: DeliveryState,
    pub(super) reason: Option<Reason>,
    pub(super) late_ack: bool,
    pub(super) told: Option<Arc<Told>>,
    pub(super) replaced_by: Option<EventId>,
    /// It tells the group of the copy that replaced it.
    pub(super) replaced_by_copy: bool,
    pub(super) at: Timestamp,
    pub(super) epoch: Option<Epoch>,
    pub(super) pause: Option<Pause>,
    /// Housekeeping may have dropped its state.
    pub(super) may_be_forgotten: bool,
    /// By some clock it had expired once, so that a session may have passed it over.
    pub(super) looked_expired: bool,
}

/// An event waits until then before it waits at the tail.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pause {
    pub(super) earliest: Timestamp,
    pub(super) latest: Timestamp,
    /// A session ends it.
    pub(super) later: bool,
    /// No session has come since.
    pub(super) fresh: bool,
}

impl Event {
    pub(super) fn queue(&self) -> Queue {
        Queue::of(self.urgency)
    }

    pub(super) fn waits(&self) -> bool {
        matches!(self.state, DeliveryState::Queued | DeliveryState::Scheduled)
    }

    /// What is measured begins here.
    pub(super) fn deliverable_from(&self) -> Timestamp {
        self.deliver_at.unwrap_or(self.accepted_at)
    }
}

/// A change of a state that a receipt must tell.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    pub(super) event: EventId,
    pub(super) state: DeliveryState,
    pub(super) reason: Option<Reason>,
    pub(super) at: Timestamp,
    pub(super) epoch: Option<Epoch>,
    pub(super) latency_ms: u64,
}

/// Who holds a seat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) epoch: u64,
    pub(super) session: u128,
    pub(super) node: usize,
    /// Its node died: the store may or may not know that yet.
    pub(super) ghost: bool,
}

/// A device, and all that was given out for it.
#[derive(Debug, Clone)]
pub(super) struct Device {
    pub(super) key: DeviceKey,
    pub(super) known: bool,
    pub(super) present: bool,
    pub(super) life: u32,
    pub(super) generation: u32,
    pub(super) holder: Option<Holder>,
    /// All that were given out, oldest first.
    pub(super) epochs: Vec<u64>,
    /// The last number that was seen, and the last of each lane.
    pub(super) number: u64,
    pub(super) seqs: [u64; 4],
    pub(super) changes: Vec<Change>,
}

/// An event on its way in.
#[derive(Debug, Clone)]
pub(super) struct Coming {
    pub(super) device: usize,
    pub(super) json: Arc<str>,
    pub(super) urgency: Urgency,
    pub(super) require: Require,
    pub(super) ttl_secs: u64,
    pub(super) collapse: Option<u8>,
    pub(super) key: Option<(u8, u8)>,
    pub(super) deliver_at: Option<Timestamp>,
    pub(super) at: Timestamp,
}

impl Coming {
    /// The state in which it begins.
    pub(super) fn waits_as(&self) -> DeliveryState {
        match self.deliver_at {
            Some(_) => DeliveryState::Scheduled,
            None => DeliveryState::Queued,
        }
    }
}

/// What a post is owed.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Owed {
    Unknown,
    Removed,
    Passed,
    Reused(EventId),
    Repeat(EventId, DeliveryState),
    Full(u32, u64),
    New,
}

/// An end on its way in.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    pub(super) event: usize,
    pub(super) outcome: Outcome,
    pub(super) at: Timestamp,
    pub(super) epoch: Option<Epoch>,
    pub(super) told: Option<Arc<Told>>,
}
