//! The durable truth: queues, who holds each seat, the registry, and the records of what happened.
//!
//! Traits over one engine: [`Mailbox`], [`Groups`], [`Registry`], [`Records`], [`Feed`] and [`AuditLog`] are here; `Log` (one event, many devices) has
//! its place beside them. Each has a contract suite in `store::contract` that runs on every engine. Tenant is in every
//! key, id and call. Every call of a trait is one durable step on one device (or one row), so that it fits one script of
//! Redis as well as one batch of the embedded engine; nothing here needs a transaction over two devices.
//!
//! What is deliberately absent: callbacks, iterators, and any knowledge of sockets or HTTP.

mod audit;
mod change;
mod codec;
mod codes;
pub mod embedded;
mod feed;
mod figures;
pub mod group;
mod hint;
pub mod redis;
mod refusal;
mod registry;
mod rotation;
mod scan;
pub mod transfer;
mod watch;
mod webhooks;

#[cfg(test)]
pub mod contract;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use audit::{AuditLog, audit_position};
pub use feed::{ChangeKind, Ended, Feed, FeedBounds, PresenceChange};
pub use group::{Begun, Copied, Group, GroupRecord, Groups, Member};
pub use hint::{Addressed, Hint, Peer};
pub use registry::{ApiKey, Device, DeviceChange, KeyUse, Registered, Registry, Rotation, Tenant};
pub use scan::{Candidate, Scan, Wanted};
pub use watch::{Watch, Watches};
pub use webhooks::{
    Stepped, Unsent, Webhook, WebhookDisabled, WebhookEnd, WebhookProgress, WebhookSecret, WebhookStep, WebhookWork, Webhooks,
};

use crate::domain::{
    Cohort, CopyOf, DeliveryState, Departure, DeviceId, Durability, Epoch, Event, EventId, FastChange, Generation, Lane, Located, Outcome,
    Queue, Reason, Seq, SessionId, TenantId, Timestamp, Told, Urgency,
};

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

/// An event on its way into the store.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The event.
    pub event: Event,
    /// Its idempotency key, if it has one.
    pub idempotency: Option<Idempotency>,
}

/// An idempotency key within (tenant, target).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Idempotency {
    /// The first 16 bytes of SHA-256 of the key, prefixed with its kind so that a header never meets a `source`+`id`.
    pub key: [u8; 16],
    /// The first 16 bytes of SHA-256 of the request, without what may differ in a retry.
    pub body: [u8; 16],
    /// It is no key that a backend gave: the event is a copy, and its key names its group.
    pub is_copy: bool,
}

impl Idempotency {
    /// The key of a copy.
    pub fn of_copy(of: &CopyOf) -> Self {
        Self {
            key: of.key(),
            body: [0; 16],
            is_copy: true,
        }
    }
}

/// What `enqueue` did, and who holds the device's seat: both known in the same durable step.
#[derive(Debug, Clone)]
pub struct Enqueued {
    /// Id of the event: of the first one, when this is a repeat.
    pub id: EventId,
    /// New or a repeat.
    pub kind: EnqueuedKind,
    /// Level at which it is durable now.
    pub durability: Durability,
    /// State of the event now: `queued`, `scheduled` with a `deliver_at`, for a TTL of 0 `accepted`; for a repeat what became of the first.
    pub state: DeliveryState,
    /// Who held the seat at that moment.
    pub seat: Option<Seat>,
    /// Ids that it replaced (same collapse key, not yet delivered).
    pub replaced: Vec<EventId>,
}

/// Whether an event is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnqueuedKind {
    /// Stored by this call.
    New,
    /// Stored by an earlier call with the same idempotency key and body.
    Repeat,
}

/// The right to be the device: who holds it, since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Which holder.
    pub epoch: Epoch,
    /// The session that holds it.
    pub session: SessionId,
    /// The node where that session is.
    pub node: Arc<str>,
    /// How it is connected.
    pub transport: Transport,
    /// When it was claimed.
    pub connected_at: Timestamp,
}

/// How a device is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// XMPP over TCP with STARTTLS (or, where the operator allows it, without TLS).
    Xmpp,
    /// XMPP over direct TLS.
    Xmpps,
    /// XMPP over WebSocket (RFC 7395).
    WebSocket,
}

impl Transport {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Xmpp, Self::Xmpps, Self::WebSocket];

    /// The word in API and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Xmpp => "xmpp",
            Self::Xmpps => "xmpps",
            Self::WebSocket => "websocket",
        }
    }
}

