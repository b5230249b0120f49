//! Reading everything out. A device and its deliveries are read by one script, and so are of one moment.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Shared,
    device::{Head, Row as DeviceRecord},
    keys::{self, BUCKETS, Slot},
    record::{self, Ending, Owner},
    registry::{read_reported, read_tokens},
    reply::{self, Pairs, Reply},
    script,
    seat::Record,
    shards::Route,
};
use crate::{
    domain::{Clock as _, Cohort, Epoch, Queue, TenantId},
    store::{
        DeviceKey, StoreError,
        codec::damaged,
        figures,
        transfer::{
            DeliveryRow, DeviceRow, Ended, Header, IdempotencyRow, KeyRow, MinuteRow, Part, ReceiptRow, Row, RowPage, TenantRow, Waits,
        },
    },
};

/// Receipts of a page.
const RECEIPTS: usize = 1_000;
/// Rows and bytes of records after which a page of devices ends.
const ROWS_MAX: usize = 1_000;
const BYTES_MAX: usize = 1024 * 1024;
/// Devices read at once: with full queues, 4 MiB each.
const DEVICES: usize = 8;
/// Buckets or hours looked at in one go.
const TOGETHER: u64 = 256;
/// The first hour that a ledger can have: there was no version of this program before 2025.
const FIRST_HOUR: u64 = 1_735_689_600 / 3_600;

/// How far the devices were read.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Place {
    tenant: u16,
    bucket: u16,
    /// The cursor of the bucket's ordinals; 0: to begin.
    scan: String,
    /// Ordinals and ids that were scanned and not read yet.
    left: Vec<(u32, String)>,
}

/// Everything of one device, as it is stored.
struct Snapshot {
    row: Vec<u8>,
    seat: Vec<u8>,
    queue: Pairs,
    states: Pairs,
    tokens: Vec<u8>,
    reported: Vec<u8>,
}

fn unreadable() -> StoreError {
    damaged("where a page of an export begins")
}

impl Shared {
    pub(super) async fn exported_header(&self) -> Result<Header, StoreError> {
        self.remember_all().await?;
        let identity = self.stored_identity().await?;
        let domain = self.memory.tenants.read().get(&0).map(|tenant| tenant.domain.clone());
        let now = self.clock.now();
        Ok(Header {
            format: crate::store::transfer::FORMAT,
            id: uuid::Uuid::new_v4().simple().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            exported_at: now,
            domain: domain.unwrap_or_default(),
            generation: identity.generation,
            // Epochs are times, or one above the last.
            epoch: Epoch(now.0 + (1 << 32)),
            id_key: identity.id_secret,
        })
    }

    pub(super) async fn exported_rows(&self, part: Part, after: Option<Vec<u8>>) -> Result<RowPage, StoreError> {
        match part {
            Part::Tenants => self.tenant_rows().await,
            Part::Keys => Ok(self.key_rows()),
            Part::Receipts => self.receipt_rows(after).await,
            Part::Minutes => self.minute_rows(after).await,
            Part::Devices => self.device_rows(after).await,
        }
    }

    async fn tenant_rows(&self) -> Result<RowPage, StoreError> {
        let tenants: Vec<_> = self.memory.tenants.read().values().cloned().collect();
        let mut page = RowPage::default();
        for tenant in tenants {
            let last = self.last_ordinal(TenantId(tenant.id)).await?;
            page.rows.push(Row::Tenant(TenantRow {
                id: tenant.id,
                name: tenant.name.clone(),
                domain: tenant.domain.clone(),
                last_ordinal: last.unwrap_or(0),
            }));
        }
        Ok(page)
    }

    /// The last ordinal that a tenant gave out. `None`: it never gave one.
    pub(super) async fn last_ordinal(&self, tenant: TenantId) -> Result<Option<u32>, StoreError> {
        let key = self.keys.tenant(tenant, "ordinal");
        let make = |_| {
            let mut cmd = redis::cmd("GET");
            cmd.arg(&key);
            cmd
        };
        let found = self.shards.ask(Route::read(Slot::of(&keys::tenant_tag(tenant))), make).await?;
        Ok(reply::int(&found).map(|last| u32::try_from(last).unwrap_or(u32::MAX)))
    }

