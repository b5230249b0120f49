//! Names of keys. What belongs to one device shares the hash tag of its bucket, and so a slot of Redis Cluster.
//!
//! | key | type | what |
//! |---|---|---|
//! | `d{b}T:device` | string | row of a device, or its tombstone: `device.rs` |
//! | `p{b}T:device` | string | last numbers of the device, and its seat: `seat.rs` |
//! | `q{b}T:device` | hash | what waits: `record.rs`; its data; collapse keys; counts |
//! | `s{b}T:device` | hash | how events ended; idempotency keys |
//! | `f{b}T:device`, `e{b}T:device` | string | FAST tokens; what it reported |
//! | `i{b}T`, `l{b}T` | hash, sorted set | device of an ordinal; devices in order of their ids |
//! | `o{b}`, `u{b}` | list | outboxes: receipts that no log has yet; what the feed of presence is still to tell |
//! | `g{b}T:number` | string | a group; `k{b}T:key` its idempotency key |
//! | `g{b}` | sorted set | groups: `groups.rs` |
//! | `c{b}` | hash | counters |
//! | `n{b}` | string | events that wait, and ended ones whose receipts are still in the outbox |
//! | `z{b}`, `w{b}` | sorted set | devices that housekeeping looks at, and when; devices with events that wait again, until when |
//! | `v{b}` | string | floor of numbers of the shard whose first bucket this is |
//! | `{r}…` | | what all nodes share: identity, keys and when they were last used, tenants, nodes, losses of nodes, secrets of TLS tickets, webhooks and their work |
//! | `y{u:T:H}` | sorted set | devices of a user, whose hash H is: `users.rs` |
//! | `{t:T}…` | | last ordinal of a tenant; its log of receipts and its feed of presence, and what was moved into each; its audit log |
//! | `{m:H}` | hash | minutes of the ledger of one hour |
//! | `{h:N}` | channel | messages for a node that cannot be reached directly |

use crate::{
    domain::{GroupPlace, Queue, TenantId, UserId, sha256},
    store::DeviceKey,
};

/// Number of buckets.
pub(super) const BUCKETS: u16 = 1024;
/// Slots of Redis Cluster.
pub(super) const SLOTS: u16 = 16_384;

/// Makes names.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

/// Where a key lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(pub(super) u16);

impl Slot {
    /// The slot of a hash tag.
    pub(super) fn of(tag: &str) -> Self {
        Self(crc16(tag.as_bytes()) % SLOTS)
    }

    /// The slot of a bucket.
    pub(super) fn of_bucket(bucket: u16) -> Self {
        Self::of(&bucket.to_string())
    }
}

/// The tag of what all nodes share.
pub(super) const SHARED: &str = "r";

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// A key of one device.
    pub(super) fn device(&self, kind: char, device: &DeviceKey) -> String {
        format!("{}{kind}{{{}}}{}:{}", self.prefix, device.bucket(), device.tenant.0, device.device)
    }

    /// A key of a bucket.
    pub(super) fn bucket(&self, kind: char, bucket: u16) -> String {
        format!("{}{kind}{{{bucket}}}", self.prefix)
    }

    /// The record of a group.
    pub(super) fn group(&self, place: GroupPlace) -> String {
        format!("{}g{{{}}}{}:{:016x}", self.prefix, place.bucket, place.tenant.0, place.number)
    }

    /// An idempotency key of groups, in the bucket of that one.
    pub(super) fn group_key(&self, place: GroupPlace, key: &[u8; 16]) -> String {
        let key = u128::from_be_bytes(*key);
        format!("{}k{{{}}}{}:{key:032x}", self.prefix, place.bucket, place.tenant.0)
    }

    /// A key of a tenant's part of a bucket.
    pub(super) fn tenant_bucket(&self, kind: char, bucket: u16, tenant: TenantId) -> String {
        format!("{}{kind}{{{bucket}}}{}", self.prefix, tenant.0)
    }

    /// A key that all nodes share.
    pub(super) fn shared(&self, name: &str) -> String {
        format!("{}{{{SHARED}}}{name}", self.prefix)
    }

    /// A key of a tenant.
    pub(super) fn tenant(&self, tenant: TenantId, name: &str) -> String {
        format!("{}{{{}}}{name}", self.prefix, tenant_tag(tenant))
    }

    /// The devices of a user.
    pub(super) fn user(&self, tenant: TenantId, user: &UserId) -> String {
        format!("{}y{{{}}}", self.prefix, user_tag(tenant, user))
    }

    /// A channel; its tag is its name.
    pub(super) fn channel(&self, tag: &str) -> String {
        format!("{}{{{tag}}}", self.prefix)
    }

    /// The minutes of an hour.
    pub(super) fn hour(&self, hour: u64) -> String {
        format!("{}{{{}}}", self.prefix, hour_tag(hour))
    }
}

