//! The names in a PromQL expression, and whether the service has them.

use std::collections::{BTreeMap, BTreeSet};

use super::read;

/// What docs/reference/metrics.md says of a metric: its labels, each with its values. No values: they are not fixed.
type Labels = BTreeMap<String, BTreeSet<String>>;

/// All metrics that there are.
pub struct Reference {
    metrics: BTreeMap<String, Labels>,
    recorded: BTreeSet<String>,
}

/// Labels that Prometheus adds, or that only differ from place to place.
const FREE: [&str; 4] = ["job", "instance", "node", "le"];

impl Reference {
    /// The metrics of the service, and those that the recording rules make.
    pub fn new(recorded: impl IntoIterator<Item = String>) -> Self {
        let page = read("docs/reference/metrics.md");
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        let metrics: BTreeMap<String, Labels> = rows
            .map(|row| {
                let cells: Vec<&str> = row.split(" | ").collect();
                let name = cells[0].trim_start_matches("| ").trim_matches('`').to_owned();
                (name, labels(cells[2]))
            })
            .collect();
        assert!(metrics.len() > 30, "the page of metrics is not as this test reads it");
        Self {
            metrics,
            recorded: recorded.into_iter().collect(),
        }
    }

    /// What an expression names that is not there.
    pub fn unknown(&self, expression: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        for (name, matchers) in selectors(expression) {
            if self.recorded.contains(&name) {
                continue;
            }
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| self.metrics.get(name.strip_suffix(suffix)?));
            let Some(labels) = self.metrics.get(&name).or(family) else {
                wrong.push(name);
                continue;
            };
            for (label, value) in matchers {
                let known = labels.get(&label);
                let fits = match known {
                    _ if FREE.contains(&label.as_str()) => true,
                    None => false,
                    Some(values) => value.starts_with('$') || value.split('|').all(|word| values.contains(word)),
                };
                if !fits {
                    wrong.push(format!("{name}{{{label}=\"{value}\"}}"));
                }
            }
        }
        wrong
    }
}

/// `` `reason`: `none` `poison`; `node` `` → the two labels, the first with its values.
fn labels(cell: &str) -> Labels {
    let each = cell.split(';').filter(|part| part.contains('`'));
    each.map(|part| {
        let mut words = part.split('`').skip(1).step_by(2).map(str::to_owned);
        let name = words.next().unwrap();
        (name, words.collect())
    })
    .collect()
}

/// The metrics that an expression selects, each with its matchers of labels.
fn selectors(expression: &str) -> Vec<(String, Vec<(String, String)>)> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(begin) = rest.find(is_name) {
        let name_end = rest[begin..]
            .find(|letter| !is_name(letter))
            .map_or(rest.len(), |length| begin + length);
        let name = &rest[begin..name_end];
        rest = &rest[name_end..];
        let is_metric = name.starts_with("unpoll") || name.starts_with("process_") || name == "up";
        let mut matchers = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            // No value in our expressions holds a brace or a comma.
            let end = inside.find('}').expect("a closing brace");
            for matcher in inside[..end].split(',').filter(|text| !text.trim().is_empty()) {
                let (label, value) = matcher.split_once('"').expect("a quoted value");
                matchers.push((
                    label.trim_end_matches(['=', '~', '!']).trim().to_owned(),
                    value.trim_end().trim_end_matches('"').to_owned(),
                ));
            }
            rest = &inside[end + 1..];
        }
        if is_metric {
            found.push((name.to_owned(), matchers));
        }
    }
    found.retain(|(name, _)| name != "up");
    found
}

#[test]
fn the_reader_of_expressions_sees_names_and_labels() {
    let found = selectors("sum by (le, unit) (rate(unpoll_a_bucket{x=\"1\", y=~\"b|c\"}[5m])) / unpoll:b:rate5m > on (job) up{job=\"q\"}");
    let pair = |label: &str, value: &str| (label.to_owned(), value.to_owned());
    assert_eq!(
        found,
        [
            ("unpoll_a_bucket".to_owned(), vec![pair("x", "1"), pair("y", "b|c")]),
            ("unpoll:b:rate5m".to_owned(), vec![]),
        ]
    );
    let reference = Reference::new(["unpoll:b:rate5m".to_owned()]);
    let check = |expression: &str, unknown: &[&str]| assert_eq!(reference.unknown(expression), unknown, "{expression}");
    check("unpoll:b:rate5m", &[]);
    check("unpoll:c:rate5m", &["unpoll:c:rate5m"]);
    check("unpoll_sessions{transport=\"xmpps\",node=\"n7\"}", &[]);
    check("unpoll_session", &["unpoll_session"]);
    check(
        "unpoll_logins_total{result=~\"bound|lost\"}",
        &["unpoll_logins_total{result=\"bound|lost\"}"],
    );
    check("unpoll_logins_total{reason=\"bound\"}", &["unpoll_logins_total{reason=\"bound\"}"]);
    check("rate(unpoll_delivery_latency_seconds_bucket{le=\"60\"}[1m])", &[]);
}
