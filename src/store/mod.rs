//! The durable truth: queues, who holds each seat, the registry, and the records of what happened.
//!
//! Traits over one engine: [`Mailbox`], [`Groups`], [`Registry`], [`Records`], [`Feed`] and [`AuditLog`] are here, a file each;
//! `Log` (one event, many devices) has its place beside them. Each has a contract suite in `store::contract` that runs on every engine. Tenant is in every
//! key, id and call. Every call of a trait is one durable step on one device (or one row), so that it fits one script of
//! Redis as well as one batch of the embedded engine; nothing here needs a transaction over two devices.
//!
//! What is deliberately absent: callbacks, iterators, and any knowledge of sockets or HTTP.

mod audit;
mod change;
mod codec;
mod codes;
mod delivery;
pub mod embedded;
mod feed;
mod figures;
pub mod group;
mod hint;
mod mailbox;
mod records;
pub mod redis;
mod refusal;
mod registry;
mod rotation;
mod scan;
mod seat;
pub mod transfer;
mod watch;
mod webhooks;

#[cfg(test)]
pub mod contract;

use std::sync::Arc;

pub use audit::{AuditLog, audit_position};
pub use delivery::{Arrival, Cursor, Delivery, Page, QueuedEvent, Settle, Settled};
pub use feed::{ChangeKind, Ended, Feed, FeedBounds, PresenceChange};
pub use group::{Begun, Copied, Group, GroupRecord, Groups, Member};
pub use hint::{Addressed, Hint, Peer};
pub use mailbox::{Enqueued, EnqueuedKind, Idempotency, Mailbox, NewEvent, StoreStats, Swept};
pub use records::{Receipt, Records};
pub use registry::{ApiKey, Device, DeviceChange, KeyUse, Registered, Registry, Rotation, Tenant};
pub use scan::{Candidate, Scan, Wanted};
pub use seat::{Claimed, NewSeat, Seat, SeatView, Transport, Unread};
pub use watch::{Watch, Watches};
pub use webhooks::{
    Stepped, Unsent, Webhook, WebhookDisabled, WebhookEnd, WebhookProgress, WebhookSecret, WebhookStep, WebhookWork, Webhooks,
};

use crate::domain::{DeviceId, EventId, TenantId};

/// Why the store could not do as asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No such device in this tenant.
    #[error("no such device")]
    UnknownDevice,
    /// The device was removed.
    #[error("the device was removed")]
    RemovedDevice,
    /// The device's queue is full; nothing was stored.
    #[error("the queue is full: {events} events, {bytes} bytes")]
    QueueFull {
        /// Events in it.
        events: u32,
        /// Bytes in it.
        bytes: u64,
    },
    /// The idempotency key belongs to an event with another body; nothing was stored.
    #[error("the idempotency key belongs to {0}")]
    KeyReused(EventId),
    /// No room for new events; settling and reading go on. Nothing was stored.
    #[error("no space")]
    NoSpace,
    /// Too much waits to be written; nothing was stored.
    #[error("too much waits to be written")]
    Busy,
    /// The engine failed at this call or is being reopened; the step may have been stored.
    #[error("the store is not available: {0}")]
    Unavailable(Arc<str>),
    /// A precondition of the registry does not hold, such as a third live credential.
    #[error("{0}")]
    Conflict(Arc<str>),
    /// What is stored cannot be read.
    #[error("a record is damaged: {0}")]
    Corrupt(Arc<str>),
}

/// A device by tenant and id: the address of every call about one device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeviceKey {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which one.
    pub device: DeviceId,
}

impl DeviceKey {
    /// The bucket of the device: FNV-1a (64 bits, folded to 32) of the tenant's two bytes and the id, modulo 1024.
    pub fn bucket(&self) -> u16 {
        let bytes = self.tenant.0.to_be_bytes().into_iter().chain(self.device.as_str().bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        ((hash ^ (hash >> 32)) & 0x3ff) as u16
    }
}

/// Everything the service needs of an engine.
pub trait Store: Mailbox + Groups + Registry + Records + Feed + AuditLog {}

impl<T: Mailbox + Groups + Registry + Records + Feed + AuditLog> Store for T {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_stay_what_they_are() {
        let bucket = |tenant, id: &str| {
            let device = id.parse().unwrap();
            DeviceKey {
                tenant: TenantId(tenant),
                device,
            }
            .bucket()
        };
        assert_eq!((bucket(0, "tsn-1"), bucket(0, "tsn-2"), bucket(1, "tsn-1")), (226, 763, 935));
    }
}
