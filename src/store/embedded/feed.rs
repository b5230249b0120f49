//! The feed of presence: rows written in the step of the seat, and what is left of the seats of an earlier life.
//!
//! No row of it asks for a sync: a claim waits for none, and a process that is killed loses nothing that it handed to the operating
//! system. A power cut may take the last rows, and the seats that they tell of, together; positions begin anew above all of them with each
//! start.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;

use super::{
    EmbeddedStore,
    change::{NewChange, decode_change, decode_seat},
    draft::Draft,
    engine::{Engine, Space},
    keys,
    op::Op,
    positions::position_of,
    rows::Numbers,
    steps::Book,
};
use crate::{
    domain::{Departure, TenantId},
    store::{DeviceKey, Ended, Feed, FeedBounds, PresenceChange, Seat, StoreError, codec::damaged},
};

/// Rows of seats that one step looks at for one that it may end.
const LOOKS: usize = 10;

/// The epochs of a life begin above this one.
fn before(boot: u32) -> u64 {
    u64::from(boot) << 32
}

/// Positions of a life begin with this one.
pub(super) fn first_position(boot: u32) -> u64 {
    before(boot) | 1
}

/// The node whose sessions of the last life nobody ended. `None`: there were none, or every seat was given up.
pub(super) fn lost_node(engine: &Engine, boot: u32) -> Result<Option<Arc<str>>, StoreError> {
    let Some(last) = boot.checked_sub(1) else { return Ok(None) };
    for row in engine.prefix(Space::Rows, &[keys::SEAT]) {
        let (_, seat) = decode_seat(&row?.1)?;
        // Older ones were told at the start after their own life.
        if seat.epoch.0 > before(last) {
            return Ok(Some(seat.node));
        }
    }
    Ok(None)
}

/// The last position of each tenant's feed.
pub(super) fn tips(engine: &Engine, tenants: impl Iterator<Item = u16>) -> Result<HashMap<TenantId, u64>, StoreError> {
    let mut tips = HashMap::new();
    for tenant in tenants.map(TenantId) {
        let range = engine.range(Space::Log, &keys::change(tenant, 0), &keys::change(tenant, u64::MAX));
        if let Some((key, _)) = { range }.next_back().transpose()? {
            tips.insert(tenant, position_of(&key)?);
        }
    }
    Ok(tips)
}

/// What was there when the store was opened. Positions begin anew with each life, so that the first of a feed tells by itself that none
/// was dropped before it only where the feed began in this life.
pub(super) struct Opened {
    tenants: HashSet<TenantId>,
    first: u64,
}

impl Opened {
    pub(super) fn new(tips: &HashMap<TenantId, u64>, boot: u32) -> Self {
        Self {
            tenants: tips.keys().copied().collect(),
            first: first_position(boot),
        }
    }

    /// Whether a feed whose oldest row has that position has all its rows.
    fn is_whole(&self, tenant: TenantId, oldest: u64) -> bool {
        oldest == self.first && !self.tenants.contains(&tenant)
    }
}

/// How many changes there are behind a position: positions of one life have no holes, and a new life begins far above.
pub(super) fn newer(engine: &Engine, tenant: TenantId, position: u64, last: u64) -> Result<u64, StoreError> {
    let (mut count, mut at) = (0, position);
    while at >> 32 < last >> 32 {
        let end = at | u64::from(u32::MAX);
        let of_life = engine.range(Space::Log, &keys::change(tenant, at), &keys::change(tenant, end));
        let last_of_life = { of_life }.next_back().transpose()?;
        count += last_of_life.map_or(Ok(at), |(key, _)| position_of(&key))?.saturating_sub(at);
        let mut rest = engine.range(Space::Log, &keys::change(tenant, end + 1), &keys::change(tenant, last));
        let Some((key, _)) = rest.next().transpose()? else {
            return Ok(count);
        };
        at = position_of(&key)?;
        count += 1;
    }
    Ok(count + last.saturating_sub(at))
}

impl Book {
    /// Writes a row of the feed.
    pub(super) fn tell(&mut self, draft: &mut Draft<'_>, tenant: TenantId, change: &NewChange<'_>) {
        let last = match self.tips.get(&tenant) {
            Some(position) => *position,
            None => self.shared.tips.read().get(&tenant).copied().unwrap_or(0),
        };
        let position = (last + 1).max(first_position(self.boot));
        self.tips.insert(tenant, position);
        draft.put(Space::Log, keys::change(tenant, position), change.encode());
    }

