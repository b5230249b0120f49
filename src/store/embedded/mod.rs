//! The embedded engine: fjall on local disk.
//!
//! One writer thread commits steps in groups; reads go straight to the rows. What is in RAM (seats, counts of busy devices) can
//! be read back, so a start scans neither events nor devices. Layout of the data directory:
//!
//! ```text
//! lock                    held while the store is open
//! store/format            the version of this layout
//! store/high-water-mark   how far the engine had come, see `high_water`
//! store/ballast           room for acknowledgements on a full disk, see `space`
//! store/engine/           fjall
//! ```

mod again;
mod audit;
mod born;
mod change;
mod device_state;
mod draft;
mod engine;
mod export;
mod fast;
mod feed;
mod groups;
mod high_water;
mod import;
mod journal;
mod keeper;
mod key_pack;
mod key_uses;
mod keys;
mod known_keys;
mod mailbox;
mod op;
mod positions;
mod receipt;
mod record;
mod records;
mod recover;
mod registry;
mod reported;
mod rows;
mod seats;
mod short_keys;
mod space;
mod steps;
mod sweep;
mod transfer;
mod users;
mod webhooks;
mod writer;

#[cfg(test)]
pub(in crate::store) mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use self::{device_state::Seats, engine::Engine, op::Op, rows::Totals};
use super::{ApiKey, StoreError, Tenant, Watches};
use crate::domain::{Clock, EventIdKey, Generation, Limits, TenantId};

pub use self::recover::OpenError;

/// Settings of the embedded store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The folder that holds everything. Default: `unpoll-data`.
    #[serde(skip)]
    pub data_dir: PathBuf,
    /// The XMPP domain of the default tenant, set at each opening. Default: `localhost`.
    #[serde(skip)]
    pub default_domain: String,
    /// Bytes of a table in RAM before it is written out; there are five kinds of table. At most a fortieth of the disk. Default: 16777216.
    pub memtable_bytes: u64,
    /// Bytes of events that were just stored for devices that are there, and of the numbers that go with them. They are in RAM and in the
    /// journal, and only what lasts longer gets a place in a table. At most a quarter of `memtable_bytes`. Default: 4194304.
    pub young_bytes: u64,
    /// Bytes of journal to keep, and so to read at a start; at least 67108864. Default: 134217728.
    pub journal_max_bytes: u64,
    /// Bytes of RAM for blocks read from the disk. Default: 33554432.
    pub cache_bytes: u64,
    /// Threads that write tables out and merge them. Of several, one is kept for writing out, and turns in a circle while all others
    /// merge: with two or three it does so at each merge, and takes CPU for nothing. Default: 4.
    pub background_threads: usize,
    /// Bytes kept aside so that a full disk has room for acknowledgements. At most an eighth of the disk. Default: 67108864.
    pub ballast_bytes: u64,
    /// New events are refused when less than this part of the disk is free, in percent. Default: 5.
    pub free_space_min_percent: u8,
    /// The most bytes that `free_space_min_percent` keeps free. Default: 4294967296.
    pub free_space_min_cap_bytes: u64,
    /// Open a store that lost commits it had promised, instead of refusing. Default: false.
    pub accept_data_loss: bool,
    /// Requests that may wait for the writer; more are answered with 429. Default: 8192.
    pub steps_max: usize,
    /// Arrivals that may wait for the dispatcher; more are dropped and counted. Default: 65536.
    pub arrivals_max: usize,
    /// Devices without a seat whose counts stay in RAM, about 300 bytes each, and 2 more for each idempotency key of the last day, up to
    /// 2 KiB. Default: 100000.
    pub idle_devices_max: usize,
    /// Rows that one round of the sweeper looks at. Default: 20000.
    pub sweep_rows: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("unpoll-data"),
            default_domain: "localhost".to_owned(),
            memtable_bytes: 16 * 1024 * 1024,
            young_bytes: 4 * 1024 * 1024,
            journal_max_bytes: 128 * 1024 * 1024,
            cache_bytes: 32 * 1024 * 1024,
            background_threads: 4,
            ballast_bytes: 64 * 1024 * 1024,
            free_space_min_percent: 5,
            free_space_min_cap_bytes: 4 * 1024 * 1024 * 1024,
            accept_data_loss: false,
            steps_max: 8_192,
            arrivals_max: 65_536,
            idle_devices_max: 100_000,
            sweep_rows: 20_000,
        }
    }
}

