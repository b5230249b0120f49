//! What the engine has at one moment.

use fjall::{Guard, Keyspace, Readable, Slice, Snapshot};
use parking_lot::RwLockReadGuard;

use super::{
    keyspace::{Space, unavailable},
    merged::Merged,
    young::Young,
};
use crate::store::StoreError;

/// The engine at one moment.
pub(in crate::store::embedded) struct View<'e> {
    young: RwLockReadGuard<'e, Young>,
    snapshot: Snapshot,
    spaces: &'e [Keyspace; 4],
}

impl<'e> View<'e> {
    pub(super) fn of(young: RwLockReadGuard<'e, Young>, snapshot: Snapshot, spaces: &'e [Keyspace; 4]) -> Self {
        Self { young, snapshot, spaces }
    }

    pub(in crate::store::embedded) fn get(&self, space: Space, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        match self.young.get(space, key) {
            Some(row) => Ok(Some(row.clone())),
            None => self.snapshot.get(space.of(self.spaces), key).map_err(unavailable),
        }
    }

    /// Rows from `from` on, as long as their keys start with `prefix`. Young numbers are not among them.
    pub(in crate::store::embedded) fn from(
        &self,
        space: Space,
        from: Vec<u8>,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(Slice, Slice), StoreError>> {
        let young = match space {
            Space::Events => self.young.events(&from, |key| key.starts_with(prefix)),
            _ => Vec::new(),
        };
        let rows = self
            .snapshot
            .range(space.of(self.spaces), from..)
            .map(|row: Guard| row.into_inner().map_err(unavailable))
            .take_while(move |row| row.as_ref().map_or(true, |(key, _)| key.starts_with(prefix)));
        Merged::new(rows, young)
    }
}
