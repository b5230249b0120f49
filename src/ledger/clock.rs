//! The virtual poll clock: when would a device that polls have asked next?
//!
//! Each device polls every `interval` at a phase of its own, so that no timer is needed: from the time of an event follows
//! the tick that would have carried it. A fixed interval is the careful choice: intervals that vary make a poller wait
//! longer, by a factor of 1 + c² (c: coefficient of variation), and find it empty-handed more often.

use crate::domain::{DeviceId, TenantId, Timestamp, stable_hash_of};

/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;

/// The tick of the virtual clock that would have carried an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Its number since 1970: two events with the same number would have come with one poll.
    pub index: u64,
    /// How long the event would have waited for it, in milliseconds: below the interval.
    pub wait_ms: u64,
    /// When it would have been, in milliseconds since 1970.
    pub at_ms: u64,
}

/// The device's phase in milliseconds, below the interval. It changes from day to day, so that no device is lucky for ever.
pub fn phase_ms(tenant: TenantId, device: &DeviceId, day_of: Timestamp, interval_secs: u32) -> u64 {
    let day = day_of.0 / DAY_MS;
    let bytes = tenant
        .0
        .to_le_bytes()
        .into_iter()
        .chain(day.to_le_bytes())
        .chain(device.as_str().bytes());
    stable_hash_of(bytes) % interval_ms(interval_secs)
}

/// The first tick at or after `time`.
pub fn tick(time: Timestamp, phase_ms: u64, interval_secs: u32) -> Tick {
    let interval = interval_ms(interval_secs);
    let index = time.0.saturating_sub(phase_ms).div_ceil(interval);
    let at_ms = phase_ms.saturating_add(index.saturating_mul(interval));
    Tick {
        index,
        wait_ms: at_ms.saturating_sub(time.0),
        at_ms,
    }
}

/// The number of the last tick at or before `time`; the first one, if there is none.
pub fn last_tick(time: Timestamp, phase_ms: u64, interval_secs: u32) -> u64 {
    time.0.saturating_sub(phase_ms) / interval_ms(interval_secs)
}

/// The interval in milliseconds, at least one second.
pub fn interval_ms(interval_secs: u32) -> u64 {
    u64::from(interval_secs.max(1)) * 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_comes_with_the_first_tick_at_or_after_it() {
        let check = |time, phase, secs, index, wait_ms| {
            let found = tick(Timestamp(time), phase, secs);
            assert_eq!(
                (found.index, found.wait_ms),
                (index, wait_ms),
                "{time} at phase {phase} every {secs} s"
            );
            assert_eq!(found.at_ms, time + wait_ms);
        };
        check(0, 0, 900, 0, 0);
        check(1, 0, 900, 1, 899_999);
        check(900_000, 0, 900, 1, 0);
        check(900_001, 0, 900, 2, 899_999);
        check(1_000_000, 250_000, 900, 1, 150_000);
        check(1_150_000, 250_000, 900, 1, 0);
        check(100, 250_000, 900, 0, 249_900);
        check(5_500, 0, 0, 6, 500); // an interval of zero counts as one second
    }

    #[test]
    fn phases_are_stable_spread_evenly_and_change_with_the_day() {
        let phase = |n: u32, day: u64| {
            let device: DeviceId = format!("tsn-{n}").parse().expect("a device id");
            phase_ms(TenantId(0), &device, Timestamp(day * DAY_MS + 5), 900)
        };
        assert_eq!(phase(7, 20_000), phase(7, 20_000));
        assert_ne!(phase(7, 20_000), phase(7, 20_001));
        let mut tenths = [0_u32; 10];
        for n in 0..10_000 {
            let phase = phase(n, 20_000);
            assert!(phase < 900_000);
            tenths[usize::try_from(phase / 90_000).expect("small")] += 1;
        }
        assert!(tenths.iter().all(|count| (880..1_120).contains(count)), "{tenths:?}");
    }
}
