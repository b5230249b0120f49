//! Rows of devices and of the store itself.

use fjall::Slice;

use super::key_pack::RecentKeys;
use crate::{
    domain::{Cohort, DeviceId, Epoch, Timestamp, UserId},
    store::{
        Device, StoreError,
        codec::{Decoder, Encoder, damaged},
        codes::{cohort, cohort_code},
    },
};

const VERSION: u8 = 1;

/// What the writer needs of a device's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceHead {
    pub(super) ordinal: u32,
    pub(super) credential_generation: u32,
    pub(super) created_at: Timestamp,
    /// Last change; of a tombstone the removal.
    pub(super) updated_at: Timestamp,
    pub(super) removed: bool,
}

impl DeviceHead {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        Self::take(&mut Decoder::new(bytes, "a device"))
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, StoreError> {
        from.version(VERSION)?;
        Ok(Self {
            removed: from.byte()? != 0,
            ordinal: from.number32()?,
            credential_generation: from.number32()?,
            created_at: Timestamp(from.number()?),
            updated_at: Timestamp(from.number()?),
        })
    }

    fn put(&self, into: &mut Encoder) {
        into.byte(VERSION)
            .byte(u8::from(self.removed))
            .number(u64::from(self.ordinal))
            .number(u64::from(self.credential_generation))
            .number(self.created_at.0)
            .number(self.updated_at.0);
    }

    /// The bytes of a tombstone.
    pub(super) fn tombstone(&self) -> Slice {
        let mut into = Encoder::with_capacity(32);
        self.put(&mut into);
        into.finish().into()
    }
}

pub(super) fn encode_device(device: &Device) -> Result<Slice, StoreError> {
    let json = |e: serde_json::Error| StoreError::Corrupt(e.to_string().into());
    let attributes = serde_json::to_string(&device.attributes).map_err(json)?;
    let credentials = serde_json::to_string(&device.credentials).map_err(json)?;
    let mut into = Encoder::with_capacity(64 + attributes.len() + credentials.len());
    DeviceHead {
        ordinal: device.ordinal,
        credential_generation: device.credential_generation,
        created_at: device.created_at,
        updated_at: device.updated_at,
        removed: false,
    }
    .put(&mut into);
    into.byte(cohort_code(device.cohort));
    into.text(device.user.as_ref().map_or("", |user| user.as_str()))
        .text(&attributes)
        .text(&credentials);
    Ok(into.finish().into())
}

/// Reads a device's row. `None`: a tombstone.
pub(super) fn decode_device(id: DeviceId, bytes: &[u8]) -> Result<Option<Device>, StoreError> {
    let mut from = Decoder::new(bytes, "a device");
    let head = DeviceHead::take(&mut from)?;
    if head.removed {
        return Ok(None);
    }
    let cohort = take_cohort(&mut from)?;
    let user = take_user(&mut from)?;
    Ok(Some(Device {
        id,
        ordinal: head.ordinal,
        user,
        attributes: serde_json::from_str(from.text()?).map_err(|_| damaged("the attributes of a device"))?,
        cohort,
        credentials: serde_json::from_str(from.text()?).map_err(|_| damaged("the credentials of a device"))?,
        credential_generation: head.credential_generation,
        created_at: head.created_at,
        updated_at: head.updated_at,
    }))
}

/// The cohort out of a device's row. `None`: a tombstone.
pub(super) fn decode_cohort(bytes: &[u8]) -> Result<Option<Cohort>, StoreError> {
    let mut from = Decoder::new(bytes, "a device");
    let head = DeviceHead::take(&mut from)?;
    (!head.removed).then(|| take_cohort(&mut from)).transpose()
}

/// The user out of a device's row. `None`: there is none, or it is a tombstone.
pub(super) fn decode_user(bytes: &[u8]) -> Result<Option<UserId>, StoreError> {
    let mut from = Decoder::new(bytes, "a device");
    if DeviceHead::take(&mut from)?.removed {
        return Ok(None);
    }
    take_cohort(&mut from)?;
    take_user(&mut from)
}

