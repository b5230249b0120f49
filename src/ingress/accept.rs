//! Acceptance: events that passed every check go into the store, in the order in which they came.
//!
//! An event to one device is one step of the store. One to several devices is a group: its record first, then its copies together with
//! the other events, then the record once more. Whatever dies in between, `dispatch` completes the group later.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::rand;
use futures_util::future::join_all;

use super::Parts;
use crate::{
    domain::{
        Caller, DeliveryState, DeviceId, Durability, EventId, GROUP_DEVICES_MAX, GroupPlace, Reason, Refusal, Target, TenantId, UserId,
    },
    store::{
        Begun, DeviceKey, Enqueued, EnqueuedKind, Group, GroupRecord, Member, NewEvent, Registered, StoreError,
        group::{self, Copied, Made, state_of_all},
    },
};

/// Bytes of events after which a part for the store ends.
const PART_BYTES: usize = 2 * 1024 * 1024;

/// An event that passed every check of its form.
#[derive(Debug, Clone)]
pub(super) enum New {
    /// To one device.
    One(NewEvent),
    /// To several.
    Several(Box<Several>),
}

/// An event to several devices, which are still to be found.
#[derive(Debug, Clone)]
pub(super) struct Several {
    pub tenant: TenantId,
    pub target: Target,
    /// What its record will say; without its devices.
    pub record: GroupRecord,
}

/// An event that is stored, now or, as a repeat, before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accepted {
    pub id: EventId,
    pub is_repeat: bool,
    pub state: DeliveryState,
    pub durability: Durability,
}

/// Counts deliveries that ended at acceptance: replaced by a newer event, or failed because no queue took them.
pub type CountEnded = Arc<dyn Fn(DeliveryState, Option<Reason>, u64) + Send + Sync>;

impl New {
    /// Deliveries that it is counted with before its devices are found.
    pub fn deliveries(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Several(several) => match &several.target {
                Target::Devices(devices) => devices.len(),
                Target::Device(_) | Target::User(_) => 1,
            },
        }
    }
}

/// An event whose copies, or which itself, go to the store next.
enum Step {
    /// It itself, to that device.
    One(DeviceId),
    /// The copies of a group that has begun.
    Group(Box<Group>),
    /// Events with a TTL of 0, of which no record is kept.
    Pass(EventId),
    /// Nothing: it is known what becomes of it.
    Done(Result<Accepted, Refusal>),
}

/// What events came in. Those of requests with one are shed while they wait too long; requests with many wait for room instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestOf {
    One,
    Many,
}

impl Parts {
    /// Stores them in order. One answer each, in order.
    pub(super) async fn accept(&self, caller: &Caller, news: Vec<New>, of: RequestOf) -> Vec<Result<Accepted, Refusal>> {
        let several = news.iter().filter_map(|new| match new {
            New::One(_) => None,
            New::Several(several) => Some(self.begin(caller, several)),
        });
        let mut begun = join_all(several).await.into_iter();
        let (mut steps, mut events) = (Vec::with_capacity(news.len()), Vec::with_capacity(news.len()));
        for new in news {
            match new {
                New::One(new) => {
                    steps.push((Step::One(new.event.device.clone()), 1));
                    events.push(new);
                }
                New::Several(_) => match begun.next() {
                    Some(Ok((step, copies))) => {
                        steps.push((step, copies.len()));
                        events.extend(copies);
                    }
                    Some(Err(refusal)) => steps.push((Step::Done(Err(refusal)), 0)),
                    None => {}
                },
            }
        }
        let (mut answers, mut away) = (self.enqueue(events, of).await.into_iter(), None);
        let (mut accepted, mut finishing) = (Vec::with_capacity(steps.len()), Vec::new());
        for (step, count) in steps {
            let mut of_step = answers.by_ref().take(count);
            let answer = match step {
                Step::Done(answer) => answer,
                Step::One(device) => self.stored(&device, of_step.next(), &mut away),
                Step::Pass(id) => Ok(passed(id, of_step)),
                Step::Group(group) => {
                    finishing.push((accepted.len(), self.finish(*group, of_step.collect())));
                    Err(Refusal::Internal("a group is not finished".into()))
                }
            };
            accepted.push(answer);
        }
        let (places, finishing): (Vec<usize>, Vec<_>) = finishing.into_iter().unzip();
        for (place, finished) in places.into_iter().zip(join_all(finishing).await) {
            if let Some(answer) = accepted.get_mut(place) {
                *answer = finished;
            }
        }
        accepted
    }

