//! What the page shows, made once a second from one gathering of the metrics for all who watch.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    AdminState, Check,
    figures::{Figures, Label},
    history::{BASELINES, Point},
};
use crate::domain::{Overhead, Timestamp};

/// The figures of one moment. What is not known, or has no metric, is `null`.
#[derive(Debug, Serialize)]
pub struct Snapshot {
    /// When they were taken, in milliseconds since 1970.
    at: u64,
    uptime_seconds: Option<f64>,
    ready: bool,
    checks: Vec<Check>,
    baselines: BTreeMap<&'static str, Avoided>,
    /// Polls that devices of cohort push still made.
    polls_residual: Option<f64>,
    /// Polls made, by cohort.
    polls_made: Option<BTreeMap<String, f64>>,
    cost: Cost,
    cohorts: Option<BTreeMap<String, f64>>,
    calibration: BTreeMap<&'static str, Option<Ratio>>,
    sessions: Option<f64>,
    sessions_hibernating: Option<f64>,
    devices: Option<f64>,
    accepted: Option<f64>,
    ends: BTreeMap<String, f64>,
    latency: Quantiles,
    /// How long a poll would have let an event wait, on average, in seconds.
    poll_wait_mean: Option<f64>,
    queued: Option<f64>,
    oldest_seconds: Option<f64>,
    refusals: BTreeMap<String, f64>,
    store: Store,
    process: Process,
    /// The newest point of the plots.
    point: Option<Point>,
}

/// What was avoided against one baseline, since the start, gross.
#[derive(Debug, Serialize)]
struct Avoided {
    polls: Option<f64>,
    with_events: Option<f64>,
    bytes: Option<f64>,
    /// How much sooner events came, in seconds; negative when polling would have been faster.
    sooner: Quantiles,
}

/// What push cost since the start.
#[derive(Debug, Serialize)]
struct Cost {
    bytes: Option<f64>,
    kinds: BTreeMap<&'static str, f64>,
    cpu_seconds: Option<f64>,
    memory_bytes: Option<f64>,
}

/// A prediction over what was observed, with its interval of 95 %.
#[derive(Debug, Serialize)]
struct Ratio {
    ratio: f64,
    low: Option<f64>,
    high: Option<f64>,
}

#[derive(Debug, Default, Serialize)]
struct Quantiles {
    count: Option<u64>,
    mean: Option<f64>,
    p50: Option<f64>,
    p99: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Store {
    disk_bytes: Option<f64>,
    free_bytes: Option<f64>,
    writable: Option<bool>,
}

#[derive(Debug, Serialize)]
struct Process {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<f64>,
    open_files: Option<f64>,
    max_files: Option<f64>,
}

impl Snapshot {
    /// The figures as they are in `figures`, gathered at `now`.
    pub fn of(figures: &Figures, state: &AdminState, now: Timestamp, point: Option<Point>) -> Self {
        let sum = |name: &str| known(figures.sum(name, &[]));
        let checks = (state.readiness)();
        let started = sum("process_start_time_seconds");
        Self {
            at: now.0,
            uptime_seconds: started.map(|started| (now.0 as f64 / 1e3 - started).max(0.0)),
            ready: checks.iter().all(|check| check.ok),
            checks,
            baselines: BASELINES.map(|baseline| (baseline, avoided(figures, baseline))).into(),
            polls_residual: known(figures.sum("unpoll_legacy_polls_total", &[("cohort", "push")])),
            polls_made: figures.by("unpoll_legacy_polls_total", "cohort"),
            cost: Cost {
                bytes: sum("unpoll_overhead_bytes_total"),
                kinds: Overhead::ALL
                    .into_iter()
                    .filter_map(|kind| {
                        let bytes = figures.sum("unpoll_overhead_bytes_total", &[("kind", kind.as_str())])?;
                        Some((kind.as_str(), bytes))
                    })
                    .collect(),
                cpu_seconds: sum("unpoll_overhead_cpu_seconds_total"),
                memory_bytes: sum("unpoll_connection_memory_bytes"),
            },
            cohorts: figures.by("unpoll_cohort_devices", "cohort"),
            calibration: ["requests", "bytes", "empty", "latency"]
                .map(|quantity| (quantity, calibration(figures, quantity)))
                .into(),
            sessions: sum("unpoll_sessions"),
            sessions_hibernating: sum("unpoll_sessions_hibernating"),
            devices: sum("unpoll_devices"),
            accepted: sum("unpoll_events_accepted_total"),
            ends: figures.by("unpoll_deliveries_total", "state").unwrap_or_default(),
            latency: quantiles(figures, "unpoll_delivery_latency_seconds", &[]),
            poll_wait_mean: quantiles(figures, "unpoll_virtual_poll_wait_seconds", &[]).mean,
            queued: sum("unpoll_queue_depth"),
            oldest_seconds: sum("unpoll_oldest_queued_seconds"),
            refusals: more_than_none(figures.by("unpoll_refusals_total", "slug").unwrap_or_default()),
            store: Store {
                disk_bytes: sum("unpoll_store_disk_bytes"),
                free_bytes: sum("unpoll_store_free_bytes"),
                writable: sum("unpoll_store_writable").map(|value| value == 1.0),
            },
            process: Process {
                cpu_seconds: sum("process_cpu_seconds_total"),
                resident_bytes: sum("process_resident_memory_bytes"),
                open_files: sum("process_open_fds"),
                max_files: sum("process_max_fds"),
            },
            point,
        }
    }
}

fn known(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
}

fn more_than_none(mut sums: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    sums.retain(|_, value| *value > 0.0);
    sums
}

fn avoided(figures: &Figures, baseline: &str) -> Avoided {
    let of = [("baseline", baseline)];
    Avoided {
        polls: known(figures.sum("unpoll_polls_avoided_total", &of)),
        with_events: known(figures.sum("unpoll_polls_avoided_total", &[("baseline", baseline), ("result", "events")])),
        bytes: known(figures.sum("unpoll_poll_avoided_bytes_total", &of)),
        sooner: quantiles(figures, "unpoll_poll_latency_saved_seconds", &of),
    }
}

fn calibration(figures: &Figures, quantity: &str) -> Option<Ratio> {
    let gauge = |name: &str| known(figures.sum(name, &[("quantity", quantity)]));
    Some(Ratio {
        ratio: gauge("unpoll_calibration_ratio")?,
        low: gauge("unpoll_calibration_ratio_low"),
        high: gauge("unpoll_calibration_ratio_high"),
    })
}

fn quantiles(figures: &Figures, name: &str, labels: &[Label]) -> Quantiles {
    let Some(histogram) = figures.histogram(name, labels) else {
        return Quantiles::default();
    };
    Quantiles {
        count: Some(histogram.count),
        mean: known(Some(histogram.sum / histogram.count as f64)),
        p50: known(Some(histogram.quantile(0.5))),
        p99: known(Some(histogram.quantile(0.99))),
    }
}
