//! Numbers of the whole store: kept by the scripts in each bucket, known here as of the last answer, and read anew now and then,
//! because other nodes count, too.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream};

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

/// What is counted in each bucket, by the field of its hash.
const FIELDS: [&str; 4] = ["q", "d", "l", "k"];

/// The counts of every bucket.
pub(super) struct Counters {
    /// Waiting events, devices, those of cohort poll, those of cohort control.
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
    /// Waiting events of a bucket, as a script answered.
    pub(super) fn queued(&self, bucket: u16, events: i64) {
        if let Some([queued, ..]) = self.buckets.get(usize::from(bucket)) {
            queued.store(u64::try_from(events).unwrap_or(0), Ordering::Relaxed);
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
    /// Reads the counts of one bucket.
    pub(super) async fn count(&self, bucket: u16) -> Result<(), StoreError> {
        let key = self.keys.bucket('c', bucket);
        let make = |_| {
            let mut cmd = redis::cmd("HMGET");
            cmd.arg(&key).arg(&FIELDS);
            cmd
        };
        let value = self.shards.ask(Route::read(Slot::of_bucket(bucket)), make).await?;
        let mut counts = reply::Reply::new(value, "counters")?;
        for place in self.counters.buckets.get(usize::from(bucket)).into_iter().flatten() {
            let count = reply::int(&counts.next()?).unwrap_or(0);
            place.store(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
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
