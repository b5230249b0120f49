//! The servers as one: a command goes to the primary of its slot, and is led on when that changes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use redis::{Cmd, ServerError, Value};
use tracing::{info, warn};

use super::{
    Config, Durable,
    breaker::Breaker,
    check,
    keys::{BUCKETS, Keys, SLOTS, Slot},
    lane::{self, Failure, Lane, Wait},
    metrics::RedisMetrics,
    replicas::{self, InStep},
    reply, script,
    topology::{self, Primary, TopologyError},
    url::{Layout, Target},
};
use crate::store::StoreError;

/// Pause before a command is tried again; random up to twice as long.
const PAUSE: Duration = Duration::from_millis(25);
/// How often it is asked who the primaries are, at most.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Which lane a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Its result holds only once replicas have it, where that is asked for.
    Durable,
    /// A write that may be lost with its server.
    Quick,
    /// A read.
    Read,
}

/// One command: where it goes, and whether doing it twice comes to the same as once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    pub(super) slot: Slot,
    pub(super) way: Way,
    pub(super) repeatable: bool,
}

impl Route {
    pub(super) fn read(slot: Slot) -> Self {
        Self {
            slot,
            way: Way::Read,
            repeatable: true,
        }
    }

    pub(super) fn quick(slot: Slot) -> Self {
        Self {
            slot,
            way: Way::Quick,
            repeatable: true,
        }
    }

    pub(super) fn durable(slot: Slot) -> Self {
        Self {
            slot,
            way: Way::Durable,
            repeatable: true,
        }
    }
}

/// One primary.
#[derive(Debug)]
struct Shard {
    primary: Primary,
    durable: Lane,
    quick: Lane,
    read: Lane,
    /// Whether it answers.
    serving: Mutex<Breaker>,
    /// Whether what is written there is replicated.
    replicating: Mutex<Breaker>,
    in_step: Mutex<InStep>,
    /// How many replicas its durable lanes wait for.
    wait_for: Arc<AtomicU32>,
}

impl Shard {
    fn lane(&self, way: Way) -> &Lane {
        match way {
            Way::Durable => &self.durable,
            Way::Quick => &self.quick,
            Way::Read => &self.read,
        }
    }

    fn admits(&self, way: Way, now: Instant) -> bool {
        self.serving.lock().admits(now) && (way != Way::Durable || self.replicating.lock().admits(now))
    }
}

/// The shards as they are known now.
#[derive(Debug)]
struct Map {
    shards: Vec<Arc<Shard>>,
    /// Index of the shard of each slot.
    of_slot: Box<[u16]>,
}

impl Map {
    fn new(shards: Vec<Arc<Shard>>) -> Self {
        let mut of_slot = vec![u16::MAX; usize::from(SLOTS)].into_boxed_slice();
        for (index, shard) in shards.iter().enumerate() {
            for &(first, last) in &shard.primary.slots {
                if let Some(places) = of_slot.get_mut(usize::from(first)..=usize::from(last)) {
                    places.fill(u16::try_from(index).unwrap_or(u16::MAX));
                }
            }
        }
        Self { shards, of_slot }
    }

    fn shard(&self, slot: Slot) -> Option<Arc<Shard>> {
        let index = *self.of_slot.get(usize::from(slot.0))?;
        self.shards.get(usize::from(index)).cloned()
    }
}

/// The last look who the primaries are.
#[derive(Debug, Default)]
struct Looked {
    at: Option<Instant>,
    /// Why it found none: told once, not at each of ten looks a second.
    why_not: Option<String>,
}

/// All servers.
pub(super) struct Shards {
    config: Config,
    keys: Keys,
    target: RwLock<Target>,
    map: RwLock<Arc<Map>>,
    looked: tokio::sync::Mutex<Looked>,
    /// Whether durable writes wait for replicas; shared with the lanes. Once they do, they always do.
    replicated: Arc<AtomicBool>,
    floor: Arc<AtomicU64>,
    /// Rises when a primary is another one, or begins a new run.
    pub(super) changes: AtomicU64,
    metrics: RedisMetrics,
}

/// What a command came to, as far as trying again goes.
enum Next {
    Done(Value),
    Again { look: bool, pause: bool },
    Ask(String),
    Fail(StoreError),
}

