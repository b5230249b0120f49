//! Records of events: what waits, how it ended, and idempotency keys.
//!
//! Every record starts with its version. An event and its end share the same [`Facts`], so that ending copies bytes.

use std::{sync::Arc, time::Duration};

use fjall::Slice;

use super::{
    codec::{Decoder, Encoder, damaged},
    keys::Place,
};
use crate::{
    domain::{
        Data, DeliveryState, DeviceId, Epoch, Event, EventId, Generation, Lane, Outcome, Queue, Reason, Require, Seq, Timestamp, Urgency,
    },
    store::{Delivery, QueuedEvent, StoreError},
};

const VERSION: u8 = 1;

/// What a record knows of its event, apart from the JSON.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) urgency: Urgency,
    pub(super) require: Require,
    pub(super) seq: Seq,
    pub(super) attempt: u32,
    pub(super) accepted_at: Timestamp,
    pub(super) ttl: Duration,
    pub(super) device: &'a str,
    pub(super) collapse_key: Option<&'a str>,
    pub(super) idempotency: Option<[u8; 16]>,
}

const COLLAPSES: u8 = 0x10;
const IDEMPOTENT: u8 = 0x20;
const RECEIVED: u8 = 0x40;

impl<'a> Facts<'a> {
    pub(super) fn of(event: &'a Event, seq: Seq, idempotency: Option<[u8; 16]>) -> Self {
        Self {
            urgency: event.urgency,
            require: event.require,
            seq,
            attempt: 1,
            accepted_at: event.accepted_at,
            ttl: event.ttl,
            device: event.device.as_str(),
            collapse_key: event.collapse_key.as_deref(),
            idempotency,
        }
    }

    fn encode(&self, into: &mut Encoder) {
        let mut flags = urgency_code(self.urgency);
        if self.collapse_key.is_some() {
            flags |= COLLAPSES;
        }
        if self.idempotency.is_some() {
            flags |= IDEMPOTENT;
        }
        if self.require == Require::Received {
            flags |= RECEIVED;
        }
        into.byte(flags)
            .number(self.seq.0)
            .number(u64::from(self.attempt))
            .number(self.accepted_at.0)
            .number(u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX))
            .text(self.device);
        if let Some(key) = self.collapse_key {
            into.text(key);
        }
        if let Some(key) = &self.idempotency {
            into.raw(key);
        }
    }

    fn decode(from: &mut Decoder<'a>) -> Result<Self, StoreError> {
        let flags = from.byte()?;
        Ok(Self {
            urgency: urgency(flags & 0x0f).ok_or_else(|| from.damaged())?,
            require: if flags & RECEIVED == 0 {
                Require::Acknowledged
            } else {
                Require::Received
            },
            seq: Seq(from.number()?),
            attempt: from.number32()?,
            accepted_at: Timestamp(from.number()?),
            ttl: Duration::from_millis(from.number()?),
            device: from.text()?,
            collapse_key: if flags & COLLAPSES == 0 { None } else { Some(from.text()?) },
            idempotency: if flags & IDEMPOTENT == 0 { None } else { Some(from.array()?) },
        })
    }

    pub(super) fn expires_at(&self) -> Timestamp {
        self.accepted_at.plus(self.ttl)
    }
}

/// The bytes of an event that waits.
pub(super) fn encode_event(facts: &Facts<'_>, json: &Data) -> Vec<u8> {
    let mut into = Encoder::with_capacity(64 + facts.device.len() + json.0.len());
    into.byte(VERSION);
    facts.encode(&mut into);
    into.raw(json.0.as_bytes());
    into.finish()
}

/// Reads an event that waits: its facts and its JSON, still unchecked bytes.
pub(super) fn decode_event(bytes: &[u8]) -> Result<(Facts<'_>, &[u8]), StoreError> {
    let mut from = Decoder::new(bytes, "an event");
    from.version(VERSION)?;
    let facts = Facts::decode(&mut from)?;
    Ok((facts, from.rest()))
}

/// Makes of a record what a session needs.
pub(super) fn queued_event(
    id: EventId,
    place: Place,
    bucket: u16,
    generation: Generation,
    facts: &Facts<'_>,
    json: &[u8],
) -> Result<QueuedEvent, StoreError> {
    let json = std::str::from_utf8(json).map_err(|_| damaged("the JSON of an event"))?;
    Ok(QueuedEvent {
        id,
        located: place.located(bucket),
        lane: Lane::Queue(facts.urgency, generation),
        seq: facts.seq,
        attempt: facts.attempt,
        event: Event {
            tenant: place.tenant,
            device: device_id(facts.device)?,
            accepted_at: facts.accepted_at,
            ttl: facts.ttl,
            urgency: facts.urgency,
            collapse_key: facts.collapse_key.map(Arc::from),
            require: facts.require,
            json: Data(Arc::from(json)),
        },
    })
}

