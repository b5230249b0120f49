//! What the plots show: the last quarter of an hour, so that a page that is opened now shows what was before.

use std::{collections::VecDeque, time::Duration};

use serde::{Serialize, Serializer};

use super::figures::{Figures, Histogram};
use crate::domain::Timestamp;

/// How far apart points are.
pub const STEP: Duration = Duration::from_secs(2);
/// How many are kept: 15 minutes, about 50 kB.
pub const POINTS_MAX: usize = 450;
/// Rates of events, and the latency of deliveries, are over this many steps: 10 s.
const EVENT_STEPS: usize = 5;
/// Rates of polls and bytes are over this many steps: 60 s. They are booked when a device gives proof of life, in lumps.
const POLL_STEPS: usize = 30;

/// The baselines, in the order of the columns.
pub const BASELINES: [&str; 3] = ["measured", "declared", "efficient"];

/// The names of a point's values.
pub const COLUMNS: [&str; 14] = [
    "at",
    "sessions",
    "accepted",
    "delivered",
    "p50",
    "p99",
    "polls_measured",
    "polls_declared",
    "polls_efficient",
    "polls_made",
    "bytes_measured",
    "bytes_declared",
    "bytes_efficient",
    "bytes_cost",
];

/// One moment of the plots: milliseconds since 1970, and the values after the first of [`COLUMNS`]. NaN: not known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    at: u64,
    values: [f64; COLUMNS.len() - 1],
}

impl Serialize for Point {
    /// A flat array; what is not known is `null`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let values = self.values.iter().map(|value| Cell::Value(*value));
        serializer.collect_seq(std::iter::once(Cell::At(self.at)).chain(values))
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Cell {
    At(u64),
    Value(f64),
}

/// Counters at one moment, to take differences from.
#[derive(Clone, Debug)]
pub struct Totals {
    at: Timestamp,
    sessions: f64,
    accepted: f64,
    delivered: f64,
    latency: Option<Histogram>,
    polls: [f64; BASELINES.len()],
    polls_made: f64,
    polls_residual: f64,
    bytes: [f64; BASELINES.len()],
    cost: f64,
}

impl Totals {
    /// Those of this moment. What is not there is NaN, and so is what is made of it.
    pub fn of(figures: &Figures, at: Timestamp) -> Self {
        let sum = |name: &str, labels: &[_]| figures.sum(name, labels).unwrap_or(f64::NAN);
        let of_baselines = |name: &str| BASELINES.map(|baseline| sum(name, &[("baseline", baseline)]));
        Self {
            at,
            sessions: sum("unpoll_sessions", &[]),
            accepted: sum("unpoll_events_accepted_total", &[]),
            // What the device has done is delivered, too.
            delivered: sum("unpoll_deliveries_total", &[("state", "delivered")])
                + figures.sum("unpoll_deliveries_total", &[("state", "processed")]).unwrap_or(0.0),
            latency: figures.histogram("unpoll_delivery_latency_seconds", &[]),
            polls: of_baselines("unpoll_polls_avoided_total"),
            polls_made: sum("unpoll_legacy_polls_total", &[]),
            polls_residual: figures.sum("unpoll_legacy_polls_total", &[("cohort", "push")]).unwrap_or(0.0),
            bytes: of_baselines("unpoll_poll_avoided_bytes_total"),
            cost: sum("unpoll_overhead_bytes_total", &[]),
        }
    }
}

/// The points, and the counters that the next ones are made from.
#[derive(Debug, Default)]
pub struct History {
    totals: VecDeque<Totals>,
    points: VecDeque<Point>,
}

impl History {
    /// Adds a moment.
    pub fn push(&mut self, now: Totals) {
        // Index 0 of a reversed list is the step before this one.
        let before = |steps: usize| {
            let oldest = self.totals.len().checked_sub(steps.min(self.totals.len()));
            self.totals.get(oldest?)
        };
        let events = before(EVENT_STEPS);
        let polls = before(POLL_STEPS);
        let rate = |earlier: Option<&Totals>, of: &dyn Fn(&Totals) -> f64| match earlier {
            Some(earlier) if now.at > earlier.at => (of(&now) - of(earlier)) / now.at.since(earlier.at).as_secs_f64(),
            _ => f64::NAN,
        };
        let recent = events.and_then(|earlier| Some(now.latency.as_ref()?.since(earlier.latency.as_ref()?)));
        let quantile = |q| recent.as_ref().map_or(f64::NAN, |recent| recent.quantile(q));
        let avoided = |index: usize| rate(polls, &|totals| totals.polls[index] - totals.polls_residual);
        let bytes = |index: usize| rate(polls, &|totals| totals.bytes[index]);
        let values = [
            now.sessions,
            rate(events, &|totals| totals.accepted),
            rate(events, &|totals| totals.delivered),
            quantile(0.5),
            quantile(0.99),
            avoided(0),
            avoided(1),
            avoided(2),
            rate(polls, &|totals| totals.polls_made),
            bytes(0),
            bytes(1),
            bytes(2),
            rate(polls, &|totals| totals.cost),
        ];
        let point = Point {
            at: now.at.0,
            values: values.map(short),
        };
        if self.points.len() == POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back(point);
        if self.totals.len() == POLL_STEPS {
            self.totals.pop_front();
        }
        self.totals.push_back(now);
    }

