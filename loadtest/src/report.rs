//! Percentiles, and how reports are printed.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Prints a report for programs.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn print_json(report: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(report).map_err(|error| Error::Machine(error.to_string()))?;
    println!("{text}");
    Ok(())
}

/// Where server and driver ran, for the line of what was asked.
pub fn placement(pinned: bool) -> &'static str {
    if pinned { ", server on core 0, driver on core 1" } else { "" }
}

/// Times from 1 µs to 120 s with three digits.
pub struct Times(Option<Histogram<u64>>);

const TIME_MAX_US: u64 = 120_000_000;

impl Default for Times {
    fn default() -> Self {
        // The bounds are constants that the crate accepts; if it ever does not, nothing is recorded and the summary is empty.
        Self(Histogram::new_with_bounds(1, TIME_MAX_US, 3).ok())
    }
}

impl Times {
    /// Counts one.
    pub fn add(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(TIME_MAX_US).clamp(1, TIME_MAX_US);
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(micros);
        }
    }

    /// (microseconds, how many), to be added up elsewhere by [`Times::add_counts`].
    pub fn counts(&self) -> Vec<(u64, u64)> {
        let all = self.0.iter().flat_map(|histogram| histogram.iter_recorded());
        all.map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
    }

    /// Adds the counts of another.
    pub fn add_counts(&mut self, counts: &[(u64, u64)]) {
        if let Some(histogram) = &mut self.0 {
            for (micros, count) in counts {
                histogram.saturating_record_n(*micros, *count);
            }
        }
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, Histogram::len)
    }

    /// The percentiles.
    pub fn summary(&self) -> Summary {
        let Some(histogram) = &self.0 else { return Summary::default() };
        Summary {
            count: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            max_us: histogram.max(),
        }
    }
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many were counted.
    pub count: u64,
    /// Median.
    pub p50_us: u64,
    /// 90th percentile.
    pub p90_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |us: u64| format!("{}.{:02}", us / 1000, us % 1000 / 10);
        write!(
            f,
            "p50 {} p90 {} p99 {} max {} ms ({})",
            ms(self.p50_us),
            ms(self.p90_us),
            ms(self.p99_us),
            ms(self.max_us),
            self.count
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_counted() {
        let (mut parts, mut times) = ([Times::default(), Times::default()], Times::default());
        for ms in 1..=1000 {
            let [even, odd] = &mut parts;
            if ms % 2 == 0 { even } else { odd }.add(Duration::from_millis(ms));
        }
        parts.iter().for_each(|part| times.add_counts(&part.counts()));
        let summary = times.summary();
        assert_eq!(summary.count, 1000);
        for (got, expected) in [(summary.p50_us, 500_000), (summary.p99_us, 990_000), (summary.max_us, 1_000_000)] {
            assert!(got.abs_diff(expected) <= expected / 500, "{got} {expected}");
        }
    }
}
