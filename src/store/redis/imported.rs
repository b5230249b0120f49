//! The records that rows of an import become.

use std::sync::Arc;

use super::{
    Shared,
    device::{Head, Row as DeviceRecord},
    groups::group_bytes,
    keys,
    receipt::NewReceipt,
    record::{
        AT_NEXT_SESSION, BY_SESSION, COPY, DELIVER_AT, IDEMPOTENT, LATE, REPLACED, REPLACED_BY_GROUP, TOLD, VERSION, WAITS, pack_data,
    },
    reply::p48,
    shared::json,
};
use crate::{
    domain::{Require, Timestamp},
    store::{
        StoreError,
        codec::damaged,
        codes::{reason_code, state_code, urgency_code},
        transfer::{DeliveryRow, DeviceRow, NUMBER_MAX, NUMBERS_LEFT_OUT, ReceiptRow, ReplacedBy},
    },
};

/// A device and its deliveries as they are stored.
pub(super) struct Stored {
    pub(super) row: Vec<u8>,
    pub(super) seat: Vec<u8>,
    pub(super) queue: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) states: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) waiting: u32,
    /// The first moment at which an event that waits again is due; 0: none does.
    pub(super) again_at: u64,
}

impl Shared {
    pub(super) fn stored(&self, row: &DeviceRow, deliveries: &[DeliveryRow], now: Timestamp) -> Result<Stored, StoreError> {
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
                let data = pack_data(waits.data.get());
                if let Some(key) = &delivery.collapse_key {
                    queue.push(([b"c", key.as_bytes()].concat(), field.clone()));
                }
                queue.push((field, head.clone()));
                queue.push((keys::data_field(of, born).to_vec(), data.to_vec()));
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
        | delivery
            .idempotency
            .map_or(0, |idempotency| IDEMPOTENT | if idempotency.is_copy { COPY } else { 0 })
        | delivery.deliver_at.map_or(0, |_| DELIVER_AT);
    let collapse = delivery.collapse_key.as_deref().unwrap_or_default().as_bytes();
    let attempt = u16::try_from(delivery.attempt).unwrap_or(u16::MAX);
    let mut rest = Vec::with_capacity(64 + collapse.len());
    rest.extend(p48(delivery.seq.0));
    rest.extend(attempt.to_be_bytes());
    rest.extend(p48(born));
    rest.extend(p48(waits.and_then(|waits| waits.due).map_or(0, |due| due.0)));
    rest.extend(p48(delivery.deliverable_from().0));
    rest.extend(p48(delivery.expires_at.0));
    rest.extend(delivery.idempotency.iter().flat_map(|idempotency| idempotency.key));
    rest.push(u8::try_from(collapse.len()).map_err(|_| damaged("a collapse key"))?);
    rest.extend_from_slice(collapse);
    rest.extend(delivery.deliver_at.into_iter().flat_map(|_| p48(delivery.accepted_at.0)));
    let length = u16::try_from(4 + rest.len()).map_err(|_| damaged("an event"))?;
    Ok([&[VERSION, flags][..], &length.to_be_bytes(), &rest].concat())
}

/// The ending of a state (`record::Ending`).
fn ending_of(delivery: &DeliveryRow, replaced_by: Option<ReplacedBy>, number: u64) -> Result<Vec<u8>, StoreError> {
    let Some(ended) = &delivery.ended else { return Ok(Vec::new()) };
    let waits = delivery.waits.is_some();
    let flags = ended.session_epoch.map_or(0, |_| BY_SESSION)
        | replaced_by.map_or(0, |by| match by {
            ReplacedBy::Event(..) => REPLACED,
            ReplacedBy::Group(_) => REPLACED_BY_GROUP,
        })
        | ended.told.as_ref().map_or(0, |_| TOLD)
        | if ended.late_ack { LATE } else { 0 }
        | if waits { WAITS } else { 0 };
    let mut bytes = vec![state_code(ended.state), reason_code(ended.reason), flags];
    bytes.extend(p48(ended.at.0));
    bytes.extend(p48(ended.session_epoch.map_or(0, |epoch| epoch.0)));
    match replaced_by {
        None => {}
        Some(ReplacedBy::Event(queue, number)) => bytes.extend(keys::field(queue, number)),
        Some(ReplacedBy::Group(place)) => bytes.extend(group_bytes(place)),
    }
    if waits {
        bytes.extend(p48(number));
    }
    if let Some(told) = &ended.told {
        bytes.extend(json(told)?);
    }
    Ok(bytes)
}

/// A receipt as its log keeps it.
pub(super) fn receipt_record(row: &ReceiptRow) -> Result<Vec<u8>, StoreError> {
    let receipt = NewReceipt {
        event: row.event,
        group: row.group,
        device: row.device.as_str().as_bytes(),
        state: row.state,
        reason: row.reason,
        at: row.at,
        epoch: row.session_epoch,
        latency_ms: row.latency_ms,
        attempt: row.attempt,
        replaced_by: row.replaced_by,
        told: row.told.clone().map(Arc::new),
    };
    receipt.encode()
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
        device: row.device(),
        begins_behind: 0,
    };
    record.encode()
}
