//! An event to several devices is a **group**: a record, and a copy of the event in the queue of each device.

use data_encoding::BASE64URL_NOPAD;

use super::{DeviceId, TenantId, UserId, sha256};

/// The most devices of a group.
pub const GROUP_DEVICES_MAX: usize = 64;

/// To whom an event goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One device.
    Device(DeviceId),
    /// Several: sorted, each once, 1 to [`GROUP_DEVICES_MAX`].
    Devices(Vec<DeviceId>),
    /// The devices that this user has when the event is accepted.
    User(UserId),
}

impl Target {
    /// What the target is made of: equal lists are the same target. It is the scope of idempotency and collapse keys.
    pub fn parts(&self) -> Vec<&str> {
        match self {
            Self::Device(device) => vec![device.as_str()],
            Self::Devices(devices) => ["devices"].into_iter().chain(devices.iter().map(DeviceId::as_str)).collect(),
            Self::User(user) => vec!["user", user.as_str()],
        }
    }

    /// A short name of it, for [`CopyOf`].
    pub fn hash(&self) -> [u8; 6] {
        let mut text = String::new();
        for part in self.parts() {
            // No part has a line break.
            text.push_str(part);
            text.push('\n');
        }
        let mut short = [0; 6];
        for (byte, hashed) in short.iter_mut().zip(sha256(text.as_bytes())) {
            *byte = hashed;
        }
        short
    }
}

/// Where the record of a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupPlace {
    /// Whose it is.
    pub tenant: TenantId,
    /// The bucket of the record, below 1024.
    pub bucket: u16,
    /// A random number.
    pub number: u64,
}

/// What a copy knows of its group: the place of the record, and a name of the target.
///
/// It is the copy's idempotency key, so that a device never has two copies of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyOf {
    /// The bucket of the record.
    pub bucket: u16,
    /// Its number.
    pub number: u64,
    /// [`Target::hash`].
    pub target: [u8; 6],
}

/// What the collapse key of a copy begins with in the store. No collapse key has a control character.
const MARK: char = '\u{1}';
/// Behind it, a name of the target.
const NAMED: usize = 8;

impl CopyOf {
    /// The key: bucket 2, number 8, target 6.
    pub fn key(&self) -> [u8; 16] {
        let mut key = [0; 16];
        key[..2].copy_from_slice(&self.bucket.to_be_bytes());
        key[2..10].copy_from_slice(&self.number.to_be_bytes());
        key[10..].copy_from_slice(&self.target);
        key
    }

    /// Reads a [`CopyOf::key`].
    pub fn of_key(key: [u8; 16]) -> Self {
        let [b0, b1, n @ .., t0, t1, t2, t3, t4, t5] = key;
        Self {
            bucket: u16::from_be_bytes([b0, b1]),
            number: u64::from_be_bytes(n),
            target: [t0, t1, t2, t3, t4, t5],
        }
    }

    /// The group's record.
    pub fn place(&self, tenant: TenantId) -> GroupPlace {
        GroupPlace {
            tenant,
            bucket: self.bucket,
            number: self.number,
        }
    }

    /// The collapse key as the queue of a device keeps it: a copy is replaced by a copy of the same target alone.
    pub fn scoped(&self, collapse_key: &str) -> String {
        format!("{MARK}{}{collapse_key}", BASE64URL_NOPAD.encode(&self.target))
    }
}

/// The collapse key as its backend gave it, of one that a queue keeps.
pub fn given_collapse_key(kept: &str) -> &str {
    match kept.strip_prefix(MARK) {
        Some(scoped) => scoped.get(NAMED..).unwrap_or_default(),
        None => kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(ids: &[&str]) -> Target {
        Target::Devices(ids.iter().map(|id| id.parse().unwrap()).collect())
    }

    #[test]
    fn targets_that_differ_have_other_names() {
        let user = |user: &str| Target::User(user.parse().unwrap());
        let all = [
            devices(&["a"]),
            devices(&["a", "b"]),
            devices(&["user", "a"]),
            user("a"),
            user("devices"),
        ];
        for (at, target) in all.iter().enumerate() {
            assert!(all.iter().skip(at + 1).all(|other| other.hash() != target.hash()), "{target:?}");
            assert_eq!(target.hash(), target.clone().hash());
        }
    }

    #[test]
    fn a_copy_tells_its_group_by_its_key() {
        let copy = CopyOf {
            bucket: 1023,
            number: u64::MAX - 1,
            target: [1, 2, 3, 4, 5, 6],
        };
        assert_eq!(CopyOf::of_key(copy.key()), copy);
        assert_eq!(given_collapse_key(&copy.scoped("todo list 電")), "todo list 電");
        assert_eq!(given_collapse_key("todo"), "todo");
        assert_eq!(given_collapse_key("\u{1}short"), "");
    }
}
