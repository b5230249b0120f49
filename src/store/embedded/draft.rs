//! The changes of one commit, readable before they are written.

use std::collections::BTreeMap;

use fjall::Slice;

use super::{
    engine::{Engine, Space},
    recent::Recent,
};
use crate::store::StoreError;

/// Changed rows of one keyspace: `None` removes. In the order of their keys, in which the engine takes them: neighbours are then
/// found by a way through its table that is in the processor's cache.
pub(super) type Changes = BTreeMap<Slice, Option<Slice>>;

/// Steps write here and read through it, so that each sees what the ones before it in the same commit did.
/// A row is in it once, as fjall demands of a batch.
pub(super) struct Draft<'e> {
    engine: &'e Engine,
    recent: Option<&'e Recent>,
    changes: [Changes; 4],
    sync: bool,
}

impl<'e> Draft<'e> {
    pub(super) fn new(engine: &'e Engine) -> Self {
        Self {
            engine,
            recent: None,
            changes: Default::default(),
            sync: false,
        }
    }

    /// One that finds events in RAM that were written lately.
    pub(super) fn with_recent(engine: &'e Engine, recent: &'e Recent) -> Self {
        Self {
            recent: Some(recent),
            ..Self::new(engine)
        }
    }

    pub(super) fn engine(&self) -> &'e Engine {
        self.engine
    }

    /// Asks that the commit be synced to the disk.
    pub(super) fn must_sync(&mut self) {
        self.sync = true;
    }

    pub(super) fn syncs(&self) -> bool {
        self.sync
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.iter().all(BTreeMap::is_empty)
    }

    fn of(&mut self, space: Space) -> &mut Changes {
        match (space, &mut self.changes) {
            (Space::Events, [events, ..]) => events,
            (Space::Ends, [_, ends, ..]) => ends,
            (Space::Log, [_, _, log, _]) => log,
            (Space::Rows, [.., rows]) => rows,
        }
    }

    pub(super) fn changes(&self, space: Space) -> &Changes {
        match (space, &self.changes) {
            (Space::Events, [events, ..]) => events,
            (Space::Ends, [_, ends, ..]) => ends,
            (Space::Log, [_, _, log, _]) => log,
            (Space::Rows, [.., rows]) => rows,
        }
    }

    pub(super) fn get(&self, space: Space, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        match self.changes(space).get(key) {
            Some(value) => Ok(value.clone()),
            None => match self.recent.filter(|_| space == Space::Events).and_then(|recent| recent.get(key)) {
                Some(row) => Ok(Some(row.clone())),
                None => self.engine.get(space, key),
            },
        }
    }

    pub(super) fn put(&mut self, space: Space, key: impl Into<Slice>, value: impl Into<Slice>) {
        let (key, value) = (key.into(), value.into());
        self.of(space).insert(key, Some(value));
    }

    pub(super) fn remove(&mut self, space: Space, key: impl Into<Slice>) {
        let key = key.into();
        self.of(space).insert(key, None);
    }

    /// All rows with that prefix as this draft would leave them. For steps over one device only.
    pub(super) fn prefix(&self, space: Space, prefix: &[u8]) -> Result<BTreeMap<Slice, Slice>, StoreError> {
        let mut rows = self.engine.prefix(space, prefix).collect::<Result<BTreeMap<_, _>, _>>()?;
        for (key, value) in self.changes(space).iter().filter(|(key, _)| key.starts_with(prefix)) {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        Ok(rows)
    }

    pub(super) fn into_changes(self) -> ([Changes; 4], bool) {
        (self.changes, self.sync)
    }
}