    fn key_rows(&self) -> RowPage {
        let keys = self.memory.keys.read();
        let row = |(hash, key): (&[u8; 32], &std::sync::Arc<crate::store::ApiKey>)| {
            Row::Key(KeyRow {
                hash: *hash,
                id: key.id.clone(),
                name: key.name.clone(),
                tenant: key.tenant,
                scope: key.scope,
                created_at: key.created_at,
            })
        };
        RowPage {
            rows: keys.iter().map(row).collect(),
            next: None,
        }
    }

    async fn receipt_rows(&self, after: Option<Vec<u8>>) -> Result<RowPage, StoreError> {
        let (tenant, position): (u16, u64) = match &after {
            Some(after) => serde_json::from_slice(after).map_err(|_| unreadable())?,
            None => (0, 0),
        };
        let entries = self.entries(TenantId(tenant), position, RECEIPTS).await?;
        let mut page = RowPage::default();
        for (position, bytes) in &entries {
            let receipt = record::read_receipt(*position, bytes)?;
            page.rows.push(Row::Receipt(ReceiptRow::of(TenantId(tenant), &receipt)?));
        }
        let next = match entries.last() {
            Some((last, _)) if entries.len() >= RECEIPTS => Some((tenant, *last)),
            _ => {
                let tenants = self.memory.tenants.read();
                tenants
                    .range(tenant.saturating_add(1)..)
                    .next()
                    .map(|(next, _)| (*next, 0))
                    .filter(|(next, _)| *next > tenant)
            }
        };
        page.next = next.map(|next| super::shared::json(&next)).transpose()?;
        Ok(page)
    }

    async fn minute_rows(&self, after: Option<Vec<u8>>) -> Result<RowPage, StoreError> {
        let from: u64 = match &after {
            Some(after) => serde_json::from_slice(after).map_err(|_| unreadable())?,
            None => FIRST_HOUR,
        };
        let now = self.clock.now().0 / 3_600_000;
        let to = (from + TOGETHER).min(now + 1);
        let mut hours = stream::iter(from..to).map(|hour| self.hour(hour)).buffered(32);
        let mut page = RowPage::default();
        while let Some(rows) = hours.next().await {
            for (field, row) in rows? {
                let named = std::str::from_utf8(&field).ok().and_then(|field| {
                    let (minute, node) = field.split_once(':')?;
                    Some((minute.parse().ok()?, node.to_owned()))
                });
                let (minute, node) = named.ok_or_else(|| damaged("minutes of the ledger"))?;
                let mut sum = BTreeMap::new();
                figures::add_figures(&row, &mut sum)?;
                page.rows.push(Row::Minute(MinuteRow {
                    minute,
                    node,
                    figures: sum,
                }));
            }
        }
        page.next = (to <= now).then(|| super::shared::json(&to)).transpose()?;
        Ok(page)
    }

    async fn device_rows(&self, after: Option<Vec<u8>>) -> Result<RowPage, StoreError> {
        let mut place: Place = match &after {
            Some(after) => serde_json::from_slice(after).map_err(|_| unreadable())?,
            None => Place::default(),
        };
        let (mut page, mut bytes) = (RowPage::default(), 0);
        while page.rows.len() < ROWS_MAX && bytes < BYTES_MAX {
            if place.left.is_empty() && !self.scan(&mut place).await? {
                return Ok(page);
            }
            let few = place.left.len().min(DEVICES);
            let tenant = TenantId(place.tenant);
            let reads = place.left.drain(..few).map(|(ordinal, id)| self.read_device(tenant, ordinal, id));
            let found: Vec<Option<Vec<Row>>> = stream::iter(reads).buffered(DEVICES).try_collect().await?;
            for rows in found.into_iter().flatten() {
                bytes += rows.iter().map(rough_bytes).sum::<usize>();
                page.rows.extend(rows);
            }
        }
        page.next = Some(super::shared::json(&place)?);
        Ok(page)
    }

