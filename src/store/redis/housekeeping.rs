//! Housekeeping: ends what expired, drops what was kept long enough, and puts at the tail again what waited out its pause.
//!
//! Every bucket has two lists of devices in the order of time, so that nothing is looked at before it is due. Each bucket is looked
//! after by one of the live nodes; that two do it for a moment does no harm.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use redis::Value;

use super::{
    RedisStore, Shared,
    keys::{self, BUCKETS, Slot},
    mover::Log,
    record::{self, Ending},
    reply::{self, Reply, p48},
    script,
    shards::Route,
};
use crate::{
    domain::{Outcome, TenantId, Timestamp},
    store::{DeviceKey, StoreError, Swept, codec::damaged},
};

/// Buckets asked at once.
const TOGETHER: usize = 128;
/// Buckets of one round.
const BUCKETS_A_ROUND: u16 = 128;
/// Devices of one bucket in one look.
const DEVICES: usize = 200;
/// States of one device in one step.
const STATES: usize = 500;
/// Devices of a bucket whose oldest event is looked up: with so many or fewer it is exact, above it a sample.
const SAMPLE: usize = 8;
/// Entries of a log that are judged at once.
const ENTRIES: usize = 100;

/// Where the last round stopped.
#[derive(Default)]
pub(super) struct Round {
    bucket: u16,
}

impl Shared {
    /// Devices of a bucket that are due by `now`.
    async fn due(&self, kind: char, bucket: u16, now: Timestamp, limit: usize) -> Result<Vec<DeviceKey>, StoreError> {
        let key = self.keys.bucket(kind, bucket);
        let make = |_| {
            let mut cmd = redis::cmd("ZRANGE");
            cmd.arg(&key).arg("-inf").arg(now.0).arg("BYSCORE").arg("LIMIT").arg(0).arg(limit);
            cmd
        };
        let found = self.shards.ask(Route::read(Slot::of_bucket(bucket)), make).await?;
        devices(found)
    }

    /// One device: what expired, and what was kept long enough. Answers how many of each.
    async fn sweep_device(&self, device: &DeviceKey, now: Timestamp) -> Result<(u64, u64), StoreError> {
        let bucket = device.bucket();
        let keys = [
            self.keys.device('d', device),
            self.keys.device('p', device),
            self.keys.device('q', device),
            self.keys.device('s', device),
            self.keys.bucket('o', bucket),
            self.keys.bucket('c', bucket),
            self.keys.bucket('z', bucket),
            self.keys.tenant_bucket('i', bucket, device.tenant),
        ];
        let member = keys::member(device);
        let named = record::named(device.device.as_str().as_bytes());
        let ending = Ending::encode(Outcome::Expired, now, None, None)?;
        let kept = |seconds: u64| seconds.saturating_mul(1000);
        let (mut cursor, mut next, mut due) = ("0".to_owned(), "0".to_owned(), String::new());
        let (mut expired, mut dropped) = (0, 0);
        loop {
            let make = |_| {
                let mut cmd = script::SWEEP.call(&keys);
                cmd.arg(now.0)
                    .arg(kept(self.limits.idempotency_kept_secs))
                    .arg(kept(self.limits.state_kept_secs))
                    .arg(kept(self.limits.tombstone_kept_secs))
                    .arg(&member)
                    .arg(&device.tenant.0.to_be_bytes())
                    .arg(&named)
                    .arg(&cursor)
                    .arg(&next)
                    .arg(&due)
                    .arg(STATES)
                    .arg(&ending);
                cmd
            };
            let value = self.shards.ask(Route::durable(Slot::of_bucket(bucket)), make).await?;
            let mut reply = Reply::new(value, "the answer to housekeeping")?;
            (cursor, next, due) = (reply.text()?, reply.text()?, reply.text()?);
            expired += reply.count()?;
            dropped += reply.count()?;
            if cursor == "0" {
                break;
            }
        }
        if expired > 0 {
            self.touch(bucket);
            self.watches.wake([device]);
        }
        Ok((expired, dropped))
    }

    async fn sweep_bucket(&self, bucket: u16, now: Timestamp) -> Result<(u64, u64), StoreError> {
        self.forget_groups(bucket, now).await?;
        let (mut expired, mut dropped) = (0, 0);
        loop {
            let devices = self.due('z', bucket, now, DEVICES).await?;
            for device in &devices {
                let swept = self.sweep_device(device, now).await?;
                expired += swept.0;
                dropped += swept.1;
            }
            if expired > 0 {
                self.count(bucket).await?;
            }
            if devices.len() < DEVICES {
                return Ok((expired, dropped));
            }
        }
    }

    /// When the oldest event of a bucket that waits was accepted, as far as a look at a few devices tells.
    async fn oldest(&self, bucket: u16) -> Result<Option<Timestamp>, StoreError> {
        let key = self.keys.bucket('z', bucket);
        let make = |_| {
            let mut cmd = redis::cmd("ZRANDMEMBER");
            cmd.arg(&key).arg(SAMPLE);
            cmd
        };
        let sample = devices(self.shards.ask(Route::read(Slot::of_bucket(bucket)), make).await?)?;
        let mut oldest = None;
        for device in &sample {
            let first = self.first_accepted(device).await?;
            oldest = [oldest, first].into_iter().flatten().min();
        }
        Ok(oldest)
    }

