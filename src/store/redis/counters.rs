//! Numbers of the whole store: kept by the scripts in each bucket, known here as of the last answer, and read anew now and then,
//! because other nodes count, too.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::{StreamExt, future::try_join3, stream};

use super::{
    Shared,
    keys::{BUCKETS, Slot},
    reply,
    shards::Route,
};
use crate::{
    domain::Timestamp,
    store::{StoreError, StoreStats},
};

/// How often the buckets are read.
const READ_EVERY: Duration = Duration::from_secs(5);
/// Buckets read at once.
const TOGETHER: usize = 128;

/// Which devices are counted in each bucket, by the field of its hash.
const FIELDS: [&str; 3] = ["d", "l", "k"];

/// The counts of every bucket.
pub(super) struct Counters {
    /// Events that wait, devices, those of cohort poll, those of cohort control.
    buckets: Box<[[AtomicU64; 4]]>,
    /// When the oldest waiting event of the last look was accepted; 0: none.
    oldest: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| Default::default()).collect(),
            oldest: AtomicU64::new(0),
        }
    }
}

impl Counters {
    /// One event more waits in a bucket.
    pub(super) fn came(&self, bucket: u16) {
        if let Some([queued, ..]) = self.buckets.get(usize::from(bucket)) {
            queued.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// So many wait no more.
    pub(super) fn went(&self, bucket: u16, events: u64) {
        if let Some([queued, ..]) = self.buckets.get(usize::from(bucket)) {
            // What another node counted may not be known here yet.
            let _ = queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |queued| Some(queued.saturating_sub(events)));
        }
    }

    /// An event was accepted: where nothing was known to wait, it is the oldest.
    pub(super) fn accepted(&self, at: Timestamp) {
        let _ = self.oldest.compare_exchange(0, at.0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// What a look at the queues found.
    pub(super) fn set_oldest(&self, at: Option<Timestamp>) {
        self.oldest.store(at.map_or(0, |at| at.0), Ordering::Relaxed);
    }

    pub(super) fn stats(&self, writable: bool) -> StoreStats {
        let mut sums = [0_u64; 4];
        for bucket in &self.buckets {
            for (sum, count) in sums.iter_mut().zip(bucket) {
                *sum = sum.saturating_add(count.load(Ordering::Relaxed));
            }
        }
        let [queued, devices, devices_polling, devices_control] = sums;
        let oldest = self.oldest.load(Ordering::Relaxed);
        StoreStats {
            queued: Some(queued),
            oldest_queued_at: Some(Timestamp(oldest)).filter(|_| oldest > 0 && queued > 0),
            devices,
            devices_polling,
            devices_control,
            disk_bytes: 0,
            free_bytes: 0,
            writable,
        }
    }
}

impl Shared {
    /// Reads the counts of one bucket. An event that left its queue is counted until its receipt leaves the outbox: those that are still there
    /// are taken off.
    pub(super) async fn count(&self, bucket: u16) -> Result<(), StoreError> {
        let route = Route::read(Slot::of_bucket(bucket));
        let ask = |name: &'static str, kind, fields: &'static [&'static str]| {
            let key = self.keys.bucket(kind, bucket);
            self.shards.ask(route, move |_| {
                let mut cmd = redis::cmd(name);
                cmd.arg(&key).arg(fields);
                cmd
            })
        };
        let (queued, left, devices) = try_join3(ask("GET", 'n', &[]), ask("LLEN", 'o', &[]), ask("HMGET", 'c', &FIELDS)).await?;
        let count = |value: &redis::Value| reply::int(value).and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
        let mut devices = reply::Reply::new(devices, "counters")?;
        if let Some([place, rest @ ..]) = self.counters.buckets.get(usize::from(bucket)) {
            place.store(count(&queued).saturating_sub(count(&left)), Ordering::Relaxed);
            for place in rest {
                place.store(count(&devices.next()?), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Reads the counts of all.
    pub(super) async fn count_all(&self) -> Result<(), StoreError> {
        let mut counted = stream::iter(0..BUCKETS).map(|bucket| self.count(bucket)).buffer_unordered(TOGETHER);
        while let Some(result) = counted.next().await {
            result?;
        }
        Ok(())
    }

    /// Reads them again and again.
    pub(super) async fn keep_counts(&self) {
        loop {
            tokio::time::sleep(READ_EVERY).await;
            if let Err(error) = self.count_all().await {
                tracing::debug!("the counters are as of the last look: {error}");
            }
        }
    }
}