    /// All points, the oldest first.
    pub fn points(&self) -> Vec<Point> {
        self.points.iter().copied().collect()
    }

    /// The newest point.
    pub fn latest(&self) -> Option<Point> {
        self.points.back().copied()
    }
}

/// Four digits are more than a plot shows.
fn short(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let unit = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * unit).round() / unit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(second: u64, count: f64) -> Totals {
        Totals {
            at: Timestamp(second * 1_000),
            sessions: 3.0,
            accepted: count,
            delivered: count / 2.0,
            latency: Some(Histogram {
                buckets: vec![(1.0, count as u64)],
                count: count as u64,
                sum: 0.0,
            }),
            polls: [0.0, count * 10.0, count * 10.0],
            polls_made: f64::NAN,
            polls_residual: count,
            bytes: [0.0, 100.0 * count, 10.0 * count],
            cost: count,
        }
    }

    fn value(point: Point, column: &str) -> f64 {
        let at = COLUMNS.iter().position(|name| *name == column).expect("a column");
        point.values[at - 1]
    }

    #[test]
    fn rates_are_differences_over_their_window() {
        let mut history = History::default();
        history.push(totals(0, 0.0));
        assert!(
            value(history.latest().expect("a point"), "accepted").is_nan(),
            "one moment has no rate"
        );
        // 10 a second for 20 s, then nothing.
        (1..=10).for_each(|step| history.push(totals(step * 2, step as f64 * 20.0)));
        let point = history.latest().expect("a point");
        assert_eq!((value(point, "accepted"), value(point, "delivered")), (10.0, 5.0));
        assert_eq!(value(point, "polls_declared"), 90.0, "the polls that are still made are taken off");
        assert_eq!((value(point, "bytes_efficient"), value(point, "bytes_cost")), (100.0, 10.0));
        assert_eq!(value(point, "p50"), 0.5);
        assert!(value(point, "polls_made").is_nan());
        (11..=15).for_each(|step| history.push(totals(step * 2, 200.0)));
        let point = history.latest().expect("a point");
        assert_eq!(value(point, "accepted"), 0.0);
        assert!(value(point, "p50").is_nan(), "no delivery, no latency");
        assert_eq!(value(point, "bytes_cost"), 6.667, "200 in the 30 s that are known");
    }

    #[test]
    fn it_keeps_a_quarter_of_an_hour_and_no_more() {
        let mut history = History::default();
        (0..POINTS_MAX as u64 + 100).for_each(|step| history.push(totals(step * 2, 1.0)));
        assert_eq!((history.points().len(), history.totals.len()), (POINTS_MAX, POLL_STEPS));
        assert_eq!(history.points()[0].at, 200_000);
        assert_eq!(STEP * POINTS_MAX as u32, Duration::from_secs(900));
    }

    #[test]
    fn a_point_is_a_short_flat_array() {
        let mut history = History::default();
        history.push(totals(1, 123_456.0));
        history.push(totals(3, 130_000.0));
        let text = serde_json::to_string(&history.latest()).expect("JSON");
        assert_eq!(
            text,
            "[3000,3.0,3272.0,1636.0,0.5,0.99,-3272.0,29450.0,29450.0,null,0.0,327200.0,32720.0,3272.0]"
        );
    }
}
