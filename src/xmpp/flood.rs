//! What one session may send: elements and bytes a second, with a burst (XEP-0205 §2.4, §2.5).
//!
//! Who sends more is read more slowly, so that its own TCP holds it back and nobody else waits; who keeps on is cut off.
//! Events that end entitle the device to what it has to say of them: a queue that is flushed is never a flood.

use std::time::{Duration, Instant};

use super::{
    error::Condition,
    stream::{ServerStream, Stage},
};

/// Elements that a device may send for each event that ends: an acknowledgement, a receipt, an outcome.
const ELEMENTS_AN_EVENT: u32 = 3;
/// Bytes of the same.
const BYTES_AN_EVENT: u32 = 1024;

/// What a session may send. A rate of 0 means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FloodLimits {
    /// Top-level elements a second. Default 100.
    pub stanzas_per_second: u32,
    /// Elements at once. Default 2,000.
    pub stanzas_burst: u32,
    /// Bytes a second. Default 128 KiB.
    pub bytes_per_second: u32,
    /// Bytes at once. Default 1 MiB.
    pub bytes_burst: u32,
    /// Who was slowed for this long without a break is cut off. Default 60 s.
    pub patience: Duration,
}

impl Default for FloodLimits {
    fn default() -> Self {
        Self {
            stanzas_per_second: 100,
            stanzas_burst: 2_000,
            bytes_per_second: 128 * 1024,
            bytes_burst: 1024 * 1024,
            patience: Duration::from_secs(60),
        }
    }
}

/// The time that `count` takes at `rate` a second.
fn time_of(count: u32, rate: u32) -> Duration {
    let nanos = u64::from(count) * 1_000_000_000;
    Duration::from_nanos(nanos.checked_div(u64::from(rate)).unwrap_or_default())
}

/// A token bucket, kept as the time at which it is empty again (the generic cell rate algorithm).
#[derive(Debug, Clone, Copy)]
struct Bucket(Instant);

impl Bucket {
    fn level(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// Fills it; answers by how much it is over `burst`.
    fn fill(&mut self, cost: Duration, back: Duration, burst: Duration, now: Instant) -> Duration {
        let level = (self.level(now) + cost).saturating_sub(back);
        self.0 = now + level;
        level.saturating_sub(burst)
    }
}

/// How much a session sent lately.
#[derive(Debug)]
pub(super) struct Flood {
    stanzas: Bucket,
    bytes: Bucket,
    /// Elements and ended events since the last count.
    elements: u32,
    ended: u32,
    /// Since when it is too much.
    since: Option<Instant>,
    /// Not to be read before.
    until: Option<Instant>,
}

impl Flood {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            stanzas: Bucket(now),
            bytes: Bucket(now),
            elements: 0,
            ended: 0,
            since: None,
            until: None,
        }
    }

    /// An element was read.
    pub(super) fn element(&mut self) {
        self.elements = self.elements.saturating_add(1);
    }

    /// Events ended.
    pub(super) fn ended(&mut self, events: usize) {
        self.ended = self.ended.saturating_add(u32::try_from(events).unwrap_or(u32::MAX));
    }

    /// Counts what was sent. False: it was too much for too long.
    fn count(&mut self, bytes: usize, limits: &FloodLimits, now: Instant) -> bool {
        let (elements, ended) = (std::mem::take(&mut self.elements), std::mem::take(&mut self.ended));
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let stanzas_burst = time_of(limits.stanzas_burst, limits.stanzas_per_second);
        let bytes_burst = time_of(limits.bytes_burst, limits.bytes_per_second);
        if self.stanzas.level(now) <= stanzas_burst / 2 && self.bytes.level(now) <= bytes_burst / 2 {
            self.since = None;
        }
        let stanzas_over = self.stanzas.fill(
            time_of(elements, limits.stanzas_per_second),
            time_of(ended.saturating_mul(ELEMENTS_AN_EVENT), limits.stanzas_per_second),
            stanzas_burst,
            now,
        );
        let bytes_over = self.bytes.fill(
            time_of(bytes, limits.bytes_per_second),
            time_of(ended.saturating_mul(BYTES_AN_EVENT), limits.bytes_per_second),
            bytes_burst,
            now,
        );
        let over = stanzas_over.max(bytes_over);
        if over.is_zero() {
            self.until = None;
            return true;
        }
        self.until = Some(now + over);
        let since = *self.since.get_or_insert(now);
        now.saturating_duration_since(since) < limits.patience
    }

    /// Not to be read before.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Time passed.
    pub(super) fn elapse(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
        }
    }
}

impl ServerStream {
    /// Counts what a session sent just now.
    pub(super) fn count_flood(&mut self, bytes: usize, now: Instant) {
        let limits = self.config.flood;
        if self.stage == Stage::Bound && !self.flood.count(bytes, &limits, now) {
            self.fail_with(&Condition::PolicyViolation("too much was sent for too long"));
        }
    }

    /// Until when the peer is not to be read from: it sent too much. `elapse` ends it.
    pub fn slowed_until(&self) -> Option<Instant> {
        self.flood.until().filter(|_| self.stage == Stage::Bound)
    }

    /// Whether the peer sends too much, since it last paused.
    pub fn flooding(&self) -> bool {
        self.flood.since.is_some()
    }
}
