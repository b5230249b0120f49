//! Records of groups, their idempotency keys, and which of them are unfinished.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    EmbeddedStore, Shared,
    draft::Draft,
    engine::{Engine, Space},
    keys,
    op::Op,
    positions::next_position,
    receipt::NewReceipt,
    steps::Book,
};
use crate::{
    domain::{DeliveryState, EventId, GroupPlace, TenantId, Timestamp},
    store::{
        Begun, Copied, Group, GroupRecord, Groups, StoreError,
        codec::{Decoder, Encoder, damaged},
        transfer::Taken,
    },
};

const VERSION: u8 = 1;

/// What the writer is asked to do with a group.
pub(super) enum Step {
    Begin(Box<Group>, Option<u64>),
    Finish(Box<Group>, Timestamp),
    Drop(Box<Group>),
}

impl Step {
    /// Rough bytes that it adds to a commit.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Begin(group, _) | Self::Finish(group, _) => {
                256 + group.record.members.len() * 160 + group.record.json.as_ref().map_or(0, String::len)
            }
            Self::Drop(_) => 128,
        }
    }
}

/// What the idempotency key of a group stands for.
struct Kept {
    place: GroupPlace,
    body: [u8; 16],
}

impl Kept {
    fn encode(&self) -> Vec<u8> {
        let mut into = Encoder::with_capacity(32);
        into.byte(VERSION)
            .number(u64::from(self.place.bucket))
            .raw(&self.place.number.to_be_bytes())
            .raw(&self.body);
        into.finish()
    }

    fn decode(tenant: TenantId, bytes: &[u8]) -> Result<Self, StoreError> {
        let mut from = Decoder::new(bytes, "the idempotency key of a group");
        from.version(VERSION)?;
        Ok(Self {
            place: GroupPlace {
                tenant,
                bucket: u16::try_from(from.number()?).map_err(|_| from.damaged())?,
                number: u64::from_be_bytes(from.array()?),
            },
            body: from.array()?,
        })
    }
}

fn encode(record: &GroupRecord) -> Result<Vec<u8>, StoreError> {
    let mut row = vec![VERSION];
    serde_json::to_writer(&mut row, record).map_err(|error| StoreError::Corrupt(error.to_string().into()))?;
    Ok(row)
}

/// Reads the record of a group.
pub(super) fn decode(place: GroupPlace, row: &[u8]) -> Result<Group, StoreError> {
    let json = row.strip_prefix(&[VERSION]).ok_or_else(|| damaged("a group"))?;
    let record = serde_json::from_slice(json).map_err(|_| damaged("a group"))?;
    Ok(Group { place, record })
}

/// From when a record is not kept any more.
pub(super) fn over_at(group: &Group, kept: Duration) -> Timestamp {
    group.expires_at().plus(kept)
}

/// The key of the row of a group's idempotency key, when it has one.
pub(super) fn key_row(group: &Group) -> Option<[u8; 19]> {
    let (key, _) = group.record.idempotency.as_ref()?;
    Some(keys::group_key(group.place.tenant, key))
}

/// Whether the row of an idempotency key is that of this group.
pub(super) fn is_key_of(row: &[u8], group: &Group) -> Result<bool, StoreError> {
    Ok(Kept::decode(group.place.tenant, row)?.place == group.place)
}

impl Book {
    pub(super) fn group(&mut self, draft: &mut Draft<'_>, step: &Step) -> Result<Begun, StoreError> {
        match step {
            Step::Begin(group, over) => self.begin_group(draft, group, *over),
            Step::Finish(group, at) => self.finish_group(draft, group, *at).map(|()| Begun::New),
            Step::Drop(group) => Self::drop_group(draft, group).map(|()| Begun::New),
        }
    }

