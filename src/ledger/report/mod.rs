//! The report: what was avoided, what it cost, how sure that is.

mod assumptions;
mod build;
mod words;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use words::words;

pub use super::calibration::{Calibration, Ratio};
use crate::domain::Timestamp;

/// Polling avoided in a period.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Start of the period, a full minute.
    pub from: Timestamp,
    /// End of the period, not in it: a full minute, at most the one after this.
    pub to: Timestamp,
    /// The declared poll interval, in seconds, of devices without one of their own.
    pub poll_interval_seconds: u32,
    /// Connected time that earned.
    pub credited_seconds: f64,
    /// Connected time that did not, by reason.
    pub uncredited_seconds: BTreeMap<String, f64>,
    /// Credited part of all connected time. `None`: nobody was connected.
    pub coverage: Option<f64>,
    /// What push is compared with, by name. `measured` is `null` until a control cohort polls.
    pub baselines: BTreeMap<String, Option<BaselineReport>>,
    /// Polls that devices of cohort push made all the same. They are not subtracted above.
    pub residual_polls: f64,
    /// Real polls, by cohort.
    pub cohorts: BTreeMap<String, CohortReport>,
    /// What cohort control did. `None`: it did not poll.
    pub control: Option<ControlReport>,
    /// The prediction for cohort control, by what it did.
    pub calibration: Calibration,
    /// Bytes that push cost, by kind.
    pub overhead_bytes: BTreeMap<String, Bytes>,
    /// Packets that push cost, both ways.
    pub overhead_packets: f64,
    /// CPU time of the whole process.
    pub overhead_cpu_seconds: f64,
    /// Resident memory now less what it was at the start of the process; of now, not of the period. `None`: not known.
    pub connection_memory_bytes: Option<f64>,
    /// How much sooner events came.
    pub latency_saved: Saved,
    /// How long they would have waited for a poll.
    pub virtual_wait: Latency,
    /// Acknowledged events that would have expired before the next poll.
    pub events_saved_from_expiry: f64,
    /// Whether a control cohort confirms the figures.
    pub validated: bool,
    /// How they were validated, or why not.
    pub validation: String,
    /// What the figures rest on, in words.
    pub assumptions: Vec<String>,
}

/// The comparison with one baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselineReport {
    /// Connected time that was compared: less than all that earned, where the baseline was not known from the beginning.
    pub credited_seconds: f64,
    /// Polls not made, gross.
    pub requests_avoided: f64,
    /// The same a second, over the whole period.
    pub requests_avoided_per_second: f64,
    /// How many of them would have found an event.
    pub requests_with_events: f64,
    /// Bytes of those polls, each one empty.
    pub gross_bytes: Bytes,
    /// Bytes that push cost.
    pub overhead_bytes: f64,
    /// The difference. Negative when push cost more.
    pub net_bytes: f64,
    /// The time between two signs of life at which push would have cost as many bytes as polling. `None`: no sign of life came,
    /// or push costs more whatever the interval.
    pub break_even_keepalive_seconds: Option<f64>,
    /// CPU of the polls, gross, at the declared CPU of one poll.
    pub cpu_seconds: f64,
}

/// Real polls of a cohort.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CohortReport {
    /// Devices in it now.
    pub devices: u64,
    /// Polls in the period, by answer.
    pub polls: BTreeMap<String, f64>,
    /// Bytes of polls and their acknowledgements in the period, payload left out.
    pub bytes: Bytes,
}

/// What cohort control did, in the time in which its devices were there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControlReport {
    /// Devices that polled at least twice in a row.
    pub devices: f64,
    /// How often they polled.
    pub poll_interval_seconds: Interval,
    /// Bytes of a poll that found nothing. `None`: none is known.
    pub empty_poll_bytes: Option<Bytes>,
    /// Share of polls that found nothing.
    pub empty_ratio: f64,
    /// Mean time from acceptance to acknowledgement. `None`: no event was acknowledged.
    pub latency_seconds: Option<f64>,
}

/// Time between polls.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// In seconds.
    pub mean: f64,
    /// Standard deviation over mean, of times in multiples of each device's declared interval.
    pub variation: f64,
}

/// Bytes each way, seen from the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bytes {
    /// From devices.
    #[serde(rename = "in")]
    pub inward: f64,
    /// To devices.
    #[serde(rename = "out")]
    pub outward: f64,
}

impl Bytes {
    /// Both ways.
    pub fn total(self) -> f64 {
        self.inward + self.outward
    }
}

/// A latency over all deliveries that have one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many deliveries.
    pub deliveries: f64,
    /// In sum; may be negative.
    pub sum_seconds: f64,
    /// On average. `None`: no delivery.
    pub mean_seconds: Option<f64>,
}

/// Latency saved: the same, with quantiles out of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// How many deliveries.
    pub deliveries: f64,
    /// In sum; may be negative.
    pub sum_seconds: f64,
    /// On average. `None`: no delivery.
    pub mean_seconds: Option<f64>,
    /// Half of the deliveries saved at most this.
    pub p50_seconds: Option<f64>,
    /// 95 % of them.
    pub p95_seconds: Option<f64>,
    /// 99 % of them.
    pub p99_seconds: Option<f64>,
}

/// To thousandths.
fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}
