//! Comparing: what an engine says, and what the reference knows.

use std::collections::HashMap;

use futures_util::future::join_all;

use super::{
    super::{Cursor, Delivery, EventId, StoreError, TenantId},
    Difference, World, differ,
    known::{Change, Event},
    run::Run,
    session::is_same,
    step::{DEVICES, is_copy},
};
use crate::store::Page;

/// Events whose states are looked at after each step; all of them are now and then.
const LATEST: usize = 6;

/// Whether a store's view of an event is right.
pub(super) fn is_right(known: &Event, found: &Delivery) -> bool {
    let waits = known.waits();
    found.id == known.id
        && found.state == known.state
        && found.reason == known.reason
        && found.late_ack == known.late_ack
        && found.told == known.told
        && (known.replaced_by_copy == (found.replaced_by != known.replaced_by)
            && found.replaced_by.is_some() == known.replaced_by.is_some())
        && found.group.is_some() == known.key.is_some_and(is_copy)
        && found.accepted_at == known.accepted_at
        && found.deliver_at == known.deliver_at
        && found.expires_at == known.expires_at
        && found.ended_at == Some(known.at).filter(|_| !waits)
        && found.urgency == known.urgency
        && found.seq.0 == known.seq
        && found.attempt == known.attempt
        && found.session_epoch == known.epoch
        && found.require == known.require
}

impl<W: World> Run<W> {
    /// A page shows where events are that went to a tail.
    pub(super) fn see(&mut self, page: &Page) -> Result<(), Difference> {
        for event in &page.events {
            let Some(index) = self.reference.find(event.id) else {
                return differ(format!("{event:?} waits, and was never posted"));
            };
            let known = &mut self.reference.events[index];
            if known.number == 0 {
                known.number = event.located.number;
                let device = &mut self.reference.devices[known.device];
                device.number = device.number.max(known.number);
            }
        }
        Ok(())
    }

    /// Compares as a node sees it: all devices, and the latest events, or all of them.
    pub(super) async fn agree(&mut self, node: usize, whole: bool) -> Result<(), Difference> {
        let calls = self.calls(node);
        let keys: Vec<_> = (0..DEVICES).map(|device| self.key(device)).collect();
        let looks = keys.iter().map(async |key| {
            let page = calls.pending(key, Cursor::default(), 1_000).await;
            (page, calls.store.seat(key).await)
        });
        for (device, (page, view)) in join_all(looks).await.into_iter().enumerate() {
            let now = &self.reference.devices[device];
            let (page, view) = match (page, view) {
                (Ok(page), Ok(view)) if now.present => (page, view),
                (_, Err(StoreError::UnknownDevice)) if !now.known => continue,
                (_, Err(StoreError::RemovedDevice)) if now.known && !now.present => continue,
                (page, view) => return differ(format!("{now:?} reads as {page:?} and {view:?}")),
            };
            self.see(&page)?;
            let now = &self.reference.devices[device];
            let owed = self.reference.deliverable(device, self.now(node));
            let found: Vec<EventId> = page.events.iter().map(|event| event.id).collect();
            let ids: Vec<EventId> = owed.iter().map(|event| event.id).collect();
            if ids != found || page.more {
                return differ(format!("{ids:?} wait in this order; the store has {found:?}"));
            }
            for (known, event) in owed.iter().zip(&page.events) {
                is_same(known, event)?;
            }
            let is_ordered = |queue| {
                let numbers = page.events.iter().filter(move |event| event.located.queue == Some(queue));
                numbers.map(|event| event.located.number).is_sorted_by(|one, other| one < other)
            };
            if !is_ordered(crate::domain::Queue::First) || !is_ordered(crate::domain::Queue::Rest) {
                return differ(format!("{page:?} is in no order"));
            }
            self.is_held(device, view.seat.as_ref())?;
            let last = now.epochs.last().copied().unwrap_or(0);
            if view.last_epoch.0 > last || (self.epoch_is_sure[device] && view.last_epoch.0 != last) {
                return differ(format!("the last epoch is {last}; the store says {}", view.last_epoch));
            }
            let waiting = self.reference.size(device).0;
            if view.waiting != waiting {
                return differ(format!("{waiting} events wait; the store says {}", view.waiting));
            }
        }
        self.nothing_is_hidden()?;
        let first = if whole {
            0
        } else {
            self.reference.events.len().saturating_sub(LATEST)
        };
        self.states_agree(node, first).await?;
        if whole {
            for device in 0..DEVICES {
                self.list_agrees(node, device).await?;
            }
        }
        Ok(())
    }

    /// What waits was given to the session, or is still before its cursor.
    fn nothing_is_hidden(&self) -> Result<(), Difference> {
        for (device, session) in self.sessions.iter().enumerate() {
            let Some(session) = session else { continue };
            for event in self.reference.deliverable(device, self.now(session.node)) {
                let is_behind = event.number > 0 && session.cursor.covers(event.queue(), event.number);
                if is_behind && !event.looked_expired && !session.given.contains(&(event.id, event.attempt)) {
                    return differ(format!("{event:?} was never given, and the cursor is {:?}", session.cursor));
                }
            }
        }
        Ok(())
    }

