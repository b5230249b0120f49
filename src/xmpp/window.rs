//! What was written and is not acknowledged: the queue of XEP-0198 §4, and events that wait for their receipt.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crate::{
    domain::{EventId, Located, Outcome, Require, Timestamp},
    store::QueuedEvent,
};

use super::action::Ended;

/// Stanzas other than events that may wait for their acknowledgement. A device that lets more gather is cut off.
const OTHERS_MAX: usize = 128;
/// The same in bytes.
const OTHERS_MAX_BYTES: usize = 64 * 1024;
/// A receipt is awaited at least this long after acceptance: an event with a TTL of 0 may have one, too.
const RECEIPT_WITHIN: Duration = Duration::from_secs(60);

/// A stanza that was written.
#[derive(Debug)]
enum Sent {
    Event {
        event: Arc<QueuedEvent>,
        bytes: u32,
        waited: bool,
        /// It was settled by a receipt or an error, before any acknowledgement.
        ended: bool,
    },
    Other(Box<[u8]>),
}

/// An event that the device's library has, and its application has not confirmed, or has not said what became of it.
#[derive(Debug)]
struct Awaited {
    id: EventId,
    located: Located,
    until: Timestamp,
    bytes: u32,
    /// A receipt is not enough.
    outcome_wanted: bool,
}

/// The device claims to have handled more than it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooHigh {
    /// Stanzas that were sent, modulo 2^32.
    pub(super) sent: u32,
}

/// Stanzas in flight, oldest first.
#[derive(Debug, Default)]
pub(super) struct Window {
    sent: VecDeque<Sent>,
    /// How many of the oldest were written before XEP-0198 began to count.
    uncounted: u32,
    /// The count the device acknowledged last, modulo 2^32.
    acknowledged: u32,
    awaited: VecDeque<Awaited>,
    events: usize,
    bytes: usize,
    others: usize,
    others_bytes: usize,
}

impl Window {
    /// Begins to count, at 0.
    pub(super) fn count_from_here(&mut self) {
        self.uncounted = u32::try_from(self.sent.len()).unwrap_or(u32::MAX);
        self.acknowledged = 0;
    }

    /// Goes on counting from `acknowledged`, as after a long life.
    #[cfg(test)]
    pub(super) fn start_at(&mut self, acknowledged: u32) {
        self.acknowledged = acknowledged;
    }

    /// Events that hold room.
    pub(super) fn events(&self) -> usize {
        self.events
    }

    /// Their bytes on the wire.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Stanzas that no acknowledgement covers yet.
    pub(super) fn in_flight(&self) -> usize {
        self.sent.len()
    }

    /// How many of the oldest were written before XEP-0198 began to count: no `h` includes them.
    pub(super) fn uncounted(&self) -> usize {
        self.uncounted as usize
    }

    /// Adds an event that was written.
    pub(super) fn event(&mut self, event: Arc<QueuedEvent>, waited: bool, bytes: usize) {
        self.events += 1;
        self.bytes += bytes;
        self.sent.push_back(Sent::Event {
            event,
            waited,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            ended: false,
        });
    }

    /// Adds another counted stanza. False: too many of them wait.
    pub(super) fn other(&mut self, stanza: &[u8]) -> bool {
        self.others += 1;
        self.others_bytes += stanza.len();
        self.sent.push_back(Sent::Other(stanza.into()));
        self.others <= OTHERS_MAX && self.others_bytes <= OTHERS_MAX_BYTES
    }

    /// XEP-0198 `<a h=…/>`: what it covers ends. A count below the last one is ignored.
    pub(super) fn acknowledge(&mut self, handled: u32) -> Result<Vec<Ended>, TooHigh> {
        let counted = u32::try_from(self.sent.len()).unwrap_or(u32::MAX).saturating_sub(self.uncounted);
        let more = handled.wrapping_sub(self.acknowledged);
        // Counters are compared modulo 2^32 (RFC 1982): the upper half lies behind.
        let more = if more > u32::MAX / 2 { 0 } else { more };
        if more > counted {
            return Err(TooHigh {
                sent: self.acknowledged.wrapping_add(counted),
            });
        }
        // It read `<enabled/>`, so it read all that came before.
        let covered = self.uncounted + more;
        self.uncounted = 0;
        self.acknowledged = self.acknowledged.wrapping_add(more);
        Ok(self.take(covered as usize))
    }

    /// The oldest `count` stanzas arrived.
    pub(super) fn take(&mut self, count: usize) -> Vec<Ended> {
        let mut ends = Vec::new();
        for stanza in self.sent.drain(..count.min(self.sent.len())) {
            match stanza {
                Sent::Other(bytes) => {
                    self.others -= 1;
                    self.others_bytes -= bytes.len();
                }
                Sent::Event { event, bytes, ended, .. } => {
                    if !ended && event.event.require != Require::Acknowledged {
                        self.awaited.push_back(Awaited {
                            id: event.id,
                            located: event.located,
                            until: event.event.deliverable_from().plus(event.event.ttl.max(RECEIPT_WITHIN)),
                            bytes,
                            outcome_wanted: event.event.require == Require::Processed,
                        });
                        continue;
                    }
                    self.events -= 1;
                    self.bytes -= bytes as usize;
                    if !ended {
                        ends.push((event.id, event.located, Outcome::Delivered));
                    }
                }
            }
        }
        self.uncounted = self.uncounted.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
        ends
    }

