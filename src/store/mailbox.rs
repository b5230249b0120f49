//! The mailbox: events that wait for devices, and which session holds each device.

use async_trait::async_trait;

use super::{Claimed, Cursor, Delivery, DeviceKey, NewSeat, Page, Seat, SeatView, Settle, Settled, StoreError, Unread, Watch};
use crate::domain::{CopyOf, DeliveryState, Departure, Durability, Epoch, Event, EventId, Generation, Located, TenantId, Timestamp};

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
    /// key, state rows and receipts of what was replaced. Then each stored event whose seat is held is an [`super::Arrival`]. One with a
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

    /// Ends deliveries, or puts them off ([`crate::domain::Outcome::Again`]). Idempotent; a final state is never changed. The queue entry goes, the state row and the receipt are
    /// written in the same step. Every device's part is durable on its own when this resolves. One answer each, in order.
    async fn settle(&self, ends: Vec<Settle>) -> Vec<Result<Settled, StoreError>>;

    /// Puts events whose pause is over ([`crate::domain::Outcome::Again`]), and scheduled ones whose `deliver_at` has come, at the tail of their lanes,
    /// each with a new number and one attempt more, in the order in which they are due and then of acceptance; at most `limit` of them;
    /// answers how many. Call it every second or so. Each whose seat is held is an [`super::Arrival`].
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
