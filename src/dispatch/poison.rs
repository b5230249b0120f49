//! Events that break their device: the same one, alone, five times running.

use std::collections::HashMap;

use tracing::info;

use super::Shared;
use crate::{
    domain::{DeviceId, Epoch, EventId, Located, Outcome, Reason, TenantId},
    store::{DeviceKey, Settle},
};

/// This often in a row makes an event poison (design §2 promise 2).
const TIMES: u8 = 5;

/// Devices watched at most. Beyond it new suspicions are not noted, which only delays a verdict.
const WATCHED_MAX: usize = 100_000;

/// Suspicions, by device.
#[derive(Debug, Default)]
pub(super) struct Poison {
    suspects: HashMap<(TenantId, DeviceId), (EventId, u8)>,
}

impl Poison {
    /// A connection ended with `events` unacknowledged; `at_once`: within 5 s of writing the last. Yields the event that is poison now.
    fn returned(
        &mut self,
        tenant: TenantId,
        device: &DeviceId,
        events: &[(EventId, Located)],
        at_once: bool,
    ) -> Option<(EventId, Located)> {
        let ([(id, located)], true) = (events, at_once) else {
            // It ended with nothing, with several, or later: this says nothing about one event, and breaks the row.
            if !events.is_empty() {
                self.forget(tenant, device);
            }
            return None;
        };
        let key = (tenant, device.clone());
        if self.suspects.len() >= WATCHED_MAX && !self.suspects.contains_key(&key) {
            return None;
        }
        let suspect = self.suspects.entry(key.clone()).or_insert((*id, 0));
        *suspect = if suspect.0 == *id {
            (*id, suspect.1.saturating_add(1))
        } else {
            (*id, 1)
        };
        if suspect.1 < TIMES {
            return None;
        }
        self.suspects.remove(&key);
        Some((*id, *located))
    }

    /// The device acknowledged something: it works.
    pub(super) fn forget(&mut self, tenant: TenantId, device: &DeviceId) {
        if !self.suspects.is_empty() {
            self.suspects.remove(&(tenant, device.clone()));
        }
    }
}

impl Shared {
    /// Notes how a connection ended. Yields the end of the event that breaks its device again and again; the session, if it
    /// waits to be resumed, does not write it any more.
    pub(super) fn suspect(
        &self,
        poison: &mut Poison,
        device: DeviceKey,
        epoch: Epoch,
        events: &[(EventId, Located)],
        at_once: bool,
    ) -> Option<Settle> {
        let (id, located) = poison.returned(device.tenant, &device.device, events, at_once)?;
        info!(event.id = %id, device.id = %device.device, "{} lost its connection at {id} again and again: the event is given up as poison", device.device);
        if let Some(link) = self.links.link(device.tenant, &device.device) {
            link.give_up(id);
        }
        Some(Settle {
            device,
            id,
            located,
            outcome: Outcome::Failed(Reason::Poison),
            at: self.clock.now(),
            epoch: Some(epoch),
            told: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Queue;

    fn event(number: u64) -> (EventId, Located) {
        let located = Located {
            tenant: TenantId(0),
            bucket: 1,
            ordinal: 1,
            queue: Some(Queue::Rest),
            number,
        };
        (EventId([u8::try_from(number).unwrap(); 20]), located)
    }

    #[test]
    fn the_same_event_alone_five_times_running_is_poison() {
        let (mut poison, device) = (Poison::default(), "box".parse().unwrap());
        for _ in 0..4 {
            assert_eq!(poison.returned(TenantId(0), &device, &[event(1)], true), None);
        }
        assert_eq!(poison.returned(TenantId(0), &device, &[event(1)], true), Some(event(1)));
        assert_eq!(poison.returned(TenantId(0), &device, &[event(1)], true), None, "it starts anew");
    }

    #[test]
    fn company_delay_another_event_or_an_acknowledgement_break_the_row() {
        let device = "box".parse().unwrap();
        let breaks: [fn(&mut Poison, &DeviceId); 4] = [
            |p, d| assert_eq!(p.returned(TenantId(0), d, &[event(1), event(2)], true), None),
            |p, d| assert_eq!(p.returned(TenantId(0), d, &[event(1)], false), None),
            |p, d| assert_eq!(p.returned(TenantId(0), d, &[event(2)], true), None),
            |p, d| p.forget(TenantId(0), d),
        ];
        for break_it in breaks {
            let mut poison = Poison::default();
            for _ in 0..4 {
                poison.returned(TenantId(0), &device, &[event(1)], true);
            }
            break_it(&mut poison, &device);
            assert_eq!(poison.returned(TenantId(0), &device, &[event(1)], true), None);
        }
    }
}
