//! fjall: the keyspaces, one commit, and what fjall must be kept from.
//!
//! fjall halts a commit for as long as four sealed memtables wait, for ever when its workers died; it asks its workers for a
//! rotation at every commit over the memtable's size, and a full channel then locks up. So [`Engine::commit`] waits by itself,
//! with a bound, and rotates by itself.

mod changes;
mod keyspace;
mod merged;
mod view;
mod young;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fjall::compaction::Leveled;
use fjall::{AbstractTree, CompressionType, Database, Guard, Keyspace, KeyspaceCreateOptions, PersistMode, Slice};
use parking_lot::{Mutex, RwLock};

pub(super) use self::{
    changes::{Change, Changes, Commit, Key},
    keyspace::Space,
    view::View,
};
use self::{
    keyspace::unavailable,
    merged::Merged,
    young::{Step, Young},
};
use crate::store::StoreError;

/// How to open the engine.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) path: PathBuf,
    /// Bytes of one memtable.
    pub(super) memtable: u64,
    /// Bytes of young rows: with much less than a memtable, most of what is written out of blocks is of no use any more.
    pub(super) young: usize,
    /// Bytes of all journals.
    pub(super) journals: u64,
    /// Bytes of the block cache.
    pub(super) cache: u64,
    /// Threads that flush and compact.
    pub(super) workers: usize,
}

/// The open database.
pub(super) struct Engine {
    database: Database,
    spaces: [Keyspace; 4],
    /// Blocks of young rows.
    blocks: Keyspace,
    /// Read before the keyspaces, and changed after them: a row that gets its place is found in one of the two.
    young: RwLock<Young>,
    /// Bytes of all blocks.
    young_max: usize,
    /// Held while a commit changes the keyspaces and then the young rows.
    committing: Mutex<()>,
    memtable: u64,
    /// Bytes of commits after which every memtable is written out, so that no quiet keyspace keeps a journal alive: what is
    /// read at a start stays short.
    flush_all: u64,
    since_flush_all: AtomicU64,
    /// Without background work: commits only append to the journal, which is all that a full disk has room for.
    lean: bool,
}

/// Where the blocks are in the order of the keyspaces.
const BLOCKS: u8 = 4;
/// Sealed memtables of a keyspace that may wait before commits wait too; fjall itself halts at 4.
const SEALED_MAX: usize = 2;
/// Tables of the first level before commits wait; fjall itself halts at 30 runs.
const LEVEL0_MAX: usize = 24;
/// Bytes that the journal adds to a row.
const ROW_OVERHEAD: usize = 24;
/// How long a commit waits for background work.
const STALL_MAX: Duration = Duration::from_secs(20);

