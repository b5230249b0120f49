//! The ledger on `/metrics`: sums of the accumulators, taken when they are asked for.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use prometheus::{
    core::Desc,
    proto::{self, MetricFamily, MetricType},
};

use super::{
    Config,
    cell::{Cell, DIRECTIONS, Policy, SAVED_BUCKETS, UNCREDITED, WAIT_BUCKETS},
    figures::Baseline,
    tally::{Sums, Tally},
};
use crate::{domain::Overhead, telemetry};

const POLLS: (&str, &str) = (
    "unpoll_polls_avoided_total",
    "Polls that devices did not make, gross: credited connected time divided by the poll interval. measured stays 0 until a control cohort polls.",
);
const POLL_BYTES: (&str, &str) = (
    "unpoll_poll_avoided_bytes_total",
    "Bytes of the polls avoided, gross, at the declared size of an empty poll. measured stays 0 until a control cohort polls.",
);
const CREDITED: (&str, &str) = (
    "unpoll_credited_connected_seconds_total",
    "Connected time that a proof of life vouches for, of devices that do not poll.",
);
const UNCREDITED_TIME: (&str, &str) = (
    "unpoll_uncredited_connected_seconds_total",
    "Connected time that earns nothing, by reason.",
);
const SAVED: (&str, &str) = (
    "unpoll_poll_latency_saved_seconds",
    "How much sooner an event was acknowledged than the next virtual poll would have brought it; negative when polling would have been faster. measured stays empty until a control cohort polls.",
);
const WAIT: (&str, &str) = (
    "unpoll_virtual_poll_wait_seconds",
    "How long an event would have waited for the next virtual poll.",
);
const FROM_EXPIRY: (&str, &str) = (
    "unpoll_events_saved_from_expiry_total",
    "Acknowledged events that would have expired before the next virtual poll.",
);
const BYTES: (&str, &str) = (
    "unpoll_overhead_bytes_total",
    "Bytes that push cost, payload of events left out: as counted at the socket, and TCP/IP headers by the packet model.",
);
const PACKETS: (&str, &str) = (
    "unpoll_overhead_packets_total",
    "Packets that push cost, by the packet model: one for each read or write at the socket, and its TCP acknowledgement.",
);

/// Turns the accumulators into metric families.
pub struct Collector {
    config: Config,
    tally: Arc<Tally>,
    descs: Vec<Desc>,
    /// For each policy the most empty polls ever shown, in millionths.
    empty_shown: Mutex<[u64; Policy::ALL.len()]>,
}

impl Collector {
    /// A collector of `tally`.
    pub fn new(config: Config, tally: Arc<Tally>) -> prometheus::Result<Self> {
        let desc = |(name, help): (&str, &str), labels: &[&str]| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())
        };
        let descs = vec![
            desc(POLLS, &["baseline", "policy", "result"])?,
            desc(POLL_BYTES, &["baseline", "policy", "direction"])?,
            desc(CREDITED, &["policy"])?,
            desc(UNCREDITED_TIME, &["reason"])?,
            desc(SAVED, &["baseline"])?,
            desc(WAIT, &[])?,
            desc(FROM_EXPIRY, &[])?,
            desc(BYTES, &["kind", "direction"])?,
            desc(PACKETS, &["kind", "direction"])?,
        ];
        Ok(Self {
            config,
            tally,
            descs,
            empty_shown: Mutex::default(),
        })
    }

    fn policy(&self, policy: Policy) -> String {
        match policy {
            Policy::Default => format!("{}s", self.config.interval_secs()),
            Policy::Attribute => "attribute".to_owned(),
        }
    }

    fn polls(&self, sums: &Sums) -> MetricFamily {
        let mut shown = self.empty_shown.lock();
        let mut metrics = Vec::new();
        for (policy, shown) in Policy::ALL.into_iter().zip(shown.iter_mut()) {
            let (empty, events) = split(sums.get(Cell::MicroPolls(policy)), sums.get(Cell::EventPolls(policy)), shown);
            for baseline in Baseline::ALL {
                for (result, polls) in [("empty", empty), ("events", events)] {
                    let polls = if baseline == Baseline::Measured { 0 } else { polls };
                    let labels = [
                        ("baseline", baseline.as_str()),
                        ("policy", &self.policy(policy)),
                        ("result", result),
                    ];
                    metrics.push(counter(&labels, polls as f64 / 1e6));
                }
            }
        }
        family(POLLS, MetricType::COUNTER, metrics)
    }

    fn poll_bytes(&self, sums: &Sums) -> MetricFamily {
        let mut metrics = Vec::new();
        for policy in Policy::ALL {
            let polls = sums.get(Cell::MicroPolls(policy)) as f64 / 1e6;
            for baseline in Baseline::ALL {
                for (direction, label) in DIRECTIONS {
                    let bytes = polls * self.config.poll_bytes(baseline, direction) as f64;
                    let labels = [
                        ("baseline", baseline.as_str()),
                        ("policy", &self.policy(policy)),
                        ("direction", label),
                    ];
                    metrics.push(counter(&labels, bytes));
                }
            }
        }
        family(POLL_BYTES, MetricType::COUNTER, metrics)
    }

    fn credited(&self, sums: &Sums) -> MetricFamily {
        let metrics = Policy::ALL.map(|policy| {
            let seconds = sums.get(Cell::CreditedMs(policy)) as f64 / 1e3;
            counter(&[("policy", &self.policy(policy))], seconds)
        });
        family(CREDITED, MetricType::COUNTER, metrics.into())
    }
}

