//! Events that wait for a moment: scheduled ones for their `deliver_at`, and those that their device wants once more for the end of a
//! pause. They wait where they are, and then go to the tail of their lane under a new number. The id stays the seal of the place where
//! the event was born, so a state row there (`queued`) says where it is now.

use std::{sync::Arc, time::Duration};

use super::{
    draft::Draft,
    engine::Space,
    keys::{self, Place},
    record::{self, Ending, Facts, decode_event},
    steps::{Book, receive},
};
use crate::{
    domain::{Outcome, Timestamp},
    store::{Arrival, DeviceKey, Settle, Settled, StoreError, codec::damaged},
};

impl Book {
    /// Lets the event at `place` wait for its pause, as its device asks in `settle`.
    pub(super) fn put_off(
        &mut self,
        draft: &mut Draft<'_>,
        settle: &Settle,
        place: Place,
        row: &[u8],
        after: Duration,
        at_next_session: bool,
    ) -> Result<Settled, StoreError> {
        let (facts, json) = decode_event(row)?;
        if facts.due.is_some() {
            return Ok(Settled::Before(facts.waits_as()));
        }
        let due = settle.at.plus(after);
        let waiting = Facts {
            due: Some(due),
            at_next_session,
            ..facts
        };
        let born = facts.born(place);
        let ending = Ending {
            waits_at: Some(place.number),
            ..Ending::of(settle.outcome, settle.at, settle.epoch, settle.told.clone())
        };
        draft.put(Space::Ends, born.end_key(), record::encode_end(row, json, &ending)?);
        draft.put(Space::Events, place.event_key(), record::encode_event(&waiting, json));
        draft.put(Space::Rows, keys::due(due, place), Vec::new());
        receive(draft, &self.shared.ids, &mut self.positions, place, settle.id, &facts, &ending)?;
        draft.must_sync();
        if at_next_session && let Some(state) = self.states.get_mut(&settle.device) {
            state.at_next_session += 1;
        }
        Ok(Settled::Again)
    }

    /// Puts what is due at the tails of the lanes. Answers how many rows it looked at.
    pub(super) fn requeue_due(
        &mut self,
        draft: &mut Draft<'_>,
        now: Timestamp,
        limit: usize,
        arrivals: &mut Vec<Arrival>,
    ) -> Result<usize, StoreError> {
        let (from, to) = keys::due_until(now);
        let mut looked = 0;
        for row in draft.engine().range(Space::Rows, &from, &to).take(limit) {
            let (key, _) = row?;
            looked += 1;
            let (due, place) = keys::read_due(&key).ok_or_else(|| damaged("the key of an event that waits again"))?;
            // What this round has changed already is not due any more.
            if draft.get(Space::Rows, &key)?.is_none() {
                continue;
            }
            draft.remove(Space::Rows, key);
            let Some(row) = draft.get(Space::Events, &place.event_key())? else {
                continue;
            };
            if decode_event(&row)?.0.due == Some(due) {
                self.requeue(draft, place, &row, now, arrivals)?;
            }
        }
        Ok(looked)
    }

    fn requeue(
        &mut self,
        draft: &mut Draft<'_>,
        place: Place,
        row: &[u8],
        now: Timestamp,
        arrivals: &mut Vec<Arrival>,
    ) -> Result<(), StoreError> {
        let (facts, json) = decode_event(row)?;
        let device = DeviceKey {
            tenant: place.tenant,
            device: record::device_id(facts.device)?,
        };
        let shared = Arc::clone(&self.shared);
        let state = self.states.load(draft, &device, &shared.seats)?;
        let bucket = state.bucket;
        let (number, seq) = state.next(facts.urgency)?;
        let born = facts.born(place);
        let tail = Place { number, ..place };
        let again = Facts {
            seq,
            attempt: facts.attempt.saturating_add(1),
            born: Some(born.number),
            due: None,
            at_next_session: false,
            ..facts
        };
        if let Some(key) = facts.collapse_key
            && state.replaceable(key) == Some((place.queue, place.number))
        {
            state.remember(Arc::from(key), tail.queue, tail.number);
        }
        draft.put(Space::Rows, keys::numbers(place.tenant, place.ordinal), state.numbers.encode());
        draft.remove(Space::Events, place.event_key());
        draft.put(Space::Events, tail.event_key(), record::encode_event(&again, json));
        let end = match draft.get(Space::Ends, &born.end_key())? {
            Some(end) => record::with_change(&end, |ending| ending.waits_at = Some(tail.number))?,
            // It was scheduled: nothing was said of it until now.
            None => {
                let again = Outcome::Again {
                    after: Duration::ZERO,
                    at_next_session: false,
                };
                let moved = Ending {
                    waits_at: Some(tail.number),
                    ..Ending::of(again, now, None, None)
                };
                record::encode_end(row, json, &moved)?
            }
        };
        draft.put(Space::Ends, born.end_key(), end);
        // A number that was on the wire is never given again.
        draft.must_sync();
        if let Some(held) = state.held.as_ref().filter(|_| again.expires_at() > now) {
            let id = shared.ids.seal(born.located(bucket));
            let event = record::queued_event(id, tail, bucket, shared.generation(), &again, json)?;
            arrivals.push(Arrival {
                epoch: held.seat.epoch,
                after: None,
                event: Arc::new(event),
            });
        }
        self.touched.push(device);
        Ok(())
    }

    /// A new session is there: what waits for it is due at once.
    pub(super) fn hasten(&mut self, draft: &mut Draft<'_>, device: &DeviceKey, now: Timestamp) -> Result<(), StoreError> {
        let Some(state) = self.states.get_mut(device).filter(|state| state.at_next_session > 0) else {
            return Ok(());
        };
        state.at_next_session = 0;
        let ordinal = state.ordinal;
        for (key, row) in draft.prefix(Space::Events, &keys::device_prefix(device.tenant, ordinal))? {
            let place = Place::read(&key).ok_or_else(|| damaged("the key of an event"))?;
            let (facts, json) = decode_event(&row)?;
            let Some(due) = facts.due.filter(|due| facts.at_next_session && *due > now) else {
                continue;
            };
            let hastened = Facts {
                due: Some(now),
                at_next_session: false,
                ..facts
            };
            draft.remove(Space::Rows, keys::due(due, place));
            draft.put(Space::Rows, keys::due(now, place), Vec::new());
            draft.put(Space::Events, key, record::encode_event(&hastened, json));
        }
        Ok(())
    }
}
