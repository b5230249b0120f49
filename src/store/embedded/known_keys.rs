//! Which idempotency keys a device has, so that the engine is not asked for each new one.
//!
//! Nearly every key is new. What its row of numbers and its packs have of a device's keys is in RAM while the device is: four bytes of each. They may say
//! yes to a key that is new, or is forgotten by now, and never no to one that is kept.

use std::time::Duration;

use super::{
    again,
    device_state::DeviceState,
    draft::Draft,
    engine::Space,
    key_pack::{KeyRef, PACK, decode_pack, encode_pack, short},
    keys::{self, Place},
    record::{Kept, decode_end, decode_event},
};
use crate::{
    domain::{DeliveryState, TenantId, Timestamp},
    store::{Idempotency, StoreError, codec::damaged},
};

/// Keys of a device in packs, at most: 4 KiB in RAM. One that has more in a day has rows for them, and the engine is asked.
const PACKED_MAX: usize = 1_024;
/// How often the engine is asked for the row of a key before it is asked whether the device has such rows at all.
const ASKED_MAX: u8 = 4;

/// What is in RAM of the keys of one device that are not in its row of numbers.
#[derive(Debug, Default)]
pub(super) struct KnownKeys {
    /// Those in packs, by their four bytes; as nobody takes any out, also those that have gone since they were read.
    packed: Vec<u32>,
    /// When to read them anew. `None`: they were not read.
    until: Option<Timestamp>,
    /// How often the engine was asked for a row since then.
    asked: u8,
}

impl KnownKeys {
    fn may_be_packed(&self, short: u32) -> bool {
        // In strides: one compares eight and more at once then.
        self.packed
            .chunks(64)
            .any(|some| some.iter().fold(false, |found, each| found | (*each == short)))
    }
}

/// An event that has a key.
pub(super) struct Holder {
    /// Where it was born.
    pub(super) place: Place,
    /// [`Idempotency::body`] of what asked for it.
    pub(super) body: [u8; 16],
    pub(super) state: DeliveryState,
}

impl DeviceState {
    /// The event that has that key: one that waits, or was accepted less than `kept` before `now`.
    pub(super) fn holder_of_key(
        &mut self,
        draft: &Draft<'_>,
        tenant: TenantId,
        key: &[u8; 16],
        now: Timestamp,
        kept: Duration,
    ) -> Result<Option<Holder>, StoreError> {
        self.read_packs(draft, tenant, now, kept)?;
        let short = short(key);
        let mut found: Option<Keyed> = None;
        let mut look = |refs: &[KeyRef]| {
            for each in refs.iter().filter(|each| each.short == short) {
                let place = Place {
                    tenant,
                    ordinal: self.ordinal,
                    queue: each.queue,
                    number: each.number,
                };
                newer(&mut found, keyed_at(draft, place, key, None)?);
            }
            Ok::<_, StoreError>(())
        };
        look(&self.numbers.keys.refs)?;
        if self.known_keys.may_be_packed(short) {
            for (row_key, row) in draft.prefix(Space::Ends, &keys::key_packs(tenant, self.ordinal))? {
                look(&decode_pack(last_of(&row_key)?, &row)?.1)?;
            }
        }
        newer(&mut found, self.keyed_by_row(draft, tenant, key)?);
        // The newest event with that key: those before it had to end before it could be accepted.
        Ok(found.and_then(|found| found.holds(now, kept).then_some(found.holder)))
    }

    /// Reads what packs there are, unless that was done in the time that a key is kept.
    fn read_packs(&mut self, draft: &Draft<'_>, tenant: TenantId, now: Timestamp, kept: Duration) -> Result<(), StoreError> {
        if self.known_keys.until.is_some_and(|until| now < until) {
            return Ok(());
        }
        let mut packed = Vec::new();
        if self.numbers.keys.has_packs {
            for (key, row) in draft.prefix(Space::Ends, &keys::key_packs(tenant, self.ordinal))? {
                packed.extend(decode_pack(last_of(&key)?, &row)?.1.iter().map(|each| each.short));
            }
            self.numbers.keys.has_packs = !packed.is_empty();
        }
        self.known_keys = KnownKeys {
            packed,
            until: Some(now.plus(kept)),
            asked: 0,
        };
        Ok(())
    }