impl prometheus::core::Collector for Collector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let sums = self.tally.sums();
        let uncredited = UNCREDITED.map(|(why, label)| counter(&[("reason", label)], sums.get(Cell::UncreditedMs(why)) as f64 / 1e3));
        let nothing = Sums::default();
        let saved = Baseline::ALL.map(|baseline| {
            let sums = if baseline == Baseline::Measured { &nothing } else { &sums };
            let sum = sums.signed(Cell::SavedSumMs) as f64 / 1e3;
            histogram(&[("baseline", baseline.as_str())], &SAVED_BUCKETS, sum, |bucket| {
                sums.get(Cell::SavedBucket(bucket))
            })
        });
        let wait = histogram(&[], &WAIT_BUCKETS, sums.get(Cell::WaitSumMs) as f64 / 1e3, |bucket| {
            sums.get(Cell::WaitBucket(bucket))
        });
        let cost = |cell: fn(_, _) -> Cell| {
            let of_kind = |kind: Overhead| {
                DIRECTIONS.map(|(direction, label)| {
                    let labels = [("kind", kind.as_str()), ("direction", label)];
                    counter(&labels, sums.get(cell(kind, direction)) as f64)
                })
            };
            Overhead::ALL.into_iter().flat_map(of_kind).collect()
        };
        vec![
            self.polls(&sums),
            self.poll_bytes(&sums),
            self.credited(&sums),
            family(UNCREDITED_TIME, MetricType::COUNTER, uncredited.into()),
            family(SAVED, MetricType::HISTOGRAM, saved.into()),
            family(WAIT, MetricType::HISTOGRAM, vec![wait]),
            family(
                FROM_EXPIRY,
                MetricType::COUNTER,
                vec![counter(&[], sums.get(Cell::SavedFromExpiry) as f64)],
            ),
            family(BYTES, MetricType::COUNTER, cost(Cell::Bytes)),
            family(PACKETS, MetricType::COUNTER, cost(Cell::Packets)),
        ]
    }
}

/// Splits polls avoided, in millionths, into those that would have found nothing and those with events.
///
/// An event is known before the time up to its virtual poll is credited, so `all - events` can fall; empty polls therefore
/// show the most that this difference ever was. Then neither part ever falls, and together they are `all`.
fn split(all: u64, event_polls: u64, empty_shown: &mut u64) -> (u64, u64) {
    let empty = all.saturating_sub(event_polls.saturating_mul(1_000_000));
    *empty_shown = (*empty_shown).max(empty);
    (*empty_shown, all.saturating_sub(*empty_shown))
}

fn family((name, help): (&str, &str), kind: MetricType, metrics: Vec<proto::Metric>) -> MetricFamily {
    telemetry::family(name, kind, help, metrics)
}

fn labelled(labels: &[(&str, &str)]) -> proto::Metric {
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    proto::Metric::from_label(pairs.collect())
}

fn counter(labels: &[(&str, &str)], value: f64) -> proto::Metric {
    let mut counter = proto::Counter::default();
    counter.set_value(value);
    let mut metric = labelled(labels);
    metric.set_counter(counter);
    metric
}

fn histogram(labels: &[(&str, &str)], bounds: &[f64], sum: f64, count_of: impl Fn(usize) -> u64) -> proto::Metric {
    let mut cumulative = 0_u64;
    let buckets = bounds.iter().enumerate().map(|(index, bound)| {
        cumulative = cumulative.saturating_add(count_of(index));
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(cumulative.saturating_add(count_of(bounds.len())));
    histogram.set_sample_sum(sum);
    let mut metric = labelled(labels);
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_part_of_the_polls_avoided_ever_falls() {
        let (mut shown, mut before) = (0, (0, 0));
        // (micro-polls so far, polls with events so far): events first, bursts, and long silence.
        let history = [
            (0, 0),
            (0, 3),
            (500_000, 3),
            (4_000_000, 3),
            (4_100_000, 5),
            (9_000_000, 5),
            (9_000_000, 9),
            (20_000_000, 9),
        ];
        for (all, events) in history {
            let now = split(all, events, &mut shown);
            assert_eq!(now.0 + now.1, all);
            assert!(now.0 >= before.0 && now.1 >= before.1, "{before:?} then {now:?}");
            before = now;
        }
        assert_eq!(before, (11_000_000, 9_000_000));
    }
}