/// A session that asks for the seat.
#[derive(Debug, Clone)]
pub struct NewSeat {
    /// The session.
    pub session: SessionId,
    /// The node it is on.
    pub node: Arc<str>,
    /// How it is connected.
    pub transport: Transport,
    /// When.
    pub at: Timestamp,
    /// The credential generation at which the device was authenticated: a changed one refuses the claim.
    pub credential_generation: u32,
    /// What the login changes among the device's FAST tokens, in the same step; it is synced when a token is given out.
    pub fast: Option<Box<FastChange>>,
}

/// What is still to be judged of a device that proved without its row who it is, because the store did not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unread {
    /// Add the device, in this cohort, if it never was there: its token says that it may.
    pub register: Option<Cohort>,
    /// SHA-256 of the certificate that it showed: a device whose credentials name certificates takes no other.
    pub certificate: Option<[u8; 32]>,
}

/// The answer to a claim.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The new epoch of the seat.
    pub epoch: Epoch,
    /// The seat it displaced, if somebody held it.
    pub displaced: Option<Seat>,
    /// How many events wait.
    pub waiting: u32,
}

/// How far a session has read the two queues of its device: the last storage number of each. Zero: nothing yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor {
    /// In the queue of urgency `high`.
    pub first: u64,
    /// In the queue of the rest.
    pub rest: u64,
}

impl Cursor {
    /// Whether the record is at or before this cursor.
    pub fn covers(&self, queue: Queue, number: u64) -> bool {
        match queue {
            Queue::First => number <= self.first,
            Queue::Rest => number <= self.rest,
        }
    }

    /// Moves to that record, never back.
    pub fn advance(&mut self, queue: Queue, number: u64) {
        let place = match queue {
            Queue::First => &mut self.first,
            Queue::Rest => &mut self.rest,
        };
        *place = (*place).max(number);
    }
}

/// An event that waits in a queue (or, with a TTL of 0, in passing): all that a session needs to write it.
#[derive(Debug, Clone)]
pub struct QueuedEvent {
    /// Its id.
    pub id: EventId,
    /// Where its record is.
    pub located: Located,
    /// Its lane.
    pub lane: Lane,
    /// Its number within the lane.
    pub seq: Seq,
    /// Which delivery of it this is, from 1. Rises when it is queued again, not when it is written again.
    pub attempt: u32,
    /// The event itself.
    pub event: Event,
}

/// An event that was stored (or passed, with a TTL of 0) for a device whose seat somebody held at that moment.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The holder of the seat.
    pub epoch: Epoch,
    /// The event.
    pub event: Arc<QueuedEvent>,
    /// The number that was given before to an event of the device, where arrivals may overtake one another: a session that was not
    /// given that one reads on in the store first. `None`: they come in the order of their numbers.
    pub after: Option<u64>,
}

impl Arrival {
    /// As `after`: the session reads on in the store, whatever it was given. For an event whose number in its lane is not known here.
    pub const READ_FIRST: u64 = u64::MAX;
}

/// A page of what waits: first the urgent, then the rest by acceptance.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The events, in the order in which to write them.
    pub events: Vec<Arc<QueuedEvent>>,
    /// Whether more waits behind them.
    pub more: bool,
}

/// The end of one delivery.
#[derive(Debug, Clone)]
pub struct Settle {
    /// Whose tenant and which device.
    pub device: DeviceKey,
    /// Which event.
    pub id: EventId,
    /// Where its record is.
    pub located: Located,
    /// How it ended.
    pub outcome: Outcome,
    /// When.
    pub at: Timestamp,
    /// The holder of the seat, when a session reported it. `None`: an API call or the sweeper.
    pub epoch: Option<Epoch>,
    /// What the device says of it, in more words.
    pub told: Option<Arc<Told>>,
}

/// What `settle` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It ended by this call. `waited` is the time from acceptance to the outcome.
    Now {
        /// How: another than was asked for when it was to be put off once too often.
        outcome: Outcome,
        /// From acceptance, or from its `deliver_at`, to `at`.
        waited: Duration,
        /// How urgent it was.
        urgency: Urgency,
        /// Until when it could be delivered.
        expires_at: Timestamp,
    },
    /// It waits again, and will be at the tail of its lane after its pause: [`Mailbox::requeue_due`].
    Again,
    /// `delivered`, of an event that requires an outcome: nothing was changed.
    OutcomeWanted,
    /// It had ended before; that state stays, but for `delivered`, which an outcome `done` makes `processed`. A `delivered` that
    /// comes after `replaced`, `cancelled` or `expired` is kept as `late-ack` in its record, and the first outcome after
    /// `delivered` in its own words. Also an event that was put off already and is put off again.
    Before(DeliveryState),
    /// There is no such event (any more).
    Unknown,
}

