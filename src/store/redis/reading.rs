//! What is read without a change: queues, seats, deliveries, and whether something came for a device that somebody waits for.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    StreamExt,
    future::{join_all, try_join},
    stream,
};
use redis::Value;

use super::{
    Shared,
    device::{Head, Row},
    keys::{self, Slot},
    record::{self, Ending},
    reply::{self, Reply},
    script,
    seat::Record,
    shards::Route,
};
use crate::{
    domain::{Clock as _, DeliveryState, EventId, Located, Queue, TenantId, Timestamp},
    store::{Cursor, Delivery, DeviceKey, Page, SeatView, Settle, StoreError, codec::damaged},
};

/// How late a long poll hears of what another node stored.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How often an event that goes from place to place is looked for.
const LOOKS: usize = 3;
/// Events of one device that are looked at for the oldest that is not scheduled.
const OLDEST: usize = 8;
/// Reads under way at once where many are needed.
const TOGETHER: usize = 128;

impl Shared {
    /// One row of a device.
    pub(super) async fn row(&self, kind: char, device: &DeviceKey) -> Result<Option<Vec<u8>>, StoreError> {
        let key = self.keys.device(kind, device);
        let make = |_| {
            let mut cmd = redis::cmd("GET");
            cmd.arg(&key);
            cmd
        };
        let route = Route::read(Slot::of_bucket(device.bucket()));
        Ok(reply::bytes(self.shards.ask(route, make).await?))
    }

    /// One field of a hash of a device.
    async fn field(&self, kind: char, device: &DeviceKey, field: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let key = self.keys.device(kind, device);
        let make = |_| {
            let mut cmd = redis::cmd("HGET");
            cmd.arg(&key).arg(field);
            cmd
        };
        let route = Route::read(Slot::of_bucket(device.bucket()));
        Ok(reply::bytes(self.shards.ask(route, make).await?))
    }

    /// The places of a hash of a device: queue and number of each.
    async fn places(&self, kind: char, device: &DeviceKey) -> Result<Vec<(Queue, u64)>, StoreError> {
        let key = self.keys.device(kind, device);
        let make = |_| {
            let mut cmd = redis::cmd("HKEYS");
            cmd.arg(&key);
            cmd
        };
        let route = Route::read(Slot::of_bucket(device.bucket()));
        let Value::Array(fields) = self.shards.ask(route, make).await? else {
            return Ok(Vec::new());
        };
        let place = |field| keys::read_field(&reply::bytes(field)?);
        Ok(fields.into_iter().filter_map(place).collect())
    }

    pub(super) async fn read_pending(&self, device: &DeviceKey, after: Cursor, limit: usize) -> Result<Page, StoreError> {
        let keys = [self.keys.device('d', device), self.keys.device('q', device)];
        let now = self.clock.now();
        let make = |_| {
            let mut cmd = script::PENDING.call(&keys);
            cmd.arg(after.first).arg(after.rest).arg(limit).arg(now.0);
            cmd
        };
        let value = self.shards.ask(Route::read(Slot::of_bucket(device.bucket())), make).await?;
        let mut reply = Reply::new(value, "a page of events")?;
        match reply.int()? {
            0 => return Err(StoreError::UnknownDevice),
            1 => return Err(StoreError::RemovedDevice),
            _ => {}
        }
        let ordinal = u32::from_be_bytes(reply.array()?);
        self.held.learn(device, ordinal);
        let owner = self.owner(device, ordinal);
        let mut events = Vec::new();
        for found in reply.rows()? {
            events.push(Arc::new(owner.queued(&found)?));
        }
        let more = events.len() > limit;
        events.truncate(limit);
        Ok(Page { events, more })
    }

    /// The row of a device that is there.
    async fn present(&self, device: &DeviceKey) -> Result<Head, StoreError> {
        let row = self.row('d', device).await?.ok_or(StoreError::UnknownDevice)?;
        let head = Head::read(&row)?;
        if head.removed { Err(StoreError::RemovedDevice) } else { Ok(head) }
    }

    pub(super) async fn read_seat(&self, device: &DeviceKey) -> Result<SeatView, StoreError> {
        let (_, (record, counts)) = try_join(self.present(device), try_join(self.row('p', device), self.field('q', device, b"_"))).await?;
        let record = Record::read(record.as_deref()).ok_or_else(|| damaged("the seat of a device"))?;
        let waiting = match &counts {
            Some(counts) => {
                let events = counts.first_chunk().ok_or_else(|| damaged("the counts of a queue"))?;
                u32::from_be_bytes(*events)
            }
            None => 0,
        };
        if let Some(holder) = &record.holder {
            self.know(holder.node, holder.incarnation).await;
        }
        let holder = record.holder.filter(|holder| self.nodes.holds(holder.node, holder.incarnation));
        // What a dead node left tells at least when its device was there.
        let left_at = record.holder.filter(|_| holder.is_none()).map(|holder| holder.seat().connected_at);
        Ok(SeatView {
            seat: holder.map(|holder| holder.seat()),
            last_epoch: record.epoch,
            last_seen_at: record.last_seen_at.max(left_at),
            waiting,
        })
    }

