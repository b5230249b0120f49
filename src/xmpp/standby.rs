//! Client state indication (XEP-0352): while a device says that it is inactive, events of low urgency wait in the store.
//!
//! The events of one storage queue have one order, and a session is given them by number. While the device is inactive the
//! session's cursor goes on over events of low urgency, and a second number remembers how far those were given. Once the
//! device is active the store is read again from there: all that is of normal urgency up to the cursor was given before, and
//! none of what is of low urgency. So two numbers are enough, however many events wait, and order within a lane (one urgency)
//! is kept.

use crate::{
    domain::{Queue, Urgency},
    store::{Cursor, QueuedEvent},
};

use super::{
    action::Action,
    stream::{ServerStream, Stage},
};

/// What is held back, and whether more will be.
#[derive(Debug, Default)]
pub(super) struct Standby {
    /// The device said that it is inactive. A new or resumed stream is active (XEP-0352 §5).
    inactive: bool,
    /// Some events of low urgency are held back: those behind this number, up to the cursor.
    given: Option<u64>,
    /// The device is active again, and nobody has asked since where to read: what comes is from a place too far ahead.
    moved: bool,
}

/// Whether an event can wait for the device to be active, and its number if so. One with a TTL of 0 cannot: it is in no queue.
fn patient(event: &QueuedEvent) -> Option<u64> {
    let low = matches!(event.event.urgency, Urgency::Low | Urgency::VeryLow);
    (low && event.located.queue == Some(Queue::Rest)).then_some(event.located.number)
}

impl Standby {
    /// Whether an event of a queue must not be given yet.
    pub(super) fn waits(&self, event: &QueuedEvent) -> bool {
        self.moved && self.owes() && event.located.queue.is_some()
    }

    /// Where to read on in the store, for somebody who does so now.
    pub(super) fn read_on(&mut self, cursor: Cursor) -> Cursor {
        self.moved = false;
        self.reads_from(cursor)
    }

    /// Where to read on in the store.
    pub(super) fn reads_from(&self, cursor: Cursor) -> Cursor {
        match self.given {
            Some(given) if !self.inactive => Cursor { rest: given, ..cursor },
            _ => cursor,
        }
    }

    /// Whether the event was given, or is held back and stays so.
    pub(super) fn covers(&self, cursor: Cursor, event: &QueuedEvent) -> bool {
        let Some(queue) = event.located.queue else { return false };
        match (self.given, patient(event)) {
            (Some(given), Some(number)) if !self.inactive => number <= given,
            _ => cursor.covers(queue, event.located.number),
        }
    }

    /// Whether events that were held back are to be read again.
    pub(super) fn owes(&self) -> bool {
        self.given.is_some() && !self.inactive
    }

    /// Whether the event waits for the device; then the cursor goes over it.
    pub(super) fn hold(&mut self, cursor: &mut Cursor, event: &QueuedEvent) -> bool {
        let Some(number) = patient(event).filter(|_| self.inactive) else {
            return false;
        };
        self.given.get_or_insert(cursor.rest);
        cursor.advance(Queue::Rest, number);
        true
    }

    /// Everything up to that event was given, while the store is read again.
    pub(super) fn passed(&mut self, cursor: Cursor, event: &QueuedEvent) {
        if self.inactive || event.located.queue != Some(Queue::Rest) {
            return;
        }
        if let Some(given) = &mut self.given {
            *given = event.located.number.max(*given);
            if *given >= cursor.rest {
                self.given = None;
            }
        }
    }

    /// What was held back is written, or has ended.
    pub(super) fn caught_up(&mut self) {
        if !self.inactive && !self.moved {
            self.given = None;
        }
    }

    /// The device said what it is. True: there is something to read again.
    fn set(&mut self, inactive: bool) -> bool {
        let woke = std::mem::replace(&mut self.inactive, inactive) && self.owes();
        self.moved |= woke;
        woke
    }
}

impl ServerStream {
    /// `<active/>` or `<inactive/>`. No stanzas: XEP-0198 does not count them.
    pub(super) fn indicated(&mut self, inactive: bool) {
        let Some(session) = self.session.as_mut().filter(|_| self.stage == Stage::Bound) else {
            return;
        };
        let owes = session.standby.set(inactive);
        if owes && session.available {
            self.refused = None;
            self.actions.push_back(Action::Ready);
        }
    }

    /// The session goes on in a new stream, which is active.
    pub(super) fn wake_up(&mut self) {
        if let Some(session) = &mut self.session {
            session.standby.set(false);
        }
    }
}