/// What is known of a delivery.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// The event, or its copy for this device.
    pub id: EventId,
    /// The event to several devices that it is a copy of.
    pub group: Option<EventId>,
    /// The device.
    pub device: DeviceId,
    /// `scheduled`, `queued`, or how it ended. (`dispatched` is known to the session's node alone.)
    pub state: DeliveryState,
    /// Why it ended so.
    pub reason: Option<Reason>,
    /// An acknowledgement came after the end.
    pub late_ack: bool,
    /// What the device said of it last. While it waits: why it waits again.
    pub told: Option<Arc<Told>>,
    /// The event that replaced it: of a copy the group.
    pub replaced_by: Option<EventId>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Before that it is not delivered.
    pub deliver_at: Option<Timestamp>,
    /// Until when it may be delivered.
    pub expires_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Its urgency.
    pub urgency: Urgency,
    /// Its lane and number.
    pub lane: Lane,
    /// Its number within the lane. 0: none yet, it is scheduled.
    pub seq: Seq,
    /// Which delivery of it this is. 0: none yet, it is scheduled.
    pub attempt: u32,
    /// The holder of the seat that ended it.
    pub session_epoch: Option<Epoch>,
    /// Its collapse key, as its backend gave it.
    pub collapse_key: Option<Arc<str>>,
    /// What makes it delivered.
    pub require: crate::domain::Require,
}

/// The device as presence sees it in the store: the seat, and what is left of the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeatView {
    /// Who holds it now.
    pub seat: Option<Seat>,
    /// The last epoch that was given out.
    pub last_epoch: Epoch,
    /// The last proof of life that was stored: at the latest when the last seat was released.
    pub last_seen_at: Option<Timestamp>,
    /// Events that wait.
    pub waiting: u32,
}

/// Numbers of the whole store, for gauges. Cheap: kept, not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Events that wait. `None` until the first sweep after a start has counted them.
    pub queued: Option<u64>,
    /// When the oldest that waits was accepted.
    pub oldest_queued_at: Option<Timestamp>,
    /// Devices that were added and not removed.
    pub devices: u64,
    /// Of those, the ones of cohort poll.
    pub devices_polling: u64,
    /// Of those, the ones of cohort control.
    pub devices_control: u64,
    /// Bytes of disk in use by the store.
    pub disk_bytes: u64,
    /// Bytes of disk that are free.
    pub free_bytes: u64,
    /// Whether new events are taken.
    pub writable: bool,
}

/// What one round of the sweeper did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Events that expired.
    pub expired: u64,
    /// State rows, idempotency keys, receipts and tombstones that were dropped.
    pub dropped: u64,
    /// Whether the round reached the end of everything.
    pub complete: bool,
}

