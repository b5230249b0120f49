//! How many deliveries somebody may post: a token bucket.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A limit in deliveries: so many a second in the long run, and so many at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Deliveries a second. At least 1.
    pub deliveries_per_second: u32,
    /// Deliveries at once. At least 1.
    pub burst: u32,
}

impl RateLimit {
    /// The part of one of `nodes` equal nodes.
    pub fn share(self, nodes: usize) -> Share {
        let nodes = nodes.max(1) as f64;
        Share {
            per_second: f64::from(self.deliveries_per_second.max(1)) / nodes,
            // One delivery must be possible at every node.
            burst: (f64::from(self.burst) / nodes).max(1.0),
        }
    }
}

/// What one node gives of a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    per_second: f64,
    burst: f64,
}

impl Share {
    /// Deliveries at once, rounded down.
    pub fn quota(&self) -> u64 {
        self.burst as u64
    }

    /// Seconds until an empty bucket is full, rounded up.
    pub fn window_secs(&self) -> u64 {
        (self.burst / self.per_second).ceil().max(1.0) as u64
    }
}

/// A limit of a caller and what is left of it, in the words of the `RateLimit` fields (draft-ietf-httpapi-ratelimit-headers-11).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Allowance {
    /// Whose: `tenant` or `key`.
    pub policy: &'static str,
    /// The limit, of the whole service.
    #[serde(flatten)]
    pub limit: RateLimit,
    /// Deliveries that one node gives at once (`q`).
    pub quota: u64,
    /// Seconds until an empty quota is full (`w`).
    pub window_secs: u64,
    /// Deliveries that are left of the quota (`r`).
    pub remaining: u64,
    /// Seconds until it is full (`t`).
    pub reset_secs: u64,
}

/// What is left of a limit. Pure: the caller says what time it is.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// May be below 0: one request with more deliveries than fit at once is let through and paid off afterwards.
    left: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub fn full(share: Share, now: Instant) -> Self {
        Self {
            left: share.burst,
            at: now,
        }
    }

    /// Fills up to `now`.
    fn fill(&mut self, share: Share, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * share.per_second).min(share.burst);
        self.at = self.at.max(now);
    }

    /// Nothing, when there is room for that many deliveries now: all of them, or as many as fit at once.
    ///
    /// # Errors
    /// How long until there is.
    pub fn check(&mut self, share: Share, deliveries: u64, now: Instant) -> Result<(), Duration> {
        self.fill(share, now);
        let missing = (deliveries as f64).min(share.burst) - self.left;
        // Less than a millionth of a delivery is rounding.
        if missing <= 1e-6 {
            return Ok(());
        }
        Err(Duration::try_from_secs_f64(missing / share.per_second).unwrap_or(Duration::MAX))
    }

    /// Takes them, after [`Self::check`].
    pub fn take(&mut self, deliveries: u64) {
        self.left -= deliveries as f64;
    }

    /// What is left, rounded down.
    pub fn left(&mut self, share: Share, now: Instant) -> u64 {
        self.fill(share, now);
        (self.left + 1e-6).max(0.0) as u64
    }

    /// Seconds until it is full, rounded up.
    pub fn full_in_secs(&mut self, share: Share, now: Instant) -> u64 {
        self.fill(share, now);
        ((share.burst - self.left - 1e-6) / share.per_second).ceil().max(0.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(deliveries_per_second: u32, burst: u32, nodes: usize) -> Share {
        RateLimit {
            deliveries_per_second,
            burst,
        }
        .share(nodes)
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let (share, start) = (share(10, 5, 1), Instant::now());
        let mut bucket = Bucket::full(share, start);
        for _ in 0..5 {
            bucket.check(share, 1, start).unwrap();
            bucket.take(1);
        }
        let wait = bucket.check(share, 1, start).unwrap_err();
        assert!(wait.abs_diff(Duration::from_millis(100)) < Duration::from_micros(10), "{wait:?}");
        let mut given = 0;
        for tick in 0..1_000 {
            if bucket.check(share, 1, start + Duration::from_millis(tick * 10)).is_ok() {
                bucket.take(1);
                given += 1;
            }
        }
        assert!((99..=100).contains(&given), "in ten seconds: {given}");
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_gives_nothing() {
        let (share, start) = (share(10, 1, 1), Instant::now() + Duration::from_secs(60));
        let mut bucket = Bucket::full(share, start);
        bucket.take(1);
        assert!(bucket.check(share, 1, start).is_err());
        assert!(bucket.check(share, 1, start - Duration::from_secs(30)).is_err());
        assert!(bucket.check(share, 1, start + Duration::from_millis(100)).is_ok());
    }

    #[test]
    fn more_than_fits_at_once_is_paid_off() {
        let (share, start) = (share(10, 5, 1), Instant::now());
        let mut bucket = Bucket::full(share, start);
        bucket.check(share, 25, start).unwrap();
        bucket.take(25);
        assert_eq!((bucket.left(share, start), bucket.full_in_secs(share, start)), (0, 3));
        let wait = bucket.check(share, 1, start).unwrap_err();
        assert!(
            wait > Duration::from_millis(2_090) && wait < Duration::from_millis(2_110),
            "{wait:?}"
        );
    }

    #[test]
    fn nodes_share_a_limit_evenly_and_none_gets_nothing() {
        let third = share(30, 60, 3);
        assert_eq!((third.quota(), third.window_secs()), (20, 2));
        let (share, start) = (share(1, 1, 16), Instant::now());
        let mut bucket = Bucket::full(share, start);
        assert_eq!((share.quota(), share.window_secs()), (1, 16));
        bucket.check(share, 1, start).unwrap();
        bucket.take(1);
        assert!(bucket.check(share, 1, start + Duration::from_secs(15)).is_err());
        assert!(bucket.check(share, 1, start + Duration::from_secs(16)).is_ok());
    }
}
