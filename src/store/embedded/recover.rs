//! Opening: the lock, the format, the engine, the high-water mark, and what is kept in RAM.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64},
    },
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use super::{
    Config, EmbeddedStore, Shared, Threads,
    change::NewChange,
    device_state::DeviceStates,
    draft::Draft,
    engine::{Engine, Setup, Space},
    feed,
    high_water::{self, MarkError},
    journal,
    keeper::{self, Keeper},
    keys,
    positions::Positions,
    records::Ends,
    rows::{self, Identity, Totals},
    short_keys,
    space::{self, Disk, Sizes},
    steps::Book,
    users,
    writer::Writer,
};
use crate::{
    domain::{Clock, EventIdKey, Limits, TenantId},
    store::{ApiKey, Arrival, StoreError, Tenant, codec::damaged},
};

/// The layout that this program writes. It reads all before it: 1 had no young rows, 2 a row for each idempotency key.
const FORMAT: u32 = 3;

/// Why the store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data directory {0} is in use by another process; stop that one first")]
    Locked(PathBuf),
    /// A later version wrote it.
    #[error("the data directory has format {found}, this program reads up to {known}; use the version that wrote it, or a later one")]
    Newer {
        /// What is there.
        found: u32,
        /// The latest that this program knows.
        known: u32,
    },
    /// It lost what it had promised.
    #[error(
        "the store is at commit {found} but had reached {marked}: part of it was lost, by a damaged disk or an old copy. \
         Restore a newer copy, or set accept_data_loss to go on without what was lost"
    )]
    BehindMark {
        /// Where the store is.
        found: u64,
        /// Where it had been.
        marked: u64,
    },
    /// The mark itself is unreadable.
    #[error("{0}. If the disk is sound otherwise, set accept_data_loss to open the store without it")]
    Mark(String),
    /// The disk does not do as asked.
    #[error("{what} in {path}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The engine does not open.
    #[error("the store's engine does not open: {0}. A damaged journal or table is restored from a copy")]
    Engine(String),
    /// A row that every store has is missing or damaged.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// No random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> OpenError {
    let path = path.to_path_buf();
    move |error| OpenError::Io { what, path, error }
}

impl EmbeddedStore {
    /// Opens the store in `config.data_dir`, making it when there is none, and starts its threads. The receiver yields each
    /// event that was stored for a device with a seat; it holds `config.arrivals_max`, see
    /// [`missed_arrivals`](crate::store::Mailbox::missed_arrivals). Blocks for the time of reading the journal, about a second for 64 MiB.
    ///
    /// # Errors
    /// See [`OpenError`]: each says what to do.
    pub fn open(config: Config, limits: Limits, clock: Arc<dyn Clock>) -> Result<(Arc<Self>, mpsc::Receiver<Arrival>), OpenError> {
        fs::create_dir_all(&config.data_dir).map_err(io("the folder cannot be made", &config.data_dir))?;
        let lock = lock(&config.data_dir)?;
        let folder = config.data_dir.join("store");
        fs::create_dir_all(&folder).map_err(io("the folder cannot be made", &folder))?;
        check_format(&folder)?;

        let disk = Disk::of(&folder).map_err(io("the free space cannot be read", &folder))?;
        let sizes = Sizes::of(&config, disk);
        let setup = Setup {
            path: folder.join("engine"),
            memtable: sizes.memtable,
            young: usize::try_from(config.young_bytes.min(sizes.memtable / 4)).unwrap_or(usize::MAX),
            journals: config.journal_max_bytes,
            cache: config.cache_bytes,
            workers: sizes.workers,
        };
        let engine = open_engine(&folder, &setup, &sizes, disk)?;
        let totals = match engine.get(Space::Rows, keys::COMMIT)? {
            Some(row) if Totals::has_cohorts(&row)? => Totals::decode(&row)?,
            Some(row) => with_cohorts(&engine, Totals::decode(&row)?)?,
            None => Totals::default(),
        };
        let lost = check_mark(&folder, &config, totals)?;

        users::index_all(&engine)?;
        short_keys::shorten(&engine)?;
        let identity = identity(&engine, totals, lost)?;
        let tenants = tenants(&engine, &config)?;
        let mut draft = Draft::new(&engine);
        let totals = Totals {
            commit_no: totals.commit_no + 1,
            ..totals
        };
        draft.put(Space::Rows, keys::COMMIT, totals.encode());
        draft.put(Space::Rows, keys::IDENTITY, identity.encode());
        if let Some(tenant) = tenants.get(&0) {
            let row = serde_json::to_vec(tenant.as_ref()).map_err(|_| damaged("the default tenant"))?;
            draft.put(Space::Rows, keys::tenant(0), row);
        }
        if let Some(node) = feed::lost_node(&engine, identity.boot)? {
            let row = NewChange::node_lost(&node, clock.now()).encode();
            for tenant in tenants.keys() {
                let key = keys::change(TenantId(*tenant), feed::first_position(identity.boot));
                draft.put(Space::Log, key, row.as_slice());
            }
        }
        draft.must_sync();
        engine.commit(draft.finish())?;

        let tips = feed::tips(&engine, tenants.keys().copied())?;
        let receipts = Ends::of(&engine, tenants.keys().copied())?;
        let keys = api_keys(&engine)?;
        let lean = engine.is_lean();
        let shared = Arc::new(Shared {
            ids: EventIdKey::new(&identity.id_secret),
            generation: AtomicU32::new(identity.generation),
            engine: RwLock::new(Some(engine)),
            seats: RwLock::default(),
            keys: RwLock::new(keys),
            tenants: RwLock::new(tenants),
            totals: Mutex::new(totals),
            synced_commit: AtomicU64::new(totals.commit_no),
            oldest_queued: AtomicU64::new(0),
            disk_bytes: AtomicU64::new(0),
            free_bytes: AtomicU64::new(disk.free),
            writable: AtomicBool::new(true),
            headroom: AtomicU64::new(0),
            lean: AtomicBool::new(lean),
            missed_arrivals: AtomicU64::new(0),
            feeds: feed::Opened::new(&tips, identity.boot),
            tips: RwLock::new(tips),
            receipts,
            lost_ended: AtomicBool::new(false),
            watches: Arc::default(),
            config,
            limits,
            clock,
            folder,
            setup,
            sizes,
        });
        keeper::look(&shared);
        start(shared, totals, identity.boot, lock)
    }
}

