//! Whoever has the session of a device is told of what was stored for it: here, or on another node.

use std::sync::{Arc, atomic::Ordering};

use super::{Shared, record::Owner, seat::Holder};
use crate::{
    domain::{Durability, Located},
    store::{Addressed, Arrival, DeviceKey, Hint, QueuedEvent, Seat},
};

impl Shared {
    /// A seat as a script answers it, if its node lives.
    pub(super) async fn live_seat(&self, bytes: &[u8]) -> Option<Seat> {
        let holder = Holder::read(bytes)?;
        self.know(holder.node, holder.incarnation).await;
        self.nodes.holds(holder.node, holder.incarnation).then(|| holder.seat())
    }

    pub(super) fn owner<'a>(&'a self, device: &'a DeviceKey, ordinal: u32) -> Owner<'a> {
        Owner {
            ids: &self.ids,
            generation: self.generation(),
            tenant: device.tenant,
            device: &device.device,
            bucket: device.bucket(),
            ordinal,
        }
    }

    /// Tells whoever has the session of an event that was stored, here or on another node.
    pub(super) fn announce(&self, seat: Option<&Seat>, event: impl FnOnce() -> QueuedEvent) {
        // A device counts its events in one row, whichever queue they are in.
        let after = |located: &Located| located.queue.map(|_| located.number.saturating_sub(1));
        self.tell(seat, after, event);
    }

    pub(super) fn tell(&self, seat: Option<&Seat>, after: impl FnOnce(&Located) -> Option<u64>, event: impl FnOnce() -> QueuedEvent) {
        let Some(seat) = seat else { return };
        let event = event();
        let arrival = Arrival {
            epoch: seat.epoch,
            after: after(&event.located),
            event: Arc::new(event),
        };
        if *seat.node == *self.nodes.name() {
            if self.arrivals.try_send(arrival).is_err() {
                self.missed_arrivals.fetch_add(1, Ordering::Relaxed);
            }
        } else {
            self.hint(&seat.node, Hint::Arrived(arrival));
        }
    }

    /// Tells another node. It may be lost: that node compares its sessions with the store now and then.
    pub(super) fn hint(&self, node: &Arc<str>, hint: Hint) {
        let hint = Addressed {
            node: Arc::clone(node),
            hint,
        };
        if self.hints.try_send(hint).is_err() {
            tracing::debug!("a hint for {node} is dropped: too many wait");
        }
    }

    pub(super) fn durability(&self) -> Durability {
        if self.shards.replicated() {
            Durability::Replicated
        } else {
            Durability::Primary
        }
    }
}