    fn begin_group(&mut self, draft: &mut Draft<'_>, group: &Group, over: Option<u64>) -> Result<Begun, StoreError> {
        let key = key_row(group);
        if let Some(key) = key
            && let Some(row) = draft.get(Space::Ends, &key)?
        {
            let Kept { place, body } = Kept::decode(group.place.tenant, &row)?;
            if over != Some(place.number) && place != group.place && draft.get(Space::Ends, &keys::group(place))?.is_some() {
                return Ok(Begun::Kept { place, body });
            }
        }
        if !self.shared.writable.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(StoreError::NoSpace);
        }
        if let Some(row) = draft.get(Space::Ends, &keys::group(group.place))? {
            // The step was made before, and its answer lost; or the number is taken.
            return match decode(group.place, &row)? == *group {
                true => Ok(Begun::New),
                false => Err(StoreError::Conflict("there is a group at that place".into())),
            };
        }
        self.write_group(draft, group)?;
        Ok(Begun::New)
    }

    /// Writes a record, with its key and, while it is unfinished, its row among those.
    fn write_group(&mut self, draft: &mut Draft<'_>, group: &Group) -> Result<(), StoreError> {
        draft.put(Space::Ends, keys::group(group.place), encode(&group.record)?);
        if let (Some(key), Some((_, body))) = (key_row(group), group.record.idempotency) {
            let kept = Kept { place: group.place, body };
            draft.put(Space::Ends, key, kept.encode());
        }
        if group.is_finished() {
            draft.remove(Space::Rows, keys::group(group.place));
        } else {
            let accepted_at = group.record.accepted_at.0.to_be_bytes();
            draft.put(Space::Rows, keys::group(group.place), accepted_at.to_vec());
        }
        draft.must_sync();
        Ok(())
    }

    pub(super) fn import_group(&mut self, draft: &mut Draft<'_>, group: &Group) -> Result<Taken, StoreError> {
        if draft.get(Space::Ends, &keys::group(group.place))?.is_some() {
            return Ok(Taken::Present);
        }
        self.write_group(draft, group).map(|()| Taken::Stored)
    }

    fn finish_group(&mut self, draft: &mut Draft<'_>, group: &Group, at: Timestamp) -> Result<(), StoreError> {
        let unfinished = draft.get(Space::Rows, &keys::group(group.place))?;
        if unfinished.is_none() {
            return Ok(());
        }
        self.write_group(draft, group)?;
        for member in &group.record.members {
            let Copied::Failed(reason) = member.copy else { continue };
            let receipt = NewReceipt {
                event: self.shared.ids.seal_group(group.place),
                group: None,
                device: member.device.as_str(),
                state: DeliveryState::Failed,
                reason: Some(reason),
                at,
                epoch: None,
                latency_ms: 0,
                attempt: 1,
                replaced_by: None,
                told: None,
            };
            let tenant = group.place.tenant;
            let position = next_position(draft, &mut self.positions, tenant)?;
            draft.receive(tenant, position, &receipt)?;
        }
        Ok(())
    }

    fn drop_group(draft: &mut Draft<'_>, group: &Group) -> Result<(), StoreError> {
        if draft.get(Space::Rows, &keys::group(group.place))?.is_none() {
            return Ok(());
        }
        draft.remove(Space::Rows, keys::group(group.place));
        draft.remove(Space::Ends, keys::group(group.place));
        if let Some(key) = key_row(group)
            && let Some(row) = draft.get(Space::Ends, &key)?
            && is_key_of(&row, group)?
        {
            draft.remove(Space::Ends, key);
        }
        draft.must_sync();
        Ok(())
    }
}

/// A group whose record is still kept.
pub(super) fn read(shared: &Shared, engine: &Engine, place: GroupPlace, now: Timestamp) -> Result<Option<Group>, StoreError> {
    let Some(row) = engine.get(Space::Ends, &keys::group(place))? else {
        return Ok(None);
    };
    let group = decode(place, &row)?;
    let kept = Duration::from_secs(shared.limits.state_kept_secs);
    Ok(Some(group).filter(|group| !group.is_finished() || now < over_at(group, kept)))
}

#[async_trait]
impl Groups for EmbeddedStore {
    async fn begin_group(&self, group: &Group, over: Option<u64>) -> Result<Begun, StoreError> {
        let step = Step::Begin(Box::new(group.clone()), over);
        self.ask(|answer| Op::Group(step, answer)).await?
    }

    async fn group_of_key(&self, place: GroupPlace, key: &[u8; 16]) -> Result<Option<(GroupPlace, [u8; 16])>, StoreError> {
        self.shared.read(|engine| {
            let row = engine.get(Space::Ends, &keys::group_key(place.tenant, key))?;
            let kept = row.map(|row| Kept::decode(place.tenant, &row)).transpose()?;
            Ok(kept.map(|kept| (kept.place, kept.body)))
        })
    }

    async fn group(&self, place: GroupPlace) -> Result<Option<Group>, StoreError> {
        let now = self.shared.clock.now();
        self.shared.read(|engine| read(&self.shared, engine, place, now))
    }

    async fn finish_group(&self, group: &Group, at: Timestamp) -> Result<(), StoreError> {
        let step = Step::Finish(Box::new(group.clone()), at);
        self.ask(|answer| Op::Group(step, answer)).await?.map(drop)
    }

    async fn drop_group(&self, group: &Group) -> Result<(), StoreError> {
        let step = Step::Drop(Box::new(group.clone()));
        self.ask(|answer| Op::Group(step, answer)).await?.map(drop)
    }

    async fn unfinished_groups(&self, before: Timestamp, limit: usize) -> Result<Vec<GroupPlace>, StoreError> {
        let mut found = self.shared.read(|engine| {
            let mut found = Vec::new();
            for row in engine.prefix(Space::Rows, keys::GROUPS) {
                let (key, value) = row?;
                let accepted_at = <[u8; 8]>::try_from(&*value).map_err(|_| damaged("the time of a group"))?;
                let accepted_at = Timestamp(u64::from_be_bytes(accepted_at));
                if accepted_at < before {
                    let place = keys::read_group(&key).ok_or_else(|| damaged("the key of a group"))?;
                    found.push((accepted_at, place));
                }
            }
            Ok(found)
        })?;
        found.sort_unstable_by_key(|(accepted_at, _)| *accepted_at);
        found.truncate(limit);
        Ok(found.into_iter().map(|(_, place)| place).collect())
    }

    fn group_id(&self, place: GroupPlace) -> EventId {
        self.shared.ids.seal_group(place)
    }

    fn locate_group(&self, tenant: TenantId, id: EventId) -> Option<GroupPlace> {
        self.shared.ids.open_group(id).filter(|place| place.tenant == tenant)
    }
}
