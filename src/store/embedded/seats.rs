//! The steps of the seat: who is the device.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64},
};

use super::{
    change::{self, NewChange},
    device_state::Held,
    draft::Draft,
    engine::Space,
    keys,
    op::Goodbye,
    steps::Book,
};
use crate::{
    domain::{Departure, Epoch},
    store::{Claimed, DeviceKey, NewSeat, Seat, StoreError},
};

impl Book {
    pub(super) fn claim(&mut self, draft: &mut Draft<'_>, device: &DeviceKey, session: &NewSeat) -> Result<Claimed, StoreError> {
        let shared = Arc::clone(&self.shared);
        let state = self.states.load(draft, device, &shared.seats)?;
        if state.credential_generation != session.credential_generation {
            return Err(StoreError::Conflict("the credentials of the device were changed".into()));
        }
        let epoch = Epoch(self.next_epoch);
        self.next_epoch += 1;
        state.numbers.epoch = epoch;
        let held = Arc::new(Held {
            seat: Seat {
                epoch,
                session: session.session,
                node: Arc::clone(&session.node),
                transport: session.transport,
                connected_at: session.at,
            },
            waiting: AtomicU32::new(state.events),
            now_seq: AtomicU64::new(state.now_seq),
            last_seen_at: state.numbers.last_seen_at,
        });
        let (ordinal, waiting) = (state.ordinal, state.events);
        if let Some(change) = &session.fast {
            super::fast::change(draft, device.tenant, ordinal, session.credential_generation, change)?;
        }
        let displaced = state.held.replace(Arc::clone(&held)).map(|held| held.seat.clone());
        // No sync: an epoch is never given out twice, whatever is lost, because the boot count is in it.
        draft.put(Space::Rows, keys::numbers(device.tenant, ordinal), state.numbers.encode());
        let before = match &displaced {
            Some(seat) => Some(seat.clone()),
            None => Self::left_behind(draft, device.tenant, ordinal)?,
        };
        if let Some(before) = &before {
            let change = NewChange::disconnected(&device.device, before, session.at, Departure::Conflict);
            self.tell(draft, device.tenant, &change);
        }
        self.tell(draft, device.tenant, &NewChange::connected(&device.device, &held.seat));
        let row = change::encode_seat(&device.device, &held.seat);
        draft.put(Space::Rows, keys::seat(device.tenant, ordinal), row);
        self.seat_changes.push((device.clone(), Some(held)));
        self.hasten(draft, device, session.at)?;
        Ok(Claimed { epoch, displaced, waiting })
    }

    pub(super) fn release(&mut self, draft: &mut Draft<'_>, device: &DeviceKey, goodbye: Goodbye) -> Result<bool, StoreError> {
        let shared = Arc::clone(&self.shared);
        let state = self.states.load(draft, device, &shared.seats)?;
        let Some(held) = state.held.take_if(|held| held.seat.epoch == goodbye.epoch) else {
            return Ok(false);
        };
        state.numbers.last_seen_at = state.numbers.last_seen_at.max(Some(goodbye.last_seen_at));
        let ordinal = state.ordinal;
        draft.put(Space::Rows, keys::numbers(device.tenant, ordinal), state.numbers.encode());
        draft.remove(Space::Rows, keys::seat(device.tenant, ordinal));
        let change = NewChange::disconnected(&device.device, &held.seat, self.now, goodbye.why);
        self.tell(draft, device.tenant, &change);
        self.seat_changes.push((device.clone(), None));
        Ok(true)
    }
}
