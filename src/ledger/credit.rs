//! What a proof of life credits.
//!
//! A connection that nobody heard of earns nothing: a half-open one stops earning at its last proof of life.

use std::time::Duration;

use crate::domain::{Polling, Uncredited};

/// How the time between two proofs of life is booked, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    /// Earns: the device was there, and did not poll.
    pub credited_ms: u64,
    /// Earns nothing, and why.
    pub uncredited: Option<(Uncredited, u64)>,
}

/// Books `elapsed` since the last proof of life, of which a proof vouches for at most `vouches_for`.
pub fn of_proof(elapsed: Duration, vouches_for: Duration, polling: Polling) -> Credit {
    let elapsed_ms = millis(elapsed);
    match polling {
        Polling::Off => {
            let credited_ms = elapsed_ms.min(millis(vouches_for));
            Credit {
                credited_ms,
                uncredited: lost(Uncredited::NoProof, elapsed_ms - credited_ms),
            }
        }
        Polling::On => Credit {
            credited_ms: 0,
            uncredited: lost(Uncredited::PollingOn, elapsed_ms),
        },
        Polling::Unknown => Credit {
            credited_ms: 0,
            uncredited: lost(Uncredited::ModeUnknown, elapsed_ms),
        },
    }
}

/// Polls that a device at this interval would have made meanwhile, in millionths.
pub fn micro_polls(credited_ms: u64, interval_secs: u32) -> u64 {
    credited_ms.saturating_mul(1_000) / u64::from(interval_secs.max(1))
}

fn lost(why: Uncredited, ms: u64) -> Option<(Uncredited, u64)> {
    (ms > 0).then_some((why, ms))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_credits_at_most_what_it_vouches_for() {
        let check = |elapsed, vouches, polling, credited_ms, uncredited| {
            let credit = of_proof(Duration::from_secs(elapsed), Duration::from_secs(vouches), polling);
            assert_eq!(
                credit,
                Credit { credited_ms, uncredited },
                "{elapsed} s of {vouches} s, {polling:?}"
            );
        };
        check(0, 330, Polling::Off, 0, None);
        check(300, 330, Polling::Off, 300_000, None);
        check(330, 330, Polling::Off, 330_000, None);
        check(1_000, 330, Polling::Off, 330_000, Some((Uncredited::NoProof, 670_000)));
        check(300, 330, Polling::On, 0, Some((Uncredited::PollingOn, 300_000)));
        check(300, 330, Polling::Unknown, 0, Some((Uncredited::ModeUnknown, 300_000)));
        check(300, 0, Polling::Off, 0, Some((Uncredited::NoProof, 300_000)));
    }

    #[test]
    fn an_interval_of_credit_is_one_poll() {
        assert_eq!(micro_polls(900_000, 900), 1_000_000);
        assert_eq!(micro_polls(300_000, 900), 333_333);
        assert_eq!(micro_polls(1_000, 0), 1_000_000);
    }
}
