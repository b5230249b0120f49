//! The store as a sequence calls it, and flaws that can be put into it to see that they are found.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use super::super::{Cursor, DeviceKey, Enqueued, Epoch, NewEvent, Outcome, Settle, Settled, Store, StoreError, TenantId, Timestamp};
use crate::store::{Page, Receipt};

/// One rule that a store breaks now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// An end is answered and not kept.
    LosesAnEnd,
    /// An idempotency key is not kept.
    ForgetsAKey,
    /// A newer event leaves the older one of its collapse key.
    ReplacesNothing,
    /// A number in a lane comes twice.
    RepeatsANumber,
    /// An event that waits is on no page.
    HidesAnEvent,
    /// A late goodbye takes the seat of a newer session.
    ReleasesForOthers,
    /// An event is kept twice for two posts of one batch, or not at all.
    LosesAnEvent,
    /// Events expire before their time.
    ExpiresEarly,
    /// A receipt comes twice.
    RepeatsAReceipt,
    /// A receipt is lost.
    LosesAReceipt,
    /// A tenant reads the receipts of another.
    MixesTenants,
    /// A node takes no notice of hints that were lost.
    IgnoresLostHints,
}

impl Flaw {
    /// Every one.
    pub const ALL: [Self; 12] = [
        Self::LosesAnEnd,
        Self::ForgetsAKey,
        Self::ReplacesNothing,
        Self::RepeatsANumber,
        Self::HidesAnEvent,
        Self::ReleasesForOthers,
        Self::LosesAnEvent,
        Self::ExpiresEarly,
        Self::RepeatsAReceipt,
        Self::LosesAReceipt,
        Self::MixesTenants,
        Self::IgnoresLostHints,
    ];
}

/// The store of one node, flawed or as it is.
pub(super) struct Calls {
    pub(super) store: Arc<dyn Store>,
    pub(super) flaw: Option<Flaw>,
    pub(super) turn: Arc<AtomicU32>,
}

impl Calls {
    /// Whether the store is at fault this time: one time in three.
    fn errs(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw) && self.turn.fetch_add(1, Ordering::Relaxed) % 3 == 2
    }

    pub(super) async fn enqueue(&self, mut events: Vec<NewEvent>) -> Vec<Result<Enqueued, StoreError>> {
        for new in &mut events {
            if self.errs(Flaw::ForgetsAKey) {
                new.idempotency = None;
            }
            if self.errs(Flaw::ReplacesNothing) {
                new.event.collapse_key = None;
            }
        }
        let devices: Vec<DeviceKey> = events
            .iter()
            .map(|new| DeviceKey {
                tenant: new.event.tenant,
                device: new.event.device.clone(),
            })
            .collect();
        let answers = self.store.enqueue(events).await;
        for (device, done) in devices.into_iter().zip(&answers) {
            if let Ok(done) = done
                && self.errs(Flaw::LosesAnEvent)
            {
                self.end(device, done.id).await;
            }
        }
        answers
    }

    /// Takes an event away behind everybody's back.
    async fn end(&self, device: DeviceKey, id: crate::domain::EventId) {
        if let Some(located) = self.store.locate(device.tenant, id) {
            let settle = Settle {
                device,
                id,
                located,
                outcome: Outcome::Cancelled,
                at: Timestamp(0),
                epoch: None,
                told: None,
            };
            let _ = self.store.settle(vec![settle]).await;
        }
    }

    pub(super) async fn settle(&self, mut ends: Vec<Settle>) -> Vec<Result<Settled, StoreError>> {
        let mut lost = None;
        if self.errs(Flaw::LosesAnEnd)
            && let Some(end) = ends.pop()
        {
            let delivery = self.store.delivery(end.device.tenant, end.id).await;
            lost = Some(delivery.map(|found| match found {
                Some(found) => Settled::Now {
                    outcome: end.outcome,
                    waited: end.at.since(found.accepted_at),
                    urgency: found.urgency,
                    expires_at: found.expires_at,
                },
                None => Settled::Unknown,
            }));
        }
        let mut answers = self.store.settle(ends).await;
        answers.extend(lost);
        answers
    }

    pub(super) async fn pending(&self, device: &DeviceKey, after: Cursor, limit: usize) -> Result<Page, StoreError> {
        let mut page = self.store.pending(device, after, limit).await?;
        if self.errs(Flaw::HidesAnEvent) {
            page.events.pop();
        }
        if self.errs(Flaw::RepeatsANumber)
            && let [.., one, other] = page.events.as_mut_slice()
        {
            let mut same = (**other).clone();
            same.seq = one.seq;
            *other = Arc::new(same);
        }
        Ok(page)
    }

    pub(super) async fn release(&self, device: &DeviceKey, mut epoch: Epoch, at: Timestamp) -> Result<bool, StoreError> {
        if self.flaw == Some(Flaw::ReleasesForOthers)
            && let Some(seat) = self.store.seat(device).await?.seat
        {
            epoch = seat.epoch;
        }
        self.store.release(device, epoch, at).await
    }

    /// Whole passes of housekeeping. Answers how many events expired.
    pub(super) async fn sweep(&self, now: Timestamp) -> Result<u64, StoreError> {
        let early = if self.errs(Flaw::ExpiresEarly) { 3_600_000 } else { 0 };
        let mut expired = 0;
        loop {
            let swept = self.store.sweep(Timestamp(now.0 + early)).await?;
            expired += swept.expired;
            if swept.complete {
                return Ok(expired);
            }
        }
    }

    /// All receipts of a tenant, read in pages.
    pub(super) async fn receipts(&self, mut tenant: TenantId) -> Result<Vec<Receipt>, StoreError> {
        if self.flaw == Some(Flaw::MixesTenants) {
            tenant.0 ^= 1;
        }
        let mut found: Vec<Receipt> = Vec::new();
        loop {
            let after = found.last().map_or(0, |receipt| receipt.position);
            let page = self.store.receipts(tenant, after, 7).await?;
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        if self.flaw == Some(Flaw::LosesAReceipt) {
            found.pop();
        }
        if self.flaw == Some(Flaw::RepeatsAReceipt)
            && let Some(mut last) = found.last().cloned()
        {
            last.position += 1;
            found.push(last);
        }
        Ok(found)
    }
}
