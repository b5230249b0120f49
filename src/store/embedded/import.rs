//! Taking in what another store kept. A device and its deliveries are one step of the writer.

use std::sync::{Arc, atomic::Ordering};

use super::{
    draft::Draft,
    engine::Space,
    key_pack::RecentKeys,
    keys::{self, Place},
    positions::last_position,
    receipt::{NewReceipt, Pack},
    record::{self, Ending, Facts, Kept},
    rows::{self, DeviceHead, Identity, Numbers},
    steps::Book,
    users,
};
use crate::{
    domain::{TenantId, Timestamp},
    store::{
        StoreError,
        codec::damaged,
        figures,
        transfer::{
            DeliveryRow, DeviceRow, Header, MinuteRow, NUMBER_MAX, NUMBERS_LEFT_OUT, ORDINALS_LEFT_OUT, Piece, Progress, ReceiptRow, Taken,
            may_begin, next_generation,
        },
    },
};

/// How far the last import came.
const PROGRESS: &[u8] = b"Mimport";

fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Corrupt(error.to_string().into()))
}

fn progress(draft: &Draft<'_>) -> Result<Option<Progress>, StoreError> {
    let row = draft.get(Space::Rows, PROGRESS)?;
    row.map(|row| serde_json::from_slice(&row).map_err(|_| damaged("how far an import came")))
        .transpose()
}

impl Book {
    /// Takes the identity of the exported store over, in a new generation. Answers the identity that now holds.
    pub(super) fn begin_import(&mut self, draft: &mut Draft<'_>, header: &Header) -> Result<Identity, StoreError> {
        let row = draft
            .get(Space::Rows, keys::IDENTITY)?
            .ok_or_else(|| damaged("the identity of the store"))?;
        let own = Identity::decode(&row)?;
        let had_devices = draft.engine().prefix(Space::Rows, b"n").next().transpose()?.is_some();
        if !may_begin(progress(draft)?.as_ref(), header, had_devices)? {
            return Ok(own);
        }
        let boots = u32::try_from(header.epoch.0 >> 32).ok().and_then(|boots| boots.checked_add(1));
        let identity = Identity {
            generation: next_generation(own.generation, header.generation),
            // Epochs begin with the count of boots, and go on above those of the exported store.
            boot: own
                .boot
                .max(boots.ok_or_else(|| StoreError::Conflict("the epoch of the export is too high".into()))?),
            id_secret: header.id_key,
        };
        self.next_epoch = self.next_epoch.max(u64::from(identity.boot) << 32 | 1);
        let begun = Progress {
            export: header.id.clone(),
            finished: false,
        };
        draft.put(Space::Rows, keys::IDENTITY, identity.encode());
        draft.put(Space::Rows, PROGRESS, json(&begun)?);
        draft.must_sync();
        Ok(identity)
    }

    pub(super) fn finish_import(draft: &mut Draft<'_>, export: &str) -> Result<(), StoreError> {
        let mut progress = progress(draft)?.filter(|progress| progress.export == export);
        let progress = progress
            .as_mut()
            .ok_or_else(|| StoreError::Conflict("another import began meanwhile".into()))?;
        progress.finished = true;
        draft.put(Space::Rows, PROGRESS, json(progress)?);
        draft.must_sync();
        Ok(())
    }

    pub(super) fn import(&mut self, draft: &mut Draft<'_>, piece: &Piece) -> Result<Taken, StoreError> {
        if !self.shared.writable.load(Ordering::Relaxed) {
            return Err(StoreError::NoSpace);
        }
        draft.must_sync();
        match piece {
            // The tenant itself, the key and the webhook are put as others are.
            Piece::Tenant(tenant) => raise_ordinal(draft, TenantId(tenant.id), tenant.last_ordinal),
            Piece::Key(_) | Piece::Webhook(_) => Ok(Taken::Present),
            Piece::Audit(entries) => Self::import_audit(draft, entries),
            Piece::Receipts(receipts) => self.import_receipts(draft, receipts),
            Piece::Minutes(minutes) => import_minutes(draft, minutes),
            Piece::Group(group) => self.import_group(draft, &group.group()),
            Piece::Device(device, deliveries) => self.import_device(draft, device, deliveries),
        }
    }

