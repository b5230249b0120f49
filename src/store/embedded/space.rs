//! Room on the disk: how much there is, how much must stay, and the ballast.
//!
//! The ballast is a file of zeros. When the disk is full it is deleted, so that acknowledgements have room; it is written again
//! once there is space.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Config;

/// A filesystem at one moment, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Disk {
    pub(super) total: u64,
    pub(super) free: u64,
}

impl Disk {
    pub(super) fn of(path: &Path) -> std::io::Result<Self> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Self {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

/// What the store has on the disk, in bytes of blocks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Used {
    pub(super) journals: u64,
    pub(super) journal_files: usize,
    pub(super) tables: u64,
    /// Of those, the waiting events and what is left of settled ones.
    pub(super) events: u64,
    /// Of the keyspace that has most of the others.
    pub(super) other: u64,
    pub(super) ballast: u64,
}

/// Sizes that follow from the disk: a small one gets small memtables and journals.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) memtable: u64,
    /// Threads for background work: a small disk has room for one compaction at a time.
    pub(super) workers: usize,
    /// Bytes of the active journal at which it is sealed by a reopening. `u64::MAX`: fjall's own rotation at 64 MB will do.
    pub(super) journal: u64,
    pub(super) ballast: u64,
    floor: u64,
}

const MIB: u64 = 1024 * 1024;
/// Room for one compaction of the upper levels of the engine.
const COMPACTION_MAX: u64 = 1024 * MIB;

impl Sizes {
    pub(super) fn of(config: &Config, disk: Disk) -> Self {
        let memtable = config.memtable_bytes.min((disk.total / 40).max(MIB));
        let journal = disk.total / 8;
        let share = disk.total / 100 * u64::from(config.free_space_min_percent.min(100));
        Self {
            memtable,
            workers: if journal < 64 * MIB { 1 } else { config.background_threads.max(1) },
            journal: if journal < 64 * MIB { journal } else { u64::MAX },
            ballast: config.ballast_bytes.min(disk.total / 8),
            floor: share.min(config.free_space_min_cap_bytes).max(4 * memtable),
        }
    }

    /// Free bytes below which background work may fail.
    pub(super) fn background(&self, used: Used) -> u64 {
        (2 * self.memtable).saturating_add(used.events.max(used.other).min(COMPACTION_MAX))
    }

    /// Free bytes that it takes to write the memtables out and then every table anew, when `live` bytes of events wait.
    pub(super) fn rewrite(&self, used: Used, live: u64) -> u64 {
        let largest = used.events.min(live).max(used.other).min(COMPACTION_MAX);
        (2 * self.memtable).saturating_add(used.journals).saturating_add(largest)
    }

    /// Free bytes below which no commit may add events, whatever the keeper saw at its last look.
    pub(super) fn least(&self) -> u64 {
        self.floor
    }

    /// Free bytes below which new events are refused: what was accepted must still be flushed, compacted and settled.
    pub(super) fn intake(&self, used: Used) -> u64 {
        let journal = if self.journal == u64::MAX { 0 } else { self.journal };
        self.floor.max(self.background(used).saturating_add(journal))
    }
}

/// Tables up to this size are rewritten as a whole to win space; larger ones are left to the engine, bit by bit.
const REWRITE_MAX: u64 = 256 * MIB;

impl Used {
    /// Whether it takes but seconds to rewrite all tables.
    pub(super) fn is_small(&self) -> bool {
        self.tables <= REWRITE_MAX
    }
}

/// Measures the store's folder.
pub(super) fn used(folder: &Path) -> Used {
    let mut used = Used::default();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        if folder.parent().and_then(Path::file_name).is_some_and(|name| name == "keyspaces") {
            let keyspace = bytes_under(&folder);
            used.tables += keyspace;
            // The keyspace that was made first, see `Engine::open`.
            if folder.file_name().is_some_and(|name| name == "1") {
                used.events = keyspace;
            } else {
                used.other = used.other.max(keyspace);
            }
            continue;
        }
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, Ok(meta)) = (entry.path(), entry.metadata()) else {
                continue;
            };
            let bytes = blocks(&meta);
            if meta.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "jnl") {
                used.journals += bytes;
                used.journal_files += 1;
            } else if path.file_name().is_some_and(|name| name == BALLAST) {
                used.ballast += bytes;
            } else {
                used.tables += bytes;
            }
        }
    }
    used
}

/// Bytes of all files under a folder. Files come and go while the engine works: what cannot be read is gone.
fn bytes_under(folder: &Path) -> u64 {
    let mut bytes = 0;
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                Ok(meta) => bytes += blocks(&meta),
                Err(_) => {}
            }
        }
    }
    bytes
}

fn blocks(meta: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(meta).saturating_mul(512)
}

const BALLAST: &str = "ballast";

pub(super) fn ballast_path(folder: &Path) -> PathBuf {
    folder.join(BALLAST)
}

/// Writes the ballast, whole or not at all.
pub(super) fn write_ballast(folder: &Path, bytes: u64) -> std::io::Result<()> {
    let path = ballast_path(folder);
    if fs::metadata(&path).is_ok_and(|meta| meta.len() == bytes) || bytes == 0 {
        return Ok(());
    }
    let made = fs::File::create(&path).and_then(|file| {
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
        file.sync_all()
    });
    if made.is_err() {
        drop_ballast(folder)?;
    }
    made
}

/// Deletes the ballast; `false` when there was none.
pub(super) fn drop_ballast(folder: &Path) -> std::io::Result<bool> {
    match fs::remove_file(ballast_path(folder)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_disk() {
        let small = Sizes::of(
            &Config::default(),
            Disk {
                total: 80 * MIB,
                free: 80 * MIB,
            },
        );
        assert_eq!(small.memtable, 2 * MIB);
        assert_eq!(small.ballast, 10 * MIB);
        assert!(small.intake(Used::default()) < 20 * MIB, "usable at the start");
        let large = Sizes::of(
            &Config::default(),
            Disk {
                total: 1 << 40,
                free: 1 << 40,
            },
        );
        assert_eq!((large.memtable, large.journal, large.ballast), (16 * MIB, u64::MAX, 64 * MIB));
        assert_eq!(large.intake(Used::default()), 4096 * MIB);
    }

    #[test]
    fn the_ballast_takes_real_blocks_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        write_ballast(folder.path(), MIB).unwrap();
        assert!(used(folder.path()).ballast >= MIB);
        assert!(drop_ballast(folder.path()).unwrap());
        assert!(!drop_ballast(folder.path()).unwrap());
    }
}