    /// The seat that an earlier life left to the device.
    pub(super) fn left_behind(draft: &Draft<'_>, tenant: TenantId, ordinal: u32) -> Result<Option<Seat>, StoreError> {
        let row = draft.get(Space::Rows, &keys::seat(tenant, ordinal))?;
        Ok(row.map(|row| decode_seat(&row)).transpose()?.map(|(_, seat)| seat))
    }

    /// Ends seats of earlier lives.
    pub(super) fn end_lost_seats(&mut self, draft: &mut Draft<'_>, limit: usize) -> Result<Ended, StoreError> {
        let mut ended = Ended::default();
        let engine = draft.engine();
        let from = match &self.lost_after {
            Some(after) => [after.as_slice(), &[0]].concat(),
            None => vec![keys::SEAT],
        };
        let mut looks = limit.saturating_mul(LOOKS);
        for row in engine.range(Space::Rows, &from, &[keys::SEAT + 1]) {
            if looks == 0 || ended.seats >= limit as u64 {
                ended.more = true;
                return Ok(ended);
            }
            looks -= 1;
            let (key, _) = row?;
            self.lost_after = Some(key.to_vec());
            // As this commit leaves it: the device may be back.
            let Some(row) = draft.get(Space::Rows, &key)? else { continue };
            let (device, seat) = decode_seat(&row)?;
            if seat.epoch.0 > before(self.boot) {
                continue;
            }
            let (tenant, ordinal) = keys::read_seat(&key).ok_or_else(|| damaged("the key of a seat"))?;
            self.tell(
                draft,
                tenant,
                &NewChange::disconnected(&device, &seat, self.now, Departure::NodeLost),
            );
            let numbers_key = keys::numbers(tenant, ordinal);
            let mut numbers = match draft.get(Space::Rows, &numbers_key)? {
                Some(row) => Numbers::decode(&row)?,
                None => Numbers::default(),
            };
            numbers.last_seen_at = numbers.last_seen_at.max(Some(seat.connected_at));
            draft.put(Space::Rows, numbers_key, numbers.encode());
            draft.remove(Space::Rows, key);
            let device = DeviceKey { tenant, device };
            if let Some(state) = self.states.get_mut(&device)
                && state.ordinal == ordinal
            {
                state.numbers.last_seen_at = numbers.last_seen_at;
            }
            ended.seats += 1;
        }
        self.lost_after = None;
        Ok(ended)
    }
}

#[async_trait]
impl Feed for EmbeddedStore {
    async fn changes(&self, tenant: TenantId, after: u64, limit: usize) -> Result<Vec<PresenceChange>, StoreError> {
        // Rows of a commit that is under way may be seen one by one.
        let to = self.shared.tips.read().get(&tenant).copied().unwrap_or(0);
        let Some(from) = after.checked_add(1).filter(|from| *from <= to) else {
            return Ok(Vec::new());
        };
        self.shared.read(|engine| {
            engine
                .range(Space::Log, &keys::change(tenant, from), &keys::change(tenant, to))
                .take(limit)
                .map(|row| {
                    let (key, value) = row?;
                    decode_change(position_of(&key)?, &value)
                })
                .collect()
        })
    }

    async fn change_bounds(&self, tenant: TenantId) -> Result<FeedBounds, StoreError> {
        let newest = self.shared.tips.read().get(&tenant).copied().unwrap_or(0);
        if newest == 0 {
            return Ok(FeedBounds::default());
        }
        self.shared.read(|engine| {
            let oldest = engine
                .range(Space::Log, &keys::change(tenant, 0), &keys::change(tenant, newest))
                .next();
            let oldest = oldest.transpose()?.map_or(Ok(newest), |(key, _)| position_of(&key))?;
            let is_whole = self.shared.feeds.is_whole(tenant, oldest);
            Ok(FeedBounds {
                oldest: if is_whole { 1 } else { oldest },
                newest,
            })
        })
    }

    async fn end_lost_seats(&self, limit: usize) -> Result<Ended, StoreError> {
        if self.shared.lost_ended.load(Ordering::Relaxed) {
            return Ok(Ended::default());
        }
        let ended = self.ask(|answer| Op::EndLostSeats(limit.max(1), answer)).await??;
        if !ended.more {
            // No seat of an earlier life comes back.
            self.shared.lost_ended.store(true, Ordering::Relaxed);
        }
        Ok(ended)
    }
}
