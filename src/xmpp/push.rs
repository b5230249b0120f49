//! Events on their way out: room, writing, asking for the acknowledgement.

use std::{sync::Arc, time::Instant};

use crate::{
    domain::{Outcome, Timestamp},
    store::QueuedEvent,
};

use super::{
    action::Action,
    event,
    session::Session,
    stream::{ServerStream, Stage},
    traffic::LifeSign,
};

/// What became of an event that was pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is written, or was, or had expired: the cursor covers it.
    Taken,
    /// It stays in the store until the device is active (XEP-0352); `Ready` is said then.
    Held,
    /// No room: nothing was done.
    Full,
}

impl ServerStream {
    /// The session, if it takes events now.
    fn open_session(&self) -> Option<&Session> {
        self.session
            .as_deref()
            .filter(|session| self.stage == Stage::Bound && session.available)
    }

    /// How many more events may be written now: 0 without available presence, or with a full window.
    pub fn room(&self) -> usize {
        match self.open_session() {
            Some(session) if session.window.bytes() < self.config.window_max_bytes || session.window.events() == 0 => {
                self.config.window_max_events.max(1).saturating_sub(session.window.events())
            }
            _ => 0,
        }
    }

    /// Writes an event: renders the message into `output` and puts it in the window; `flush` then asks for its
    /// acknowledgement. `waited`: it was not written on arrival, so it carries `<delay/>`.
    /// An event at or after its expiry is not written: it moves the cursor and yields `Ended(Expired)`.
    pub fn push(&mut self, event: &Arc<QueuedEvent>, waited: bool, _now: Instant, time: Timestamp) -> Pushed {
        if self.stage != Stage::Bound {
            return Pushed::Full;
        }
        let Some(session) = &mut self.session else { return Pushed::Full };
        let place = event.located.queue.map(|queue| (queue, event.located.number));
        if session.standby.waits(event) {
            return Pushed::Full;
        }
        if session.covers(event) {
            session.pass(event);
            return Pushed::Taken;
        }
        // A TTL of 0 is now or never, and this is now.
        if !event.event.ttl.is_zero() && event.event.expires_at() <= time {
            if let Some((queue, number)) = place {
                session.cursor.advance(queue, number);
                session.standby.passed(session.cursor, event);
            }
            self.actions
                .push_back(Action::Ended(vec![(event.id, event.located, Outcome::Expired)]));
            return Pushed::Taken;
        }
        if session.standby.hold(&mut session.cursor, event) {
            return Pushed::Held;
        }
        let ends = session.window.expire(time);
        self.ended(ends);
        if self.room() == 0 {
            return Pushed::Full;
        }
        let Some(session) = &mut self.session else { return Pushed::Full };
        let before = self.out.len();
        event::write(&mut self.out, event, session.jid.domain(), session.jid.bare(), waited);
        let bytes = self.out.len() - before;
        if session.window.events() > 0 && session.window.bytes() + bytes > self.config.window_max_bytes {
            self.out.truncate(before);
            return Pushed::Full;
        }
        session.window.event(event.clone(), waited, bytes);
        if let Some((queue, number)) = place {
            session.cursor.advance(queue, number);
            session.standby.passed(session.cursor, event);
        }
        self.traffic.event(bytes, event.event.json.0.len());
        self.unasked = true;
        Pushed::Taken
    }

    /// An event that is read again after the device woke up: true when it was given before, so that nothing is to be done.
    pub fn pass(&mut self, event: &QueuedEvent) -> bool {
        let Some(session) = self.session.as_mut().filter(|session| !session.standby.waits(event)) else {
            return false;
        };
        let covered = session.covers(event);
        if covered {
            session.pass(event);
        }
        covered
    }

    /// Ends a burst of pushes: asks for the acknowledgement (`<r/>`, or a ping for a session without XEP-0198).
    pub fn flush(&mut self, now: Instant) {
        if self.unasked && self.stage == Stage::Bound {
            // A ping under way goes first; its answer leads to the next.
            self.unasked = !self.ask(LifeSign::Acknowledgement);
            self.live.asked(now);
        }
    }

    /// Notes that something was refused for lack of room: yields `Ready` once there is room again.
    pub fn refused(&mut self) {
        self.refused = Some(self.session.as_ref().map_or(0, |session| session.window.bytes()));
    }
}
