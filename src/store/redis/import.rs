//! Taking in what another store kept. A device and its deliveries are one script.

use std::collections::BTreeMap;

use async_trait::async_trait;
use redis::Value;

use super::{
    RedisStore, Shared,
    device::{Head, Row as DeviceRecord},
    keys::{self, SHARED, Slot},
    mover,
    record::{AT_NEXT_SESSION, BY_SESSION, IDEMPOTENT, LATE, REPLACED, TOLD, VERSION, WAITS},
    registry::counter,
    reply::{self, p48},
    script,
    shards::Route,
    shared::{Identity, json},
};
use crate::{
    domain::{Clock as _, Queue, Require, TenantId, Timestamp},
    store::{
        ApiKey, Device, Registry, StoreError, Tenant,
        codec::damaged,
        codes::{reason_code, state_code, urgency_code},
        figures,
        transfer::{
            DeliveryRow, DeviceRow, Header, KeyRow, MinuteRow, NUMBER_MAX, NUMBERS_LEFT_OUT, ORDINALS_LEFT_OUT, Part, Piece, Progress,
            ReceiptRow, RowPage, Taken, TenantRow, Transfer, may_begin, next_generation,
        },
    },
};

/// A device and its deliveries as they are stored.
struct Stored {
    row: Vec<u8>,
    seat: Vec<u8>,
    queue: Vec<(Vec<u8>, Vec<u8>)>,
    states: Vec<(Vec<u8>, Vec<u8>)>,
    waiting: u32,
    /// The first moment at which an event that waits again is due; 0: none does.
    again_at: u64,
}

impl Shared {
    async fn progress(&self) -> Result<(Vec<u8>, Option<Progress>), StoreError> {
        let key = self.keys.shared("import");
        let make = |_| {
            let mut cmd = redis::cmd("GET");
            cmd.arg(&key);
            cmd
        };
        let row = reply::bytes(self.shards.ask(Route::read(Slot::of(SHARED)), make).await?).unwrap_or_default();
        if row.is_empty() {
            return Ok((row, None));
        }
        let progress = serde_json::from_slice(&row).map_err(|_| damaged("how far an import came"))?;
        Ok((row, Some(progress)))
    }

    async fn begin(&self, header: &Header) -> Result<(), StoreError> {
        // As of now, not of the last heartbeat.
        self.say_that_it_lives().await?;
        if self.nodes.others() > 0 {
            return Err(StoreError::Conflict(
                "other nodes share this store; import while one node runs, and start the others afterwards".into(),
            ));
        }
        self.remember_all().await?;
        let tenants: Vec<u16> = self.memory.tenants.read().keys().copied().collect();
        let mut had_devices = false;
        for tenant in tenants {
            had_devices |= self.last_ordinal(TenantId(tenant)).await?.is_some();
        }
        let (row, before) = self.progress().await?;
        if !may_begin(before.as_ref(), header, had_devices)? {
            return Ok(());
        }
        let identity = Identity {
            generation: next_generation(self.stored_identity().await?.generation, header.generation),
            id_secret: header.id_key,
        };
        let begun = json(&Progress {
            export: header.id.clone(),
            finished: false,
        })?;
        let keys = [
            self.keys.shared("identity"),
            self.keys.shared("import"),
            self.keys.shared("version"),
        ];
        let identity = identity.encode();
        let make = |_| {
            let mut cmd = script::BEGIN_IMPORT.call(&keys);
            cmd.arg(&row).arg(&begun).arg(&identity);
            cmd
        };
        let answer = self.shards.ask(Route::durable(Slot::of(SHARED)), make).await?;
        // An answer that was lost leaves what this import wrote.
        if answer != Value::Int(1) && self.progress().await?.0 != begun {
            return Err(StoreError::Conflict("another import began at the same time".into()));
        }
        self.remember_all().await
    }

    async fn finish(&self, export: &str) -> Result<(), StoreError> {
        let progress = self.progress().await?.1.filter(|progress| progress.export == export);
        let mut progress = progress.ok_or_else(|| StoreError::Conflict("another import began meanwhile".into()))?;
        progress.finished = true;
        let (key, row) = (self.keys.shared("import"), json(&progress)?);
        let make = |_| {
            let mut cmd = redis::cmd("SET");
            cmd.arg(&key).arg(&row);
            cmd
        };
        self.shards.ask(Route::durable(Slot::of(SHARED)), make).await.map(|_| ())
    }