pub(super) fn tenant_tag(tenant: TenantId) -> String {
    format!("t:{}", tenant.0)
}

/// By a hash, because a user may have any characters, those of a tag, too.
pub(super) fn user_tag(tenant: TenantId, user: &UserId) -> String {
    let hash = sha256(user.as_str().as_bytes());
    let half = hash.first_chunk().map_or(0, |half| u128::from_be_bytes(*half));
    format!("u:{}:{half:032x}", tenant.0)
}

pub(super) fn hour_tag(hour: u64) -> String {
    format!("m:{hour}")
}

/// The name of a device within its bucket, where devices are listed.
pub(super) fn member(device: &DeviceKey) -> String {
    members_of(device.tenant) + device.device.as_str()
}

/// What the names of a tenant's devices begin with there.
pub(super) fn members_of(tenant: TenantId) -> String {
    format!("{}:", tenant.0)
}

/// Reads a [`member`].
pub(super) fn device_of(member: &str) -> Option<DeviceKey> {
    let (tenant, device) = member.split_once(':')?;
    Some(DeviceKey {
        tenant: TenantId(tenant.parse().ok()?),
        device: device.parse().ok()?,
    })
}

/// The field of an event in its device's queue, and of its end among the states.
pub(super) fn field(queue: Queue, number: u64) -> [u8; 7] {
    let mut field = [0; 7];
    field[0] = match queue {
        Queue::First => b'f',
        Queue::Rest => b'r',
    };
    field[1..].copy_from_slice(&number.to_be_bytes()[2..]);
    field
}

/// The field of the data of an event that was born there, wherever it waits.
pub(super) fn data_field(queue: Queue, born: u64) -> [u8; 7] {
    let mut field = field(queue, born);
    field[0] = field[0].to_ascii_uppercase();
    field
}

/// Reads a [`field`].
pub(super) fn read_field(field: &[u8]) -> Option<(Queue, u64)> {
    let (kind, number) = field.split_first()?;
    let queue = match kind {
        b'f' => Queue::First,
        b'r' => Queue::Rest,
        _ => return None,
    };
    let mut bytes = [0; 8];
    bytes[2..].copy_from_slice(number.get(..6).filter(|_| number.len() == 6)?);
    Some((queue, u64::from_be_bytes(bytes)))
}

/// CRC-16/XMODEM, as the specification of Redis Cluster has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        // The check value of the specification.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // As CLUSTER KEYSLOT answers.
        assert_eq!(Slot::of("somekey"), Slot(11_058));
    }

    #[test]
    fn what_belongs_to_a_device_shares_its_tag() {
        let keys = Keys::new("unpoll:");
        let device = DeviceKey {
            tenant: TenantId(7),
            device: "tsn-1".parse().unwrap(),
        };
        let tag = format!("{{{}}}", device.bucket());
        for key in [
            keys.device('q', &device),
            keys.bucket('o', device.bucket()),
            keys.tenant_bucket('i', device.bucket(), device.tenant),
        ] {
            assert!(key.starts_with("unpoll:") && key.contains(&tag), "{key}");
        }
        assert_eq!(device_of(&member(&device)), Some(device));
    }

    #[test]
    fn a_field_reads_back() {
        for (queue, number) in [(Queue::First, 1), (Queue::Rest, (1 << 48) - 1)] {
            assert_eq!(read_field(&field(queue, number)), Some((queue, number)));
        }
        assert_eq!(read_field(b"r12345"), None);
        assert_eq!(read_field(b"ckey567"), None);
    }
}
