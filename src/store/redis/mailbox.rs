//! The mailbox: each step is one script on the slot of its device.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use futures_util::future::join_all;
use redis::Value;

use super::{
    RedisStore, Shared, feed,
    held::{Check, Goodbye},
    housekeeping,
    keys::{self, Slot},
    mover::Log,
    record::{self, Ending, NewRecord, Owner},
    reply::{Packed, Reply, p48, u48},
    script,
    seat::{self, Holder},
    shards::Route,
};
use crate::{
    domain::{
        Clock as _, DeliveryState, Departure, Durability, Epoch, EventId, Generation, Lane, Located, Outcome, Queue, Reason, Seq, TenantId,
        Timestamp,
    },
    store::{
        Addressed, Arrival, Claimed, Cursor, Delivery, DeviceKey, Enqueued, EnqueuedKind, Hint, Mailbox, NewEvent, NewSeat, Page,
        QueuedEvent, Seat, SeatView, Settle, Settled, StoreError, StoreStats, Swept, Unread, Watch, codec::damaged, codes,
    },
};

/// What the script answers of an event that ended before, when more may have to be written.
const ENDED_BEFORE: u8 = 6;

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

    fn tell(&self, seat: Option<&Seat>, after: impl FnOnce(&Located) -> Option<u64>, event: impl FnOnce() -> QueuedEvent) {
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

    fn durability(&self) -> Durability {
        if self.shards.replicated() {
            Durability::Replicated
        } else {
            Durability::Primary
        }
    }

    async fn enqueue_one(&self, new: NewEvent) -> Result<Enqueued, StoreError> {
        let device = DeviceKey {
            tenant: new.event.tenant,
            device: new.event.device.clone(),
        };
        if new.event.ttl.is_zero() {
            return self.pass(&device, new).await;
        }
        let NewEvent { event, idempotency } = new;
        let record = NewRecord::of(&event, idempotency.as_ref().map(|idempotency| &idempotency.key))?;
        let (bucket, queue) = (device.bucket(), Queue::of(event.urgency));
        let mut keys = vec![
            self.keys.device('p', &device),
            self.keys.device('q', &device),
            self.keys.bucket('c', bucket),
            self.keys.bucket('z', bucket),
            self.keys.device('d', &device),
        ];
        let script = if idempotency.is_some() || event.collapse_key.is_some() {
            keys.extend([self.keys.device('s', &device), self.keys.bucket('o', bucket)]);
            &script::ENQUEUE_KEYED
        } else {
            &script::ENQUEUE
        };
        let now = self.clock.now();
        let id_length = u8::try_from(device.device.as_str().len()).unwrap_or(u8::MAX);
        let name_length = u8::try_from(keys::member(&device).len()).unwrap_or(u8::MAX);
        let make = |floor: u64| {
            let fixed = [
                &keys::field(queue, 0)[..1],
                &[seat::lane_at(codes::urgency_code(event.urgency))],
                &record.head,
                &p48(now.0),
                &p48(floor),
                &p48(self.limits.idempotency_kept_secs.saturating_mul(1000)),
                &u32::try_from(event.json.0.len()).unwrap_or(u32::MAX).to_be_bytes(),
                &self.limits.queue_max_events.to_be_bytes(),
                &p48(self.limits.queue_max_bytes),
                &device.tenant.0.to_be_bytes(),
                &[id_length, name_length],
                idempotency.as_ref().map_or(&[][..], |idempotency| &idempotency.body),
            ];
            let mut cmd = script.call(&keys);
            cmd.arg(fixed.concat()).arg(&record.rest);
            cmd
        };
        let route = Route {
            // With a key the second time is answered as the first.
            repeatable: idempotency.is_some(),
            ..Route::durable(Slot::of_bucket(bucket))
        };
        // Asked before it is written: the level may rise meanwhile.
        let durability = self.durability();
        let answer = self.shards.ask(route, make).await?;
        let mut packed = Packed::new(&answer, "the answer to enqueue")?;
        match packed.byte()? {
            0 => Err(StoreError::UnknownDevice),
            1 => Err(StoreError::RemovedDevice),
            found @ (2 | 3) => {
                let owner = self.owner(&device, packed.u32()?);
                let (queue, number) = keys::read_field(packed.bytes(7)?).ok_or_else(|| packed.damaged())?;
                let id = owner.id(queue, number);
                if found == 2 {
                    return Err(StoreError::KeyReused(id));
                }
                let state = codes::state(packed.byte()?).ok_or_else(|| packed.damaged())?;
                let seat = self.live_seat(packed.rest()).await;
                if state == DeliveryState::Queued {
                    // The first time may have told nobody: it was written, and its answer was lost or came too late.
                    self.tell(
                        seat.as_ref(),
                        |_| Some(Arrival::READ_FIRST),
                        || QueuedEvent {
                            id,
                            located: owner.located(queue, number),
                            lane: Lane::Queue(event.urgency, self.generation()),
                            seq: Seq(0),
                            attempt: 1,
                            event: event.clone(),
                        },
                    );
                }
                Ok(Enqueued {
                    id,
                    kind: EnqueuedKind::Repeat,
                    durability,
                    state,
                    seat,
                    replaced: Vec::new(),
                })
            }
            4 => Err(StoreError::QueueFull {
                events: packed.u32()?,
                bytes: packed.u48()?,
            }),
            5 => {
                let owner = self.owner(&device, packed.u32()?);
                let (number, seq) = (packed.u48()?, packed.u48()?);
                self.counters.accepted(event.accepted_at);
                let (ended, place) = (packed.byte()?, packed.bytes(7)?);
                let replaced = match ended {
                    // What had expired already was not replaced.
                    0 | 2 => None,
                    _ => Some(keys::read_field(place).ok_or_else(|| packed.damaged())?),
                };
                if ended == 0 {
                    self.counters.came(bucket);
                } else {
                    self.touch(bucket);
                }
                let seat = self.live_seat(packed.rest()).await;
                let id = owner.id(queue, number);
                self.watches.wake([&device]);
                self.announce(seat.as_ref(), || QueuedEvent {
                    id,
                    located: owner.located(queue, number),
                    lane: Lane::Queue(event.urgency, self.generation()),
                    seq: Seq(seq),
                    attempt: 1,
                    event: event.clone(),
                });
                Ok(Enqueued {
                    id,
                    kind: EnqueuedKind::New,
                    durability,
                    state: DeliveryState::Queued,
                    seat,
                    replaced: replaced.into_iter().map(|(queue, number)| owner.id(queue, number)).collect(),
                })
            }
            _ => Err(packed.damaged()),
        }
    }

    /// An event with a TTL of 0: to whoever holds the seat now, or to nobody.
    async fn pass(&self, device: &DeviceKey, new: NewEvent) -> Result<Enqueued, StoreError> {
        let event = new.event;
        let keys = [self.keys.device('d', device), self.keys.device('p', device)];
        let make = |_| {
            let mut cmd = script::PASS.call(&keys);
            cmd.arg(event.accepted_at.0);
            cmd
        };
        let route = Route::quick(Slot::of_bucket(device.bucket()));
        let mut reply = Reply::new(self.shards.ask(route, make).await?, "the answer to enqueue")?;
        match reply.int()? {
            0 => return Err(StoreError::UnknownDevice),
            1 => return Err(StoreError::RemovedDevice),
            _ => {}
        }
        let owner = self.owner(device, u32::from_be_bytes(reply.array()?));
        let number = u48(&reply.array::<6>()?).ok_or_else(|| reply.damaged())?;
        let seat = self.live_seat(&reply.bytes()?).await;
        let located = Located {
            queue: None,
            ..owner.located(Queue::Rest, number)
        };
        let id = self.ids.seal(located);
        self.announce(seat.as_ref(), || QueuedEvent {
            id,
            located,
            lane: Lane::Now(self.generation()),
            seq: Seq(number),
            attempt: 1,
            event,
        });
        Ok(Enqueued {
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
        })
    }

    async fn settle_one(&self, settle: &Settle) -> Result<Settled, StoreError> {
        let device = &settle.device;
        let bucket = device.bucket();
        let is_there = settle.located.tenant == device.tenant && settle.located.bucket == bucket;
        let Some(queue) = settle.located.queue.filter(|_| is_there) else {
            return Ok(Settled::Unknown);
        };
        let field = keys::field(queue, settle.located.number);
        // A session may know it where it was before it was put at the tail again: the id tells where it was born.
        let born = match self.ids.open(settle.id) {
            Some(Located {
                queue: Some(queue),
                number,
                ..
            }) => keys::field(queue, number),
            _ => field,
        };
        let told = settle.told.as_deref();
        let now = self.clock.now();
        let kept_ms = self.limits.idempotency_kept_secs.saturating_mul(1000);
        let prefix = record::receipt_prefix(device.tenant, Some(settle.located.ordinal), &device.device);
        let ending = Ending::encode(settle.outcome, settle.at, settle.epoch, told)?;
        let given_up = Outcome::Failed(Reason::TooManyAttempts);
        let route = Route::durable(Slot::of_bucket(bucket));
        let answer = if let Outcome::Again { after, at_next_session } = settle.outcome {
            let keys = [
                self.keys.device('p', device),
                self.keys.device('q', device),
                self.keys.device('s', device),
                self.keys.bucket('o', bucket),
                self.keys.bucket('w', bucket),
                self.keys.bucket('c', bucket),
            ];
            let ending_given_up = Ending::encode(given_up, settle.at, settle.epoch, told)?;
            let member = keys::member(device);
            let make = |_| {
                let mut cmd = script::PUT_OFF.call(&keys);
                cmd.arg(&field)
                    .arg(&born)
                    .arg(&ending)
                    .arg(&ending_given_up)
                    .arg(self.limits.attempts_max)
                    .arg(settle.at.plus(after).0)
                    .arg(u8::from(at_next_session))
                    .arg(now.0)
                    .arg(kept_ms)
                    .arg(&prefix)
                    .arg(&member);
                cmd
            };
            self.shards.ask(route, make).await?
        } else {
            let kind = match settle.outcome {
                Outcome::Delivered => b"d",
                Outcome::Processed => b"p",
                _ => b"x",
            };
            let keys = [
                self.keys.device('q', device),
                self.keys.device('s', device),
                self.keys.bucket('o', bucket),
            ];
            let fixed = [kind, &field[..], &born, &p48(now.0), &p48(kept_ms), &prefix].concat();
            let make = |_| {
                let mut cmd = script::SETTLE.call(&keys);
                cmd.arg(&fixed).arg(&ending);
                cmd
            };
            let answer = self.shards.ask(route, make).await?;
            if Packed::new(&answer, "the answer to settle")?.byte()? == ENDED_BEFORE {
                let keys = [
                    self.keys.device('s', device),
                    self.keys.bucket('o', bucket),
                    self.keys.bucket('c', bucket),
                ];
                let make = |_| {
                    let mut cmd = script::LATE.call(&keys);
                    cmd.arg(&kind[..]).arg(&born).arg(&ending).arg(&prefix);
                    cmd
                };
                self.shards.ask(route, make).await?
            } else {
                answer
            }
        };
        let mut packed = Packed::new(&answer, "the answer to settle")?;
        match packed.byte()? {
            0 => Ok(Settled::Unknown),
            1 => {
                let (waited, expires_at) = record::times(packed.bytes(12)?, settle.at).ok_or_else(|| packed.damaged())?;
                let urgency = codes::urgency(packed.byte()?).ok_or_else(|| packed.damaged())?;
                self.counters.went(bucket, 1);
                let outcome = if packed.byte()? == 0 { settle.outcome } else { given_up };
                self.touch(bucket);
                Ok(Settled::Now {
                    outcome,
                    waited,
                    urgency,
                    expires_at,
                })
            }
            2 => {
                self.touch(bucket);
                Ok(Settled::Again)
            }
            3 => Ok(Settled::OutcomeWanted),
            4 => {
                self.touch(bucket);
                let state = codes::state(packed.byte()?).ok_or_else(|| packed.damaged())?;
                Ok(Settled::Before(state))
            }
            _ => Err(packed.damaged()),
        }
    }

    async fn claim_seat(&self, device: &DeviceKey, session: &NewSeat) -> Result<Claimed, StoreError> {
        if !self.nodes.may_claim() {
            return Err(StoreError::Unavailable(
                "this node is cut off from the others and claims no seats".into(),
            ));
        }
        let (number, incarnation) = self.nodes.me();
        let bucket = device.bucket();
        let keys = [
            self.keys.device('d', device),
            self.keys.device('p', device),
            self.keys.device('q', device),
            self.keys.device('f', device),
            self.keys.bucket('w', bucket),
            self.keys.bucket(Log::Feed.outbox(), bucket),
        ];
        let mut seat = Holder::encode(session, number, incarnation);
        let member = keys::member(device);
        let mut tokens = match &session.fast {
            Some(_) => self.row('f', device).await?.unwrap_or_default(),
            None => Vec::new(),
        };
        loop {
            let changed = match &session.fast {
                Some(change) => super::registry::changed_tokens(&tokens, session.credential_generation, change)?,
                None => Vec::new(),
            };
            let make = |floor: u64| {
                let mut cmd = script::CLAIM.call(&keys);
                cmd.arg(&session.credential_generation.to_be_bytes())
                    .arg(&seat)
                    // Epochs are times: a seat that could not be claimed at once is as old as its session (`held`).
                    .arg(floor.max(session.at.0))
                    .arg(session.at.0)
                    .arg(&member)
                    .arg(u8::from(session.fast.is_some()))
                    .arg(&tokens)
                    .arg(&changed);
                cmd
            };
            let value = self.shards.ask(Route::quick(Slot::of_bucket(bucket)), make).await?;
            let mut reply = Reply::new(value, "the answer to claim")?;
            match reply.int()? {
                0 => return Err(StoreError::UnknownDevice),
                1 => return Err(StoreError::RemovedDevice),
                2 => {
                    self.rows.forget(device);
                    return Err(StoreError::Conflict("the credentials of the device were changed".into()));
                }
                // Another login changed them meanwhile.
                3 => tokens = reply.bytes()?,
                4 => {
                    let epoch = Epoch(u48(&reply.array::<6>()?).ok_or_else(|| reply.damaged())?);
                    let displaced = self.live_seat(&reply.bytes()?).await.filter(|seat| seat.session != session.session);
                    let waiting = u32::try_from(reply.count()?).unwrap_or(u32::MAX);
                    self.touch_feed(bucket);
                    let me = self.nodes.me();
                    if me == (number, incarnation) {
                        self.held.take(device, epoch, seat);
                    } else {
                        // The others counted the node as lost meanwhile: the seat is that of its life now.
                        seat::put_node(&mut seat, me.0, me.1);
                        self.held.take(device, epoch, seat);
                        self.held.owe_claim(device);
                    }
                    if let Some(seat) = displaced.as_ref().filter(|seat| *seat.node != *self.nodes.name()) {
                        let (device, epoch) = (device.clone(), seat.epoch);
                        self.hint(&seat.node, Hint::Displaced { device, epoch });
                    }
                    return Ok(Claimed { epoch, displaced, waiting });
                }
                _ => return Err(reply.damaged()),
            }
        }
    }

    pub(super) async fn release_seat(&self, device: &DeviceKey, goodbye: Goodbye) -> Result<bool, StoreError> {
        let bucket = device.bucket();
        let keys = [
            self.keys.device('d', device),
            self.keys.device('p', device),
            self.keys.bucket(Log::Feed.outbox(), bucket),
        ];
        let (head, member) = (feed::left(goodbye.at, goodbye.why), keys::member(device));
        let make = |_| {
            let mut cmd = script::RELEASE.call(&keys);
            cmd.arg(&p48(goodbye.epoch.0)).arg(goodbye.last_seen_at.0).arg(&head).arg(&member);
            cmd
        };
        let value = self.shards.ask(Route::quick(Slot::of_bucket(bucket)), make).await?;
        match value {
            Value::Int(0) => Err(StoreError::UnknownDevice),
            Value::Int(1) => Err(StoreError::RemovedDevice),
            Value::Int(2) => Ok(false),
            Value::Int(3) => {
                self.touch_feed(bucket);
                Ok(true)
            }
            _ => Err(damaged("the answer to release")),
        }
    }
}

