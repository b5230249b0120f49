//! Records of events in Redis: what waits, and how it ended.
//!
//! The head of a record has fixed places, because scripts change it: version 1, flags 1, length of the head 2, number in the lane 6,
//! attempt 2, number under which it was born 6, due again 6, accepted at 6, expires at 6, idempotency key 16 (when the flags say
//! so), collapse key with its length. In a queue that is all of a record: its data is beside it (`keys::data_field`), so that whoever ends
//! the event need not read it. A state has an ending behind its head.
//!
//! Of an event with a `deliver_at` (a flag) that time is in the place of `accepted at`, since all that scripts count begins there, and
//! the time of acceptance is the last of the head. Before it is due its attempt is 0.

use std::{borrow::Cow, sync::Arc, time::Duration};

use super::{
    keys,
    reply::{p48, u48},
};
use crate::{
    domain::{
        CopyOf, Data, DeliveryState, DeviceId, Epoch, Event, EventId, EventIdKey, Generation, GroupPlace, Lane, Located, Outcome, Queue,
        Reason, Require, Seq, TenantId, Timestamp, Told, given_collapse_key,
    },
    store::{
        Delivery, Idempotency, QueuedEvent, StoreError,
        codec::damaged,
        codes::{reason, reason_code, state, state_code, urgency, urgency_code},
    },
};

pub(super) const VERSION: u8 = 1;
pub(super) const IDEMPOTENT: u8 = 64;
pub(super) const AT_NEXT_SESSION: u8 = 16;
pub(super) const DELIVER_AT: u8 = 32;
/// Beside `IDEMPOTENT`: the key names the group that it is a copy of.
pub(super) const COPY: u8 = 128;
const FIXED: usize = 36;

/// The parts of a new record that its script puts together.
pub(super) struct NewRecord {
    /// Version, flags, length of the head.
    pub(super) head: [u8; 4],
    /// All behind the numbers that the script gives.
    pub(super) rest: Vec<u8>,
}

impl NewRecord {
    pub(super) fn of(event: &Event, idempotency: Option<&Idempotency>) -> Result<Self, StoreError> {
        let require = match event.require {
            Require::Acknowledged => 0,
            Require::Received => 1,
            Require::Processed => 2,
        };
        let keyed = |idempotency: &Idempotency| IDEMPOTENT | if idempotency.is_copy { COPY } else { 0 };
        let flags = urgency_code(event.urgency) | require << 2 | idempotency.map_or(0, keyed) | event.deliver_at.map_or(0, |_| DELIVER_AT);
        let collapse = event.collapse_key.as_deref().unwrap_or_default().as_bytes();
        let length = u8::try_from(collapse.len()).map_err(|_| StoreError::Conflict("a collapse key has at most 255 bytes".into()))?;
        let mut rest = Vec::with_capacity(32 + collapse.len());
        rest.extend_from_slice(&p48(event.deliverable_from().0));
        rest.extend_from_slice(&p48(event.expires_at().0));
        rest.extend(idempotency.iter().flat_map(|idempotency| idempotency.key));
        rest.push(length);
        rest.extend_from_slice(collapse);
        rest.extend(event.deliver_at.into_iter().flat_map(|_| p48(event.accepted_at.0)));
        // Of the head, 24 bytes are before this part.
        let head_length = u16::try_from(24 + rest.len()).unwrap_or(u16::MAX).to_be_bytes();
        Ok(Self {
            head: [VERSION, flags, head_length[0], head_length[1]],
            rest,
        })
    }
}

/// What the JSON of nearly every event begins with, as the ingress renders it. Where data is stored a mark stands for it: events are many.
const BEGINNING: &str = r#"{"specversion":"1.0","#;
/// The mark; no JSON begins with it.
const MARK: u8 = 1;

/// The data of an event as it is stored.
pub(super) fn pack_data(json: &str) -> Cow<'_, [u8]> {
    match json.strip_prefix(BEGINNING) {
        Some(rest) => [&[MARK], rest.as_bytes()].concat().into(),
        None => json.as_bytes().into(),
    }
}

/// The JSON of data that was stored.
pub(super) fn unpack_data(data: &[u8]) -> Result<String, StoreError> {
    let (beginning, rest) = match data.split_first() {
        Some((&MARK, rest)) => (BEGINNING, rest),
        _ => ("", data),
    };
    let rest = std::str::from_utf8(rest).map_err(|_| damaged("the JSON of an event"))?;
    Ok([beginning, rest].concat())
}

