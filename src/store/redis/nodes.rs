//! The nodes: each has a number that no other has, and says every few seconds that it lives.
//!
//! A seat names its node and the incarnation of it, so that a device is not asked about one by one: when a node is dead, so are
//! its seats.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use redis::Cmd;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Config, Door, OpenError, RedisMetrics, Shared,
    keys::{Keys, SHARED, Slot},
    loss::{Loss, read_losses},
    reply::{self, Reply, u48},
    script,
    shards::{Route, Shards},
};
use crate::{
    domain::Timestamp,
    store::{Peer, StoreError, codec::damaged},
};

/// One node, as it said last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    incarnation: u32,
    expires_at: u64,
    fingerprint: Option<[u8; 32]>,
    address: String,
}

/// This node.
#[derive(Debug, Clone)]
struct Me {
    number: u16,
    incarnation: u32,
    name: Arc<str>,
}

/// The table of nodes.
pub(super) struct Nodes {
    me: RwLock<Me>,
    /// Until when the others count this node as live.
    lives_until: RwLock<Instant>,
    table: RwLock<BTreeMap<u16, Member>>,
    /// Time of Redis at the last beat, and when that was here.
    time: RwLock<(u64, Instant)>,
    version: RwLock<Vec<u8>>,
    peers: watch::Sender<Arc<[Peer]>>,
    /// Incarnations that a seat named and that were asked about.
    judged: Mutex<HashMap<u16, u32>>,
    asking: tokio::sync::Mutex<()>,
    /// Nodes that were counted as lost, as of the last look.
    losses: RwLock<Vec<Loss>>,
    /// Lives of nodes that seem to be over, and since when they do here.
    silent: Mutex<HashMap<(u16, u32), Instant>>,
    /// Since when this node has said without a break that it lives.
    live_since: RwLock<Instant>,
    /// The name was given to another node.
    pub(super) lost: CancellationToken,
    /// What it says of itself.
    card: Vec<u8>,
    lives_for: Duration,
    name_kept: Duration,
    every: Duration,
    metrics: RedisMetrics,
}

/// What a beat answers.
struct Beat {
    time: u64,
    number: String,
    incarnation: [u8; 4],
    version: Vec<u8>,
    table: BTreeMap<u16, Member>,
    losses: Vec<Loss>,
}

fn route() -> Route {
    Route::quick(Slot::of(SHARED))
}

/// What a node says of itself: whether it can be reached, its certificate, its address; or else some random bytes, by which it knows its own
/// row again.
fn card(door: Option<&Door>) -> Result<Vec<u8>, OpenError> {
    match door {
        Some(door) => Ok([&[1], &door.fingerprint[..], door.address.as_bytes()].concat()),
        None => {
            let mut random = [0; 16];
            aws_lc_rs::rand::fill(&mut random).map_err(|_| OpenError::Random)?;
            Ok([&[0], &random[..]].concat())
        }
    }
}

fn read_member(row: &[u8]) -> Option<Member> {
    let (card, fingerprint) = (row.get(10..)?, row.get(11..43));
    let (fingerprint, address) = match card.first()? {
        1 => (fingerprint?.try_into().ok(), std::str::from_utf8(row.get(43..)?).ok()?.to_owned()),
        _ => (None, String::new()),
    };
    Some(Member {
        expires_at: u48(row)?,
        incarnation: u32::from_be_bytes(row.get(6..10)?.try_into().ok()?),
        fingerprint,
        address,
    })
}

fn read_beat(value: redis::Value) -> Result<Beat, StoreError> {
    let mut reply = Reply::new(value, "the table of nodes")?;
    let time = reply.count()?;
    let number = reply.text()?;
    let incarnation = reply.array()?;
    let version = reply.bytes()?;
    let mut table = BTreeMap::new();
    for (number, row) in reply::hash(reply.next()?, "the table of nodes")? {
        let number = std::str::from_utf8(&number).ok().and_then(|text| text.parse().ok());
        let (number, member) = number.zip(read_member(&row)).ok_or_else(|| damaged("a node"))?;
        table.insert(number, member);
    }
    let losses = read_losses(reply.next()?)?;
    Ok(Beat {
        losses,
        time,
        number,
        incarnation,
        version,
        table,
    })
}

