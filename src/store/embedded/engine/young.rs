//! Rows that were written lately, and have no place of their own yet.
//!
//! Most events end within a second. A row for each in the engine's tables, and a tombstone soon after, is work that nobody ever reads. So
//! what one commit changes of young rows is one row of the engine, a *block*, and the rows are in RAM. Events that end while they are
//! young never reach a table; of the numbers of a busy device only the last do.
//!
//! Blocks go in the order in which they came. With the oldest one, in the same commit, goes what is still young since then: it gets its
//! row. So what the store holds is at any moment the engine's rows, and over them the blocks in their order: that is also how it is read
//! back when the engine is opened.
//!
//! A row that is young is changed and removed here alone, except that what may lie beneath is removed with it. A row that is not is the
//! engine's, and no block that is left knows its key. Both rules keep a block from bringing back what is gone.

use std::collections::{BTreeMap, VecDeque};

use fjall::Slice;

use super::{
    changes::{self, Change, Changes},
    keyspace::Space,
};
use crate::store::{
    StoreError,
    codec::{Decoder, Encoder, damaged},
    embedded::keys::EventKey,
};

const VERSION: u8 = 1;

/// The key of a row that can be young, and in which keyspace it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    /// An event that waits. As a number, which keeps the order of the keys.
    Event(u128),
    /// The last numbers of a device. Older ones may lie beneath.
    Numbers(u64),
}

const EVENT: u8 = 0;
const NUMBERS: u8 = 1;
/// In the first byte of a change in a block, besides the kind of its key.
const PUT: u8 = 0x80;

/// The number that an event's key is.
fn event(key: &EventKey) -> u128 {
    let mut bytes = [0; 16];
    bytes[..15].copy_from_slice(key);
    u128::from_be_bytes(bytes)
}

impl Key {
    /// `None`: a row that is never young.
    fn of(space: Space, key: &[u8]) -> Option<Self> {
        match space {
            Space::Events => key.try_into().ok().map(|key| Self::Event(event(key))),
            Space::Rows => {
                let [b's', rest @ ..] = <[u8; 7]>::try_from(key).ok()? else {
                    return None;
                };
                let [a, b, c, d, e, f] = rest;
                Some(Self::Numbers(u64::from_be_bytes([0, 0, a, b, c, d, e, f])))
            }
            Space::Ends | Space::Log => None,
        }
    }

    fn space(self) -> Space {
        match self {
            Self::Event(_) => Space::Events,
            Self::Numbers(_) => Space::Rows,
        }
    }

    fn bytes(self) -> Slice {
        match self {
            Self::Event(key) => Slice::from(&key.to_be_bytes()[..15]),
            Self::Numbers(key) => {
                let mut bytes = key.to_be_bytes();
                bytes[1] = b's';
                Slice::from(&bytes[1..])
            }
        }
    }

    fn encode(self, row: Option<&[u8]>, into: &mut Encoder) {
        let put = row.map_or(0, |_| PUT);
        match self {
            Self::Event(key) => into.byte(EVENT | put).raw(&key.to_be_bytes()[..15]),
            Self::Numbers(key) => into.byte(NUMBERS | put).raw(&key.to_be_bytes()[2..]),
        };
        if let Some(row) = row {
            into.number(row.len() as u64).raw(row);
        }
    }
}

/// One change of a young row. `None` removes.
type Changed = (Key, Option<Slice>);

struct Row {
    row: Slice,
    /// The block that has it.
    block: u64,
}

struct Block {
    number: u64,
    bytes: usize,
    /// What it put.
    keys: Vec<Key>,
    /// How many of those are young still, as this block has them.
    live: usize,
}

/// All that is young.
#[derive(Default)]
pub(super) struct Young {
    events: BTreeMap<u128, Row>,
    numbers: BTreeMap<u64, Row>,
    /// Oldest first; their numbers have no gap.
    blocks: VecDeque<Block>,
    /// Of all blocks.
    bytes: usize,
    /// The number of the next block.
    next: u64,
}

/// What one commit is for the engine.
#[derive(Default)]
pub(super) struct Step {
    /// Rows of the keyspaces, in the order in which they are to appear: the end of an event before the event goes, so that a reader who
    /// asks for the event first finds one of the two. `None` removes.
    pub(super) rows: Vec<(Space, Slice, Option<Slice>)>,
    /// Rows of the keyspace of blocks. `None` removes.
    pub(super) blocks: Vec<(Slice, Option<Slice>)>,
    /// For [`Young::follow`] once the commit holds.
    pub(super) then: Then,
}

/// What becomes of the young rows by a commit.
#[derive(Default)]
pub(super) struct Then {
    /// So many of the oldest blocks are gone.
    retired: usize,
    /// What the new block has. Empty: there is none.
    changed: Vec<Changed>,
    /// Of the new block.
    bytes: usize,
}

impl Young {
    /// Reads blocks in the order of their keys.
    pub(super) fn read(blocks: impl Iterator<Item = Result<(Slice, Slice), StoreError>>) -> Result<Self, StoreError> {
        let mut young = Self::default();
        for block in blocks {
            let (key, bytes) = block?;
            let number = <[u8; 8]>::try_from(&*key).map_err(|_| damaged("the key of a block of young rows"))?;
            young.next = u64::from_be_bytes(number);
            young.follow(Then {
                retired: 0,
                changed: decode(&bytes)?,
                bytes: bytes.len(),
            });
        }
        Ok(young)
    }

    fn row(&self, key: Key) -> Option<&Row> {
        match key {
            Key::Event(key) => self.events.get(&key),
            Key::Numbers(key) => self.numbers.get(&key),
        }
    }

