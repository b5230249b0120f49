//! Logins that fail again and again in one name: passwords that are guessed.
//!
//! Such an account answers more slowly. It is never locked: that would let anybody lock it.

use std::time::{Duration, Instant};

use super::{metrics::Misbehaved, shared::Shared};
use crate::store::DeviceKey;

/// Failures are counted for this long.
const MINUTE: Duration = Duration::from_secs(60);

impl Shared {
    /// Counts tries in the name of a device that failed.
    pub(super) fn guessed(&self, key: DeviceKey, failed: u32) {
        let now = Instant::now();
        self.failures.update(key, |before| match before {
            Some((since, count)) if now.duration_since(*since) < MINUTE => (*since, count.saturating_add(failed)),
            _ => (now, failed),
        });
    }

    /// How long a login in that name waits, at most `longest`. `None`: not at all.
    pub(super) fn wait_for_guesses(&self, key: &DeviceKey, longest: Duration) -> Option<Duration> {
        let recent = self.failures.get(key).filter(|(since, _)| since.elapsed() < MINUTE);
        let beyond = recent.and_then(|(_, count)| count.checked_sub(self.config.login_failures_max))?;
        self.metrics.misbehaved(Misbehaved::Guessing);
        if beyond == 0 {
            tracing::warn!(device.id = %key.device, "logins of {} fail again and again, and are slowed", key.device);
        }
        Some(Duration::from_secs(u64::from(beyond) + 1).min(longest))
    }
}