/// What the store's threads and its callers share.
pub(crate) struct Shared {
    config: Config,
    limits: Limits,
    clock: Arc<dyn Clock>,
    folder: PathBuf,
    setup: engine::Setup,
    sizes: space::Sizes,
    ids: EventIdKey,
    /// A [`Generation`]; another one after an import.
    generation: AtomicU32,
    /// `None` while it could not be opened again.
    engine: RwLock<Option<Engine>>,
    seats: RwLock<Seats>,
    keys: RwLock<HashMap<[u8; 32], Arc<ApiKey>>>,
    tenants: RwLock<BTreeMap<u16, Arc<Tenant>>>,
    /// As of the last commit.
    totals: Mutex<Totals>,
    /// The last commit that is on the disk for sure.
    synced_commit: AtomicU64,
    oldest_queued: AtomicU64,
    disk_bytes: AtomicU64,
    free_bytes: AtomicU64,
    /// Whether new events are taken.
    writable: AtomicBool,
    /// Bytes free over the limit of the intake, at the last look and less what was written since.
    headroom: AtomicU64,
    /// Whether the engine runs without background work.
    lean: AtomicBool,
    missed_arrivals: AtomicU64,
    /// The last position of each tenant's feed of presence, as of the last commit.
    tips: RwLock<HashMap<TenantId, u64>>,
    /// Which feeds were there when the store was opened, and where one begins that was not.
    feeds: feed::Opened,
    /// How far the receipts of each tenant go.
    receipts: records::Ends,
    /// No seat of an earlier life is left.
    lost_ended: AtomicBool,
    /// Long polls.
    watches: Arc<Watches>,
}

impl Shared {
    fn closed() -> StoreError {
        StoreError::Unavailable("it is closed or being opened again".into())
    }

    fn mark_path(&self) -> PathBuf {
        self.folder.join("high-water-mark")
    }

    fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Relaxed))
    }

    fn idempotency_kept(&self) -> Duration {
        Duration::from_secs(self.limits.idempotency_kept_secs)
    }

    /// Reads from the engine that is open now.
    fn read<T>(&self, read: impl FnOnce(&Engine) -> Result<T, StoreError>) -> Result<T, StoreError> {
        read(self.engine.read().as_ref().ok_or_else(Self::closed)?)
    }
}

/// The store on local disk. Cheap to share; [`EmbeddedStore::close`] or dropping the last handle ends it.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    steps: mpsc::Sender<Op>,
    sweeper: tokio::sync::Mutex<sweep::Sweeper>,
    threads: Mutex<Option<Threads>>,
}

/// The store's own threads, and the lock on the data directory that they live under.
struct Threads {
    writer: std::thread::JoinHandle<()>,
    keeper: std::thread::JoinHandle<()>,
    stop_keeper: std::sync::mpsc::Sender<()>,
    _lock: std::fs::File,
}

impl EmbeddedStore {
    /// Writes what is queued, leaves the high-water mark, and ends the threads. Blocks for as long as that takes. Later calls of
    /// the store answer `Unavailable`. Closing twice is closing once.
    pub fn close(&self) {
        let Some(threads) = self.threads.lock().take() else { return };
        // A full queue is being emptied by the writer.
        let mut order = Op::Care(op::Care::Stop);
        while let Err(mpsc::error::TrySendError::Full(back)) = self.steps.try_send(order) {
            order = back;
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(threads.stop_keeper);
        if threads.writer.join().is_err() | threads.keeper.join().is_err() {
            tracing::error!("a thread of the store had panicked");
        }
        let commit_no = self.shared.synced_commit.load(Ordering::Relaxed);
        if let Err(error) = high_water::write(&self.shared.mark_path(), commit_no) {
            tracing::warn!(error = %error, "the high-water mark could not be written: {error}");
        }
    }

    /// Asks the writer; waits while its queue is full.
    async fn ask<T>(&self, op: impl FnOnce(oneshot::Sender<T>) -> Op) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.steps.send(op(answer)).await.map_err(|_| Shared::closed())?;
        answered.await.map_err(|_| Self::unanswered())
    }

    /// Asks the writer; `Busy` while its queue is full.
    async fn ask_now<T>(&self, op: impl FnOnce(oneshot::Sender<T>) -> Op) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.steps.try_send(op(answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => Shared::closed(),
        })?;
        answered.await.map_err(|_| Self::unanswered())
    }

    fn unanswered() -> StoreError {
        StoreError::Unavailable("the write failed; it may have been stored".into())
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.close();
    }
}
