//! The event's id: opaque, unguessable, and it locates its record without an index.

use std::{fmt, str::FromStr};

use aws_lc_rs::hmac;
use data_encoding::{Encoding, Specification};
use parking_lot::RwLock;
use std::sync::LazyLock;

use super::{GroupPlace, TenantId, Urgency};

/// RFC 4648 §6, lower case, without padding.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    #[expect(clippy::expect_used, reason = "a constant alphabet of 32 distinct symbols")]
    specification.encoding().expect("32 symbols")
});

/// The stable id of an event: 20 bytes, 32 characters of lower-case base32.
///
/// Six bytes are a MAC over the place of its record, and the place is masked by a keystream made from that MAC:
/// an id can be neither guessed nor read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub [u8; 20]);

/// A text that is no event id: not 32 characters of lower-case base32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event id has 32 characters of a-z and 2-7")]
pub struct InvalidEventId;

impl EventId {
    /// Its text, in ASCII.
    pub fn text(&self) -> [u8; 32] {
        let mut text = [0; 32];
        BASE32.encode_mut(&self.0, &mut text);
        text
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        let mut bytes = [0; 20];
        if text.len() != 32 || BASE32.decode_mut(text.as_bytes(), &mut bytes).is_err() {
            return Err(InvalidEventId);
        }
        Ok(Self(bytes))
    }
}

impl<'de> serde::Deserialize<'de> for EventId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: std::borrow::Cow<'_, str> = serde::Deserialize::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for EventId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which of a device's two queues holds a record: `high` goes before all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Queue {
    /// Urgency `high`.
    First,
    /// Every other urgency, in order of acceptance.
    Rest,
}

impl Queue {
    /// Where events of that urgency wait.
    pub fn of(urgency: Urgency) -> Self {
        if urgency == Urgency::High { Self::First } else { Self::Rest }
    }
}

/// The place of a record, as an id holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Located {
    /// Whose it is.
    pub tenant: TenantId,
    /// The bucket of the device, hash(tenant, device) mod 1024.
    pub bucket: u16,
    /// The number of the device within its tenant.
    pub ordinal: u32,
    /// Which queue. `None`: an event with a TTL of 0, stored nowhere.
    pub queue: Option<Queue>,
    /// The storage number within the device's queue, below 2^48.
    pub number: u64,
}

/// The key that makes ids, kept in the store. It is another one after the store became a store that was exported.
pub struct EventIdKey(RwLock<hmac::Key>);

impl fmt::Debug for EventIdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventIdKey(***)")
    }
}

const PLACE: usize = 14;
/// The kind of an id that names a group.
const GROUP: u16 = 4;

