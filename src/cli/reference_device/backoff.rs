//! Pauses between attempts to connect.

use std::time::Duration;

use crate::cli::secret::random_below;

/// Pauses between attempts: anything from nothing to a limit that doubles (full jitter), so that devices do not come in step.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The limit of the first pause.
    pub first: Duration,
    /// The limit of all pauses.
    pub longest: Duration,
}

/// The longest pause that a server may ask for.
const ASKED_MAX: Duration = Duration::from_secs(3_600);

impl Default for Backoff {
    /// A second, then up to a minute.
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(60),
        }
    }
}

impl Backoff {
    /// The longest pause before attempt number `attempt`, from 0.
    fn limit(self, attempt: u32) -> Duration {
        self.first.saturating_mul(2_u32.saturating_pow(attempt)).min(self.longest)
    }

    /// The pause before attempt number `attempt`, from 0. What the server asked for comes on top: all who were refused
    /// together were told the same.
    pub fn pause(self, attempt: u32, asked: Option<Duration>) -> Duration {
        let asked = asked.unwrap_or_default().min(ASKED_MAX);
        let limit = u64::try_from(self.limit(attempt).as_millis()).unwrap_or(u64::MAX);
        asked + Duration::from_millis(random_below(limit.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_never_pass_it() {
        let backoff = Backoff::default();
        let check = |attempt, expected| assert_eq!(backoff.limit(attempt), Duration::from_secs(expected));
        check(0, 1);
        check(3, 8);
        check(6, 60);
        check(u32::MAX, 60);
        assert!((0..100).all(|attempt| backoff.pause(attempt, None) <= backoff.limit(attempt)));
    }

    #[test]
    fn a_pause_that_the_server_asks_for_is_kept_and_spread_but_not_without_end() {
        let backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..100).map(|_| backoff.pause(0, Some(Duration::from_secs(40)))).collect();
        let (least, most) = (Duration::from_secs(40), Duration::from_secs(41));
        assert!(pauses.iter().all(|pause| (least..=most).contains(pause)), "{pauses:?}");
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "all the same: {pauses:?}");
        assert!(backoff.pause(0, Some(Duration::MAX)) <= ASKED_MAX + backoff.first);
    }
}
