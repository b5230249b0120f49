//! Rows of devices: what scripts compare has fixed places, the rest is for the registry.
//!
//! Version 1, removed 1, ordinal 4, generation of the credentials 4, created at 6, updated at 6; then, of a device that is there,
//! last storage number of an earlier device of that id, cohort, user, attributes, credentials.

use super::reply::{p48, u48};
use crate::{
    domain::{DeviceId, Timestamp},
    store::{
        Device, StoreError,
        codec::{Decoder, Encoder, damaged},
        codes::{cohort, cohort_code},
    },
};

const VERSION: u8 = 1;
const FIXED: usize = 22;

/// The part of a row that every device has, removed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) ordinal: u32,
    pub(super) credential_generation: u32,
    pub(super) created_at: Timestamp,
    /// Last change; of a tombstone the removal.
    pub(super) updated_at: Timestamp,
    pub(super) removed: bool,
}

impl Head {
    pub(super) fn read(row: &[u8]) -> Result<Self, StoreError> {
        let read = || -> Option<Self> {
            let head = row.get(..FIXED).filter(|head| head.first() == Some(&VERSION))?;
            Some(Self {
                removed: *head.get(1)? != 0,
                ordinal: u32::from_be_bytes(head.get(2..6)?.try_into().ok()?),
                credential_generation: u32::from_be_bytes(head.get(6..10)?.try_into().ok()?),
                created_at: Timestamp(u48(head.get(10..16)?)?),
                updated_at: Timestamp(u48(head.get(16..22)?)?),
            })
        };
        read().ok_or_else(|| damaged("a device"))
    }

    /// The bytes of a tombstone, or what a row begins with.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED);
        bytes.push(VERSION);
        bytes.push(u8::from(self.removed));
        bytes.extend_from_slice(&self.ordinal.to_be_bytes());
        bytes.extend_from_slice(&self.credential_generation.to_be_bytes());
        bytes.extend_from_slice(&p48(self.created_at.0));
        bytes.extend_from_slice(&p48(self.updated_at.0));
        bytes
    }
}

/// A device, and the last number of an earlier one of its id.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) device: Device,
    pub(super) begins_behind: u64,
}

impl Row {
    pub(super) fn encode(&self) -> Result<Vec<u8>, StoreError> {
        let json = |error: serde_json::Error| StoreError::Corrupt(error.to_string().into());
        let device = &self.device;
        let attributes = serde_json::to_string(&device.attributes).map_err(json)?;
        let credentials = serde_json::to_string(&device.credentials).map_err(json)?;
        let head = Head {
            ordinal: device.ordinal,
            credential_generation: device.credential_generation,
            created_at: device.created_at,
            updated_at: device.updated_at,
            removed: false,
        };
        let mut into = Encoder::with_capacity(48 + attributes.len() + credentials.len());
        into.raw(&head.encode())
            .number(self.begins_behind)
            .byte(cohort_code(device.cohort))
            .text(device.user.as_ref().map_or("", |user| user.as_str()))
            .text(&attributes)
            .text(&credentials);
        Ok(into.finish())
    }

    /// Reads a row. `None`: a tombstone.
    pub(super) fn decode(id: DeviceId, bytes: &[u8]) -> Result<Option<Self>, StoreError> {
        let head = Head::read(bytes)?;
        if head.removed {
            return Ok(None);
        }
        let mut from = Decoder::new(bytes.get(FIXED..).unwrap_or_default(), "a device");
        let begins_behind = from.number()?;
        let cohort = cohort(from.byte()?).ok_or_else(|| from.damaged())?;
        let user = match from.text()? {
            "" => None,
            text => Some(text.parse().map_err(|_| damaged("a user id"))?),
        };
        Ok(Some(Self {
            device: Device {
                id,
                ordinal: head.ordinal,
                user,
                attributes: serde_json::from_str(from.text()?).map_err(|_| damaged("the attributes of a device"))?,
                cohort,
                credentials: serde_json::from_str(from.text()?).map_err(|_| damaged("the credentials of a device"))?,
                credential_generation: head.credential_generation,
                created_at: head.created_at,
                updated_at: head.updated_at,
            },
            begins_behind,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Cohort;

    #[test]
    fn a_row_and_its_tombstone_come_back() {
        let id: DeviceId = "tsn-1".parse().unwrap();
        let row = Row {
            device: Device {
                id: id.clone(),
                ordinal: 77,
                user: Some("family-9".parse().unwrap()),
                attributes: serde_json::from_str(r#"{"model":"x","n":{"a":1}}"#).unwrap(),
                cohort: Cohort::Control,
                credentials: vec![],
                credential_generation: 3,
                created_at: Timestamp(5),
                updated_at: Timestamp(9),
            },
            begins_behind: 300,
        };
        let bytes = row.encode().unwrap();
        let found = Row::decode(id.clone(), &bytes).unwrap().unwrap();
        assert_eq!((found.device, found.begins_behind), (row.device, 300));
        let tombstone = Head {
            removed: true,
            ..Head::read(&bytes).unwrap()
        };
        assert_eq!(Head::read(&tombstone.encode()).unwrap(), tombstone);
        assert!(Row::decode(id.clone(), &tombstone.encode()).unwrap().is_none());
        assert!(Row::decode(id, b"\x01").is_err());
    }
}