    async fn states_agree(&self, node: usize, first: usize) -> Result<(), Difference> {
        let store = self.world.store(node);
        let looks = self.reference.events[first..].iter().map(async |known| {
            let tenant = self.reference.devices[known.device].key.tenant;
            (
                known,
                store.delivery(tenant, known.id).await,
                store.delivery(TenantId(tenant.0 ^ 1), known.id).await,
            )
        });
        for (known, found, foreign) in join_all(looks).await {
            let (must, may) = self.reference.remembered(known, self.now(node));
            match found {
                Ok(None) if !must => {}
                Ok(Some(found)) if may && is_right(known, &found) => {}
                other => return differ(format!("{known:?} is known as {other:?}")),
            }
            if !matches!(foreign, Ok(None)) {
                return differ(format!("{known:?} is seen by another tenant: {foreign:?}"));
            }
        }
        Ok(())
    }

    /// The deliveries of a device are listed, newest first, in pages.
    async fn list_agrees(&self, node: usize, device: usize) -> Result<(), Difference> {
        let (store, now) = (self.world.store(node), self.now(node));
        let known = &self.reference.devices[device];
        let mut listed: Vec<EventId> = Vec::new();
        loop {
            let page = match store.deliveries(&known.key, listed.last().copied(), 3).await {
                Ok(page) if known.present => page,
                Err(StoreError::UnknownDevice) if !known.known => return Ok(()),
                Err(StoreError::RemovedDevice) if known.known && !known.present => return Ok(()),
                other => return differ(format!("the deliveries of {known:?} are {other:?}")),
            };
            if page.is_empty() {
                break;
            }
            listed.extend(page.iter().map(|delivery| delivery.id));
            if listed.len() > self.reference.events.len() {
                return differ(format!("deliveries are listed without an end: {listed:?}"));
            }
        }
        let place = |event: &&Event| if event.waits() { event.number } else { event.born };
        let mut owed: Vec<&Event> = (self.reference.events.iter())
            .filter(|event| event.device == device && event.life == known.life && self.reference.remembered(event, now).1)
            .collect();
        // At a tail that nobody has seen: somewhere among them.
        let is_sure = owed.iter().all(|event| place(event) > 0);
        owed.sort_by_key(|event| std::cmp::Reverse(place(event)));
        owed.retain(|event| self.reference.remembered(event, now).0 || listed.contains(&event.id));
        let mut ids: Vec<EventId> = owed.iter().map(|event| event.id).collect();
        if !is_sure {
            ids.sort_unstable();
            listed.sort_unstable();
        }
        if ids == listed {
            Ok(())
        } else {
            differ(format!("the deliveries of a device are {ids:?}; listed are {listed:?}"))
        }
    }

    /// At the end, and when all has come to rest: every change has one receipt, and totals are what is there.
    pub(super) async fn finish(&mut self) -> Result<(), Difference> {
        for device in 0..DEVICES {
            self.read_on(device, 3, true).await?;
        }
        self.world.rest().await;
        for node in 0..W::NODES {
            self.agree(node, true).await?;
        }
        let calls = self.calls(0);
        for tenant in [TenantId(0), TenantId(1)] {
            let receipts = match calls.receipts(tenant).await {
                Ok(receipts) => receipts,
                Err(why) => return differ(format!("receipts cannot be read: {why}")),
            };
            if !receipts.is_sorted_by(|one, other| one.position < other.position) {
                return differ(format!("positions do not rise: {receipts:?}"));
            }
            let mut found: HashMap<String, Vec<Change>> = HashMap::new();
            for receipt in receipts {
                let change = Change {
                    event: match receipt.event.parse() {
                        Ok(id) => id,
                        Err(_) => return differ(format!("{receipt:?} names no event")),
                    },
                    state: receipt.state,
                    reason: receipt.reason,
                    at: receipt.at,
                    epoch: receipt.session_epoch,
                    latency_ms: receipt.latency_ms,
                };
                found.entry(receipt.device).or_default().push(change);
            }
            for device in self.reference.devices.iter().filter(|device| device.key.tenant == tenant) {
                let changes = found.remove(device.key.device.as_str()).unwrap_or_default();
                if changes != device.changes {
                    return differ(format!(
                        "the receipts of {:?} are {changes:?}; they should be {:?}",
                        device.key, device.changes
                    ));
                }
            }
            if !found.is_empty() {
                return differ(format!("there are receipts of others: {found:?}"));
            }
        }
        let stats = calls.store.stats();
        let queued: u64 = (0..DEVICES).map(|device| u64::from(self.reference.size(device).0)).sum();
        let devices = self.reference.devices.iter().filter(|device| device.present).count() as u64;
        if stats.queued != Some(queued) || stats.devices != devices {
            return differ(format!("{queued} events wait for {devices} devices; the totals are {stats:?}"));
        }
        Ok(())
    }
}