/// What the head of a record says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    flags: u8,
    pub(super) seq: Seq,
    pub(super) attempt: u32,
    /// The number under which it was born: its id is the seal of that one.
    pub(super) born: u64,
    pub(super) accepted_at: Timestamp,
    pub(super) deliver_at: Option<Timestamp>,
    pub(super) expires_at: Timestamp,
    /// It waits for that moment to be put at the tail: for the first time when its attempt is 0, else again.
    pub(super) due: Option<Timestamp>,
    pub(super) idempotency: Option<[u8; 16]>,
    pub(super) collapse_key: Option<&'a str>,
}

/// Reads a record: its head, and what is behind it.
pub(super) fn split(record: &[u8]) -> Result<(Head<'_>, &[u8]), StoreError> {
    read_head(record).ok_or_else(|| damaged("an event"))
}

fn read_head(record: &[u8]) -> Option<(Head<'_>, &[u8])> {
    let (&version, &flags) = (record.first()?, record.get(1)?);
    let length = usize::from(u16::from_be_bytes(record.get(2..4)?.try_into().ok()?));
    let (head, rest) = record.split_at_checked(length)?;
    let at = |at: usize| head.get(at..at + 6).and_then(u48);
    let keys = head.get(if flags & IDEMPOTENT == 0 { FIXED } else { FIXED + 16 }..)?;
    let (&length, collapse) = keys.split_first()?;
    let (collapse, last) = collapse.split_at_checked(usize::from(length))?;
    let collapse = std::str::from_utf8(collapse).ok()?;
    let from = Timestamp(at(24)?);
    let (accepted_at, deliver_at) = if flags & DELIVER_AT == 0 {
        (from, None)
    } else {
        (Timestamp(u48(last)?), Some(from))
    };
    let head = Head {
        flags,
        seq: Seq(at(4)?),
        attempt: u32::from(u16::from_be_bytes(head.get(10..12)?.try_into().ok()?)),
        born: at(12)?,
        due: Some(Timestamp(at(18)?)).filter(|due| due.0 > 0),
        idempotency: if flags & IDEMPOTENT == 0 {
            None
        } else {
            head.get(FIXED..FIXED + 16)?.try_into().ok()
        },
        accepted_at,
        deliver_at,
        expires_at: Timestamp(at(30)?),
        collapse_key: Some(collapse).filter(|key| !key.is_empty()),
    };
    (version == VERSION).then_some((head, rest))
}

impl Head<'_> {
    /// The state of an event that waits.
    pub(super) fn waits_as(&self) -> DeliveryState {
        if self.attempt == 0 {
            DeliveryState::Scheduled
        } else {
            DeliveryState::Queued
        }
    }

    /// From when it can be delivered.
    pub(super) fn deliverable_from(&self) -> Timestamp {
        self.deliver_at.unwrap_or(self.accepted_at)
    }

    /// The group that it is a copy of.
    fn group(&self, owner: &Owner<'_>) -> Option<EventId> {
        let key = self.idempotency.filter(|_| self.is_copy())?;
        Some(owner.ids.seal_group(CopyOf::of_key(key).place(owner.tenant)))
    }

    pub(super) fn is_copy(&self) -> bool {
        self.flags & COPY != 0
    }

    /// Whether it waits for the next session of its device.
    pub(super) fn at_next_session(&self) -> bool {
        self.flags & AT_NEXT_SESSION != 0
    }

    pub(super) fn urgency(&self) -> Result<crate::domain::Urgency, StoreError> {
        urgency(self.flags & 3).ok_or_else(|| damaged("an event"))
    }

    pub(super) fn require(&self) -> Result<Require, StoreError> {
        match self.flags >> 2 & 3 {
            0 => Ok(Require::Acknowledged),
            1 => Ok(Require::Received),
            2 => Ok(Require::Processed),
            _ => Err(damaged("an event")),
        }
    }
}

/// Whose records are read, and how their ids are made.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) ids: &'a EventIdKey,
    pub(super) generation: Generation,
    pub(super) tenant: TenantId,
    pub(super) device: &'a DeviceId,
    pub(super) bucket: u16,
    pub(super) ordinal: u32,
}

