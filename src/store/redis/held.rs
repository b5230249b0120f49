//! The seats that this node's sessions hold, as they claimed them.
//!
//! Redis has the truth of who holds a seat, and may lose the last claims with a server, or be away when a device logs in or leaves.
//! So each node remembers its own, and tells Redis again: a seat that was claimed newer elsewhere stays there.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use redis::Value;
use tokio::sync::Notify;
use tracing::{info, warn};

use super::{Shared, keys::Slot, reply::p48, script, seat::Holder, shards::Route};
use crate::{
    domain::{Clock as _, Epoch, Timestamp},
    store::{DeviceKey, Hint, NewSeat, StoreError},
};

/// Seats told at once, and the pause between: 5,000 a second.
const TOGETHER: usize = 50;
const PAUSE: Duration = Duration::from_millis(10);
/// When what could not be told is told again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A seat that a session here holds.
#[derive(Debug, Clone)]
struct Seat {
    epoch: Epoch,
    /// As it is stored.
    bytes: Box<[u8]>,
    /// The number of its device, once the session has read what waits.
    ordinal: Option<u32>,
}

/// What Redis is to be told once it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Debt {
    /// The seat is held.
    Claim,
    /// It was given up.
    Release(Epoch, Timestamp),
}

/// The table of them.
#[derive(Default)]
pub(super) struct Held {
    seats: Mutex<HashMap<DeviceKey, Seat>>,
    debts: Mutex<HashMap<DeviceKey, Debt>>,
    news: Notify,
}

impl Held {
    /// A session took the seat.
    pub(super) fn take(&self, device: &DeviceKey, epoch: Epoch, bytes: Vec<u8>) {
        let bytes = bytes.into_boxed_slice();
        let seat = Seat {
            epoch,
            bytes,
            ordinal: None,
        };
        self.seats.lock().insert(device.clone(), seat);
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

    /// Whether a session here holds the seat under that epoch.
    fn has(&self, device: &DeviceKey, epoch: Epoch) -> bool {
        self.seats.lock().get(device).is_some_and(|seat| seat.epoch == epoch)
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
    pub(super) fn owe_release(&self, device: &DeviceKey, epoch: Epoch, last_seen_at: Timestamp) {
        self.debts.lock().insert(device.clone(), Debt::Release(epoch, last_seen_at));
        self.news.notify_one();
    }

    /// All seats are told again: a server may have lost them.
    pub(super) fn owe_all(&self) {
        let devices: Vec<DeviceKey> = self.seats.lock().keys().cloned().collect();
        let mut debts = self.debts.lock();
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
        match debt {
            Debt::Claim => {
                let seat = self.held.seats.lock().get(device).cloned();
                if let Some(seat) = seat {
                    self.reclaim(device, &seat).await?;
                }
            }
            Debt::Release(epoch, last_seen_at) => match self.release_seat(device, epoch, last_seen_at).await {
                Ok(_) | Err(StoreError::UnknownDevice | StoreError::RemovedDevice) => {}
                Err(error) => return Err(error),
            },
        }
        self.held.paid(device, debt);
        Ok(())
    }

    async fn reclaim(&self, device: &DeviceKey, seat: &Seat) -> Result<(), StoreError> {
        let keys = [self.keys.device('d', device), self.keys.device('p', device)];
        let make = |_| {
            let mut cmd = script::RECLAIM.call(&keys);
            cmd.arg(&p48(seat.epoch.0)).arg(&*seat.bytes);
            cmd
        };
        let route = Route::quick(Slot::of_bucket(device.bucket()));
        let epoch = seat.epoch;
        let found = self.shards.ask(route, make).await?;
        if matches!(found, Value::Int(0 | 1)) {
            self.held.give_up(device, epoch);
        }
        match found {
            Value::Int(0) => self.hint(
                &self.nodes.name(),
                Hint::Removed {
                    device: device.clone(),
                    epoch,
                },
            ),
            Value::Int(1) => {
                warn!(device.id = %device.device, "{} has connected to another node meanwhile; its session here ends", device.device);
                self.hint(
                    &self.nodes.name(),
                    Hint::Displaced {
                        device: device.clone(),
                        epoch,
                    },
                );
            }
            // A goodbye may have overtaken this: the seat is not to stay behind.
            _ if !self.held.has(device, epoch) => {
                self.release_seat(device, epoch, Timestamp(0)).await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Claims a seat; while Redis is away, the session goes on without, and the claim follows.
    pub(super) fn seat_unclaimed(&self, device: &DeviceKey, session: &NewSeat) -> Epoch {
        let (number, incarnation) = self.nodes.me();
        let epoch = self.held.provisional(device, self.clock.now());
        self.held.take(device, epoch, Holder::encode(session, number, incarnation));
        self.held.owe_claim(device);
        epoch
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

    #[test]
    fn what_was_told_leaves_what_is_owed_since() {
        let (held, device) = (Held::default(), key());
        held.owe_claim(&device);
        held.owe_release(&device, Epoch(7), Timestamp(1));
        held.paid(&device, Debt::Claim);
        assert_eq!(held.owed(), 1, "the goodbye came while the claim was told");
        held.paid(&device, Debt::Release(Epoch(7), Timestamp(1)));
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
}
