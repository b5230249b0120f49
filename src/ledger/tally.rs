//! The accumulators: one set of counts a shard, so that sessions on different cores never meet on a cache line.
//!
//! Counts only rise (sums of latencies, which may fall, are kept in two's complement). Nothing is ever reset: whoever needs
//! a difference keeps the sums that it saw last.

use std::{
    cell::Cell as ThreadCell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use crate::domain::{Direction, Overhead, Uncredited};

/// Upper bounds of the histogram of latency saved, in seconds. Negative: polling would have been faster.
pub const SAVED_BUCKETS: [f64; 17] = [
    -3600.0, -900.0, -300.0, -60.0, -10.0, -1.0, 0.0, 1.0, 10.0, 60.0, 120.0, 300.0, 450.0, 600.0, 900.0, 1800.0, 3600.0,
];

/// Upper bounds of the histogram of the virtual wait, in seconds.
pub const WAIT_BUCKETS: [f64; 10] = [1.0, 10.0, 30.0, 60.0, 120.0, 300.0, 450.0, 600.0, 900.0, 3600.0];

/// Where a device's poll interval comes from: the label `policy`, with two values whatever the intervals are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `[ledger] poll_interval_secs`.
    Default,
    /// An interval of the device's own.
    Attribute,
}

impl Policy {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Default, Self::Attribute];
}

/// One count.
#[derive(Clone, Copy, Debug)]
pub enum Cell {
    /// Connected time that earns, in milliseconds.
    CreditedMs(Policy),
    /// Polls avoided, in millionths.
    MicroPolls(Policy),
    /// Virtual polls that would have found an event.
    EventPolls(Policy),
    /// Connected time that earns nothing, in milliseconds.
    UncreditedMs(Uncredited),
    /// Bytes that push cost.
    Bytes(Overhead, Direction),
    /// Packets that push cost.
    Packets(Overhead, Direction),
    /// Events that would have expired before the virtual tick.
    SavedFromExpiry,
    /// The sum of latency saved, in milliseconds, two's complement.
    SavedSumMs,
    /// The sum of virtual waits, in milliseconds.
    WaitSumMs,
    /// A bucket of the histogram of latency saved; the last is +Inf.
    SavedBucket(usize),
    /// A bucket of the histogram of virtual waits; the last is +Inf.
    WaitBucket(usize),
}

/// Reasons for time that earns nothing, with their label.
pub const UNCREDITED: [(Uncredited, &str); 3] = [
    (Uncredited::NoProof, "no_proof"),
    (Uncredited::PollingOn, "polling_on"),
    (Uncredited::ModeUnknown, "mode_unknown"),
];

/// Directions, with their label.
pub const DIRECTIONS: [(Direction, &str); 2] = [(Direction::In, "in"), (Direction::Out, "out")];

const KINDS: usize = Overhead::ALL.len() * DIRECTIONS.len();
const UNCREDITED_AT: usize = 6;
const BYTES_AT: usize = UNCREDITED_AT + UNCREDITED.len();
const PACKETS_AT: usize = BYTES_AT + KINDS;
const SINGLES_AT: usize = PACKETS_AT + KINDS;
const SAVED_AT: usize = SINGLES_AT + 3;
const WAIT_AT: usize = SAVED_AT + SAVED_BUCKETS.len() + 1;
const CELLS: usize = WAIT_AT + WAIT_BUCKETS.len() + 1;

impl Cell {
    fn index(self) -> usize {
        match self {
            Self::CreditedMs(policy) => policy as usize,
            Self::MicroPolls(policy) => 2 + policy as usize,
            Self::EventPolls(policy) => 4 + policy as usize,
            Self::UncreditedMs(why) => UNCREDITED_AT + why as usize,
            Self::Bytes(kind, direction) => BYTES_AT + kind as usize * DIRECTIONS.len() + direction as usize,
            Self::Packets(kind, direction) => PACKETS_AT + kind as usize * DIRECTIONS.len() + direction as usize,
            Self::SavedFromExpiry => SINGLES_AT,
            Self::SavedSumMs => SINGLES_AT + 1,
            Self::WaitSumMs => SINGLES_AT + 2,
            Self::SavedBucket(bucket) => SAVED_AT + bucket.min(SAVED_BUCKETS.len()),
            Self::WaitBucket(bucket) => WAIT_AT + bucket.min(WAIT_BUCKETS.len()),
        }
    }

    /// The bucket of the histogram of latency saved that `ms` falls into.
    pub fn saved_bucket(ms: i64) -> Self {
        Self::SavedBucket(bucket(&SAVED_BUCKETS, ms as f64 / 1_000.0))
    }

