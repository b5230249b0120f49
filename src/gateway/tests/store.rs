//! Devices and seats in memory. Every device exists; its password is `secret`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::{
    domain::{
        AuditEntry, Cohort, Credential, Departure, DeviceId, Epoch, EventId, FastChange, FastTokens, Generation, GroupPlace, Located,
        Password, RateLimit, Report, Reported, ScramSecret, TenantId, Timestamp, UserId,
    },
    store::{
        ApiKey, AuditLog, Begun, Claimed, Cursor, Delivery, Device, DeviceChange, DeviceKey, Ended, Enqueued, Feed, FeedBounds, Group,
        Groups, KeyUse, Mailbox, NewEvent, NewSeat, Page, PresenceChange, Receipt, Records, Registered, Registry, Rotation, Seat, SeatView,
        Settle, Settled, StoreError, StoreStats, Swept, Tenant, Watch, Watches,
    },
};

static SECRET: LazyLock<ScramSecret> = LazyLock::new(|| ScramSecret::derive(&Password("secret".into()), 4096).unwrap());

/// The last epoch, who sits there, and when the last one left.
type Place = (Epoch, Option<Seat>, Option<Timestamp>);

#[derive(Default)]
pub(super) struct MemoryStore {
    tokens: Mutex<FastTokens>,
    pub(super) reported: Mutex<HashMap<DeviceKey, Reported>>,
    seats: Mutex<HashMap<DeviceKey, Place>>,
    pub(super) down: Mutex<bool>,
    pub(super) slow: Mutex<Duration>,
}

impl MemoryStore {
    pub(super) fn holder(&self, key: &DeviceKey) -> Option<Epoch> {
        Some(self.seats.lock().get(key)?.1.as_ref()?.epoch)
    }

    fn up(&self) -> Result<(), StoreError> {
        if *self.down.lock() { Err(nothing()) } else { Ok(()) }
    }
}

fn nothing() -> StoreError {
    StoreError::Unavailable("not in this test".into())
}

#[async_trait]
impl Groups for MemoryStore {
    async fn begin_group(&self, _: &Group, _: Option<u64>) -> Result<Begun, StoreError> {
        Err(nothing())
    }

    async fn group_of_key(&self, _: GroupPlace, _: &[u8; 16]) -> Result<Option<(GroupPlace, [u8; 16])>, StoreError> {
        Err(nothing())
    }

    async fn group(&self, _: GroupPlace) -> Result<Option<Group>, StoreError> {
        Err(nothing())
    }

    async fn finish_group(&self, _: &Group, _: Timestamp) -> Result<(), StoreError> {
        Err(nothing())
    }

    async fn drop_group(&self, _: &Group) -> Result<(), StoreError> {
        Err(nothing())
    }

    async fn unfinished_groups(&self, _: Timestamp, _: usize) -> Result<Vec<GroupPlace>, StoreError> {
        Err(nothing())
    }

    fn group_id(&self, _: GroupPlace) -> EventId {
        EventId([0; 20])
    }

    fn locate_group(&self, _: TenantId, _: EventId) -> Option<GroupPlace> {
        None
    }
}

#[async_trait]
impl Mailbox for MemoryStore {
    async fn enqueue(&self, events: Vec<NewEvent>) -> Vec<Result<Enqueued, StoreError>> {
        events.into_iter().map(|_| Err(nothing())).collect()
    }

    async fn claim(&self, device: &DeviceKey, session: NewSeat) -> Result<Claimed, StoreError> {
        self.up()?;
        let slow = *self.slow.lock();
        tokio::time::sleep(slow).await;
        let mut seats = self.seats.lock();
        let (last, seat, _) = seats.entry(device.clone()).or_default();
        last.0 += 1;
        let displaced = seat.replace(Seat {
            epoch: *last,
            session: session.session,
            node: session.node,
            transport: session.transport,
            connected_at: session.at,
        });
        Ok(Claimed {
            epoch: *last,
            displaced,
            waiting: 0,
        })
    }

