//! A connection that has lived long enough is ended in a quiet moment, so that a drain looks like any other day: the stream
//! error is `<reset/>` (RFC 6120 §4.9.3.16), and the session waits to be resumed.

use std::time::Instant;

use super::{
    error::Condition,
    stream::{ServerStream, Stage},
};

impl ServerStream {
    /// The connection is to end at `at`, or when what is in flight then is acknowledged.
    pub fn retire_at(&mut self, at: Instant) {
        self.retires = Some((at, false));
    }

    /// Whether the connection is old enough to end.
    pub fn is_old(&self, now: Instant) -> bool {
        self.retires.is_some_and(|(at, _)| now >= at)
    }

    /// Ends it when it is time. An event in flight may take as long as any acknowledgement.
    pub(super) fn retire(&mut self, now: Instant) {
        let Some((at, put_off)) = self.retires.filter(|_| self.stage == Stage::Bound) else {
            return;
        };
        if now < at {
            return;
        }
        let busy = self.session.as_ref().is_some_and(|session| session.window.in_flight() > 0);
        if busy && !put_off {
            self.retires = Some((at + self.config.overdue, true));
        } else {
            let end = self.end_of_lost_connection();
            self.fail_and_end(&Condition::Reset, end);
        }
    }
}
