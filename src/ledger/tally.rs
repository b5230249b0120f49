//! The accumulators: one set of counts a shard, so that sessions on different cores never meet on a cache line.
//!
//! Counts only rise (sums of latencies, which may fall, are kept in two's complement). Nothing is ever reset: whoever needs
//! a difference keeps the sums that it saw last.

use std::{
    cell::Cell as ThreadCell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use super::cell::{CELLS, Cell};

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
pub struct Sums(Box<[u64; CELLS]>);

impl Default for Sums {
    fn default() -> Self {
        Self(Box::new([0; CELLS]))
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
        for (now, before) in difference.0.iter_mut().zip(earlier.0.iter()) {
            *now = now.wrapping_sub(*before);
        }
        difference
    }

    /// Whether nothing was counted but this.
    pub fn is_zero_but(&self, cell: Cell) -> bool {
        self.0.iter().enumerate().all(|(at, count)| *count == 0 || at == cell.index())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Urgency;

    #[test]
    fn counts_of_many_threads_add_up() {
        let tally = Tally::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        tally.add(Cell::SavedFromExpiry, 1);
                        tally.add_signed(Cell::SavedSumMs(Urgency::Normal), -3);
                    }
                });
            }
        });
        assert_eq!(tally.sums().get(Cell::SavedFromExpiry), 8_000);
        assert_eq!(tally.sums().signed(Cell::SavedSumMs(Urgency::Normal)), -24_000);
    }
}
