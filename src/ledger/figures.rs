//! The figures of a minute as the store keeps them: names and amounts, which only ever add up.

use std::collections::BTreeMap;

use super::{
    Config,
    calibration::Observed,
    cell::{COHORTS, Cell, DIRECTIONS, Policy, SAVED_BUCKETS, UNCREDITED},
    tally::Sums,
};
use crate::domain::{Overhead, PollResult, Urgency};

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
/// Seconds that they came sooner, in sum.
pub const SAVED: &str = "latency_saved_seconds";
/// Seconds that they would have waited, in sum.
pub const WAITED: &str = "virtual_wait_seconds";
/// Events that would have expired.
pub const SAVED_FROM_EXPIRY: &str = "events_saved_from_expiry";

/// Seconds of connected time that were compared with the control cohort.
pub const MEASURED_SECONDS: &str = "measured_seconds";
/// Polls avoided by the measured interval.
pub const MEASURED_POLLS: &str = "polls_avoided_measured";
/// Virtual polls with an event while there were measured parameters.
pub const MEASURED_EVENT_POLLS: &str = "polls_with_events_measured";
/// Signs of life that came in.
pub const KEEPALIVES: &str = "keepalives";
/// CPU seconds of the process.
pub const CPU: &str = "cpu_seconds";

/// `saved.12`: a bucket of the histogram of latency saved.
pub fn saved_bucket(bucket: usize) -> String {
    format!("saved.{bucket}")
}

/// `polls.push.empty`
pub fn polls_made(cohort: &str, result: PollResult) -> String {
    format!("polls.{cohort}.{}", result.as_str())
}

/// `poll_bytes.push.in`
pub fn poll_bytes(cohort: &str, direction: &str) -> String {
    format!("poll_bytes.{cohort}.{direction}")
}

/// `s.00c0ffee42`: a device of cohort control was seen.
pub fn seen(device: u64) -> String {
    format!("s.{:010x}", device >> 24)
}

/// `sl.3`: meanwhile one device of 2³ was noted.
pub fn sampled(exponent: u32) -> String {
    format!("sl.{exponent}")
}

/// Devices of cohort control that were seen: exactly, unless some of the time only a sample was noted; then an estimate from
/// the part of them that was noted all the time.
pub fn devices_seen(figures: &Figures) -> f64 {
    let sampled = figures.keys().filter_map(|name| name.strip_prefix("sl.")?.parse::<u32>().ok());
    let exponent = sampled.max().unwrap_or(0).min(40);
    let below = 1_u64 << (40 - exponent);
    let noted = figures
        .keys()
        .filter_map(|name| u64::from_str_radix(name.strip_prefix("s.")?, 16).ok());
    noted.filter(|device| *device < below).count() as f64 * f64::from(exponent).exp2()
}

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

/// What was counted, by name; zeros are left out. Bytes avoided are priced here, with the settings of the time; those of the
/// baseline `measured` were priced when they were earned.
pub fn named(sums: &Sums, config: &Config) -> Figures {
    let of_policies = |cell: fn(Policy) -> Cell| Policy::ALL.iter().map(|policy| sums.get(cell(*policy)) as f64).sum::<f64>();
    let of_urgencies = |amount: &dyn Fn(Urgency) -> f64| Urgency::ALL.into_iter().map(amount).sum::<f64>();
    let polls = of_policies(Cell::MicroPolls) / 1e6;
    let mut figures: Figures = [
        (CREDITED, of_policies(Cell::CreditedMs) / 1e3),
        (POLLS, polls),
        (EVENT_POLLS, of_policies(Cell::EventPolls)),
        (SAVED, of_urgencies(&|urgency| sums.signed(Cell::SavedSumMs(urgency)) as f64) / 1e3),
        (WAITED, sums.get(Cell::WaitSumMs) as f64 / 1e3),
        (SAVED_FROM_EXPIRY, sums.get(Cell::SavedFromExpiry) as f64),
        (MEASURED_SECONDS, sums.get(Cell::MeasuredMs) as f64 / 1e3),
        (MEASURED_POLLS, of_policies(Cell::MeasuredMicroPolls) / 1e6),
        (MEASURED_EVENT_POLLS, of_policies(Cell::MeasuredEventPolls)),
        (KEEPALIVES, sums.get(Cell::Keepalives) as f64),
        (CPU, sums.get(Cell::CpuMicros) as f64 / 1e6),
    ]
    .map(|(name, amount)| (name.to_owned(), amount))
    .into();
    for bucket in 0..=SAVED_BUCKETS.len() {
        figures.insert(
            saved_bucket(bucket),
            of_urgencies(&|urgency| sums.get(Cell::SavedBucket(urgency, bucket)) as f64),
        );
    }
    for (why, label) in UNCREDITED {
        figures.insert(uncredited(label), sums.get(Cell::UncreditedMs(why)) as f64 / 1e3);
    }
    for (direction, label) in DIRECTIONS {
        for baseline in Baseline::ALL {
            let bytes = match baseline {
                Baseline::Measured => {
                    let bytes = Policy::ALL.map(|policy| sums.get(Cell::MeasuredMilliBytes(policy, direction)) as f64);
                    bytes.iter().sum::<f64>() / 1e3
                }
                Baseline::Declared | Baseline::Efficient => polls * config.poll_bytes(baseline, direction) as f64,
            };
            figures.insert(bytes_avoided(baseline, label), bytes);
        }
        for kind in Overhead::ALL {
            figures.insert(overhead_bytes(kind, label), sums.get(Cell::Bytes(kind, direction)) as f64);
            figures.insert(overhead_packets(kind, label), sums.get(Cell::Packets(kind, direction)) as f64);
        }
        for (cohort, name) in COHORTS {
            figures.insert(poll_bytes(name, label), sums.get(Cell::PollBytes(cohort, direction)) as f64);
        }
    }
    for (cohort, name) in COHORTS {
        for result in PollResult::ALL {
            figures.insert(polls_made(name, result), sums.get(Cell::Polls(cohort, result)) as f64);
        }
    }
    figures.extend(Observed::from(sums).named());
    figures.retain(|_, amount| *amount != 0.0);
    figures
}

/// Adds `more` to `figures`.
pub fn add(figures: &mut Figures, more: &Figures) {
    for (name, amount) in more {
        *figures.entry(name.clone()).or_default() += amount;
    }
}