fn take_user(from: &mut Decoder<'_>) -> Result<Option<UserId>, StoreError> {
    match from.text()? {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| damaged("a user id")),
    }
}

fn take_cohort(from: &mut Decoder<'_>) -> Result<Cohort, StoreError> {
    cohort(from.byte()?).ok_or_else(|| from.damaged())
}

/// The last numbers that a device was given: never deleted while the device is known, so that none is used twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    /// Last storage number.
    pub(super) number: u64,
    /// Last number of each lane, in the order of `Urgency::ALL`.
    pub(super) seqs: [u64; 4],
    /// Last epoch of its seat.
    pub(super) epoch: Epoch,
    /// Last stored proof of life.
    pub(super) last_seen_at: Option<Timestamp>,
    /// Its last idempotency keys.
    pub(super) keys: RecentKeys,
}

/// The numbers alone: the device's keys have rows.
const NUMBERS_ALONE: u8 = 1;
const NUMBERS_AND_KEYS: u8 = 2;

impl Numbers {
    pub(super) fn encode(&self) -> Slice {
        let mut into = Encoder::with_capacity(40 + 8 * self.keys.refs.len());
        into.byte(NUMBERS_AND_KEYS).number(self.number);
        for seq in self.seqs {
            into.number(seq);
        }
        into.number(self.epoch.0).number(self.last_seen_at.map_or(0, |at| at.0));
        self.keys.encode(self.number, &mut into);
        into.finish().into()
    }

    /// As it was before there were packs.
    #[cfg(test)]
    pub(super) fn encode_alone(&self) -> Vec<u8> {
        let mut into = Encoder::default();
        into.byte(NUMBERS_ALONE).number(self.number);
        for seq in self.seqs {
            into.number(seq);
        }
        into.number(self.epoch.0).number(self.last_seen_at.map_or(0, |at| at.0));
        into.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut from = Decoder::new(bytes, "the numbers of a device");
        let version = from.byte()?;
        let mut numbers = Self {
            number: from.number()?,
            seqs: [from.number()?, from.number()?, from.number()?, from.number()?],
            epoch: Epoch(from.number()?),
            last_seen_at: Some(Timestamp(from.number()?)).filter(|at| at.0 > 0),
            keys: RecentKeys::of_before(),
        };
        match version {
            NUMBERS_ALONE => {}
            NUMBERS_AND_KEYS => numbers.keys = RecentKeys::decode(numbers.number, &mut from)?,
            _ => return Err(from.damaged()),
        }
        Ok(numbers)
    }
}

/// Totals of the store, written with every commit under a rising number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Number of the commit.
    pub(super) commit_no: u64,
    /// Events that wait.
    pub(super) queued: u64,
    /// Bytes of their data.
    pub(super) queued_bytes: u64,
    /// Devices that are not removed.
    pub(super) devices: u64,
    /// Of those, the ones of cohort poll.
    pub(super) polling: u64,
    /// Of those, the ones of cohort control.
    pub(super) control: u64,
}

impl Totals {
    /// A device that was of one cohort is now of another. `None`: it is not there.
    pub(super) fn move_device(&mut self, from: Option<Cohort>, to: Option<Cohort>) {
        for (cohort, change) in [(from, -1), (to, 1)] {
            let Some(cohort) = cohort else { continue };
            self.devices = self.devices.saturating_add_signed(change);
            match cohort {
                Cohort::Push => {}
                Cohort::Poll => self.polling = self.polling.saturating_add_signed(change),
                Cohort::Control => self.control = self.control.saturating_add_signed(change),
            }
        }
    }

    /// Whether a row says how many devices each cohort has: those written before there were polls do not.
    pub(super) fn has_cohorts(bytes: &[u8]) -> Result<bool, StoreError> {
        let mut from = Decoder::new(bytes, "the commit number");
        from.version(VERSION)?;
        for _ in 0..4 {
            from.number()?;
        }
        Ok(!from.rest().is_empty())
    }