    fn import_receipts(&mut self, draft: &mut Draft<'_>, receipts: &[ReceiptRow]) -> Result<Taken, StoreError> {
        let mut taken = Taken::Present;
        for receipt in receipts {
            let tenant = TenantId(receipt.tenant);
            let key = keys::receipt(tenant, receipt.position);
            if draft.get(Space::Log, &key)?.is_some() {
                continue;
            }
            let mut row = Pack::default();
            row.push(&NewReceipt {
                event: receipt.event,
                group: receipt.group,
                device: receipt.device.as_str(),
                state: receipt.state,
                reason: receipt.reason,
                at: receipt.at,
                epoch: receipt.session_epoch,
                latency_ms: receipt.latency_ms,
                attempt: receipt.attempt,
                replaced_by: receipt.replaced_by,
                told: receipt.told.as_ref(),
            })?;
            draft.put(Space::Log, key, row.finish());
            let last = match self.positions.get(&tenant) {
                Some(last) => *last,
                None => last_position(draft, tenant)?,
            };
            self.positions.insert(tenant, last.max(receipt.position));
            taken = Taken::Stored;
        }
        Ok(taken)
    }

    fn import_device(&mut self, draft: &mut Draft<'_>, row: &DeviceRow, deliveries: &[DeliveryRow]) -> Result<Taken, StoreError> {
        let device = row.key();
        if let Some(there) = draft.get(Space::Rows, &keys::device(&device))? {
            return if DeviceHead::decode(&there)?.ordinal == row.ordinal {
                Ok(Taken::Present)
            } else {
                Err(StoreError::Conflict(format!("another device has the id {}", row.id).into()))
            };
        }
        let shared = Arc::clone(&self.shared);
        let mut puts = Vec::with_capacity(deliveries.len());
        let mut last = row.number;
        for delivery in deliveries {
            let (queue, number) = delivery.place(&shared.ids, row)?;
            let born = Place {
                tenant: device.tenant,
                ordinal: row.ordinal,
                queue,
                number,
            };
            // Looked at here, so that a wrong row stores nothing.
            delivery.replacement(&shared.ids)?;
            let records = records(delivery, born)?;
            last = last.max(number).max(records.place.number);
            puts.push((born, records, delivery));
        }
        let numbers = Numbers {
            number: last.saturating_add(NUMBERS_LEFT_OUT).min(NUMBER_MAX),
            seqs: row.seqs,
            epoch: row.epoch,
            last_seen_at: row.last_seen_at,
            keys: RecentKeys::of_before(),
        };
        draft.put(Space::Rows, keys::device(&device), device_record(row)?);
        users::move_device(draft, &device, None, row.user.as_ref().filter(|_| !row.removed));
        draft.put(Space::Rows, keys::numbers(device.tenant, row.ordinal), numbers.encode());
        if let Some(tokens) = row.tokens.as_ref().filter(|tokens| !tokens.is_empty() && !row.removed) {
            draft.put(Space::Rows, keys::fast_tokens(device.tenant, row.ordinal), json(tokens)?);
        }
        if let Some(reported) = row.reported.as_ref().filter(|_| !row.removed) {
            draft.put(Space::Rows, keys::reported(device.tenant, row.ordinal), json(reported)?);
        }
        for (born, records, delivery) in puts {
            self.put_delivery(draft, born, records, delivery);
        }
        self.totals.move_device(None, (!row.removed).then_some(row.cohort));
        self.states.forget(&device);
        self.touched.push(device);
        Ok(Taken::Stored)
    }

    fn put_delivery(&mut self, draft: &mut Draft<'_>, born: Place, records: Records, delivery: &DeliveryRow) {
        if let Some(end) = records.end {
            draft.put(Space::Ends, born.end_key(), end);
        }
        if let Some(event) = records.event {
            let bytes = delivery.waits.as_ref().map_or(0, |waits| waits.data.get().len());
            draft.put(Space::Events, records.place.event_key(), event);
            if let Some(due) = records.due {
                draft.put(Space::Rows, keys::due(due, records.place), Vec::new());
            }
            self.totals.queued += 1;
            self.totals.queued_bytes += bytes as u64;
            let (oldest, from) = (self.shared.oldest_queued.load(Ordering::Relaxed), delivery.deliverable_from().0);
            if delivery.attempt > 0 && (oldest == 0 || from < oldest) {
                self.shared.oldest_queued.store(from, Ordering::Relaxed);
            }
        }
        if let Some(idempotency) = &delivery.idempotency
            && let Some(body) = idempotency.body
        {
            let kept = Kept {
                queue: born.queue,
                number: born.number,
                body,
                accepted_at: delivery.accepted_at,
            };
            draft.put(
                Space::Ends,
                keys::idempotency(born.tenant, born.ordinal, &idempotency.key),
                kept.encode(),
            );
        }
    }
}