fn start(
    shared: Arc<Shared>,
    totals: Totals,
    boot: u32,
    lock: fs::File,
) -> Result<(Arc<EmbeddedStore>, mpsc::Receiver<Arrival>), OpenError> {
    let (steps, queued) = mpsc::channel(shared.config.steps_max.max(1));
    let (arrived, arrivals) = mpsc::channel(shared.config.arrivals_max.max(1));
    let (stop_keeper, stop) = std::sync::mpsc::channel();
    let book = Book {
        states: DeviceStates::new(shared.config.idle_devices_max),
        totals,
        positions: Positions::default(),
        tips: HashMap::new(),
        boot,
        lost_after: None,
        next_epoch: u64::from(boot) << 32 | 1,
        webhook_leases: super::webhooks::Leases::default(),
        seat_changes: Vec::new(),
        touched: Vec::new(),
        keys_changed: false,
        now: shared.clock.now(),
        shared: Arc::clone(&shared),
    };
    let writer = Writer {
        shared: Arc::clone(&shared),
        steps: queued,
        arrivals: arrived,
        book,
        reopened: None,
    };
    let keeper = Keeper {
        shared: Arc::clone(&shared),
        steps: steps.downgrade(),
        stop,
        marked: 0,
        rewritten: None,
    };
    let spawned = |e| io("a thread cannot be started", &shared.folder)(e);
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let writer = thread("store-writer").spawn(move || writer.run()).map_err(spawned)?;
    let keeper = thread("store-keeper").spawn(move || keeper.run()).map_err(spawned)?;
    let store = EmbeddedStore {
        shared,
        steps,
        sweeper: tokio::sync::Mutex::default(),
        threads: Mutex::new(Some(Threads {
            writer,
            keeper,
            stop_keeper,
            _lock: lock,
        })),
    };
    Ok((Arc::new(store), arrivals))
}

fn lock(data_dir: &Path) -> Result<fs::File, OpenError> {
    let path = data_dir.join("lock");
    let file = fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(io("the lock cannot be opened", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::Locked(data_dir.to_path_buf())),
        Err(fs::TryLockError::Error(error)) => Err(io("the lock cannot be taken", &path)(error)),
    }
}