impl Nodes {
    pub(super) async fn join(
        shards: &Shards,
        keys: &Keys,
        config: &Config,
        door: Option<Door>,
        metrics: RedisMetrics,
    ) -> Result<Self, OpenError> {
        let (peers, _) = watch::channel(Arc::from([]));
        let nodes = Self {
            me: RwLock::new(Me {
                number: 0,
                incarnation: 0,
                name: Arc::from(""),
            }),
            lives_until: RwLock::new(Instant::now()),
            table: RwLock::default(),
            time: RwLock::new((0, Instant::now())),
            version: RwLock::default(),
            peers,
            judged: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            losses: RwLock::default(),
            silent: Mutex::default(),
            live_since: RwLock::new(Instant::now()),
            lost: CancellationToken::new(),
            every: config.heartbeat(),
            card: card(door.as_ref())?,
            lives_for: Duration::from_secs(config.node_lost_secs.max(1)),
            name_kept: Duration::from_secs(config.name_kept_secs),
            metrics,
        };
        nodes.enter(shards, keys).await?;
        Ok(nodes)
    }

    /// Takes a number that is free.
    async fn enter(&self, shards: &Shards, keys: &Keys) -> Result<(), StoreError> {
        let sent = Instant::now();
        let beat = read_beat(shards.ask(route(), |_| self.command(keys, "join", "", &[0; 4], false)).await?)?;
        let number = beat.number.parse().map_err(|_| damaged("the number of a node"))?;
        *self.me.write() = Me {
            number,
            incarnation: u32::from_be_bytes(beat.incarnation),
            name: Arc::from(format!("n{number}")),
        };
        *self.version.write() = beat.version.clone();
        self.take(beat, sent);
        Ok(())
    }

    fn command(&self, keys: &Keys, verb: &str, number: &str, incarnation: &[u8], has_seats: bool) -> Cmd {
        let mut cmd = script::NODE.call(&[
            keys.shared("nodes"),
            keys.shared("incarnations"),
            keys.shared("version"),
            keys.shared("losses"),
        ]);
        cmd.arg(verb)
            .arg(number)
            .arg(incarnation)
            .arg(milliseconds(self.lives_for))
            .arg(&self.card)
            .arg(milliseconds(self.lives_for + self.name_kept))
            .arg(u8::from(has_seats));
        cmd
    }

    /// Takes the table as Redis has it.
    fn take(&self, beat: Beat, sent: Instant) {
        let me = self.me.read().clone();
        let live = |member: &Member| member.expires_at > beat.time;
        let before = self.time.read().0;
        let lost = {
            let table = self.table.read();
            let was_live = |number: &u16| table.get(number).is_some_and(|old| before > 0 && old.expires_at > before);
            let mut lost = 0;
            for (number, _) in beat.table.iter().filter(|(number, member)| !live(member) && was_live(number)) {
                warn!(
                    "node n{number} is lost: it has not said for {} s that it lives",
                    self.lives_for.as_secs()
                );
                lost += 1;
            }
            lost
        };
        {
            let mut lives_until = self.lives_until.write();
            if *lives_until < sent {
                *self.live_since.write() = Instant::now();
            }
            *lives_until = sent + self.lives_for;
        }
        {
            let silent_now: Vec<(u16, u32)> = beat
                .table
                .iter()
                .filter(|(number, member)| **number != me.number && !live(member))
                .map(|(number, member)| (*number, member.incarnation))
                .collect();
            let mut silent = self.silent.lock();
            silent.retain(|life, _| silent_now.contains(life));
            for life in silent_now {
                silent.entry(life).or_insert_with(Instant::now);
            }
        }
        self.know_losses(beat.losses);
        *self.time.write() = (beat.time, sent);
        let peers: Arc<[Peer]> = beat
            .table
            .iter()
            .filter(|(number, member)| **number != me.number && live(member))
            .filter_map(|(number, member)| {
                Some(Peer {
                    node: Arc::from(format!("n{number}")),
                    incarnation: member.incarnation,
                    address: member.address.parse().ok()?,
                    fingerprint: member.fingerprint?,
                })
            })
            .collect();
        self.metrics.nodes(beat.table.values().filter(|member| live(member)).count(), lost);
        *self.table.write() = beat.table;
        self.peers.send_if_modified(|now| {
            let changed = **now != *peers;
            if changed {
                *now = peers;
            }
            changed
        });
    }

