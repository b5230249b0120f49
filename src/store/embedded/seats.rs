//! The steps of the seat: who is the device.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64},
};

use super::{device_state::Held, draft::Draft, engine::Space, keys, steps::Book};
use crate::{
    domain::{Epoch, Timestamp},
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
        let ordinal = state.ordinal;
        if let Some(change) = &session.fast {
            super::fast::change(draft, device.tenant, ordinal, session.credential_generation, change)?;
        }
        let displaced = state.held.replace(Arc::clone(&held)).map(|held| held.seat.clone());
        // No sync: an epoch is never given out twice, whatever is lost, because the boot count is in it.
        draft.put(Space::Rows, keys::numbers(device.tenant, state.ordinal), state.numbers.encode());
        self.seat_changes.push((device.clone(), Some(held)));
        let waiting = state.events;
        self.hasten(draft, device, session.at)?;
        Ok(Claimed { epoch, displaced, waiting })
    }

    pub(super) fn release(
        &mut self,
        draft: &mut Draft<'_>,
        device: &DeviceKey,
        epoch: Epoch,
        last_seen_at: Timestamp,
    ) -> Result<bool, StoreError> {
        let shared = Arc::clone(&self.shared);
        let state = self.states.load(draft, device, &shared.seats)?;
        if state.held.as_ref().is_none_or(|held| held.seat.epoch != epoch) {
            return Ok(false);
        }
        state.held = None;
        state.numbers.last_seen_at = state.numbers.last_seen_at.max(Some(last_seen_at));
        draft.put(Space::Rows, keys::numbers(device.tenant, state.ordinal), state.numbers.encode());
        self.seat_changes.push((device.clone(), None));
        Ok(true)
    }
}