    /// Puts or removes a row. What was there is not live any more.
    fn set(&mut self, key: Key, row: Option<Row>) {
        let before = match (key, row) {
            (Key::Event(key), Some(row)) => self.events.insert(key, row),
            (Key::Event(key), None) => self.events.remove(&key),
            (Key::Numbers(key), Some(row)) => self.numbers.insert(key, row),
            (Key::Numbers(key), None) => self.numbers.remove(&key),
        };
        let (Some(before), Some(oldest)) = (before, self.blocks.front()) else {
            return;
        };
        let at = before.block.checked_sub(oldest.number).and_then(|at| usize::try_from(at).ok());
        if let Some(block) = at.and_then(|at| self.blocks.get_mut(at)) {
            block.live -= 1;
        }
    }

    /// A row that is young.
    pub(super) fn get(&self, space: Space, key: &[u8]) -> Option<&Slice> {
        Some(&self.row(Key::of(space, key)?)?.row)
    }

    /// Young events from `from` on, in order, as long as their keys are `within`.
    pub(super) fn events(&self, from: &[u8], within: impl Fn(&[u8]) -> bool) -> Vec<(Slice, Slice)> {
        // What is missing is 0. A longer key than an event's is behind the event whose key it begins with.
        let mut first = [0; 15];
        let known = from.len().min(15);
        first[..known].copy_from_slice(&from[..known]);
        let from = event(&first) + u128::from(from.len() > 15);
        let rows = self
            .events
            .range(from..)
            .map(|(key, row)| (Key::Event(*key).bytes(), row.row.clone()));
        rows.take_while(|(key, _)| within(key)).collect()
    }

    /// Splits the changes of one commit, and retires the oldest blocks until those that are left and the new one have about `bytes_max`,
    /// or the new one is alone.
    pub(super) fn step(&self, changes: [Changes; 4], bytes_max: usize) -> Step {
        let [events, ends, log, rows] = changes;
        let mut step = Step::default();
        let all = |space, changes: Changes| changes.into_iter().map(move |(key, change)| (space, key.bytes, change.row));
        step.rows.extend(all(Space::Ends, ends).chain(all(Space::Log, log)));

        let new = 1 + events
            .iter()
            .chain(&rows)
            .map(|(key, change)| change.young_bytes(&key.bytes))
            .sum::<usize>();
        let mut left = self.bytes + new;
        for old in &self.blocks {
            if left <= bytes_max && old.live > 0 {
                break;
            }
            left -= old.bytes;
            step.then.retired += 1;
            step.blocks.push((Slice::from(old.number.to_be_bytes()), None));
            let keys = if old.live == 0 { [].as_slice() } else { &old.keys };
            for key in keys {
                let Some(row) = self.row(*key).filter(|row| row.block == old.number) else {
                    continue;
                };
                let bytes = key.bytes();
                // What this commit changes itself gets no row from before.
                let changes = match key {
                    Key::Event(_) => &events,
                    Key::Numbers(_) => &rows,
                };
                let changed = changes.contains_key(&bytes.clone().into());
                if !changed {
                    step.rows.push((key.space(), bytes, Some(row.row.clone())));
                }
            }
        }

        let mut block = Encoder::with_capacity(new);
        block.byte(VERSION);
        for (space, changes) in [(Space::Rows, rows), (Space::Events, events)] {
            for (changes::Key { bytes: key, .. }, Change { row, young }) in changes {
                let Some(young) = Key::of(space, &key).filter(|key| young || self.row(*key).is_some()) else {
                    step.rows.push((space, key, row));
                    continue;
                };
                young.encode(row.as_deref(), &mut block);
                if row.is_none() && matches!(young, Key::Numbers(_)) {
                    step.rows.push((space, key, None));
                }
                step.then.changed.push((young, row));
            }
        }
        if !step.then.changed.is_empty() {
            let bytes = block.finish();
            step.then.bytes = bytes.len();
            step.blocks.push((Slice::from(self.next.to_be_bytes()), Some(bytes.into())));
        }
        step
    }

    /// A step of these rows is committed.
    pub(super) fn follow(&mut self, then: Then) {
        for _ in 0..then.retired {
            let Some(block) = self.blocks.pop_front() else { break };
            self.bytes -= block.bytes;
            if block.live > 0 {
                for key in block.keys {
                    if self.row(key).is_some_and(|row| row.block == block.number) {
                        self.set(key, None);
                    }
                }
            }
        }
        if then.changed.is_empty() {
            return;
        }
        let number = self.next;
        self.next += 1;
        self.bytes += then.bytes;
        let mut keys = Vec::with_capacity(then.changed.len());
        for (key, row) in then.changed {
            if row.is_some() {
                keys.push(key);
            }
            self.set(key, row.map(|row| Row { row, block: number }));
        }
        self.blocks.push_back(Block {
            number,
            bytes: then.bytes,
            live: keys.len(),
            keys,
        });
    }
}

fn decode(block: &[u8]) -> Result<Vec<Changed>, StoreError> {
    let mut from = Decoder::new(block, "a block of young rows");
    from.version(VERSION)?;
    let mut changed = Vec::new();
    while !from.rest().is_empty() {
        let code = from.byte()?;
        let key = match code & !PUT {
            EVENT => Key::Event(event(&from.array()?)),
            NUMBERS => {
                let [a, b, c, d, e, f] = from.array()?;
                Key::Numbers(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
            }
            _ => return Err(from.damaged()),
        };
        let row = if code & PUT == 0 {
            None
        } else {
            let length = usize::try_from(from.number()?).map_err(|_| from.damaged())?;
            Some(Slice::from(from.raw(length)?))
        };
        changed.push((key, row));
    }
    Ok(changed)
}
