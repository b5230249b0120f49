//! The steps of the mailbox: each reads and changes a draft; nothing holds before the draft is committed.

use std::{collections::HashMap, sync::Arc, sync::atomic::Ordering};

use super::{
    Shared, born,
    device_state::{DeviceState, DeviceStates, Held},
    draft::Draft,
    engine::Space,
    keys::{self, Place},
    known_keys::Owner,
    positions::{Positions, next_position},
    receipt::NewReceipt,
    record::{self, Ending, Facts, Kept, decode_event},
    rows::Totals,
    webhooks,
};
use crate::{
    domain::{DeliveryState, Durability, EventId, EventIdKey, Lane, Located, Outcome, Queue, Reason, Require, Seq, TenantId, Timestamp},
    store::{Arrival, DeviceKey, Enqueued, EnqueuedKind, NewEvent, QueuedEvent, Settle, Settled, StoreError, codec::damaged},
};

/// Seats to set (or, with `None`, to clear) once the commit holds.
pub(super) type SeatChanges = Vec<(DeviceKey, Option<Arc<Held>>)>;

/// What steps know besides the rows.
pub(super) struct Book {
    pub(super) shared: Arc<Shared>,
    pub(super) states: DeviceStates,
    pub(super) totals: Totals,
    /// The last position of each tenant's receipts.
    pub(super) positions: Positions,
    /// The last position of each tenant's feed of presence that this commit wrote.
    pub(super) tips: HashMap<TenantId, u64>,
    /// Which life of the store this is: epochs and positions of the feed begin with it.
    pub(super) boot: u32,
    /// Where the search for seats of earlier lives goes on.
    pub(super) lost_after: Option<Vec<u8>>,
    pub(super) next_epoch: u64,
    /// Who serves which webhook.
    pub(super) webhook_leases: webhooks::Leases,
    pub(super) seat_changes: SeatChanges,
    /// Devices whose queue or row changed: whoever watches them is woken once the commit holds.
    pub(super) touched: Vec<DeviceKey>,
    /// A key was rotated or revoked in this commit.
    pub(super) keys_changed: bool,
    /// The time of this round.
    pub(super) now: Timestamp,
}

