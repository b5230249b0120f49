//! Events as they were written last. Most end within a second, and what ends is read once more: from here, and not through the engine's
//! tables.
//!
//! It follows the commits, so it never says anything else than the engine. Two generations share its memory: a full young one becomes
//! the old one, and what was that is forgotten. Rows are shared with the engine's table in RAM as long as they are in it.

use std::collections::HashMap;

use fjall::Slice;

/// Bytes of one generation.
const GENERATION_BYTES: usize = 8 * 1024 * 1024;
/// What a row takes besides its bytes.
const ROW_OVERHEAD: usize = 96;

#[derive(Default)]
pub(super) struct Recent {
    young: HashMap<Slice, Slice>,
    old: HashMap<Slice, Slice>,
    /// Bytes of the young.
    bytes: usize,
}

impl Recent {
    /// The row of an event; `None` when only the engine knows.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Slice> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// These changes of events are committed.
    pub(super) fn follow(&mut self, changes: impl IntoIterator<Item = (Slice, Option<Slice>)>) {
        for (key, row) in changes {
            match row {
                Some(row) => self.put(key, row),
                None => self.remove(&key),
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn put(&mut self, key: Slice, row: Slice) {
        if self.bytes >= GENERATION_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += row.len() + ROW_OVERHEAD;
        if let Some(before) = self.young.insert(key, row) {
            self.bytes -= before.len() + ROW_OVERHEAD;
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(row) = self.young.remove(key) {
            self.bytes -= row.len() + ROW_OVERHEAD;
        }
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Slice {
        Slice::from(number.to_be_bytes())
    }

    fn row(fill: u8) -> Option<Slice> {
        Some(Slice::from(vec![fill; 1_000]))
    }

    #[test]
    fn it_says_what_was_committed_last_and_forgets_the_oldest_first() {
        let mut recent = Recent::default();
        recent.follow([(key(1), row(1)), (key(2), row(2))]);
        recent.follow([(key(1), row(3)), (key(2), None)]);
        assert_eq!(recent.get(&key(1)), row(3).as_ref());
        assert_eq!(recent.get(&key(2)), None);
        let generation = u32::try_from(GENERATION_BYTES / (1_000 + ROW_OVERHEAD) + 1).unwrap();
        for number in 10..10 + generation {
            recent.follow([(key(number), row(4))]);
        }
        assert_eq!(recent.get(&key(1)), row(3).as_ref(), "it is old now");
        // A new row hides the old one; without it nothing is known, not even the old one.
        recent.follow([(key(1), row(5))]);
        assert_eq!(recent.get(&key(1)), row(5).as_ref());
        recent.follow([(key(1), None)]);
        assert_eq!(recent.get(&key(1)), None);
        for number in 0..2 * generation {
            recent.follow([(key(100_000 + number), row(6))]);
        }
        assert_eq!(recent.get(&key(10)), None);
        assert!(recent.bytes <= GENERATION_BYTES + 2_000 && recent.old.len() <= generation as usize);
    }

    #[test]
    fn what_ended_takes_no_room() {
        let mut recent = Recent::default();
        for number in 0..20_000 {
            recent.follow([(key(number), row(1))]);
            recent.follow([(key(number), None)]);
        }
        assert_eq!(recent.bytes, 0);
        assert!(recent.young.is_empty() && recent.old.is_empty());
    }
}
