//! Metrics made from sums.

use std::collections::HashMap;

use prometheus::{
    core::Desc,
    proto::{self, MetricFamily, MetricType},
};

use crate::telemetry;

/// The name and help of a metric, and its labels.
pub type Named = (&'static str, &'static str, &'static [&'static str]);

/// What a collector says of it beforehand.
pub fn desc((name, help, labels): Named) -> prometheus::Result<Desc> {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())
}

/// All metrics of one name.
pub fn family((name, help, _): Named, kind: MetricType, metrics: Vec<proto::Metric>) -> MetricFamily {
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

/// A counter.
pub fn counter(labels: &[(&str, &str)], value: f64) -> proto::Metric {
    let mut counter = proto::Counter::default();
    counter.set_value(value);
    let mut metric = labelled(labels);
    metric.set_counter(counter);
    metric
}

/// A gauge.
pub fn gauge(labels: &[(&str, &str)], value: f64) -> proto::Metric {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    let mut metric = labelled(labels);
    metric.set_gauge(gauge);
    metric
}

/// A histogram; `count_of` gives the count of each bucket alone, the last one is +Inf.
pub fn histogram(labels: &[(&str, &str)], bounds: &[f64], sum: f64, count_of: impl Fn(usize) -> u64) -> proto::Metric {
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
