//! Groups in an export.

use serde::{Deserialize, Serialize};

use crate::{
    domain::{GROUP_DEVICES_MAX, GroupPlace, TenantId},
    store::{Group, GroupRecord},
};

/// An event to several devices.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRow {
    /// Whose it is.
    pub tenant: u16,
    /// The bucket of its record.
    pub bucket: u16,
    /// Its number.
    pub number: u64,
    /// Its record.
    pub record: GroupRecord,
}

impl GroupRow {
    /// Whether it can be stored.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    pub fn check(&self) -> Result<(), (String, String)> {
        if self.bucket >= 1024 {
            return Err(("group.bucket".into(), "it must be 0 to 1023".into()));
        }
        let members = &self.record.members;
        let sorted = members.windows(2).all(|pair| matches!(pair, [a, b] if a.device < b.device));
        if !(1..=GROUP_DEVICES_MAX).contains(&members.len()) || !sorted {
            return Err((
                "group.record.members".into(),
                format!("it must have 1 to {GROUP_DEVICES_MAX} devices, sorted, each once"),
            ));
        }
        Ok(())
    }

    pub(in crate::store) fn of(group: Group) -> Self {
        Self {
            tenant: group.place.tenant.0,
            bucket: group.place.bucket,
            number: group.place.number,
            record: group.record,
        }
    }

    pub(in crate::store) fn group(&self) -> Group {
        Group {
            place: GroupPlace {
                tenant: TenantId(self.tenant),
                bucket: self.bucket,
                number: self.number,
            },
            record: self.record.clone(),
        }
    }
}
