//! Groups: one event to several devices. The record comes first, then a copy in the queue of each device, then the record is finished.
//!
//! Whoever accepts a group makes its copies; whoever finds one that was left unfinished makes them again. A copy has its group as its
//! idempotency key, so that each device has one, whoever made it and however often.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Delivery, DeviceKey, Enqueued, Idempotency, NewEvent, Store, StoreError};
use crate::domain::{
    CopyOf, Data, DeliveryState, DeviceId, Durability, Event, EventId, GroupPlace, Reason, Require, TenantId, Timestamp, Urgency, UserId,
};

/// Deliveries of a device that are looked at together, where a copy is looked for.
const DELIVERIES: usize = 200;

/// An event to several devices, as its record has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Where the record is.
    pub place: GroupPlace,
    /// What it says.
    pub record: GroupRecord,
}

/// The record of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRecord {
    /// A short name of the target ([`crate::domain::Target::hash`]).
    pub target: [u8; 6],
    /// The user whose devices they are, when it was posted to a user.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "user")]
    pub user: Option<UserId>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Not to be delivered before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver_at: Option<Timestamp>,
    /// How long it is worth delivering, in milliseconds.
    pub ttl_ms: u64,
    /// How soon it matters.
    pub urgency: Urgency,
    /// What makes a delivery delivered.
    pub require: Require,
    /// A newer event of the same target and key replaces it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collapse_key: Option<String>,
    /// Hashes of its idempotency key and of what was asked for with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<([u8; 16], [u8; 16])>,
    /// At which level its copies were durable when they were made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// Its devices, in order of their ids.
    pub members: Vec<Member>,
    /// What the devices read, until every copy is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<String>,
}

/// A device of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The device.
    #[serde(with = "device")]
    pub device: DeviceId,
    /// What became of its copy.
    pub copy: Copied,
}

/// What became of a copy when it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Copied {
    /// It is still to be made.
    Not,
    /// It is in the queue of the device, under this id.
    To(EventId),
    /// The queue did not take it.
    Failed(Reason),
}

mod device {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::domain::DeviceId;

