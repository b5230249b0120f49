//! What nodes say to one another: a length of four bytes, then a message in postcard.
//!
//! Everything a session needs to write an event is in the message, so that the owner writes it without asking the store.

use std::{sync::Arc, time::Duration};

use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};

use crate::{
    domain::{Data, DeviceId, Epoch, Event, EventId, Generation, Lane, Located, Queue, Require, Seq, TenantId, Timestamp, Urgency},
    store::{Arrival, DeviceKey, Hint, QueuedEvent},
};

/// Bytes of the length before each message.
pub(super) const PREFIX: usize = 4;
/// The longest message: an event of 64 KiB with all that is around it, and room for larger limits.
pub(super) const MESSAGE_MAX: usize = 4 << 20;

/// What could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message that cannot be read")]
pub struct Unreadable;

/// Asks another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// What its doors know of the sessions of these devices: one answer for all.
    Sessions(Vec<DeviceKey>),
    /// Which of those events are written to the device's session and not acknowledged: a byte of 0 or 1 for each.
    Holds(DeviceKey, Vec<EventId>),
}

/// One message, taken apart.
#[derive(Debug)]
pub(super) enum Received {
    Hint(Hint),
    /// Hints were dropped before this one.
    Lost,
    Ask(u32, Question),
    Answer(u32, Option<Vec<u8>>),
}

#[derive(Serialize, Deserialize)]
enum Wire<'a> {
    Arrived(#[serde(borrow)] WireArrival<'a>),
    Displaced(#[serde(borrow)] WireDevice<'a>, u64),
    Removed(#[serde(borrow)] WireDevice<'a>, u64),
    Lost,
    AskSessions(u32, #[serde(borrow)] Vec<WireDevice<'a>>),
    AskHolds(u32, #[serde(borrow)] WireDevice<'a>, Vec<[u8; 20]>),
    Answer(u32, #[serde(borrow)] Option<&'a [u8]>),
}

#[derive(Serialize, Deserialize)]
struct WireDevice<'a> {
    tenant: u16,
    device: &'a str,
}

#[derive(Serialize, Deserialize)]
struct WireArrival<'a> {
    #[serde(borrow)]
    device: WireDevice<'a>,
    epoch: u64,
    after: Option<u64>,
    id: [u8; 20],
    bucket: u16,
    ordinal: u32,
    /// 0: stored nowhere, 1: first, 2: rest.
    queue: u8,
    number: u64,
    generation: u32,
    seq: u64,
    attempt: u32,
    accepted_at: u64,
    deliver_at: Option<u64>,
    ttl_ms: u64,
    urgency: Urgency,
    collapse_key: Option<&'a str>,
    require: Require,
    json: &'a str,
}

impl<'a> WireDevice<'a> {
    fn of(device: &'a DeviceKey) -> Self {
        Self {
            tenant: device.tenant.0,
            device: device.device.as_str(),
        }
    }

    fn key(&self) -> Result<DeviceKey, Unreadable> {
        let device: DeviceId = self.device.parse().map_err(|_| Unreadable)?;
        Ok(DeviceKey {
            tenant: TenantId(self.tenant),
            device,
        })
    }
}

impl<'a> WireArrival<'a> {
    fn of(arrival: &'a Arrival) -> Self {
        let QueuedEvent {
            id,
            located,
            lane,
            seq,
            attempt,
            event,
        } = &*arrival.event;
        let (Lane::Queue(_, generation) | Lane::Now(generation)) = lane;
        Self {
            device: WireDevice {
                tenant: event.tenant.0,
                device: event.device.as_str(),
            },
            epoch: arrival.epoch.0,
            after: arrival.after,
            id: id.0,
            bucket: located.bucket,
            ordinal: located.ordinal,
            queue: match located.queue {
                None => 0,
                Some(Queue::First) => 1,
                Some(Queue::Rest) => 2,
            },
            number: located.number,
            generation: generation.0,
            seq: seq.0,
            attempt: *attempt,
            accepted_at: event.accepted_at.0,
            deliver_at: event.deliver_at.map(|at| at.0),
            ttl_ms: u64::try_from(event.ttl.as_millis()).unwrap_or(u64::MAX),
            urgency: event.urgency,
            collapse_key: event.collapse_key.as_deref(),
            require: event.require,
            json: &event.json.0,
        }
    }

    fn arrival(self) -> Result<Arrival, Unreadable> {
        let device = self.device.key()?;
        let queue = match self.queue {
            0 => None,
            1 => Some(Queue::First),
            2 => Some(Queue::Rest),
            _ => return Err(Unreadable),
        };
        let generation = Generation(self.generation);
        let event = QueuedEvent {
            id: EventId(self.id),
            located: Located {
                tenant: device.tenant,
                bucket: self.bucket,
                ordinal: self.ordinal,
                queue,
                number: self.number,
            },
            lane: if queue.is_some() {
                Lane::Queue(self.urgency, generation)
            } else {
                Lane::Now(generation)
            },
            seq: Seq(self.seq),
            attempt: self.attempt,
            event: Event {
                tenant: device.tenant,
                device: device.device,
                accepted_at: Timestamp(self.accepted_at),
                deliver_at: self.deliver_at.map(Timestamp),
                ttl: Duration::from_millis(self.ttl_ms),
                urgency: self.urgency,
                collapse_key: self.collapse_key.map(Arc::from),
                require: self.require,
                json: Data(Arc::from(self.json)),
            },
        };
        Ok(Arrival {
            epoch: Epoch(self.epoch),
            after: self.after,
            event: Arc::new(event),
        })
    }
}

/// The end of a buffer, as a place for postcard to write to.
struct Tail<'a>(&'a mut Vec<u8>);

impl Flavor for Tail<'_> {
    type Output = ();

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

fn put(out: &mut Vec<u8>, wire: &Wire<'_>) {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    let written = postcard::serialize_with_flavor(wire, Tail(out));
    let length = u32::try_from(out.len().saturating_sub(start + PREFIX));
    // A buffer takes all there is, and no message has 4 GiB: what cannot be is left out.
    match (written, length, out.get_mut(start..start + PREFIX)) {
        (Ok(()), Ok(length), Some(prefix)) => prefix.copy_from_slice(&length.to_be_bytes()),
        _ => out.truncate(start),
    }
}

pub(super) fn put_hint(out: &mut Vec<u8>, hint: &Hint) {
    let wire = match hint {
        Hint::Arrived(arrival) => Wire::Arrived(WireArrival::of(arrival)),
        Hint::Displaced { device, epoch } => Wire::Displaced(WireDevice::of(device), epoch.0),
        Hint::Removed { device, epoch } => Wire::Removed(WireDevice::of(device), epoch.0),
    };
    put(out, &wire);
}

pub(super) fn put_lost(out: &mut Vec<u8>) {
    put(out, &Wire::Lost);
}

pub(super) fn put_question(out: &mut Vec<u8>, number: u32, question: &Question) {
    let wire = match question {
        Question::Sessions(devices) => Wire::AskSessions(number, devices.iter().map(WireDevice::of).collect()),
        Question::Holds(device, events) => Wire::AskHolds(number, WireDevice::of(device), events.iter().map(|event| event.0).collect()),
    };
    put(out, &wire);
}

pub(super) fn put_answer(out: &mut Vec<u8>, number: u32, answer: Option<&[u8]>) {
    put(out, &Wire::Answer(number, answer));
}

/// How long the first message is, with its prefix. `None`: its prefix is not there yet.
pub(super) fn length(bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
    let Some(prefix) = bytes.first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*prefix)).map_err(|_| Unreadable)?;
    if length > MESSAGE_MAX {
        Err(Unreadable)
    } else {
        Ok(Some(PREFIX + length))
    }
}

