//! What one webhook has to send, pure: receipts and the time in, the next one to send and what to store out.
//!
//! Receipts of one device keep their order: while one of them waits to be sent again, those behind it wait, and those of other devices
//! go on. What waits has a row in the store, so that the cursor may pass it; everything else that was read and not sent yet holds the
//! cursor, so that whoever comes next reads it again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    mem,
    time::Duration,
};

use super::Config;
use crate::{
    domain::Timestamp,
    store::{Receipt, Unsent},
};

/// A receipt that was read and is not done.
struct Open {
    unsent: Unsent,
    /// It waits to be sent again, or behind one that does.
    waits: bool,
    /// The store has a row of it.
    stored: bool,
}

/// The receipts of one webhook.
pub(super) struct Queue {
    open: BTreeMap<u64, Open>,
    /// Of each device, in order. The first is being sent, or is among `due`.
    devices: HashMap<String, VecDeque<u64>>,
    /// When the first of each device is to be sent.
    due: BTreeSet<(Timestamp, u64)>,
    waiting: usize,
    /// Devices whose first receipt waits.
    stuck: usize,
    /// The last position that was read.
    read: u64,
    changed: BTreeSet<u64>,
    done: Vec<u64>,
    dead: Vec<Unsent>,
}

/// What is to be stored.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Delta {
    /// Rows of receipts that wait.
    pub(super) waiting: Vec<Unsent>,
    /// Rows that are to go.
    pub(super) done: Vec<u64>,
    /// Rows of dead letters.
    pub(super) dead: Vec<Unsent>,
}

impl Queue {
    /// Goes on behind `cursor`, with what waits.
    pub(super) fn new(cursor: u64, waiting: Vec<Unsent>) -> Self {
        let mut queue = Self {
            open: BTreeMap::new(),
            devices: HashMap::new(),
            due: BTreeSet::new(),
            waiting: 0,
            stuck: 0,
            read: cursor,
            changed: BTreeSet::new(),
            done: Vec::new(),
            dead: Vec::new(),
        };
        for unsent in waiting {
            queue.add(Open {
                unsent,
                waits: true,
                stored: true,
            });
        }
        queue
    }

    /// The position behind which receipts are to be read.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// There is nothing between what was read and that position, or nothing any more behind it: reading goes on behind it.
    pub(super) fn go_on_behind(&mut self, position: u64) {
        self.read = position;
    }

    /// How many more receipts may be read now.
    pub(super) fn room(&self, config: &Config) -> usize {
        if self.waiting >= config.waiting_max.max(1) || self.stuck >= config.stuck_devices_max.max(1) {
            return 0;
        }
        config.window_max.max(1).saturating_sub(self.open.len() - self.waiting)
    }

    /// Takes receipts in, in order; `read`: all up to there were read.
    pub(super) fn take(&mut self, receipts: impl IntoIterator<Item = Receipt>, read: u64, now: Timestamp) {
        for receipt in receipts {
            // Its device waits, so that it is not sent for now; its row says so, and the cursor passes it.
            let lane = self.devices.get(&receipt.device).and_then(|lane| lane.front());
            let waits = lane.and_then(|first| self.open.get(first)).is_some_and(|first| first.waits);
            let unsent = Unsent {
                receipt,
                since: now,
                attempts: 0,
                at: now,
                error: None,
            };
            self.add(Open {
                unsent,
                waits,
                stored: false,
            });
        }
        self.read = self.read.max(read);
    }

    fn add(&mut self, open: Open) {
        let position = open.unsent.receipt.position;
        if self.open.contains_key(&position) {
            return;
        }
        let lane = self.devices.entry(open.unsent.receipt.device.clone()).or_default();
        lane.push_back(position);
        if lane.len() == 1 {
            self.due.insert((open.unsent.at, position));
            self.stuck += usize::from(open.waits);
        }
        if open.waits {
            self.waiting += 1;
            if !open.stored {
                self.changed.insert(position);
            }
        }
        self.open.insert(position, open);
    }

    /// The next one to send. It is being sent from here on, until it is [`Self::sent`], [`Self::put_off`] or [`Self::give_up`].
    pub(super) fn next(&mut self, now: Timestamp) -> Option<Unsent> {
        let (at, position) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        self.open.get(&position).map(|open| open.unsent.clone())
    }