    async fn import_ordinal(&self, tenant: &TenantRow) -> Result<Taken, StoreError> {
        let keys = [self.keys.tenant(TenantId(tenant.id), "ordinal")];
        let raised = tenant.last_ordinal.saturating_add(ORDINALS_LEFT_OUT);
        let make = |_| {
            let mut cmd = script::RAISE.call(&keys);
            cmd.arg(raised);
            cmd
        };
        let slot = Slot::of(&keys::tenant_tag(TenantId(tenant.id)));
        let answer = self.shards.ask(Route::durable(slot), make).await?;
        Ok(if answer == Value::Int(1) { Taken::Stored } else { Taken::Present })
    }

    async fn import_receipts(&self, receipts: &[ReceiptRow]) -> Result<Taken, StoreError> {
        let Some(first) = receipts.first() else { return Ok(Taken::Present) };
        let tenant = TenantId(first.tenant);
        let keys = [self.keys.tenant(tenant, "log"), self.keys.tenant(tenant, "moved")];
        let make = |_| {
            let mut cmd = script::IMPORT_LOG.call(&keys);
            for receipt in receipts {
                cmd.arg(receipt.position).arg(receipt_record(receipt));
            }
            cmd
        };
        let added = self.shards.ask(Route::durable(Slot::of(&keys::tenant_tag(tenant))), make).await?;
        Ok(if added == Value::Int(0) { Taken::Present } else { Taken::Stored })
    }

    async fn import_minutes(&self, minutes: &[MinuteRow]) -> Result<Taken, StoreError> {
        let mut of_hour: BTreeMap<u64, Vec<&MinuteRow>> = BTreeMap::new();
        for minute in minutes {
            of_hour.entry(minute.minute / 60).or_default().push(minute);
        }
        let mut taken = Taken::Present;
        for (hour, minutes) in of_hour {
            let key = self.keys.hour(hour);
            let make = |_| {
                let mut cmd = redis::cmd("HSET");
                cmd.arg(&key);
                for minute in &minutes {
                    cmd.arg(format!("{}:{}", minute.minute, minute.imported_node()))
                        .arg(figures::encode_figures(minute.figures.iter()));
                }
                cmd
            };
            let added = self.shards.ask(Route::durable(Slot::of(&keys::hour_tag(hour))), make).await?;
            if added != Value::Int(0) {
                taken = Taken::Stored;
            }
        }
        Ok(taken)
    }

    async fn import_device(&self, row: &DeviceRow, deliveries: &[DeliveryRow]) -> Result<Taken, StoreError> {
        let device = row.key();
        let now = self.clock.now();
        let stored = self.stored(row, deliveries, now)?;
        let bucket = device.bucket();
        let keys = ['d', 'p', 'q', 's', 'f', 'e'].map(|kind| self.keys.device(kind, &device));
        let keys: Vec<String> = keys
            .into_iter()
            .chain(['i', 'l'].map(|kind| self.keys.tenant_bucket(kind, bucket, device.tenant)))
            .chain(['c', 'z', 'w'].map(|kind| self.keys.bucket(kind, bucket)))
            .collect();
        let tokens = row.tokens.as_ref().filter(|tokens| !tokens.is_empty()).map(json).transpose()?;
        let reported = row.reported.as_ref().map(json).transpose()?;
        let member = keys::member(&device);
        let make = |_| {
            let mut cmd = script::IMPORT.call(&keys);
            cmd.arg(&stored.row)
                .arg(&stored.seat)
                .arg(tokens.as_deref().unwrap_or_default())
                .arg(reported.as_deref().unwrap_or_default())
                .arg(&row.ordinal.to_be_bytes())
                .arg(row.id.as_str())
                .arg(u8::from(!row.removed))
                .arg(counter(row.cohort))
                .arg(&member)
                .arg(now.0)
                .arg(stored.again_at)
                .arg(stored.waiting)
                .arg(2 * stored.queue.len());
            for (field, value) in stored.queue.iter().chain(&stored.states) {
                cmd.arg(field).arg(value);
            }
            cmd
        };
        match self.shards.ask(Route::durable(Slot::of_bucket(bucket)), make).await? {
            Value::Int(0) => {
                self.count(bucket).await?;
                self.watches.wake([&device]);
                let oldest = deliveries
                    .iter()
                    .filter(|delivery| delivery.waits.is_some())
                    .map(|delivery| delivery.accepted_at)
                    .min();
                if let Some(oldest) = oldest {
                    self.counters.accepted(oldest);
                }
                Ok(Taken::Stored)
            }
            Value::Int(1) => Ok(Taken::Present),
            Value::Int(2) => Err(StoreError::Conflict(format!("another device has the id {}", row.id).into())),
            _ => Err(damaged("the answer to an import")),
        }
    }