    pub(super) fn encode(&self) -> Slice {
        let mut into = Encoder::with_capacity(32);
        into.byte(VERSION)
            .number(self.commit_no)
            .number(self.queued)
            .number(self.queued_bytes)
            .number(self.devices)
            .number(self.polling)
            .number(self.control);
        into.finish().into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut from = Decoder::new(bytes, "the commit number");
        from.version(VERSION)?;
        let mut totals = Self {
            commit_no: from.number()?,
            queued: from.number()?,
            queued_bytes: from.number()?,
            devices: from.number()?,
            ..Self::default()
        };
        if !from.rest().is_empty() {
            totals.polling = from.number()?;
            totals.control = from.number()?;
        }
        Ok(totals)
    }
}

/// What makes this store itself.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) generation: u32,
    pub(super) boot: u32,
    pub(super) id_secret: [u8; 32],
}

impl Identity {
    pub(super) fn encode(&self) -> Slice {
        let mut into = Encoder::with_capacity(48);
        into.byte(VERSION)
            .number(u64::from(self.generation))
            .number(u64::from(self.boot))
            .raw(&self.id_secret);
        into.finish().into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut from = Decoder::new(bytes, "the identity of the store");
        from.version(VERSION)?;
        Ok(Self {
            generation: from.number32()?,
            boot: from.number32()?,
            id_secret: from.array()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::key_pack::KeyRef, *};
    use crate::domain::Queue;

    #[test]
    fn a_device_and_its_tombstone_come_back() {
        let id: DeviceId = "tsn-1".parse().unwrap();
        let device = Device {
            id: id.clone(),
            ordinal: 77,
            user: Some("family-9".parse().unwrap()),
            attributes: serde_json::from_str(r#"{"model":"x","n":{"a":1}}"#).unwrap(),
            cohort: Cohort::Control,
            credentials: vec![],
            credential_generation: 3,
            created_at: Timestamp(5),
            updated_at: Timestamp(9),
        };
        let bytes = encode_device(&device).unwrap();
        assert_eq!(decode_user(&bytes).unwrap(), device.user);
        assert_eq!(decode_device(id.clone(), &bytes).unwrap(), Some(device));
        let head = DeviceHead {
            removed: true,
            ..DeviceHead::decode(&bytes).unwrap()
        };
        assert_eq!(decode_device(id, &head.tombstone()).unwrap(), None);
        assert_eq!(decode_user(&head.tombstone()).unwrap(), None);
        assert_eq!(DeviceHead::decode(&head.tombstone()).unwrap(), head);
    }

    #[test]
    fn numbers_and_totals_come_back() {
        let numbers = Numbers {
            number: 9,
            seqs: [1, 0, u64::MAX, 4],
            epoch: Epoch(3 << 32 | 1),
            last_seen_at: None,
            keys: RecentKeys {
                refs: vec![KeyRef {
                    short: 5,
                    queue: Queue::Rest,
                    number: 8,
                }],
                has_packs: true,
                has_rows: false,
            },
        };
        assert_eq!(Numbers::decode(&numbers.encode()).unwrap(), numbers);
        let before = Numbers::decode(&numbers.encode_alone()).unwrap();
        let keys = RecentKeys::of_before();
        assert_eq!(before, Numbers { keys, ..numbers });
        let totals = Totals {
            commit_no: 5,
            queued: 4,
            queued_bytes: 900,
            devices: 3,
            polling: 2,
            control: 1,
        };
        let row = totals.encode();
        assert_eq!(Totals::decode(&row).unwrap(), totals);
        assert!(Totals::has_cohorts(&row).unwrap());
        // A row of a version before cohorts were counted.
        let old = &row[..row.len() - 2];
        assert!(!Totals::has_cohorts(old).unwrap());
        assert_eq!(Totals::decode(old).unwrap().devices, 3);
    }
}