impl Owner<'_> {
    pub(super) fn located(&self, queue: Queue, number: u64) -> Located {
        Located {
            tenant: self.tenant,
            bucket: self.bucket,
            ordinal: self.ordinal,
            queue: Some(queue),
            number,
        }
    }

    pub(super) fn id(&self, queue: Queue, born: u64) -> EventId {
        self.ids.seal(self.located(queue, born))
    }

    /// The id of what replaced one of its events.
    pub(super) fn replacement(&self, by: Replacement) -> EventId {
        match by {
            Replacement::Event(queue, born) => self.id(queue, born),
            Replacement::Group(bucket, number) => self.ids.seal_group(GroupPlace {
                tenant: self.tenant,
                bucket,
                number,
            }),
        }
    }

    /// Makes what a session needs of the field, the record and the data of an event.
    pub(super) fn queued(&self, [field, record, data]: &[Vec<u8>; 3]) -> Result<QueuedEvent, StoreError> {
        let (queue, number) = keys::read_field(field).ok_or_else(|| damaged("the field of an event"))?;
        let (head, _) = split(record)?;
        let json = unpack_data(data)?;
        let urgency = head.urgency()?;
        Ok(QueuedEvent {
            id: self.id(queue, head.born),
            located: self.located(queue, number),
            lane: Lane::Queue(urgency, self.generation),
            seq: head.seq,
            attempt: head.attempt,
            event: Event {
                tenant: self.tenant,
                device: self.device.clone(),
                accepted_at: head.accepted_at,
                deliver_at: head.deliver_at,
                ttl: head.expires_at.since(head.deliverable_from()),
                urgency,
                collapse_key: head.collapse_key.map(Arc::from),
                require: head.require()?,
                json: Data(Arc::from(json)),
            },
        })
    }

    /// The public view of an event: `ending` is `None` while it is scheduled or waits for the first time.
    pub(super) fn delivery(&self, id: EventId, head: &Head<'_>, ending: Option<&Ending>) -> Result<Delivery, StoreError> {
        let urgency = head.urgency()?;
        Ok(Delivery {
            id,
            group: head.group(self),
            device: self.device.clone(),
            state: ending.map_or(head.waits_as(), |ending| ending.state),
            reason: ending.and_then(|ending| ending.reason),
            late_ack: ending.is_some_and(|ending| ending.late_ack),
            told: ending.and_then(|ending| ending.told.clone()),
            replaced_by: ending.and_then(|ending| ending.replaced_by).map(|by| self.replacement(by)),
            accepted_at: head.accepted_at,
            deliver_at: head.deliver_at,
            expires_at: head.expires_at,
            ended_at: ending.filter(|ending| ending.waits_at.is_none()).map(|ending| ending.at),
            urgency,
            lane: Lane::Queue(urgency, self.generation),
            seq: head.seq,
            attempt: head.attempt,
            session_epoch: ending.and_then(|ending| ending.epoch),
            collapse_key: head.collapse_key.map(given_collapse_key).map(Arc::from),
            require: head.require()?,
        })
    }
}

/// How an event ended, or, with the state `queued`, that it waits again.
///
/// State 1, reason 1, flags 1, at 6, epoch 6; then what the flags name: the field of the event that replaced it, or the place of the group
/// whose copy did (bucket 2, number 8), the number under which it waits again, what the device says of it as JSON.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    pub(super) state: DeliveryState,
    pub(super) reason: Option<Reason>,
    pub(super) at: Timestamp,
    pub(super) epoch: Option<Epoch>,
    pub(super) replaced_by: Option<Replacement>,
    pub(super) late_ack: bool,
    pub(super) told: Option<Arc<Told>>,
    pub(super) waits_at: Option<u64>,
}

/// What replaced an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replacement {
    /// The event that was born there.
    Event(Queue, u64),
    /// A copy: its group's bucket and number.
    Group(u16, u64),
}

/// Reads the place of a group: bucket 2, number 8.
pub(super) fn read_group(bytes: &[u8]) -> Option<(u16, u64)> {
    let (bucket, number) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*bucket), u64::from_be_bytes(number.try_into().ok()?)))
}

pub(super) const LATE: u8 = 1;
pub(super) const BY_SESSION: u8 = 2;
pub(super) const REPLACED: u8 = 4;
pub(super) const TOLD: u8 = 8;
pub(super) const WAITS: u8 = 16;
/// In an outbox alone: the attempt follows what is fixed.
pub(super) const ATTEMPT: u8 = 32;
/// In an outbox alone: the place of the group that a copy is of follows.
pub(super) const OF_GROUP: u8 = 64;
pub(super) const REPLACED_BY_GROUP: u8 = 128;