    /// Stores them in order, in parts that a commit of the store can be: copies multiply the bytes of a request.
    async fn enqueue(&self, events: Vec<NewEvent>, of: RequestOf) -> Vec<Result<Enqueued, StoreError>> {
        let mut answers = Vec::with_capacity(events.len());
        let mut left = events.into_iter().peekable();
        while left.peek().is_some() {
            let mut bytes = 0;
            let part: Vec<NewEvent> = std::iter::from_fn(|| {
                left.next_if(|new| {
                    let fits = bytes < PART_BYTES;
                    bytes += if fits { new.event.json.0.len() } else { 0 };
                    fits
                })
            })
            .collect();
            let _waiting = (of == RequestOf::One).then(|| self.throttle.shed.wait(part.len()));
            answers.extend(self.store.enqueue(part).await);
        }
        answers
    }

    /// What the answer of the store means for an event to one device. `away` keeps what is said of a store that is not available: one
    /// line of the log is enough for all.
    fn stored(
        &self,
        device: &DeviceId,
        answer: Option<Result<Enqueued, StoreError>>,
        away: &mut Option<Refusal>,
    ) -> Result<Accepted, Refusal> {
        match answer {
            None => Err(Refusal::Internal("the store gave no answer".into())),
            Some(Ok(enqueued)) => {
                let accepted = Accepted {
                    id: enqueued.id,
                    is_repeat: enqueued.kind == EnqueuedKind::Repeat,
                    state: enqueued.state,
                    durability: enqueued.durability,
                };
                if !accepted.is_repeat {
                    self.metrics.accepted(&accepted);
                    if !enqueued.replaced.is_empty() {
                        (self.ended)(DeliveryState::Replaced, None, enqueued.replaced.len() as u64);
                    }
                }
                Ok(accepted)
            }
            Some(Err(error @ StoreError::Unavailable(_))) => Err(away.get_or_insert_with(|| error.refusal(device)).clone()),
            Some(Err(error)) => Err(error.refusal(device)),
        }
    }

    /// Writes the record of a group, and answers the copies that are to be made.
    async fn begin(&self, caller: &Caller, several: &Several) -> Result<(Step, Vec<NewEvent>), Refusal> {
        let Several { tenant, target, record } = several;
        let place = place(*tenant, record)?;
        let devices = match self.expand(*tenant, target).await {
            Ok(devices) => devices,
            // A repeat is answered as the first time was, whatever became of the devices.
            Err(refusal) => return self.known(place, record, refusal).await,
        };
        let deliveries = devices.len();
        self.throttle.rates.take(caller, deliveries as u64, Instant::now())?;
        let members = devices.into_iter().map(|device| Member { device, copy: Copied::Not });
        let mut group = Group {
            place,
            record: GroupRecord {
                members: members.collect(),
                ..record.clone()
            },
        };
        if group.record.ttl_ms == 0 {
            let copies = group.copies().into_iter().map(|copy| NewEvent { idempotency: None, ..copy });
            return Ok((Step::Pass(self.store.group_id(place)), copies.collect()));
        }
        let mut over = None;
        // Twice at most: an idempotency key whose group has ended is free.
        for _ in 0..2 {
            match self.store.begin_group(&group, over).await {
                Ok(Begun::New) => {
                    let copies = group.copies();
                    return Ok((Step::Group(Box::new(group)), copies));
                }
                Ok(Begun::Kept { place: kept, body }) => match self.repeat(kept, body, &group.record).await? {
                    Some(accepted) => return Ok((Step::Done(Ok(accepted)), Vec::new())),
                    None => over = Some(kept.number),
                },
                Err(error) => return Err(error.refusal_of_all()),
            }
            group.place.number = random()?;
        }
        Err(Refusal::Unavailable {
            retry_after: Duration::from_secs(1),
        })
    }

