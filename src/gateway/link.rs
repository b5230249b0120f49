//! The link to a device: all that the dispatcher knows of doors.

use std::sync::Arc;

use crate::{
    domain::{DeviceId, Epoch, EventId, TenantId, Timestamp},
    store::{Arrival, Cursor, QueuedEvent},
};

/// What became of an event that was offered to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It is with the session now (written, or in its write buffer), behind everything offered before; or it was already,
    /// or it had expired: either way the session's cursor covers it.
    Taken,
    /// The device is inactive (XEP-0352), and the event can wait: it stays in the store, and what comes behind it goes on. The
    /// session sends `DeviceSignal::Ready` when the device is active.
    Held,
    /// No room, not available yet, or older events wait first. The session remembers that something waits and sends
    /// `DeviceSignal::Ready` when it can take it.
    Later,
    /// Events that the session was not given go before it: read the store.
    Gap,
    /// The session is over, or another one holds the seat.
    Gone,
}

/// Where a refill of a link starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// How far the session has been given events.
    pub cursor: Cursor,
    /// How many events the window takes now. Zero: not now.
    pub room: usize,
    /// Arrivals refused so far: pass it to `caught_up`.
    pub refused: u64,
}

/// The live session of one device, whatever door it came in by.
///
/// Every implementation owes: events are written in the order in which they are taken, none twice within a session but by
/// XEP-0198 replay, none at or after its expiry; every event taken ends in exactly one `DeviceSignal`: `Ended` or
/// `Told`, or `Returned` when the session is over. No call blocks.
pub trait Link: Send + Sync {
    /// Which holder of the seat this is.
    fn epoch(&self) -> Epoch;

    /// Offers events that have just arrived, in order; each is taken only when nothing older waits, and, where arrivals may overtake one
    /// another, the session was given the number `after`. What is taken is written at once, and together. Adds an answer for each to
    /// `offers`.
    fn offer_all(&self, arrivals: &[Arrival], now: Timestamp, offers: &mut Vec<Offer>);

    /// Where to read on in the store. `None`: the session cannot take events now (no presence yet, hibernating, closed).
    fn behind(&self) -> Option<Behind>;

    /// Offers the next event that was read from the store, in order.
    fn refill(&self, event: &Arc<QueuedEvent>, now: Timestamp) -> Offer;

    /// Tells that the store has nothing behind the cursor. True: from here on what is offered is taken at once. False: an arrival
    /// was refused since `behind` answered, so read once more.
    fn caught_up(&self, refused: u64) -> bool;

    /// Whether the event is written and not yet acknowledged (state `dispatched`).
    fn holds(&self, id: EventId) -> bool;

    /// What the device said of an event under that number is kept; or no such event of its is known.
    fn told(&self, ticket: u32, known: bool);

    /// The event ended elsewhere: a resumption does not write it again, and no signal tells of it any more.
    fn give_up(&self, id: EventId);
}

/// Finds the links of this node.
pub trait Links: Send + Sync {
    /// The live or hibernating session of a device.
    fn link(&self, tenant: TenantId, device: &DeviceId) -> Option<Arc<dyn Link>>;

    /// Every device with a link, for a resync after hints were lost.
    fn all(&self) -> Vec<(TenantId, DeviceId, Arc<dyn Link>)>;

    /// Ends the session of a device whose seat was claimed elsewhere, if it has that epoch or an older one.
    fn displace(&self, tenant: TenantId, device: &DeviceId, epoch: Epoch);

    /// Ends the session of a device that was removed, if it has that epoch.
    fn dismiss(&self, tenant: TenantId, device: &DeviceId, epoch: Epoch);
}
