//! Keys of the engine's rows. Numbers are big-endian, so that the engine's order is theirs.
//!
//! | keyspace | key | row |
//! |---|---|---|
//! | events | tenant 2, ordinal 4, queue 1, number 8 | an event that waits |
//! | ends | `s` and the same | how it ended |
//! | ends | `I`, tenant 2, ordinal 4, number 8 | a pack of idempotency keys, up to that number's |
//! | ends | `i`, tenant 2, ordinal 4, the first 13 bytes of the key | an idempotency key that is in no pack |
//! | ends | `g`, tenant 2, bucket 2, number 8 | a group |
//! | ends | `k`, tenant 2, key 16 | an idempotency key of a group |
//! | log | `r`, tenant 2, position 8 | receipts up to that position |
//! | log | `p`, tenant 2, position 8 | a row of the feed of presence |
//! | log | `m`, minute 8, node | a minute of the ledger |
//! | log | `a`, tenant 2, position 8 | an entry of the audit log |
//! | log | `A`, tenant 2 | its last position, and how many entries it has |
//! | rows | `d`, tenant 2, device id | a device or its tombstone |
//! | rows | `u`, tenant 2, user, 0, device id | a device of that user (empty) |
//! | rows | `s`, tenant 2, ordinal 4 | last numbers and last idempotency keys of a device |
//! | rows | `h`, tenant 2, ordinal 4 | the seat of a device while it is held |
//! | rows | `f`, tenant 2, ordinal 4 | FAST tokens of a device |
//! | rows | `p`, tenant 2, ordinal 4 | what a device reported |
//! | rows | `w`, time 8, and an event's key | an event that waits for that moment (empty) |
//! | rows | `g` and the rest of a group's key | when a group was accepted that is unfinished |
//! | rows | `n`, tenant 2 | the last ordinal given out |
//! | rows | `k`, hash 32 | an API key |
//! | rows | `K`, tenant 2, id | when an API key was last used |
//! | rows | `t`, tenant 2 | a tenant |
//! | rows | `Wc`, id | a webhook |
//! | rows | `Wp`, id | how far its sending is |
//! | rows | `Ww` or `Wd`, id, 0, position 8 | a receipt that waits for its webhook, or that was given up |
//! | rows | `M` and a word | facts of the store |

use crate::{
    domain::{GroupPlace, Located, Queue, TenantId, Timestamp, UserId},
    store::DeviceKey,
};

/// The row of every commit: its number and the totals.
pub(super) const COMMIT: &[u8] = b"Mcommit";
/// What the rows of seats begin with.
pub(super) const SEAT: u8 = b'h';
/// Generation, id secret and boot count.
pub(super) const IDENTITY: &[u8] = b"Midentity";

/// Where an event's rows are: a [`Located`] whose queue is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) tenant: TenantId,
    pub(super) ordinal: u32,
    pub(super) queue: Queue,
    pub(super) number: u64,
}

pub(super) type EventKey = [u8; 15];

impl Place {
    /// `None` for an event with a TTL of 0, which is nowhere.
    pub(super) fn of(located: Located) -> Option<Self> {
        Some(Self {
            tenant: located.tenant,
            ordinal: located.ordinal,
            queue: located.queue?,
            number: located.number,
        })
    }

    pub(super) fn located(self, bucket: u16) -> Located {
        Located {
            tenant: self.tenant,
            bucket,
            ordinal: self.ordinal,
            queue: Some(self.queue),
            number: self.number,
        }
    }

    pub(super) fn event_key(self) -> EventKey {
        let mut key = [0; 15];
        key[..6].copy_from_slice(&device_prefix(self.tenant, self.ordinal));
        key[6] = queue_byte(self.queue);
        key[7..].copy_from_slice(&self.number.to_be_bytes());
        key
    }

    pub(super) fn end_key(self) -> [u8; 16] {
        let mut key = [b's'; 16];
        key[1..].copy_from_slice(&self.event_key());
        key
    }

    /// Reads an event's key.
    pub(super) fn read(key: &[u8]) -> Option<Self> {
        let key: &EventKey = key.try_into().ok()?;
        let [t0, t1, o0, o1, o2, o3, queue, number @ ..] = *key;
        Some(Self {
            tenant: TenantId(u16::from_be_bytes([t0, t1])),
            ordinal: u32::from_be_bytes([o0, o1, o2, o3]),
            queue: read_queue(queue)?,
            number: u64::from_be_bytes(number),
        })
    }
}

pub(super) fn queue_byte(queue: Queue) -> u8 {
    match queue {
        Queue::First => 0,
        Queue::Rest => 1,
    }
}

/// Reads a [`queue_byte`].
pub(super) fn read_queue(byte: u8) -> Option<Queue> {
    match byte {
        0 => Some(Queue::First),
        1 => Some(Queue::Rest),
        _ => None,
    }
}