    /// The answer to a repeat whose devices cannot be found any more; else the refusal.
    async fn known(&self, place: GroupPlace, record: &GroupRecord, refusal: Refusal) -> Result<(Step, Vec<NewEvent>), Refusal> {
        let Some((key, _)) = &record.idempotency else { return Err(refusal) };
        let kept = self.store.group_of_key(place, key).await.map_err(StoreError::refusal_of_all)?;
        let Some((kept, body)) = kept else { return Err(refusal) };
        let accepted = self.repeat(kept, body, record).await?;
        Ok((Step::Done(accepted.ok_or(refusal)), Vec::new()))
    }

    /// What is said to a repeat of the group there. `None`: its key is free again.
    async fn repeat(&self, place: GroupPlace, body: [u8; 16], asked: &GroupRecord) -> Result<Option<Accepted>, Refusal> {
        let store = &*self.store;
        let Some(mut kept) = store.group(place).await.map_err(StoreError::refusal_of_all)? else {
            return Ok(None);
        };
        if !kept.is_finished() {
            // Whoever began it died, or is still about it: made twice, a copy is the same.
            let now = self.clock.now();
            let completed = group::complete(store, place, now).await.map_err(StoreError::refusal_of_all)?;
            completed.iter().for_each(|made| self.count(made));
            let Some(again) = store.group(place).await.map_err(StoreError::refusal_of_all)? else {
                return Ok(None);
            };
            kept = again;
        }
        let deliveries = group::deliveries_of(store, &kept).await.map_err(StoreError::refusal_of_all)?;
        let waits = |state| matches!(state, DeliveryState::Accepted | DeliveryState::Scheduled | DeliveryState::Queued);
        let kept_for = Duration::from_secs(self.limits.idempotency_kept_secs);
        let is_over = self.clock.now() >= kept.record.accepted_at.plus(kept_for);
        if is_over && !deliveries.iter().any(|delivery| waits(delivery.state)) {
            return Ok(None);
        }
        let id = store.group_id(place);
        if asked.idempotency.is_none_or(|(_, asked)| asked != body) {
            return Err(Refusal::KeyReused { original: id });
        }
        Ok(Some(Accepted {
            id,
            is_repeat: true,
            state: state_of_all(deliveries.iter().map(|delivery| delivery.state)),
            durability: kept.record.durability.unwrap_or(Durability::None),
        }))
    }

    /// Writes what became of the copies of a group.
    async fn finish(&self, mut group: Group, answers: Vec<Result<Enqueued, StoreError>>) -> Result<Accepted, Refusal> {
        let store = &*self.store;
        let may_be_stored = |answer: &Result<Enqueued, StoreError>| matches!(answer, Ok(_) | Err(StoreError::Unavailable(_)));
        let is_nowhere = !answers.iter().any(may_be_stored);
        let began = group.clone();
        let made = match group.copied(answers) {
            Ok(made) => made,
            Err(error) => {
                if is_nowhere {
                    store.drop_group(&began).await.map_err(StoreError::refusal_of_all)?;
                    return Err(error.refusal_of_all());
                }
                // Some are stored, and the rest will be.
                let why = StoreError::Unavailable(error.to_string().into());
                return Err(why.refusal_of_all());
            }
        };
        let Some(durability) = made.durability else {
            // No queue took it: that is said at once, and nothing is kept.
            store.drop_group(&began).await.map_err(StoreError::refusal_of_all)?;
            let missing = || Refusal::Internal("the store gave no answer".into());
            return Err(made.refused.map_or_else(missing, |(device, error)| error.refusal(&device)));
        };
        store
            .finish_group(&group, self.clock.now())
            .await
            .map_err(StoreError::refusal_of_all)?;
        let accepted = Accepted {
            id: store.group_id(group.place),
            is_repeat: false,
            state: state_of_all(made.states.iter().copied()),
            durability,
        };
        self.metrics.accepted(&accepted);
        self.count(&made);
        Ok(accepted)
    }