/// The servers as they were found.
pub(super) struct Found {
    pub(super) target: Target,
    pub(super) primaries: Vec<Primary>,
}

/// Finds the servers that the settings name.
pub(super) async fn find(config: &Config) -> Result<Found, super::OpenError> {
    let mut target = Target::of(config)?;
    target.look_at_files().await?;
    let within = config.answer_within();
    let found = match topology::discover(&target, &[], within).await {
        Err(TopologyError::IsCluster(_)) => {
            target = target.as_cluster();
            topology::discover(&target, &[], within).await
        }
        found => found,
    };
    let primaries = found.map_err(|error| super::OpenError::Unreachable(error.to_string()))?;
    Ok(Found { target, primaries })
}

impl Shards {
    /// Finds the servers, checks that each is fit, and decides what durable means.
    pub(super) async fn open(config: &Config, keys: Keys, metrics: RedisMetrics) -> Result<Self, super::OpenError> {
        let Found { target, primaries } = find(config).await?;
        let replicas = check::all(config, &target, &primaries).await?;
        metrics.replicas(replicas);
        let replicated = config.starts_replicated(replicas)?;
        let shards = Self {
            config: config.clone(),
            keys,
            target: RwLock::new(target),
            map: RwLock::new(Arc::new(Map::new(Vec::new()))),
            looked: tokio::sync::Mutex::default(),
            replicated: Arc::new(AtomicBool::new(replicated)),
            floor: Arc::new(AtomicU64::new(0)),
            changes: AtomicU64::new(0),
            metrics,
        };
        shards.take(primaries);
        Ok(shards)
    }

    /// Whether what is written from now on is on a replica, too, before it counts as written.
    pub(super) fn replicated(&self) -> bool {
        self.replicated.load(Ordering::Acquire)
    }

    /// Looks how many replicas are in step with each primary. Where the settings leave it open, writes wait for them from the first
    /// time that every primary has one; that is never taken back, or a promise would weaken unseen.
    pub(super) async fn look_at_replicas(&self) {
        let map = self.map.read().clone();
        let mut fewest = u32::MAX;
        for shard in &map.shards {
            let mut cmd = redis::cmd("INFO");
            cmd.arg("replication");
            // A server that does not answer has told nothing; the next heartbeat looks again.
            let Some(info) = shard.read.run(cmd, false, self.floor()).await.ok().and_then(reply::bytes) else {
                return;
            };
            let gone_after = self.config.replica_gone();
            let in_step = replicas::in_step(&String::from_utf8_lossy(&info), gone_after);
            let wait_for = shard.in_step.lock().seen(in_step, Instant::now(), gone_after);
            shard.wait_for.store(wait_for, Ordering::Release);
            fewest = fewest.min(in_step);
        }
        if map.shards.is_empty() {
            return;
        }
        self.metrics.replicas(fewest);
        if fewest > 0 && self.config.durability == Durable::Auto && !self.replicated.swap(true, Ordering::AcqRel) {
            info!("every primary of Redis has a replica: events are accepted at level replicated from now on");
        }
    }

    /// Whether one primary has everything.
    pub(super) fn is_one(&self) -> bool {
        self.map.read().shards.len() == 1
    }

    /// From which number on nothing was given out that may be lost.
    pub(super) fn floor(&self) -> u64 {
        self.floor.load(Ordering::Acquire)
    }

    /// Whether every shard takes commands, and whether every one takes durable ones.
    pub(super) fn health(&self) -> (bool, bool) {
        let now = Instant::now();
        let map = self.map.read().clone();
        let serving = !map.shards.is_empty() && map.shards.iter().all(|shard| !shard.serving.lock().is_open(now));
        let replicating = map.shards.iter().all(|shard| !shard.replicating.lock().is_open(now));
        self.metrics.shards(serving, !serving || !replicating, !replicating);
        (serving, replicating)
    }

