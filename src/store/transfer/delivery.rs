//! The row of a delivery, and whether it can be one of its device.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    DeviceRow, NUMBER_MAX,
    forms::{hex, text, text_or_none},
};
use crate::{
    domain::{
        DeliveryState, DeviceId, Epoch, EventId, EventIdKey, GroupPlace, Located, Queue, Reason, Require, Seq, Timestamp, Told, Urgency,
    },
    store::StoreError,
};

/// One event for one device: what waits, how it ended, or both where it waits once more.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveryRow {
    /// The event; it names the place where it was born.
    #[serde(with = "text")]
    pub id: EventId,
    /// The device.
    #[serde(with = "text")]
    pub device: DeviceId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Not to be delivered before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver_at: Option<Timestamp>,
    /// Until when it may be delivered.
    pub expires_at: Timestamp,
    /// How soon it matters.
    pub urgency: Urgency,
    /// What makes it delivered.
    pub require: Require,
    /// Its number in its lane. 0: none yet, it is scheduled.
    pub seq: Seq,
    /// Which delivery of it this is. 0: none yet, it is scheduled.
    pub attempt: u32,
    /// A newer event of the same key replaces it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collapse_key: Option<String>,
    /// Its idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<IdempotencyRow>,
    /// How it ended; while it waits again, why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// What waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<Waits>,
}

/// An idempotency key, as hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdempotencyRow {
    /// Of the key.
    #[serde(with = "hex")]
    pub key: [u8; 16],
    /// Of the body. None: its time is over, and the key is free.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "body")]
    pub body: Option<[u8; 16]>,
    /// The event is a copy, and the key names its group.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_copy: bool,
}

mod body {
    use serde::{Deserializer, Serializer};

    use super::hex;

    pub(super) fn serialize<S: Serializer>(body: &Option<[u8; 16]>, serializer: S) -> Result<S::Ok, S::Error> {
        match body {
            Some(body) => hex::serialize(body, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[u8; 16]>, D::Error> {
        hex::deserialize(deserializer).map(Some)
    }
}

/// How an event ended, or with the state `queued` why it waits again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// The state.
    pub state: DeliveryState,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// When.
    pub at: Timestamp,
    /// The seat that reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_epoch: Option<Epoch>,
    /// The event that replaced it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text_or_none")]
    pub replaced_by: Option<EventId>,
    /// An acknowledgement came after the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late_ack: bool,
    /// What the device says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
}

/// An event that waits.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waits {
    /// Its storage number now, when it is not the one with which it was born.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// It waits for that moment to be put at the tail, for the first time or again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// Or for the next session of its device.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_next_session: bool,
    /// What the device reads: CloudEvents JSON, byte for byte.
    pub data: Box<RawValue>,
}

/// What replaced an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum ReplacedBy {
    /// An event of the same device: its queue, and the number under which it was born.
    Event(Queue, u64),
    /// A copy of the group there.
    Group(GroupPlace),
}

impl DeliveryRow {
    /// From when it can be delivered.
    pub(in crate::store) fn deliverable_from(&self) -> Timestamp {
        self.deliver_at.unwrap_or(self.accepted_at)
    }

    /// Whether it can be stored with that device: `ids` made the ids of the exported store.
    ///
    /// # Errors
    /// `Conflict`, with what does not fit.
    pub fn check(&self, ids: &EventIdKey, device: &DeviceRow) -> Result<(), StoreError> {
        self.place(ids, device)?;
        self.replacement(ids).map(|_| ())
    }

    /// Where it was born, opened by the key of the store that is imported.
    ///
    /// # Errors
    /// What does not fit, for whoever wrote the row.
    pub(in crate::store) fn place(&self, ids: &EventIdKey, device: &DeviceRow) -> Result<(Queue, u64), StoreError> {
        let wrong = |why: String| StoreError::Conflict(format!("the delivery {} {why}", self.id).into());
        let located = ids
            .open(self.id)
            .ok_or_else(|| wrong("has an id that the exported store did not make".into()))?;
        let Located {
            tenant, ordinal, queue, ..
        } = located;
        if (tenant.0, ordinal, &self.device) != (device.tenant, device.ordinal, &device.id) {
            return Err(wrong(format!("is not of the device {}, which it follows", device.id)));
        }
        if queue != Some(Queue::of(self.urgency)) {
            return Err(wrong(format!("has an id of another urgency than {}", self.urgency)));
        }
        if self.seq.0 > NUMBER_MAX
            || self
                .waits
                .as_ref()
                .and_then(|waits| waits.number)
                .is_some_and(|now| now > NUMBER_MAX)
        {
            return Err(wrong(format!("has a number above {NUMBER_MAX}")));
        }
        if self.collapse_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 255) {
            return Err(wrong("has a collapse key that is empty or longer than 255 bytes".into()));
        }
        if self.attempt == 0 && self.waits.as_ref().is_some_and(|waits| waits.due.is_none()) {
            return Err(wrong("is scheduled, and for no moment".into()));
        }
        let waits_again = self.ended.as_ref().map(|ended| ended.state == DeliveryState::Queued);
        match (&self.waits, waits_again) {
            (Some(_), None | Some(true)) | (None, Some(false)) => Ok((Queue::of(self.urgency), located.number)),
            (None, None) => Err(wrong("neither waits nor has ended".into())),
            _ => Err(wrong("waits and has ended".into())),
        }
    }

    /// The place of what replaced it.
    pub(in crate::store) fn replacement(&self, ids: &EventIdKey) -> Result<Option<ReplacedBy>, StoreError> {
        let Some(id) = self.ended.as_ref().and_then(|ended| ended.replaced_by) else {
            return Ok(None);
        };
        let event = ids
            .open(id)
            .and_then(|located| Some(ReplacedBy::Event(located.queue?, located.number)));
        let by = event.or_else(|| ids.open_group(id).map(ReplacedBy::Group));
        let wrong = || {
            StoreError::Conflict(
                format!(
                    "the delivery {} was replaced by an id that the exported store did not make",
                    self.id
                )
                .into(),
            )
        };
        by.ok_or_else(wrong).map(Some)
    }
}
