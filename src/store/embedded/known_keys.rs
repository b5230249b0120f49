//! Which idempotency keys a device has, so that the engine is not asked for each new one.
//!
//! Nearly every key is new. What its row of numbers and its packs have of a device's keys is in RAM while the device is: four bytes of each. They may say
//! yes to a key that is new, or is forgotten by now, and never no to one that is kept.

use std::time::Duration;

use super::{
    born,
    draft::Draft,
    engine::Space,
    key_pack::{KeyRef, PACK, RecentKeys, decode_pack, encode_pack, last_of, short},
    keys::{self, Place},
    record::{Kept, decode_end, decode_event},
};
use crate::{
    domain::{DeliveryState, Queue, TenantId, Timestamp},
    store::{Idempotency, StoreError},
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

/// An event that has a key.
pub(super) struct Holder {
    /// Where it was born.
    pub(super) place: Place,
    /// [`Idempotency::body`] of what asked for it.
    pub(super) body: [u8; 16],
    pub(super) state: DeliveryState,
}

/// The device that they are of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) tenant: TenantId,
    pub(super) ordinal: u32,
}

impl Owner {
    fn place(self, queue: Queue, number: u64) -> Place {
        Place {
            tenant: self.tenant,
            ordinal: self.ordinal,
            queue,
            number,
        }
    }

    fn packs(self, draft: &Draft<'_>) -> Result<Vec<KeyRef>, StoreError> {
        let mut refs = Vec::new();
        for (key, row) in draft.prefix(Space::Ends, &keys::key_packs(self.tenant, self.ordinal))? {
            refs.append(&mut decode_pack(last_of(&key)?, &row)?.1);
        }
        Ok(refs)
    }
}

impl KnownKeys {
    /// The event of `owner` that has that key: one that waits, or was accepted less than `kept` before `now`. `recent`: as the row of numbers has them.
    pub(super) fn holder(
        &mut self,
        recent: &mut RecentKeys,
        draft: &Draft<'_>,
        owner: Owner,
        key: &[u8; 16],
        now: Timestamp,
        kept: Duration,
    ) -> Result<Option<Holder>, StoreError> {
        self.read_packs(recent, draft, owner, now, kept)?;
        let short = short(key);
        let mut found: Option<Keyed> = None;
        let mut look = |refs: &[KeyRef]| {
            for each in refs.iter().filter(|each| each.short == short) {
                newer(&mut found, keyed_at(draft, owner.place(each.queue, each.number), key, None)?);
            }
            Ok::<_, StoreError>(())
        };
        look(&recent.refs)?;
        if self.may_be_packed(short) {
            look(&owner.packs(draft)?)?;
        }
        newer(&mut found, self.keyed_by_row(recent, draft, owner, key)?);
        // The newest event with that key: those before it had to end before it could be accepted.
        Ok(found.and_then(|found| found.holds(now, kept).then_some(found.holder)))
    }

    fn may_be_packed(&self, short: u32) -> bool {
        // In strides: one compares eight and more at once then.
        self.packed
            .chunks(64)
            .any(|some| some.iter().fold(false, |found, each| found | (*each == short)))
    }

    /// Reads what packs there are, unless that was done in the time that a key is kept.
    fn read_packs(
        &mut self,
        recent: &mut RecentKeys,
        draft: &Draft<'_>,
        owner: Owner,
        now: Timestamp,
        kept: Duration,
    ) -> Result<(), StoreError> {
        if self.until.is_some_and(|until| now < until) {
            return Ok(());
        }
        let packed: Vec<u32> = if recent.has_packs {
            owner.packs(draft)?.iter().map(|each| each.short).collect()
        } else {
            Vec::new()
        };
        recent.has_packs = !packed.is_empty();
        *self = Self {
            packed,
            until: Some(now.plus(kept)),
            asked: 0,
        };
        Ok(())
    }

    fn keyed_by_row(
        &mut self,
        recent: &mut RecentKeys,
        draft: &Draft<'_>,
        owner: Owner,
        key: &[u8; 16],
    ) -> Result<Option<Keyed>, StoreError> {
        if !recent.has_rows {
            return Ok(None);
        }
        let row_key = keys::idempotency(owner.tenant, owner.ordinal, key);
        if self.asked == ASKED_MAX {
            let any = draft.keys(Space::Ends, keys::of_same_device(&row_key)).next().transpose()?;
            recent.has_rows = any.is_some();
        }
        self.asked = self.asked.saturating_add(1);
        let Some(row) = draft.get(Space::Ends, &row_key)? else {
            return Ok(None);
        };
        let row = Kept::decode(&row)?;
        keyed_at(draft, owner.place(row.queue, row.number), key, Some(row.body))
    }

    /// The event that is new at `place` has this key.
    pub(super) fn add(
        &mut self,
        recent: &mut RecentKeys,
        draft: &mut Draft<'_>,
        place: Place,
        idempotency: &Idempotency,
        accepted_at: Timestamp,
    ) {
        if self.packed.len() + PACK > PACKED_MAX {
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
            self.packed.extend(refs.iter().map(|each| each.short));
            recent.has_packs = true;
        }
    }
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
    let waiting = born::find(place, |space, key| draft.get(space, key))?;
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
