//! What posters and devices of a push run share: one clock, and what was accepted and received.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use loadtest::{Answer, Error, event::Pushed, report::Times};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;

/// What posters and devices of this process share: one clock.
pub struct Board {
    pub start: Instant,
    pub patience: Duration,
    pub stop: AtomicBool,
    pub next: AtomicU64,
    pub tally: Mutex<Tally>,
    pub slots: Vec<Slot>,
}

/// Which event a poster waits for.
pub struct Slot {
    pub expects: AtomicU64,
    pub arrived: Notify,
}

#[derive(Default)]
pub struct Tally {
    pub measured: bool,
    pub post: Times,
    pub device: Times,
    pub accepted: Bits,
    pub received: Bits,
    pub accepted_count: u64,
    pub received_count: u64,
    pub repeats: u64,
    pub late: u64,
    pub refused: BTreeMap<u16, u64>,
    pub failed: BTreeMap<String, u64>,
    pub ids: Vec<String>,
    pub refusal: Option<String>,
}

/// A set of numbers from 0.
#[derive(Default, Serialize, Deserialize)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// Adds one; false when it was there.
    pub fn insert(&mut self, number: u64) -> bool {
        let at = usize::try_from(number / 64).unwrap_or(usize::MAX);
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        let Some(word) = self.0.get_mut(at) else { return false };
        let fresh = *word & (1 << (number % 64)) == 0;
        *word |= 1 << (number % 64);
        fresh
    }

    pub fn contains(&self, number: u64) -> bool {
        usize::try_from(number / 64)
            .ok()
            .and_then(|at| self.0.get(at))
            .is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    /// Adds all of another; answers how many were here already.
    pub fn add(&mut self, other: &Self) -> u64 {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        let mut twice = 0;
        for (ours, theirs) in self.0.iter_mut().zip(&other.0) {
            twice += u64::from((*ours & theirs).count_ones());
            *ours |= theirs;
        }
        twice
    }

    /// How many of ours the other lacks.
    pub fn without(&self, other: &Self) -> u64 {
        let theirs = other.0.iter().copied().chain(std::iter::repeat(0));
        self.0
            .iter()
            .zip(theirs)
            .map(|(ours, theirs)| u64::from((ours & !theirs).count_ones()))
            .sum()
    }
}

impl Board {
    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing posted yet, by nobody.
    pub fn new(start: Instant, patience: Duration) -> Self {
        Self {
            start,
            patience,
            stop: AtomicBool::new(false),
            next: AtomicU64::new(0),
            tally: Mutex::default(),
            slots: Vec::new(),
        }
    }

    /// An event was answered, so long after it should have been; or not. True when it was accepted.
    pub fn answered(&self, number: u64, answer: Result<Answer, Error>, took: Duration) -> bool {
        let mut tally = self.tally();
        match answer {
            Ok(answer) if answer.status == 202 => {
                tally.accepted.insert(number);
                tally.accepted_count += 1;
                if tally.measured {
                    tally.post.add(took);
                }
                if number.is_multiple_of(97)
                    && let Some(id) = answer.json().ok().and_then(|json| Some(json.get("id")?.as_str()?.to_owned()))
                {
                    tally.ids.push(id);
                }
                return true;
            }
            Ok(answer) => {
                *tally.refused.entry(answer.status).or_default() += 1;
                tally.refusal.get_or_insert_with(|| answer.text());
            }
            Err(error) => *tally.failed.entry(error.to_string()).or_default() += 1,
        }
        false
    }

