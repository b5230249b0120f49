//! The circuit breaker before a server: when it has failed for a while, callers are refused at once instead of waiting, and one
//! call now and then tries whether it is back. Pure: time is given.

use std::time::{Duration, Instant};

/// How long failures go on before it opens.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often one call may try while it is open.
const TRY_EVERY: Duration = Duration::from_millis(200);

/// Counts failures of one thing.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failing_since: Option<Instant>,
    tried_at: Option<Instant>,
}

impl Breaker {
    /// Whether a call may be made now.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        if !self.is_open(now) {
            return true;
        }
        let may_try = self.tried_at.is_none_or(|at| now.duration_since(at) >= TRY_EVERY);
        if may_try {
            self.tried_at = Some(now);
        }
        may_try
    }

    /// Whether calls are refused.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.failing_since.is_some_and(|since| now.duration_since(since) >= PATIENCE)
    }

    /// A call failed. True: with this one it has opened.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        let was_open = self.is_open(now) && self.tried_at.is_some();
        self.failing_since.get_or_insert(now);
        let opens = self.is_open(now) && !was_open;
        if opens {
            self.tried_at = Some(now);
        }
        opens
    }

    /// A call was answered. True: it was open until now.
    pub(super) fn worked(&mut self, now: Instant) -> bool {
        let was_open = self.is_open(now);
        *self = Self::default();
        was_open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_a_second_of_failures_and_tries_five_times_a_second() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut breaker = Breaker::default();
        assert!(!breaker.failed(at(0)));
        assert!(breaker.admits(at(500)) && !breaker.failed(at(999)));
        assert!(breaker.failed(at(1_000)) && breaker.is_open(at(1_000)));
        assert!(!breaker.admits(at(1_100)));
        assert!(breaker.admits(at(1_200)) && !breaker.admits(at(1_201)));
        assert!(!breaker.failed(at(1_250)), "it is open already");
        assert!(breaker.admits(at(1_400)));
        assert!(breaker.worked(at(1_410)) && !breaker.is_open(at(1_410)));
        assert!(breaker.admits(at(1_411)) && !breaker.worked(at(1_412)));
    }

    #[test]
    fn one_answer_begins_anew() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut breaker = Breaker::default();
        for ms in [0, 900] {
            breaker.failed(at(ms));
        }
        breaker.worked(at(950));
        assert!(!breaker.failed(at(1_000)) && breaker.admits(at(1_900)));
    }
}
