//! How much may be under way at once: events that wait for the store, and bytes of requests that are held meanwhile.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::Config;
use crate::domain::Refusal;

/// The unit in which bytes are counted, so that their number fits a semaphore.
const UNIT: usize = 1_024;
/// How long events of a request with many wait for room before they are refused.
const PATIENCE: Duration = Duration::from_secs(5);

/// The bounds of the ingress.
pub(super) struct Admission {
    events: Arc<Semaphore>,
    /// Of those, what requests with many events may take: a quarter is left for requests with one, which do not wait.
    shared: Arc<Semaphore>,
    shared_max: usize,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
}

/// Room that was given; it is free again when this is dropped.
pub(super) struct Room {
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

impl Admission {
    pub fn new(config: &Config) -> Self {
        let events = config.in_flight_max.clamp(1, Semaphore::MAX_PERMITS);
        let shared_max = events - events / 4;
        let bytes_max = u32::try_from((config.in_flight_max_bytes / UNIT).max(1)).unwrap_or(u32::MAX);
        Self {
            events: Arc::new(Semaphore::new(events)),
            shared: Arc::new(Semaphore::new(shared_max)),
            shared_max,
            bytes: Arc::new(Semaphore::new(usize::try_from(bytes_max).unwrap_or(Semaphore::MAX_PERMITS))),
            bytes_max,
        }
    }

    /// Room for one event to so many devices that came in so many bytes, now or not at all. More devices than there is room for in all count as
    /// that.
    pub fn one(&self, devices: usize, bytes: usize) -> Result<Room, Refusal> {
        let devices = u32::try_from(devices.min(self.shared_max)).map_err(|_| overloaded())?;
        let event = Arc::clone(&self.events).try_acquire_many_owned(devices).map_err(|_| overloaded())?;
        Ok(Room {
            _permits: [Some(event), Some(self.take_bytes(bytes)?)],
        })
    }

    /// Room for bytes of a request with many events, now or not at all.
    pub fn bytes(&self, bytes: usize) -> Result<Room, Refusal> {
        Ok(Room {
            _permits: [Some(self.take_bytes(bytes)?), None],
        })
    }

    /// Room for events of a request with many; more than [`Admission::several_max`] count as that. Waits a little: then the request is
    /// read more slowly.
    pub async fn several(&self, count: usize) -> Result<Room, Refusal> {
        let count = u32::try_from(count.min(self.shared_max)).map_err(|_| overloaded())?;
        let room = timeout(PATIENCE, async {
            let share = Arc::clone(&self.shared).acquire_many_owned(count).await.ok()?;
            let events = Arc::clone(&self.events).acquire_many_owned(count).await.ok()?;
            Some(Room {
                _permits: [Some(share), Some(events)],
            })
        });
        room.await.ok().flatten().ok_or_else(overloaded)
    }

    /// As many ever find room together.
    pub fn several_max(&self) -> usize {
        self.shared_max
    }

    /// More than there is in all counts as all there is.
    fn take_bytes(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.bytes_max);
        Arc::clone(&self.bytes).try_acquire_many_owned(units).map_err(|_| overloaded())
    }
}

fn overloaded() -> Refusal {
    Refusal::Overloaded {
        retry_after: Duration::from_secs(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(in_flight_max: usize, in_flight_max_bytes: usize) -> Admission {
        Admission::new(&Config {
            in_flight_max,
            in_flight_max_bytes,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn many_leave_a_quarter_for_requests_with_one_event_and_wait_for_their_own_part() {
        let admission = admission(8, 1 << 20);
        assert_eq!(admission.several_max(), 6);
        let many = admission.several(6).await.unwrap();
        assert!(admission.several(1).await.is_err(), "after its patience");
        let one = admission.one(1, 300).unwrap();
        let two = admission.one(1, 300).unwrap();
        assert!(admission.one(1, 300).is_err());
        drop(many);
        let again = admission.several(6).await.unwrap();
        drop((one, two, again));
        // Whatever is set, something goes.
        let least = self::admission(0, 0);
        assert!(least.several(least.several_max()).await.is_ok());
        assert!(least.one(1, 1 << 30).is_ok());
    }

    #[test]
    fn bytes_are_counted_until_they_are_given_back() {
        let admission = admission(100, 10 * 1024);
        let most = admission.bytes(9 * 1024).unwrap();
        assert!(admission.bytes(2 * 1024).is_err() && admission.one(1, 1025).is_err());
        let one = admission.one(1, 1024).unwrap();
        drop((most, one));
        assert!(admission.bytes(1 << 40).is_ok(), "more than there is counts as all there is");
    }
}