/// Reads one whole message, its prefix included.
pub(super) fn read(message: &[u8]) -> Result<Received, Unreadable> {
    let body = message.get(PREFIX..).ok_or(Unreadable)?;
    let (wire, rest) = postcard::take_from_bytes(body).map_err(|_| Unreadable)?;
    if !rest.is_empty() {
        return Err(Unreadable);
    }
    Ok(match wire {
        Wire::Arrived(arrival) => Received::Hint(Hint::Arrived(arrival.arrival()?)),
        Wire::Displaced(device, epoch) => Received::Hint(Hint::Displaced {
            device: device.key()?,
            epoch: Epoch(epoch),
        }),
        Wire::Removed(device, epoch) => Received::Hint(Hint::Removed {
            device: device.key()?,
            epoch: Epoch(epoch),
        }),
        Wire::Lost => Received::Lost,
        Wire::AskSessions(number, devices) => {
            let devices = devices.iter().map(WireDevice::key).collect::<Result<_, _>>()?;
            Received::Ask(number, Question::Sessions(devices))
        }
        Wire::AskHolds(number, device, event) => {
            Received::Ask(number, Question::Holds(device.key()?, event.into_iter().map(EventId).collect()))
        }
        Wire::Answer(number, answer) => Received::Answer(number, answer.map(<[u8]>::to_vec)),
    })
}

/// Reads all whole messages at the beginning of `bytes`; answers how many bytes they were.
pub(super) fn each(bytes: &[u8], mut take: impl FnMut(Received)) -> Result<usize, Unreadable> {
    let mut rest = bytes;
    while let Some(length) = length(rest)?
        && let Some((one, more)) = rest.split_at_checked(length)
    {
        take(read(one)?);
        rest = more;
    }
    Ok(bytes.len() - rest.len())
}
