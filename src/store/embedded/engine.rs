//! fjall: the keyspaces, one commit, and what fjall must be kept from.
//!
//! fjall halts a commit for as long as four sealed memtables wait, for ever when its workers died; it asks its workers for a
//! rotation at every commit over the memtable's size, and a full channel then locks up. So [`Engine::commit`] waits by itself,
//! with a bound, and rotates by itself.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use fjall::{AbstractTree, Database, Guard, Keyspace, KeyspaceCreateOptions, PersistMode, Slice};

use super::draft::Draft;
use crate::store::StoreError;

/// One of the engine's keyspaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    /// Events that wait.
    Events,
    /// How events ended, and idempotency keys.
    Ends,
    /// Receipts and the ledger.
    Log,
    /// Devices, keys, tenants, and the store itself.
    Rows,
}

impl Space {
    fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Ends => "ends",
            Self::Log => "log",
            Self::Rows => "rows",
        }
    }
}

/// How to open the engine.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) path: PathBuf,
    /// Bytes of one memtable.
    pub(super) memtable: u64,
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
    memtable: u64,
    /// Without background work: commits only append to the journal, which is all that a full disk has room for.
    lean: bool,
}

/// Sealed memtables of a keyspace that may wait before commits wait too; fjall itself halts at 4.
const SEALED_MAX: usize = 2;
/// Tables of the first level before commits wait; fjall itself halts at 30 runs.
const LEVEL0_MAX: usize = 24;
/// How long a commit waits for background work.
const STALL_MAX: Duration = Duration::from_secs(20);

impl Engine {
    /// Opens the database, makes it when there is none. With `lean` nothing runs in the background.
    pub(super) fn open(setup: &Setup, lean: bool) -> Result<Self, fjall::Error> {
        // fjall takes no less than 64 MiB of journals.
        let builder = Database::builder(&setup.path)
            .cache_size(setup.cache)
            .max_journaling_size(setup.journals.max(64 * 1024 * 1024))
            .manual_journal_persist(true);
        let builder = if lean {
            builder.worker_threads_unchecked(0)
        } else {
            builder.worker_threads(setup.workers.max(1))
        };
        let database = builder.open()?;
        // A memtable is rotated by `commit`, never by fjall.
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(u64::MAX)
                .manual_journal_persist(true)
        };
        let open = |space: Space| database.keyspace(space.name(), options);
        let spaces = [open(Space::Events)?, open(Space::Ends)?, open(Space::Log)?, open(Space::Rows)?];
        Ok(Self {
            database,
            spaces,
            memtable: setup.memtable,
            lean,
        })
    }

    pub(super) fn is_lean(&self) -> bool {
        self.lean
    }

    fn space(&self, space: Space) -> &Keyspace {
        match (space, &self.spaces) {
            (Space::Events, [events, ..]) => events,
            (Space::Ends, [_, ends, ..]) => ends,
            (Space::Log, [_, _, log, _]) => log,
            (Space::Rows, [.., rows]) => rows,
        }
    }

    pub(super) fn get(&self, space: Space, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        self.space(space).get(key).map_err(unavailable)
    }

    /// Rows from `from` on, at most up to `to` (inclusive), in order.
    pub(super) fn range(
        &self,
        space: Space,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(Slice, Slice), StoreError>> + use<> {
        // The engine panics at a range whose ends are crossed.
        let crossed = from > to;
        let to = if crossed { from } else { to };
        self.space(space)
            .range(from.to_vec()..=to.to_vec())
            .map(|row| row.into_inner().map_err(unavailable))
            .filter(move |_| !crossed)
    }

    /// Rows whose keys start with `prefix`.
    pub(super) fn prefix(
        &self,
        space: Space,
        prefix: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(Slice, Slice), StoreError>> + use<> {
        self.space(space)
            .prefix(prefix)
            .map(|row: Guard| row.into_inner().map_err(unavailable))
    }

    /// Makes all changes of the draft durable together: synced to the disk when the draft asks for it, else handed to the
    /// operating system.
    pub(super) fn commit(&self, draft: Draft<'_>) -> Result<(), StoreError> {
        let (changes, sync) = draft.into_changes();
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let count = changes.iter().map(|changes| changes.len()).sum();
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), count).durability(Some(mode));
        let touched = changes.each_ref().map(|changes| !changes.is_empty());
        // fjall applies rows in this order: the end of an event appears before the event goes, so a reader who asks for the
        // event first finds one of the two.
        let mut by_space: Vec<_> = self.spaces.iter().zip(changes).collect();
        by_space.rotate_left(1);
        for (space, changes) in by_space {
            for (key, value) in changes {
                match value {
                    Some(value) => batch.insert(space, key, value),
                    None => batch.remove(space, key),
                }
            }
        }
        self.await_background(&touched)?;
        batch.commit().map_err(unavailable)?;
        self.rotate(&touched)
    }

    /// Waits until background work has caught up, so that fjall never halts the writer.
    fn await_background(&self, touched: &[bool; 4]) -> Result<(), StoreError> {
        let started = Instant::now();
        let behind = |space: &Keyspace| space.sealed_memtable_count() > SEALED_MAX || space.l0_table_count() > LEVEL0_MAX;
        while self.spaces.iter().zip(touched).any(|(space, touched)| *touched && behind(space)) {
            // Learns whether a worker died.
            self.database.persist(PersistMode::Buffer).map_err(unavailable)?;
            if started.elapsed() > STALL_MAX || self.lean {
                return Err(StoreError::Unavailable("the disk does not keep up with background work".into()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn rotate(&self, touched: &[bool; 4]) -> Result<(), StoreError> {
        if self.lean {
            return Ok(());
        }
        for (space, touched) in self.spaces.iter().zip(touched) {
            if *touched && space.tree.active_memtable().size() > self.memtable {
                // The commit holds. When this fails, the next commit meets the same failure and recovers.
                if let Err(error) = space.rotate_memtable() {
                    tracing::warn!(error = %error, "a memtable could not be handed to its flush: {error}");
                }
            }
        }
        Ok(())
    }

    /// Writes what only the operating system has to the disk.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.database.persist(PersistMode::SyncAll).map_err(unavailable)
    }
}

pub(super) fn unavailable(error: fjall::Error) -> StoreError {
    StoreError::Unavailable(error.to_string().into())
}
