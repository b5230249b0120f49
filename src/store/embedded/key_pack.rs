//! Ways from an idempotency key to the event that has it.
//!
//! The record of an event has its key, and so has the record of its end. What is kept beside is where those are: the last few of a device in its
//! row of numbers, which each event writes anyhow, and those of before in *packs*, [`PACK`] of them a row. A device that has more than the store
//! remembers of one in RAM has a row for each of the others.

use fjall::Slice;

use super::keys::{queue_byte, read_queue};
use crate::{
    domain::{Queue, Timestamp},
    store::{
        StoreError,
        codec::{Decoder, Encoder, damaged},
    },
};

/// Keys in a pack, and one more than a row of numbers has.
pub(super) const PACK: usize = 16;
const VERSION: u8 = 1;

/// Where the event of a key was born, among those of its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyRef {
    /// [`short`] of the key.
    pub(super) short: u32,
    pub(super) queue: Queue,
    pub(super) number: u64,
}

/// Four bytes of all sixteen: two keys with the same are told apart by the records of their events.
pub(super) fn short(key: &[u8; 16]) -> u32 {
    let (words, _) = key.as_chunks();
    words.iter().fold(0, |all, word| all ^ u32::from_le_bytes(*word))
}

/// What a row of numbers knows of its device's keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RecentKeys {
    /// The last, of those that are in no other row.
    pub(super) refs: Vec<KeyRef>,
    /// There may be packs.
    pub(super) has_packs: bool,
    /// There may be rows of single keys.
    pub(super) has_rows: bool,
}

const PACKS: u8 = 1;
const ROWS: u8 = 2;

impl RecentKeys {
    /// Those of a row that was written before there were packs.
    pub(super) fn of_before() -> Self {
        Self {
            has_rows: true,
            ..Self::default()
        }
    }

    /// `last`: a number that none of its events is beyond.
    pub(super) fn encode(&self, last: u64, into: &mut Encoder) {
        let packs = if self.has_packs { PACKS } else { 0 };
        let rows = if self.has_rows { ROWS } else { 0 };
        into.byte(packs | rows);
        encode(&self.refs, last, into);
    }

    pub(super) fn decode(last: u64, from: &mut Decoder<'_>) -> Result<Self, StoreError> {
        let flags = from.byte()?;
        Ok(Self {
            refs: decode(last, from)?,
            has_packs: flags & PACKS != 0,
            has_rows: flags & ROWS != 0,
        })
    }
}

/// A row of its own. `last`: the number of the last, with which the key of the row ends; `newest`: when that was accepted.
pub(super) fn encode_pack(refs: &[KeyRef], last: u64, newest: Timestamp) -> Slice {
    let mut into = Encoder::with_capacity(10 + 8 * refs.len());
    into.byte(VERSION).number(newest.0);
    encode(refs, last, &mut into);
    into.finish().into()
}

/// The number in the key of a pack.
pub(super) fn last_of(key: &[u8]) -> Result<u64, StoreError> {
    let number = key.last_chunk().ok_or_else(|| damaged("the key of a pack of idempotency keys"))?;
    Ok(u64::from_be_bytes(*number))
}

/// When the newest of a pack was accepted, and all of it.
pub(super) fn decode_pack(last: u64, row: &[u8]) -> Result<(Timestamp, Vec<KeyRef>), StoreError> {
    let mut from = Decoder::new(row, "a pack of idempotency keys");
    from.version(VERSION)?;
    Ok((Timestamp(from.number()?), decode(last, &mut from)?))
}

fn encode(refs: &[KeyRef], last: u64, into: &mut Encoder) {
    for each in refs {
        into.raw(&each.short.to_le_bytes())
            .byte(queue_byte(each.queue))
            .number(last.saturating_sub(each.number));
    }
}

/// As many as are left.
fn decode(last: u64, from: &mut Decoder<'_>) -> Result<Vec<KeyRef>, StoreError> {
    let mut refs = Vec::new();
    while !from.rest().is_empty() {
        refs.push(KeyRef {
            short: u32::from_le_bytes(from.array()?),
            queue: read_queue(from.byte()?).ok_or_else(|| from.damaged())?,
            number: last.checked_sub(from.number()?).ok_or_else(|| from.damaged())?,
        });
    }
    Ok(refs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refs() -> Vec<KeyRef> {
        let queues = [Queue::First, Queue::Rest];
        let each = |number: u64| KeyRef {
            short: short(&[number as u8; 16]) ^ number as u32,
            queue: queues[number as usize % 2],
            number: number * number,
        };
        (1..=PACK as u64).map(each).collect()
    }

    #[test]
    fn what_is_packed_comes_back() {
        let (refs, last) = (refs(), (PACK * PACK) as u64);
        let row = encode_pack(&refs, last, Timestamp(77));
        assert_eq!(decode_pack(last, &row).unwrap(), (Timestamp(77), refs.clone()));
        assert!(row.len() < 8 * PACK, "{}", row.len());
        for recent in [
            RecentKeys::default(),
            RecentKeys::of_before(),
            RecentKeys {
                refs,
                has_packs: true,
                has_rows: true,
            },
        ] {
            let mut into = Encoder::default();
            recent.encode(last + 5, &mut into);
            let bytes = into.finish();
            assert_eq!(RecentKeys::decode(last + 5, &mut Decoder::new(&bytes, "keys")).unwrap(), recent);
        }
    }

    #[test]
    fn a_damaged_pack_is_an_error() {
        let row = encode_pack(&refs(), 256, Timestamp(77));
        assert!(decode_pack(254, &row).is_err(), "a number below none");
        for length in [0, 1, 4, row.len() - 1] {
            assert!(decode_pack(256, &row[..length]).is_err(), "{length}");
        }
        let mut queue = row.to_vec();
        queue[2 + 4] = 9;
        assert!(decode_pack(256, &queue).is_err());
    }

    #[test]
    fn every_byte_of_a_key_counts() {
        for place in 0..16 {
            let mut key = [0; 16];
            key[place] = 1;
            assert_ne!(short(&key), 0);
        }
    }
}