impl EventIdKey {
    /// The key made of these bytes.
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(RwLock::new(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// From here on the key made of these bytes.
    pub fn replace(&self, secret: &[u8; 32]) {
        *self.0.write() = hmac::Key::new(hmac::HMAC_SHA256, secret);
    }

    /// The id of the record at `place`. Always the same for the same place.
    pub fn seal(&self, place: Located) -> EventId {
        let kind: u16 = match place.queue {
            Some(Queue::First) => 1,
            Some(Queue::Rest) => 2,
            None => 3,
        };
        let mut plain = [0; PLACE];
        plain[..2].copy_from_slice(&(kind << 12 | (place.bucket & 0x3ff)).to_be_bytes());
        plain[2..4].copy_from_slice(&place.tenant.0.to_be_bytes());
        plain[4..8].copy_from_slice(&place.ordinal.to_be_bytes());
        plain[8..].copy_from_slice(&place.number.to_be_bytes()[2..]);
        self.seal_plain(&plain)
    }

    /// The id of the group whose record is at `place`. Always the same for the same place.
    pub fn seal_group(&self, place: GroupPlace) -> EventId {
        let mut plain = [0; PLACE];
        plain[..2].copy_from_slice(&(GROUP << 12 | (place.bucket & 0x3ff)).to_be_bytes());
        plain[2..4].copy_from_slice(&place.tenant.0.to_be_bytes());
        plain[4..12].copy_from_slice(&place.number.to_be_bytes());
        self.seal_plain(&plain)
    }

    fn seal_plain(&self, plain: &[u8; PLACE]) -> EventId {
        let key = self.0.read();
        let mac = mac_of(&key, plain);
        let mask = mask_of(&key, &mac);
        let mut id = [0; 20];
        for (byte, (plain, mask)) in id.iter_mut().zip(plain.iter().zip(mask)) {
            *byte = plain ^ mask;
        }
        id[PLACE..].copy_from_slice(&mac);
        EventId(id)
    }

    /// The place of the group that `id` names; `None` when it names none, or this store did not make it.
    pub fn open_group(&self, id: EventId) -> Option<GroupPlace> {
        let plain = self.open_plain(id)?;
        let head = u16::from_be_bytes([plain[0], plain[1]]);
        let mut number = [0; 8];
        number.copy_from_slice(&plain[4..12]);
        (head >> 12 == GROUP).then_some(GroupPlace {
            tenant: TenantId(u16::from_be_bytes([plain[2], plain[3]])),
            bucket: head & 0x3ff,
            number: u64::from_be_bytes(number),
        })
    }

    /// The place that `id` names; `None` when it is a group's, or this store did not make it.
    pub fn open(&self, id: EventId) -> Option<Located> {
        let plain = self.open_plain(id)?;
        let head = u16::from_be_bytes([plain[0], plain[1]]);
        let queue = match head >> 12 {
            1 => Some(Queue::First),
            2 => Some(Queue::Rest),
            3 => None,
            _ => return None,
        };
        let mut number = [0; 8];
        number[2..].copy_from_slice(&plain[8..]);
        Some(Located {
            tenant: TenantId(u16::from_be_bytes([plain[2], plain[3]])),
            bucket: head & 0x3ff,
            ordinal: u32::from_be_bytes([plain[4], plain[5], plain[6], plain[7]]),
            queue,
            number: u64::from_be_bytes(number),
        })
    }

    fn open_plain(&self, id: EventId) -> Option<[u8; PLACE]> {
        let mut mac = [0; 6];
        mac.copy_from_slice(&id.0[PLACE..]);
        let mut plain = [0; PLACE];
        let key = self.0.read();
        for (byte, (masked, mask)) in plain.iter_mut().zip(id.0.iter().zip(mask_of(&key, &mac))) {
            *byte = masked ^ mask;
        }
        if aws_lc_rs::constant_time::verify_slices_are_equal(&mac_of(&key, &plain), &mac).is_err() {
            return None;
        }
        Some(plain)
    }
}

fn mac_of(key: &hmac::Key, plain: &[u8; PLACE]) -> [u8; 6] {
    let mut mac = [0; 6];
    mac.copy_from_slice(&hmac::sign(key, plain).as_ref()[..6]);
    mac
}

fn mask_of(key: &hmac::Key, mac: &[u8; 6]) -> [u8; PLACE] {
    let mut mask = [0; PLACE];
    mask.copy_from_slice(&hmac::sign(key, mac).as_ref()[..PLACE]);
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(number: u64) -> Located {
        Located {
            tenant: TenantId(7),
            bucket: 1023,
            ordinal: 4_000_000_000,
            queue: Some(Queue::Rest),
            number,
        }
    }

    #[test]
    fn an_id_locates_its_record_and_survives_text() {
        let key = EventIdKey::new(&[3; 32]);
        for number in [0, 1, (1 << 48) - 1] {
            let id = key.seal(place(number));
            let text = id.to_string();
            assert_eq!(text.len(), 32);
            assert_eq!(key.open(text.parse().unwrap()), Some(place(number)));
        }
    }

    #[test]
    fn the_id_of_a_group_names_no_event_of_a_device() {
        let key = EventIdKey::new(&[3; 32]);
        let group = GroupPlace {
            tenant: TenantId(7),
            bucket: 1023,
            number: u64::MAX - 5,
        };
        let id = key.seal_group(group);
        assert_eq!((key.open_group(id), key.open(id)), (Some(group), None));
        assert_eq!(key.open_group(key.seal(place(5))), None);
        assert_eq!(EventIdKey::new(&[4; 32]).open_group(id), None);
    }

    #[test]
    fn a_foreign_or_altered_id_opens_nothing() {
        let id = EventIdKey::new(&[3; 32]).seal(place(5));
        assert_eq!(EventIdKey::new(&[4; 32]).open(id), None);
        for bit in 0..160 {
            let mut altered = id;
            altered.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(EventIdKey::new(&[3; 32]).open(altered), None, "bit {bit}");
        }
    }

    #[test]
    fn a_key_that_was_replaced_opens_what_the_other_made() {
        let (own, exported) = (EventIdKey::new(&[3; 32]), EventIdKey::new(&[4; 32]));
        let id = exported.seal(place(5));
        assert_eq!(own.open(id), None);
        own.replace(&[4; 32]);
        assert_eq!((own.open(id), own.seal(place(5))), (Some(place(5)), id));
    }

    #[test]
    fn upper_case_and_other_lengths_are_no_ids() {
        let id = EventIdKey::new(&[3; 32]).seal(place(5)).to_string();
        assert!(id.to_uppercase().parse::<EventId>().is_err());
        assert!(id[1..].parse::<EventId>().is_err());
        assert!("0".repeat(32).parse::<EventId>().is_err());
    }
}
