//! Push on `/metrics`: what it avoided, and what it cost. Sums of the accumulators, taken when they are asked for.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{
    core::Desc,
    proto::{self, MetricFamily, MetricType},
};

use super::{
    Config,
    cell::{Cell, DIRECTIONS, Policy, SAVED_BUCKETS, UNCREDITED, WAIT_BUCKETS},
    figures::Baseline,
    metric::{Named, counter, desc, family, gauge, histogram},
    tally::{Sums, Tally},
    usage::Charge,
};
use crate::domain::{Direction, Overhead, Urgency};

const POLLS: Named = (
    "unpoll_polls_avoided_total",
    "Polls that devices did not make, gross: credited connected time divided by the poll interval. measured stays 0 until a control cohort polls.",
    &["baseline", "policy", "result"],
);
const POLL_BYTES: Named = (
    "unpoll_poll_avoided_bytes_total",
    "Bytes of the polls avoided, gross, at the size of an empty poll. measured stays 0 until a control cohort polls.",
    &["baseline", "policy", "direction"],
);
const POLL_CPU: Named = (
    "unpoll_poll_avoided_cpu_seconds_total",
    "CPU of the polls avoided, gross, at the declared CPU of one poll. measured stays 0 until a control cohort polls.",
    &["baseline"],
);
const CREDITED: Named = (
    "unpoll_credited_connected_seconds_total",
    "Connected time that a proof of life vouches for, of devices that do not poll.",
    &["policy"],
);
const UNCREDITED_TIME: Named = (
    "unpoll_uncredited_connected_seconds_total",
    "Connected time that earns nothing, by reason.",
    &["reason"],
);
const SAVED: Named = (
    "unpoll_poll_latency_saved_seconds",
    "How much sooner an event was acknowledged than the next virtual poll would have brought it; negative when polling would have been faster. measured stays empty until a control cohort polls.",
    &["baseline"],
);
const WAIT: Named = (
    "unpoll_virtual_poll_wait_seconds",
    "How long an event would have waited for the next virtual poll.",
    &[],
);
const FROM_EXPIRY: Named = (
    "unpoll_events_saved_from_expiry_total",
    "Acknowledged events that would have expired before the next virtual poll.",
    &[],
);
const BYTES: Named = (
    "unpoll_overhead_bytes_total",
    "Bytes that push cost, payload of events left out: as counted at the socket, and TCP/IP headers by the packet model.",
    &["kind", "direction"],
);
const PACKETS: Named = (
    "unpoll_overhead_packets_total",
    "Packets that push cost, by the packet model: one for each read or write at the socket, and its TCP acknowledgement.",
    &["kind", "direction"],
);
const KEEPALIVES: Named = (
    "unpoll_keepalives_total",
    "Signs of life that came in: packets of kind keepalive, without TCP acknowledgements.",
    &[],
);
const CPU: Named = (
    "unpoll_overhead_cpu_seconds_total",
    "User and system CPU time of the whole process, all of it charged to push.",
    &[],
);
const MEMORY: Named = (
    "unpoll_connection_memory_bytes",
    "Resident memory of the process less what it was before there were sessions, all of it charged to push. NaN where the kernel does not say.",
    &[],
);

const ALL: [Named; 13] = [
    POLLS,
    POLL_BYTES,
    POLL_CPU,
    CREDITED,
    UNCREDITED_TIME,
    SAVED,
    WAIT,
    FROM_EXPIRY,
    BYTES,
    PACKETS,
    KEEPALIVES,
    CPU,
    MEMORY,
];

/// Turns the accumulators into metric families.
pub struct Collector {
    config: Config,
    tally: Arc<Tally>,
    charge: Arc<Charge>,
    descs: Vec<Desc>,
    /// For each policy the most empty polls ever shown, in millionths: declared, and measured.
    empty_shown: Mutex<[[u64; 2]; Policy::ALL.len()]>,
}