    /// The seats of many devices: commands to one shard share pipelines.
    pub(super) async fn read_seats(&self, devices: &[DeviceKey]) -> Vec<Result<SeatView, StoreError>> {
        let reads: Vec<_> = devices.iter().map(|device| self.read_seat(device)).collect();
        stream::iter(reads).buffered(TOGETHER).collect().await
    }

    /// What became of the event that was born at that place of the device.
    async fn delivery_of(
        &self,
        device: &DeviceKey,
        ordinal: u32,
        place: (Queue, u64),
        id: EventId,
    ) -> Result<Option<Delivery>, StoreError> {
        let (queue, number) = place;
        let (field, owner) = (keys::field(queue, number), self.owner(device, ordinal));
        for _ in 0..LOOKS {
            // The queue is read first: what left it has its end by then.
            let (waits, end) = try_join(self.field('q', device, &field), self.field('s', device, &field)).await?;
            let end = end.as_deref().map(record::split).transpose()?;
            let ending = end.map(|(_, ending)| Ending::decode(ending)).transpose()?;
            let waits = match (waits, ending.as_ref().and_then(|ending| ending.waits_at)) {
                (None, Some(moved)) if moved != number => self.field('q', device, &keys::field(queue, moved)).await?,
                (waits, _) => waits,
            };
            if let Some(waits) = waits {
                let (head, _) = record::split(&waits)?;
                return owner.delivery(id, &head, ending.as_ref()).map(Some);
            }
            let (Some((head, _)), Some(ending)) = (end, ending) else {
                return Ok(None);
            };
            if ending.waits_at.is_some() {
                // It went on between the looks.
                continue;
            }
            let kept = Duration::from_secs(self.limits.state_kept_secs);
            if self.clock.now() >= ending.at.plus(kept) {
                return Ok(None);
            }
            return owner.delivery(id, &head, Some(&ending)).map(Some);
        }
        Ok(None)
    }

    /// The device of a place: it has its number for ever.
    async fn device_of(&self, located: Located) -> Result<Option<DeviceKey>, StoreError> {
        let (bucket, tenant) = (located.bucket, located.tenant);
        let key = self.keys.tenant_bucket('i', bucket, tenant);
        let make = |_| {
            let mut cmd = redis::cmd("HGET");
            cmd.arg(&key).arg(&located.ordinal.to_be_bytes());
            cmd
        };
        let name = self.shards.ask(Route::read(Slot::of_bucket(bucket)), make).await?;
        let Some(name) = reply::bytes(name) else { return Ok(None) };
        let device = std::str::from_utf8(&name).ok().and_then(|name| name.parse().ok());
        let device = device.ok_or_else(|| damaged("the device of an ordinal"))?;
        Ok(Some(DeviceKey { tenant, device }))
    }

    /// Which of these ends are said of events of other devices of the same bucket: a place has a number of its device, and others have
    /// the same ones. Nothing is read for the sessions of this node.
    pub(super) async fn strangers(&self, ends: &[Settle]) -> Result<HashSet<(DeviceKey, u32)>, StoreError> {
        let unknown: HashMap<(DeviceKey, u32), Located> = ends
            .iter()
            .filter(|end| end.located.tenant == end.device.tenant && end.located.bucket == end.device.bucket())
            .filter(|end| !self.held.knows(&end.device, end.located.ordinal))
            .map(|end| ((end.device.clone(), end.located.ordinal), end.located))
            .collect();
        let looks = unknown.into_iter().map(|(said, located)| async move {
            let owner = self.device_of(located).await?;
            Ok((owner.as_ref() != Some(&said.0)).then_some(said))
        });
        let found: Result<Vec<_>, StoreError> = join_all(looks).await.into_iter().collect();
        Ok(found?.into_iter().flatten().collect())
    }

    pub(super) async fn read_delivery(&self, tenant: TenantId, id: EventId) -> Result<Option<Delivery>, StoreError> {
        let Some(located) = self.ids.open(id).filter(|located| located.tenant == tenant) else {
            return Ok(None);
        };
        let Some(queue) = located.queue else { return Ok(None) };
        let Some(device) = self.device_of(located).await? else {
            return Ok(None);
        };
        self.delivery_of(&device, located.ordinal, (queue, located.number), id).await
    }