impl Book {
    pub(super) fn enqueue(&mut self, draft: &mut Draft<'_>, new: NewEvent, arrivals: &mut Vec<Arrival>) -> Result<Enqueued, StoreError> {
        let NewEvent { event, idempotency } = new;
        let key = DeviceKey {
            tenant: event.tenant,
            device: event.device.clone(),
        };
        let shared = Arc::clone(&self.shared);
        let state = self.states.load(draft, &key, &shared.seats)?;
        let seat = state.held.as_ref().map(|held| held.seat.clone());
        if event.ttl.is_zero() {
            return Ok(Self::pass(&shared, state, event, seat, arrivals));
        }
        let (ordinal, bucket) = (state.ordinal, state.bucket);
        if let Some(idempotency) = &idempotency
            && let Some(holder) = state.known_keys.holder(
                &mut state.numbers.keys,
                draft,
                Owner {
                    tenant: key.tenant,
                    ordinal,
                },
                &idempotency.key,
                self.now,
                shared.idempotency_kept(),
            )?
        {
            let id = shared.ids.seal(holder.place.located(bucket));
            if holder.body != idempotency.body {
                return Err(StoreError::KeyReused(id));
            }
            return Ok(Enqueued {
                id,
                kind: EnqueuedKind::Repeat,
                durability: Durability::Disk,
                state: holder.state,
                seat,
                replaced: Vec::new(),
            });
        }
        if !shared.writable.load(Ordering::Relaxed) {
            return Err(StoreError::NoSpace);
        }

        // What a collapse key replaces makes room before the quota is checked.
        let old = match &event.collapse_key {
            Some(collapse_key) => state.replaceable(collapse_key),
            None => None,
        };
        let old = match old {
            Some((queue, number)) => {
                let place = Place {
                    tenant: key.tenant,
                    ordinal,
                    queue,
                    number,
                };
                draft.get(Space::Events, &place.event_key())?.map(|row| (place, row))
            }
            None => None,
        };
        let freed = match &old {
            Some((_, row)) => decode_event(row)?.1.len() as u64,
            None => 0,
        };
        let bytes = event.json.0.len() as u64;
        let limits = &shared.limits;
        if state.events - u32::from(old.is_some()) >= limits.queue_max_events
            || state.bytes.saturating_sub(freed) + bytes > limits.queue_max_bytes
        {
            return Err(StoreError::QueueFull {
                events: state.events,
                bytes: state.bytes,
            });
        }

        // Its number in the lane is given when it can be delivered.
        let (number, seq) = match event.deliver_at {
            Some(_) => (state.next_number(), Seq(0)),
            None => state.next(event.urgency)?,
        };
        let place = Place {
            tenant: key.tenant,
            ordinal,
            queue: Queue::of(event.urgency),
            number,
        };
        let located = place.located(bucket);
        let id = shared.ids.seal(located);
        let facts = Facts::of(&event, seq, idempotency.as_ref());
        let row = record::encode_event(&facts, event.json.0.as_bytes());
        // A device that is there acknowledges it soon.
        let young = seat.is_some() && facts.due.is_none();
        draft.put_new(Space::Events, place.event_key(), row, young);
        if let Some(idempotency) = &idempotency {
            let recent = &mut state.numbers.keys;
            state.known_keys.add(recent, draft, place, idempotency, event.accepted_at);
        }
        draft.put_new(Space::Rows, keys::numbers(key.tenant, ordinal), state.numbers.encode(), young);
        if let Some(due) = facts.due {
            draft.put(Space::Rows, keys::due(due, place), Vec::new());
        }
        let (waits_as, group) = (facts.waits_as(), facts.group(&shared.ids, key.tenant));
        draft.must_sync();
        self.totals.queued += 1;
        self.totals.queued_bytes += bytes;
        state.events += 1;
        state.bytes += bytes;

        let mut replaced = Vec::new();
        if let Some((old_place, row)) = old {
            let (facts, json) = decode_event(&row)?;
            // One that had expired before was not replaced: it would not have been delivered.
            let expired = facts.expires_at() <= event.accepted_at;
            let old_id = shared.ids.seal(facts.born(old_place).located(bucket));
            let ending = Ending {
                state: if expired { DeliveryState::Expired } else { DeliveryState::Replaced },
                replaced_by: (!expired).then(|| group.unwrap_or(id)),
                ..Ending::of(Outcome::Expired, event.accepted_at, None, None)
            };
            end(
                draft,
                &mut self.totals,
                &mut self.positions,
                &shared,
                old_place,
                old_id,
                &row,
                &ending,
                self.now,
            )?;
            state.ended(old_place, json.len() as u64, facts.collapse_key);
            if !expired {
                replaced.push(old_id);
            }
        }
        if let Some(collapse_key) = &event.collapse_key {
            state.remember(Arc::clone(collapse_key), place.queue, place.number);
        }
        state.tell();
        self.touched.push(key);
        // Between two sweeps: where nothing waited, this is the oldest.
        // One that is scheduled is not late.
        let scheduled = waits_as == DeliveryState::Scheduled;
        if self.totals.queued <= 1 || shared.oldest_queued.load(Ordering::Relaxed) == 0 {
            let oldest = if scheduled { 0 } else { event.accepted_at.0 };
            shared.oldest_queued.store(oldest, Ordering::Relaxed);
        }
        if let Some(seat) = seat.as_ref().filter(|_| !scheduled) {
            arrivals.push(Arrival {
                epoch: seat.epoch,
                after: None,
                event: Arc::new(QueuedEvent {
                    id,
                    located,
                    lane: Lane::Queue(event.urgency, shared.generation()),
                    seq,
                    attempt: 1,
                    event,
                }),
            });
        }
        Ok(Enqueued {
            id,
            kind: EnqueuedKind::New,
            durability: Durability::Disk,
            state: waits_as,
            seat,
            replaced,
        })
    }

