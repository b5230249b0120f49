//! Housekeeping in bounded rounds: ends what expired, drops what was kept long enough.
//!
//! A round walks rows in the order of their keys and goes on where the last one stopped, so no index by time is needed.

use std::{collections::HashMap, time::Duration};

use fjall::Slice;

use super::{
    EmbeddedStore, Shared,
    audit::Audited,
    born, change,
    engine::{Engine, Space},
    feed, groups,
    key_pack::{decode_pack, last_of},
    keys::{self, Place},
    op::Op,
    positions::position_of,
    receipt::Packed,
    record::{self, Kept, decode_end, decode_event},
    rows::DeviceHead,
};
use crate::{
    domain::{DeliveryState, Outcome, Queue, TenantId, Timestamp},
    store::{DeviceKey, Mailbox, Settle, StoreError, Swept, audit::written_at, codec::damaged},
};

/// What a round walks, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Events,
    Ends,
    KeyPacks,
    Idempotency,
    Groups,
    Receipts,
    Changes,
    Audit,
    Devices,
}

impl Part {
    fn space(self) -> Space {
        match self {
            Self::Events => Space::Events,
            Self::Ends | Self::KeyPacks | Self::Idempotency | Self::Groups => Space::Ends,
            Self::Receipts | Self::Changes | Self::Audit => Space::Log,
            Self::Devices => Space::Rows,
        }
    }

    /// The first and the last key of the part.
    fn bounds(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Self::Events => (b"", &[0xff; 16]),
            Self::Ends => (b"s", b"t"),
            Self::KeyPacks => (b"I", b"J"),
            Self::Idempotency => (b"i", b"j"),
            Self::Groups => (keys::GROUPS, b"h"),
            Self::Receipts => (b"r", b"s"),
            Self::Changes => (b"p", b"q"),
            Self::Audit => (b"a", b"b"),
            Self::Devices => (b"d", b"e"),
        }
    }

    fn next(self) -> Option<Self> {
        match self {
            Self::Events => Some(Self::Ends),
            Self::Ends => Some(Self::KeyPacks),
            Self::KeyPacks => Some(Self::Idempotency),
            Self::Idempotency => Some(Self::Groups),
            Self::Groups => Some(Self::Receipts),
            Self::Receipts => Some(Self::Changes),
            Self::Changes => Some(Self::Audit),
            Self::Audit => Some(Self::Devices),
            Self::Devices => None,
        }
    }
}

/// Where the last round stopped.
pub(super) struct Sweeper {
    part: Part,
    /// The last key that was looked at.
    after: Option<Vec<u8>>,
    /// Acceptance of the oldest event seen in this pass; `u64::MAX`: none yet.
    oldest: u64,
}

impl Default for Sweeper {
    fn default() -> Self {
        Self {
            part: Part::Events,
            after: None,
            oldest: u64::MAX,
        }
    }
}

/// What a walk found to do.
#[derive(Default)]
struct Found {
    expired: Vec<Settle>,
    dropped: Vec<(Space, Slice, Slice)>,
    /// How many of them are of the audit log of each tenant.
    audited: HashMap<TenantId, u64>,
    complete: bool,
}

pub(super) async fn round(store: &EmbeddedStore, now: Timestamp) -> Result<Swept, StoreError> {
    // One round at a time; whoever comes second waits for its turn.
    let mut sweeper = store.sweeper.lock().await;
    let shared = std::sync::Arc::clone(&store.shared);
    let taken = std::mem::take(&mut *sweeper);
    let walked = tokio::task::spawn_blocking(move || {
        let mut sweeper = taken;
        let found = shared.read(|engine| walk(&shared, engine, &mut sweeper, now));
        (sweeper, found)
    })
    .await;
    let (after, found) = walked.map_err(|e| StoreError::Unavailable(e.to_string().into()))?;
    // A round that fails starts the pass anew.
    let found = found?;
    *sweeper = after;

    let mut swept = Swept {
        complete: found.complete,
        ..Swept::default()
    };
    for end in store.settle(found.expired).await {
        swept.expired += u64::from(matches!(end?, crate::store::Settled::Now { .. }));
    }
    if !found.dropped.is_empty() {
        swept.dropped = store.ask(|answer| Op::Forget(found.dropped, answer)).await??;
    }
    if found.complete {
        swept.dropped += store.sweep_webhooks().await?;
    }
    Ok(swept)
}

