//! Reading everything out. A device and its deliveries are read by one script, and so are of one moment.

use std::{collections::BTreeMap, ops::Bound};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    keys::{self, BUCKETS, Slot},
    mover::Log,
    receipt,
    reply::{self, Reply},
    shards::Route,
};
use crate::{
    domain::{Clock as _, Epoch, TenantId},
    store::{
        StoreError,
        codec::damaged,
        figures,
        transfer::{AuditRow, GroupRow, Header, KeyRow, MinuteRow, Part, ReceiptRow, Row, RowPage, TenantRow},
    },
};

/// Receipts of a page.
const RECEIPTS: usize = 1_000;
/// Groups after which a page ends: those of a bucket are in one.
const GROUPS: usize = 200;
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
            Part::Keys => self.key_rows().await,
            // It is asked of the whole store.
            Part::Webhooks => Ok(RowPage::default()),
            Part::Audit => self.audit_rows(after).await,
            Part::Receipts => self.receipt_rows(after).await,
            Part::Minutes => self.minute_rows(after).await,
            Part::Devices => self.device_rows(after).await,
            Part::Groups => self.group_rows(after).await,
        }
    }

    async fn tenant_rows(&self) -> Result<RowPage, StoreError> {
        let tenants: Vec<_> = self.memory.tenants.read().values().cloned().collect();
        let mut page = RowPage::default();
        for tenant in tenants {
            let last = self.last_ordinal(TenantId(tenant.id)).await?;
            page.rows.push(Row::Tenant(TenantRow::of(&tenant, last.unwrap_or(0))));
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

    async fn key_rows(&self) -> Result<RowPage, StoreError> {
        let used = self.read_key_uses().await?;
        let keys = self.memory.keys.read();
        let row = |(hash, key): (&[u8; 32], &std::sync::Arc<crate::store::ApiKey>)| {
            let of_key = (TenantId(key.tenant), std::sync::Arc::from(key.id.as_str()));
            Row::Key(KeyRow::of(*hash, key, used.get(&of_key).copied()))
        };
        Ok(RowPage {
            rows: keys.iter().map(row).collect(),
            next: None,
        })
    }

    async fn audit_rows(&self, after: Option<Vec<u8>>) -> Result<RowPage, StoreError> {
        let (tenant, from): (u16, u64) = match &after {
            Some(after) => serde_json::from_slice(after).map_err(|_| unreadable())?,
            None => (0, 0),
        };
        let entries = self.read_audit(TenantId(tenant), from, u64::MAX, RECEIPTS).await?;
        let next = match entries.last() {
            Some((last, _)) if entries.len() >= RECEIPTS => Some((tenant, last.saturating_add(1))),
            _ => self.tenant_behind(tenant).map(|next| (next, 0)),
        };
        let row = |(position, entry)| Row::Audit(AuditRow { tenant, position, entry });
        Ok(RowPage {
            rows: entries.into_iter().map(row).collect(),
            next: next.map(|next| super::shared::json(&next)).transpose()?,
        })
    }

    fn tenant_behind(&self, tenant: u16) -> Option<u16> {
        let tenants = self.memory.tenants.read();
        let mut behind = tenants.range((Bound::Excluded(tenant), Bound::Unbounded));
        behind.next().map(|(next, _)| *next)
    }

    async fn receipt_rows(&self, after: Option<Vec<u8>>) -> Result<RowPage, StoreError> {
        let (tenant, position): (u16, u64) = match &after {
            Some(after) => serde_json::from_slice(after).map_err(|_| unreadable())?,
            None => (0, 0),
        };
        let entries = self.logged(TenantId(tenant), Log::Receipts, position, RECEIPTS).await?;
        let mut page = RowPage::default();
        for (position, bytes) in &entries {
            let receipt = receipt::read_receipt(*position, bytes)?;
            page.rows.push(Row::Receipt(ReceiptRow::of(TenantId(tenant), &receipt)?));
        }
        let next = match entries.last() {
            Some((last, _)) if entries.len() >= RECEIPTS => Some((tenant, *last)),
            _ => self.tenant_behind(tenant).map(|next| (next, 0)),
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

    /// The groups of some buckets.
    async fn group_rows(&self, after: Option<Vec<u8>>) -> Result<RowPage, StoreError> {
        let mut bucket: u16 = match &after {
            Some(after) => serde_json::from_slice(after).map_err(|_| unreadable())?,
            None => 0,
        };
        let mut page = RowPage::default();
        while bucket < BUCKETS && page.rows.len() < GROUPS {
            let groups = self.groups_of(bucket).await?;
            page.rows
                .extend(groups.into_iter().map(|group| Row::Group(Box::new(GroupRow::of(group)))));
            bucket += 1;
        }
        page.next = (bucket < BUCKETS).then(|| super::shared::json(&bucket)).transpose()?;
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
}

fn rough_bytes(row: &Row) -> usize {
    match row {
        Row::Delivery(delivery) => 256 + delivery.waits.as_ref().map_or(0, |waits| waits.data.get().len()),
        _ => 512,
    }
}
