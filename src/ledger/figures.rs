//! The figures of a minute as the store keeps them: names and amounts, which only ever add up.

use std::collections::BTreeMap;

use super::{
    Config,
    cell::{Cell, DIRECTIONS, Policy, SAVED_BUCKETS, UNCREDITED},
    tally::Sums,
};
use crate::domain::Overhead;

/// What push is compared with: the label `baseline`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// A control cohort that really polls.
    Measured,
    /// What the operator declared.
    Declared,
    /// Polling done well: kept connections, and 304 when nothing is new.
    Efficient,
}

impl Baseline {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Measured, Self::Declared, Self::Efficient];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Declared => "declared",
            Self::Efficient => "efficient",
        }
    }
}

/// Names and amounts. A name that is not there is zero.
pub type Figures = BTreeMap<String, f64>;

/// Seconds of connected time that earned.
pub const CREDITED: &str = "credited_seconds";
/// Polls avoided.
pub const POLLS: &str = "polls_avoided";
/// Virtual polls that would have found an event.
pub const EVENT_POLLS: &str = "polls_with_events";
/// Deliveries with a virtual tick.
pub const DELIVERIES: &str = "deliveries";
/// Seconds that they came sooner, in sum.
pub const SAVED: &str = "latency_saved_seconds";
/// Seconds that they would have waited, in sum.
pub const WAITED: &str = "virtual_wait_seconds";
/// Events that would have expired.
pub const SAVED_FROM_EXPIRY: &str = "events_saved_from_expiry";

/// `uncredited_seconds.no_proof`
pub fn uncredited(why: &str) -> String {
    format!("uncredited_seconds.{why}")
}

/// `bytes_avoided.declared.in`
pub fn bytes_avoided(baseline: Baseline, direction: &str) -> String {
    format!("bytes_avoided.{}.{direction}", baseline.as_str())
}

/// `overhead_bytes.connect.in`
pub fn overhead_bytes(kind: Overhead, direction: &str) -> String {
    format!("overhead_bytes.{}.{direction}", kind.as_str())
}

/// `overhead_packets.connect.in`
pub fn overhead_packets(kind: Overhead, direction: &str) -> String {
    format!("overhead_packets.{}.{direction}", kind.as_str())
}

/// What was counted, by name; zeros are left out. Bytes avoided are priced here, with the settings of the time.
pub fn named(sums: &Sums, config: &Config) -> Figures {
    let of_policies = |cell: fn(Policy) -> Cell| Policy::ALL.iter().map(|policy| sums.get(cell(*policy)) as f64).sum::<f64>();
    let polls = of_policies(Cell::MicroPolls) / 1e6;
    let deliveries = (0..=SAVED_BUCKETS.len())
        .map(|bucket| sums.get(Cell::SavedBucket(bucket)) as f64)
        .sum();
    let mut figures: Figures = [
        (CREDITED, of_policies(Cell::CreditedMs) / 1e3),
        (POLLS, polls),
        (EVENT_POLLS, of_policies(Cell::EventPolls)),
        (DELIVERIES, deliveries),
        (SAVED, sums.signed(Cell::SavedSumMs) as f64 / 1e3),
        (WAITED, sums.get(Cell::WaitSumMs) as f64 / 1e3),
        (SAVED_FROM_EXPIRY, sums.get(Cell::SavedFromExpiry) as f64),
    ]
    .map(|(name, amount)| (name.to_owned(), amount))
    .into();
    for (why, label) in UNCREDITED {
        figures.insert(uncredited(label), sums.get(Cell::UncreditedMs(why)) as f64 / 1e3);
    }
    for (direction, label) in DIRECTIONS {
        for baseline in Baseline::ALL {
            let bytes = polls * config.poll_bytes(baseline, direction) as f64;
            figures.insert(bytes_avoided(baseline, label), bytes);
        }
        for kind in Overhead::ALL {
            figures.insert(overhead_bytes(kind, label), sums.get(Cell::Bytes(kind, direction)) as f64);
            figures.insert(overhead_packets(kind, label), sums.get(Cell::Packets(kind, direction)) as f64);
        }
    }
    figures.retain(|_, amount| *amount != 0.0);
    figures
}

/// Adds `more` to `figures`.
pub fn add(figures: &mut Figures, more: &Figures) {
    for (name, amount) in more {
        *figures.entry(name.clone()).or_default() += amount;
    }
}