    async fn pending(&self, _: &DeviceKey, _: Cursor, _: usize) -> Result<Page, StoreError> {
        Ok(Page::default())
    }

    async fn settle(&self, ends: Vec<Settle>) -> Vec<Result<Settled, StoreError>> {
        ends.into_iter().map(|_| Err(nothing())).collect()
    }

    async fn requeue_due(&self, _: Timestamp, _: usize) -> Result<usize, StoreError> {
        Ok(0)
    }

    async fn release(&self, device: &DeviceKey, epoch: Epoch, last_seen_at: Timestamp, _: Departure) -> Result<bool, StoreError> {
        self.up()?;
        let mut seats = self.seats.lock();
        let Some((_, seat, last_seen)) = seats.get_mut(device) else {
            return Ok(false);
        };
        if seat.as_ref().is_none_or(|seat| seat.epoch != epoch) {
            return Ok(false);
        }
        (*seat, *last_seen) = (None, Some(last_seen_at));
        Ok(true)
    }

    async fn seat(&self, device: &DeviceKey) -> Result<SeatView, StoreError> {
        let (last_epoch, seat, last_seen_at) = self.seats.lock().get(device).cloned().unwrap_or_default();
        Ok(SeatView {
            seat,
            last_epoch,
            last_seen_at,
            waiting: 0,
        })
    }

    async fn delivery(&self, _: TenantId, _: EventId) -> Result<Option<Delivery>, StoreError> {
        Err(nothing())
    }

    async fn deliveries(&self, _: &DeviceKey, _: Option<EventId>, _: usize) -> Result<Vec<Delivery>, StoreError> {
        Err(nothing())
    }

    async fn sweep(&self, _: Timestamp) -> Result<Swept, StoreError> {
        Err(nothing())
    }

    fn watch(&self, device: &DeviceKey) -> Watch {
        Arc::<Watches>::default().watch(device)
    }

    fn generation(&self) -> Generation {
        Generation(1)
    }

    fn locate(&self, _: TenantId, _: EventId) -> Option<Located> {
        None
    }

    fn stats(&self) -> StoreStats {
        StoreStats::default()
    }

    fn missed_arrivals(&self) -> u64 {
        0
    }
}

#[async_trait]
impl Registry for MemoryStore {
    async fn put_device(&self, _: &DeviceKey, _: DeviceChange, _: bool, _: Timestamp) -> Result<(Device, bool), StoreError> {
        Err(nothing())
    }

    async fn device(&self, device: &DeviceKey) -> Result<Registered, StoreError> {
        self.up()?;
        Ok(match device.device.as_str() {
            "unknown" => Registered::Unknown,
            "removed" => Registered::Removed(Timestamp(1)),
            "bug" => panic!("a bug, on purpose"),
            _ => Registered::Present(Box::new(Device {
                id: device.device.clone(),
                ordinal: 1,
                user: None,
                attributes: serde_json::Map::new(),
                cohort: Cohort::Push,
                credentials: vec![Credential::Scram(SECRET.clone())],
                credential_generation: 1,
                created_at: Timestamp(0),
                updated_at: Timestamp(0),
            })),
        })
    }

    async fn devices(&self, _: TenantId, _: Option<&DeviceId>, _: usize) -> Result<Vec<Device>, StoreError> {
        Err(nothing())
    }

    async fn devices_of(&self, _: TenantId, _: &UserId, _: Option<&DeviceId>, _: usize) -> Result<Vec<Device>, StoreError> {
        Err(nothing())
    }

    async fn remove_device(&self, _: &DeviceKey, _: Timestamp) -> Result<Option<Seat>, StoreError> {
        Err(nothing())
    }

    async fn fast_tokens(&self, _: &DeviceKey, _: u32) -> Result<FastTokens, StoreError> {
        Ok(self.tokens.lock().clone())
    }