    fn stored(&self, row: &DeviceRow, deliveries: &[DeliveryRow], now: Timestamp) -> Result<Stored, StoreError> {
        let (mut queue, mut states) = (Vec::new(), Vec::new());
        let (mut last, mut waiting, mut bytes, mut again_at, mut later) = (row.number, 0_u32, 0_u64, 0, 0_u16);
        for delivery in deliveries {
            let (of, born) = delivery.place(&self.ids, row)?;
            let replaced_by = delivery.replacement(&self.ids)?;
            let head = head_of(delivery, born)?;
            let mut number = born;
            if let Some(waits) = &delivery.waits {
                number = waits.number.unwrap_or(born);
                let field = keys::field(of, number).to_vec();
                let data = waits.data.get().as_bytes();
                if let Some(key) = &delivery.collapse_key {
                    queue.push(([b"c", key.as_bytes()].concat(), field.clone()));
                }
                queue.push((field, [head.as_slice(), data].concat()));
                waiting += 1;
                bytes += data.len() as u64;
                later += u16::from(waits.at_next_session);
                if let Some(due) = waits.due {
                    again_at = if again_at == 0 { due.0 } else { due.0.min(again_at) };
                }
            }
            let field = keys::field(of, born).to_vec();
            if delivery.ended.is_some() {
                let ending = ending_of(delivery, replaced_by, number)?;
                states.push((field.clone(), [head, ending].concat()));
            }
            if let Some(idempotency) = &delivery.idempotency
                && let Some(body) = &idempotency.body
            {
                let kept = [&field[..], body, &p48(delivery.accepted_at.0)].concat();
                states.push(([b"i", &idempotency.key[..]].concat(), kept));
            }
            last = last.max(born).max(number);
        }
        if waiting > 0 {
            queue.push((b"_".to_vec(), [&waiting.to_be_bytes()[..], &p48(bytes)].concat()));
        }
        let mut seat = vec![1];
        seat.extend(p48(last.saturating_add(NUMBERS_LEFT_OUT).min(NUMBER_MAX)));
        for seq in row.seqs {
            seat.extend(p48(seq));
        }
        seat.extend(p48(row.epoch.0));
        seat.extend(p48(row.last_seen_at.map_or(0, |at| at.0)));
        // Housekeeping looks at once, and then knows when to look again.
        seat.extend(p48(now.0));
        seat.extend(later.to_be_bytes());
        seat.extend(p48(0));
        // Its row tells its ordinal.
        seat.extend([0; 4]);
        Ok(Stored {
            row: device_record(row)?,
            seat,
            queue,
            states,
            waiting,
            again_at,
        })
    }
}

/// The head of a record (`record`).
fn head_of(delivery: &DeliveryRow, born: u64) -> Result<Vec<u8>, StoreError> {
    let require = match delivery.require {
        Require::Acknowledged => 0,
        Require::Received => 1,
        Require::Processed => 2,
    };
    let waits = delivery.waits.as_ref();
    let later = waits.is_some_and(|waits| waits.at_next_session);
    let flags = urgency_code(delivery.urgency)
        | require << 2
        | if later { AT_NEXT_SESSION } else { 0 }
        | delivery.idempotency.map_or(0, |_| IDEMPOTENT);
    let collapse = delivery.collapse_key.as_deref().unwrap_or_default().as_bytes();
    let attempt = u16::try_from(delivery.attempt).unwrap_or(u16::MAX);
    let mut rest = Vec::with_capacity(64 + collapse.len());
    rest.extend(p48(delivery.seq.0));
    rest.extend(attempt.to_be_bytes());
    rest.extend(p48(born));
    rest.extend(p48(waits.and_then(|waits| waits.due).map_or(0, |due| due.0)));
    rest.extend(p48(delivery.accepted_at.0));
    rest.extend(p48(delivery.expires_at.0));
    rest.extend(delivery.idempotency.iter().flat_map(|idempotency| idempotency.key));
    rest.push(u8::try_from(collapse.len()).map_err(|_| damaged("a collapse key"))?);
    rest.extend_from_slice(collapse);
    let length = u16::try_from(4 + rest.len()).map_err(|_| damaged("an event"))?;
    Ok([&[VERSION, flags][..], &length.to_be_bytes(), &rest].concat())
}