    /// Finds the next devices. False: there are no more.
    async fn scan(&self, place: &mut Place) -> Result<bool, StoreError> {
        loop {
            let known = self.memory.tenants.read().range(place.tenant..).next().map(|(tenant, _)| *tenant);
            let Some(tenant) = known else { return Ok(false) };
            if tenant != place.tenant {
                (place.tenant, place.bucket, place.scan) = (tenant, 0, String::new());
            }
            if place.scan.is_empty() {
                let Some(bucket) = self.next_filled(TenantId(tenant), place.bucket).await? else {
                    let Some(next) = tenant.checked_add(1) else { return Ok(false) };
                    (place.tenant, place.bucket) = (next, 0);
                    continue;
                };
                (place.bucket, place.scan) = (bucket, "0".to_owned());
            }
            let key = self.keys.tenant_bucket('i', place.bucket, TenantId(tenant));
            let make = |_| {
                let mut cmd = redis::cmd("HSCAN");
                cmd.arg(&key).arg(&place.scan).arg("COUNT").arg(100);
                cmd
            };
            let mut reply = Reply::new(
                self.shards.ask(Route::read(Slot::of_bucket(place.bucket)), make).await?,
                "devices of a bucket",
            )?;
            place.scan = reply.text()?;
            for (ordinal, id) in reply::hash(reply.next()?, "devices of a bucket")? {
                let ordinal = ordinal.try_into().map(u32::from_be_bytes).map_err(|_| damaged("an ordinal"))?;
                place
                    .left
                    .push((ordinal, String::from_utf8(id).map_err(|_| damaged("the name of a device"))?));
            }
            if place.scan == "0" {
                place.scan.clear();
                place.bucket += 1;
            }
            if !place.left.is_empty() {
                return Ok(true);
            }
        }
    }

    /// The first bucket from `bucket` on in which a tenant has devices.
    async fn next_filled(&self, tenant: TenantId, bucket: u16) -> Result<Option<u16>, StoreError> {
        let count = |bucket| async move {
            let key = self.keys.tenant_bucket('i', bucket, tenant);
            let make = |_| {
                let mut cmd = redis::cmd("HLEN");
                cmd.arg(&key);
                cmd
            };
            let count = self.shards.ask(Route::read(Slot::of_bucket(bucket)), make).await?;
            Ok::<_, StoreError>((bucket, reply::int(&count).unwrap_or(0)))
        };
        let mut counts = stream::iter(bucket..BUCKETS)
            .map(count)
            .buffered(usize::try_from(TOGETHER).unwrap_or(1));
        while let Some(counted) = counts.next().await {
            let (bucket, count) = counted?;
            if count > 0 {
                return Ok(Some(bucket));
            }
        }
        Ok(None)
    }

    /// A device and its deliveries. `None`: that ordinal is not the device's any more.
    async fn read_device(&self, tenant: TenantId, ordinal: u32, id: String) -> Result<Option<Vec<Row>>, StoreError> {
        let device = DeviceKey {
            tenant,
            device: id.parse().map_err(|_| damaged("the name of a device"))?,
        };
        let keys = ['d', 'p', 'q', 's', 'f', 'e'].map(|kind| self.keys.device(kind, &device));
        let make = |_| script::SNAPSHOT.call(&keys);
        let value = self.shards.ask(Route::read(Slot::of_bucket(device.bucket())), make).await?;
        let mut reply = Reply::new(value, "a device")?;
        let snapshot = Snapshot {
            row: reply.bytes()?,
            seat: reply.bytes()?,
            queue: reply::hash(reply.next()?, "a queue")?,
            states: reply::hash(reply.next()?, "the states of a device")?,
            tokens: reply.bytes()?,
            reported: reply.bytes()?,
        };
        if snapshot.row.is_empty() || Head::read(&snapshot.row)?.ordinal != ordinal {
            return Ok(None);
        }
        self.rows_of(&device, &snapshot).map(Some)
    }

