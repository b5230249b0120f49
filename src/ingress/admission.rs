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
    /// Events of requests with one, which do not wait for room.
    ones: Arc<Semaphore>,
    /// Events of requests with many, which do: neither kind keeps the other out.
    several: Arc<Semaphore>,
    one_max: usize,
    several_max: usize,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
}

/// Room that was given; it is free again when this is dropped.
pub(super) struct Room {
    _events: Option<OwnedSemaphorePermit>,
    _bytes: Option<OwnedSemaphorePermit>,
}

impl Admission {
    pub fn new(config: &Config) -> Self {
        let of_semaphore = |max: usize| max.clamp(1, Semaphore::MAX_PERMITS);
        let (one_max, several_max) = (of_semaphore(config.in_flight_max), of_semaphore(config.in_flight_many_max));
        let bytes_max = u32::try_from((config.in_flight_max_bytes / UNIT).max(1)).unwrap_or(u32::MAX);
        Self {
            ones: Arc::new(Semaphore::new(one_max)),
            several: Arc::new(Semaphore::new(several_max)),
            one_max,
            several_max,
            bytes: Arc::new(Semaphore::new(usize::try_from(bytes_max).unwrap_or(Semaphore::MAX_PERMITS))),
            bytes_max,
        }
    }

    /// Room for one event to so many devices that came in so many bytes, now or not at all. More devices than there is room for in all count as
    /// that.
    pub fn one(&self, devices: usize, bytes: usize) -> Result<Room, Refusal> {
        let devices = u32::try_from(devices.min(self.one_max)).map_err(|_| overloaded())?;
        let events = Arc::clone(&self.ones).try_acquire_many_owned(devices).map_err(|_| overloaded())?;
        Ok(Room {
            _events: Some(events),
            _bytes: Some(self.take_bytes(bytes)?),
        })
    }

    /// Room for bytes of a request with many events, now or not at all.
    pub fn bytes(&self, bytes: usize) -> Result<Room, Refusal> {
        Ok(Room {
            _events: None,
            _bytes: Some(self.take_bytes(bytes)?),
        })
    }

    /// Room for events of a request with many; more than [`Admission::several_max`] count as that. Waits a little: then the request is
    /// read more slowly.
    pub async fn several(&self, count: usize) -> Result<Room, Refusal> {
        let count = u32::try_from(count.min(self.several_max)).map_err(|_| overloaded())?;
        let room = timeout(PATIENCE, Arc::clone(&self.several).acquire_many_owned(count)).await;
        Ok(Room {
            _events: Some(room.ok().and_then(Result::ok).ok_or_else(overloaded)?),
            _bytes: None,
        })
    }

    /// As many ever find room together.
    pub fn several_max(&self) -> usize {
        self.several_max
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
            in_flight_many_max: in_flight_max + in_flight_max / 2,
            in_flight_max_bytes,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn requests_with_one_event_and_those_with_many_have_room_of_their_own() {
        let admission = admission(8, 1 << 20);
        assert_eq!(admission.several_max(), 12);
        let many = admission.several(12).await.unwrap();
        assert!(admission.several(1).await.is_err(), "after its patience");
        let ones: Vec<Room> = (0..8).map(|_| admission.one(1, 300).unwrap()).collect();
        assert!(admission.one(1, 300).is_err());
        drop(many);
        assert!(admission.one(1, 300).is_err());
        let again = admission.several(12).await.unwrap();
        drop((ones, again));
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