fn walk(shared: &Shared, engine: &Engine, sweeper: &mut Sweeper, now: Timestamp) -> Result<Found, StoreError> {
    let mut found = Found::default();
    let mut budget = shared.config.sweep_rows.max(1);
    loop {
        let (first, last) = sweeper.part.bounds();
        let from = match &sweeper.after {
            Some(after) => [after.as_slice(), &[0]].concat(),
            None => first.to_vec(),
        };
        let mut jump = None;
        let mut stopped = false;
        for row in engine.range(sweeper.part.space(), &from, last) {
            if budget == 0 || found.expired.len() >= ENDS_MAX {
                stopped = true;
                break;
            }
            budget -= 1;
            let (key, value) = row?;
            sweeper.after = Some(key.to_vec());
            let look = look(shared, engine, sweeper, &key, &value, now, &mut found);
            match look {
                Ok(None) => {}
                Ok(Some(next)) => {
                    jump = Some(next);
                    break;
                }
                // A damaged row stays for the operator to see; the rest is swept.
                Err(StoreError::Corrupt(what)) => tracing::error!(record = %what, "the sweeper met a damaged record ({what}); it stays"),
                Err(other) => return Err(other),
            }
        }
        if let Some(next) = jump {
            sweeper.after = Some(next);
            continue;
        }
        if stopped {
            return Ok(found);
        }
        sweeper.after = None;
        if sweeper.part == Part::Events {
            let oldest = std::mem::replace(&mut sweeper.oldest, u64::MAX);
            let oldest = if oldest == u64::MAX { 0 } else { oldest };
            shared.oldest_queued.store(oldest, std::sync::atomic::Ordering::Relaxed);
        }
        match sweeper.part.next() {
            Some(next) => sweeper.part = next,
            None => {
                sweeper.part = Part::Events;
                found.complete = true;
                return Ok(found);
            }
        }
    }
}

/// Events that one round ends at most.
const ENDS_MAX: usize = 1_000;

/// Whether the event whose state row has that key waits.
fn waits(engine: &Engine, end: &[u8]) -> Result<bool, StoreError> {
    let born = end.get(1..).and_then(Place::read).ok_or_else(|| damaged("the key of a state"))?;
    Ok(born::find(born, |space, key| engine.get(space, key))?.is_some())
}

/// Whether an event waits that the row of idempotency keys with that key leads to: it holds its own for as long.
fn holder_waits(engine: &Engine, key: &[u8], queue: Queue, number: u64) -> Result<bool, StoreError> {
    let head = key.get(1..7).ok_or_else(|| damaged("the key of an idempotency key"))?;
    waits(engine, &[b"s", head, &[keys::queue_byte(queue)], &number.to_be_bytes()].concat())
}