    /// Takes the table of losses as Redis has it.
    pub(super) fn know_losses(&self, losses: Vec<Loss>) {
        *self.losses.write() = losses;
    }

    /// Whether seats of lost nodes are still to be ended.
    pub(super) fn has_open_losses(&self) -> bool {
        self.losses.read().iter().any(|loss| loss.done.is_some())
    }

    /// Lives that are to be counted as lost. Only a node that has said all that time that it lives says so of another: when Redis was
    /// away, nobody was heard. And two heartbeats must have been missing here, too: a server that became primary may have another clock.
    pub(super) fn seem_lost(&self) -> Vec<(u16, u32)> {
        if self.live_since.read().elapsed() < self.lives_for || !self.may_claim() {
            return Vec::new();
        }
        let losses = self.losses.read();
        let known = |life: &(u16, u32)| losses.iter().any(|loss| (loss.number, loss.incarnation) == *life);
        let silent = self.silent.lock();
        let long = silent.iter().filter(|(_, since)| since.elapsed() >= self.every * 2);
        long.map(|(life, _)| *life).filter(|life| !known(life)).collect()
    }

    /// The name of this node.
    pub(super) fn name(&self) -> Arc<str> {
        self.me.read().name.clone()
    }

    /// Number and incarnation of this node.
    pub(super) fn me(&self) -> (u16, u32) {
        let me = self.me.read();
        (me.number, me.incarnation)
    }

    /// The other nodes that live and can be reached.
    pub(super) fn peers(&self) -> watch::Receiver<Arc<[Peer]>> {
        self.peers.subscribe()
    }

    /// Whether the others count this node as live: one that they do not must not claim seats.
    pub(super) fn may_claim(&self) -> bool {
        Instant::now() < *self.lives_until.read()
    }

    /// How many other nodes live.
    pub(super) fn others(&self) -> usize {
        let (me, now) = (self.me().0, self.now());
        let table = self.table.read();
        table
            .iter()
            .filter(|(number, member)| **number != me && member.expires_at > now)
            .count()
    }

    /// The time of Redis, as far as it is known here.
    pub(super) fn now(&self) -> u64 {
        let (time, at) = *self.time.read();
        time.saturating_add(milliseconds(at.elapsed()))
    }

    /// Whether that incarnation of a node lives.
    pub(super) fn holds(&self, number: u16, incarnation: u32) -> bool {
        let (me, my_incarnation) = self.me();
        if number == me {
            return incarnation == my_incarnation;
        }
        let now = self.now();
        let table = self.table.read();
        table
            .get(&number)
            .is_some_and(|member| member.incarnation == incarnation && member.expires_at > now)
    }

    /// Whether that incarnation is newer than all that is known of its number.
    fn is_news(&self, number: u16, incarnation: u32) -> bool {
        number != self.me().0
            && self.table.read().get(&number).is_none_or(|member| member.incarnation < incarnation)
            && self.judged.lock().get(&number).is_none_or(|judged| *judged < incarnation)
    }

    /// It was asked about.
    fn judged(&self, number: u16, incarnation: u32) {
        self.judged.lock().insert(number, incarnation);
    }

    /// Whether a node of that name lives.
    pub(super) fn is_live(&self, name: &str) -> bool {
        let Some(number) = name.strip_prefix('n').and_then(|number| number.parse::<u16>().ok()) else {
            return false;
        };
        let now = self.now();
        number == self.me().0 || self.table.read().get(&number).is_some_and(|member| member.expires_at > now)
    }

    /// Whether this node is the one of those that live that looks after a bucket (or whatever has that number).
    pub(super) fn looks_after(&self, bucket: u16) -> bool {
        let (me, _) = self.me();
        let now = self.now();
        let table = self.table.read();
        let live: Vec<u16> = table
            .iter()
            .filter(|(number, member)| **number == me || member.expires_at > now)
            .map(|(number, _)| *number)
            .collect();
        let mine = live.iter().position(|number| *number == me).unwrap_or(0);
        usize::from(bucket) % live.len().max(1) == mine
    }
}