#[async_trait]
impl Mailbox for RedisStore {
    async fn enqueue(&self, events: Vec<NewEvent>) -> Vec<Result<Enqueued, StoreError>> {
        if let [_] = events.as_slice() {
            return match events.into_iter().next() {
                Some(one) => vec![self.shared.enqueue_one(one).await],
                None => Vec::new(),
            };
        }
        let count = events.len();
        // Events of one device keep their order; devices do not wait for one another.
        let mut of_device: HashMap<DeviceKey, Vec<(usize, NewEvent)>> = HashMap::new();
        for (index, new) in events.into_iter().enumerate() {
            let device = DeviceKey {
                tenant: new.event.tenant,
                device: new.event.device.clone(),
            };
            of_device.entry(device).or_default().push((index, new));
        }
        let in_order = async |events: Vec<(usize, NewEvent)>| {
            let mut answers = Vec::with_capacity(events.len());
            for (index, new) in events {
                answers.push((index, self.shared.enqueue_one(new).await));
            }
            answers
        };
        let mut answers: Vec<_> = join_all(of_device.into_values().map(in_order))
            .await
            .into_iter()
            .flatten()
            .collect();
        debug_assert_eq!(answers.len(), count);
        answers.sort_unstable_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    async fn claim(&self, device: &DeviceKey, session: NewSeat) -> Result<Claimed, StoreError> {
        match self.shared.claim_seat(device, &session).await {
            // What a token changes must be stored; any other session need not wait for Redis.
            Err(StoreError::Unavailable(why)) if session.fast.is_none() => {
                tracing::debug!("a session begins without its seat, which is claimed later: {why}");
                let as_read = Check::Generation(session.credential_generation);
                Ok(self.shared.seat_unclaimed(device, &session, as_read))
            }
            claimed => claimed,
        }
    }

    fn seats_unread(&self) -> bool {
        true
    }

    async fn claim_unread(&self, device: &DeviceKey, session: NewSeat, unread: Unread) -> Result<Claimed, StoreError> {
        Ok(self.shared.seat_unclaimed(device, &session, Check::Row(Box::new(unread))))
    }

    async fn pending(&self, device: &DeviceKey, after: Cursor, limit: usize) -> Result<Page, StoreError> {
        self.shared.read_pending(device, after, limit).await
    }

    async fn settle(&self, ends: Vec<Settle>) -> Vec<Result<Settled, StoreError>> {
        let strangers = match self.shared.strangers(&ends).await {
            Ok(strangers) => strangers,
            Err(why) => return ends.iter().map(|_| Err(why.clone())).collect(),
        };
        let settle = async |end: &Settle| {
            if !strangers.is_empty() && strangers.contains(&(end.device.clone(), end.located.ordinal)) {
                return Ok(Settled::Unknown);
            }
            self.shared.settle_one(end).await
        };
        // What is said of one event keeps its order, though a step may take two scripts.
        let mut events = HashSet::with_capacity(ends.len());
        if ends.iter().all(|end| events.insert(end.id)) {
            return join_all(ends.iter().map(settle)).await;
        }
        let mut settled = Vec::with_capacity(ends.len());
        for end in &ends {
            settled.push(settle(end).await);
        }
        settled
    }

    async fn requeue_due(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.shared.requeue_due(now, limit).await
    }

    async fn release(&self, device: &DeviceKey, epoch: Epoch, last_seen_at: Timestamp, why: Departure) -> Result<bool, StoreError> {
        let held = &self.shared.held;
        held.give_up(device, epoch);
        let goodbye = Goodbye {
            epoch,
            last_seen_at,
            at: self.shared.clock.now(),
            why,
        };
        match self.shared.release_seat(device, goodbye).await {
            Err(StoreError::Unavailable(_)) => {
                held.owe_release(device, goodbye);
                Ok(true)
            }
            Ok(true) => {
                held.remember_goodbye(device, goodbye);
                Ok(true)
            }
            released => released,
        }
    }

    async fn seat(&self, device: &DeviceKey) -> Result<SeatView, StoreError> {
        self.shared.read_seat(device).await
    }

    async fn seats(&self, devices: &[DeviceKey]) -> Vec<Result<SeatView, StoreError>> {
        self.shared.read_seats(devices).await
    }

    async fn delivery(&self, tenant: TenantId, id: EventId) -> Result<Option<Delivery>, StoreError> {
        self.shared.read_delivery(tenant, id).await
    }

    async fn deliveries(&self, device: &DeviceKey, before: Option<EventId>, limit: usize) -> Result<Vec<Delivery>, StoreError> {
        self.shared.read_deliveries(device, before, limit).await
    }

    async fn sweep(&self, now: Timestamp) -> Result<Swept, StoreError> {
        housekeeping::round(self, now).await
    }

    fn watch(&self, device: &DeviceKey) -> Watch {
        self.shared.watches.watch(device)
    }

    fn generation(&self) -> Generation {
        self.shared.generation()
    }

    fn locate(&self, tenant: TenantId, id: EventId) -> Option<Located> {
        self.shared.ids.open(id).filter(|located| located.tenant == tenant)
    }

    fn stats(&self) -> StoreStats {
        let (serving, replicating) = self.shared.shards.health();
        self.shared.counters.stats(serving && replicating)
    }

    fn missed_arrivals(&self) -> u64 {
        self.shared.missed_arrivals.load(Ordering::Relaxed)
    }
}
