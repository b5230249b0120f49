//! One gathering of the metrics, asked by name: what `/metrics` would show at that moment.

use std::collections::BTreeMap;

use prometheus::proto::{Metric, MetricFamily, MetricType};

/// All metrics at one moment.
pub struct Figures(Vec<MetricFamily>);

/// A label and its value.
pub type Label<'a> = (&'a str, &'a str);

impl Figures {
    /// Those of one gathering.
    pub fn new(families: Vec<MetricFamily>) -> Self {
        Self(families)
    }

    fn family(&self, name: &str) -> Option<&MetricFamily> {
        self.0.iter().find(|family| family.name() == name)
    }

    /// The sum over all label sets that have these labels. `None`: no such metric, or none with these labels.
    pub fn sum(&self, name: &str, labels: &[Label]) -> Option<f64> {
        let family = self.family(name)?;
        let mut fitting = fitting(family, labels).peekable();
        fitting.peek()?;
        Some(fitting.map(|metric| value(family, metric)).sum())
    }

    /// The sums by the values of `label`. `None`: no such metric.
    pub fn by(&self, name: &str, label: &str) -> Option<BTreeMap<String, f64>> {
        let family = self.family(name)?;
        let mut sums = BTreeMap::new();
        for metric in family.get_metric() {
            if let Some(pair) = metric.get_label().iter().find(|pair| pair.name() == label) {
                *sums.entry(pair.value().to_owned()).or_insert(0.0) += value(family, metric);
            }
        }
        Some(sums)
    }

    /// The histogram over all label sets that have these labels. `None`: as in [`Figures::sum`].
    pub fn histogram(&self, name: &str, labels: &[Label]) -> Option<Histogram> {
        let family = self.family(name)?;
        if family.get_field_type() != MetricType::HISTOGRAM {
            return None;
        }
        let mut whole: Option<Histogram> = None;
        for metric in fitting(family, labels) {
            let one = metric.get_histogram();
            let buckets = one.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
            let whole = whole.get_or_insert_with(Histogram::default);
            whole.count += one.get_sample_count();
            whole.sum += one.get_sample_sum();
            // All label sets of a family share their buckets.
            for (index, bucket) in buckets.enumerate() {
                match whole.buckets.get_mut(index) {
                    Some((_, count)) => *count += bucket.cumulative_count(),
                    None => whole.buckets.push((bucket.upper_bound(), bucket.cumulative_count())),
                }
            }
        }
        whole
    }
}

fn fitting<'a>(family: &'a MetricFamily, labels: &'a [Label]) -> impl Iterator<Item = &'a Metric> {
    let has = |metric: &Metric, (name, value): &Label| metric.get_label().iter().any(|pair| pair.name() == *name && pair.value() == *value);
    family
        .get_metric()
        .iter()
        .filter(move |metric| labels.iter().all(|label| has(metric, label)))
}

fn value(family: &MetricFamily, metric: &Metric) -> f64 {
    match family.get_field_type() {
        MetricType::COUNTER => metric.get_counter().get_value(),
        MetricType::HISTOGRAM => metric.get_histogram().get_sample_count() as f64,
        _ => metric.get_gauge().get_value(),
    }
}

/// A histogram with cumulative counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Upper bound and how many are at most it; the bound that is infinite is left out.
    pub buckets: Vec<(f64, u64)>,
    /// How many there are.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