/// Looks at one row. Answers a key to go on behind when the rest up to it need not be looked at.
fn look(
    shared: &Shared,
    engine: &Engine,
    sweeper: &mut Sweeper,
    key: &Slice,
    value: &Slice,
    now: Timestamp,
    found: &mut Found,
) -> Result<Option<Vec<u8>>, StoreError> {
    let limits = &shared.limits;
    let mut drop_row = |space| found.dropped.push((space, key.clone(), value.clone()));
    match sweeper.part {
        Part::Events => {
            let place = Place::read(key).ok_or_else(|| damaged("the key of an event"))?;
            let (facts, _) = decode_event(value)?;
            if facts.expires_at() > now {
                // One that is scheduled is not late.
                if facts.waits_as() == DeliveryState::Queued {
                    sweeper.oldest = sweeper.oldest.min(facts.deliverable_from().0);
                }
                return Ok(None);
            }
            let device = DeviceKey {
                tenant: place.tenant,
                device: record::device_id(facts.device)?,
            };
            let bucket = device.bucket();
            found.expired.push(Settle {
                device,
                id: shared.ids.seal(facts.born(place).located(bucket)),
                located: place.located(bucket),
                outcome: Outcome::Expired,
                at: now,
                epoch: None,
                told: None,
            });
        }
        Part::Ends => {
            let ending = decode_end(value)?.1;
            let old = now >= ending.at.plus(Duration::from_secs(limits.state_kept_secs));
            if old && !(ending.waits_at.is_some() && waits(engine, key)?) {
                drop_row(Space::Ends);
            }
        }
        Part::KeyPacks => {
            let (newest, refs) = decode_pack(last_of(key)?, value)?;
            if now >= newest.plus(shared.idempotency_kept()) {
                for each in refs {
                    if holder_waits(engine, key, each.queue, each.number)? {
                        return Ok(None);
                    }
                }
                drop_row(Space::Ends);
            }
        }
        Part::Idempotency => {
            let kept = Kept::decode(value)?;
            if now >= kept.accepted_at.plus(shared.idempotency_kept()) && !holder_waits(engine, key, kept.queue, kept.number)? {
                drop_row(Space::Ends);
            }
        }
        Part::Groups => {
            let place = keys::read_group(key).ok_or_else(|| damaged("the key of a group"))?;
            let group = groups::decode(place, value)?;
            if group.is_finished() && now >= groups::over_at(&group, Duration::from_secs(limits.state_kept_secs)) {
                drop_row(Space::Ends);
                if let Some(kept) = groups::key_row(&group)
                    && let Some(row) = engine.get(Space::Ends, &kept)?
                    && groups::is_key_of(&row, &group)?
                {
                    found.dropped.push((Space::Ends, kept.into(), row));
                }
            }
        }
        part @ (Part::Receipts | Part::Changes) => {
            let tenant = key.get(1..3).and_then(|bytes| <[u8; 2]>::try_from(bytes).ok());
            let tenant = TenantId(u16::from_be_bytes(tenant.ok_or_else(|| damaged("the key of a receipt"))?));
            let position = position_of(key)?;
            let (last_key, written_at, kept_secs, most) = if part == Part::Receipts {
                let written_at = Packed::of(position, value)?.written_at()?;
                (
                    keys::receipt(tenant, u64::MAX),
                    written_at,
                    limits.receipts_kept_secs,
                    limits.receipts_max,
                )
            } else {
                let written_at = change::change_time(value)?;
                let (kept, most) = (limits.presence_changes_kept_secs, limits.presence_changes_max);
                (keys::change(tenant, u64::MAX), written_at, kept, most)
            };
            let last = engine.range(Space::Log, key, &last_key).next_back().transpose()?;
            let last = last.map_or(Ok(position), |(key, _)| position_of(&key))?;
            let behind = |position, last| match part {
                Part::Changes => feed::newer(engine, tenant, position, last),
                _ => Ok(last - position),
            };
            let old = now >= written_at.plus(Duration::from_secs(kept_secs));
            // The last one stays: the next position is counted from it.
            if position < last && (old || behind(position, last)? >= most) {
                drop_row(Space::Log);
            } else {
                // The rest of this tenant is younger.
                return Ok(Some(last_key.to_vec()));
            }
        }
        Part::Audit => {
            let tenant = keys::tenant_of(key).ok_or_else(|| damaged("the key of an entry of the audit log"))?;
            let written_at = written_at(position_of(key)?);
            let old = now >= written_at.plus(Duration::from_secs(limits.audit_kept_secs));
            // Those that this round has found are there still.
            let going = found.audited.entry(tenant).or_default();
            let there = Audited::decode(engine.get(Space::Log, &keys::audited(tenant))?.as_deref())?.count;
            if !old && there.saturating_sub(*going) <= limits.audit_max {
                // The rest of this tenant is younger.
                return Ok(Some(keys::audit(tenant, u64::MAX).to_vec()));
            }
            *going += 1;
            found.dropped.push((Space::Log, key.clone(), value.clone()));
        }
        Part::Devices => {
            let head = DeviceHead::decode(value)?;
            if head.removed && now >= head.updated_at.plus(Duration::from_secs(limits.tombstone_kept_secs)) {
                drop_row(Space::Rows);
                let tenant = key.get(1..3).and_then(|bytes| <[u8; 2]>::try_from(bytes).ok());
                let tenant = TenantId(u16::from_be_bytes(tenant.ok_or_else(|| damaged("the key of a device"))?));
                let numbers = keys::numbers(tenant, head.ordinal);
                if let Some(row) = engine.get(Space::Rows, &numbers)? {
                    found.dropped.push((Space::Rows, numbers.into(), row));
                }
            }
        }
    }
    Ok(None)
}
