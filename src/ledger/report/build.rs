//! The report out of a period's figures.

use std::collections::BTreeMap;

use super::{BaselineReport, Bytes, CohortReport, ControlReport, Interval, Latency, Report, Saved, rounded};
use crate::{
    domain::{Overhead, PollResult, Timestamp},
    ledger::{
        Ledger,
        calibration::{Calibration, Observed},
        cell::{COHORTS, Control, ControlSum, DIRECTIONS, SAVED_BUCKETS, UNCREDITED},
        figures::{self, Baseline, Figures},
    },
    store::StoreError,
};

/// Control devices without which nothing is called validated.
const DEVICES_MIN: f64 = 500.0;

impl Ledger {
    /// The report of the minutes that `from..to` touches, including what is not in the store yet.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn report(&self, from: Timestamp, to: Timestamp) -> Result<Report, StoreError> {
        let this_minute = self.clock.now().0 / 60_000;
        let from = from.0 / 60_000;
        let to = to.0.div_ceil(60_000).min(this_minute + 1).max(from);
        let figures = self.figures(from, to).await?;
        Ok(self.report_of(&Period {
            figures: &figures,
            from,
            to,
        }))
    }

    fn report_of(&self, period: &Period<'_>) -> Report {
        let get = |name: &str| period.get(name);
        let uncredited = UNCREDITED.map(|(_, why)| (why.to_owned(), rounded(get(&figures::uncredited(why)))));
        let credited = get(figures::CREDITED);
        let connected = period.connected();
        let overhead = Overhead::ALL.map(|kind| {
            let bytes = period.both_ways(|direction| figures::overhead_bytes(kind, direction));
            (kind.as_str().to_owned(), bytes)
        });
        let packets = |kind| period.both_ways(|direction| figures::overhead_packets(kind, direction)).total();
        let observed = Observed::from(period.figures);
        let devices = figures::devices_seen(period.figures);
        let calibration = observed.calibration();
        let verdict = verdict(&observed, devices, calibration);
        let deliveries: f64 = period.saved_buckets().iter().sum();
        let cohorts = COHORTS.into_iter().zip((self.cohort_devices)());
        let cohorts: BTreeMap<String, CohortReport> = cohorts
            .map(|((_, name), devices)| (name.to_owned(), period.cohort(name, devices)))
            .collect();
        Report {
            from: Timestamp(period.from * 60_000),
            to: Timestamp(period.to * 60_000),
            poll_interval_seconds: self.config.interval_secs(),
            credited_seconds: rounded(credited),
            uncredited_seconds: uncredited.into(),
            coverage: (connected > 0.0).then(|| credited / connected),
            baselines: Baseline::ALL
                .map(|name| (name.as_str().to_owned(), self.baseline(period, name)))
                .into(),
            residual_polls: cohorts.get("push").map_or(0.0, |push| push.polls.values().sum()),
            cohorts,
            control: control(&observed, devices),
            calibration,
            overhead_bytes: overhead.into(),
            overhead_packets: Overhead::ALL.into_iter().map(packets).sum(),
            overhead_cpu_seconds: rounded(get(figures::CPU)),
            connection_memory_bytes: self.charge.memory_bytes(),
            latency_saved: period.saved(deliveries),
            virtual_wait: latency(deliveries, get(figures::WAITED)),
            events_saved_from_expiry: get(figures::SAVED_FROM_EXPIRY),
            validated: verdict.is_ok(),
            validation: match verdict {
                Ok(()) => format!("validated by {devices} control devices"),
                Err(why) => format!("not validated: {why}"),
            },
            assumptions: self.assumptions(),
        }
    }

    fn baseline(&self, period: &Period<'_>, baseline: Baseline) -> Option<BaselineReport> {
        let [seconds, polls, event_polls] = match baseline {
            Baseline::Measured => [figures::MEASURED_SECONDS, figures::MEASURED_POLLS, figures::MEASURED_EVENT_POLLS],
            Baseline::Declared | Baseline::Efficient => [figures::CREDITED, figures::POLLS, figures::EVENT_POLLS],
        }
        .map(|name| period.get(name));
        if baseline == Baseline::Measured && seconds <= 0.0 {
            return None;
        }
        let gross_bytes = period.both_ways(|direction| figures::bytes_avoided(baseline, direction));
        let overhead_bytes = period.overhead_bytes();
        Some(BaselineReport {
            credited_seconds: rounded(seconds),
            requests_avoided: rounded(polls),
            requests_avoided_per_second: rounded(polls / (period.to.saturating_sub(period.from).max(1) * 60) as f64),
            requests_with_events: event_polls,
            gross_bytes,
            overhead_bytes: rounded(overhead_bytes),
            net_bytes: rounded(gross_bytes.total() - overhead_bytes),
            break_even_keepalive_seconds: period.break_even(gross_bytes.total()).map(rounded),
            cpu_seconds: rounded(polls * f64::from(self.config.poll_cpu_micros) / 1e6),
        })
    }
}

/// Figures of the minutes `from..to`.
struct Period<'a> {
    figures: &'a Figures,
    from: u64,
    to: u64,
}