impl Histogram {
    /// What came since `earlier`, of the same metric.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |index: usize| earlier.buckets.get(index).map_or(0, |(_, count)| *count);
        Self {
            buckets: self
                .buckets
                .iter()
                .enumerate()
                .map(|(index, (bound, count))| (*bound, count.saturating_sub(before(index))))
                .collect(),
            count: self.count.saturating_sub(earlier.count),
            sum: self.sum - earlier.sum,
        }
    }

    /// The value that the part `q` (0 to 1) lies below, straight between the bounds of its bucket, as `histogram_quantile` of
    /// Prometheus has it. NaN: the histogram is empty.
    pub fn quantile(&self, q: f64) -> f64 {
        let rank = q * self.count as f64;
        let Some(&(last, _)) = self.buckets.last().filter(|_| self.count > 0) else {
            return f64::NAN;
        };
        let Some(at) = self.buckets.iter().position(|(_, count)| *count as f64 >= rank && *count > 0) else {
            return last;
        };
        let (upper, count) = self.buckets[at];
        let (lower, below) = match at.checked_sub(1).map(|before| self.buckets[before]) {
            Some(before) => before,
            // What lies under a lowest bound that is not positive is not known any better.
            None if upper <= 0.0 => return upper,
            None => (0.0, 0),
        };
        lower + (upper - lower) * (rank - below as f64) / (count - below).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

    use super::*;

    fn figures() -> Figures {
        let registry = Registry::new();
        let ends = IntCounterVec::new(Opts::new("ends_total", "Ends."), &["state", "reason"]).expect("a metric");
        ends.with_label_values(&["delivered", "none"]).inc_by(5);
        ends.with_label_values(&["failed", "poison"]).inc_by(2);
        ends.with_label_values(&["failed", "gone"]).inc_by(1);
        registry.register(Box::new(ends)).expect("registered");
        let options = HistogramOpts::new("latency_seconds", "Latency.").buckets(vec![1.0, 2.0, 4.0]);
        let latency = HistogramVec::new(options, &["urgency"]).expect("a metric");
        [0.5, 1.5, 1.5]
            .iter()
            .for_each(|seconds| latency.with_label_values(&["high"]).observe(*seconds));
        latency.with_label_values(&["low"]).observe(9.0);
        registry.register(Box::new(latency)).expect("registered");
        Figures::new(registry.gather())
    }

    #[test]
    fn sums_go_over_all_label_sets_that_fit() {
        let figures = figures();
        let check = |name: &str, labels: &[Label], expected| assert_eq!(figures.sum(name, labels), expected, "{name} {labels:?}");
        check("ends_total", &[], Some(8.0));
        check("ends_total", &[("state", "failed")], Some(3.0));
        check("ends_total", &[("state", "expired")], None);
        check("latency_seconds", &[], Some(4.0));
        check("no_such_total", &[], None);
        let by = figures.by("ends_total", "state").expect("there");
        assert_eq!(
            by.into_iter().collect::<Vec<_>>(),
            [("delivered".into(), 5.0), ("failed".into(), 3.0)]
        );
    }

    #[test]
    fn histograms_are_added_and_taken_from_each_other() {
        let figures = figures();
        let whole = figures.histogram("latency_seconds", &[]).expect("there");
        assert_eq!(whole.buckets, [(1.0, 1), (2.0, 3), (4.0, 3)]);
        assert_eq!((whole.count, whole.sum), (4, 12.5));
        let high = figures.histogram("latency_seconds", &[("urgency", "high")]).expect("there");
        let rest = whole.since(&high);
        assert_eq!((rest.buckets, rest.count), (vec![(1.0, 0), (2.0, 0), (4.0, 0)], 1));
        assert_eq!(figures.histogram("ends_total", &[]), None);
    }

    #[test]
    fn quantiles_are_those_of_prometheus() {
        let check = |buckets: &[(f64, u64)], count, q, expected: f64| {
            let histogram = Histogram {
                buckets: buckets.to_vec(),
                count,
                sum: 0.0,
            };
            let found = histogram.quantile(q);
            assert!(
                (found - expected).abs() < 1e-9 || found.is_nan() && expected.is_nan(),
                "{q} of {buckets:?}: {found}"
            );
        };
        check(&[(1.0, 0), (2.0, 0)], 0, 0.5, f64::NAN);
        check(&[], 3, 0.5, f64::NAN);
        check(&[(1.0, 10), (2.0, 10)], 10, 0.5, 0.5);
        check(&[(1.0, 0), (2.0, 10)], 10, 0.5, 1.5);
        check(&[(1.0, 5), (2.0, 10)], 10, 0.99, 1.98);
        check(&[(1.0, 5), (2.0, 5)], 10, 0.99, 2.0);
        check(&[(-10.0, 4), (0.0, 10)], 10, 0.1, -10.0);
        check(&[(-10.0, 4), (0.0, 10)], 10, 0.7, -5.0);
    }
}