    /// Runs a command. `make` is given the floor of numbers, and is called again for each try.
    pub(super) async fn ask(&self, route: Route, make: impl Fn(u64) -> Cmd) -> Result<Value, StoreError> {
        let until = Instant::now() + self.config.patience();
        let mut why: Arc<str> = "no primary is known".into();
        let mut ask: Option<String> = None;
        loop {
            let now = Instant::now();
            if let Some(shard) = self.shard(route.slot, ask.take().as_deref()) {
                let (shard, asking) = shard;
                if !shard.admits(route.way, now) {
                    return Err(StoreError::Unavailable(
                        "Redis has failed for a second; it is tried now and then".into(),
                    ));
                }
                let floor = self.floor();
                let lane = shard.lane(route.way);
                let result = lane.run(make(floor), asking, floor).await;
                match self.next(&shard, route, result, &mut why) {
                    Next::Done(value) => return Ok(value),
                    Next::Fail(error) => return Err(error),
                    Next::Ask(address) => {
                        ask = Some(address);
                        continue;
                    }
                    Next::Again { look, pause } => {
                        if look {
                            self.look().await;
                        }
                        if !pause {
                            continue;
                        }
                    }
                }
            } else {
                self.look().await;
            }
            if Instant::now() >= until {
                return Err(StoreError::Unavailable(why));
            }
            tokio::time::sleep(PAUSE.mul_f64(1.0 + jitter())).await;
        }
    }

    fn shard(&self, slot: Slot, asked: Option<&str>) -> Option<(Arc<Shard>, bool)> {
        let map = self.map.read().clone();
        if let Some(address) = asked
            && let Some(shard) = map.shards.iter().find(|shard| shard.primary.address == address)
        {
            return Some((shard.clone(), true));
        }
        map.shard(slot).map(|shard| (shard, false))
    }

    /// Judges a result: the breakers learn of it, and what can be mended by another try is tried again.
    fn next(&self, shard: &Shard, route: Route, result: Result<Value, Failure>, why: &mut Arc<str>) -> Next {
        let now = Instant::now();
        let failed = |what: &Arc<str>| {
            self.metrics.command("timeout");
            if shard.serving.lock().failed(now) {
                warn!(server = %shard.primary.address, "Redis at {} does not answer; requests are refused until it does: {what}", shard.primary.address);
            }
        };
        match result {
            Ok(value) => {
                self.metrics.command("ok");
                if shard.serving.lock().worked(now) {
                    info!(server = %shard.primary.address, "Redis at {} answers again", shard.primary.address);
                    self.changes.fetch_add(1, Ordering::Relaxed);
                }
                if route.way == Way::Durable && shard.replicating.lock().worked(now) {
                    info!(server = %shard.primary.address, "what is written to Redis at {} is replicated again", shard.primary.address);
                }
                Next::Done(value)
            }
            Err(Failure::Stale) => Next::Again { look: false, pause: false },
            Err(Failure::NotReplicated) => {
                self.metrics.command("timeout");
                shard.serving.lock().worked(now);
                if shard.replicating.lock().failed(now) {
                    warn!(server = %shard.primary.address, "not every replica takes what is written to Redis at {}; new events are refused until they do, or are known to be gone", shard.primary.address);
                }
                Next::Fail(StoreError::Unavailable("it was written, and not every replica has it yet".into()))
            }
            Err(Failure::NotSent(what)) => {
                failed(&what);
                *why = what;
                Next::Again { look: true, pause: true }
            }
            Err(Failure::Unknown(what)) => {
                failed(&what);
                if !route.repeatable {
                    return Next::Fail(StoreError::Unavailable(what));
                }
                *why = what;
                Next::Again { look: true, pause: true }
            }
            Err(Failure::Refused(error)) => self.refused(shard, &error, why, now),
        }
    }