impl Period<'_> {
    fn get(&self, name: &str) -> f64 {
        self.figures.get(name).copied().unwrap_or(0.0)
    }

    fn both_ways(&self, name: impl Fn(&str) -> String) -> Bytes {
        let [inward, outward] = DIRECTIONS.map(|(_, label)| rounded(self.get(&name(label))));
        Bytes { inward, outward }
    }

    fn connected(&self) -> f64 {
        let uncredited = UNCREDITED.map(|(_, why)| self.get(&figures::uncredited(why)));
        self.get(figures::CREDITED) + uncredited.iter().sum::<f64>()
    }

    fn overhead_of(&self, kind: Overhead) -> f64 {
        self.both_ways(|direction| figures::overhead_bytes(kind, direction)).total()
    }

    fn overhead_bytes(&self) -> f64 {
        Overhead::ALL.map(|kind| self.overhead_of(kind)).iter().sum()
    }

    /// The interval between signs of life that would make the net bytes zero: the bytes of a sign of life stay, and their
    /// number is the connected time divided by the interval.
    fn break_even(&self, gross: f64) -> Option<f64> {
        let keepalive = self.overhead_of(Overhead::Keepalive);
        let left = gross - (self.overhead_bytes() - keepalive);
        let signs = self.get(figures::KEEPALIVES);
        (signs > 0.0 && left > 0.0).then(|| self.connected() * keepalive / signs / left)
    }

    fn cohort(&self, name: &str, devices: u64) -> CohortReport {
        let polls = PollResult::ALL.map(|result| (result.as_str().to_owned(), self.get(&figures::polls_made(name, result))));
        CohortReport {
            devices,
            polls: polls.into(),
            bytes: self.both_ways(|direction| figures::poll_bytes(name, direction)),
        }
    }

    fn saved_buckets(&self) -> Vec<f64> {
        (0..=SAVED_BUCKETS.len())
            .map(|bucket| self.get(&figures::saved_bucket(bucket)))
            .collect()
    }

    fn saved(&self, deliveries: f64) -> Saved {
        let Latency {
            deliveries,
            sum_seconds,
            mean_seconds,
        } = latency(deliveries, self.get(figures::SAVED));
        let buckets = self.saved_buckets();
        let quantile = |share: f64| (deliveries > 0.0).then(|| rounded(quantile(&SAVED_BUCKETS, &buckets, share)));
        Saved {
            deliveries,
            sum_seconds,
            mean_seconds,
            p50_seconds: quantile(0.5),
            p95_seconds: quantile(0.95),
            p99_seconds: quantile(0.99),
        }
    }
}

fn latency(deliveries: f64, sum_seconds: f64) -> Latency {
    Latency {
        deliveries,
        sum_seconds: rounded(sum_seconds),
        mean_seconds: (deliveries > 0.0).then(|| rounded(sum_seconds / deliveries)),
    }
}

/// The value that `share` of all counts do not exceed: within its bucket as if evenly spread, beyond the bounds the last one.
fn quantile(bounds: &[f64], counts: &[f64], share: f64) -> f64 {
    let mut wanted = share * counts.iter().sum::<f64>();
    let mut below = None;
    for (bound, count) in bounds.iter().zip(counts) {
        if *count > 0.0 && wanted <= *count {
            return below.map_or(*bound, |below: f64| below + (bound - below) * wanted / count);
        }
        wanted -= count;
        below = Some(*bound);
    }
    below.unwrap_or(0.0)
}

fn control(observed: &Observed, devices: f64) -> Option<ControlReport> {
    let polls = observed.total(Control::Observed);
    if polls <= 0.0 {
        return None;
    }
    let mean = observed.total(Control::Predicted) / polls;
    let square = observed.sum(ControlSum::GapSquares) / polls;
    let variance = if mean > 0.0 { square / mean.powi(2) - 1.0 } else { 0.0 };
    let empty = observed.total(Control::Empty);
    let inward = observed.sum(ControlSum::EmptyBytesIn);
    let events = observed.sum(ControlSum::Events);
    Some(ControlReport {
        devices,
        poll_interval_seconds: Interval {
            mean: rounded(observed.sum(ControlSum::GapMs) / polls),
            variation: rounded(variance.max(0.0).sqrt()),
        },
        empty_poll_bytes: (empty > 0.0).then(|| Bytes {
            inward: rounded(inward / empty),
            outward: rounded((observed.total(Control::EmptyBytes) - inward) / empty),
        }),
        empty_ratio: rounded(1.0 - observed.total(Control::Found) / polls),
        latency_seconds: (events > 0.0).then(|| rounded(observed.total(Control::Latency) / events)),
    })
}

/// Whether the control cohort confirms the prediction, or why not.
fn verdict(observed: &Observed, devices: f64, calibration: Calibration) -> Result<(), String> {
    if observed.total(Control::Observed) <= 0.0 {
        return Err("no control cohort".to_owned());
    }
    if devices < DEVICES_MIN {
        return Err(format!("only {devices} control devices; {DEVICES_MIN} are needed"));
    }
    for (quantity, ratio) in calibration.all() {
        match ratio {
            None => return Err(format!("nothing to compare {quantity} with yet")),
            Some(ratio) if !ratio.is_valid() => {
                return Err(format!(
                    "{quantity} predicted / observed is {:.3} ({:.3} to {:.3}), not within 0.9 to 1.1",
                    ratio.ratio, ratio.low, ratio.high
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        let check = |counts: [f64; 4], share, expected: f64| assert_eq!(quantile(&[-1.0, 0.0, 10.0], &counts, share), expected);
        check([0.0, 0.0, 10.0, 0.0], 0.5, 5.0);
        check([0.0, 0.0, 10.0, 0.0], 0.95, 9.5);
        check([0.0, 5.0, 5.0, 0.0], 0.5, 0.0);
        check([10.0, 0.0, 0.0, 0.0], 0.99, -1.0);
        check([0.0, 0.0, 1.0, 99.0], 0.5, 10.0);
    }
}
