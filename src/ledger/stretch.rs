//! A time in which a device of cohort control was there, polling: what the virtual clock says of it, and what happened.
//!
//! A stretch begins with a poll (which itself is counted on neither side: a device that comes back polls, pushed to or not)
//! and grows with each poll that follows in time. The virtual clock has ticks of its own, at the phase that a session opened
//! at the stretch's beginning would have; only its whole intervals count, so that a piece at either end favours nobody.

use super::clock;
use crate::domain::Timestamp;

/// Ticks on either side of the last one passed that are remembered.
const REACH: u64 = 64;

/// A stretch of polls.
#[derive(Clone, Debug)]
pub struct Stretch {
    from: Timestamp,
    last: Timestamp,
    interval_secs: u32,
    phase_ms: u64,
    /// The first tick at or after `from`: the intervals behind it are whole.
    first_tick: u64,
    /// The last tick passed.
    tick: u64,
    /// Which ticks are known to have an event: bit `REACH - 1` is `tick`, higher ones come after it.
    found: u128,
}

/// What a poll adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Time since the poll before it, in milliseconds.
    pub ms: u64,
    /// Whole intervals of the virtual clock that ended meanwhile.
    pub ticks: u64,
    /// Of those, intervals with an event.
    pub ticks_found: u64,
}

/// What an event adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// How long it would have waited for the virtual tick, in milliseconds.
    pub wait_ms: u64,
    /// Whether its tick was counted without it.
    pub tick_found: bool,
}

impl Stretch {
    /// A stretch that begins with a poll at `from`.
    pub fn begin(from: Timestamp, interval_secs: u32, phase_ms: u64) -> Self {
        let first_tick = clock::tick(from, phase_ms, interval_secs).index;
        Self {
            from,
            last: from,
            interval_secs,
            phase_ms,
            first_tick,
            tick: first_tick,
            found: 0,
        }
    }

    /// The interval that it was begun with, in seconds.
    pub fn interval_secs(&self) -> u32 {
        self.interval_secs
    }

    /// A poll at `at`. `None`: it comes so late, after more than `longest_ms`, that the device was away; the stretch is over.
    pub fn poll(&mut self, at: Timestamp, longest_ms: u64) -> Option<Gap> {
        let ms = at.0.saturating_sub(self.last.0);
        if ms > longest_ms {
            return None;
        }
        self.last = self.last.max(at);
        let tick = clock::last_tick(self.last, self.phase_ms, self.interval_secs).max(self.tick);
        let ticks = tick - self.tick;
        let passed = (self.found >> REACH) & mask(ticks);
        self.found = self.found.checked_shr(u32::try_from(ticks).unwrap_or(u32::MAX)).unwrap_or(0);
        self.tick = tick;
        Some(Gap {
            ms,
            ticks,
            ticks_found: passed.count_ones().into(),
        })
    }

    /// An event that was accepted at `accepted_at` is acknowledged. `None`: it was accepted before the device was there.
    pub fn event(&mut self, accepted_at: Timestamp) -> Option<Told> {
        if accepted_at <= self.from {
            return None;
        }
        let tick = clock::tick(accepted_at, self.phase_ms, self.interval_secs);
        // The place of its bit; ticks that are too old to be remembered were counted as they were.
        let place = (tick.index + REACH - 1).checked_sub(self.tick).filter(|place| *place < 2 * REACH);
        let bit = match place {
            Some(place) if tick.index > self.first_tick => 1_u128 << place,
            _ => 0,
        };
        let is_new = self.found & bit == 0;
        self.found |= bit;
        Some(Told {
            wait_ms: tick.wait_ms,
            tick_found: bit != 0 && is_new && tick.index <= self.tick,
        })
    }
}

/// The lowest `bits` bits.
fn mask(bits: u64) -> u128 {
    match bits {
        0..=127 => (1 << bits) - 1,
        _ => u128::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks at 100, 110, 120 … seconds.
    fn at(secs: f64) -> Timestamp {
        Timestamp((secs * 1e3) as u64)
    }

    fn poll(stretch: &mut Stretch, secs: f64) -> Option<(u64, u64, u64)> {
        stretch.poll(at(secs), 30_000).map(|gap| (gap.ms, gap.ticks, gap.ticks_found))
    }

    #[test]
    fn only_whole_intervals_of_the_virtual_clock_count() {
        let mut stretch = Stretch::begin(at(103.0), 10, 0);
        // The interval up to 110 began before the stretch.
        assert_eq!(stretch.event(at(105.0)).map(|told| told.wait_ms), Some(5_000));
        assert_eq!(poll(&mut stretch, 113.0), Some((10_000, 0, 0)));
        assert_eq!(stretch.event(at(111.0)).map(|told| told.tick_found), Some(false)); // its tick, 120, is still to come
        assert_eq!(stretch.event(at(112.0)).map(|told| told.tick_found), Some(false));
        assert_eq!(poll(&mut stretch, 124.0), Some((11_000, 1, 1)));
        // Told late: at 121 and 119.
        assert_eq!(stretch.event(at(121.0)).map(|told| told.tick_found), Some(false));
        assert_eq!(stretch.event(at(119.0)).map(|told| told.tick_found), Some(false)); // 120 has one already
        assert_eq!(poll(&mut stretch, 153.9), Some((29_900, 3, 1))); // 130 with, 140 and 150 without
        assert_eq!(
            stretch.event(at(135.0)),
            Some(Told {
                wait_ms: 5_000,
                tick_found: true
            })
        ); // 140
        assert_eq!(
            stretch.event(at(131.0)),
            Some(Told {
                wait_ms: 9_000,
                tick_found: false
            })
        ); // 140 again
    }

    #[test]
    fn a_long_silence_is_an_absence_and_what_came_in_it_claims_nothing() {
        let mut stretch = Stretch::begin(at(103.0), 10, 0);
        assert_eq!(poll(&mut stretch, 133.0), Some((30_000, 2, 0)));
        assert_eq!(poll(&mut stretch, 163.001), None);
        let mut stretch = Stretch::begin(at(163.001), 10, 0);
        assert_eq!(stretch.event(at(150.0)), None);
        assert_eq!(stretch.event(at(163.001)), None);
    }

    #[test]
    fn a_clock_that_lags_counts_no_time_twice() {
        let mut stretch = Stretch::begin(at(100.0), 10, 0);
        assert_eq!(poll(&mut stretch, 112.0), Some((12_000, 1, 0)));
        assert_eq!(poll(&mut stretch, 90.0), Some((0, 0, 0)));
        assert_eq!(poll(&mut stretch, 121.0), Some((9_000, 1, 0)));
    }

    #[test]
    fn far_ticks_do_not_overflow() {
        let mut stretch = Stretch::begin(at(0.0), 1, 0);
        assert_eq!(stretch.event(at(500.5)).map(|told| told.tick_found), Some(false));
        assert_eq!(
            stretch.poll(at(1_000.0), u64::MAX).map(|gap| (gap.ticks, gap.ticks_found)),
            Some((1_000, 0))
        );
        assert_eq!(stretch.event(at(1.5)).map(|told| told.tick_found), Some(false));
    }
}