    /// The events of one request were answered: as a summary, or line by line. True when all were accepted.
    pub fn answered_together(&self, numbers: std::ops::Range<u64>, answer: Result<Answer, Error>, took: Duration) -> bool {
        let mut tally = self.tally();
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                *tally.failed.entry(error.to_string()).or_default() += 1;
                return false;
            }
        };
        let lines = String::from_utf8_lossy(&answer.body).into_owned();
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines: Vec<Value> = lines.collect();
        let whole = lines.last().map(|last| last.get("summary").unwrap_or(last));
        let count = |name: &str| whole.and_then(|whole| whole.get(name)).and_then(Value::as_u64).unwrap_or(0);
        let accepted = count("accepted");
        if answer.status != 200 || accepted != numbers.end - numbers.start {
            *tally.refused.entry(answer.status).or_default() += 1;
            tally.refusal.get_or_insert_with(|| answer.text().chars().take(500).collect());
            return false;
        }
        for number in numbers {
            tally.accepted.insert(number);
        }
        tally.accepted_count += accepted;
        if tally.measured {
            tally.post.add(took);
        }
        let ids = lines.iter().filter_map(|line| line.get("id")?.as_str());
        tally.ids.extend(ids.step_by(97).map(str::to_owned));
        true
    }

    /// A device applied an event.
    pub fn arrived(&self, event: &Pushed) {
        let now = self.start.elapsed();
        let Some((poster, number, posted)) = marker(&event.json) else {
            return;
        };
        let mut tally = self.tally();
        if !tally.received.insert(number) {
            tally.repeats += 1;
            return;
        }
        tally.received_count += 1;
        if tally.measured {
            tally.device.add(now.saturating_sub(Duration::from_nanos(posted)));
        }
        drop(tally);
        if let Some(slot) = self.slots.get(poster).filter(|slot| slot.expects.load(Relaxed) == number) {
            slot.arrived.notify_one();
        }
    }
}

/// Reads `~poster.number.nanoseconds~` from an event's data.
pub fn marker(json: &str) -> Option<(usize, u64, u64)> {
    let mut parts = json.split('~').nth(1)?.split('.');
    Some((
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
        parts.next()?.parse().ok()?,
    ))
}

/// A native event whose data has `bytes` bytes of JSON, if the marker leaves room for that.
pub fn body(into: &mut String, device: &str, marker: &str, bytes: usize) {
    into.clear();
    native(into, device, marker, bytes);
}

/// Adds one.
pub fn native(into: &mut String, device: &str, marker: &str, bytes: usize) {
    into.extend(["{\"target\":{\"device\":\"", device, "\"},\"type\":\"load.push\",\"data\":"]);
    data(into, marker, bytes);
}

/// Adds the same as a CloudEvent, with the number as its id.
pub fn cloud(into: &mut String, number: u64, device: &str, marker: &str, bytes: usize) {
    let id = number.to_string();
    into.extend([
        "{\"specversion\":\"1.0\",\"id\":\"",
        &id,
        "\",\"source\":\"/load\",\"type\":\"load.push\",\"pushdevice\":\"",
    ]);
    into.extend([device, "\",\"data\":"]);
    data(into, marker, bytes);
}

fn data(into: &mut String, marker: &str, bytes: usize) {
    let data = format!("{{\"m\":\"{marker}\",\"p\":\"");
    let pad = bytes.saturating_sub(data.len() + 2);
    into.push_str(&data);
    into.extend(std::iter::repeat_n('x', pad));
    into.push_str("\"}}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_has_the_asked_size_and_the_marker_comes_back() {
        let mut request = String::new();
        body(&mut request, "load-7", "~3.99.123456789~", 300);
        let event: serde_json::Value = serde_json::from_str(&request).unwrap();
        assert_eq!(event["data"].to_string().len(), 300);
        let mut batch = String::from("[");
        cloud(&mut batch, 99, "load-7", "~3.99.123456789~", 300);
        let batch: serde_json::Value = serde_json::from_str(&(batch + "]")).unwrap();
        assert_eq!(
            (&batch[0]["data"], &batch[0]["pushdevice"], &batch[0]["id"]),
            (&event["data"], &"load-7".into(), &"99".into())
        );
        assert_eq!(marker(&event.to_string()), Some((3, 99, 123_456_789)));
        assert_eq!(marker("{}"), None);
    }

    #[test]
    fn losses_are_what_was_accepted_and_never_came() {
        let (mut accepted, mut received) = (Bits::default(), Bits::default());
        for number in 0..200 {
            assert!(accepted.insert(number));
            assert!(number == 7 || number > 190 || received.insert(number));
        }
        assert!(!received.insert(3));
        assert_eq!(
            (accepted.without(&received), received.contains(8), received.contains(7)),
            (10, true, false)
        );
        let mut elsewhere = Bits::default();
        assert!(elsewhere.insert(7) && elsewhere.insert(8) && elsewhere.insert(999));
        assert_eq!((received.add(&elsewhere), accepted.without(&received)), (1, 9));
        assert!(received.contains(999) && received.contains(7));
    }
}
