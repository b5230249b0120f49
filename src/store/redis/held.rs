//! The seats that this node's sessions hold, as they claimed them.
//!
//! Redis has the truth of who holds a seat, and may lose the last claims with a server, or be away when a device logs in or leaves.
//! So each node remembers its own, and tells Redis again: a seat that was claimed newer elsewhere stays there.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use redis::Value;
use tokio::sync::Notify;
use tracing::{info, warn};

use super::{
    Shared,
    keys::{self, Slot},
    mover::Log,
    reply::p48,
    script,
    seat::{self, Holder},
    shards::Route,
};
use crate::{
    domain::{Clock as _, Credential, Departure, Epoch, Timestamp},
    store::{Claimed, DeviceChange, DeviceKey, Hint, NewSeat, Registered, StoreError, Unread},
};

/// Seats told at once, and the pause between: 5,000 a second.
const TOGETHER: usize = 50;
const PAUSE: Duration = Duration::from_millis(10);
/// When what could not be told is told again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is held against the row of a device before a seat is told to Redis that it has not heard of.
/// Small, because every seat has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Check {
    /// Nothing: the claim was judged when it was made.
    Nothing,
    /// Its credentials must be of that generation still.
    Generation(u32),
    /// All that a login asks of it.
    Row(Box<Unread>),
}

/// A seat that a session here holds.
#[derive(Debug, Clone)]
struct Seat {
    epoch: Epoch,
    /// As it is stored.
    bytes: Box<[u8]>,
    check: Check,
    /// The number of its device, once the session has read what waits.
    ordinal: Option<u32>,
}

/// What Redis is to be told once it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Debt {
    /// The seat is held.
    Claim,
    /// It was given up.
    Release(Goodbye),
}

/// What is told of a seat that is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Goodbye {
    pub(super) epoch: Epoch,
    pub(super) last_seen_at: Timestamp,
    /// When it was given up.
    pub(super) at: Timestamp,
    pub(super) why: Departure,
}

/// Goodbyes that are told again when a server may have lost them, how many, and for how long.
const GOODBYES: usize = 65_536;
const GOODBYES_FOR: Duration = Duration::from_secs(30);

/// The table of them.
#[derive(Default)]
pub(super) struct Held {
    seats: Mutex<HashMap<DeviceKey, Seat>>,
    debts: Mutex<HashMap<DeviceKey, Debt>>,
    /// Seats that were given up lately.
    goodbyes: Mutex<VecDeque<(Instant, DeviceKey, Goodbye)>>,
    news: Notify,
}

impl Held {
    /// A session took the seat.
    pub(super) fn take(&self, device: &DeviceKey, epoch: Epoch, bytes: Vec<u8>) {
        self.hold(device, epoch, bytes, Check::Nothing);
    }

    fn hold(&self, device: &DeviceKey, epoch: Epoch, bytes: Vec<u8>, check: Check) {
        let bytes = bytes.into_boxed_slice();
        let seat = Seat {
            epoch,
            bytes,
            check,
            ordinal: None,
        };
        self.seats.lock().insert(device.clone(), seat);
    }

    /// Redis took the claim: what it was to be judged by was.
    fn judged(&self, device: &DeviceKey, epoch: Epoch) {
        if let Some(seat) = self.seats.lock().get_mut(device).filter(|seat| seat.epoch == epoch) {
            seat.check = Check::Nothing;
        }
    }

    /// A device whose seat may be here has that number.
    pub(super) fn learn(&self, device: &DeviceKey, ordinal: u32) {
        if let Some(seat) = self.seats.lock().get_mut(device) {
            seat.ordinal = Some(ordinal);
        }
    }

    /// Whether it is known here that a device has that number.
    pub(super) fn knows(&self, device: &DeviceKey, ordinal: u32) -> bool {
        self.seats.lock().get(device).is_some_and(|seat| seat.ordinal == Some(ordinal))
    }

    /// A session gave it up, or lost it: the one of that epoch or an older one.
    pub(super) fn give_up(&self, device: &DeviceKey, epoch: Epoch) {
        let mut seats = self.seats.lock();
        if seats.get(device).is_some_and(|seat| seat.epoch <= epoch) {
            seats.remove(device);
            if seats.capacity() > 64 && seats.len() < seats.capacity() / 4 {
                seats.shrink_to_fit();
            }
        }
    }