    fn refused(&self, shard: &Shard, error: &ServerError, why: &mut Arc<str>, now: Instant) -> Next {
        self.metrics.command("error");
        let text: Arc<str> = error.to_string().into();
        let target = || {
            error
                .details()
                .and_then(|details| details.split_whitespace().nth(1))
                .map(str::to_owned)
        };
        let again = |look| Next::Again { look, pause: true };
        *why = Arc::clone(&text);
        match error.code() {
            "MOVED" => again(true),
            "ASK" => target().map_or_else(|| again(true), Next::Ask),
            "TRYAGAIN" | "BUSY" => again(false),
            // The lane opens a new connection, which brings the scripts along.
            _ if script::is_unknown(error) => again(false),
            "CLUSTERDOWN" | "LOADING" | "READONLY" | "MASTERDOWN" | "UNBLOCKED" => {
                if shard.serving.lock().failed(now) {
                    warn!(server = %shard.primary.address, "Redis at {} refuses work; requests are refused until it takes them: {text}", shard.primary.address);
                }
                again(true)
            }
            "NOREPLICAS" => {
                shard.replicating.lock().failed(now);
                Next::Fail(StoreError::Unavailable(text))
            }
            "OOM" => Next::Fail(StoreError::NoSpace),
            "MISCONF" => {
                warn!(server = %shard.primary.address, "Redis at {} cannot write to its disk: {text}", shard.primary.address);
                Next::Fail(StoreError::NoSpace)
            }
            _ => {
                warn!(server = %shard.primary.address, "Redis at {} refused a command: {text}", shard.primary.address);
                Next::Fail(StoreError::Unavailable(text))
            }
        }
    }

    /// Looks who the primaries are, though no server has refused or failed: one that is none any more goes on answering until it is told.
    pub(super) async fn follow_primaries(&self) {
        if !matches!(self.target.read().layout, Layout::Single(_)) {
            self.look().await;
        }
    }

    /// Looks who the primaries are, unless somebody just did.
    async fn look(&self) {
        let mut looked = self.looked.lock().await;
        if looked.at.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        let known: Vec<String> = self.map.read().shards.iter().map(|shard| shard.primary.address.clone()).collect();
        let target = self.target.read().clone();
        match topology::discover(&target, &known, self.config.answer_within()).await {
            Ok(primaries) => {
                self.take(primaries);
                looked.why_not = None;
            }
            Err(error) => {
                let why = error.to_string();
                if looked.why_not.as_ref() != Some(&why) {
                    warn!("who the primaries of Redis are is not known: {why}");
                    looked.why_not = Some(why);
                }
            }
        }
        looked.at = Some(Instant::now());
    }

    /// Takes the primaries as they are now; those that stay keep their connections.
    fn take(&self, primaries: Vec<Primary>) {
        let mut map = self.map.write();
        let same = primaries.len() == map.shards.len() && primaries.iter().zip(&map.shards).all(|(new, old)| *new == old.primary);
        if same {
            return;
        }
        let shards = primaries
            .into_iter()
            .map(|primary| {
                let stays = map.shards.iter().find(|shard| shard.primary == primary);
                stays.cloned().unwrap_or_else(|| Arc::new(self.connect(primary)))
            })
            .collect();
        *map = Arc::new(Map::new(shards));
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// How to connect to the primary of a slot for listening. `None`: it is not known.
    pub(super) fn reader_of(&self, slot: Slot) -> Option<lane::Settings> {
        let (shard, _) = self.shard(slot, None)?;
        let server = self.target.read().server(&shard.primary.address);
        Some(lane::Settings::single(server, &self.config))
    }

    fn connect(&self, primary: Primary) -> Shard {
        let serves = |slot: Slot| primary.slots.iter().any(|&(first, last)| (first..=last).contains(&slot.0));
        let bucket = (0..BUCKETS).find(|bucket| serves(Slot::of_bucket(*bucket)));
        let wait_for = Arc::new(AtomicU32::new(1));
        let settings = |wait: bool| lane::Settings {
            server: self.target.read().server(&primary.address),
            connect_within: self.config.answer_within(),
            answer_within: self.config.answer_within(),
            wait: wait.then(|| Wait {
                replicated: Arc::clone(&self.replicated),
                replicas: Arc::clone(&wait_for),
                within: self.config.wait(),
            }),
            floor_key: bucket.map(|bucket| self.keys.bucket('v', bucket)),
            waiting_max: self.config.commands_max,
        };
        let start = |wait| Lane::start(settings(wait), self.floor.clone(), self.metrics.clone());
        Shard {
            durable: start(true),
            quick: start(false),
            read: start(false),
            primary,
            serving: Mutex::default(),
            replicating: Mutex::default(),
            in_step: Mutex::default(),
            wait_for,
        }
    }
}

/// A number below 1 that differs between callers.
fn jitter() -> f64 {
    let mut byte = [0];
    match aws_lc_rs::rand::fill(&mut byte) {
        Ok(()) => f64::from(byte[0]) / 256.0,
        Err(_) => 0.5,
    }
}
