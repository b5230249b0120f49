//! Refilling a session from the store: pages, in order, until nothing waits or the session has no room.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tracing::warn;

use super::Shared;
use crate::{
    crew::Crew,
    gateway::Offer,
    store::{DeviceKey, StoreError},
};

/// How long to wait before reading again when the store did not answer.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Devices that are being refilled: one refill a device, so that its events keep their order.
pub(super) struct Refills {
    /// True: asked for again meanwhile.
    running: Mutex<HashMap<DeviceKey, bool>>,
    /// How many are in `running`, to be looked at without the lock.
    count: AtomicUsize,
    places: Semaphore,
}

impl Refills {
    pub(super) fn new(max: usize) -> Self {
        Self {
            running: Mutex::new(HashMap::new()),
            count: AtomicUsize::new(0),
            places: Semaphore::new(max.max(1)),
        }
    }

    /// Whether the caller is the one to start; else the running refill goes round once more.
    fn begin(&self, device: &DeviceKey) -> bool {
        let mut running = self.running.lock();
        match running.get_mut(device) {
            Some(again) => {
                *again = true;
                false
            }
            None => {
                running.insert(device.clone(), false);
                self.count.store(running.len(), Ordering::Release);
                true
            }
        }
    }

    /// Whether the device is being refilled: what has just arrived for it is then read from the store, in its order.
    pub(super) fn takes_over(&self, device: &DeviceKey) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        match self.running.lock().get_mut(device) {
            Some(again) => {
                *again = true;
                true
            }
            None => false,
        }
    }

    /// Whether the refill may end; false: it was asked for again.
    fn end(&self, device: &DeviceKey) -> bool {
        let mut running = self.running.lock();
        match running.get_mut(device) {
            Some(again) if *again => {
                *again = false;
                false
            }
            _ => {
                running.remove(device);
                self.count.store(running.len(), Ordering::Release);
                true
            }
        }
    }
}

/// Sees to it that the device's session is refilled, now or as soon as there is a place.
pub(super) fn request(shared: &Arc<Shared>, crew: &Crew, device: DeviceKey) {
    if !shared.refills.begin(&device) {
        return;
    }
    let (shared, stop) = (shared.clone(), crew.stop_token());
    crew.spawn(async move {
        let work = async {
            loop {
                let again_after = {
                    let _place = shared.refills.places.acquire().await;
                    refill(&shared, &device).await
                };
                if let Err(error) = again_after {
                    warn!(device.id = %device.device, "the events of {} could not be read, trying again: {error}", device.device);
                    tokio::time::sleep(AGAIN_AFTER).await;
                } else if shared.refills.end(&device) {
                    return;
                }
            }
        };
        // A refill that is cut off leaves its events in the store.
        let _ = stop.run_until_cancelled(work).await;
    });
}

async fn refill(shared: &Shared, device: &DeviceKey) -> Result<(), StoreError> {
    while !shared.paused.load(Ordering::Relaxed) {
        let Some(link) = shared.links.link(device.tenant, &device.device) else {
            return Ok(());
        };
        let Some(behind) = link.behind() else { return Ok(()) };
        // Without room one event is read all the same: offering it is how the session learns that something waits.
        let limit = behind.room.clamp(1, shared.config.page.max(1));
        let page = match shared.store.pending(device, behind.cursor, limit).await {
            Ok(page) => page,
            Err(StoreError::UnknownDevice | StoreError::RemovedDevice) => return Ok(()),
            Err(error) => return Err(error),
        };
        for event in &page.events {
            match link.refill(event, shared.clock.now()) {
                Offer::Taken | Offer::Held => {}
                Offer::Later | Offer::Gap | Offer::Gone => return Ok(()),
            }
        }
        if !page.more && link.caught_up(behind.refused) {
            return Ok(());
        }
    }
    Ok(())
}