    /// When there will be one.
    pub(super) fn due_at(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// It was taken.
    pub(super) fn sent(&mut self, position: u64) {
        self.end(position);
    }

    /// It failed, and is to be sent again at that time: it waits now, and all of its device with it.
    pub(super) fn put_off(&mut self, position: u64, at: Timestamp, error: String) {
        let Some(open) = self.open.get_mut(&position) else { return };
        open.unsent.attempts = open.unsent.attempts.saturating_add(1);
        open.unsent.at = at;
        open.unsent.error = Some(error);
        self.changed.insert(position);
        self.due.insert((at, position));
        if open.waits {
            return;
        }
        self.stuck += 1;
        let lane = self.devices.get(&open.unsent.receipt.device).cloned().unwrap_or_default();
        for position in lane {
            if let Some(open) = self.open.get_mut(&position)
                && !mem::replace(&mut open.waits, true)
            {
                self.waiting += 1;
                self.changed.insert(position);
            }
        }
    }

    /// It failed once too often: it becomes a dead letter, and those behind it go on.
    pub(super) fn give_up(&mut self, position: u64, now: Timestamp, error: String) {
        if let Some(mut unsent) = self.end(position) {
            unsent.attempts = unsent.attempts.saturating_add(1);
            unsent.at = now;
            unsent.error = Some(error);
            self.dead.push(unsent);
        }
    }

    /// It is being sent no more, and nothing came of it.
    pub(super) fn put_back(&mut self, position: u64) {
        if let Some(open) = self.open.get(&position) {
            self.due.insert((open.unsent.at, position));
        }
    }

    fn end(&mut self, position: u64) -> Option<Unsent> {
        let open = self.open.remove(&position)?;
        self.changed.remove(&position);
        if open.stored {
            self.done.push(position);
        }
        if open.waits {
            self.waiting -= 1;
            self.stuck -= 1;
        }
        let device = &open.unsent.receipt.device;
        if let Some(lane) = self.devices.get_mut(device) {
            lane.pop_front();
            match lane.front().and_then(|next| self.open.get(next).map(|open| (*next, open))) {
                Some((next, open)) => {
                    self.due.insert((open.unsent.at, next));
                    self.stuck += usize::from(open.waits);
                }
                None => {
                    self.devices.remove(device);
                }
            }
        }
        Some(open.unsent)
    }

    /// The receiver is back: what waits need not wait much longer. `spread`: over so long.
    pub(super) fn hurry(&mut self, now: Timestamp, spread: Duration) {
        let last = now.plus(spread);
        let heads: Vec<(Timestamp, u64)> = self.due.iter().filter(|(at, _)| *at > last).copied().collect();
        let step = spread
            .checked_div(u32::try_from(heads.len()).unwrap_or(u32::MAX))
            .unwrap_or_default();
        let mut at = now;
        for head in heads {
            at = at.plus(step);
            self.due.remove(&head);
            self.due.insert((at, head.1));
            if let Some(open) = self.open.get_mut(&head.1) {
                open.unsent.at = at;
            }
        }
    }

    /// All receipts up to there are done, or will have a row.
    pub(super) fn cursor(&self) -> u64 {
        let holds = self.open.iter().find(|(_, open)| !open.waits);
        holds.map_or(self.read, |(position, _)| position.saturating_sub(1))
    }

    /// What is to be stored, at once with [`Self::cursor`].
    pub(super) fn delta(&mut self) -> Delta {
        let mut waiting = Vec::with_capacity(self.changed.len());
        for position in mem::take(&mut self.changed) {
            if let Some(open) = self.open.get_mut(&position) {
                open.stored = true;
                waiting.push(open.unsent.clone());
            }
        }
        Delta {
            waiting,
            done: mem::take(&mut self.done),
            dead: mem::take(&mut self.dead),
        }
    }

    /// Whether there is nothing to store.
    pub(super) fn is_clean(&self) -> bool {
        self.changed.is_empty() && self.done.is_empty() && self.dead.is_empty()
    }

    /// Receipts that wait to be sent again, or behind one that does.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// When the oldest receipt that is not done came to its state.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.open.first_key_value().map(|(_, open)| open.unsent.receipt.at)
    }
}

#[cfg(test)]
mod tests;
