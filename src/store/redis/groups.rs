//! Groups: a record and its idempotency key share a bucket, which the key chooses.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use redis::Value;

use super::{
    RedisStore, Shared,
    keys::{BUCKETS, Slot},
    receipt::NO_FIELD,
    record::{self, OF_GROUP},
    reply::{self, p48},
    script,
    shards::Route,
    shared::json,
};
use crate::{
    domain::{Clock as _, DeliveryState, EventId, GroupPlace, TenantId, Timestamp},
    store::{
        Begun, Copied, Group, Groups, StoreError,
        codec::damaged,
        codes::{reason_code, state_code},
        transfer::Taken,
    },
};

/// Buckets asked at once.
const TOGETHER: usize = 128;
/// In the list of a bucket the score of an unfinished group is the time of its acceptance; that of a finished one is this and the time at which its
/// record goes. Doubles hold both exactly.
const FINISHED: u64 = 1 << 52;

/// The place of a group within its tenant, as records have it.
pub(super) fn group_bytes(place: GroupPlace) -> Vec<u8> {
    [&place.bucket.to_be_bytes()[..], &place.number.to_be_bytes()].concat()
}

/// The name of a group in the list of its bucket.
fn member(place: GroupPlace) -> String {
    format!("{}:{:016x}", place.tenant.0, place.number)
}

/// Reads a [`member`] of that bucket.
fn place_of(bucket: u16, member: &str) -> Option<GroupPlace> {
    let (tenant, number) = member.split_once(':')?;
    Some(GroupPlace {
        tenant: TenantId(tenant.parse().ok()?),
        bucket,
        number: u64::from_str_radix(number, 16).ok()?,
    })
}

/// Reads what an idempotency key stands for: number 8, hash of the body 16.
fn read_kept(place: GroupPlace, row: &[u8]) -> Option<(GroupPlace, [u8; 16])> {
    let (number, body) = row.split_first_chunk()?;
    let number = u64::from_be_bytes(*number);
    Some((GroupPlace { number, ..place }, body.try_into().ok()?))
}

impl Shared {
    /// Until when the record of a group is kept.
    fn group_over_at(&self, group: &Group) -> Timestamp {
        group.expires_at().plus(Duration::from_secs(self.limits.state_kept_secs))
    }

    /// The keys of a group: its record, its idempotency key or the record again, the list of its bucket.
    fn keys_of_group(&self, group: &Group) -> [String; 3] {
        let record = self.keys.group(group.place);
        let key = match &group.record.idempotency {
            Some((key, _)) => self.keys.group_key(group.place, key),
            None => record.clone(),
        };
        [record, key, self.keys.bucket('g', group.place.bucket)]
    }

    fn score(&self, group: &Group) -> u64 {
        if group.is_finished() {
            FINISHED + self.group_over_at(group).0
        } else {
            group.record.accepted_at.0
        }
    }

    /// Writes a record as it is, unless one is there or the idempotency key is another group's.
    async fn write_group(&self, group: &Group, over: Option<u64>) -> Result<Option<Begun>, StoreError> {
        let keys = self.keys_of_group(group);
        let record = json(&group.record)?;
        let until = self.group_over_at(group);
        let kept = group
            .record
            .idempotency
            .map(|(_, body)| [&group.place.number.to_be_bytes()[..], &body].concat());
        let over = over.map(|number| number.to_be_bytes().to_vec());
        let make = |_| {
            let mut cmd = script::GROUP_BEGIN.call(&keys);
            cmd.arg(&record)
                .arg(until.0)
                .arg(member(group.place))
                .arg(self.score(group))
                .arg(kept.as_deref().unwrap_or_default())
                .arg(over.as_deref().unwrap_or_default());
            cmd
        };
        let answer = self.shards.ask(Route::durable(Slot::of_bucket(group.place.bucket)), make).await?;
        let answer = reply::bytes(answer).ok_or_else(|| damaged("the answer to a new group"))?;
        match answer.as_slice() {
            [] => Ok(Some(Begun::New)),
            [0] => Ok(None),
            kept => {
                let (place, body) = read_kept(group.place, kept).ok_or_else(|| damaged("the idempotency key of a group"))?;
                Ok(Some(Begun::Kept { place, body }))
            }
        }
    }