    /// The bucket of the histogram of virtual waits that `ms` falls into.
    pub fn wait_bucket(ms: u64) -> Self {
        Self::WaitBucket(bucket(&WAIT_BUCKETS, ms as f64 / 1_000.0))
    }
}

fn bucket(bounds: &[f64], value: f64) -> usize {
    bounds.partition_point(|bound| *bound < value)
}

/// The counts of one shard, on cache lines of their own.
#[repr(align(128))]
#[derive(Debug)]
struct Shard([AtomicU64; CELLS]);

/// All shards. Adding takes no lock and allocates nothing.
#[derive(Debug)]
pub struct Tally {
    shards: Box<[Shard]>,
}

impl Default for Tally {
    /// A shard for each core, at most 16.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 16);
        Self {
            shards: (0..cores).map(|_| Shard([const { AtomicU64::new(0) }; CELLS])).collect(),
        }
    }
}

impl Tally {
    /// Adds to one count.
    pub fn add(&self, cell: Cell, amount: u64) {
        let shard = self.shards.get(thread_number() % self.shards.len().max(1));
        if let Some(count) = shard.and_then(|shard| shard.0.get(cell.index())) {
            count.fetch_add(amount, Ordering::Relaxed);
        }
    }

    /// Adds to a sum that may fall.
    pub fn add_signed(&self, cell: Cell, amount: i64) {
        self.add(cell, amount.cast_unsigned());
    }

    /// The sums over all shards.
    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for shard in &self.shards {
            for (sum, count) in sums.0.iter_mut().zip(&shard.0) {
                *sum = sum.wrapping_add(count.load(Ordering::Relaxed));
            }
        }
        sums
    }
}

/// Threads are numbered as they first come.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: ThreadCell<usize> = const { ThreadCell::new(usize::MAX) });
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

/// All counts at one moment, or the difference of two moments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums([u64; CELLS]);

impl Default for Sums {
    fn default() -> Self {
        Self([0; CELLS])
    }
}

impl Sums {
    /// One count.
    pub fn get(&self, cell: Cell) -> u64 {
        self.0.get(cell.index()).copied().unwrap_or(0)
    }

    /// A sum that may be negative.
    pub fn signed(&self, cell: Cell) -> i64 {
        self.get(cell).cast_signed()
    }

    /// What was added since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = self.clone();
        for (now, before) in difference.0.iter_mut().zip(&earlier.0) {
            *now = now.wrapping_sub(*before);
        }
        difference
    }

    /// Whether nothing was counted.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_count_has_a_place_of_its_own() {
        let mut cells = vec![Cell::SavedFromExpiry, Cell::SavedSumMs, Cell::WaitSumMs];
        for policy in Policy::ALL {
            cells.extend([Cell::CreditedMs(policy), Cell::MicroPolls(policy), Cell::EventPolls(policy)]);
        }
        cells.extend(UNCREDITED.map(|(why, _)| Cell::UncreditedMs(why)));
        for kind in Overhead::ALL {
            for (direction, _) in DIRECTIONS {
                cells.extend([Cell::Bytes(kind, direction), Cell::Packets(kind, direction)]);
            }
        }
        cells.extend((0..=SAVED_BUCKETS.len()).map(Cell::SavedBucket));
        cells.extend((0..=WAIT_BUCKETS.len()).map(Cell::WaitBucket));
        let places: HashSet<usize> = cells.iter().map(|cell| cell.index()).collect();
        assert_eq!(places.len(), cells.len());
        assert_eq!(places.len(), CELLS);
        assert!(places.iter().all(|place| *place < CELLS));
    }

    #[test]
    fn counts_of_many_threads_add_up() {
        let tally = Tally::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        tally.add(Cell::SavedFromExpiry, 1);
                        tally.add_signed(Cell::SavedSumMs, -3);
                    }
                });
            }
        });
        assert_eq!(tally.sums().get(Cell::SavedFromExpiry), 8_000);
        assert_eq!(tally.sums().signed(Cell::SavedSumMs), -24_000);
    }

    #[test]
    fn a_value_falls_into_the_first_bucket_that_holds_it() {
        assert_eq!(bucket(&WAIT_BUCKETS, 0.0), 0);
        assert_eq!(bucket(&WAIT_BUCKETS, 1.0), 0);
        assert_eq!(bucket(&WAIT_BUCKETS, 1.001), 1);
        assert_eq!(bucket(&WAIT_BUCKETS, 4_000.0), WAIT_BUCKETS.len());
        assert_eq!(bucket(&SAVED_BUCKETS, -5_000.0), 0);
        assert_eq!(bucket(&SAVED_BUCKETS, -0.5), 6);
    }
}
