//! Records of events: what waits, how it ended, and idempotency keys.
//!
//! Every record starts with its version. An event and its end share the same [`Facts`], so that ending copies bytes.

use std::{sync::Arc, time::Duration};

use fjall::Slice;

use super::keys::Place;
use crate::{
    domain::{
        CopyOf, Data, DeliveryState, DeviceId, Epoch, Event, EventId, EventIdKey, Generation, Lane, Outcome, Queue, Reason, Require, Seq,
        TenantId, Timestamp, Told, Urgency, given_collapse_key,
    },
    store::{
        Delivery, Idempotency, QueuedEvent, StoreError,
        codec::{Decoder, Encoder, damaged},
        codes::{reason, reason_code, state, state_code, urgency, urgency_code},
    },
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
    pub(super) deliver_at: Option<Timestamp>,
    pub(super) ttl: Duration,
    pub(super) device: &'a str,
    pub(super) collapse_key: Option<&'a str>,
    pub(super) idempotency: Option<[u8; 16]>,
    /// [`Idempotency::body`] of what it was made of. `None` with a key: the row of the key has it.
    pub(super) body: Option<[u8; 16]>,
    /// Its idempotency key names the group that it is a copy of.
    pub(super) is_copy: bool,
    /// The number under which it was born, when it was put at the tail again: its id is the seal of that one.
    pub(super) born: Option<u64>,
    /// It waits for that moment to be put at the tail: for the first time when its attempt is 0, else again.
    pub(super) due: Option<Timestamp>,
    /// Or for the next session of its device.
    pub(super) at_next_session: bool,
}

const URGENCY: u8 = 0x07;
const PROCESSED: u8 = 0x08;
const COLLAPSES: u8 = 0x10;
const IDEMPOTENT: u8 = 0x20;
const RECEIVED: u8 = 0x40;
/// More flags follow.
const MORE: u8 = 0x80;
const BORN: u8 = 0x01;
const DUE: u8 = 0x02;
const AT_NEXT_SESSION: u8 = 0x04;
const DELIVER_AT: u8 = 0x08;
const COPY: u8 = 0x10;
const BODY: u8 = 0x20;

impl<'a> Facts<'a> {
    /// Of a new event. One with a `deliver_at` is due then, and has had no attempt yet.
    pub(super) fn of(event: &'a Event, seq: Seq, idempotency: Option<&Idempotency>) -> Self {
        Self {
            urgency: event.urgency,
            require: event.require,
            seq,
            attempt: event.deliver_at.map_or(1, |_| 0),
            accepted_at: event.accepted_at,
            deliver_at: event.deliver_at,
            ttl: event.ttl,
            device: event.device.as_str(),
            collapse_key: event.collapse_key.as_deref(),
            idempotency: idempotency.map(|idempotency| idempotency.key),
            body: idempotency.map(|idempotency| idempotency.body),
            is_copy: idempotency.is_some_and(|idempotency| idempotency.is_copy),
            born: None,
            due: event.deliver_at,
            at_next_session: false,
        }
    }

    /// The state of an event that waits.
    pub(super) fn waits_as(&self) -> DeliveryState {
        if self.attempt == 0 {
            DeliveryState::Scheduled
        } else {
            DeliveryState::Queued
        }
    }

