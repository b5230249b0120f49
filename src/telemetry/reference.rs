//! The page of all metrics, made from the registry itself.

use std::{collections::BTreeSet, fmt::Write as _};

use prometheus::{
    Registry,
    proto::{MetricFamily, MetricType},
};

/// `docs/reference/metrics.md`: name, type, labels with their values, and meaning of everything that is registered.
///
/// A family without a single label set is not seen; every label set exists from the start, so there is none.
pub fn reference(registry: &Registry) -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         On the admin listener at `/metrics`, Prometheus text format 0.0.4. Generated from the code: a test keeps this page fresh.\n\
         Units are base units; every label set exists from the start; no label ever holds a device id.\n\n\
         | name | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for family in registry.gather() {
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            MetricType::SUMMARY => "summary",
            MetricType::UNTYPED => "untyped",
        };
        let help = family.help().replace('|', "\\|");
        // Writing to a String cannot fail.
        let _ = writeln!(page, "| `{}` | {kind} | {} | {help} |", family.name(), labels(&family));
    }
    page
}

/// Labels that differ from build to build, or from node to node.
const FREE_LABELS: [&str; 2] = ["version", "node"];

fn labels(family: &MetricFamily) -> String {
    let mut names: Vec<&str> = Vec::new();
    for pair in family.get_metric().iter().flat_map(|metric| metric.get_label()) {
        if !names.contains(&pair.name()) {
            names.push(pair.name());
        }
    }
    let texts = names.iter().map(|name| {
        if FREE_LABELS.contains(name) {
            return format!("`{name}`");
        }
        let pairs = family.get_metric().iter().flat_map(|metric| metric.get_label());
        let values: BTreeSet<&str> = pairs.filter(|pair| pair.name() == *name).map(|pair| pair.value()).collect();
        let values: Vec<String> = values.into_iter().map(|value| format!("`{value}`")).collect();
        format!("`{name}`: {}", values.join(" "))
    });
    texts.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use prometheus::{IntCounterVec, IntGauge, Opts};

    use super::*;

    #[test]
    fn the_page_names_type_labels_and_meaning() {
        let registry = Registry::new();
        let ends = IntCounterVec::new(Opts::new("unpoll_ends_total", "How it ended: a|b."), &["state", "node"]).expect("a metric");
        ends.with_label_values(&["expired", "n1"]);
        ends.with_label_values(&["delivered", "n1"]);
        registry.register(Box::new(ends)).expect("registered");
        let depth = IntGauge::new("unpoll_depth", "Events that wait.").expect("a metric");
        registry.register(Box::new(depth)).expect("registered");
        let page = reference(&registry);
        assert!(page.contains("| `unpoll_depth` | gauge |  | Events that wait. |\n"), "{page}");
        assert!(
            page.contains("| `unpoll_ends_total` | counter | `node`; `state`: `delivered` `expired` | How it ended: a\\|b. |\n"),
            "{page}"
        );
    }
}