/// The ending of a state (`record::Ending`).
fn ending_of(delivery: &DeliveryRow, replaced_by: Option<(Queue, u64)>, number: u64) -> Result<Vec<u8>, StoreError> {
    let Some(ended) = &delivery.ended else { return Ok(Vec::new()) };
    let waits = delivery.waits.is_some();
    let flags = u8::from(ended.late_ack) * LATE
        | ended.session_epoch.map_or(0, |_| BY_SESSION)
        | replaced_by.map_or(0, |_| REPLACED)
        | ended.told.as_ref().map_or(0, |_| TOLD)
        | u8::from(waits) * WAITS;
    let mut bytes = vec![state_code(ended.state), reason_code(ended.reason), flags];
    bytes.extend(p48(ended.at.0));
    bytes.extend(p48(ended.session_epoch.map_or(0, |epoch| epoch.0)));
    if let Some((queue, number)) = replaced_by {
        bytes.extend(keys::field(queue, number));
    }
    if waits {
        bytes.extend(p48(number));
    }
    if let Some(told) = &ended.told {
        bytes.extend(json(told)?);
    }
    Ok(bytes)
}

/// A receipt as its log keeps it (`record::read_outbox`).
fn receipt_record(receipt: &ReceiptRow) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(48);
    bytes.extend(p48(receipt.at.0));
    bytes.extend(receipt.event.0);
    bytes.push(state_code(receipt.state));
    bytes.push(reason_code(receipt.reason));
    bytes.extend(p48(receipt.session_epoch.map_or(0, |epoch| epoch.0)));
    bytes.extend(p48(receipt.latency_ms));
    bytes.extend_from_slice(receipt.device.as_str().as_bytes());
    bytes
}

fn device_record(row: &DeviceRow) -> Result<Vec<u8>, StoreError> {
    if row.removed {
        let head = Head {
            ordinal: row.ordinal,
            credential_generation: row.credential_generation,
            created_at: row.created_at,
            updated_at: row.updated_at,
            removed: true,
        };
        return Ok(head.encode());
    }
    let record = DeviceRecord {
        device: Device {
            id: row.id.clone(),
            ordinal: row.ordinal,
            user: row.user.clone(),
            attributes: row.attributes.clone(),
            cohort: row.cohort,
            credentials: row.credentials.clone(),
            credential_generation: row.credential_generation,
            created_at: row.created_at,
            updated_at: row.updated_at,
        },
        begins_behind: 0,
    };
    record.encode()
}

impl RedisStore {
    async fn import_key(&self, key: &KeyRow) -> Result<Taken, StoreError> {
        let there = self.key(&key.hash).is_some();
        let row = ApiKey {
            id: key.id.clone(),
            name: key.name.clone(),
            tenant: key.tenant,
            scope: key.scope,
            created_at: key.created_at,
        };
        self.put_key(key.hash, row).await?;
        Ok(if there { Taken::Present } else { Taken::Stored })
    }

    async fn import_tenant(&self, tenant: &TenantRow) -> Result<Taken, StoreError> {
        if tenant.id != 0 {
            let tenant = Tenant {
                id: tenant.id,
                name: tenant.name.clone(),
                domain: tenant.domain.clone(),
            };
            self.put_tenant(tenant).await?;
        }
        self.shared.import_ordinal(tenant).await
    }
}

#[async_trait]
impl Transfer for RedisStore {
    async fn header(&self) -> Result<Header, StoreError> {
        self.shared.exported_header().await
    }

    async fn rows(&self, part: Part, after: Option<Vec<u8>>) -> Result<RowPage, StoreError> {
        if part == Part::Receipts && after.is_none() {
            mover::round(self).await?;
        }
        self.shared.exported_rows(part, after).await
    }

    async fn begin_import(&self, header: &Header) -> Result<(), StoreError> {
        self.shared.begin(header).await
    }

    async fn import(&self, piece: Piece) -> Result<Taken, StoreError> {
        match &piece {
            Piece::Tenant(tenant) => self.import_tenant(tenant).await,
            Piece::Key(key) => self.import_key(key).await,
            Piece::Receipts(receipts) => self.shared.import_receipts(receipts).await,
            Piece::Minutes(minutes) => self.shared.import_minutes(minutes).await,
            Piece::Device(device, deliveries) => self.shared.import_device(device, deliveries).await,
        }
    }

    async fn finish_import(&self, export: &str) -> Result<(), StoreError> {
        self.shared.finish(export).await
    }
}
