//! Metric families made by hand, for collectors that read their figures at each scrape.

use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};

/// The metrics of one name.
pub fn family(name: &str, kind: MetricType, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

/// A counter or a gauge without labels.
pub fn single(name: &str, kind: MetricType, help: &str, value: f64) -> MetricFamily {
    let mut metric = Metric::default();
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    family(name, kind, help, vec![metric])
}