    /// Whether Redis has any seat of this node, as far as is known here.
    pub(super) fn has_any(&self) -> bool {
        !self.seats.lock().is_empty() || self.owed() > 0
    }

    /// Whether that session still holds it, as far as is known here.
    fn holds(&self, device: &DeviceKey, epoch: Epoch) -> bool {
        self.seats.lock().get(device).is_some_and(|seat| seat.epoch == epoch)
    }

    /// Whether the device has a seat here that is stored otherwise than that one: it was claimed anew, or its node has another life.
    fn is_another(&self, device: &DeviceKey, told: &Seat) -> bool {
        self.seats.lock().get(device).is_some_and(|seat| seat.bytes != told.bytes)
    }

    /// The node has another life: all seats are its, and are told again. Answers how many there are.
    pub(super) fn renew(&self, number: u16, incarnation: u32) -> usize {
        let seats = {
            let mut seats = self.seats.lock();
            for seat in seats.values_mut() {
                seat::put_node(&mut seat.bytes, number, incarnation);
            }
            seats.len()
        };
        self.owe_all();
        seats
    }

    /// A goodbye was told; a server that fails now may lose it.
    pub(super) fn remember_goodbye(&self, device: &DeviceKey, goodbye: Goodbye) {
        let now = Instant::now();
        let mut goodbyes = self.goodbyes.lock();
        while goodbyes.len() >= GOODBYES || goodbyes.front().is_some_and(|(told, ..)| now.duration_since(*told) >= GOODBYES_FOR) {
            goodbyes.pop_front();
        }
        goodbyes.push_back((now, device.clone(), goodbye));
    }

    /// An epoch for a session that cannot claim now: epochs are the times of claims, each above the last one of its device.
    pub(super) fn provisional(&self, device: &DeviceKey, now: Timestamp) -> Epoch {
        let last = self.seats.lock().get(device).map_or(0, |seat| seat.epoch.0);
        Epoch(now.0.max(last + 1))
    }

    /// What Redis was not told.
    pub(super) fn owe_claim(&self, device: &DeviceKey) {
        self.debts.lock().insert(device.clone(), Debt::Claim);
        self.news.notify_one();
    }

    /// The same of a seat that was given up.
    pub(super) fn owe_release(&self, device: &DeviceKey, goodbye: Goodbye) {
        self.debts.lock().insert(device.clone(), Debt::Release(goodbye));
        self.news.notify_one();
    }

    /// All seats are told again, and what was given up lately: a server may have lost them.
    pub(super) fn owe_all(&self) {
        let goodbyes = std::mem::take(&mut *self.goodbyes.lock());
        let (devices, left) = {
            let seats = self.seats.lock();
            let devices: Vec<DeviceKey> = seats.keys().cloned().collect();
            // Of a device that is back, its newer seat is told.
            let lately = |told: &Instant| told.elapsed() < GOODBYES_FOR;
            let left = goodbyes
                .into_iter()
                .filter(|(told, device, _)| lately(told) && !seats.contains_key(device));
            (devices, left.collect::<Vec<_>>())
        };
        let mut debts = self.debts.lock();
        for (_, device, goodbye) in left {
            debts.entry(device).or_insert(Debt::Release(goodbye));
        }
        for device in devices {
            debts.entry(device).or_insert(Debt::Claim);
        }
        drop(debts);
        self.news.notify_one();
    }

    /// It was told that, and may owe something newer by now.
    fn paid(&self, device: &DeviceKey, debt: Debt) {
        let mut debts = self.debts.lock();
        if debts.get(device) == Some(&debt) {
            debts.remove(device);
        }
    }

    /// How much Redis was not told.
    pub(super) fn owed(&self) -> usize {
        self.debts.lock().len()
    }
}