    pub(super) fn serialize<S: Serializer>(device: &DeviceId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(device.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DeviceId, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

mod user {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::domain::UserId;

    pub(super) fn serialize<S: Serializer>(user: &Option<UserId>, serializer: S) -> Result<S::Ok, S::Error> {
        match user {
            Some(user) => serializer.serialize_str(user.as_str()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<UserId>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// What `begin_group` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// The record is there now.
    New,
    /// The idempotency key belongs to another record.
    Kept {
        /// Where it is.
        place: GroupPlace,
        /// The hash of what was asked for then.
        body: [u8; 16],
    },
}

/// Records of groups. A record and the idempotency key of its group are kept until a state's time after the event's expiry.
#[async_trait]
pub trait Groups: Send + Sync + 'static {
    /// Writes the record of a group whose copies are still to be made, durable as an event is, unless its idempotency key belongs to
    /// another record than the one with the number `over`.
    ///
    /// # Errors
    /// `Conflict` when there is a record at that place already; `NoSpace` as for events.
    async fn begin_group(&self, group: &Group, over: Option<u64>) -> Result<Begun, StoreError>;

    /// The record that an idempotency key belongs to, and the hash of what was asked for with it. `place` says whose key, and in which
    /// bucket.
    async fn group_of_key(&self, place: GroupPlace, key: &[u8; 16]) -> Result<Option<(GroupPlace, [u8; 16])>, StoreError>;

    /// The record at that place.
    async fn group(&self, place: GroupPlace) -> Result<Option<Group>, StoreError>;

    /// Writes what became of all copies, and the receipt of each that failed, in one step. Of two that finish a group the first one
    /// stands.
    async fn finish_group(&self, group: &Group, at: Timestamp) -> Result<(), StoreError>;

    /// Takes an unfinished record back, with its idempotency key: no copy of it was made.
    async fn drop_group(&self, group: &Group) -> Result<(), StoreError>;

    /// Unfinished groups that were accepted before that moment, oldest first, of those that this node looks after.
    async fn unfinished_groups(&self, before: Timestamp, limit: usize) -> Result<Vec<GroupPlace>, StoreError>;

    /// The id of the group there.
    fn group_id(&self, place: GroupPlace) -> EventId;

    /// Whether `id` was made by this store for a group of this tenant, and where its record is.
    fn locate_group(&self, tenant: TenantId, id: EventId) -> Option<GroupPlace>;
}

impl Group {
    /// Whether every copy was made, or could not be.
    pub fn is_finished(&self) -> bool {
        self.record.json.is_none()
    }

    /// From this moment on no copy is delivered any more.
    pub fn expires_at(&self) -> Timestamp {
        let from = self.record.deliver_at.unwrap_or(self.record.accepted_at);
        from.plus(Duration::from_millis(self.record.ttl_ms))
    }

    /// The copies that are still to be made, in the order of the devices.
    pub fn copies(&self) -> Vec<NewEvent> {
        let Some(json) = &self.record.json else { return Vec::new() };
        let json: Arc<str> = json.as_str().into();
        let record = &self.record;
        let of = CopyOf {
            bucket: self.place.bucket,
            number: self.place.number,
            target: record.target,
        };
        let copy = |member: &Member| NewEvent {
            event: Event {
                tenant: self.place.tenant,
                device: member.device.clone(),
                accepted_at: record.accepted_at,
                deliver_at: record.deliver_at,
                ttl: Duration::from_millis(record.ttl_ms),
                urgency: record.urgency,
                collapse_key: record.collapse_key.as_deref().map(|key| of.scoped(key).into()),
                require: record.require,
                json: Data(Arc::clone(&json)),
            },
            idempotency: Some(Idempotency::of_copy(&of)),
        };
        self.open().map(copy).collect()
    }

    fn open(&self) -> impl Iterator<Item = &Member> {
        self.record.members.iter().filter(|member| member.copy == Copied::Not)
    }

    /// Takes in what became of [`Group::copies`].
    ///
    /// # Errors
    /// What kept the store from making one of them: all are to be made again.
    pub fn copied(&mut self, answers: Vec<Result<Enqueued, StoreError>>) -> Result<Made, StoreError> {
        let mut made = Made::default();
        let open = self.record.members.iter_mut().filter(|member| member.copy == Copied::Not);
        for (member, answer) in open.zip(answers) {
            match answer {
                Ok(enqueued) => {
                    member.copy = Copied::To(enqueued.id);
                    made.replaced += enqueued.replaced.len() as u64;
                    made.states.push(enqueued.state);
                    // What holds for all of them: the level of a server may change between two.
                    let weakest = match (made.durability, enqueued.durability) {
                        (Some(Durability::Replicated) | None, level) => level,
                        (Some(level), _) => level,
                    };
                    made.durability = Some(weakest);
                }
                Err(error) => {
                    let reason = match &error {
                        StoreError::QueueFull { .. } => Reason::QueueFull,
                        StoreError::UnknownDevice | StoreError::RemovedDevice => Reason::DeviceRemoved,
                        _ => return Err(error),
                    };
                    made.failed.push(reason);
                    made.states.push(DeliveryState::Failed);
                    made.refused.get_or_insert((member.device.clone(), error));
                    member.copy = Copied::Failed(reason);
                }
            }
        }
        self.record.json = None;
        self.record.durability = made.durability;
        Ok(made)
    }
}

/// What came of the copies of a group.
#[derive(Debug, Default)]
pub struct Made {
    /// Their states now, one each.
    pub states: Vec<DeliveryState>,
    /// At which level they are durable. `None`: no queue took one.
    pub durability: Option<Durability>,
    /// Deliveries of older events that they replaced.
    pub replaced: u64,
    /// Why copies failed that no queue took.
    pub failed: Vec<Reason>,
    /// The first of them, and why.
    pub refused: Option<(DeviceId, StoreError)>,
}

impl Made {
    /// Deliveries that ended by it, to be counted: how, why, and how many.
    pub fn ended(&self) -> impl Iterator<Item = (DeliveryState, Option<Reason>, u64)> {
        let replaced = (self.replaced > 0).then_some((DeliveryState::Replaced, None, self.replaced));
        let failed = self.failed.iter().map(|reason| (DeliveryState::Failed, Some(*reason), 1));
        replaced.into_iter().chain(failed)
    }
}

/// What a group is in as a whole: in the state of the delivery that is least far while one is under way; then `processed` or
/// `delivered` when at least one is that, else how the first of its devices ended.
pub fn state_of_all(states: impl IntoIterator<Item = DeliveryState>) -> DeliveryState {
    use DeliveryState::{Accepted, Delivered, Dispatched, Processed, Queued, Scheduled};
    let states: Vec<DeliveryState> = states.into_iter().collect();
    let order = [Accepted, Scheduled, Queued, Dispatched, Processed, Delivered];
    let found = order.into_iter().find(|state| states.contains(state));
    found.or(states.first().copied()).unwrap_or(DeliveryState::NoTarget)
}

/// What became of the deliveries of a group, in the order of its devices. A delivery that ended so long ago that its state is not kept is
/// left out.
///
/// # Errors
/// As [`super::Mailbox::delivery`].
pub async fn deliveries_of(store: &dyn Store, group: &Group) -> Result<Vec<Delivery>, StoreError> {
    let read = group.record.members.iter().map(|member| async move {
        match member.copy {
            Copied::To(id) => store.delivery(group.place.tenant, id).await,
            Copied::Not => Ok(Some(unmade(store, group, member, DeliveryState::Accepted, None))),
            Copied::Failed(reason) => Ok(Some(unmade(store, group, member, DeliveryState::Failed, Some(reason)))),
        }
    });
    let found = futures_util::future::try_join_all(read).await?;
    Ok(found.into_iter().flatten().collect())
}

/// The delivery that a device has no copy of.
fn unmade(store: &dyn Store, group: &Group, member: &Member, state: DeliveryState, reason: Option<Reason>) -> Delivery {
    let record = &group.record;
    let id = store.group_id(group.place);
    Delivery {
        id,
        group: Some(id),
        device: member.device.clone(),
        state,
        reason,
        late_ack: false,
        told: None,
        replaced_by: None,
        accepted_at: record.accepted_at,
        deliver_at: record.deliver_at,
        expires_at: group.expires_at(),
        ended_at: (state == DeliveryState::Failed).then_some(record.accepted_at),
        urgency: record.urgency,
        lane: crate::domain::Lane::Queue(record.urgency, store.generation()),
        seq: crate::domain::Seq(0),
        attempt: 0,
        session_epoch: None,
        collapse_key: record.collapse_key.as_deref().map(Arc::from),
        require: record.require,
    }
}

/// Makes the copies of a group that was left unfinished, and finishes it. Answers what came of it; `None`: it is finished already.
///
/// # Errors
/// As [`super::Mailbox::enqueue`]: it is still unfinished.
pub async fn complete(store: &dyn Store, place: GroupPlace, now: Timestamp) -> Result<Option<Made>, StoreError> {
    let Some(mut group) = store.group(place).await?.filter(|group| !group.is_finished()) else {
        return Ok(None);
    };
    // The key of a copy that has ended may be free by now: what is there is looked for among the states, too.
    let id = store.group_id(place);
    for member in &mut group.record.members {
        let device = DeviceKey {
            tenant: place.tenant,
            device: member.device.clone(),
        };
        if let Some(copy) = find_copy(store, &device, id, group.record.accepted_at).await? {
            member.copy = Copied::To(copy);
        }
    }
    let copies = group.copies();
    let answers = if copies.is_empty() {
        Vec::new()
    } else {
        store.enqueue(copies).await
    };
    let made = group.copied(answers)?;
    store.finish_group(&group, now).await?;
    Ok(Some(made))
}

/// The copy of a group that a device has, or had.
async fn find_copy(store: &dyn Store, device: &DeviceKey, group: EventId, accepted_at: Timestamp) -> Result<Option<EventId>, StoreError> {
    let mut before = None;
    loop {
        let page = match store.deliveries(device, before, DELIVERIES).await {
            Err(StoreError::UnknownDevice | StoreError::RemovedDevice) => return Ok(None),
            page => page?,
        };
        if let Some(found) = page.iter().find(|delivery| delivery.group == Some(group)) {
            return Ok(Some(found.id));
        }
        match page.last() {
            // Newest first: what comes behind is older.
            Some(last) if page.len() == DELIVERIES && last.accepted_at >= accepted_at => before = Some(last.id),
            _ => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_as_far_as_the_least_of_its_deliveries_and_then_as_the_best() {
        use DeliveryState::{Delivered, Dispatched, Expired, Failed, NoTarget, Processed, Queued, Scheduled};
        for (states, whole) in [
            (vec![Delivered, Queued, Dispatched], Queued),
            (vec![Scheduled, Failed], Scheduled),
            (vec![Expired, Delivered], Delivered),
            (vec![Delivered, Processed], Processed),
            (vec![Failed, Expired], Failed),
            (vec![], NoTarget),
        ] {
            assert_eq!(state_of_all(states.clone()), whole, "{states:?}");
        }
    }
}
