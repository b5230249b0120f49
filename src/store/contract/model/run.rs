//! One sequence on one world.

use std::{
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use super::{
    super::{
        Clock, Data, DeliveryState, DeviceChange, DeviceKey, Durability, Enqueued, EnqueuedKind, Epoch, EventId, Idempotency, NewEvent,
        NewSeat, Outcome, OutcomeFields, Reason, Require, START, SessionId, Settle, Settled, StoreError, Tenant, TenantId, Timestamp, Told,
        Transport, Urgency,
    },
    Difference, World,
    calls::{Calls, Flaw},
    differ, limits,
    reference::{Coming, Ending, Holder, Owed, Reference},
    session::{Memory, Session},
    step::{DEVICES, End, Post, Step, What},
};
use crate::{domain::Event, store::Seat};

/// A world, what it should be, and who lives in it.
pub(super) struct Run<W> {
    pub(super) world: W,
    pub(super) reference: Reference,
    /// The session of each device.
    pub(super) sessions: Vec<Option<Session>>,
    pub(super) memories: Vec<Memory>,
    /// Hints that each node will not hear.
    pub(super) deaf: [usize; 2],
    /// Arrivals that a node must hear of.
    pub(super) owed: Vec<(usize, EventId)>,
    /// A node was killed, and may be counted as live for a while.
    pub(super) lingers: bool,
    /// The last epoch may be lost with a node that was killed.
    pub(super) epoch_is_sure: [bool; DEVICES],
    pub(super) steps: usize,
    flaw: Option<Flaw>,
    turn: Arc<AtomicU32>,
    posted: u64,
    session: u128,
}

/// The devices: the same two ids in two tenants. They share a bucket in each, and so all that is kept for a bucket.
pub fn devices() -> impl Iterator<Item = DeviceKey> {
    [(0, "fz"), (0, "dy5"), (1, "fz"), (1, "dy5")]
        .into_iter()
        .map(|(tenant, id)| DeviceKey {
            tenant: TenantId(tenant),
            device: id.parse().unwrap(),
        })
}

impl<W: World> Run<W> {
    /// A world with both tenants and all devices but one.
    pub(super) async fn new(world: W, flaw: Option<Flaw>) -> Result<Self, Difference> {
        let mut run = Self {
            world,
            reference: Reference::new(limits(), devices()),
            sessions: (0..DEVICES).map(|_| None).collect(),
            memories: (0..DEVICES).map(|_| Memory::default()).collect(),
            deaf: [0; 2],
            owed: Vec::new(),
            lingers: false,
            epoch_is_sure: [true; DEVICES],
            steps: 0,
            flaw,
            turn: Arc::default(),
            posted: 0,
            session: 0,
        };
        let tenant = Tenant {
            id: 1,
            name: "other".into(),
            domain: "other.example".into(),
        };
        run.world
            .store(0)
            .put_tenant(tenant)
            .await
            .map_err(|why| Difference(why.to_string()))?;
        for device in 0..DEVICES - 1 {
            run.add(0, device).await?;
        }
        Ok(run)
    }

    pub(super) fn calls(&self, node: usize) -> Calls {
        Calls {
            store: self.world.store(node),
            flaw: self.flaw,
            turn: Arc::clone(&self.turn),
        }
    }

    pub(super) fn ignores_lost_hints(&self) -> bool {
        self.flaw == Some(Flaw::IgnoresLostHints)
    }

    pub(super) fn now(&self, node: usize) -> Timestamp {
        self.world.clock(node).now()
    }

    pub(super) fn key(&self, device: usize) -> DeviceKey {
        self.reference.devices[device].key.clone()
    }

    /// Takes a step; compares.
    pub(super) async fn step(&mut self, step: &Step) -> Result<(), Difference> {
        self.steps += 1;
        match step {
            Step::Post(node, posts) => self.post(node % W::NODES, posts).await?,
            Step::Connect { node, device, stale, page } => {
                self.connect(node % W::NODES, device % DEVICES, *stale).await?;
                if *page > 0 {
                    self.read_on(device % DEVICES, *page, false).await?;
                }
            }
            Step::Resume { device, page } => self.read_on(device % DEVICES, (*page).max(1), false).await?,
            Step::Drop { device } => self.sessions[device % DEVICES] = None,
            Step::Release { node, device, back } => self.release(node % W::NODES, device % DEVICES, *back).await?,
            Step::Settle(node, ends) => self.settle(node % W::NODES, ends).await?,
            Step::Requeue { node, limit } => self.requeue(node % W::NODES, (*limit).max(1)).await?,
            Step::Sweep { node } => self.sweep(node % W::NODES).await?,
            Step::Remove { node, device } => self.remove(node % W::NODES, device % DEVICES).await?,
            Step::Add { node, device } => self.add(node % W::NODES, device % DEVICES).await?,
            Step::LoseHints { node, hints } => self.deaf[node % W::NODES] += hints,
            Step::Clock { node, secs } => {
                let clock = self.world.clock(node % W::NODES);
                clock.set(Timestamp(clock.now().0.saturating_add_signed(secs * 1_000)));
            }
            Step::Crash { node } => {
                self.world.crash(node % W::NODES, None).await;
                self.crashed(node % W::NODES);
            }
            Step::KillServer => {
                self.world.kill_server(None).await;
                self.reference.skips |= W::HAS_SERVER;
            }
            Step::FlushScripts => self.world.flush_scripts().await,
            Step::Interrupted(step, by) => self.interrupted(step, *by).await?,
        }
        self.look_at_clocks();
        self.hear().await?;
        self.agree(self.steps % W::NODES, self.steps.is_multiple_of(12)).await
    }

    /// What has expired by any clock may have been passed over by somebody.
    pub(super) fn look_at_clocks(&mut self) {
        let latest = (0..W::NODES).map(|node| self.now(node)).max().unwrap_or(START);
        for event in &mut self.reference.events {
            event.looked_expired |= event.expires_at <= latest;
        }
    }

    /// The sessions of a node are gone with it, and its seats, now or when it is found dead.
    pub(super) fn crashed(&mut self, node: usize) {
        self.deaf[node] = 0;
        self.owed.clear();
        self.lingers |= !W::SEATS_DIE_WITH_THEIR_NODE;
        for (device, session) in self.sessions.iter_mut().enumerate() {
            session.take_if(|session| session.node == node);
            let holder = &mut self.reference.devices[device].holder;
            if W::SEATS_DIE_WITH_THEIR_NODE {
                *holder = None;
                self.epoch_is_sure[device] = false;
                // Numbers of what is stored nowhere begin at the clock again.
                self.memories[device].now = 0;
            } else if let Some(holder) = holder.as_mut().filter(|holder| holder.node == node) {
                holder.ghost = true;
            }
        }
    }

    /// Whether a seat is the one that the device has.
    pub(super) fn is_held(&self, device: usize, seat: Option<&Seat>) -> Result<(), Difference> {
        let holder = self.reference.devices[device].holder.as_ref();
        let right = match (holder, seat) {
            (None, None) => true,
            (Some(holder), None) => holder.ghost,
            (None, Some(_)) => false,
            (Some(holder), Some(seat)) => seat.epoch.0 == holder.epoch && seat.session.0 == holder.session,
        };
        if right {
            Ok(())
        } else {
            differ(format!("the seat is {seat:?}; it should be {holder:?}"))
        }
    }

    /// Whose session must be told of what is stored for a device.
    pub(super) fn owes_arrival(&mut self, device: usize, id: EventId) {
        if let Some(holder) = self.reference.devices[device].holder.as_ref().filter(|holder| !holder.ghost) {
            self.owed.push((holder.node, id));
        }
    }

    /// The event that a post asks for.
    pub(super) fn coming(&mut self, node: usize, post: &Post) -> (Coming, NewEvent) {
        let device = post.device % DEVICES;
        self.posted += 1;
        let json: Arc<str> = format!(r#"{{"n":{},"x":"{}"}}"#, self.posted, "x".repeat(post.bytes)).into();
        let coming = Coming {
            device,
            json: Arc::clone(&json),
            urgency: Urgency::ALL[post.urgency % 4],
            require: [Require::Acknowledged, Require::Received, Require::Processed][post.require % 3],
            ttl_secs: post.ttl_secs,
            collapse: post.collapse,
            key: post.key,
            at: self.now(node),
        };
        let key = self.key(device);
        let event = Event {
            tenant: key.tenant,
            device: key.device,
            accepted_at: coming.at,
            ttl: Duration::from_secs(post.ttl_secs),
            urgency: coming.urgency,
            collapse_key: post.collapse.map(|key| format!("k{key}").into()),
            require: coming.require,
            json: Data(json),
        };
        let idempotency = post.key.map(|(key, body)| Idempotency {
            key: [key; 16],
            body: [body; 16],
        });
        (coming, NewEvent { event, idempotency })
    }

    async fn post(&mut self, node: usize, posts: &[Post]) -> Result<(), Difference> {
        let (coming, events): (Vec<_>, Vec<_>) = posts.iter().map(|post| self.coming(node, post)).unzip();
        let answers = self.calls(node).enqueue(events).await;
        if answers.len() != coming.len() {
            return differ(format!("{} posts have {} answers", coming.len(), answers.len()));
        }
        for (coming, answer) in coming.iter().zip(answers) {
            self.answered(node, coming, answer).await?;
        }
        Ok(())
    }

    /// A post has its answer.
    pub(super) async fn answered(&mut self, node: usize, coming: &Coming, answer: Result<Enqueued, StoreError>) -> Result<(), Difference> {
        let mut owed = self.reference.owed(coming);
        if !fits(&owed, &answer) && self.reference.forget_key(coming) {
            owed = self.reference.owed(coming);
        }
        if !fits(&owed, &answer) {
            return differ(format!("{coming:?} is owed {owed:?}, and was answered with {answer:?}"));
        }
        let Ok(done) = answer else { return Ok(()) };
        self.is_held(coming.device, done.seat.as_ref())?;
        match owed {
            Owed::New => {
                let replaced = self.accepted(node, coming, done.id).await?;
                if replaced != done.replaced {
                    return differ(format!("{replaced:?} are replaced; the answer names {:?}", done.replaced));
                }
                self.owes_arrival(coming.device, done.id);
            }
            Owed::Passed => {
                let expected = if done.seat.is_some() {
                    DeliveryState::Accepted
                } else {
                    DeliveryState::NoTarget
                };
                if done.state != expected || done.durability != Durability::None {
                    return differ(format!("what is stored nowhere was answered with {done:?}"));
                }
                self.owes_arrival(coming.device, done.id);
            }
            _ => {}
        }
        Ok(())
    }

    /// An event is stored under that id.
    pub(super) async fn accepted(&mut self, node: usize, coming: &Coming, id: EventId) -> Result<Vec<EventId>, Difference> {
        let (store, key) = (self.world.store(node), self.key(coming.device));
        let located = store.locate(key.tenant, id);
        let right = |place: &crate::domain::Located| place.queue == Some(crate::domain::Queue::of(coming.urgency));
        let Some(place) = located.filter(right) else {
            return differ(format!("the id of {coming:?} names the place {located:?}"));
        };
        let replaced = self.reference.accept(coming, id, place.number)?;
        let seq = match store.delivery(key.tenant, id).await {
            Ok(Some(delivery)) => delivery.seq.0,
            other => return differ(format!("{coming:?} was accepted, and is not there: {other:?}")),
        };
        self.reference.number_in_lane(self.reference.events.len() - 1, seq)?;
        Ok(replaced)
    }

    async fn connect(&mut self, node: usize, device: usize, stale: bool) -> Result<(), Difference> {
        self.session += 1;
        let (at, key, before) = (self.now(node), self.key(device), self.reference.devices[device].clone());
        let is_stale = stale && before.generation > 0;
        let seat = NewSeat {
            session: SessionId(self.session),
            node: self.world.name(node),
            transport: Transport::Xmpps,
            at,
            credential_generation: before.generation - u32::from(is_stale),
            fast: None,
        };
        let claimed = match self.calls(node).store.claim(&key, seat).await {
            Err(StoreError::Conflict(_)) if is_stale && before.present => return Ok(()),
            Err(StoreError::UnknownDevice) if !before.known => return Ok(()),
            Err(StoreError::RemovedDevice) if before.known && !before.present => return Ok(()),
            Ok(claimed) if before.present && !is_stale => claimed,
            other => return differ(format!("a claim for {before:?} was answered with {other:?}")),
        };
        if before.epochs.last().is_some_and(|last| *last >= claimed.epoch.0) {
            return differ(format!("the epoch {} comes after {:?}", claimed.epoch, before.epochs));
        }
        self.is_held(device, claimed.displaced.as_ref())?;
        let waiting = self.reference.size(device).0;
        if claimed.waiting != waiting {
            return differ(format!("{waiting} events wait; a claim says {}", claimed.waiting));
        }
        let device_now = &mut self.reference.devices[device];
        device_now.epochs.push(claimed.epoch.0);
        device_now.holder = Some(Holder {
            epoch: claimed.epoch.0,
            session: self.session,
            node,
            ghost: false,
        });
        self.epoch_is_sure[device] = true;
        self.reference.hasten(device, at);
        self.sessions[device] = Some(Session::new(node, claimed.epoch.0));
        Ok(())
    }

    async fn release(&mut self, node: usize, device: usize, back: usize) -> Result<(), Difference> {
        let before = self.reference.devices[device].clone();
        let epoch = before.epochs.iter().rev().nth(back).copied().unwrap_or(1);
        let released = self.calls(node).release(&before.key, Epoch(epoch), self.now(node)).await;
        let holder = before.holder.filter(|holder| holder.epoch == epoch);
        match released {
            Err(StoreError::UnknownDevice) if !before.known => {}
            Err(StoreError::RemovedDevice) if before.known && !before.present => {}
            Ok(true) if before.present && holder.is_some() => {
                self.reference.devices[device].holder = None;
                self.sessions[device] = None;
            }
            Ok(false) if before.present && holder.as_ref().is_none_or(|holder| holder.ghost) => {}
            other => {
                return differ(format!(
                    "the goodbye of epoch {epoch} was answered with {other:?}; the seat is {holder:?}"
                ));
            }
        }
        Ok(())
    }

    /// What an end asks for: the device that says so, and the rest of it. `None`: nothing was posted yet.
    pub(super) fn ending(&self, node: usize, end: &End) -> Option<(Ending, Settle)> {
        let back = end.event % self.reference.events.len().clamp(1, 12);
        let index = self.reference.events.len().checked_sub(1 + back)?;
        let event = &self.reference.events[index];
        let at = self.now(node);
        let word = |status, retry| {
            Told::new(OutcomeFields {
                status: Some(status),
                retry,
                ..OutcomeFields::default()
            })
            .ok()
            .map(Arc::new)
        };
        let told = match end.what {
            What::Done => word("done", None),
            What::Later => word("later", None),
            What::Again(secs) => word("failed", Some(secs.to_string()).as_deref()),
            _ => None,
        };
        let outcome = match end.what {
            What::Delivered => Outcome::Delivered,
            What::Processed | What::Done => Outcome::Processed,
            What::Rejected => Outcome::Rejected(Reason::DeviceRejected),
            What::Failed => Outcome::Failed(Reason::DeviceFailed),
            What::Cancelled => Outcome::Cancelled,
            What::Expired => Outcome::Expired,
            What::Again(secs) => Outcome::Again {
                after: Duration::from_secs(u64::from(secs)),
                at_next_session: false,
            },
            What::Later => Outcome::Again {
                after: Duration::from_secs(60),
                at_next_session: true,
            },
        };
        let owner = &self.reference.devices[event.device];
        let epoch = owner.epochs.last().filter(|_| end.by_session).map(|epoch| Epoch(*epoch));
        let mut located = self.world.store(node).locate(owner.key.tenant, event.id)?;
        if !end.born && event.number > 0 {
            located.number = event.number;
        }
        let ending = Ending {
            event: index,
            outcome,
            at,
            epoch,
            told: told.clone(),
        };
        let says = (event.device + if end.wrong_device { 1 + index % 3 } else { 0 }) % DEVICES;
        let settle = Settle {
            device: self.key(says),
            id: event.id,
            located,
            outcome,
            at,
            epoch,
            told,
        };
        Some((ending, settle))
    }

    async fn settle(&mut self, node: usize, ends: &[End]) -> Result<(), Difference> {
        let (endings, settles): (Vec<_>, Vec<_>) = ends.iter().filter_map(|end| self.ending(node, end)).unzip();
        let answers = self.calls(node).settle(settles.clone()).await;
        if answers.len() != endings.len() {
            return differ(format!("{} ends have {} answers", endings.len(), answers.len()));
        }
        for ((ending, settle), answer) in endings.iter().zip(settles).zip(answers) {
            self.settled(node, ending, &settle, answer)?;
        }
        Ok(())
    }

    /// An end has its answer.
    pub(super) fn settled(
        &mut self,
        node: usize,
        ending: &Ending,
        settle: &Settle,
        answer: Result<Settled, StoreError>,
    ) -> Result<(), Difference> {
        let event = &self.reference.events[ending.event];
        let is_wrong = self.reference.devices[event.device].key != settle.device;
        let may_be_unknown = is_wrong || (event.may_be_forgotten && !event.waits());
        if may_be_unknown && matches!(answer, Ok(Settled::Unknown)) {
            return Ok(());
        }
        let before = format!("{event:?}");
        let owed = if is_wrong {
            Settled::Unknown
        } else {
            let now = self.now(node);
            self.reference.settle(ending, now)
        };
        match answer {
            Ok(settled) if settled == owed => Ok(()),
            answer => differ(format!(
                "{settle:?} is owed {owed:?}, and was answered with {answer:?}; it was {before}"
            )),
        }
    }

    async fn remove(&mut self, node: usize, device: usize) -> Result<(), Difference> {
        let (now, before) = (self.now(node), self.reference.devices[device].clone());
        match self.world.store(node).remove_device(&before.key, now).await {
            Err(StoreError::UnknownDevice) if !before.known => Ok(()),
            Err(StoreError::RemovedDevice) if before.known && !before.present => Ok(()),
            Ok(seat) if before.present => {
                self.is_held(device, seat.as_ref())?;
                self.reference.remove(device, now);
                self.sessions[device] = None;
                Ok(())
            }
            other => differ(format!("the removal of {before:?} was answered with {other:?}")),
        }
    }

    async fn add(&mut self, node: usize, device: usize) -> Result<(), Difference> {
        let key = self.key(device);
        let added = self
            .world
            .store(node)
            .put_device(&key, DeviceChange::default(), true, self.now(node))
            .await;
        let was_present = self.reference.devices[device].present;
        self.reference.add(device);
        let now = &self.reference.devices[device];
        match added {
            Ok((found, created)) if created != was_present && found.credential_generation == now.generation => Ok(()),
            other => differ(format!("{now:?} was added: {other:?}")),
        }
    }
}

/// Whether an answer is what a post is owed.
fn fits(owed: &Owed, answer: &Result<Enqueued, StoreError>) -> bool {
    match (owed, answer) {
        (Owed::Unknown, Err(StoreError::UnknownDevice)) | (Owed::Removed, Err(StoreError::RemovedDevice)) => true,
        (Owed::Full(count, size), Err(StoreError::QueueFull { events, bytes })) => (count, size) == (events, bytes),
        (Owed::Reused(id), Err(StoreError::KeyReused(first))) => id == first,
        (Owed::Repeat(id, state), Ok(done)) => (EnqueuedKind::Repeat, id, state) == (done.kind, &done.id, &done.state),
        (Owed::New, Ok(done)) => done.kind == EnqueuedKind::New && done.state == DeliveryState::Queued,
        (Owed::Passed, Ok(done)) => done.kind == EnqueuedKind::New,
        _ => false,
    }
}