pub(super) fn device_id(text: &str) -> Result<DeviceId, StoreError> {
    text.parse().map_err(|_| damaged("a device id"))
}

/// How an event ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    pub(super) state: DeliveryState,
    pub(super) reason: Option<Reason>,
    pub(super) at: Timestamp,
    pub(super) epoch: Option<Epoch>,
    pub(super) replaced_by: Option<EventId>,
    /// An acknowledgement came after the end.
    pub(super) late_ack: bool,
}

impl Ending {
    /// The end that an outcome is.
    pub(super) fn of(outcome: Outcome, at: Timestamp, epoch: Option<Epoch>) -> Self {
        Self {
            state: outcome.state(),
            reason: outcome.reason(),
            at,
            epoch,
            replaced_by: None,
            late_ack: false,
        }
    }
}

/// The bytes of a state row, made of the event's own.
pub(super) fn encode_end(event: &[u8], json: &[u8], ending: &Ending) -> Vec<u8> {
    let head = &event[..event.len().saturating_sub(json.len())];
    let mut into = Encoder::with_capacity(head.len() + 40);
    into.raw(head);
    encode_ending(&mut into, ending);
    into.finish()
}

/// The bytes of a state row whose event was acknowledged late.
pub(super) fn with_late_ack(row: &[u8]) -> Result<Vec<u8>, StoreError> {
    let mut from = Decoder::new(row, "a state");
    from.version(VERSION)?;
    Facts::decode(&mut from)?;
    let head = &row[..row.len().saturating_sub(from.rest().len())];
    let mut ending = decode_ending(&mut from)?;
    ending.late_ack = true;
    let mut into = Encoder::with_capacity(row.len());
    into.raw(head);
    encode_ending(&mut into, &ending);
    Ok(into.finish())
}

fn encode_ending(into: &mut Encoder, ending: &Ending) {
    let flags = u8::from(ending.late_ack) | u8::from(ending.epoch.is_some()) << 1 | u8::from(ending.replaced_by.is_some()) << 2;
    into.byte(state_code(ending.state))
        .byte(reason_code(ending.reason))
        .byte(flags)
        .number(ending.at.0);
    if let Some(epoch) = ending.epoch {
        into.number(epoch.0);
    }
    if let Some(id) = &ending.replaced_by {
        into.raw(&id.0);
    }
}

fn decode_ending(from: &mut Decoder<'_>) -> Result<Ending, StoreError> {
    let state = state(from.byte()?).ok_or_else(|| from.damaged())?;
    let reason = reason(from.byte()?).ok_or_else(|| from.damaged())?;
    let flags = from.byte()?;
    Ok(Ending {
        state,
        reason,
        at: Timestamp(from.number()?),
        epoch: if flags & 2 == 0 { None } else { Some(Epoch(from.number()?)) },
        replaced_by: if flags & 4 == 0 { None } else { Some(EventId(from.array()?)) },
        late_ack: flags & 1 != 0,
    })
}

/// Reads a state row.
pub(super) fn decode_end(bytes: &[u8]) -> Result<(Facts<'_>, Ending), StoreError> {
    let mut from = Decoder::new(bytes, "a state");
    from.version(VERSION)?;
    let facts = Facts::decode(&mut from)?;
    let ending = decode_ending(&mut from)?;
    Ok((facts, ending))
}

/// The public view of an event: `ending` is `None` while it waits.
pub(super) fn delivery(id: EventId, generation: Generation, facts: &Facts<'_>, ending: Option<&Ending>) -> Result<Delivery, StoreError> {
    Ok(Delivery {
        id,
        device: device_id(facts.device)?,
        state: ending.map_or(DeliveryState::Queued, |ending| ending.state),
        reason: ending.and_then(|ending| ending.reason),
        outcome: ending.filter(|ending| ending.late_ack).map(|_| "late-ack"),
        replaced_by: ending.and_then(|ending| ending.replaced_by),
        accepted_at: facts.accepted_at,
        expires_at: facts.expires_at(),
        ended_at: ending.map(|ending| ending.at),
        urgency: facts.urgency,
        lane: Lane::Queue(facts.urgency, generation),
        seq: facts.seq,
        attempt: facts.attempt,
        session_epoch: ending.and_then(|ending| ending.epoch),
        collapse_key: facts.collapse_key.map(Arc::from),
        require: facts.require,
    })
}

/// What an idempotency key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) queue: Queue,
    pub(super) number: u64,
    pub(super) body: [u8; 16],
    pub(super) accepted_at: Timestamp,
}

impl Kept {
    pub(super) fn encode(&self) -> Slice {
        let mut into = Encoder::with_capacity(40);
        into.byte(VERSION)
            .byte(super::keys::queue_byte(self.queue))
            .number(self.number)
            .raw(&self.body)
            .number(self.accepted_at.0);
        into.finish().into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut from = Decoder::new(bytes, "an idempotency key");
        from.version(VERSION)?;
        Ok(Self {
            queue: if from.byte()? == 0 { Queue::First } else { Queue::Rest },
            number: from.number()?,
            body: from.array()?,
            accepted_at: Timestamp(from.number()?),
        })
    }
}

