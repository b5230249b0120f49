//! What one commit changes.

use std::collections::BTreeMap;

use fjall::Slice;

/// What becomes of a row.
#[derive(Debug, Clone)]
pub(in crate::store::embedded) struct Change {
    /// `None` removes it.
    pub(in crate::store::embedded) row: Option<Slice>,
    /// It is new and will hardly last: it need not have a place of its own yet, see [`Young`](super::young::Young).
    pub(in crate::store::embedded) young: bool,
}

impl Change {
    /// About what it takes in a block of young rows.
    pub(in crate::store::embedded) fn young_bytes(&self, key: &[u8]) -> usize {
        match &self.row {
            Some(row) if self.young => 4 + key.len() + row.len(),
            _ => 0,
        }
    }
}

/// The key of a row. Keys are compared more often than anything else is done with them: first as numbers, by the 16 bytes that they begin
/// with (0 where there are none, which is never behind what is there), and byte for byte only where those are the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store::embedded) struct Key {
    head: u128,
    pub(in crate::store::embedded) bytes: Slice,
}

impl From<Slice> for Key {
    fn from(bytes: Slice) -> Self {
        let head = match bytes.first_chunk() {
            Some(head) => *head,
            None => {
                let mut head = [0; 16];
                head[..bytes.len()].copy_from_slice(&bytes);
                head
            }
        };
        Self {
            head: u128::from_be_bytes(head),
            bytes,
        }
    }
}

/// Changed rows of one keyspace. In the order of their keys, in which the engine takes them: neighbours are then
/// found by a way through its table that is in the processor's cache.
pub(in crate::store::embedded) type Changes = BTreeMap<Key, Change>;

/// Everything that becomes durable together.
pub(in crate::store::embedded) struct Commit {
    /// One for each [`Space`](super::Space), in their order.
    pub(in crate::store::embedded) changes: [Changes; 4],
    /// It is to be synced to the disk.
    pub(in crate::store::embedded) sync: bool,
}
