//! Devices that poll: what is remembered of each, within a bound.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use super::stretch::Stretch;
use crate::domain::{PollResult, Timestamp};

const SHARDS: usize = 64;

/// A device that did not poll for so long is forgotten. It also bounds how long one poll keeps a session from earning: to
/// twice this.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(86_400);

/// Polls of a device whose bytes are still to come; older ones are given up.
const AWAITED_MAX: usize = 4;

/// What is remembered of a device that polls.
#[derive(Debug)]
pub struct Tracked {
    /// Its last poll.
    pub last: Timestamp,
    /// Its last poll that did not wait for events.
    pub last_plain: Option<Timestamp>,
    /// Until when its session earns nothing.
    pub held_until: Timestamp,
    /// Only of cohort control.
    pub control: Option<Box<Watch>>,
}

/// What is remembered of a device of cohort control.
#[derive(Debug, Default)]
pub struct Watch {
    /// The stretch that it is in.
    pub stretch: Option<Stretch>,
    /// In which part of the day it was noted as seen.
    pub noted: u64,
    awaited: [Option<Awaited>; AWAITED_MAX],
}

/// A poll whose bytes are still to come.
#[derive(Clone, Copy, Debug)]
struct Awaited {
    result: PollResult,
    /// The polls predicted for the time before it, in millionths. `None`: it is on neither side.
    predicted: Option<u64>,
}

impl Watch {
    /// A poll was answered; its bytes follow.
    pub fn await_bytes(&mut self, result: PollResult, predicted: Option<u64>) {
        let place = self.awaited.iter().position(Option::is_none).unwrap_or_else(|| {
            self.awaited.rotate_left(1);
            AWAITED_MAX - 1
        });
        if let Some(place) = self.awaited.get_mut(place) {
            *place = Some(Awaited { result, predicted });
        }
    }

    /// The bytes of a poll answered so have come: what was predicted for it, if it counts.
    pub fn bytes_came(&mut self, result: PollResult) -> Option<u64> {
        let at = self
            .awaited
            .iter()
            .position(|awaited| awaited.is_some_and(|awaited| awaited.result == result))?;
        let awaited = self.awaited.get_mut(at)?.take()?;
        if let Some(behind) = self.awaited.get_mut(at..) {
            behind.rotate_left(1);
        }
        awaited.predicted
    }
}

/// All devices that poll.
#[derive(Debug)]
pub struct Tracker {
    shards: Box<[Mutex<HashMap<u64, Tracked, BuildHasherDefault<AsItIs>>>]>,
    most: usize,
    count: AtomicUsize,
    controls: AtomicUsize,
    is_full: AtomicBool,
    sweeping: AtomicUsize,
    /// Devices of cohort control that were seen since the last flush.
    seen: Mutex<HashSet<u64, BuildHasherDefault<AsItIs>>>,
}

impl Tracker {
    /// Remembers at most `most` devices.
    pub fn new(most: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            most,
            count: AtomicUsize::new(0),
            controls: AtomicUsize::new(0),
            is_full: AtomicBool::new(false),
            sweeping: AtomicUsize::new(0),
            seen: Mutex::default(),
        }
    }

    /// How many devices are remembered.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Works on what is remembered of the device, which polled for the first time if nothing is. `None`: too many poll.
    pub fn with<T>(&self, device: u64, now: Timestamp, work: impl FnOnce(&mut Tracked) -> T) -> Option<T> {
        let mut shard = self.shard(device)?.lock();
        if !shard.contains_key(&device) {
            let counted = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < self.most).then_some(count + 1)
            });
            if counted.is_err() {
                if !self.is_full.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "more than {} devices poll; those beyond are counted, but their sessions earn and they take no part in the calibration ([ledger] polling_devices_max)",
                        self.most
                    );
                }
                return None;
            }
        }
        let tracked = shard.entry(device).or_insert(Tracked {
            last: now,
            last_plain: None,
            held_until: now,
            control: None,
        });
        let had = tracked.control.is_some();
        let done = work(tracked);
        match (had, tracked.control.is_some()) {
            (false, true) => drop(self.controls.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.controls.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        Some(done)
    }

    /// Works on what is remembered of the device, if anything is.
    pub fn known<T>(&self, device: u64, work: impl FnOnce(&mut Tracked) -> T) -> Option<T> {
        if self.count() == 0 {
            return None;
        }
        self.shard(device)?.lock().get_mut(&device).map(work)
    }

    /// Notes a device of cohort control as seen, if it is in the sample.
    pub fn note(&self, device: u64) {
        if device >> 24 <= u64::MAX >> 24 >> self.sampling() {
            self.seen.lock().insert(device);
        }
    }

    /// Of how many devices of cohort control one is in the sample that is counted by name: a power of two, of which this is
    /// the exponent. 0 up to 2,048 devices.
    pub fn sampling(&self) -> u32 {
        let controls = self.controls.load(Ordering::Relaxed);
        controls.div_ceil(2_048).max(1).next_power_of_two().trailing_zeros()
    }

    /// Takes the devices that were seen since the last time.
    pub fn take_seen(&self) -> impl Iterator<Item = u64> + use<> {
        std::mem::take(&mut *self.seen.lock()).into_iter()
    }

    /// Forgets devices that have not polled for long, a few shards at a time.
    pub fn sweep(&self, now: Timestamp) {
        for _ in 0..4 {
            let at = self.sweeping.fetch_add(1, Ordering::Relaxed) % SHARDS;
            let Some(shard) = self.shards.get(at) else { continue };
            let (mut gone, mut controls) = (0, 0);
            shard.lock().retain(|_, tracked| {
                let stays = now < tracked.held_until || now.since(tracked.last) < FORGOTTEN_AFTER;
                gone += usize::from(!stays);
                controls += usize::from(!stays && tracked.control.is_some());
                stays
            });
            self.count.fetch_sub(gone, Ordering::Relaxed);
            self.controls.fetch_sub(controls, Ordering::Relaxed);
        }
        if self.count() < self.most {
            self.is_full.store(false, Ordering::Relaxed);
        }
    }

    fn shard(&self, device: u64) -> Option<&Mutex<HashMap<u64, Tracked, BuildHasherDefault<AsItIs>>>> {
        self.shards.get((device >> 16) as usize % SHARDS)
    }
}

/// Until when a poll at `at` keeps the device's session from earning: twice its interval, or twice the time since the poll
/// before, whichever is longer.
pub fn held_until(at: Timestamp, before: Option<Timestamp>, interval_secs: u32) -> Timestamp {
    let since = before.map_or(Duration::ZERO, |before| at.since(before)).min(FORGOTTEN_AFTER);
    at.plus(2 * since.max(Duration::from_secs(interval_secs.into())))
}

/// The keys are hashes already.
#[derive(Debug, Default)]
pub struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