    /// An event with a TTL of 0: to whoever holds the seat now, or to nobody.
    fn pass(
        shared: &Shared,
        state: &mut DeviceState,
        event: crate::domain::Event,
        seat: Option<crate::store::Seat>,
        arrivals: &mut Vec<Arrival>,
    ) -> Enqueued {
        state.now_seq = (state.now_seq + 1).max(event.accepted_at.0);
        let located = Located {
            tenant: event.tenant,
            bucket: state.bucket,
            ordinal: state.ordinal,
            queue: None,
            number: state.now_seq,
        };
        let id = shared.ids.seal(located);
        if let Some(held) = &state.held {
            held.now_seq.store(state.now_seq, Ordering::Relaxed);
            arrivals.push(Arrival {
                epoch: held.seat.epoch,
                after: None,
                event: Arc::new(QueuedEvent {
                    id,
                    located,
                    lane: Lane::Now(shared.generation()),
                    seq: Seq(state.now_seq),
                    attempt: 1,
                    event,
                }),
            });
        }
        Enqueued {
            id,
            kind: EnqueuedKind::New,
            durability: Durability::None,
            state: if seat.is_some() {
                DeliveryState::Accepted
            } else {
                DeliveryState::NoTarget
            },
            seat,
            replaced: Vec::new(),
        }
    }

    pub(super) fn settle(&mut self, draft: &mut Draft<'_>, settle: &Settle) -> Result<Settled, StoreError> {
        let Some(place) = Place::of(settle.located).filter(|place| place.tenant == settle.device.tenant) else {
            return Ok(Settled::Unknown);
        };
        let (place, row) = match born::find(place, |space, key| draft.get(space, key))? {
            Some(found) => found,
            None => {
                // A session may know it where it was before it was put at the tail again: the id tells where it was born.
                let born = self.shared.ids.open(settle.id).and_then(Place::of).filter(|born| *born != place);
                match born
                    .map(|born| born::find(born, |space, key| draft.get(space, key)))
                    .transpose()?
                    .flatten()
                {
                    Some(found) => found,
                    None => return Self::settle_again(draft, &self.shared.ids, &mut self.positions, born.unwrap_or(place), settle),
                }
            }
        };
        let (facts, json) = decode_event(&row)?;
        if facts.device != settle.device.device.as_str() {
            return Ok(Settled::Unknown);
        }
        let outcome = match settle.outcome {
            Outcome::Delivered if facts.require == Require::Processed => return Ok(Settled::OutcomeWanted),
            Outcome::Again { .. } if facts.attempt >= self.shared.limits.attempts_max => Outcome::Failed(Reason::TooManyAttempts),
            Outcome::Again { after, at_next_session } => return self.put_off(draft, settle, place, &row, after, at_next_session),
            other => other,
        };
        let shared = Arc::clone(&self.shared);
        let ending = Ending::of(outcome, settle.at, settle.epoch, settle.told.clone());
        end(
            draft,
            &mut self.totals,
            &mut self.positions,
            &shared,
            place,
            settle.id,
            &row,
            &ending,
            self.now,
        )?;
        if let Some(state) = self.states.get_mut(&settle.device)
            && state.ordinal == place.ordinal
        {
            state.ended(place, json.len() as u64, facts.collapse_key);
        }
        Ok(Settled::Now {
            outcome,
            waited: settle.at.since(facts.deliverable_from()),
            urgency: facts.urgency,
            expires_at: facts.expires_at(),
        })
    }

    /// An end after the end: what the device says later is kept, and changes no state but `delivered`, once.
    fn settle_again(
        draft: &mut Draft<'_>,
        ids: &EventIdKey,
        positions: &mut Positions,
        place: Place,
        settle: &Settle,
    ) -> Result<Settled, StoreError> {
        let Some(row) = draft.get(Space::Ends, &place.end_key())? else {
            return Ok(Settled::Unknown);
        };
        let (facts, ending) = record::decode_end(&row)?;
        if facts.device != settle.device.device.as_str() {
            return Ok(Settled::Unknown);
        }
        let overtaken = matches!(
            ending.state,
            DeliveryState::Replaced | DeliveryState::Cancelled | DeliveryState::Expired
        );
        let acknowledged = matches!(settle.outcome, Outcome::Delivered | Outcome::Processed);
        let late_ack = acknowledged && overtaken && !ending.late_ack;
        let told = settle.told.clone().filter(|_| ending.told.is_none());
        let processed = settle.outcome == Outcome::Processed && ending.state == DeliveryState::Delivered && ending.told.is_none();
        if late_ack || told.is_some() || processed {
            let changed = record::with_change(&row, |ending| {
                ending.late_ack |= late_ack;
                ending.told = told.or(ending.told.take());
                if processed {
                    ending.state = DeliveryState::Processed;
                    (ending.at, ending.epoch) = (settle.at, settle.epoch);
                }
            })?;
            if processed {
                receive(draft, ids, positions, place, settle.id, &facts, &record::decode_end(&changed)?.1)?;
            }
            draft.put(Space::Ends, place.end_key(), changed);
            draft.must_sync();
        }
        Ok(Settled::Before(ending.state))
    }