    fn rows_of(&self, device: &DeviceKey, snapshot: &Snapshot) -> Result<Vec<Row>, StoreError> {
        let head = Head::read(&snapshot.row)?;
        let known = DeviceRecord::decode(device.device.clone(), &snapshot.row)?;
        let seat = Some(snapshot.seat.as_slice()).filter(|seat| !seat.is_empty());
        let seat = Record::read(seat).ok_or_else(|| damaged("the seat of a device"))?;
        let begins_behind = known.as_ref().map_or(0, |row| row.begins_behind);
        let known = known.map(|row| row.device);
        let mut rows = vec![Row::Device(Box::new(DeviceRow {
            tenant: device.tenant.0,
            id: device.device.clone(),
            ordinal: head.ordinal,
            removed: head.removed,
            user: known.as_ref().and_then(|known| known.user.clone()),
            attributes: known.as_ref().map(|known| known.attributes.clone()).unwrap_or_default(),
            cohort: known.as_ref().map_or(Cohort::default(), |known| known.cohort),
            credentials: known.map(|known| known.credentials).unwrap_or_default(),
            credential_generation: head.credential_generation,
            created_at: head.created_at,
            updated_at: head.updated_at,
            number: seat.number,
            seqs: seat.seqs,
            epoch: seat.epoch,
            last_seen_at: seat.last_seen_at,
            tokens: Some(read_tokens(&snapshot.tokens)?).filter(|tokens| !tokens.is_empty()),
            reported: read_reported(&snapshot.reported)?,
        }))];
        let states: BTreeMap<&[u8], &[u8]> = snapshot
            .states
            .iter()
            .map(|(field, value)| (field.as_slice(), value.as_slice()))
            .collect();
        let owner = self.owner(device, head.ordinal);
        let mut waiting = BTreeMap::new();
        for (field, record) in &snapshot.queue {
            // Collapse keys and counts are made anew.
            if let Some((queue, number)) = keys::read_field(field) {
                waiting.insert((queue, number), record::split(record)?);
            }
        }
        let mut born_of_waiting = std::collections::BTreeSet::new();
        for ((queue, number), (head, json)) in &waiting {
            let born = keys::field(*queue, head.born);
            born_of_waiting.insert(born);
            let ending = states.get(&born[..]).map(|row| Ending::decode(record::split(row)?.1)).transpose()?;
            let waits = Waits {
                number: (*number != head.born).then_some(*number),
                due: head.due,
                at_next_session: head.at_next_session(),
                data: data(json)?,
            };
            rows.push(delivery_row(&owner, *queue, head, &states, ending, Some(waits))?);
        }
        let kept = Duration::from_secs(self.limits.state_kept_secs);
        for (field, row) in &states {
            let Some((queue, number)) = keys::read_field(field) else { continue };
            let (head, ending) = record::split(row)?;
            let ending = Ending::decode(ending)?;
            let ours = number > begins_behind && !born_of_waiting.contains(&keys::field(queue, number)) && ending.waits_at.is_none();
            if ours && self.clock.now() < ending.at.plus(kept) {
                rows.push(delivery_row(&owner, queue, &head, &states, Some(ending), None)?);
            }
        }
        Ok(rows)
    }
}

fn delivery_row(
    owner: &Owner<'_>,
    queue: Queue,
    head: &record::Head<'_>,
    states: &BTreeMap<&[u8], &[u8]>,
    ending: Option<Ending>,
    waits: Option<Waits>,
) -> Result<Row, StoreError> {
    let born = keys::field(queue, head.born);
    let idempotency = head.idempotency.map(|key| {
        let kept = states.get([b"i", &key[..]].concat().as_slice());
        let body = kept
            .and_then(|kept| kept.strip_prefix(&born))
            .and_then(|rest| rest.get(..16))
            .and_then(|body| body.try_into().ok());
        IdempotencyRow { key, body }
    });
    Ok(Row::Delivery(Box::new(DeliveryRow {
        id: owner.id(queue, head.born),
        device: owner.device.clone(),
        accepted_at: head.accepted_at,
        expires_at: head.expires_at,
        urgency: head.urgency()?,
        require: head.require()?,
        seq: head.seq,
        attempt: head.attempt,
        collapse_key: head.collapse_key.map(Into::into),
        idempotency,
        ended: ending.map(|ending| Ended {
            state: ending.state,
            reason: ending.reason,
            at: ending.at,
            session_epoch: ending.epoch,
            replaced_by: ending.replaced_by.map(|(queue, number)| owner.id(queue, number)),
            late_ack: ending.late_ack,
            told: ending.told.map(|told| (*told).clone()),
        }),
        waits,
    })))
}

fn data(json: &[u8]) -> Result<Box<RawValue>, StoreError> {
    let json = std::str::from_utf8(json)
        .ok()
        .and_then(|json| RawValue::from_string(json.to_owned()).ok());
    json.ok_or_else(|| damaged("the JSON of an event"))
}

fn rough_bytes(row: &Row) -> usize {
    match row {
        Row::Delivery(delivery) => 256 + delivery.waits.as_ref().map_or(0, |waits| waits.data.get().len()),
        _ => 512,
    }
}