    /// Ends of logs: rows that are too many, or too old. The last entry stays.
    async fn trim_log(&self, tenant: TenantId, log: Log, now: Timestamp) -> Result<u64, StoreError> {
        let limits = &self.limits;
        let (max, kept_secs) = match log {
            Log::Receipts => (limits.receipts_max, limits.receipts_kept_secs),
            Log::Feed => (limits.presence_changes_max, limits.presence_changes_kept_secs),
        };
        let keys = [self.keys.tenant(tenant, log.name()), self.keys.tenant(tenant, log.moved())];
        // Kept for so long: what was written in this very millisecond goes, too.
        let old = p48((now.0 + 1).saturating_sub(kept_secs.saturating_mul(1000)));
        let mut dropped = 0;
        loop {
            let make = |_| {
                let mut cmd = script::TRIM.call(&keys);
                cmd.arg(&old).arg(max.max(1)).arg(ENTRIES);
                cmd
            };
            let route = Route::quick(Slot::of(&keys::tenant_tag(tenant)));
            let went = self.shards.ask(route, make).await?;
            match reply::int(&went).and_then(|went| u64::try_from(went).ok()) {
                Some(0) => return Ok(dropped),
                Some(went) => dropped += went,
                None => return Err(damaged("the answer to trim")),
            }
        }
    }

    /// Puts what is due at the tails of its lanes.
    pub(super) async fn requeue_due(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let now = self.not_ahead(now);
        let mine = (0..BUCKETS).filter(|bucket| self.nodes.looks_after(*bucket));
        let due: Vec<Vec<DeviceKey>> = stream::iter(mine)
            .map(|bucket| self.due('w', bucket, now, limit))
            .buffer_unordered(TOGETHER)
            .try_collect()
            .await?;
        let mut moved = 0;
        for device in due.iter().flatten() {
            if moved >= limit {
                break;
            }
            moved += self.requeue(device, now, limit - moved).await?;
        }
        Ok(moved)
    }

    /// That time, or where it is ahead of the time of Redis by more than clocks may differ, the latest that it can be: a clock that has
    /// leapt since the last heartbeat ends nothing and brings nothing early. The time of Redis is carried on by a clock that does not leap.
    fn not_ahead(&self, now: Timestamp) -> Timestamp {
        now.min(Timestamp(self.nodes.now().saturating_add(self.config.clock_skew_max_ms)))
    }

    async fn requeue(&self, device: &DeviceKey, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let bucket = device.bucket();
        let keys = [
            self.keys.device('d', device),
            self.keys.device('p', device),
            self.keys.device('q', device),
            self.keys.device('s', device),
            self.keys.bucket('w', bucket),
        ];
        let member = keys::member(device);
        let make = |floor: u64| {
            let mut cmd = script::REQUEUE.call(&keys);
            cmd.arg(now.0).arg(floor).arg(&member).arg(limit);
            cmd
        };
        let value = self.shards.ask(Route::durable(Slot::of_bucket(bucket)), make).await?;
        let mut reply = Reply::new(value, "the answer to requeue")?;
        let ordinal = reply.bytes()?;
        let seat = self.live_seat(&reply.bytes()?).await;
        let moved = reply.rows()?;
        if moved.is_empty() {
            return Ok(0);
        }
        let ordinal = ordinal.try_into().map_err(|_| damaged("the answer to requeue"))?;
        let owner = self.owner(device, u32::from_be_bytes(ordinal));
        for found in &moved {
            let event = owner.queued(found)?;
            if event.event.expires_at() > now {
                self.announce(seat.as_ref(), || event);
            }
        }
        self.watches.wake([device]);
        Ok(moved.len())
    }
}

fn devices(found: Value) -> Result<Vec<DeviceKey>, StoreError> {
    let Value::Array(members) = found else { return Ok(Vec::new()) };
    let device = |member| {
        let member = String::from_utf8(reply::bytes(member)?).ok()?;
        keys::device_of(&member)
    };
    members
        .into_iter()
        .map(|member| device(member).ok_or_else(|| damaged("a list of devices")))
        .collect()
}

/// One bounded round.
pub(super) async fn round(store: &RedisStore, now: Timestamp) -> Result<Swept, StoreError> {
    // One round at a time; whoever comes second waits for its turn.
    let mut place = store.housekeeping.lock().await;
    let shared = Arc::clone(&store.shared);
    let now = shared.not_ahead(now);
    let end = place.bucket.saturating_add(BUCKETS_A_ROUND).min(BUCKETS);
    let mine = (place.bucket..end).filter(|bucket| shared.nodes.looks_after(*bucket));
    let mut swept = Swept::default();
    let mut results = stream::iter(mine)
        .map(|bucket| shared.sweep_bucket(bucket, now))
        .buffer_unordered(TOGETHER);
    while let Some(result) = results.next().await {
        let (expired, dropped) = result?;
        swept.expired += expired;
        swept.dropped += dropped;
    }
    drop(results);
    if end < BUCKETS {
        place.bucket = end;
        return Ok(swept);
    }
    place.bucket = 0;
    swept.complete = true;
    super::mover::round(store).await?;
    if shared.nodes.looks_after(0) {
        let tenants: Vec<u16> = shared.memory.tenants.read().keys().copied().collect();
        for tenant in tenants {
            swept.dropped += shared.trim_log(TenantId(tenant), Log::Receipts, now).await?;
            swept.dropped += shared.trim_log(TenantId(tenant), Log::Feed, now).await?;
            swept.dropped += shared.trim_audit(TenantId(tenant), now).await?;
        }
        swept.dropped += store.sweep_webhooks().await?;
    }
    let mine = (0..BUCKETS).filter(|bucket| shared.nodes.looks_after(*bucket));
    let oldest: Vec<Option<Timestamp>> = stream::iter(mine)
        .map(|bucket| shared.oldest(bucket))
        .buffer_unordered(TOGETHER)
        .try_collect()
        .await?;
    shared.counters.set_oldest(oldest.into_iter().flatten().min());
    Ok(swept)
}
