//! The table of sessions: one for each device, connected or waiting to be resumed.
//!
//! A device has one seat, so its key finds its session; an SM-ID is compared with that session's. Entries carry the epoch of
//! the seat: a newer one replaces an older one, never the other way round, and everybody takes out only what he put in.

use std::{
    collections::{HashMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};

use super::{connection::Connection, link::Link, session::Hibernated};
use crate::{
    domain::{Epoch, SessionId},
    store::DeviceKey,
};

const SHARDS: usize = 64;
/// Handled counts of ended sessions that are remembered, and for how long: it saves a late device from sending again.
const REMEMBERED: usize = 16_384;
const REMEMBERED_FOR: Duration = Duration::from_secs(3600);
/// Devices whose changes of seat are watched at once.
const WATCHED: usize = 16_384;
const MINUTE: Duration = Duration::from_secs(60);
/// Seats that are remembered as lost at once; beyond them the comparison with the store finds their sessions.
const LOST: usize = 16_384;
/// Looking through all of them is dear when a million devices come back.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// A session in the table.
#[derive(Clone)]
pub(super) enum Entry {
    /// With a connection.
    Live(Arc<Connection>),
    /// Waiting to be resumed.
    Away(Arc<Hibernated>),
}

impl Entry {
    /// The dispatcher's view of it.
    pub(super) fn link(self) -> Arc<dyn Link> {
        match self {
            Self::Live(connection) => connection,
            Self::Away(hibernated) => hibernated,
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Live(one), Self::Live(other)) => Arc::ptr_eq(one, other),
            (Self::Away(one), Self::Away(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

type Shard = RwLock<HashMap<DeviceKey, (Epoch, Entry)>>;

/// All sessions of this node.
pub(super) struct Table {
    hasher: RandomState,
    shards: Box<[Shard]>,
    ended: Mutex<Ended>,
    changes: Mutex<Changes>,
    lost: Mutex<Lost>,
}

/// How many times seats changed hands, each since when.
#[derive(Default)]
struct Changes {
    counts: HashMap<DeviceKey, (Instant, u32)>,
    swept_at: Option<Instant>,
}

/// Seats that others claimed, up to which epoch, and since when that is known: a node may hear of it before its own claim is answered.
#[derive(Default)]
struct Lost {
    epochs: HashMap<DeviceKey, (Epoch, Instant)>,
    swept_at: Option<Instant>,
}

#[derive(Default)]
struct Ended {
    counts: HashMap<SessionId, (DeviceKey, u32, Instant)>,
    order: VecDeque<SessionId>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            ended: Mutex::default(),
            changes: Mutex::default(),
            lost: Mutex::default(),
        }
    }

    fn shard(&self, key: &DeviceKey) -> Option<&Shard> {
        let hash = self.hasher.hash_one(key);
        // The upper half: the maps use the lower bits.
        self.shards.get(usize::try_from(hash >> 32).unwrap_or_default() % SHARDS)
    }

    /// The session of a device.
    pub(super) fn get(&self, key: &DeviceKey) -> Option<Entry> {
        self.shard(key)?.read().get(key).map(|(_, entry)| entry.clone())
    }

    /// Seats a session; answers the one that it displaced. `Err`: a newer one is seated, here or elsewhere.
    pub(super) fn seat(&self, key: &DeviceKey, epoch: Epoch, entry: Entry) -> Result<Option<Entry>, ()> {
        let mut shard = self.shard(key).ok_or(())?.write();
        if self.lost.lock().epochs.get(key).is_some_and(|(lost, _)| *lost >= epoch) {
            return Err(());
        }
        match shard.get_mut(key) {
            Some((seated, _)) if *seated > epoch => Err(()),
            Some(place) => Ok(Some(std::mem::replace(place, (epoch, entry)).1)),
            None => {
                shard.insert(key.clone(), (epoch, entry));
                Ok(None)
            }
        }
    }

    /// The seat was claimed elsewhere, or its device is gone: the session of that epoch or an older one, if it is here. One that is
    /// still on its way into the table is not let in.
    pub(super) fn lose(&self, key: &DeviceKey, epoch: Epoch, now: Instant) -> Option<Entry> {
        // Held until it is noted: nobody is seated in between.
        let shard = self.shard(key)?.write();
        let here = shard.get(key);
        if here.is_none_or(|(seated, _)| *seated < epoch) {
            let mut lost = self.lost.lock();
            let swept = lost.swept_at.is_some_and(|at| now.duration_since(at) < SWEEP_EVERY);
            if lost.epochs.len() >= LOST && !swept {
                lost.epochs.retain(|_, (_, since)| now.duration_since(*since) < MINUTE);
                lost.swept_at = Some(now);
            }
            if lost.epochs.len() < LOST || lost.epochs.contains_key(key) {
                let noted = lost.epochs.entry(key.clone()).or_insert((epoch, now));
                *noted = (noted.0.max(epoch), now);
            }
        }
        here.filter(|(seated, _)| *seated <= epoch).map(|(_, entry)| entry.clone())
    }

    /// Puts `next` in the place of `present`. False: `present` is not there any more.
    pub(super) fn exchange(&self, key: &DeviceKey, present: &Entry, next: Entry) -> bool {
        let Some(mut shard) = self.shard(key).map(RwLock::write) else {
            return false;
        };
        match shard.get_mut(key) {
            Some((_, entry)) if entry.is(present) => {
                *entry = next;
                true
            }
            _ => false,
        }
    }

    /// Takes `present` out. False: it is not there any more.
    pub(super) fn remove(&self, key: &DeviceKey, present: &Entry) -> bool {
        let Some(mut shard) = self.shard(key).map(RwLock::write) else {
            return false;
        };
        let there = shard.get(key).is_some_and(|(_, entry)| entry.is(present));
        if there {
            shard.remove(key);
            if shard.capacity() > 64 && shard.len() < shard.capacity() / 4 {
                shard.shrink_to_fit();
            }
        }
        there
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    /// All of them. Each shard is locked for a moment.
    pub(super) fn all(&self) -> Vec<(DeviceKey, Entry)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(shard.read().iter().map(|(key, (_, entry))| (key.clone(), entry.clone())));
        }
        all
    }

    /// Remembers what an ended session had handled.
    pub(super) fn remember(&self, key: DeviceKey, id: SessionId, handled: u32, now: Instant) {
        let mut ended = self.ended.lock();
        if ended.counts.insert(id, (key, handled, now)).is_none() {
            ended.order.push_back(id);
        }
        while ended.order.len() > REMEMBERED
            && let Some(oldest) = ended.order.pop_front()
        {
            ended.counts.remove(&oldest);
        }
    }

    /// What an ended session of that device had handled, if that is still known.
    pub(super) fn handled(&self, key: &DeviceKey, id: SessionId, now: Instant) -> Option<u32> {
        let ended = self.ended.lock();
        let (owner, handled, at) = ended.counts.get(&id)?;
        (owner == key && now.duration_since(*at) < REMEMBERED_FOR).then_some(*handled)
    }

    /// Notes that a device's seat changed hands; answers how many times it did in this minute. Beyond [`WATCHED`] devices a
    /// change is not noted.
    pub(super) fn changed(&self, key: &DeviceKey, now: Instant) -> u32 {
        let mut changes = self.changes.lock();
        let swept = changes.swept_at.is_some_and(|at| now.duration_since(at) < SWEEP_EVERY);
        if changes.counts.len() >= WATCHED && !swept {
            changes.counts.retain(|_, (since, _)| now.duration_since(*since) < MINUTE);
            changes.swept_at = Some(now);
        }
        if changes.counts.len() >= WATCHED && !changes.counts.contains_key(key) {
            return 0;
        }
        let (since, count) = changes.counts.entry(key.clone()).or_insert((now, 0));
        if now.duration_since(*since) >= MINUTE {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count
    }

    /// How many times a device's seat changed hands in this minute.
    pub(super) fn changes(&self, key: &DeviceKey, now: Instant) -> u32 {
        let changes = self.changes.lock();
        match changes.counts.get(key) {
            Some((since, count)) if now.duration_since(*since) < MINUTE => *count,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::TenantId;

    fn key(device: &str) -> DeviceKey {
        DeviceKey {
            tenant: TenantId(0),
            device: device.parse().unwrap(),
        }
    }

    #[test]
    fn only_its_own_device_learns_what_a_session_had_handled() {
        let (table, now) = (Table::new(), Instant::now());
        table.remember(key("a"), SessionId(1), 7, now);
        assert_eq!(table.handled(&key("a"), SessionId(1), now), Some(7));
        assert_eq!(table.handled(&key("b"), SessionId(1), now), None);
        assert_eq!(table.handled(&key("a"), SessionId(1), now + REMEMBERED_FOR), None);
        for id in 0..=REMEMBERED as u128 {
            table.remember(key("a"), SessionId(id + 2), 0, now);
        }
        assert_eq!(table.handled(&key("a"), SessionId(1), now), None);
        assert_eq!(table.ended.lock().order.len(), REMEMBERED);
    }

    #[test]
    fn changes_of_seat_count_for_a_minute() {
        let (table, now) = (Table::new(), Instant::now());
        assert_eq!((table.changed(&key("a"), now), table.changed(&key("a"), now)), (1, 2));
        assert_eq!(table.changed(&key("b"), now), 1);
        assert_eq!(table.changes(&key("a"), now + MINUTE), 0);
        assert_eq!(table.changed(&key("a"), now + MINUTE), 1);
    }
}
