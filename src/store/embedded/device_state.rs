//! What the writer keeps in RAM of devices that are busy or connected. Nothing here is the truth: it is read back at need.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use super::{
    draft::Draft,
    engine::Space,
    keys::{self, Place},
    known_keys::KnownKeys,
    record::decode_event,
    rows::{DeviceHead, Numbers},
};
use crate::{
    domain::{Queue, Seq, Timestamp, Urgency},
    store::{DeviceKey, Seat, StoreError, codec::damaged, codes::urgency_code},
};

/// A seat that is held, shared with those who only look.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) seat: Seat,
    /// Events that wait, or [`UNKNOWN`].
    pub(super) waiting: AtomicU32,
    /// Last number of the lane of TTL 0, kept when the rest of the state is read back.
    pub(super) now_seq: AtomicU64,
    pub(super) last_seen_at: Option<Timestamp>,
}

/// Nobody has counted since a commit failed.
pub(super) const UNKNOWN: u32 = u32::MAX;

impl Held {
    /// How many events wait, if that is known.
    pub(super) fn waiting(&self) -> Option<u32> {
        Some(self.waiting.load(Ordering::Relaxed)).filter(|waiting| *waiting != UNKNOWN)
    }
}

/// The seats that are held. Gone after a restart, as are the sessions.
pub(super) type Seats = HashMap<DeviceKey, Arc<Held>>;

/// Where the waiting event of each collapse key is.
type Replaceable = HashMap<Arc<str>, (Queue, u64)>;

/// One device.
pub(super) struct DeviceState {
    pub(super) ordinal: u32,
    pub(super) bucket: u16,
    pub(super) credential_generation: u32,
    pub(super) numbers: Numbers,
    pub(super) now_seq: u64,
    pub(super) events: u32,
    pub(super) bytes: u64,
    /// Events that wait for the next session, at most.
    pub(super) at_next_session: u32,
    /// Which waiting event has a collapse key. At most one each.
    collapse: Option<Box<Replaceable>>,
    pub(super) known_keys: KnownKeys,
    pub(super) held: Option<Arc<Held>>,
    /// The round in which it was last used.
    pub(super) used: u64,
}

impl DeviceState {
    /// Reads a device back, as the draft leaves it.
    ///
    /// # Errors
    /// `UnknownDevice`, `RemovedDevice`, `Corrupt`, `Unavailable`.
    pub(super) fn load(draft: &Draft<'_>, device: &DeviceKey, held: Option<Arc<Held>>) -> Result<Self, StoreError> {
        let row = draft.get(Space::Rows, &keys::device(device))?.ok_or(StoreError::UnknownDevice)?;
        let head = DeviceHead::decode(&row)?;
        if head.removed {
            return Err(StoreError::RemovedDevice);
        }
        let numbers = match draft.get(Space::Rows, &keys::numbers(device.tenant, head.ordinal))? {
            Some(row) => Numbers::decode(&row)?,
            None => Numbers::default(),
        };
        let mut state = Self {
            ordinal: head.ordinal,
            bucket: device.bucket(),
            credential_generation: head.credential_generation,
            numbers,
            now_seq: 0,
            events: 0,
            bytes: 0,
            at_next_session: 0,
            collapse: None,
            known_keys: KnownKeys::default(),
            held: None,
            used: 0,
        };
        for (key, value) in draft.prefix(Space::Events, &keys::device_prefix(device.tenant, head.ordinal))? {
            let place = Place::read(&key).ok_or_else(|| damaged("the key of an event"))?;
            let (facts, json) = decode_event(&value)?;
            state.events += 1;
            state.bytes += json.len() as u64;
            state.at_next_session += u32::from(facts.at_next_session);
            if let Some(key) = facts.collapse_key {
                state.remember(Arc::from(key), place.queue, place.number);
            }
        }
        if let Some(held) = held {
            state.now_seq = held.now_seq.load(Ordering::Relaxed);
            state.held = Some(held);
            state.tell();
        }
        Ok(state)
    }

