//! A map with a bound, that forgets the oldest.

use std::{collections::HashMap, hash::Hash, mem};

/// Keeps at least the last `max / 2` entries that were put, and at most `max`. Every call is O(1) but for dropping what is
/// forgotten.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Hash + Eq, V> Recent<K, V> {
    /// An empty map of at most `max` entries (at least 2).
    pub(super) fn new(max: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            half: (max / 2).max(1),
        }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(super) fn put(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(super) fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entries_go_and_the_bound_holds() {
        let mut map = Recent::new(10);
        for number in 0..100 {
            map.put(number, number);
            assert!(map.young.len() + map.old.len() <= 10);
            assert!((number.max(4) - 4..=number).all(|kept| map.get(&kept) == Some(&kept)), "{number}");
        }
        assert_eq!(map.get(&80), None);
        map.put(99, 0);
        assert_eq!(map.get(&99), Some(&0));
        map.remove(&99);
        assert_eq!(map.get(&99), None);
    }
}