/// Refuses a later format, and marks an earlier one or none as this: what is written from here on is not to be opened by a version that
/// would not read all of it.
fn check_format(folder: &Path) -> Result<(), OpenError> {
    let path = folder.join("format");
    let found = match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse() {
            Ok(found) => found,
            Err(_) => return Err(StoreError::Corrupt("the format of the data directory".into()).into()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(io("the format cannot be read", &path)(error)),
    };
    match found.cmp(&FORMAT) {
        Ordering::Greater => Err(OpenError::Newer { found, known: FORMAT }),
        Ordering::Equal => Ok(()),
        Ordering::Less => high_water::replace(&path, format!("{FORMAT}\n").as_bytes()).map_err(io("the format cannot be written", &path)),
    }
}

/// Opens the engine; on a disk that has no room for background work, without it.
fn open_engine(folder: &Path, setup: &Setup, sizes: &Sizes, disk: Disk) -> Result<Engine, OpenError> {
    let used = space::used(folder);
    let missing_ballast = sizes.ballast.saturating_sub(used.ballast);
    let roomy = disk.free >= sizes.background(used).saturating_add(missing_ballast);
    if roomy {
        space::write_ballast(folder, sizes.ballast).map_err(io("the ballast cannot be written", folder))?;
    } else {
        tracing::error!(
            disk.free_bytes = disk.free,
            "the disk has {} bytes free, too little to work in full: new events are refused until there is more",
            disk.free
        );
        if setup.path.exists() {
            let ballast = space::ballast_path(folder);
            journal::seal(&setup.path, Some(&ballast)).map_err(io("the journal cannot be sealed", &setup.path))?;
        }
        space::drop_ballast(folder).map_err(io("the ballast cannot be deleted", folder))?;
    }
    let engine = Engine::open(setup, !roomy).map_err(|error| OpenError::Engine(error.to_string()))?;
    if !roomy && let Err(error) = journal::reserve(&setup.path, sizes.ballast) {
        tracing::warn!(error = %error, "no room could be kept for acknowledgements: {error}");
    }
    Ok(engine)
}

/// Whether the store lost commits that it had promised, and the operator takes that.
fn check_mark(folder: &Path, config: &Config, totals: Totals) -> Result<bool, OpenError> {
    let path = folder.join("high-water-mark");
    let marked = match high_water::read(&path) {
        Ok(marked) => marked.unwrap_or(0),
        Err(error) if config.accept_data_loss => {
            tracing::warn!(error = %error, "{error}; it is made anew");
            0
        }
        Err(error @ MarkError::Damaged) => return Err(OpenError::Mark(error.to_string())),
        Err(MarkError::Io(error)) => return Err(io("the high-water mark cannot be read", &path)(error)),
    };
    if totals.commit_no >= marked {
        return Ok(false);
    }
    if !config.accept_data_loss {
        return Err(OpenError::BehindMark {
            found: totals.commit_no,
            marked,
        });
    }
    tracing::error!(
        store.commit = totals.commit_no,
        store.marked = marked,
        "the store lost what came after commit {}; it had reached {marked}",
        totals.commit_no
    );
    high_water::write(&path, totals.commit_no).map_err(io("the high-water mark cannot be written", &path))?;
    Ok(true)
}

/// The identity of the store with its boot count raised. A store that lost commits would give numbers out twice, so it starts a
/// new generation; so does a new one.
fn identity(engine: &Engine, totals: Totals, lost: bool) -> Result<Identity, OpenError> {
    match engine.get(Space::Rows, keys::IDENTITY)? {
        Some(row) => {
            let identity = Identity::decode(&row)?;
            let boot = identity.boot.checked_add(1).ok_or_else(|| damaged("the boot count"))?;
            let generation = identity.generation.wrapping_add(u32::from(lost));
            Ok(Identity {
                generation,
                boot,
                ..identity
            })
        }
        None if totals.commit_no > 0 => Err(damaged("the identity of the store").into()),
        None => {
            let (mut id_secret, mut generation) = ([0; 32], [0; 4]);
            aws_lc_rs::rand::fill(&mut id_secret).map_err(|_| OpenError::Random)?;
            aws_lc_rs::rand::fill(&mut generation).map_err(|_| OpenError::Random)?;
            Ok(Identity {
                generation: u32::from_be_bytes(generation).max(1),
                boot: 1,
                id_secret,
            })
        }
    }
}

/// Counts the devices of each cohort: once, where an earlier version did not.
fn with_cohorts(engine: &Engine, mut totals: Totals) -> Result<Totals, OpenError> {
    (totals.devices, totals.polling, totals.control) = (0, 0, 0);
    for row in engine.prefix(Space::Rows, b"d") {
        totals.move_device(None, rows::decode_cohort(&row?.1)?);
    }
    Ok(totals)
}

fn tenants(engine: &Engine, config: &Config) -> Result<BTreeMap<u16, Arc<Tenant>>, OpenError> {
    let mut tenants: BTreeMap<u16, Arc<Tenant>> = BTreeMap::new();
    for row in engine.prefix(Space::Rows, b"t") {
        let tenant: Tenant = serde_json::from_slice(&row?.1).map_err(|_| damaged("a tenant"))?;
        tenants.insert(tenant.id, Arc::new(tenant));
    }
    let limits = tenants.get(&0).and_then(|known| known.limits);
    tenants.insert(
        0,
        Arc::new(Tenant {
            id: 0,
            name: "default".to_owned(),
            domain: config.default_domain.clone(),
            limits,
            removed_at: None,
        }),
    );
    Ok(tenants)
}

fn api_keys(engine: &Engine) -> Result<HashMap<[u8; 32], Arc<ApiKey>>, OpenError> {
    let mut keys = HashMap::new();
    for row in engine.prefix(Space::Rows, b"k") {
        let (key, value) = row?;
        let hash = key.get(1..).and_then(|hash| <[u8; 32]>::try_from(hash).ok());
        let key: ApiKey = serde_json::from_slice(&value).map_err(|_| damaged("an API key"))?;
        keys.insert(hash.ok_or_else(|| damaged("the hash of an API key"))?, Arc::new(key));
    }
    Ok(keys)
}
