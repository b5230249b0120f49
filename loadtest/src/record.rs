//! What a device remembers across its sessions: the last number of each lane, and what it applied.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::event::Pushed;

/// One event that the device acted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Event id.
    pub id: String,
    /// Its lane.
    pub lane: String,
    /// Its number in the lane.
    pub seq: u64,
}

/// What became of an event that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its number is new in its lane: applied.
    Apply,
    /// Its number was passed already and it had been applied: acknowledged again, not applied.
    Repeat,
    /// Its number was passed already, but this event never came before: the service broke the order, the device would lose it.
    OutOfOrder,
}

/// The memory of one device. Keep it as long as the device is meant to live; sessions come and go.
#[derive(Debug, Default)]
pub struct Record(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    lanes: HashMap<String, u64>,
    applied: Vec<Applied>,
    ids: HashSet<String>,
    repeats: u64,
    out_of_order: Vec<Applied>,
    applied_twice: Vec<Applied>,
}

impl Record {
    /// Judges an event by its lane number alone, as the device guide says, and keeps it.
    pub fn judge(&self, event: &Pushed) -> Verdict {
        let mut memory = self.memory();
        let entry = Applied {
            id: event.id.clone(),
            lane: event.lane.clone(),
            seq: event.seq,
        };
        if memory.lanes.get(&event.lane).is_some_and(|last| event.seq <= *last) {
            if memory.ids.contains(&event.id) {
                memory.repeats += 1;
                return Verdict::Repeat;
            }
            memory.out_of_order.push(entry);
            return Verdict::OutOfOrder;
        }
        memory.lanes.insert(event.lane.clone(), event.seq);
        if !memory.ids.insert(event.id.clone()) && event.attempt.is_none_or(|attempt| attempt < 2) {
            memory.applied_twice.push(entry.clone());
        }
        memory.applied.push(entry);
        Verdict::Apply
    }

    /// Everything applied, in the order in which it was.
    pub fn applied(&self) -> Vec<Applied> {
        self.memory().applied.clone()
    }

    /// How many repeats were dropped by their number.
    pub fn repeats(&self) -> u64 {
        self.memory().repeats
    }

    /// Events whose number had been passed before they ever came.
    pub fn out_of_order(&self) -> Vec<Applied> {
        self.memory().out_of_order.clone()
    }

    /// Events that came again under a new number although the service did not say that it was a new attempt.
    pub fn applied_twice(&self) -> Vec<Applied> {
        self.memory().applied_twice.clone()
    }

    /// The last number of each lane.
    pub fn lanes(&self) -> HashMap<String, u64> {
        self.memory().lanes.clone()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, lane: &str, seq: u64, attempt: u32) -> Pushed {
        Pushed {
            id: id.into(),
            lane: lane.into(),
            seq,
            attempt: Some(attempt),
            ..Pushed::default()
        }
    }

    #[test]
    fn a_repeat_is_dropped_by_its_number_and_a_late_first_is_a_fault() {
        let record = Record::default();
        for (given, expected) in [
            (event("a", "normal.1", 1, 1), Verdict::Apply),
            (event("b", "normal.1", 3, 1), Verdict::Apply),
            (event("a", "normal.1", 1, 1), Verdict::Repeat),
            (event("c", "normal.1", 2, 1), Verdict::OutOfOrder),
            (event("d", "high.1", 1, 1), Verdict::Apply),
            (event("a", "normal.1", 4, 2), Verdict::Apply),
            (event("b", "normal.2", 1, 1), Verdict::Apply),
        ] {
            assert_eq!(record.judge(&given), expected, "{given:?}");
        }
        assert_eq!(record.applied().len(), 5);
        assert_eq!(record.repeats(), 1);
        assert_eq!(record.out_of_order().len(), 1);
        assert_eq!(
            record.applied_twice().iter().map(|twice| twice.id.as_str()).collect::<Vec<_>>(),
            ["b"]
        );
    }
}