    fn keyed_by_row(&mut self, draft: &Draft<'_>, tenant: TenantId, key: &[u8; 16]) -> Result<Option<Keyed>, StoreError> {
        if !self.numbers.keys.has_rows {
            return Ok(None);
        }
        let row_key = keys::idempotency(tenant, self.ordinal, key);
        if self.known_keys.asked == ASKED_MAX {
            let any = draft.keys(Space::Ends, keys::of_same_device(&row_key)).next().transpose()?;
            self.numbers.keys.has_rows = any.is_some();
        }
        self.known_keys.asked = self.known_keys.asked.saturating_add(1);
        let Some(row) = draft.get(Space::Ends, &row_key)? else {
            return Ok(None);
        };
        let row = Kept::decode(&row)?;
        let place = Place {
            tenant,
            ordinal: self.ordinal,
            queue: row.queue,
            number: row.number,
        };
        keyed_at(draft, place, key, Some(row.body))
    }

    /// The event that is new at `place` has this key.
    pub(super) fn add_key(&mut self, draft: &mut Draft<'_>, place: Place, idempotency: &Idempotency, accepted_at: Timestamp) {
        let recent = &mut self.numbers.keys;
        let packed = &mut self.known_keys.packed;
        if packed.len() + PACK > PACKED_MAX {
            let kept = Kept {
                queue: place.queue,
                number: place.number,
                body: idempotency.body,
                accepted_at,
            };
            draft.put(
                Space::Ends,
                keys::idempotency(place.tenant, place.ordinal, &idempotency.key),
                kept.encode(),
            );
            recent.has_rows = true;
            return;
        }
        recent.refs.push(KeyRef {
            short: short(&idempotency.key),
            queue: place.queue,
            number: place.number,
        });
        if recent.refs.len() >= PACK {
            let refs = std::mem::take(&mut recent.refs);
            draft.put(
                Space::Ends,
                keys::key_pack(place.tenant, place.ordinal, place.number),
                encode_pack(&refs, place.number, accepted_at),
            );
            packed.extend(refs.iter().map(|each| each.short));
            recent.has_packs = true;
        }
    }
}

/// The number in the key of a pack.
pub(super) fn last_of(key: &[u8]) -> Result<u64, StoreError> {
    let number = key.last_chunk().ok_or_else(|| damaged("the key of a pack of idempotency keys"))?;
    Ok(u64::from_be_bytes(*number))
}

/// An event that was given a key, whether or not it holds it still.
struct Keyed {
    holder: Holder,
    accepted_at: Timestamp,
    /// Whether it has ended, and whether its key was free then.
    ended: Option<bool>,
}

impl Keyed {
    fn holds(&self, now: Timestamp, kept: Duration) -> bool {
        self.ended.is_none_or(|free| !free && now < self.accepted_at.plus(kept))
    }
}

fn newer(found: &mut Option<Keyed>, other: Option<Keyed>) {
    let number = |keyed: &Option<Keyed>| keyed.as_ref().map(|keyed| keyed.holder.place.number);
    if number(&other) > number(found) {
        *found = other;
    }
}

/// The event that was born at `place`, if it was given that key. `body`: as the key's row has it, for an event of before there were packs.
fn keyed_at(draft: &Draft<'_>, place: Place, key: &[u8; 16], body: Option<[u8; 16]>) -> Result<Option<Keyed>, StoreError> {
    let waiting = again::find(place, |space, key| draft.get(space, key))?;
    let ended = match &waiting {
        Some(_) => None,
        None => draft.get(Space::Ends, &place.end_key())?,
    };
    let (facts, state, ended) = match (&waiting, &ended) {
        (Some((_, row)), _) => {
            let facts = decode_event(row)?.0;
            (facts, facts.waits_as(), None)
        }
        (None, Some(row)) => {
            let (facts, ending) = decode_end(row)?;
            (facts, ending.state, Some(ending.key_is_free))
        }
        (None, None) => return Ok(None),
    };
    if facts.idempotency.as_ref() != Some(key) {
        return Ok(None);
    }
    Ok(facts.body.or(body).map(|body| Keyed {
        holder: Holder { place, body, state },
        accepted_at: facts.accepted_at,
        ended,
    }))
}
