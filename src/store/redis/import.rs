//! Taking in what another store kept. A device and its deliveries are one script.

use std::collections::BTreeMap;

use async_trait::async_trait;
use redis::Value;

use super::{
    RedisStore, Shared,
    imported::receipt_record,
    keys::{self, SHARED, Slot},
    mover,
    registry::counter,
    reply, script,
    shards::Route,
    shared::{Identity, json},
};
use crate::{
    domain::{Clock as _, TenantId},
    store::{
        StoreError,
        codec::damaged,
        figures,
        transfer::{
            DeliveryRow, DeviceRow, Header, MinuteRow, ORDINALS_LEFT_OUT, Part, Piece, Progress, ReceiptRow, RowPage, Taken, TenantRow,
            Transfer, exported_webhooks, import_key, import_tenant, import_webhook, may_begin, next_generation,
        },
    },
};

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
        let rows: Vec<(u64, Vec<u8>)> = receipts
            .iter()
            .map(|receipt| Ok((receipt.position, receipt_record(receipt)?)))
            .collect::<Result<_, StoreError>>()?;
        let make = |_| {
            let mut cmd = script::IMPORT_LOG.call(&keys);
            for (position, row) in &rows {
                cmd.arg(position).arg(row);
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
            .chain(['c', 'z', 'w', 'n'].map(|kind| self.keys.bucket(kind, bucket)))
            .collect();
        let tokens = row.tokens.as_ref().filter(|tokens| !tokens.is_empty()).map(json).transpose()?;
        let reported = row.reported.as_ref().map(json).transpose()?;
        let member = keys::member(&device);
        if let Some(user) = row.user.as_ref().filter(|_| !row.removed)
            && self.entries_of(user, &device).await?.is_empty()
        {
            self.add_entry(user, &device).await?;
        }
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
                    .filter(|delivery| delivery.waits.is_some() && delivery.attempt > 0)
                    .map(|delivery| delivery.deliverable_from())
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
}

#[async_trait]
impl Transfer for RedisStore {
    async fn header(&self) -> Result<Header, StoreError> {
        self.shared.exported_header().await
    }

    async fn rows(&self, part: Part, after: Option<Vec<u8>>) -> Result<RowPage, StoreError> {
        if part == Part::Webhooks {
            return exported_webhooks(self, after).await;
        }
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
            Piece::Tenant(tenant) => {
                import_tenant(self, tenant).await?;
                self.shared.import_ordinal(tenant).await
            }
            Piece::Key(key) => import_key(self, key).await,
            Piece::Webhook(webhook) => import_webhook(self, webhook).await,
            Piece::Audit(entries) => self.shared.import_audit(entries).await,
            Piece::Receipts(receipts) => self.shared.import_receipts(receipts).await,
            Piece::Minutes(minutes) => self.shared.import_minutes(minutes).await,
            Piece::Group(group) => self.shared.import_group(&group.group()).await,
            Piece::Device(device, deliveries) => self.shared.import_device(device, deliveries).await,
        }
    }

    async fn finish_import(&self, export: &str) -> Result<(), StoreError> {
        self.shared.finish(export).await
    }
}