    /// Takes in a group of an export.
    pub(super) async fn import_group(&self, group: &Group) -> Result<Taken, StoreError> {
        match self.write_group(group, None).await? {
            Some(Begun::New) => Ok(Taken::Stored),
            None => Ok(Taken::Present),
            Some(Begun::Kept { .. }) => Err(StoreError::Conflict("two groups have one idempotency key".into())),
        }
    }

    /// All groups of a bucket, for an export.
    pub(super) async fn groups_of(&self, bucket: u16) -> Result<Vec<Group>, StoreError> {
        let mut found = Vec::new();
        for place in self.listed(bucket, None, usize::MAX).await? {
            found.extend(self.read_group(place).await?);
        }
        Ok(found)
    }

    /// Groups in the list of a bucket: all, or the unfinished ones that were accepted before that moment.
    async fn listed(&self, bucket: u16, unfinished_before: Option<Timestamp>, limit: usize) -> Result<Vec<GroupPlace>, StoreError> {
        let key = self.keys.bucket('g', bucket);
        let until = unfinished_before.map_or_else(|| "+inf".to_owned(), |before| format!("({}", before.0));
        let make = |_| {
            let mut cmd = redis::cmd("ZRANGE");
            cmd.arg(&key).arg("-inf").arg(&until).arg("BYSCORE").arg("LIMIT").arg(0);
            cmd.arg(i64::try_from(limit).unwrap_or(-1));
            cmd
        };
        let found = self.shards.ask(Route::read(Slot::of_bucket(bucket)), make).await?;
        let Value::Array(members) = found else { return Ok(Vec::new()) };
        let place = |name| place_of(bucket, &String::from_utf8(reply::bytes(name)?).ok()?);
        let places = members
            .into_iter()
            .map(|name| place(name).ok_or_else(|| damaged("a list of groups")));
        places.collect()
    }

    async fn get_of_group(&self, place: GroupPlace, key: String) -> Result<Option<Vec<u8>>, StoreError> {
        let make = |_| {
            let mut cmd = redis::cmd("GET");
            cmd.arg(&key);
            cmd
        };
        let value = self.shards.ask(Route::read(Slot::of_bucket(place.bucket)), make).await?;
        Ok(reply::bytes(value).filter(|row| !row.is_empty()))
    }

    async fn read_group(&self, place: GroupPlace) -> Result<Option<Group>, StoreError> {
        let Some(row) = self.get_of_group(place, self.keys.group(place)).await? else {
            return Ok(None);
        };
        let record = serde_json::from_slice(&row).map_err(|_| damaged("a group"))?;
        Ok(Some(Group { place, record }))
    }

    /// Drops from the list of a bucket what Redis has dropped by itself.
    pub(super) async fn forget_groups(&self, bucket: u16, now: Timestamp) -> Result<(), StoreError> {
        let key = self.keys.bucket('g', bucket);
        let make = |_| {
            let mut cmd = redis::cmd("ZREMRANGEBYSCORE");
            cmd.arg(&key).arg(FINISHED).arg(FINISHED + now.0);
            cmd
        };
        self.shards.ask(Route::quick(Slot::of_bucket(bucket)), make).await.map(drop)
    }
}

#[async_trait]
impl Groups for RedisStore {
    async fn begin_group(&self, group: &Group, over: Option<u64>) -> Result<Begun, StoreError> {
        match self.shared.write_group(group, over).await? {
            Some(Begun::Kept { place, body }) => {
                // The record of a key is there as long as the key is, unless a server lost it.
                if self.shared.read_group(place).await?.is_none() && over != Some(place.number) {
                    return self.begin_group(group, Some(place.number)).await;
                }
                Ok(Begun::Kept { place, body })
            }
            Some(begun) => Ok(begun),
            // The answer to the first try was lost, or the number is taken.
            None => match self.shared.read_group(group.place).await? {
                Some(there) if there == *group => Ok(Begun::New),
                _ => Err(StoreError::Conflict("there is a group at that place".into())),
            },
        }
    }