impl Engine {
    /// Opens the database, makes it when there is none. With `lean` nothing runs in the background.
    pub(super) fn open(setup: &Setup, lean: bool) -> Result<Self, StoreError> {
        // fjall takes no less than 64 MiB of journals.
        let builder = Database::builder(&setup.path)
            .cache_size(setup.cache)
            .max_journaling_size(setup.journals.max(64 * 1024 * 1024))
            // fjall checks what it reads back by compressing it once more, and would not know it if another version compressed otherwise.
            .journal_compression(CompressionType::None)
            .manual_journal_persist(true);
        let builder = if lean {
            builder.worker_threads_unchecked(0)
        } else {
            builder.worker_threads(setup.workers.max(1))
        };
        let database = builder.open().map_err(unavailable)?;
        // A memtable is rotated by `commit`, never by fjall.
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(u64::MAX)
                .manual_journal_persist(true)
        };
        let open = |name: &str| database.keyspace(name, options).map_err(unavailable);
        // Ends are hardly ever read: it pays to merge their tables half as often.
        let ends = || options().compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(8)));
        let spaces = [
            open(Space::Events.name())?,
            database.keyspace(Space::Ends.name(), ends).map_err(unavailable)?,
            open(Space::Log.name())?,
            open(Space::Rows.name())?,
        ];
        let blocks = open("young")?;
        let young = Young::read(blocks.iter().map(|row| row.into_inner().map_err(unavailable)))?;
        Ok(Self {
            database,
            spaces,
            blocks,
            young: RwLock::new(young),
            young_max: setup.young,
            committing: Mutex::default(),
            memtable: setup.memtable,
            flush_all: setup.journals * 3 / 8,
            since_flush_all: AtomicU64::new(0),
            lean,
        })
    }

    pub(super) fn is_lean(&self) -> bool {
        self.lean
    }

    fn space(&self, space: Space) -> &Keyspace {
        space.of(&self.spaces)
    }

    fn keyspaces(&self) -> impl Iterator<Item = &Keyspace> {
        self.spaces.iter().chain([&self.blocks])
    }

    /// Everything at one moment; waits for the end of a commit. Short-lived: what it may still read is kept on the disk, no commit
    /// ends before it, and whoever has it asks the engine for nothing else.
    pub(super) fn view(&self) -> View<'_> {
        let _committed = self.committing.lock();
        self.glance()
    }

    /// As [`Engine::view`], at once. In the midst of a commit an event that ends in it is seen as one that waits, besides its end.
    pub(super) fn glance(&self) -> View<'_> {
        // The young rows first: what gets its place meanwhile is in the snapshot.
        let young = self.young.read();
        View::of(young, self.database.snapshot(), &self.spaces)
    }

    pub(super) fn get(&self, space: Space, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        let young = self.young.read().get(space, key).cloned();
        if young.is_some() {
            return Ok(young);
        }
        self.space(space).get(key).map_err(unavailable)
    }

    /// Young events from `from` on, as long as their keys are `within`.
    fn young(&self, space: Space, from: &[u8], within: impl Fn(&[u8]) -> bool) -> Vec<(Slice, Slice)> {
        if space != Space::Events {
            return Vec::new();
        }
        self.young.read().events(from, within)
    }

    /// Rows from `from` on, at most up to `to` (inclusive), in order. Young numbers are not among them.
    pub(super) fn range(
        &self,
        space: Space,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(Slice, Slice), StoreError>> + use<> {
        let young = self.young(space, from, |key| key <= to);
        // The engine panics at a range whose ends are crossed.
        let crossed = from > to;
        let to = if crossed { from } else { to };
        let rows = self
            .space(space)
            .range(from.to_vec()..=to.to_vec())
            .map(|row| row.into_inner().map_err(unavailable))
            .filter(move |_| !crossed);
        Merged::new(rows, young)
    }

    /// Rows whose keys start with `prefix`. Young numbers are not among them.
    pub(super) fn prefix(
        &self,
        space: Space,
        prefix: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(Slice, Slice), StoreError>> + use<> {
        let young = self.young(space, prefix, |key| key.starts_with(prefix));
        let rows = self
            .space(space)
            .prefix(prefix)
            .map(|row: Guard| row.into_inner().map_err(unavailable));
        Merged::new(rows, young)
    }

    /// Makes all changes durable together: synced to the disk when that is asked for, else handed to the
    /// operating system. Answers how many bytes that was. Only the writer may call it.
    pub(super) fn commit(&self, commit: Commit) -> Result<u64, StoreError> {
        let Commit { changes, sync } = commit;
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let Step { rows, blocks, then } = self.young.read().step(changes, self.young_max);
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), rows.len() + blocks.len()).durability(Some(mode));
        let (mut bytes, mut touched) = (0, 0_u8);
        let mut add = |keyspace: &Keyspace, key: Slice, row: Option<Slice>| {
            bytes += (key.len() + row.as_ref().map_or(0, |row| row.len()) + ROW_OVERHEAD) as u64;
            match row {
                Some(row) => batch.insert(keyspace, key, row),
                None => batch.remove(keyspace, key),
            }
        };
        for (key, row) in blocks {
            touched |= 1 << BLOCKS;
            add(&self.blocks, key, row);
        }
        // fjall applies rows in this order.
        for (space, key, row) in rows {
            touched |= 1 << space as u8;
            add(self.space(space), key, row);
        }
        self.await_background(touched)?;
        let committing = self.committing.lock();
        batch.commit().map_err(unavailable)?;
        self.young.write().follow(then);
        drop(committing);
        self.rotate(bytes);
        Ok(bytes)
    }

    /// Waits until background work of the `touched` keyspaces (a bit each) has caught up, so that fjall never halts the writer.
    fn await_background(&self, touched: u8) -> Result<(), StoreError> {
        let started = Instant::now();
        // Lean, nothing catches up: all that fjall allows is allowed.
        let sealed_max = SEALED_MAX + usize::from(self.lean);
        let behind = |space: &Keyspace| space.sealed_memtable_count() > sealed_max || space.l0_table_count() > LEVEL0_MAX;
        let awaited = |at: usize| touched >> at & 1 == 1;
        while self.keyspaces().enumerate().any(|(at, space)| awaited(at) && behind(space)) {
            // Learns whether a worker died.
            self.database.persist(PersistMode::Buffer).map_err(unavailable)?;
            if started.elapsed() > STALL_MAX || self.lean {
                return Err(StoreError::Unavailable("the disk does not keep up with background work".into()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Hands full memtables to their flush. A failure does not undo the commit: the next one meets it and recovers.
    fn rotate(&self, bytes: u64) {
        if self.lean {
            return;
        }
        let all = self.since_flush_all.fetch_add(bytes, Ordering::Relaxed) + bytes > self.flush_all;
        if all {
            self.since_flush_all.store(0, Ordering::Relaxed);
        }
        for space in self.keyspaces() {
            let size = space.tree.active_memtable().size();
            if (size > self.memtable || all && size > 0)
                && let Err(error) = space.rotate_memtable()
            {
                tracing::warn!(error = %error, "a memtable could not be handed to its flush: {error}");
            }
        }
    }

    /// Rewrites every table, so that what was removed leaves the disk. Blocks for about a second for each 100 MiB.
    pub(super) fn compact(&self) -> Result<(), StoreError> {
        for space in self.keyspaces() {
            space.rotate_memtable().map_err(unavailable)?;
            let started = Instant::now();
            while space.sealed_memtable_count() > 0 && started.elapsed() < STALL_MAX {
                self.database.persist(PersistMode::Buffer).map_err(unavailable)?;
                std::thread::sleep(Duration::from_millis(10));
            }
            space.major_compact().map_err(unavailable)?;
        }
        Ok(())
    }

    /// How many blocks of young rows there are.
    #[cfg(test)]
    pub(super) fn blocks(&self) -> usize {
        self.blocks.iter().count()
    }

    /// How many events have a row of their own.
    #[cfg(test)]
    pub(super) fn events_with_rows(&self) -> usize {
        self.space(Space::Events).iter().count()
    }

    /// Writes what only the operating system has to the disk.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.database.persist(PersistMode::SyncAll).map_err(unavailable)
    }
}