    /// Ends every event that waits for that ordinal.
    pub(super) fn fail_all(&mut self, draft: &mut Draft<'_>, device: &DeviceKey, ordinal: u32, at: Timestamp) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let bucket = device.bucket();
        for (key, row) in draft.prefix(Space::Events, &keys::device_prefix(device.tenant, ordinal))? {
            let place = Place::read(&key).ok_or_else(|| damaged("the key of an event"))?;
            let id = shared.ids.seal(decode_event(&row)?.0.born(place).located(bucket));
            let outcome = Outcome::Failed(Reason::DeviceRemoved);
            let ending = Ending::of(outcome, at, None, None);
            end(
                draft,
                &mut self.totals,
                &mut self.positions,
                &shared,
                place,
                id,
                &row,
                &ending,
                self.now,
            )?;
        }
        Ok(())
    }
}

/// Ends an event: its row goes; its state, its receipt, and the end of its idempotency key come in the same draft.
#[expect(clippy::too_many_arguments, reason = "parts of the book, borrowed apart from the device's state")]
fn end(
    draft: &mut Draft<'_>,
    totals: &mut Totals,
    positions: &mut Positions,
    shared: &Shared,
    place: Place,
    id: EventId,
    row: &[u8],
    ending: &Ending,
    now: Timestamp,
) -> Result<(), StoreError> {
    let (facts, json) = decode_event(row)?;
    let born = facts.born(place);
    draft.remove(Space::Events, place.event_key());
    if let Some(due) = facts.due {
        draft.remove(Space::Rows, keys::due(due, place));
    }
    let ending = Ending {
        key_is_free: facts.idempotency.is_some() && now >= facts.accepted_at.plus(shared.idempotency_kept()),
        ..ending.clone()
    };
    draft.put(Space::Ends, born.end_key(), record::encode_end(row, json, &ending)?);
    receive(draft, &shared.ids, positions, place, id, &facts, &ending)?;
    if let Some(key) = facts.idempotency.as_ref().filter(|_| ending.key_is_free) {
        let kept_key = keys::idempotency(place.tenant, place.ordinal, key);
        let kept = draft.get(Space::Ends, &kept_key)?;
        if kept
            .map(|row| Kept::decode(&row))
            .transpose()?
            .is_some_and(|kept| kept.number == born.number)
        {
            draft.remove(Space::Ends, kept_key);
        }
    }
    draft.must_sync();
    totals.queued = totals.queued.saturating_sub(1);
    totals.queued_bytes = totals.queued_bytes.saturating_sub(json.len() as u64);
    Ok(())
}

/// Writes the receipt of a change of state.
pub(super) fn receive(
    draft: &mut Draft<'_>,
    ids: &EventIdKey,
    positions: &mut Positions,
    place: Place,
    id: EventId,
    facts: &Facts<'_>,
    ending: &Ending,
) -> Result<(), StoreError> {
    let position = next_position(draft, positions, place.tenant)?;
    let receipt = NewReceipt {
        event: id,
        group: facts.group(ids, place.tenant),
        device: facts.device,
        state: ending.state,
        reason: ending.reason,
        at: ending.at,
        epoch: ending.epoch,
        latency_ms: u64::try_from(ending.at.since(facts.deliverable_from()).as_millis()).unwrap_or(u64::MAX),
        attempt: facts.attempt,
        replaced_by: ending.replaced_by,
        told: ending.told.as_deref(),
    };
    draft.receive(place.tenant, position, &receipt)
}
