//! Receipts in Redis: on their way in the outbox of a bucket, and in the log of their tenant.

use std::sync::Arc;

use super::{
    keys,
    record::{ATTEMPT, Ending, OF_GROUP, REPLACED, Replacement, TOLD, named, read_group},
    reply::{p48, u48},
};
use crate::{
    domain::{DeliveryState, Epoch, EventId, EventIdKey, GroupPlace, Located, Reason, TenantId, Timestamp, Told},
    store::{
        Receipt, StoreError,
        codec::damaged,
        codes::{reason, reason_code, state, state_code},
    },
};

/// Beside the state of a receipt that is more than that of a first delivery.
const MORE: u8 = 128;

/// The field of a copy that no queue took.
pub(super) const NO_FIELD: &[u8] = &[0; 7];

/// A row of an outbox: the tenant, and the receipt as its log keeps it.
pub(super) fn read_outbox(row: &[u8], bucket: u16, ids: &EventIdKey) -> Result<(TenantId, Vec<u8>), StoreError> {
    let read = || -> Option<(TenantId, NewReceipt<'_>)> {
        let (tenant, rest) = row.split_first_chunk()?;
        let (ordinal, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first()?;
        let (device, rest) = rest.split_at_checked(usize::from(*length))?;
        let (field, rest) = rest.split_at_checked(7)?;
        let (accepted_at, bytes) = rest.split_at_checked(6)?;
        let ending = Ending::read(bytes)?;
        let (flags, mut rest) = (*bytes.get(2)?, bytes.get(15..)?);
        let mut attempt = 1;
        if flags & ATTEMPT != 0 {
            let (given, behind) = rest.split_first_chunk()?;
            (attempt, rest) = (u16::from_be_bytes(*given), behind);
        }
        let tenant = TenantId(u16::from_be_bytes(*tenant));
        let sealed = |(bucket, number)| ids.seal_group(GroupPlace { tenant, bucket, number });
        let group = match flags & OF_GROUP {
            0 => None,
            _ => Some(sealed(read_group(rest.get(..10)?)?)),
        };
        let located = |queue, number| Located {
            tenant,
            bucket,
            ordinal: u32::from_be_bytes(*ordinal),
            queue: Some(queue),
            number,
        };
        let latency = ending.at.since(Timestamp(u48(accepted_at)?));
        Some((
            tenant,
            NewReceipt {
                event: match keys::read_field(field) {
                    Some((queue, number)) => ids.seal(located(queue, number)),
                    // No queue took the copy, so it has no id of its own.
                    None => group?,
                },
                group: group.filter(|_| field != NO_FIELD),
                device,
                state: ending.state,
                reason: ending.reason,
                at: ending.at,
                epoch: ending.epoch,
                latency_ms: u64::try_from(latency.as_millis()).unwrap_or(u64::MAX),
                attempt: u32::from(attempt),
                replaced_by: ending.replaced_by.map(|by| match by {
                    Replacement::Event(queue, number) => ids.seal(located(queue, number)),
                    Replacement::Group(bucket, number) => sealed((bucket, number)),
                }),
                told: ending.told,
            },
        ))
    };
    let (tenant, receipt) = read().ok_or_else(|| damaged("a receipt"))?;
    Ok((tenant, receipt.encode()?))
}

/// A receipt before it has its position.
pub(super) struct NewReceipt<'a> {
    pub(super) event: EventId,
    pub(super) group: Option<EventId>,
    pub(super) device: &'a [u8],
    pub(super) state: DeliveryState,
    pub(super) reason: Option<Reason>,
    pub(super) at: Timestamp,
    pub(super) epoch: Option<Epoch>,
    pub(super) latency_ms: u64,
    pub(super) attempt: u32,
    pub(super) replaced_by: Option<EventId>,
    pub(super) told: Option<Arc<Told>>,
}

impl NewReceipt<'_> {
    /// As the log keeps it: at 6, event 20, state 1, reason 1, epoch 6, latency 6, device. One that tells more says so beside its state, and
    /// has the length of its device before it; then flags 1, attempt 4, the event that replaced it 20, the group that it is of 20, and what the
    /// device says as JSON, the last three as its flags name them.
    pub(super) fn encode(&self) -> Result<Vec<u8>, StoreError> {
        let more = self.attempt != 1 || self.replaced_by.is_some() || self.told.is_some() || self.group.is_some();
        let mut bytes = Vec::with_capacity(40 + self.device.len());
        bytes.extend_from_slice(&p48(self.at.0));
        bytes.extend_from_slice(&self.event.0);
        bytes.push(state_code(self.state) | if more { MORE } else { 0 });
        bytes.push(reason_code(self.reason));
        bytes.extend_from_slice(&p48(self.epoch.map_or(0, |epoch| epoch.0)));
        bytes.extend_from_slice(&p48(self.latency_ms));
        if !more {
            bytes.extend_from_slice(self.device);
            return Ok(bytes);
        }
        bytes.extend_from_slice(&named(self.device));
        bytes.push(self.replaced_by.map_or(0, |_| REPLACED) | self.told.as_ref().map_or(0, |_| TOLD) | self.group.map_or(0, |_| OF_GROUP));
        bytes.extend_from_slice(&self.attempt.to_be_bytes());
        bytes.extend(self.replaced_by.iter().chain(&self.group).flat_map(|event| event.0));
        if let Some(told) = &self.told {
            let json = serde_json::to_vec(&told.in_words()).map_err(|error| StoreError::Corrupt(error.to_string().into()))?;
            bytes.extend_from_slice(&json);
        }
        Ok(bytes)
    }
}

/// A receipt of a log.
pub(super) fn read_receipt(position: u64, bytes: &[u8]) -> Result<Receipt, StoreError> {
    let read = || -> Option<Receipt> {
        let (at, rest) = bytes.split_at_checked(6)?;
        let (event, rest) = rest.split_first_chunk()?;
        let (state_byte, rest) = rest.split_first()?;
        let (reason_byte, rest) = rest.split_first()?;
        let (epoch, rest) = rest.split_at_checked(6)?;
        let (latency, rest) = rest.split_at_checked(6)?;
        let mut receipt = Receipt {
            position,
            event: EventId(*event).to_string(),
            group: None,
            device: String::new(),
            state: state(state_byte & !MORE)?,
            reason: reason(*reason_byte)?,
            at: Timestamp(u48(at)?),
            session_epoch: Some(Epoch(u48(epoch)?)).filter(|epoch| epoch.0 > 0),
            latency_ms: u48(latency)?,
            attempt: 1,
            replaced_by: None,
            told: None,
        };
        let mut device = rest;
        if state_byte & MORE != 0 {
            let (length, rest) = rest.split_first()?;
            let (named, rest) = rest.split_at_checked(usize::from(*length))?;
            let (flags, rest) = rest.split_first()?;
            let (attempt, mut rest) = rest.split_first_chunk()?;
            device = named;
            receipt.attempt = u32::from_be_bytes(*attempt);
            if flags & REPLACED != 0 {
                let (event, left) = rest.split_first_chunk()?;
                (receipt.replaced_by, rest) = (Some(EventId(*event)), left);
            }
            if flags & OF_GROUP != 0 {
                let (group, left) = rest.split_first_chunk()?;
                (receipt.group, rest) = (Some(EventId(*group)), left);
            }
            if flags & TOLD != 0 {
                receipt.told = Some(serde_json::from_slice(rest).ok()?);
            }
        }
        receipt.device = std::str::from_utf8(device).ok()?.to_owned();
        Some(receipt)
    };
    read().ok_or_else(|| damaged("a receipt"))
}