    async fn group_of_key(&self, place: GroupPlace, key: &[u8; 16]) -> Result<Option<(GroupPlace, [u8; 16])>, StoreError> {
        let row = self.shared.get_of_group(place, self.shared.keys.group_key(place, key)).await?;
        row.map(|row| read_kept(place, &row).ok_or_else(|| damaged("the idempotency key of a group")))
            .transpose()
    }

    async fn group(&self, place: GroupPlace) -> Result<Option<Group>, StoreError> {
        let now = self.shared.clock.now();
        let found = self.shared.read_group(place).await?;
        Ok(found.filter(|group| !group.is_finished() || now < self.shared.group_over_at(group)))
    }

    async fn finish_group(&self, group: &Group, at: Timestamp) -> Result<(), StoreError> {
        let (shared, place) = (&self.shared, group.place);
        let keys = [
            shared.keys.group(place),
            shared.keys.bucket('g', place.bucket),
            shared.keys.bucket('o', place.bucket),
            shared.keys.bucket('n', place.bucket),
        ];
        let failed = group.record.members.iter().filter_map(|member| match member.copy {
            Copied::Failed(reason) => Some((member, reason)),
            _ => None,
        });
        let receipt = |(member, reason): (&crate::store::Member, _)| {
            let prefix = record::receipt_prefix(place.tenant, Some(0), &member.device);
            let ending = [
                &[state_code(DeliveryState::Failed), reason_code(Some(reason)), OF_GROUP][..],
                &p48(at.0),
                &[0; 6],
            ]
            .concat();
            [&prefix[..], NO_FIELD, &p48(at.0), &ending, &group_bytes(place)].concat()
        };
        let receipts: Vec<Vec<u8>> = failed.map(receipt).collect();
        let record = json(&group.record)?;
        let make = |_| {
            let mut cmd = script::GROUP_FINISH.call(&keys);
            cmd.arg(&record).arg(member(place)).arg(FINISHED).arg(shared.score(group));
            for receipt in &receipts {
                cmd.arg(receipt);
            }
            cmd
        };
        shared.shards.ask(Route::durable(Slot::of_bucket(place.bucket)), make).await?;
        if !receipts.is_empty() {
            shared.touch(place.bucket);
        }
        Ok(())
    }

    async fn drop_group(&self, group: &Group) -> Result<(), StoreError> {
        let keys = self.shared.keys_of_group(group);
        let make = |_| {
            let mut cmd = script::GROUP_DROP.call(&keys);
            cmd.arg(member(group.place)).arg(FINISHED).arg(&group.place.number.to_be_bytes());
            cmd
        };
        let route = Route::durable(Slot::of_bucket(group.place.bucket));
        self.shared.shards.ask(route, make).await.map(drop)
    }

    async fn unfinished_groups(&self, before: Timestamp, limit: usize) -> Result<Vec<GroupPlace>, StoreError> {
        let mine = (0..BUCKETS).filter(|bucket| self.shared.nodes.looks_after(*bucket));
        let found: Vec<Vec<GroupPlace>> = stream::iter(mine)
            .map(|bucket| self.shared.listed(bucket, Some(before), limit))
            .buffer_unordered(TOGETHER)
            .try_collect()
            .await?;
        Ok(found.into_iter().flatten().take(limit).collect())
    }

    fn group_id(&self, place: GroupPlace) -> EventId {
        self.shared.ids.seal_group(place)
    }

    fn locate_group(&self, tenant: TenantId, id: EventId) -> Option<GroupPlace> {
        self.shared.ids.open_group(id).filter(|place| place.tenant == tenant)
    }
}
