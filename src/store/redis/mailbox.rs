//! The mailbox: each step is one script on the slot of its device.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use futures_util::future::join_all;
use redis::Value;

use super::{
    RedisStore, Shared, housekeeping,
    keys::{self, Slot},
    record::{self, Ending, NewRecord, Owner},
    reply::{self, Reply, p48, u48},
    script,
    seat::Holder,
    shards::Route,
};
use crate::{
    domain::{
        Clock as _, DeliveryState, Durability, Epoch, EventId, Generation, Lane, Located, Outcome, Queue, Reason, Seq, TenantId, Timestamp,
    },
    store::{
        Addressed, Arrival, Claimed, Cursor, Delivery, DeviceKey, Enqueued, EnqueuedKind, Hint, Mailbox, NewEvent, NewSeat, Page,
        QueuedEvent, Seat, SeatView, Settle, Settled, StoreError, StoreStats, Swept, Watch, codec::damaged, codes,
    },
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
            generation: self.generation,
            tenant: device.tenant,
            device: &device.device,
            bucket: device.bucket(),
            ordinal,
        }
    }

    /// Tells whoever has the session of an event that was stored, here or on another node.
    pub(super) fn announce(&self, seat: Option<&Seat>, event: impl FnOnce() -> QueuedEvent) {
        let Some(seat) = seat else { return };
        let event = event();
        let arrival = Arrival {
            epoch: seat.epoch,
            // A device counts its events in one row, whichever queue they are in.
            after: event.located.queue.map(|_| event.located.number.saturating_sub(1)),
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
        let keys = [
            self.keys.device('d', &device),
            self.keys.device('p', &device),
            self.keys.device('q', &device),
            self.keys.device('s', &device),
            self.keys.bucket('o', bucket),
            self.keys.bucket('c', bucket),
            self.keys.bucket('z', bucket),
        ];
        let field = |letter: u8, key: &[u8]| [&[letter], key].concat();
        let collapse = event.collapse_key.as_ref().map_or_else(Vec::new, |key| field(b'c', key.as_bytes()));
        let idempotent = idempotency
            .as_ref()
            .map_or_else(Vec::new, |idempotency| field(b'i', &idempotency.key));
        let body = idempotency.as_ref().map_or(&[][..], |idempotency| &idempotency.body);
        let named = record::named(device.device.as_str().as_bytes());
        let member = keys::member(&device);
        let now = self.clock.now();
        let make = |floor: u64| {
            let mut cmd = script::ENQUEUE.call(&keys);
            cmd.arg(&keys::field(queue, 0)[..1])
                .arg(codes::urgency_code(event.urgency))
                .arg(&record.head)
                .arg(&record.rest)
                .arg(event.json.0.len())
                .arg(event.accepted_at.0)
                .arg(event.expires_at().0)
                .arg(&collapse)
                .arg(&idempotent)
                .arg(body)
                .arg(self.limits.idempotency_kept_secs.saturating_mul(1000))
                .arg(now.0)
                .arg(self.limits.queue_max_events)
                .arg(self.limits.queue_max_bytes)
                .arg(floor)
                .arg(&member)
                .arg(&device.tenant.0.to_be_bytes())
                .arg(&named);
            cmd
        };
        let route = Route {
            // With a key the second time is answered as the first.
            repeatable: idempotency.is_some(),
            ..Route::durable(Slot::of_bucket(bucket))
        };
        let mut reply = Reply::new(self.shards.ask(route, make).await?, "the answer to enqueue")?;
        match reply.int()? {
            0 => Err(StoreError::UnknownDevice),
            1 => Err(StoreError::RemovedDevice),
            found @ (2 | 3) => {
                let owner = self.owner(&device, u32::from_be_bytes(reply.array()?));
                let (queue, number) = keys::read_field(&reply.bytes()?).ok_or_else(|| reply.damaged())?;
                let id = owner.id(queue, number);
                if found == 2 {
                    return Err(StoreError::KeyReused(id));
                }
                let state = u8::try_from(reply.int()?).ok().and_then(codes::state);
                Ok(Enqueued {
                    id,
                    kind: EnqueuedKind::Repeat,
                    durability: self.durability(),
                    state: state.ok_or_else(|| reply.damaged())?,
                    seat: self.live_seat(&reply.bytes()?).await,
                    replaced: Vec::new(),
                })
            }
            4 => Err(StoreError::QueueFull {
                events: u32::try_from(reply.count()?).unwrap_or(u32::MAX),
                bytes: reply.count()?,
            }),
            5 => {
                let owner = self.owner(&device, u32::from_be_bytes(reply.array()?));
                let (number, seq) = (reply.array::<6>()?, reply.array::<6>()?);
                let (number, seq) = u48(&number).zip(u48(&seq)).ok_or_else(|| reply.damaged())?;
                let seat = self.live_seat(&reply.bytes()?).await;
                self.counters.queued(bucket, reply.int()?);
                self.counters.accepted(event.accepted_at);
                let replaced = match reply::bytes(reply.next()?) {
                    Some(field) => keys::read_field(&field).map(|(queue, number)| owner.id(queue, number)),
                    None => None,
                };
                let expired = reply.int()? != 0;
                if expired || replaced.is_some() {
                    self.touch(bucket);
                }
                let id = owner.id(queue, number);
                self.watches.wake([&device]);
                self.announce(seat.as_ref(), || QueuedEvent {
                    id,
                    located: owner.located(queue, number),
                    lane: Lane::Queue(event.urgency, self.generation),
                    seq: Seq(seq),
                    attempt: 1,
                    event: event.clone(),
                });
                Ok(Enqueued {
                    id,
                    kind: EnqueuedKind::New,
                    durability: self.durability(),
                    state: DeliveryState::Queued,
                    seat,
                    replaced: replaced.into_iter().filter(|_| !expired).collect(),
                })
            }
            _ => Err(reply.damaged()),
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
            lane: Lane::Now(self.generation),
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
        let (kind, again) = match settle.outcome {
            Outcome::Delivered => ("d", None),
            Outcome::Processed => ("p", None),
            Outcome::Again { after, at_next_session } => ("a", Some((settle.at.plus(after), at_next_session))),
            _ => ("x", None),
        };
        let ending = Ending::encode(settle.outcome, settle.at, settle.epoch, told)?;
        let given_up = Outcome::Failed(Reason::TooManyAttempts);
        let ending_given_up = Ending::encode(given_up, settle.at, settle.epoch, told)?;
        let keys = [
            self.keys.device('p', device),
            self.keys.device('q', device),
            self.keys.device('s', device),
            self.keys.bucket('o', bucket),
            self.keys.bucket('c', bucket),
            self.keys.bucket('w', bucket),
        ];
        let now = self.clock.now();
        let prefix = record::receipt_prefix(device.tenant, Some(settle.located.ordinal), &device.device);
        let member = keys::member(device);
        let make = |_| {
            let mut cmd = script::SETTLE.call(&keys);
            cmd.arg(&field)
                .arg(&born)
                .arg(kind)
                .arg(&ending)
                .arg(&ending_given_up)
                .arg(self.limits.attempts_max)
                .arg(again.map_or(0, |(due, _)| due.0))
                .arg(u8::from(again.is_some_and(|(_, at_next_session)| at_next_session)))
                .arg(now.0)
                .arg(self.limits.idempotency_kept_secs.saturating_mul(1000))
                .arg(&prefix)
                .arg(&member);
            cmd
        };
        let value = self.shards.ask(Route::durable(Slot::of_bucket(bucket)), make).await?;
        let mut reply = Reply::new(value, "the answer to settle")?;
        match reply.int()? {
            0 => Ok(Settled::Unknown),
            1 => {
                let times = reply.bytes()?;
                let (waited, expires_at) = record::times(&times, settle.at).ok_or_else(|| reply.damaged())?;
                let urgency = u8::try_from(reply.int()?).ok().and_then(codes::urgency);
                self.counters.queued(bucket, reply.int()?);
                let outcome = if reply.int()? == 0 { settle.outcome } else { given_up };
                self.touch(bucket);
                Ok(Settled::Now {
                    outcome,
                    waited,
                    urgency: urgency.ok_or_else(|| reply.damaged())?,
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
                let state = u8::try_from(reply.int()?).ok().and_then(codes::state);
                Ok(Settled::Before(state.ok_or_else(|| reply.damaged())?))
            }
            _ => Err(reply.damaged()),
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
        ];
        let seat = Holder::encode(session, number, incarnation);
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
                    self.held.take(device, epoch, seat);
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

    pub(super) async fn release_seat(&self, device: &DeviceKey, epoch: Epoch, last_seen_at: Timestamp) -> Result<bool, StoreError> {
        let keys = [self.keys.device('d', device), self.keys.device('p', device)];
        let make = |_| {
            let mut cmd = script::RELEASE.call(&keys);
            cmd.arg(&p48(epoch.0)).arg(last_seen_at.0);
            cmd
        };
        let value = self.shards.ask(Route::quick(Slot::of_bucket(device.bucket())), make).await?;
        match value {
            Value::Int(0) => Err(StoreError::UnknownDevice),
            Value::Int(1) => Err(StoreError::RemovedDevice),
            Value::Int(2) => Ok(false),
            Value::Int(3) => Ok(true),
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
                let epoch = self.shared.seat_unclaimed(device, &session);
                tracing::debug!("a session begins without its seat, which is claimed later: {why}");
                Ok(Claimed {
                    epoch,
                    displaced: None,
                    waiting: 0,
                })
            }
            claimed => claimed,
        }
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
        join_all(ends.iter().map(settle)).await
    }

    async fn requeue_due(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.shared.requeue_due(now, limit).await
    }

    async fn release(&self, device: &DeviceKey, epoch: Epoch, last_seen_at: Timestamp) -> Result<bool, StoreError> {
        self.shared.held.give_up(device, epoch);
        match self.shared.release_seat(device, epoch, last_seen_at).await {
            Err(StoreError::Unavailable(_)) => {
                self.shared.held.owe_release(device, epoch, last_seen_at);
                Ok(true)
            }
            released => released,
        }
    }

    async fn seat(&self, device: &DeviceKey) -> Result<SeatView, StoreError> {
        self.shared.read_seat(device).await
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
        self.shared.generation
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