    pub(super) async fn read_deliveries(
        &self,
        device: &DeviceKey,
        before: Option<EventId>,
        limit: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        let row = self.row('d', device).await?.ok_or(StoreError::UnknownDevice)?;
        let row = Row::decode(device.device.clone(), &row)?.ok_or(StoreError::RemovedDevice)?;
        let ordinal = row.device.ordinal;
        let before = match before.map(|id| self.ids.open(id).filter(|located| located.tenant == device.tenant)) {
            None => u64::MAX,
            Some(None) => return Ok(Vec::new()),
            Some(Some(located)) => {
                let field = keys::field(located.queue.unwrap_or(Queue::Rest), located.number);
                let end = self.field('s', device, &field).await?;
                let moved = match end.as_deref().map(record::split).transpose()? {
                    Some((_, ending)) => Ending::decode(ending)?.waits_at,
                    None => None,
                };
                moved.unwrap_or(located.number)
            }
        };
        let (waiting, ended) = try_join(self.places('q', device), self.places('s', device)).await?;
        let ours = |(_, number): &(Queue, u64)| *number < before && *number > row.begins_behind;
        let mut places: Vec<((Queue, u64), bool)> = waiting
            .into_iter()
            .map(|place| (place, true))
            .chain(ended.into_iter().map(|place| (place, false)))
            .filter(|(place, _)| ours(place))
            .collect();
        places.sort_unstable_by_key(|((queue, number), waits)| (std::cmp::Reverse(*number), *queue, !*waits));
        let mut found: Vec<Delivery> = Vec::new();
        for ((queue, number), waits) in places {
            if found.len() >= limit {
                break;
            }
            let born = if waits {
                match self.field('q', device, &keys::field(queue, number)).await? {
                    Some(record) => record::split(&record)?.0.born,
                    None => continue,
                }
            } else {
                // What waits again is found where it waits.
                match self.field('s', device, &keys::field(queue, number)).await? {
                    Some(end) if Ending::decode(record::split(&end)?.1)?.waits_at.is_none() => number,
                    _ => continue,
                }
            };
            let id = self.owner(device, ordinal).id(queue, born);
            if found.iter().any(|delivery| delivery.id == id) {
                continue;
            }
            found.extend(self.delivery_of(device, ordinal, (queue, born), id).await?);
        }
        Ok(found)
    }

    /// From when the oldest event of a device that waits, and is not scheduled, can be delivered.
    pub(super) async fn first_accepted(&self, device: &DeviceKey) -> Result<Option<Timestamp>, StoreError> {
        // Numbers rise over both queues.
        let mut places = self.places('q', device).await?;
        places.sort_unstable_by_key(|(_, number)| *number);
        for (queue, number) in places.into_iter().take(OLDEST) {
            if let Some(record) = self.field('q', device, &keys::field(queue, number)).await? {
                let (head, _) = record::split(&record)?;
                if head.waits_as() == DeliveryState::Queued {
                    return Ok(Some(head.deliverable_from()));
                }
            }
        }
        Ok(None)
    }

    /// What changes when something is stored for a device, or it is changed or removed: its last number and its row's times.
    async fn trace(&self, device: &DeviceKey) -> Result<(u64, Option<Vec<u8>>), StoreError> {
        let (seat, row) = try_join(self.row('p', device), self.row('d', device)).await?;
        let number = Record::read(seat.as_deref()).map_or(0, |record| record.number);
        Ok((number, row.map(|row| row.get(..22).unwrap_or_default().to_vec())))
    }
}

/// Wakes who waits for news of a device that another node stored.
pub(super) async fn follow_watches(shared: Arc<Shared>) {
    let mut seen: HashMap<DeviceKey, (u64, Option<Vec<u8>>)> = HashMap::new();
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        let watched = shared.watches.devices();
        let mut now = HashMap::with_capacity(watched.len());
        let trace = |device: DeviceKey| async {
            let trace = shared.trace(&device).await;
            (device, trace)
        };
        let mut traces = stream::iter(watched).map(trace).buffer_unordered(TOGETHER);
        while let Some((device, trace)) = traces.next().await {
            let Ok(trace) = trace else { continue };
            // One that is new here may have missed what came between its first look and this one.
            if seen.get(&device) != Some(&trace) {
                shared.watches.wake([&device]);
            }
            now.insert(device, trace);
        }
        drop(traces);
        seen = now;
    }
}
