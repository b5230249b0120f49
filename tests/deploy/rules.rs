//! The recording rules and the alerts: right to `promtool`, tested one by one, and explained in the guides.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
};

use serde_json::Value;

use super::{done, path, read, support::TestDir, words::Reference};

/// Files of alerts, each with the guide that explains them.
const ALERTS: [(&str, &str); 2] = [
    ("deploy/prometheus/rules/alerts.yml", "docs/guides/operations.md"),
    ("deploy/prometheus/rules/cluster.yml", "docs/guides/cluster.md"),
];

/// A YAML file as JSON.
pub fn yaml(file: &str) -> Value {
    serde_saphyr::from_str(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The members of a list.
fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

fn rules(file: &str) -> Vec<Value> {
    let file = yaml(file);
    list(&file, "groups").flat_map(|group| list(group, "rules")).cloned().collect()
}

fn recording() -> Vec<Value> {
    rules("deploy/prometheus/rules/recording.yml")
}

fn alerts() -> Vec<Value> {
    ALERTS.iter().flat_map(|(file, _)| rules(file)).collect()
}

/// The names that the recording rules make.
pub fn recorded() -> Vec<String> {
    recording().iter().map(|rule| text(rule, "record").to_owned()).collect()
}

fn test_files() -> Vec<PathBuf> {
    let files = fs::read_dir(path("tests/deploy/rules")).unwrap();
    let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Every test of every file in tests/deploy/rules.
fn tests() -> Vec<Value> {
    let files = test_files().into_iter().map(|file| {
        let file: Value = serde_saphyr::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        list(&file, "tests").cloned().collect::<Vec<_>>()
    });
    files.flatten().collect()
}

#[test]
fn promtool_finds_no_fault() {
    let dir = TestDir::new();
    let key = dir.path().join("key");
    fs::write(&key, "key").unwrap();
    let rules = path("deploy/prometheus/rules/*.yml");
    for name in ["prometheus.yml", "prometheus.cluster.yml"] {
        let config = read(&format!("deploy/prometheus/{name}"))
            .replace("/run/secrets/prometheus.key", key.to_str().unwrap())
            .replace("rules/*.yml", rules.to_str().unwrap());
        let file = dir.path().join(name);
        fs::write(&file, config).unwrap();
        let said = done(Command::new("promtool").args(["check", "config", "--lint-fatal"]).arg(&file));
        assert!(said.contains("3 rule files found"), "{said}");
    }
    for rules in ["recording.yml", "alerts.yml", "cluster.yml"] {
        done(
            Command::new("promtool")
                .args(["check", "rules", "--lint-fatal"])
                .arg(path("deploy/prometheus/rules").join(rules)),
        );
    }
}

#[test]
fn every_rule_does_what_its_tests_say() {
    done(Command::new("promtool").args(["test", "rules"]).args(test_files()));
}

#[test]
fn every_alert_is_tested_firing_and_quiet() {
    let mut tested: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for test in tests() {
        for case in list(&test, "alert_rule_test") {
            let (firing, quiet) = tested.entry(text(case, "alertname").to_owned()).or_default();
            *if list(case, "exp_alerts").next().is_some() { firing } else { quiet } += 1;
        }
    }
    let known: BTreeSet<String> = alerts().iter().map(|alert| text(alert, "alert").to_owned()).collect();
    assert_eq!(tested.keys().collect::<Vec<_>>(), known.iter().collect::<Vec<_>>());
    let untested: Vec<_> = tested.iter().filter(|(_, (firing, quiet))| *firing == 0 || *quiet == 0).collect();
    assert!(untested.is_empty(), "firing and quiet: {untested:?}");
}

#[test]
fn every_recording_rule_has_a_test_of_its_figure() {
    let tests = tests();
    let cases = tests.iter().flat_map(|test| list(test, "promql_expr_test"));
    let proven: String = cases
        .filter(|case| list(case, "exp_samples").next().is_some())
        .map(|case| text(case, "expr"))
        .collect();
    let unproven: Vec<String> = recorded().into_iter().filter(|name| !proven.contains(name)).collect();
    assert!(unproven.is_empty(), "{unproven:?}");
}

#[test]
fn rules_name_only_what_there_is() {
    let reference = Reference::new(recorded());
    let rules = recording().into_iter().chain(alerts());
    let unknown: Vec<String> = rules.flat_map(|rule| reference.unknown(text(&rule, "expr"))).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// Each alert tells what it saw and leads to a paragraph that says what it means, how to see it, and what to do; no paragraph
/// is left over.
#[test]
fn every_alert_leads_to_its_paragraph() {
    for (file, guide) in ALERTS {
        every_alert_of_a_file_leads_to_its_paragraph(file, guide);
    }
}

fn every_alert_of_a_file_leads_to_its_paragraph(file: &str, guide: &str) {
    let page = read(guide);
    let mut paragraphs: BTreeMap<String, &str> = BTreeMap::new();
    for part in page.split("\n### Unpoll").skip(1) {
        let (name, text) = part.split_once('\n').unwrap();
        paragraphs.insert(format!("Unpoll{}", name.trim()), text.split("\n#").next().unwrap());
    }
    for alert in rules(file) {
        let (name, annotations) = (text(&alert, "alert"), &alert["annotations"]);
        let severity = text(&alert["labels"], "severity");
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        assert!(!text(annotations, "summary").is_empty());
        assert!(
            text(annotations, "description").contains("$value"),
            "{name} does not tell what it saw"
        );
        assert_eq!(text(annotations, "runbook_url"), format!("{guide}#{}", name.to_lowercase()));
        let paragraph = paragraphs
            .remove(name)
            .unwrap_or_else(|| panic!("{name} has no heading in {guide}"));
        for part in ["**Means**", "**See**", "**Do**"] {
            assert!(paragraph.contains(part), "the paragraph of {name} has no {part}");
        }
    }
    assert!(paragraphs.is_empty(), "no alert: {:?}", paragraphs.keys());
}