fn raise_ordinal(draft: &mut Draft<'_>, tenant: TenantId, exported: u32) -> Result<Taken, StoreError> {
    let counter = keys::last_ordinal(tenant);
    let last = match draft.get(Space::Rows, &counter)? {
        Some(row) => u32::from_be_bytes(row.as_ref().try_into().map_err(|_| damaged("the last ordinal"))?),
        None => 0,
    };
    let raised = exported.saturating_add(ORDINALS_LEFT_OUT);
    if raised <= last {
        return Ok(Taken::Present);
    }
    draft.put(Space::Rows, counter, raised.to_be_bytes());
    Ok(Taken::Stored)
}

fn import_minutes(draft: &mut Draft<'_>, minutes: &[MinuteRow]) -> Result<Taken, StoreError> {
    let mut taken = Taken::Present;
    for minute in minutes {
        let key = keys::minute(minute.minute, &minute.imported_node());
        if draft.get(Space::Log, &key)?.is_none() {
            draft.put(Space::Log, key, figures::encode_figures(minute.figures.iter()));
            taken = Taken::Stored;
        }
    }
    Ok(taken)
}

fn device_record(row: &DeviceRow) -> Result<fjall::Slice, StoreError> {
    if row.removed {
        let head = DeviceHead {
            ordinal: row.ordinal,
            credential_generation: row.credential_generation,
            created_at: row.created_at,
            updated_at: row.updated_at,
            removed: true,
        };
        return Ok(head.tombstone());
    }
    rows::encode_device(&row.device())
}

/// The record of an event that a row has, and that of its state.
fn records(row: &DeliveryRow, born: Place) -> Result<Records, StoreError> {
    let now = row.waits.as_ref().and_then(|waits| waits.number);
    let facts = Facts {
        urgency: row.urgency,
        require: row.require,
        seq: row.seq,
        attempt: row.attempt,
        accepted_at: row.accepted_at,
        deliver_at: row.deliver_at,
        ttl: row.expires_at.since(row.deliverable_from()),
        device: row.device.as_str(),
        collapse_key: row.collapse_key.as_deref(),
        idempotency: row.idempotency.map(|idempotency| idempotency.key),
        body: row.idempotency.and_then(|idempotency| idempotency.body),
        is_copy: row.idempotency.is_some_and(|idempotency| idempotency.is_copy),
        born: now.map(|_| born.number),
        due: row.waits.as_ref().and_then(|waits| waits.due),
        at_next_session: row.waits.as_ref().is_some_and(|waits| waits.at_next_session),
    };
    let json = row.waits.as_ref().map_or("", |waits| waits.data.get()).as_bytes();
    let event = record::encode_event(&facts, json);
    let place = Place {
        number: now.unwrap_or(born.number),
        ..born
    };
    let end = row.ended.as_ref().map(|ended| {
        let ending = Ending {
            state: ended.state,
            reason: ended.reason,
            at: ended.at,
            epoch: ended.session_epoch,
            replaced_by: ended.replaced_by,
            late_ack: ended.late_ack,
            told: ended.told.clone().map(Arc::new),
            waits_at: row.waits.as_ref().map(|_| place.number),
            key_is_free: false,
        };
        record::encode_end(&event, json, &ending)
    });
    Ok(Records {
        place,
        end: end.transpose()?,
        event: row.waits.is_some().then_some(event),
        due: facts.due,
    })
}

/// What a delivery is in the engine.
struct Records {
    /// Where it waits, or where it was born.
    place: Place,
    event: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
    due: Option<Timestamp>,
}