impl Collector {
    /// A collector of `tally`.
    pub fn new(config: Config, tally: Arc<Tally>, charge: Arc<Charge>) -> prometheus::Result<Self> {
        Ok(Self {
            config,
            tally,
            charge,
            descs: ALL.into_iter().map(desc).collect::<prometheus::Result<_>>()?,
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
        for (policy, [declared, measured]) in Policy::ALL.into_iter().zip(shown.iter_mut()) {
            let declared = split(sums.get(Cell::MicroPolls(policy)), sums.get(Cell::EventPolls(policy)), declared);
            let measured = split(
                sums.get(Cell::MeasuredMicroPolls(policy)),
                sums.get(Cell::MeasuredEventPolls(policy)),
                measured,
            );
            for baseline in Baseline::ALL {
                let (empty, events) = if baseline == Baseline::Measured { measured } else { declared };
                for (result, polls) in [("empty", empty), ("events", events)] {
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
        let bytes = |baseline, policy, direction| match baseline {
            Baseline::Measured => sums.get(Cell::MeasuredMilliBytes(policy, direction)) as f64 / 1e3,
            Baseline::Declared | Baseline::Efficient => {
                sums.get(Cell::MicroPolls(policy)) as f64 / 1e6 * self.config.poll_bytes(baseline, direction) as f64
            }
        };
        let mut metrics = Vec::new();
        for policy in Policy::ALL {
            for baseline in Baseline::ALL {
                for (direction, label) in DIRECTIONS {
                    let labels = [
                        ("baseline", baseline.as_str()),
                        ("policy", &self.policy(policy)),
                        ("direction", label),
                    ];
                    metrics.push(counter(&labels, bytes(baseline, policy, direction)));
                }
            }
        }
        family(POLL_BYTES, MetricType::COUNTER, metrics)
    }

    fn poll_cpu(&self, sums: &Sums) -> MetricFamily {
        let of_policies = |cell: fn(Policy) -> Cell| Policy::ALL.iter().map(|policy| sums.get(cell(*policy)) as f64).sum::<f64>();
        let metrics = Baseline::ALL.map(|baseline| {
            let micro_polls = match baseline {
                Baseline::Measured => of_policies(Cell::MeasuredMicroPolls),
                Baseline::Declared | Baseline::Efficient => of_policies(Cell::MicroPolls),
            };
            let seconds = micro_polls / 1e6 * f64::from(self.config.poll_cpu_micros) / 1e6;
            counter(&[("baseline", baseline.as_str())], seconds)
        });
        family(POLL_CPU, MetricType::COUNTER, metrics.into())
    }

    fn credited(&self, sums: &Sums) -> MetricFamily {
        let metrics = Policy::ALL.map(|policy| {
            let seconds = sums.get(Cell::CreditedMs(policy)) as f64 / 1e3;
            counter(&[("policy", &self.policy(policy))], seconds)
        });
        family(CREDITED, MetricType::COUNTER, metrics.into())
    }
}

/// Latency saved, by baseline and urgency.
fn saved(sums: &Sums) -> Vec<proto::Metric> {
    let of = |baseline: Baseline, urgency: Urgency| {
        let (sum, bucket): (Cell, fn(Urgency, usize) -> Cell) = match baseline {
            Baseline::Measured => (Cell::MeasuredSavedSumMs(urgency), Cell::MeasuredSavedBucket),
            Baseline::Declared | Baseline::Efficient => (Cell::SavedSumMs(urgency), Cell::SavedBucket),
        };
        let labels = [("baseline", baseline.as_str()), ("urgency", urgency.as_str())];
        histogram(&labels, &SAVED_BUCKETS, sums.signed(sum) as f64 / 1e3, |at| {
            sums.get(bucket(urgency, at))
        })
    };
    let of_baseline = |baseline| Urgency::ALL.map(|urgency| of(baseline, urgency));
    Baseline::ALL.into_iter().flat_map(of_baseline).collect()
}

/// What push cost, by kind and direction.
fn cost(sums: &Sums, cell: fn(Overhead, Direction) -> Cell) -> Vec<proto::Metric> {
    let of_kind = |kind: Overhead| {
        DIRECTIONS.map(|(direction, label)| {
            let labels = [("kind", kind.as_str()), ("direction", label)];
            counter(&labels, sums.get(cell(kind, direction)) as f64)
        })
    };
    Overhead::ALL.into_iter().flat_map(of_kind).collect()
}

impl prometheus::core::Collector for Collector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.charge.charge(&self.tally);
        let sums = self.tally.sums();
        let uncredited = UNCREDITED.map(|(why, label)| counter(&[("reason", label)], sums.get(Cell::UncreditedMs(why)) as f64 / 1e3));
        let wait = histogram(&[], &WAIT_BUCKETS, sums.get(Cell::WaitSumMs) as f64 / 1e3, |bucket| {
            sums.get(Cell::WaitBucket(bucket))
        });
        let single = |name, value| family(name, MetricType::COUNTER, vec![counter(&[], value)]);
        vec![
            self.polls(&sums),
            self.poll_bytes(&sums),
            self.poll_cpu(&sums),
            self.credited(&sums),
            family(UNCREDITED_TIME, MetricType::COUNTER, uncredited.into()),
            family(SAVED, MetricType::HISTOGRAM, saved(&sums)),
            family(WAIT, MetricType::HISTOGRAM, vec![wait]),
            single(FROM_EXPIRY, sums.get(Cell::SavedFromExpiry) as f64),
            family(BYTES, MetricType::COUNTER, cost(&sums, Cell::Bytes)),
            family(PACKETS, MetricType::COUNTER, cost(&sums, Cell::Packets)),
            single(KEEPALIVES, sums.get(Cell::Keepalives) as f64),
            single(CPU, sums.get(Cell::CpuMicros) as f64 / 1e6),
            family(
                MEMORY,
                MetricType::GAUGE,
                vec![gauge(&[], self.charge.memory_bytes().unwrap_or(f64::NAN))],
            ),
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