/// Tells Redis what it was not told, at a bounded rate.
pub(super) async fn settle_debts(shared: Arc<Shared>) {
    loop {
        shared.held.news.notified().await;
        let mut told = 0;
        loop {
            let some: Vec<(DeviceKey, Debt)> = {
                let debts = shared.held.debts.lock();
                debts.iter().take(TOGETHER).map(|(device, debt)| (device.clone(), *debt)).collect()
            };
            shared.metrics.claims_pending(shared.held.owed());
            if some.is_empty() {
                break;
            }
            let mut results = stream::iter(some)
                .map(|(device, debt)| {
                    let shared = Arc::clone(&shared);
                    async move { shared.pay(&device, debt).await }
                })
                .buffer_unordered(TOGETHER);
            let mut failed = false;
            while let Some(result) = results.next().await {
                match result {
                    Ok(()) => told += 1,
                    Err(_) => failed = true,
                }
            }
            tokio::time::sleep(if failed { AGAIN_AFTER } else { PAUSE }).await;
        }
        if told > 0 {
            info!("{told} seats were told to Redis again");
            // What was stored meanwhile for devices whose seat was not known is found by a look at all of them.
            shared.missed_arrivals.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    async fn pay(&self, device: &DeviceKey, debt: Debt) -> Result<(), StoreError> {
        if !self.nodes.may_claim() {
            return Err(StoreError::Unavailable("this node is counted as lost".into()));
        }
        match debt {
            Debt::Claim => {
                let seat = self.held.seats.lock().get(device).cloned();
                if let Some(seat) = seat {
                    self.reclaim(device, &seat).await?;
                    if self.held.is_another(device, &seat) {
                        // What was told is not what is held by now: it is told again.
                        return Ok(());
                    }
                }
            }
            Debt::Release(goodbye) => match self.release_seat(device, goodbye).await {
                Ok(_) | Err(StoreError::UnknownDevice | StoreError::RemovedDevice) => {}
                Err(error) => return Err(error),
            },
        }
        self.held.paid(device, debt);
        Ok(())
    }

    async fn reclaim(&self, device: &DeviceKey, seat: &Seat) -> Result<(), StoreError> {
        let epoch = seat.epoch;
        let generation = match &seat.check {
            Check::Nothing => Vec::new(),
            Check::Generation(generation) => generation.to_be_bytes().to_vec(),
            Check::Row(unread) => match self.judge(device, **unread).await? {
                Some(generation) => generation.to_be_bytes().to_vec(),
                None => {
                    self.turn_out(device, epoch);
                    return Ok(());
                }
            },
        };
        let bucket = device.bucket();
        let keys = [
            self.keys.device('d', device),
            self.keys.device('p', device),
            self.keys.bucket(Log::Feed.outbox(), bucket),
        ];
        let (now, member) = (self.clock.now(), keys::member(device));
        let make = |_| {
            let mut cmd = script::RECLAIM.call(&keys);
            cmd.arg(&p48(epoch.0))
                .arg(&*seat.bytes)
                .arg(&member)
                .arg(&p48(now.0))
                .arg(&generation);
            cmd
        };
        let found = self.shards.ask(Route::quick(Slot::of_bucket(bucket)), make).await?;
        match found {
            Value::Int(0) => self.turn_out(device, epoch),
            Value::Int(1) => {
                self.held.give_up(device, epoch);
                warn!(device.id = %device.device, "{} has connected to another node meanwhile; its session here ends", device.device);
                self.hint(
                    &self.nodes.name(),
                    Hint::Displaced {
                        device: device.clone(),
                        epoch,
                    },
                );
            }
            Value::Int(3) => {
                self.touch_feed(bucket);
                self.held.judged(device, epoch);
            }
            _ => self.held.judged(device, epoch),
        }
        if matches!(found, Value::Int(2 | 3)) && !self.held.holds(device, epoch) {
            // It was given up, or claimed anew, while this was under way; the goodbye may have been there before.
            let goodbye = Goodbye {
                epoch,
                last_seen_at: Timestamp(0),
                at: now,
                why: Departure::Lost,
            };
            return match self.release_seat(device, goodbye).await {
                Ok(_) | Err(StoreError::UnknownDevice | StoreError::RemovedDevice) => Ok(()),
                Err(error) => Err(error),
            };
        }
        Ok(())
    }

    /// Judges the row of a device that was let in without it, as its login would have; adds the device if that may be. Answers the
    /// generation of its credentials. `None`: it is not let in.
    async fn judge(&self, device: &DeviceKey, unread: Unread) -> Result<Option<u32>, StoreError> {
        let judged = match self.registered(device).await {
            Ok(Registered::Present(row)) => {
                let mut pins = row.credentials.iter().filter_map(Credential::certificate).peekable();
                let is_other = |certificate| pins.peek().is_some() && !pins.any(|pin| pin.sha256 == certificate);
                let others = unread.certificate.is_some_and(is_other);
                Ok((!others).then_some(row.credential_generation))
            }
            Ok(Registered::Unknown) if unread.register.is_some() => {
                let change = DeviceChange {
                    cohort: unread.register,
                    ..DeviceChange::default()
                };
                let added = self.put(device, &change, true, self.clock.now()).await;
                added.map(|(row, _)| Some(row.credential_generation))
            }
            Ok(Registered::Removed(_) | Registered::Unknown) => Ok(None),
            Err(error) => Err(error),
        };
        match judged {
            Err(error @ (StoreError::Corrupt(_) | StoreError::Conflict(_))) => {
                warn!(device.id = %device.device, %error, "{} was let in while Redis was away, and is not any more: {error}", device.device);
                Ok(None)
            }
            judged => judged,
        }
    }

    /// Ends the session of a device that may not be here.
    fn turn_out(&self, device: &DeviceKey, epoch: Epoch) {
        self.held.give_up(device, epoch);
        let device = device.clone();
        self.hint(&self.nodes.name(), Hint::Removed { device, epoch });
    }

    /// Seats a session that cannot claim while Redis is away; the claim follows, after that check.
    pub(super) fn seat_unclaimed(&self, device: &DeviceKey, session: &NewSeat, check: Check) -> Claimed {
        let (number, incarnation) = self.nodes.me();
        let epoch = self.held.provisional(device, self.clock.now());
        self.held.hold(device, epoch, Holder::encode(session, number, incarnation), check);
        self.held.owe_claim(device);
        Claimed {
            epoch,
            displaced: None,
            waiting: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::TenantId;

    fn key() -> DeviceKey {
        DeviceKey {
            tenant: TenantId(0),
            device: "box".parse().unwrap(),
        }
    }

    fn goodbye(epoch: u64) -> Goodbye {
        Goodbye {
            epoch: Epoch(epoch),
            last_seen_at: Timestamp(1),
            at: Timestamp(2),
            why: Departure::Lost,
        }
    }

    #[test]
    fn what_was_told_leaves_what_is_owed_since() {
        let (held, device) = (Held::default(), key());
        held.owe_claim(&device);
        held.owe_release(&device, goodbye(7));
        held.paid(&device, Debt::Claim);
        assert_eq!(held.owed(), 1, "the goodbye came while the claim was told");
        held.paid(&device, Debt::Release(goodbye(7)));
        assert_eq!(held.owed(), 0);
    }

    #[test]
    fn the_number_of_a_device_is_known_while_its_session_is_here() {
        let (held, device) = (Held::default(), key());
        held.learn(&device, 5);
        assert!(!held.knows(&device, 5), "nobody holds it here");
        held.take(&device, Epoch(7), Vec::new());
        assert!(!held.knows(&device, 5));
        held.learn(&device, 5);
        assert!(held.knows(&device, 5) && !held.knows(&device, 6));
        held.give_up(&device, Epoch(7));
        assert!(!held.knows(&device, 5));
    }

    #[test]
    fn a_seat_that_is_lost_is_not_told_again_and_a_newer_one_is() {
        let (held, device) = (Held::default(), key());
        held.take(&device, Epoch(7), Vec::new());
        held.give_up(&device, Epoch(6));
        held.owe_all();
        assert_eq!(held.owed(), 1, "an older session went");
        held.paid(&device, Debt::Claim);
        held.give_up(&device, Epoch(7));
        held.owe_all();
        assert_eq!(held.owed(), 0);
    }

    #[test]
    fn goodbyes_are_told_again_and_none_of_a_device_that_is_back() {
        let (held, device) = (Held::default(), key());
        held.remember_goodbye(&device, goodbye(7));
        held.take(&device, Epoch(8), vec![0; 29]);
        held.owe_all();
        assert_eq!(held.debts.lock().get(&device), Some(&Debt::Claim));
        held.paid(&device, Debt::Claim);
        held.give_up(&device, Epoch(8));
        held.remember_goodbye(&device, goodbye(8));
        held.owe_all();
        assert_eq!(held.debts.lock().get(&device), Some(&Debt::Release(goodbye(8))));
        for _ in 0..GOODBYES + 5 {
            held.remember_goodbye(&device, goodbye(9));
        }
        assert_eq!(held.goodbyes.lock().len(), GOODBYES);
    }

    #[test]
    fn another_life_of_the_node_is_in_every_seat() {
        let (held, device) = (Held::default(), key());
        held.take(&device, Epoch(7), vec![0xff; 29]);
        assert_eq!(held.renew(2, 3), 1);
        assert_eq!(held.seats.lock()[&device].bytes[..7], [0, 2, 0, 0, 0, 3, 0xff]);
        assert_eq!(held.owed(), 1);
    }
}
