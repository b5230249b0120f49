//! What outlives a connection (XEP-0198 §5).

use std::time::Duration;

use crate::{
    domain::{DeviceId, Epoch, EventId, Located, SessionId, TenantId},
    store::{Cursor, QueuedEvent},
};

use super::{outcome::Outcomes, standby::Standby, window::Window};

/// The full JID of a session, kept in one piece.
#[derive(Debug)]
pub(super) struct FullJid {
    text: Box<str>,
    at: u32,
    slash: u32,
}

impl FullJid {
    /// `device@domain/resource`.
    pub(super) fn new(device: &DeviceId, domain: &str, resource: &str) -> Self {
        let at = u32::try_from(device.as_str().len()).unwrap_or(u32::MAX);
        Self {
            at,
            slash: at + 1 + u32::try_from(domain.len()).unwrap_or(0),
            text: format!("{device}@{domain}/{resource}").into(),
        }
    }

    /// All of it.
    pub(super) fn full(&self) -> &str {
        &self.text
    }

    /// Without the resource.
    pub(super) fn bare(&self) -> &str {
        self.text.get(..self.slash as usize).unwrap_or_default()
    }

    /// The domain.
    pub(super) fn domain(&self) -> &str {
        self.text.get(self.at as usize + 1..self.slash as usize).unwrap_or_default()
    }
}

/// What outlives a connection: identity, counters of XEP-0198, and what is not acknowledged.
#[derive(Debug)]
pub struct Session {
    pub(super) tenant: TenantId,
    pub(super) device: DeviceId,
    pub(super) jid: FullJid,
    pub(super) id: SessionId,
    pub(super) epoch: Epoch,
    /// XEP-0198 is on.
    pub(super) managed: bool,
    /// How long it may be resumed after its connection is lost. Zero: not at all.
    pub(super) resumable_for: Duration,
    /// The keepalive that the device asked for.
    pub(super) keepalive: Option<Duration>,
    /// Stanzas taken from the device since `<enable/>`, modulo 2^32.
    pub(super) handled: u32,
    /// Its last presence was available, with a priority of 0 or more.
    pub(super) available: bool,
    pub(super) cursor: Cursor,
    /// What waits for the device to be active.
    pub(super) standby: Standby,
    pub(super) window: Window,
    /// What the device said of events and has not heard of again.
    pub(super) outcomes: Option<Box<Outcomes>>,
}

impl Session {
    pub(super) fn new(tenant: TenantId, device: DeviceId, domain: &str, resource: &str, id: SessionId, epoch: Epoch) -> Self {
        Self {
            tenant,
            jid: FullJid::new(&device, domain, resource),
            device,
            id,
            epoch,
            managed: false,
            resumable_for: Duration::ZERO,
            keepalive: None,
            handled: 0,
            available: false,
            cursor: Cursor::default(),
            standby: Standby::default(),
            window: Window::default(),
            outcomes: None,
        }
    }

    /// Whose tenant.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Which device.
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// Its id, also the SM-ID.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The seat it holds.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Stanzas taken from the device (XEP-0198 `h`), for `<failed h=…/>` after it is gone.
    pub fn handled(&self) -> u32 {
        self.handled
    }

    /// How far it has been given events: where reading in the store goes on.
    pub fn cursor(&self) -> Cursor {
        self.standby.reads_from(self.cursor)
    }

    /// The highest number that it was given: where arrivals are counted one by one, all below it was, too.
    pub fn reached(&self) -> u64 {
        self.cursor.first.max(self.cursor.rest)
    }

    /// The same as [`Session::cursor`], for somebody who reads on there now.
    pub fn read_on(&mut self) -> Cursor {
        self.standby.read_on(self.cursor)
    }

    /// Whether that event was given to it, or is held back until the device is active.
    pub fn covers(&self, event: &QueuedEvent) -> bool {
        self.standby.covers(self.cursor, event)
    }

    /// Events that it held back while the device was inactive are to be read again: nothing newer goes before them.
    pub fn owes(&self) -> bool {
        self.standby.owes()
    }

    /// That event was read, and is covered.
    pub fn pass(&mut self, event: &QueuedEvent) {
        self.standby.passed(self.cursor, event);
    }

    /// The store has nothing behind `cursor`: what was held back is written, or has ended.
    pub fn caught_up(&mut self) {
        self.standby.caught_up();
    }

    /// The keepalive that the device asked for and got. `None`: it did not ask.
    pub fn keepalive(&self) -> Option<Duration> {
        self.keepalive
    }

    /// Events written and not ended, oldest first. With `require='received'` or `processed` an event stays here after `<a/>`.
    pub fn unacknowledged(&self) -> Vec<(EventId, Located)> {
        self.window.unacknowledged()
    }

    /// Whether it waits for the end of that event.
    pub fn holds(&self, id: EventId) -> bool {
        self.window.holds(id)
    }

    /// That event ended elsewhere: it is not written again, and its acknowledgement is no end any more.
    pub fn give_up(&mut self, id: EventId) {
        // What the end was is known to the caller.
        let _ = self.window.settle(id, crate::domain::Outcome::Expired);
    }

    /// Bytes of memory it holds now.
    pub fn memory(&self) -> usize {
        size_of::<Self>()
            + self.jid.full().len()
            + self.device.as_str().len()
            + 16
            + self.window.memory()
            + self.outcomes.as_ref().map_or(0, |outcomes| outcomes.memory())
    }
}
