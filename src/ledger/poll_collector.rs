//! Real polls on `/metrics`, and what they say of the prediction.

use std::sync::Arc;

use prometheus::{
    core::Desc,
    proto::{MetricFamily, MetricType},
};

use super::{
    CohortDevices,
    calibration::Ratio,
    cell::{COHORTS, Cell, DIRECTIONS, DURATION_BUCKETS, INTERVAL_BUCKETS},
    measured::Measured,
    metric::{Named, counter, desc, family, gauge, histogram},
    tally::Tally,
    tracker::Tracker,
};
use crate::domain::{Clock, PollResult};

const POLLS: Named = (
    "unpoll_legacy_polls_total",
    "Polls that devices really made, by the cohort they are in and the answer.",
    &["cohort", "result"],
);
const BYTES: Named = (
    "unpoll_legacy_poll_bytes_total",
    "Bytes of real polls and their acknowledgements, payload of events left out: as counted at the socket, and TCP/IP headers by the packet model.",
    &["cohort", "direction"],
);
const DURATION: Named = (
    "unpoll_legacy_poll_duration_seconds",
    "How long real polls took that did not wait for events.",
    &[],
);
const INTERVAL: Named = (
    "unpoll_legacy_poll_interval_seconds",
    "Time between two polls of a device that did not wait for events.",
    &[],
);
const TRACKED: Named = (
    "unpoll_polling_devices",
    "Devices that polled lately and are followed ([ledger] polling_devices_max).",
    &[],
);
const UNTRACKED: Named = (
    "unpoll_untracked_polls_total",
    "Polls of devices that are not followed because too many poll: their sessions earn, and they take no part in the calibration.",
    &[],
);
const DEVICES: Named = ("unpoll_cohort_devices", "Devices, by cohort.", &["cohort"]);
const RATIO: Named = (
    "unpoll_calibration_ratio",
    "Predicted / observed in cohort control, over the last 24 hours. NaN while unknown.",
    &["quantity"],
);
const LOW: Named = (
    "unpoll_calibration_ratio_low",
    "Lower end of the 95 % interval of the calibration ratio. NaN while unknown.",
    &["quantity"],
);
const HIGH: Named = (
    "unpoll_calibration_ratio_high",
    "Upper end of the 95 % interval of the calibration ratio. NaN while unknown.",
    &["quantity"],
);

const ALL: [Named; 10] = [POLLS, BYTES, DURATION, INTERVAL, TRACKED, UNTRACKED, DEVICES, RATIO, LOW, HIGH];

/// Turns what is known of polling devices into metric families.
pub struct PollCollector {
    tally: Arc<Tally>,
    tracker: Arc<Tracker>,
    measured: Arc<Measured>,
    clock: Arc<dyn Clock>,
    cohort_devices: CohortDevices,
    descs: Vec<Desc>,
}

impl PollCollector {
    /// A collector of the polls in `tally`.
    pub fn new(
        tally: Arc<Tally>,
        tracker: Arc<Tracker>,
        measured: Arc<Measured>,
        clock: Arc<dyn Clock>,
        cohort_devices: CohortDevices,
    ) -> prometheus::Result<Self> {
        Ok(Self {
            tally,
            tracker,
            measured,
            clock,
            cohort_devices,
            descs: ALL.into_iter().map(desc).collect::<prometheus::Result<_>>()?,
        })
    }
}

impl prometheus::core::Collector for PollCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let sums = self.tally.sums();
        let polls = COHORTS.into_iter().flat_map(|(cohort, name)| {
            let of = |result: PollResult| {
                let labels = [("cohort", name), ("result", result.as_str())];
                counter(&labels, sums.get(Cell::Polls(cohort, result)) as f64)
            };
            PollResult::ALL.map(of)
        });
        let bytes = COHORTS.into_iter().flat_map(|(cohort, name)| {
            DIRECTIONS.map(|(direction, label)| {
                let labels = [("cohort", name), ("direction", label)];
                counter(&labels, sums.get(Cell::PollBytes(cohort, direction)) as f64)
            })
        });
        let duration = histogram(&[], &DURATION_BUCKETS, sums.get(Cell::DurationSumMicros) as f64 / 1e6, |at| {
            sums.get(Cell::DurationBucket(at))
        });
        let interval = histogram(&[], &INTERVAL_BUCKETS, sums.get(Cell::IntervalSumMs) as f64 / 1e3, |at| {
            sums.get(Cell::IntervalBucket(at))
        });
        let devices = COHORTS.into_iter().zip((self.cohort_devices)());
        let devices = devices.map(|((_, name), count)| gauge(&[("cohort", name)], count as f64));
        let ratios = self.measured.observed(self.clock.now(), &self.tally).calibration().all();
        let of_ratios = |figure: fn(Ratio) -> f64| {
            let of = |(name, ratio): (&str, Option<Ratio>)| gauge(&[("quantity", name)], ratio.map_or(f64::NAN, figure));
            ratios.map(of).into()
        };
        vec![
            family(POLLS, MetricType::COUNTER, polls.collect()),
            family(BYTES, MetricType::COUNTER, bytes.collect()),
            family(DURATION, MetricType::HISTOGRAM, vec![duration]),
            family(INTERVAL, MetricType::HISTOGRAM, vec![interval]),
            family(TRACKED, MetricType::GAUGE, vec![gauge(&[], self.tracker.count() as f64)]),
            family(UNTRACKED, MetricType::COUNTER, vec![counter(&[], sums.get(Cell::Untracked) as f64)]),
            family(DEVICES, MetricType::GAUGE, devices.collect()),
            family(RATIO, MetricType::GAUGE, of_ratios(|ratio| ratio.ratio)),
            family(LOW, MetricType::GAUGE, of_ratios(|ratio| ratio.low)),
            family(HIGH, MetricType::GAUGE, of_ratios(|ratio| ratio.high)),
        ]
    }
}