impl Ending {
    /// The bytes of the end that an outcome is. The number of one that waits again is put in by its script.
    pub(super) fn encode(outcome: Outcome, at: Timestamp, epoch: Option<Epoch>, told: Option<&Told>) -> Result<Vec<u8>, StoreError> {
        let waits = matches!(outcome, Outcome::Again { .. });
        let flags = epoch.map_or(0, |_| BY_SESSION) | told.map_or(0, |_| TOLD) | if waits { WAITS } else { 0 };
        let mut bytes = vec![state_code(outcome.state()), reason_code(outcome.reason()), flags];
        bytes.extend_from_slice(&p48(at.0));
        bytes.extend_from_slice(&p48(epoch.map_or(0, |epoch| epoch.0)));
        if let Some(told) = told {
            let json = serde_json::to_vec(told).map_err(|error| StoreError::Corrupt(error.to_string().into()))?;
            bytes.extend_from_slice(&json);
        }
        Ok(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        Self::read(bytes).ok_or_else(|| damaged("a state"))
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let flags = *bytes.get(2)?;
        let mut rest = bytes.get(15..)?;
        let mut take = |length: usize| {
            let (taken, left) = rest.split_at_checked(length)?;
            rest = left;
            Some(taken)
        };
        if flags & ATTEMPT != 0 {
            take(2)?;
        }
        if flags & OF_GROUP != 0 {
            take(10)?;
        }
        let replaced_by = if flags & REPLACED != 0 {
            let (queue, born) = keys::read_field(take(7)?)?;
            Some(Replacement::Event(queue, born))
        } else if flags & REPLACED_BY_GROUP != 0 {
            let (bucket, number) = read_group(take(10)?)?;
            Some(Replacement::Group(bucket, number))
        } else {
            None
        };
        let waits_at = if flags & WAITS == 0 { None } else { Some(u48(take(6)?)?) };
        Some(Self {
            state: state(*bytes.first()?)?,
            reason: reason(*bytes.get(1)?)?,
            at: Timestamp(u48(bytes.get(3..9)?)?),
            // A later change may have been nobody's session.
            epoch: Some(Epoch(u48(bytes.get(9..15)?)?)).filter(|epoch| flags & BY_SESSION != 0 && epoch.0 > 0),
            replaced_by,
            late_ack: flags & LATE != 0,
            told: if flags & TOLD == 0 {
                None
            } else {
                Some(Arc::new(serde_json::from_slice(rest).ok()?))
            },
            waits_at,
        })
    }
}

/// What the rows of an outbox begin with.
pub(super) fn receipt_prefix(tenant: TenantId, ordinal: Option<u32>, device: &DeviceId) -> Vec<u8> {
    let device = device.as_str().as_bytes();
    let mut bytes = Vec::with_capacity(7 + device.len());
    bytes.extend_from_slice(&tenant.0.to_be_bytes());
    bytes.extend(ordinal.into_iter().flat_map(u32::to_be_bytes));
    bytes.extend_from_slice(&named(device));
    bytes
}

/// A device's id with its length, as rows have it.
pub(super) fn named(device: &[u8]) -> Vec<u8> {
    // An id has at most 64 bytes.
    [&[u8::try_from(device.len()).unwrap_or(u8::MAX)], device].concat()
}

/// How long an event waited, by the times of its head as a script answers them.
pub(super) fn times(bytes: &[u8], at: Timestamp) -> Option<(Duration, Timestamp)> {
    let accepted_at = Timestamp(u48(bytes.get(..6)?)?);
    Some((at.since(accepted_at), Timestamp(u48(bytes.get(6..12)?)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_event_is_a_mark_where_it_is_stored() {
        let event = r#"{"specversion":"1.0","id":"1"}"#;
        let stored = pack_data(event);
        assert_eq!((stored.len(), stored[0]), (event.len() - 20, MARK));
        for json in [event, r#""specversion""#, "{}", "7"] {
            assert_eq!(unpack_data(&pack_data(json)).unwrap(), json);
        }
        assert!(unpack_data(&[MARK, 0xff]).is_err());
    }
}