    /// The receipt of an event came. `None`: it does not wait here (any more), or waits for an outcome.
    pub(super) fn receive(&mut self, id: EventId) -> Option<Ended> {
        let outcome_wanted = |event: &QueuedEvent| event.id == id && event.event.require == Require::Processed;
        let wanted = self.awaited.iter().any(|one| one.id == id && one.outcome_wanted)
            || self
                .sent
                .iter()
                .any(|stanza| matches!(stanza, Sent::Event { event, .. } if outcome_wanted(event)));
        if wanted { None } else { self.settle(id, Outcome::Delivered) }
    }

    /// The device itself says how that event ended. `None`: it does not wait here (any more).
    pub(super) fn settle(&mut self, id: EventId, outcome: Outcome) -> Option<Ended> {
        if let Some(at) = self.awaited.iter().position(|one| one.id == id) {
            let one = self.awaited.remove(at)?;
            self.events -= 1;
            self.bytes -= one.bytes as usize;
            return Some((one.id, one.located, outcome));
        }
        self.sent.iter_mut().find_map(|stanza| match stanza {
            Sent::Event { event, ended, .. } if event.id == id && !*ended => {
                *ended = true;
                Some((event.id, event.located, outcome))
            }
            _ => None,
        })
    }

    /// Gives up on receipts and outcomes of events that expired.
    pub(super) fn expire(&mut self, time: Timestamp) -> Vec<Ended> {
        let mut ends = Vec::new();
        let (events, bytes) = (&mut self.events, &mut self.bytes);
        self.awaited.retain(|one| {
            let keep = one.until > time;
            if !keep {
                *events -= 1;
                *bytes -= one.bytes as usize;
                ends.push((one.id, one.located, Outcome::Expired));
            }
            keep
        });
        ends
    }

    /// Writes again what is not acknowledged, in order, and answers the expired ones. What ended meanwhile is left out: the
    /// device did not count it, so the counts agree without it.
    pub(super) fn replay(&mut self, time: Timestamp, mut write: impl FnMut(Replayed<'_>)) -> Vec<Ended> {
        let mut ends = Vec::new();
        for stanza in std::mem::take(&mut self.sent) {
            match &stanza {
                Sent::Other(bytes) => write(Replayed::Other(bytes)),
                Sent::Event {
                    event,
                    waited,
                    bytes,
                    ended,
                } => {
                    let expired = !event.event.ttl.is_zero() && event.event.expires_at() <= time;
                    if *ended || expired {
                        self.events -= 1;
                        self.bytes -= *bytes as usize;
                        if !ended {
                            ends.push((event.id, event.located, Outcome::Expired));
                        }
                        continue;
                    }
                    write(Replayed::Event { event, waited: *waited });
                }
            }
            self.sent.push_back(stanza);
        }
        ends
    }

    /// Events that did not end, oldest first.
    pub(super) fn unacknowledged(&self) -> Vec<(EventId, Located)> {
        let awaited = self.awaited.iter().map(|one| (one.id, one.located));
        let sent = self.sent.iter().filter_map(|stanza| match stanza {
            Sent::Event { event, ended: false, .. } => Some((event.id, event.located)),
            _ => None,
        });
        awaited.chain(sent).collect()
    }

    /// Whether that event waits for its end.
    pub(super) fn holds(&self, id: EventId) -> bool {
        self.awaited.iter().any(|one| one.id == id)
            || self
                .sent
                .iter()
                .any(|stanza| matches!(stanza, Sent::Event { event, ended: false, .. } if event.id == id))
    }

    /// Gives back memory that nothing uses.
    pub(super) fn rest(&mut self) {
        self.sent.shrink_to_fit();
        self.awaited.shrink_to_fit();
    }

    /// Bytes of memory behind this. Events are shared with the store's reader and count here: nobody else may hold them.
    pub(super) fn memory(&self) -> usize {
        let events: usize = self
            .sent
            .iter()
            .map(|stanza| match stanza {
                Sent::Event { event, .. } => size_of::<QueuedEvent>() + event.event.json.0.len(),
                Sent::Other(bytes) => bytes.len(),
            })
            .sum();
        events + self.sent.capacity() * size_of::<Sent>() + self.awaited.capacity() * size_of::<Awaited>()
    }
}

/// A stanza to write again.
pub(super) enum Replayed<'a> {
    /// An event, to be rendered as it was.
    Event {
        /// The event.
        event: &'a QueuedEvent,
        /// As it was written first.
        waited: bool,
    },
    /// Its bytes.
    Other(&'a [u8]),
}
