//! The resync: what no hint told of is found all the same.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Shared, refill};
use crate::{crew::Crew, store::DeviceKey};

/// How often to look whether hints were lost, when no arrival tells.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Sessions whose seats are asked for at once.
const TOGETHER: usize = 1_024;

/// Lets every session read on from the store: a hint was lost, and nobody knows whose.
pub(super) fn read_on(shared: &Arc<Shared>, crew: &Crew) {
    for (tenant, device, _) in shared.links.all() {
        refill::request(shared, crew, DeviceKey { tenant, device });
    }
}

/// Compares each session with the store now and then; at once when the store says that hints were lost.
pub(super) async fn run(shared: Arc<Shared>, crew: Crew, stop: CancellationToken) {
    let every = Duration::from_secs(shared.config.resync_secs.max(1));
    let mut missed = shared.store.missed_arrivals();
    let mut last = Instant::now();
    while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        let missed_now = shared.store.missed_arrivals();
        if missed_now != missed {
            missed = missed_now;
            read_on(&shared, &crew);
        } else if last.elapsed() < every {
            continue;
        } else if stop.run_until_cancelled(compare(&shared, &crew)).await.is_none() {
            return;
        }
        last = Instant::now();
    }
}

/// Refills the sessions for which something waits.
async fn compare(shared: &Arc<Shared>, crew: &Crew) {
    for part in shared.links.all().chunks(TOGETHER) {
        let devices: Vec<DeviceKey> = part
            .iter()
            .map(|(tenant, device, _)| DeviceKey {
                tenant: *tenant,
                device: device.clone(),
            })
            .collect();
        let views = shared.store.seats(&devices).await;
        for ((device, (.., link)), view) in devices.into_iter().zip(part).zip(views) {
            match view {
                Ok(view) if view.waiting > 0 && view.seat.as_ref().is_some_and(|seat| seat.epoch == link.epoch()) => {
                    refill::request(shared, crew, device);
                }
                // Somebody else claimed the seat, and the hint of it was lost.
                Ok(view) if view.seat.as_ref().is_some_and(|seat| seat.epoch > link.epoch()) => {
                    shared.links.displace(device.tenant, &device.device, link.epoch());
                }
                Ok(_) | Err(_) => {} // nothing waits, or the store is away: the next round looks again
            }
        }
        tokio::task::yield_now().await;
    }
}