pub(super) fn device_prefix(tenant: TenantId, ordinal: u32) -> [u8; 6] {
    let mut key = [0; 6];
    key[..2].copy_from_slice(&tenant.0.to_be_bytes());
    key[2..].copy_from_slice(&ordinal.to_be_bytes());
    key
}

pub(super) type IdempotencyKey = [u8; 20];

/// What all idempotency keys of that one's device begin with.
pub(super) fn of_same_device(key: &IdempotencyKey) -> &[u8] {
    &key[..7]
}

/// 20 bytes are what the engine holds in place, without a way through memory at each comparison; 13 bytes of a hash are enough to tell
/// the keys of one device apart.
pub(super) fn idempotency(tenant: TenantId, ordinal: u32, key: &[u8; 16]) -> IdempotencyKey {
    let mut row = [b'i'; 20];
    row[1..7].copy_from_slice(&device_prefix(tenant, ordinal));
    row[7..].copy_from_slice(&key[..13]);
    row
}

/// What all packs of idempotency keys of a device begin with.
pub(super) fn key_packs(tenant: TenantId, ordinal: u32) -> [u8; 7] {
    let mut key = [b'I'; 7];
    key[1..].copy_from_slice(&device_prefix(tenant, ordinal));
    key
}

/// `last`: the number of the last event in it.
pub(super) fn key_pack(tenant: TenantId, ordinal: u32, last: u64) -> [u8; 15] {
    let mut key = [b'I'; 15];
    key[..7].copy_from_slice(&key_packs(tenant, ordinal));
    key[7..].copy_from_slice(&last.to_be_bytes());
    key
}

/// What the rows of groups begin with, and those of the unfinished ones.
pub(super) const GROUPS: &[u8] = b"g";

pub(super) fn group(place: GroupPlace) -> [u8; 13] {
    let mut key = [b'g'; 13];
    key[1..3].copy_from_slice(&place.tenant.0.to_be_bytes());
    key[3..5].copy_from_slice(&place.bucket.to_be_bytes());
    key[5..].copy_from_slice(&place.number.to_be_bytes());
    key
}

/// Reads a key of [`group`].
pub(super) fn read_group(key: &[u8]) -> Option<GroupPlace> {
    let [_, t0, t1, b0, b1, number @ ..] = *<&[u8; 13]>::try_from(key).ok()?;
    Some(GroupPlace {
        tenant: TenantId(u16::from_be_bytes([t0, t1])),
        bucket: u16::from_be_bytes([b0, b1]),
        number: u64::from_be_bytes(number),
    })
}

pub(super) fn group_key(tenant: TenantId, key: &[u8; 16]) -> [u8; 19] {
    let mut row = [b'k'; 19];
    row[1..3].copy_from_slice(&tenant.0.to_be_bytes());
    row[3..].copy_from_slice(key);
    row
}

pub(super) fn receipt(tenant: TenantId, position: u64) -> [u8; 11] {
    let mut key = [b'r'; 11];
    key[1..3].copy_from_slice(&tenant.0.to_be_bytes());
    key[3..].copy_from_slice(&position.to_be_bytes());
    key
}

pub(super) fn change(tenant: TenantId, position: u64) -> [u8; 11] {
    let mut key = receipt(tenant, position);
    key[0] = b'p';
    key
}

pub(super) fn audit(tenant: TenantId, position: u64) -> [u8; 11] {
    let mut key = receipt(tenant, position);
    key[0] = b'a';
    key
}

pub(super) fn audited(tenant: TenantId) -> [u8; 3] {
    let mut key = [b'A'; 3];
    key[1..].copy_from_slice(&tenant.0.to_be_bytes());
    key
}

/// The tenant in a key of a log.
pub(super) fn tenant_of(key: &[u8]) -> Option<TenantId> {
    let (_, rest) = key.split_first()?;
    let (tenant, _) = rest.split_first_chunk()?;
    Some(TenantId(u16::from_be_bytes(*tenant)))
}

pub(super) fn seat(tenant: TenantId, ordinal: u32) -> [u8; 7] {
    let mut key = [SEAT; 7];
    key[1..].copy_from_slice(&device_prefix(tenant, ordinal));
    key
}

/// Reads a key of [`seat`].
pub(super) fn read_seat(key: &[u8]) -> Option<(TenantId, u32)> {
    let [_, t0, t1, o0, o1, o2, o3] = *<&[u8; 7]>::try_from(key).ok()?;
    Some((TenantId(u16::from_be_bytes([t0, t1])), u32::from_be_bytes([o0, o1, o2, o3])))
}

pub(super) fn minute(minute: u64, node: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + node.len());
    key.push(b'm');
    key.extend_from_slice(&minute.to_be_bytes());
    key.extend_from_slice(node.as_bytes());
    key
}

pub(super) fn device(device: &DeviceKey) -> Vec<u8> {
    device_row(device.tenant, device.device.as_str())
}