    /// Where an event was born that is at `place` now.
    pub(super) fn born(&self, place: Place) -> Place {
        Place {
            number: self.born.unwrap_or(place.number),
            ..place
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
        flags |= match self.require {
            Require::Acknowledged => 0,
            Require::Received => RECEIVED,
            Require::Processed => PROCESSED,
        };
        let more = self.born.map_or(0, |_| BORN)
            | self.due.map_or(0, |_| DUE)
            | self.deliver_at.map_or(0, |_| DELIVER_AT)
            | if self.at_next_session { AT_NEXT_SESSION } else { 0 }
            | if self.is_copy { COPY } else { 0 }
            | self.body.map_or(0, |_| BODY);
        if more != 0 {
            flags |= MORE;
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
        if more != 0 {
            into.byte(more);
            let times = [self.due, self.deliver_at].map(|time| time.map(|time| time.0));
            for number in [self.born].into_iter().chain(times).flatten() {
                into.number(number);
            }
            if let Some(body) = &self.body {
                into.raw(body);
            }
        }
    }

    fn decode(from: &mut Decoder<'a>) -> Result<Self, StoreError> {
        let flags = from.byte()?;
        let mut facts = Self {
            urgency: urgency(flags & URGENCY).ok_or_else(|| from.damaged())?,
            require: match flags & (RECEIVED | PROCESSED) {
                0 => Require::Acknowledged,
                RECEIVED => Require::Received,
                PROCESSED => Require::Processed,
                _ => return Err(from.damaged()),
            },
            seq: Seq(from.number()?),
            attempt: from.number32()?,
            accepted_at: Timestamp(from.number()?),
            deliver_at: None,
            ttl: Duration::from_millis(from.number()?),
            device: from.text()?,
            collapse_key: if flags & COLLAPSES == 0 { None } else { Some(from.text()?) },
            idempotency: if flags & IDEMPOTENT == 0 { None } else { Some(from.array()?) },
            body: None,
            is_copy: false,
            born: None,
            due: None,
            at_next_session: false,
        };
        if flags & MORE != 0 {
            let more = from.byte()?;
            facts.born = if more & BORN == 0 { None } else { Some(from.number()?) };
            facts.due = if more & DUE == 0 { None } else { Some(Timestamp(from.number()?)) };
            facts.deliver_at = if more & DELIVER_AT == 0 {
                None
            } else {
                Some(Timestamp(from.number()?))
            };
            facts.at_next_session = more & AT_NEXT_SESSION != 0;
            facts.is_copy = more & COPY != 0;
            facts.body = if more & BODY == 0 { None } else { Some(from.array()?) };
        }
        Ok(facts)
    }

    /// The group that it is a copy of.
    pub(super) fn group(&self, ids: &EventIdKey, tenant: TenantId) -> Option<EventId> {
        let key = self.idempotency.filter(|_| self.is_copy)?;
        Some(ids.seal_group(CopyOf::of_key(key).place(tenant)))
    }

    pub(super) fn deliverable_from(&self) -> Timestamp {
        self.deliver_at.unwrap_or(self.accepted_at)
    }

    pub(super) fn expires_at(&self) -> Timestamp {
        self.deliverable_from().plus(self.ttl)
    }
}

/// The bytes of an event that waits.
pub(super) fn encode_event(facts: &Facts<'_>, json: &[u8]) -> Vec<u8> {
    let mut into = Encoder::with_capacity(80 + facts.device.len() + json.len());
    into.byte(VERSION);
    facts.encode(&mut into);
    into.raw(json);
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
            deliver_at: facts.deliver_at,
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

/// How an event ended, or, with the state `queued`, that it waits again.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    pub(super) state: DeliveryState,
    pub(super) reason: Option<Reason>,
    pub(super) at: Timestamp,
    pub(super) epoch: Option<Epoch>,
    pub(super) replaced_by: Option<EventId>,
    /// An acknowledgement came after the end.
    pub(super) late_ack: bool,
    /// What the device says of it.
    pub(super) told: Option<Arc<Told>>,
    /// It waits again, under this number.
    pub(super) waits_at: Option<u64>,
    /// It ended after the time for which an idempotency key is kept, and holds its own no longer.
    pub(super) key_is_free: bool,
}

impl Ending {
    /// The end that an outcome is.
    pub(super) fn of(outcome: Outcome, at: Timestamp, epoch: Option<Epoch>, told: Option<Arc<Told>>) -> Self {
        Self {
            state: outcome.state(),
            reason: outcome.reason(),
            at,
            epoch,
            replaced_by: None,
            late_ack: false,
            told,
            waits_at: None,
            key_is_free: false,
        }
    }
}

/// The bytes of a state row, made of the event's own.
pub(super) fn encode_end(event: &[u8], json: &[u8], ending: &Ending) -> Result<Vec<u8>, StoreError> {
    let head = &event[..event.len().saturating_sub(json.len())];
    let mut into = Encoder::with_capacity(head.len() + 40);
    into.raw(head);
    encode_ending(&mut into, ending)?;
    Ok(into.finish())
}

/// The bytes of a state row of which more is known now.
pub(super) fn with_change(row: &[u8], change: impl FnOnce(&mut Ending)) -> Result<Vec<u8>, StoreError> {
    let mut from = Decoder::new(row, "a state");
    from.version(VERSION)?;
    Facts::decode(&mut from)?;
    let head = &row[..row.len().saturating_sub(from.rest().len())];
    let mut ending = decode_ending(&mut from)?;
    change(&mut ending);
    let mut into = Encoder::with_capacity(row.len());
    into.raw(head);
    encode_ending(&mut into, &ending)?;
    Ok(into.finish())
}

fn encode_ending(into: &mut Encoder, ending: &Ending) -> Result<(), StoreError> {
    let flags = u8::from(ending.late_ack)
        | u8::from(ending.epoch.is_some()) << 1
        | u8::from(ending.replaced_by.is_some()) << 2
        | u8::from(ending.told.is_some()) << 3
        | u8::from(ending.waits_at.is_some()) << 4
        | u8::from(ending.key_is_free) << 5;
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
    if let Some(told) = &ending.told {
        into.text(&serde_json::to_string(&**told).map_err(|error| StoreError::Corrupt(error.to_string().into()))?);
    }
    if let Some(number) = ending.waits_at {
        into.number(number);
    }
    Ok(())
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
        told: if flags & 8 == 0 {
            None
        } else {
            Some(Arc::new(serde_json::from_str(from.text()?).map_err(|_| damaged("an outcome"))?))
        },
        waits_at: if flags & 16 == 0 { None } else { Some(from.number()?) },
        key_is_free: flags & 32 != 0,
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

/// The public view of an event: `ending` is `None` while it is scheduled or waits for the first time.
pub(super) fn delivery(
    id: EventId,
    group: Option<EventId>,
    generation: Generation,
    facts: &Facts<'_>,
    ending: Option<&Ending>,
) -> Result<Delivery, StoreError> {
    Ok(Delivery {
        id,
        group,
        device: device_id(facts.device)?,
        state: ending.map_or(facts.waits_as(), |ending| ending.state),
        reason: ending.and_then(|ending| ending.reason),
        late_ack: ending.is_some_and(|ending| ending.late_ack),
        told: ending.and_then(|ending| ending.told.clone()),
        replaced_by: ending.and_then(|ending| ending.replaced_by),
        accepted_at: facts.accepted_at,
        deliver_at: facts.deliver_at,
        expires_at: facts.expires_at(),
        ended_at: ending.filter(|ending| ending.waits_at.is_none()).map(|ending| ending.at),
        urgency: facts.urgency,
        lane: Lane::Queue(facts.urgency, generation),
        seq: facts.seq,
        attempt: facts.attempt,
        session_epoch: ending.and_then(|ending| ending.epoch),
        collapse_key: facts.collapse_key.map(given_collapse_key).map(Arc::from),
        require: facts.require,
    })
}

/// What the row of an idempotency key says.
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

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Idempotency = Idempotency {
        key: [9; 16],
        body: [8; 16],
        is_copy: false,
    };

    fn event() -> Event {
        Event {
            tenant: TenantId(4),
            device: "tsn-1".parse().unwrap(),
            accepted_at: Timestamp(1_700_000_000_123),
            deliver_at: None,
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
        let bytes = encode_event(&Facts::of(&event, Seq(7), Some(&KEY)), event.json.0.as_bytes());
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
            told: None,
            waits_at: None,
            key_is_free: true,
        };
        let row = with_change(&encode_end(&bytes, json, &ending).unwrap(), |ending| ending.late_ack = true).unwrap();
        let (facts, back) = decode_end(&row).unwrap();
        let view = delivery(EventId([1; 20]), None, Generation(1), &facts, Some(&back)).unwrap();
        assert_eq!(view.state, DeliveryState::Replaced);
        assert!(view.late_ack && view.told.is_none() && back.key_is_free);
        assert_eq!(view.replaced_by, Some(EventId([2; 20])));
        assert_eq!(view.session_epoch, Some(Epoch(1 << 40)));
        assert_eq!(
            (facts.idempotency, facts.body, facts.is_copy),
            (Some([9; 16]), Some([8; 16]), false)
        );
    }

    #[test]
    fn a_copy_knows_its_group() {
        let (event, ids) = (event(), EventIdKey::new(&[3; 32]));
        let of = CopyOf {
            bucket: 5,
            number: 1 << 60,
            target: [1; 6],
        };
        let bytes = encode_event(
            &Facts::of(&event, Seq(7), Some(&Idempotency::of_copy(&of))),
            event.json.0.as_bytes(),
        );
        let facts = decode_event(&bytes).unwrap().0;
        assert_eq!(facts.group(&ids, event.tenant), Some(ids.seal_group(of.place(event.tenant))));
        let alone = encode_event(&Facts::of(&event, Seq(7), Some(&KEY)), event.json.0.as_bytes());
        assert_eq!(decode_event(&alone).unwrap().0.group(&ids, event.tenant), None);
    }

    #[test]
    fn an_event_that_waits_again_knows_where_it_was_born() {
        let event = Event {
            require: Require::Processed,
            deliver_at: Some(Timestamp(1_700_000_050_000)),
            ..event()
        };
        let scheduled = Facts::of(&event, Seq(0), None);
        assert_eq!((scheduled.due, scheduled.waits_as()), (event.deliver_at, DeliveryState::Scheduled));
        for (due, at_next_session) in [(None, false), (Some(Timestamp(77)), false), (Some(Timestamp(78)), true)] {
            let facts = Facts {
                attempt: 3,
                born: Some(4),
                due,
                at_next_session,
                ..Facts::of(&event, Seq(9), Some(&KEY))
            };
            let bytes = encode_event(&facts, event.json.0.as_bytes());
            let (back, json) = decode_event(&bytes).unwrap();
            assert_eq!(json, event.json.0.as_bytes());
            assert_eq!((back.born, back.due, back.at_next_session), (Some(4), due, at_next_session));
            assert_eq!((back.require, back.urgency), (Require::Processed, Urgency::High));
            assert_eq!((back.deliver_at, back.waits_as()), (event.deliver_at, DeliveryState::Queued));
            assert_eq!(back.expires_at(), Timestamp(1_700_000_110_000));
        }
        let told = crate::domain::OutcomeFields {
            status: Some("failed"),
            retry: Some("30"),
            code: Some("disk-full"),
            ..Default::default()
        };
        let told = Some(Arc::new(Told::new(told).unwrap()));
        let ending = Ending {
            waits_at: Some(12),
            ..Ending::of(told.as_ref().unwrap().outcome(), Timestamp(5), None, told.clone())
        };
        let bytes = encode_event(&Facts::of(&event, Seq(7), None), event.json.0.as_bytes());
        let row = encode_end(&bytes, event.json.0.as_bytes(), &ending).unwrap();
        let (_, back) = decode_end(&row).unwrap();
        assert_eq!((back.waits_at, back.told, back.state), (Some(12), told, DeliveryState::Queued));
    }

    #[test]
    fn a_cut_or_newer_record_is_damaged() {
        let event = event();
        let bytes = encode_event(&Facts::of(&event, Seq(7), None), event.json.0.as_bytes());
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
        for code in 0..=7 {
            assert_eq!(reason_code(reason(code).unwrap()), code);
        }
        assert_eq!(reason(8), None);
    }
}
