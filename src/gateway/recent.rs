//! The newest of what happened to devices: a map that forgets the oldest.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use parking_lot::Mutex;

/// At most `max` keys with what was put last for each. Memory is bounded by that; an old place in the order is dropped when
/// its turn comes.
pub(super) struct Recent<K, V> {
    max: usize,
    inner: Mutex<Inner<K, V>>,
}

struct Inner<K, V> {
    found: HashMap<K, (u64, V)>,
    order: VecDeque<(u64, K)>,
    next: u64,
}

impl<K: Clone + Eq + Hash, V: Clone> Recent<K, V> {
    /// An empty one.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            inner: Mutex::new(Inner {
                found: HashMap::new(),
                order: VecDeque::new(),
                next: 0,
            }),
        }
    }

    /// What was put last for that key, if it is still known.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        self.inner.lock().found.get(key).map(|(_, value)| value.clone())
    }

    /// Puts something in.
    pub(super) fn put(&self, key: K, value: V) {
        self.update(key, |_| value);
    }

    /// Puts something in, made of what was there; answers it.
    pub(super) fn update(&self, key: K, make: impl FnOnce(Option<&V>) -> V) -> V {
        let inner = &mut *self.inner.lock();
        let number = inner.next;
        inner.next += 1;
        let value = make(inner.found.get(&key).map(|(_, value)| value));
        inner.found.insert(key.clone(), (number, value.clone()));
        inner.order.push_back((number, key));
        while inner.order.len() > self.max {
            let Some((number, key)) = inner.order.pop_front() else { break };
            if inner.found.get(&key).is_some_and(|(newest, _)| *newest == number) {
                inner.found.remove(&key);
            }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_and_the_newest_value_counts() {
        let recent = Recent::new(3);
        for (key, value) in [("a", 1), ("b", 2), ("a", 3)] {
            recent.put(key, value);
        }
        assert_eq!((recent.get(&"a"), recent.get(&"b")), (Some(3), Some(2)));
        recent.put("c", 4);
        assert_eq!(recent.get(&"a"), Some(3), "only its older place is gone");
        recent.put("d", 5);
        assert_eq!((recent.get(&"b"), recent.get(&"d")), (None, Some(5)));
        assert_eq!(recent.update("d", |before| before.map_or(0, |before| before + 1)), 6);
        for _ in 0..100 {
            recent.put("d", 0);
        }
        let inner = recent.inner.lock();
        assert_eq!((inner.found.len(), inner.order.len()), (1, 3));
    }
}