    /// Counts the deliveries that ended when the copies of a group were made.
    fn count(&self, made: &Made) {
        made.ended().for_each(|(state, reason, by)| (self.ended)(state, reason, by));
    }

    /// The devices of a target, in order of their ids; each is there.
    pub(super) async fn expand(&self, tenant: TenantId, target: &Target) -> Result<Vec<DeviceId>, Refusal> {
        match target {
            Target::Device(device) => self.present(tenant, device).await.map(|()| vec![device.clone()]),
            Target::Devices(devices) => {
                let looked = join_all(devices.iter().map(|device| self.present(tenant, device))).await;
                looked.into_iter().collect::<Result<Vec<()>, _>>()?;
                Ok(devices.clone())
            }
            Target::User(user) => self.devices_of(tenant, user).await,
        }
    }

    async fn devices_of(&self, tenant: TenantId, user: &UserId) -> Result<Vec<DeviceId>, Refusal> {
        let found = self.store.devices_of(tenant, user, None, GROUP_DEVICES_MAX + 1).await;
        let found = found.map_err(StoreError::refusal_of_all)?;
        match found.len() {
            0 => Err(Refusal::UnknownUser(user.clone())),
            count if count > GROUP_DEVICES_MAX => Err(Refusal::TooManyTargets { limit: GROUP_DEVICES_MAX }),
            _ => Ok(found.into_iter().map(|device| device.id).collect()),
        }
    }

    async fn present(&self, tenant: TenantId, device: &DeviceId) -> Result<(), Refusal> {
        let key = DeviceKey {
            tenant,
            device: device.clone(),
        };
        match self.store.device(&key).await {
            Ok(Registered::Present(_)) => Ok(()),
            Ok(Registered::Removed(_)) => Err(Refusal::RemovedDevice(key.device)),
            Ok(Registered::Unknown) => Err(Refusal::UnknownDevice(key.device)),
            Err(error) => Err(error.refusal(&key.device)),
        }
    }

    /// `validate_only`: everything is checked but the room in the queues, and nothing is stored. Answers how many devices it has.
    pub(super) async fn look(&self, new: &New) -> Result<usize, Refusal> {
        match new {
            New::One(new) => self.present(new.event.tenant, &new.event.device).await.map(|()| 1),
            New::Several(several) => Ok(self.expand(several.tenant, &several.target).await?.len()),
        }
    }
}

/// An event of TTL 0 to several devices.
fn passed(id: EventId, mut answers: impl Iterator<Item = Result<Enqueued, StoreError>>) -> Accepted {
    let is_with_a_session = answers.any(|answer| answer.is_ok_and(|enqueued| enqueued.state == DeliveryState::Accepted));
    Accepted {
        id,
        is_repeat: false,
        state: if is_with_a_session {
            DeliveryState::Accepted
        } else {
            DeliveryState::NoTarget
        },
        durability: Durability::None,
    }
}

/// Where the record of a new group goes: with an idempotency key where that one leads.
fn place(tenant: TenantId, record: &GroupRecord) -> Result<GroupPlace, Refusal> {
    let number = random()?;
    let head = record
        .idempotency
        .map_or(number.to_be_bytes(), |(key, _)| (u128::from_be_bytes(key) as u64).to_be_bytes());
    let [first, second, ..] = head;
    Ok(GroupPlace {
        tenant,
        bucket: u16::from_be_bytes([first, second]) & 0x3ff,
        number,
    })
}

fn random() -> Result<u64, Refusal> {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).map_err(|_| Refusal::Internal("no random bytes".into()))?;
    Ok(u64::from_be_bytes(bytes))
}