pub(super) fn queue_of(urgency: Urgency) -> Queue {
    if urgency == Urgency::High { Queue::First } else { Queue::Rest }
}

pub(super) fn urgency_code(urgency: Urgency) -> u8 {
    match urgency {
        Urgency::VeryLow => 0,
        Urgency::Low => 1,
        Urgency::Normal => 2,
        Urgency::High => 3,
    }
}

fn urgency(code: u8) -> Option<Urgency> {
    Some(match code {
        0 => Urgency::VeryLow,
        1 => Urgency::Low,
        2 => Urgency::Normal,
        3 => Urgency::High,
        _ => return None,
    })
}

pub(super) fn state_code(state: DeliveryState) -> u8 {
    match state {
        DeliveryState::Accepted => 0,
        DeliveryState::Scheduled => 1,
        DeliveryState::Queued => 2,
        DeliveryState::Dispatched => 3,
        DeliveryState::Delivered => 4,
        DeliveryState::Processed => 5,
        DeliveryState::Expired => 6,
        DeliveryState::Replaced => 7,
        DeliveryState::Cancelled => 8,
        DeliveryState::Rejected => 9,
        DeliveryState::Failed => 10,
        DeliveryState::NoTarget => 11,
    }
}

pub(super) fn state(code: u8) -> Option<DeliveryState> {
    DeliveryState::ALL.into_iter().find(|state| state_code(*state) == code)
}

pub(super) fn reason_code(reason: Option<Reason>) -> u8 {
    match reason {
        None => 0,
        Some(Reason::Poison) => 1,
        Some(Reason::DeviceRemoved) => 2,
        Some(Reason::DeviceError) => 3,
    }
}

pub(super) fn reason(code: u8) -> Option<Option<Reason>> {
    Some(match code {
        0 => None,
        1 => Some(Reason::Poison),
        2 => Some(Reason::DeviceRemoved),
        3 => Some(Reason::DeviceError),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::TenantId;

    fn event() -> Event {
        Event {
            tenant: TenantId(4),
            device: "tsn-1".parse().unwrap(),
            accepted_at: Timestamp(1_700_000_000_123),
            ttl: Duration::from_secs(60),
            urgency: Urgency::High,
            collapse_key: Some("todo".into()),
            require: Require::Received,
            json: Data("{\"id\":\"жук\"}".into()),
        }
    }

    #[test]
    fn an_event_and_its_end_come_back() {
        let event = event();
        let bytes = encode_event(&Facts::of(&event, Seq(7), Some([9; 16])), &event.json);
        let (facts, json) = decode_event(&bytes).unwrap();
        let place = Place {
            tenant: TenantId(4),
            ordinal: 2,
            queue: Queue::First,
            number: 11,
        };
        let back = queued_event(EventId([1; 20]), place, 5, Generation(1), &facts, json).unwrap();
        assert_eq!(back.event, event);
        assert_eq!((back.seq, back.attempt), (Seq(7), 1));
        let ending = Ending {
            state: DeliveryState::Replaced,
            reason: None,
            at: Timestamp(1_700_000_000_999),
            epoch: Some(Epoch(1 << 40)),
            replaced_by: Some(EventId([2; 20])),
            late_ack: false,
        };
        let row = with_late_ack(&encode_end(&bytes, json, &ending)).unwrap();
        let (facts, back) = decode_end(&row).unwrap();
        let view = delivery(EventId([1; 20]), Generation(1), &facts, Some(&back)).unwrap();
        assert_eq!(view.state, DeliveryState::Replaced);
        assert_eq!(view.outcome, Some("late-ack"));
        assert_eq!(view.replaced_by, Some(EventId([2; 20])));
        assert_eq!(view.session_epoch, Some(Epoch(1 << 40)));
        assert_eq!(facts.idempotency, Some([9; 16]));
    }

    #[test]
    fn a_cut_or_newer_record_is_damaged() {
        let event = event();
        let bytes = encode_event(&Facts::of(&event, Seq(7), None), &event.json);
        for length in 0..20 {
            assert!(decode_event(&bytes[..length]).is_err(), "{length}");
        }
        let mut newer = bytes.clone();
        newer[0] = VERSION + 1;
        assert!(matches!(decode_event(&newer), Err(StoreError::Corrupt(_))));
    }

    #[test]
    fn every_state_and_reason_has_a_code() {
        for each in DeliveryState::ALL {
            assert_eq!(state(state_code(each)), Some(each));
        }
        for each in [None, Some(Reason::Poison), Some(Reason::DeviceRemoved), Some(Reason::DeviceError)] {
            assert_eq!(reason(reason_code(each)), Some(each));
        }
    }
}
