//! `after` and `next`: how far a device has read, in its own hands.

use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::{
    domain::{EventId, Generation, Queue},
    store::{Cursor, DeviceKey, QueuedEvent, Store},
};

/// The only layout so far.
const VERSION: u8 = 1;
/// The low bits of the first byte: which queues have been read from.
const FIRST: u8 = 0b01;
const REST: u8 = 0b10;
/// Bytes of the hash in an ETag.
const HASH: usize = 12;

/// The last event that was shown of each queue. An id is sealed by the store and names the place of its record, so the vector
/// needs no seal of its own, and a cursor of another store cannot hide events of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vector {
    generation: Generation,
    first: Option<EventId>,
    rest: Option<EventId>,
    cursor: Cursor,
}

/// A text that is no vector of this service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotAVector;

impl Vector {
    /// Before everything.
    pub(super) fn start(generation: Generation) -> Self {
        Self {
            generation,
            first: None,
            rest: None,
            cursor: Cursor::default(),
        }
    }

    /// Reads a vector back. `None`: it was given in another life of the store, or to an earlier device of that id, and says nothing
    /// about what waits now.
    pub(super) fn open(text: &str, store: &dyn Store, device: &DeviceKey, ordinal: u32) -> Result<Option<Self>, NotAVector> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| NotAVector)?;
        let (head, ids) = bytes.split_at_checked(5).ok_or(NotAVector)?;
        let [kind, generation @ ..] = *<&[u8; 5]>::try_from(head).map_err(|_| NotAVector)?;
        let (ids, []) = ids.as_chunks::<20>() else { return Err(NotAVector) };
        if kind >> 4 != VERSION || kind & 0b1100 != 0 || (kind & 0b11).count_ones() as usize != ids.len() {
            return Err(NotAVector);
        }
        let mut vector = Self::start(Generation(u32::from_be_bytes(generation)));
        if vector.generation != store.generation() {
            return Ok(None);
        }
        let mut ids = ids.iter().map(|id| EventId(*id));
        for (bit, queue) in [(FIRST, Queue::First), (REST, Queue::Rest)] {
            let Some(id) = (kind & bit != 0).then(|| ids.next()).flatten() else {
                continue;
            };
            let located = store.locate(device.tenant, id).ok_or(NotAVector)?;
            if located.queue != Some(queue) {
                return Err(NotAVector);
            }
            if located.ordinal != ordinal {
                return Ok(None);
            }
            vector.to(queue, id, located.number);
        }
        Ok(Some(vector))
    }

    /// Moves past an event.
    pub(super) fn pass(&mut self, event: &QueuedEvent) {
        if let Some(queue) = event.located.queue {
            self.to(queue, event.id, event.located.number);
        }
    }

    fn to(&mut self, queue: Queue, id: EventId, number: u64) {
        let place = match queue {
            Queue::First => &mut self.first,
            Queue::Rest => &mut self.rest,
        };
        if !self.cursor.covers(queue, number) {
            *place = Some(id);
            self.cursor.advance(queue, number);
        }
    }

    /// How far it goes, for the store.
    pub(super) fn cursor(&self) -> Cursor {
        self.cursor
    }

    fn bytes(&self) -> Vec<u8> {
        let bit = |id: Option<EventId>, bit| if id.is_some() { bit } else { 0 };
        let mut bytes = vec![VERSION << 4 | bit(self.first, FIRST) | bit(self.rest, REST)];
        bytes.extend(self.generation.0.to_be_bytes());
        for id in [self.first, self.rest].into_iter().flatten() {
            bytes.extend(id.0);
        }
        bytes
    }

    /// The text for the device.
    pub(super) fn text(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.bytes())
    }

    /// Its hash, as an entity tag (RFC 9110 §8.8.3).
    pub(super) fn etag(&self) -> String {
        let hash = digest::digest(&digest::SHA256, &self.bytes());
        let hash = hash.as_ref().get(..HASH).unwrap_or_default();
        format!("\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(hash))
    }
}
