//! What devices tell the dispatcher: values that travel up the flow in a channel.

use std::sync::Arc;

use super::{DeviceId, Epoch, EventId, Located, Outcome, TenantId, Told};

/// One connection's session, unguessable (128 random bits). It is also the XEP-0198 SM-ID.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub u128);

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::fmt::Debug for SessionId {
    /// Only a few digits: whoever knows an SM-ID is half way to resuming it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}…", self.0 >> 96)
    }
}

/// What happened at a device's session.
#[derive(Debug, Clone)]
pub enum DeviceSignal {
    /// The session can take events and something may wait: after its first presence of priority ≥ 0, after a resumption,
    /// and whenever its window has room again after it had to refuse an arrival.
    Ready {
        /// Whose tenant.
        tenant: TenantId,
        /// Which device.
        device: DeviceId,
        /// Which session: a signal of an older one is ignored.
        epoch: Epoch,
    },
    /// Deliveries ended at the device's side: acknowledged, refused, or found expired before writing.
    Ended {
        /// Whose tenant.
        tenant: TenantId,
        /// Which device.
        device: DeviceId,
        /// The holder of the seat when it happened.
        epoch: Epoch,
        /// Each event with its outcome, oldest first.
        events: Vec<(EventId, Located, Outcome)>,
    },
    /// The device says what became of an event, and waits to hear that this is kept.
    Told {
        /// Whose tenant.
        tenant: TenantId,
        /// Which device.
        device: DeviceId,
        /// The holder of the seat when it said so.
        epoch: Epoch,
        /// Which event. It may be another's, or none.
        event: EventId,
        /// What it says.
        told: Arc<Told>,
        /// Under which number its session waits for the answer.
        ticket: u32,
    },
    /// The session is over; these were written and never acknowledged. They are still in the store.
    Returned {
        /// Whose tenant.
        tenant: TenantId,
        /// Which device.
        device: DeviceId,
        /// Which session.
        epoch: Epoch,
        /// The events, oldest first.
        events: Vec<(EventId, Located)>,
        /// Whether it ended within 5 s of writing the last of them. `None`: its connection broke before, and `Broke` told.
        at_once: Option<bool>,
    },
    /// The connection of a session broke; the session waits to be resumed, or was resumed elsewhere. These were written and not
    /// acknowledged: a resumption writes them again.
    Broke {
        /// Whose tenant.
        tenant: TenantId,
        /// Which device.
        device: DeviceId,
        /// Which session.
        epoch: Epoch,
        /// The events, oldest first. At least one.
        events: Vec<(EventId, Located)>,
        /// Whether it broke within 5 s of writing the last of them.
        at_once: bool,
    },
}