    pub(super) fn replaceable(&self, key: &str) -> Option<(Queue, u64)> {
        self.collapse.as_ref()?.get(key).copied()
    }

    pub(super) fn remember(&mut self, key: Arc<str>, queue: Queue, number: u64) {
        self.collapse.get_or_insert_default().insert(key, (queue, number));
    }

    /// The next number of the device, and of the lane of that urgency: where an event goes that is written now.
    pub(super) fn next(&mut self, urgency: Urgency) -> Result<(u64, Seq), StoreError> {
        let number = self.next_number();
        let lane = usize::from(urgency_code(urgency));
        let seq = self.numbers.seqs.get_mut(lane).ok_or_else(|| damaged("a lane"))?;
        *seq += 1;
        Ok((number, Seq(*seq)))
    }

    /// The next number of the device alone, for an event that has no number in its lane yet.
    pub(super) fn next_number(&mut self) -> u64 {
        self.numbers.number += 1;
        self.numbers.number
    }

    /// Takes an event out of the counts.
    pub(super) fn ended(&mut self, place: Place, bytes: u64, collapse_key: Option<&str>) {
        self.events = self.events.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        if let (Some(key), Some(map)) = (collapse_key, self.collapse.as_mut())
            && map.get(key) == Some(&(place.queue, place.number))
        {
            map.remove(key);
            if map.is_empty() {
                self.collapse = None;
            }
        }
        self.tell();
    }

    /// Tells those who look how many wait.
    pub(super) fn tell(&self) {
        if let Some(held) = &self.held {
            held.waiting.store(self.events, Ordering::Relaxed);
        }
    }
}

/// The states in RAM, at most a number of idle ones.
pub(super) struct DeviceStates {
    known: HashMap<DeviceKey, DeviceState>,
    idle_max: usize,
    round: u64,
}

impl DeviceStates {
    pub(super) fn new(idle_max: usize) -> Self {
        Self {
            known: HashMap::new(),
            idle_max,
            round: 0,
        }
    }

    /// The state of a device, read back if need be. `seats` has the seats that are held.
    pub(super) fn load(
        &mut self,
        draft: &Draft<'_>,
        device: &DeviceKey,
        seats: &parking_lot::RwLock<Seats>,
    ) -> Result<&mut DeviceState, StoreError> {
        let round = self.round;
        // Looked up twice when it is there: the borrow of a hit must not outlive the miss.
        if !self.known.contains_key(device) {
            let state = DeviceState::load(draft, device, seats.read().get(device).cloned())?;
            self.known.insert(device.clone(), state);
        }
        let state = self.known.get_mut(device).ok_or(StoreError::UnknownDevice)?;
        state.used = round;
        Ok(state)
    }

    /// The state of a device if it is in RAM.
    pub(super) fn get_mut(&mut self, device: &DeviceKey) -> Option<&mut DeviceState> {
        self.known.get_mut(device)
    }

    pub(super) fn forget(&mut self, device: &DeviceKey) {
        self.known.remove(device);
    }

    /// Forgets everything, after a commit that may not hold.
    pub(super) fn clear(&mut self) {
        self.known.clear();
    }

    /// Ends a round: when too many idle devices are in RAM, those unused for longest go.
    pub(super) fn end_round(&mut self, held: usize) {
        self.round += 1;
        let idle = self.known.len().saturating_sub(held);
        if idle <= self.idle_max {
            return;
        }
        let mut uses: Vec<u64> = self
            .known
            .values()
            .filter(|state| state.held.is_none())
            .map(|state| state.used)
            .collect();
        let excess = uses.len().saturating_sub(self.idle_max - self.idle_max / 4);
        if excess == 0 {
            return;
        }
        let (_, limit, _) = uses.select_nth_unstable(excess - 1);
        let limit = *limit;
        self.known.retain(|_, state| state.held.is_some() || state.used > limit);
    }
}