/// Events that wait for devices, and which session holds each device now: one truth, shared by all nodes.
#[async_trait]
pub trait Mailbox: Send + Sync + 'static {
    /// Makes each event durable, in order, and answers with it who holds its device now. Resolves once the configured
    /// durability holds. In the same step: the lane's number, replacement by collapse key, the quota, the idempotency
    /// key, state rows and receipts of what was replaced. Then each stored event whose seat is held is an [`Arrival`]. One with a
    /// `deliver_at` is neither numbered nor an arrival yet: it is `scheduled` until [`Mailbox::requeue_due`] finds it due.
    async fn enqueue(&self, events: Vec<NewEvent>) -> Vec<Result<Enqueued, StoreError>>;

    /// Seats a session at the device under a higher epoch.
    ///
    /// # Errors
    /// `UnknownDevice`, `RemovedDevice`, `Conflict` when the credentials changed since the login read them.
    async fn claim(&self, device: &DeviceKey, session: NewSeat) -> Result<Claimed, StoreError>;

    /// Whether the store may be away for a while and takes sessions all the same: [`Mailbox::claim_unread`].
    fn seats_unread(&self) -> bool {
        false
    }

    /// Seats a session whose device proved who it is while its row could not be read. The row is judged, and the seat claimed,
    /// once the store answers: a device that is unknown then and may not be added, was removed, or has other certificates loses
    /// its session, as one that is removed does.
    ///
    /// # Errors
    /// `Unavailable` where [`Mailbox::seats_unread`] says no.
    async fn claim_unread(&self, _device: &DeviceKey, _session: NewSeat, _unread: Unread) -> Result<Claimed, StoreError> {
        Err(StoreError::Unavailable("the row of the device cannot be read".into()))
    }

    /// At most `limit` events behind `after`, those of urgency `high` first. Expired ones are left out (the sweeper ends them).
    async fn pending(&self, device: &DeviceKey, after: Cursor, limit: usize) -> Result<Page, StoreError>;

    /// Ends deliveries, or puts them off ([`Outcome::Again`]). Idempotent; a final state is never changed. The queue entry goes, the state row and the receipt are
    /// written in the same step. Every device's part is durable on its own when this resolves. One answer each, in order.
    async fn settle(&self, ends: Vec<Settle>) -> Vec<Result<Settled, StoreError>>;

    /// Puts events whose pause is over ([`Outcome::Again`]), and scheduled ones whose `deliver_at` has come, at the tail of their lanes,
    /// each with a new number and one attempt more, in the order in which they are due and then of acceptance; at most `limit` of them;
    /// answers how many. Call it every second or so. Each whose seat is held is an [`Arrival`].
    async fn requeue_due(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError>;

    /// Gives the seat up if `epoch` still holds it, and keeps `last_seen_at`: a late goodbye never erases a newer connection. The
    /// feed of presence is told why in the same step.
    async fn release(&self, device: &DeviceKey, epoch: Epoch, last_seen_at: Timestamp, why: Departure) -> Result<bool, StoreError>;

    /// Who holds the seat.
    async fn seat(&self, device: &DeviceKey) -> Result<SeatView, StoreError>;

    /// The same of many devices, one answer each, in order: they do not wait for one another.
    async fn seats(&self, devices: &[DeviceKey]) -> Vec<Result<SeatView, StoreError>> {
        let mut views = Vec::with_capacity(devices.len());
        for device in devices {
            views.push(self.seat(device).await);
        }
        views
    }

    /// What became of an event. `None`: unknown, of another tenant, or ended longer ago than states are kept.
    async fn delivery(&self, tenant: TenantId, id: EventId) -> Result<Option<Delivery>, StoreError>;

    /// The deliveries of a device, those that wait and those that ended lately, newest first; `before` is the last id of
    /// the page before.
    async fn deliveries(&self, device: &DeviceKey, before: Option<EventId>, limit: usize) -> Result<Vec<Delivery>, StoreError>;

    /// One bounded round of housekeeping: ends what expired, drops what was kept long enough. Call it now and then; it goes
    /// on where the last round stopped.
    async fn sweep(&self, now: Timestamp) -> Result<Swept, StoreError>;

    /// Waits until something is stored for a device, whoever holds its seat, or the device itself is changed or removed.
    fn watch(&self, device: &DeviceKey) -> Watch;

    /// Which life of the store this is.
    fn generation(&self) -> Generation;

    /// Whether `id` was made by this store for this tenant, and where its record is.
    fn locate(&self, tenant: TenantId, id: EventId) -> Option<Located>;

    /// Gauges.
    fn stats(&self) -> StoreStats;

    /// How many arrivals were dropped because nobody took them in time, or were lost on the way. When it rises, sessions are
    /// compared with the store at once.
    fn missed_arrivals(&self) -> u64;
}

/// A change of a delivery's state, as backends will read it. Written in the step that made the change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Position in the tenant's log of receipts; rises.
    pub position: u64,
    /// The event, or its copy for this device.
    pub event: String,
    /// The event to several devices that it is a copy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<EventId>,
    /// The device.
    pub device: String,
    /// The new state.
    pub state: DeliveryState,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// When.
    pub at: Timestamp,
    /// The seat that reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_epoch: Option<Epoch>,
    /// From acceptance, or from its `deliver_at`, to that state, in milliseconds. 0 when it ended before.
    pub latency_ms: u64,
    /// Which delivery of the event it tells of, from 1.
    #[serde(default = "first")]
    pub attempt: u32,
    /// The event that replaced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<EventId>,
    /// What the device says of it, without its JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
}

/// The number of the first delivery.
fn first() -> u32 {
    1
}

/// What happened: receipts, and minutes of the ledger.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// Receipts of a tenant behind `after`, oldest first. What a step wrote is here within two seconds of it. What was answered once stays
    /// as it is, at its position, and nothing comes before it later: whoever reads on behind the last position misses none.
    async fn receipts(&self, tenant: TenantId, after: u64, limit: usize) -> Result<Vec<Receipt>, StoreError>;

    /// The oldest and the newest receipt that is kept. The oldest is 1, or 0, as long as none was dropped.
    async fn receipt_bounds(&self, tenant: TenantId) -> Result<FeedBounds, StoreError>;

    /// Waits until this process may have written receipts. An engine that does not know waits for ever.
    async fn receipts_written(&self) {
        std::future::pending().await
    }

    /// Adds to the ledger's row of (minute, node): every named figure is added to what is there. Minutes since 1970.
    async fn add_ledger_minute(&self, minute: u64, node: &str, figures: &[(String, f64)]) -> Result<(), StoreError>;

    /// The sum of every figure over the minutes `from..to` and all nodes.
    async fn ledger(&self, from: u64, to: u64) -> Result<std::collections::BTreeMap<String, f64>, StoreError>;
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