    async fn change_fast_tokens(&self, _: &DeviceKey, _: u32, change: FastChange) -> Result<(), StoreError> {
        self.tokens.lock().apply(&change);
        Ok(())
    }

    async fn report(&self, device: &DeviceKey, report: Report, now: Timestamp) -> Result<bool, StoreError> {
        self.up()?;
        Ok(self.reported.lock().entry(device.clone()).or_default().take(report, now))
    }

    async fn reported(&self, _: TenantId, _: &[Device]) -> Result<Vec<Option<Reported>>, StoreError> {
        Err(nothing())
    }

    async fn put_key(&self, _: [u8; 32], _: ApiKey) -> Result<(), StoreError> {
        Err(nothing())
    }

    async fn put_first_key(&self, _: [u8; 32], _: ApiKey) -> Result<bool, StoreError> {
        unreachable!("the gateway makes no keys")
    }

    fn key(&self, _: &[u8; 32]) -> Option<Arc<ApiKey>> {
        None
    }

    async fn keys(&self, _: TenantId) -> Result<Vec<ApiKey>, StoreError> {
        Err(nothing())
    }

    async fn rotate_key(&self, _: TenantId, _: &str, _: Rotation) -> Result<Option<ApiKey>, StoreError> {
        Err(nothing())
    }

    async fn revoke_key(&self, _: TenantId, _: &str) -> Result<bool, StoreError> {
        Err(nothing())
    }

    async fn note_key_uses(&self, _: &[KeyUse]) -> Result<(), StoreError> {
        Err(nothing())
    }

    async fn key_uses(&self, _: TenantId) -> Result<HashMap<Arc<str>, Timestamp>, StoreError> {
        Err(nothing())
    }

    async fn put_tenant(&self, _: Tenant) -> Result<(), StoreError> {
        Err(nothing())
    }

    async fn add_tenant(&self, _: &str, _: &str, _: Option<RateLimit>) -> Result<Arc<Tenant>, StoreError> {
        Err(nothing())
    }

    async fn remove_tenant(&self, _: TenantId, _: Timestamp) -> Result<bool, StoreError> {
        Err(nothing())
    }

    fn tenants(&self) -> Vec<Arc<Tenant>> {
        Vec::new()
    }
}

#[async_trait]
impl AuditLog for MemoryStore {
    async fn begin_audit(&self, _: TenantId, _: &AuditEntry) -> Result<u64, StoreError> {
        Err(nothing())
    }

    async fn end_audit(&self, _: TenantId, _: u64, _: &AuditEntry, _: &AuditEntry) -> Result<(), StoreError> {
        Err(nothing())
    }

    async fn audit(&self, _: TenantId, _: u64, _: u64, _: usize) -> Result<Vec<(u64, AuditEntry)>, StoreError> {
        Err(nothing())
    }
}

#[async_trait]
impl Records for MemoryStore {
    async fn receipts(&self, _: TenantId, _: u64, _: usize) -> Result<Vec<Receipt>, StoreError> {
        Err(nothing())
    }

    async fn receipt_bounds(&self, _: TenantId) -> Result<FeedBounds, StoreError> {
        Err(nothing())
    }

    async fn add_ledger_minute(&self, _: u64, _: &str, _: &[(String, f64)]) -> Result<(), StoreError> {
        Err(nothing())
    }

    async fn ledger(&self, _: u64, _: u64) -> Result<BTreeMap<String, f64>, StoreError> {
        Err(nothing())
    }
}

#[async_trait]
impl Feed for MemoryStore {
    async fn changes(&self, _: TenantId, _: u64, _: usize) -> Result<Vec<PresenceChange>, StoreError> {
        Err(nothing())
    }

    async fn change_bounds(&self, _: TenantId) -> Result<FeedBounds, StoreError> {
        Err(nothing())
    }

    async fn end_lost_seats(&self, _: usize) -> Result<Ended, StoreError> {
        Ok(Ended::default())
    }
}
