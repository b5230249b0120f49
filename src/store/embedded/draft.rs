//! The changes of one commit, readable before they are written.

use std::collections::BTreeMap;

use fjall::Slice;

use super::{
    engine::{Change, Changes, Commit, Engine, Key, Space},
    keys,
    receipt::{NewReceipt, Pack},
};
use crate::{domain::TenantId, store::StoreError};

/// Steps write here and read through it, so that each sees what the ones before it in the same commit did.
/// A row is in it once, as fjall demands of a batch.
pub(super) struct Draft<'e> {
    engine: &'e Engine,
    changes: [Changes; 4],
    /// Those of each tenant, and the position of the last.
    receipts: BTreeMap<TenantId, (u64, Pack)>,
    sync: bool,
}

impl<'e> Draft<'e> {
    pub(super) fn new(engine: &'e Engine) -> Self {
        Self {
            engine,
            changes: Default::default(),
            receipts: BTreeMap::new(),
            sync: false,
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
        self.receipts.is_empty() && self.changes.iter().all(BTreeMap::is_empty)
    }

    fn of(&mut self, space: Space) -> &mut Changes {
        match (space, &mut self.changes) {
            (Space::Events, [events, ..]) => events,
            (Space::Ends, [_, ends, ..]) => ends,
            (Space::Log, [_, _, log, _]) => log,
            (Space::Rows, [.., rows]) => rows,
        }
    }

    fn changes(&self, space: Space) -> &Changes {
        space.of(&self.changes)
    }

    pub(super) fn get(&self, space: Space, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        match self.changes(space).get(&Key::from(Slice::from(key))) {
            Some(change) => Ok(change.row.clone()),
            None => self.engine.get(space, key),
        }
    }

    pub(super) fn put(&mut self, space: Space, key: impl Into<Slice>, value: impl Into<Slice>) {
        self.change(space, key.into(), Some(value.into()), false);
    }

    /// Puts a row of a kind that can be young: with `young` it will hardly last.
    pub(super) fn put_new(&mut self, space: Space, key: impl Into<Slice>, value: impl Into<Slice>, young: bool) {
        self.change(space, key.into(), Some(value.into()), young);
    }

    pub(super) fn remove(&mut self, space: Space, key: impl Into<Slice>) {
        self.change(space, key.into(), None, false);
    }

    /// Adds a receipt; its position is behind those of the tenant that the draft has already.
    pub(super) fn receive(&mut self, tenant: TenantId, position: u64, receipt: &NewReceipt<'_>) -> Result<(), StoreError> {
        let (last, pack) = self.receipts.entry(tenant).or_default();
        pack.push(receipt)?;
        *last = position;
        Ok(())
    }

    fn change(&mut self, space: Space, key: Slice, row: Option<Slice>, young: bool) {
        self.of(space).insert(key.into(), Change { row, young });
    }

    /// The keys with that prefix that are there, or that this draft puts: one may come twice, and one that it removes may be among them.
    pub(super) fn keys(&self, space: Space, prefix: &[u8]) -> impl Iterator<Item = Result<Slice, StoreError>> {
        let there = self.engine.prefix(space, prefix).map(|row| row.map(|(key, _)| key));
        there.chain(self.changed(space, prefix).map(|(key, _)| Ok(key.clone())))
    }

    /// Whether it changes that row.
    pub(super) fn changes_row(&self, space: Space, key: &Slice) -> bool {
        self.changes(space).contains_key(&Key::from(key.clone()))
    }

    /// What it changes of the rows with that prefix.
    pub(super) fn changed(&self, space: Space, prefix: &[u8]) -> impl Iterator<Item = (&Slice, &Change)> {
        let changes = self.changes(space).range(Key::from(Slice::from(prefix))..);
        let changes = changes.map(|(key, change)| (&key.bytes, change));
        changes.take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// All rows with that prefix as this draft would leave them. For steps over one device only.
    pub(super) fn prefix(&self, space: Space, prefix: &[u8]) -> Result<BTreeMap<Slice, Slice>, StoreError> {
        let mut rows = self.engine.prefix(space, prefix).collect::<Result<BTreeMap<_, _>, _>>()?;
        for (key, change) in self.changed(space, prefix) {
            match &change.row {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        Ok(rows)
    }

    /// What is to be committed.
    pub(super) fn finish(mut self) -> Commit {
        for (tenant, (last, pack)) in std::mem::take(&mut self.receipts) {
            self.put(Space::Log, keys::receipt(tenant, last), pack.finish());
        }
        Commit {
            changes: self.changes,
            sync: self.sync,
        }
    }
}