/// Says again and again that this node lives; learns who else does, and whether keys or tenants were changed.
pub(super) async fn beat(shared: Arc<Shared>) {
    let every = shared.config.heartbeat();
    let mut changes = shared.shards.changes.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(every).await;
        shared.shards.health();
        shared.shards.follow_primaries().await;
        if let Err(error) = shared.say_that_it_lives().await {
            tracing::debug!("the heartbeat was not taken: {error}");
        }
        if shared.nodes.lost.is_cancelled() {
            return;
        }
        shared.shards.look_at_replicas().await;
        let now = shared.shards.changes.load(Ordering::Relaxed);
        if now != changes {
            changes = now;
            // Claims and hints may be lost with a server.
            shared.compare_all();
        }
    }
}

impl Shared {
    pub(super) async fn say_that_it_lives(&self) -> Result<(), StoreError> {
        let sent = Instant::now();
        let (number, incarnation) = self.nodes.me();
        let make = |_| {
            self.nodes
                .command(&self.keys, "beat", &number.to_string(), &incarnation.to_be_bytes(), false)
        };
        let beat = read_beat(self.shards.ask(route(), make).await?)?;
        self.clock_of_redis(beat.time, sent);
        if beat.number.is_empty() {
            error!("the name n{number} was given to another node while this one was cut off; it stops, and its devices connect elsewhere");
            self.nodes.lost.cancel();
            return Ok(());
        }
        let now = u32::from_be_bytes(beat.incarnation);
        let version = beat.version.clone();
        let was_lost = !self.nodes.may_claim();
        if now != incarnation {
            self.nodes.me.write().incarnation = now;
            let seats = self.held.renew(number, now);
            warn!("the others counted this node as lost; its {seats} seats are told to Redis again");
            self.missed_arrivals.fetch_add(1, Ordering::Relaxed);
        }
        self.nodes.take(beat, sent);
        if was_lost {
            // Nobody tells a node of new events, or of seats that others claim, while it counts as lost.
            self.compare_all();
        }
        if *self.nodes.version.read() != version {
            self.remember_all().await?;
            *self.nodes.version.write() = version;
        }
        Ok(())
    }

    /// Every seat is told to Redis again, and every session compared with the store.
    fn compare_all(&self) {
        self.held.owe_all();
        self.missed_arrivals.fetch_add(1, Ordering::Relaxed);
    }

    /// Compares the clocks; goes by that of Redis when they differ by too much.
    fn clock_of_redis(&self, time: u64, sent: Instant) {
        let here = i128::from(self.clock.own().0);
        let there = time.saturating_add(milliseconds(sent.elapsed()) / 2);
        let skew = i64::try_from(here - i128::from(there)).unwrap_or(i64::MAX);
        self.metrics.skew(skew);
        let is_wrong = skew.unsigned_abs() > self.config.clock_skew_max_ms;
        self.clock.correct(is_wrong.then_some(Timestamp(there)));
        if self.clock_is_wrong.swap(is_wrong, Ordering::Relaxed) != is_wrong {
            if is_wrong {
                warn!("the clock of this node is {skew} ms before that of Redis; it goes by that one until they agree");
            } else {
                info!("the clock of this node agrees with that of Redis again");
            }
        }
    }

    /// Learns of a node that has joined since the last beat, when a seat names one: else its devices would seem to be nowhere.
    pub(super) async fn know(&self, number: u16, incarnation: u32) {
        if !self.nodes.is_news(number, incarnation) {
            return;
        }
        let _one_asks = self.nodes.asking.lock().await;
        if self.nodes.is_news(number, incarnation) {
            // Without an answer it counts as gone, as it would without this question.
            let _ = self.say_that_it_lives().await;
            self.nodes.judged(number, incarnation);
        }
    }

    /// Gives the name of this node back.
    pub(super) async fn leave(&self) {
        let (number, incarnation) = self.nodes.me();
        // Seats that it could not give up in time are ended by the others.
        let has_seats = self.held.has_any();
        let make = |_| {
            self.nodes
                .command(&self.keys, "leave", &number.to_string(), &incarnation.to_be_bytes(), has_seats)
        };
        match self.shards.ask(route(), make).await {
            Ok(_) => info!("node n{number} has left"),
            Err(error) => warn!("node n{number} could not say goodbye; the others will find it lost: {error}"),
        }
    }
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