pub(super) fn device_row(tenant: TenantId, id: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(3 + id.len());
    key.push(b'd');
    key.extend_from_slice(&tenant.0.to_be_bytes());
    key.extend_from_slice(id.as_bytes());
    key
}

/// A device of a user. A user has no control characters, so the 0 behind it ends it.
pub(super) fn of_user(tenant: TenantId, user: &UserId, device: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(4 + user.as_str().len() + device.len());
    key.push(b'u');
    key.extend_from_slice(&tenant.0.to_be_bytes());
    key.extend_from_slice(user.as_str().as_bytes());
    key.push(0);
    key.extend_from_slice(device.as_bytes());
    key
}

pub(super) fn numbers(tenant: TenantId, ordinal: u32) -> [u8; 7] {
    let mut key = [b's'; 7];
    key[1..].copy_from_slice(&device_prefix(tenant, ordinal));
    key
}

pub(super) fn fast_tokens(tenant: TenantId, ordinal: u32) -> [u8; 7] {
    let mut key = [b'f'; 7];
    key[1..].copy_from_slice(&device_prefix(tenant, ordinal));
    key
}

pub(super) fn reported(tenant: TenantId, ordinal: u32) -> [u8; 7] {
    let mut key = [b'p'; 7];
    key[1..].copy_from_slice(&device_prefix(tenant, ordinal));
    key
}

/// Where an event that waits for `due` is found in the order of time.
pub(super) fn due(due: Timestamp, place: Place) -> [u8; 24] {
    let mut key = [b'w'; 24];
    key[1..9].copy_from_slice(&due.0.to_be_bytes());
    key[9..].copy_from_slice(&place.event_key());
    key
}

/// The bounds of what is due at `now`.
pub(super) fn due_until(now: Timestamp) -> ([u8; 1], [u8; 10]) {
    let mut last = [0xff; 10];
    last[0] = b'w';
    last[1..9].copy_from_slice(&now.0.to_be_bytes());
    (*b"w", last)
}

/// Reads a key of [`due`].
pub(super) fn read_due(key: &[u8]) -> Option<(Timestamp, Place)> {
    let (time, place) = (key.get(1..9)?, key.get(9..)?);
    Some((Timestamp(u64::from_be_bytes(time.try_into().ok()?)), Place::read(place)?))
}

pub(super) fn last_ordinal(tenant: TenantId) -> [u8; 3] {
    let mut key = [b'n'; 3];
    key[1..].copy_from_slice(&tenant.0.to_be_bytes());
    key
}

pub(super) fn api_key(hash: &[u8; 32]) -> [u8; 33] {
    let mut key = [b'k'; 33];
    key[1..].copy_from_slice(hash);
    key
}

/// When a key was last used; without an id what those of a tenant begin with.
pub(super) fn key_use(tenant: TenantId, id: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(3 + id.len());
    key.push(b'K');
    key.extend_from_slice(&tenant.0.to_be_bytes());
    key.extend_from_slice(id.as_bytes());
    key
}

pub(super) fn tenant(id: u16) -> [u8; 3] {
    let mut key = [b't'; 3];
    key[1..].copy_from_slice(&id.to_be_bytes());
    key
}

/// What the rows of webhooks begin with.
pub(super) const WEBHOOK: &[u8] = b"Wc";

pub(super) fn webhook(id: &str) -> Vec<u8> {
    [WEBHOOK, id.as_bytes()].concat()
}

pub(super) fn webhook_progress(id: &str) -> Vec<u8> {
    [b"Wp", id.as_bytes()].concat()
}

/// A receipt that waits for a webhook; without a position what all of them begin with.
pub(super) fn webhook_waiting(id: &str, position: Option<u64>) -> Vec<u8> {
    of_webhook(b"Ww", id, position)
}

/// One that was given up.
pub(super) fn webhook_dead(id: &str, position: Option<u64>) -> Vec<u8> {
    of_webhook(b"Wd", id, position)
}

fn of_webhook(kind: &[u8; 2], id: &str, position: Option<u64>) -> Vec<u8> {
    let mut key = Vec::with_capacity(11 + id.len());
    key.extend_from_slice(kind);
    key.extend_from_slice(id.as_bytes());
    key.push(0);
    if let Some(position) = position {
        key.extend_from_slice(&position.to_be_bytes());
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_key_reads_back_and_sorts_first_before_rest() {
        let place = |queue, number| Place {
            tenant: TenantId(3),
            ordinal: 9,
            queue,
            number,
        };
        let (first, rest) = (place(Queue::First, 500), place(Queue::Rest, 2));
        assert!(first.event_key() < rest.event_key());
        assert!(place(Queue::Rest, 255).event_key() < place(Queue::Rest, 256).event_key());
        assert_eq!(Place::read(&first.event_key()), Some(first));
        assert_eq!(Place::read(&rest.event_key()), Some(rest));
        assert_eq!(Place::read(b"short"), None);
    }
}
