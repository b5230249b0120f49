//! The runs about Redis, against real nodes and a real Redis.

#![allow(clippy::unwrap_used, reason = "a test may fail; clippy knows only functions marked as tests")]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// The server beside this package's program. `None`, with a note, where it is not built; a panic there in CI.
fn unpoll() -> Option<PathBuf> {
    let program = Path::new(env!("CARGO_BIN_EXE_loadtest")).with_file_name("unpoll");
    if program.is_file() {
        return Some(program);
    }
    assert!(std::env::var("CI").is_err(), "the server must be built in CI: cargo build");
    eprintln!("NOT RUN: {} is not there (cargo build)", program.display());
    None
}

fn run(arguments: &str, passes: bool) -> Option<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    let done = command
        .args(arguments.split_whitespace())
        .args(["--json", "--plain", "--spawn"])
        .arg(unpoll()?)
        .output()
        .unwrap();
    assert_eq!(done.status.success(), passes, "{done:?}");
    Some(serde_json::from_slice(&done.stdout).unwrap())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn events_cross_between_nodes_and_each_is_accounted_for() {
    let small = "nodes --nodes 1,2 --devices 20 --rate 200 --posters 8 --warmup 0 --seconds 2 --rest 1";
    let Some(report) = run(small, true) else { return };
    for (run, nodes) in report["runs"].as_array().unwrap().iter().zip([1.0, 2.0]) {
        let events = &run["events"];
        assert!(number(&events["accepted"]) > 200.0, "{run}");
        for same in ["received", "settled", "accepted_at_level"] {
            assert_eq!(events[same], events["accepted"], "{run}");
        }
        assert_eq!((&run["durability"], number(&run["sessions_up"])), (&"primary".into(), 20.0));
        // (N−1) of N cross, and none has to go through Redis.
        let crossed = number(&run["hints"]["direct_per_event"]);
        assert!((crossed - (nodes - 1.0) / nodes).abs() < 0.1, "{crossed} of {nodes}: {run}");
        assert_eq!(number(&run["hints"]["indirect_per_event"]), 0.0, "{run}");
        assert_eq!(run["cpu"]["each_us"].as_array().unwrap().len() as f64, nodes);
        assert!(
            number(&run["cpu"]["all_us"]) > 0.0 && number(&run["redis"]["cpu_us_per_event"]) > 0.0,
            "{run}"
        );
        assert!(number(&run["redis"]["aof_bytes_per_event"]) > 500.0, "{run}");
        // To enqueue and to settle.
        let commands = run["redis"]["commands"].as_array().unwrap();
        let scripts = commands.iter().find(|command| command["name"] == "fcall").unwrap();
        assert!(number(&scripts["calls_per_event"]) > 1.5, "{run}");
        assert!(number(&run["post"]["p50_us"]) <= number(&run["post_to_device"]["max_us"]), "{run}");
    }
    let rise = number(&report["together"][1]["cpu_us_per_event"]) / number(&report["together"][0]["cpu_us_per_event"]);
    assert!((number(&report["together"][1]["rise_percent"]) - (rise - 1.0) * 100.0).abs() < 1e-6);
}

#[test]
fn with_a_replica_events_are_replicated() {
    let small = "nodes --nodes 1 --replicas 1 --devices 10 --rate 100 --posters 8 --warmup 0 --seconds 1 --rest 0 --sample 1";
    let Some(report) = run(small, true) else { return };
    let run = &report["runs"][0];
    assert_eq!(
        (&run["durability"], &run["events"]["accepted_at_level"]),
        (&"replicated".into(), &run["events"]["accepted"])
    );
    assert!(number(&run["replicas_cpu_us_per_event"]) > 0.0, "{run}");
    assert!(number(&run["redis"]["replication_bytes_per_event"]) > 500.0, "{run}");
    let commands = run["redis"]["commands"].as_array().unwrap();
    assert!(commands.iter().any(|command| command["name"] == "wait"), "{run}");
    // The one that puts an event into a queue is told from the others.
    let scripts = run["scripts"].as_array().unwrap();
    let queued = scripts
        .iter()
        .filter(|script| script["keys"].as_array().unwrap().contains(&"q".into()));
    let calls: f64 = queued.map(|script| number(&script["calls_per_event"])).sum();
    assert!((1.5..3.0).contains(&calls), "to enqueue and to settle: {run}");
}

#[test]
fn a_rate_that_cannot_be_carried_fails_the_run() {
    let small = "nodes --nodes 1 --devices 10 --rate 200000 --posters 1 --warmup 0 --seconds 1 --rest 0";
    let Some(report) = run(small, false) else { return };
    let events = &report["runs"][0]["events"];
    assert!(number(&events["not_offered"]) > 0.0, "{events}");
    assert_eq!(number(&events["lost"]), 0.0, "{events}");
}

#[test]
fn memory_is_charged_to_what_was_added() {
    let Some(report) = run("redis-memory --devices 200 --further 2", true) else {
        return;
    };
    let steps = report["steps"].as_array().unwrap();
    let counts: Vec<f64> = steps.iter().map(|step| number(&step["count"])).collect();
    assert_eq!(counts, [400.0, 200.0, 200.0, 400.0, 600.0]);
    let kind = |step: usize, kind: &str| number(&steps[step]["kinds"][kind]);
    // A row with two verifiers, a seat, an event with 500 bytes of data, and its end.
    assert!((200.0..2_000.0).contains(&kind(0, "d")), "{report}");
    assert!((20.0..500.0).contains(&kind(1, "p")), "{report}");
    assert!((500.0..2_000.0).contains(&kind(2, "q")), "{report}");
    assert!((500.0..1_500.0).contains(&kind(3, "q")), "{report}");
    assert!((10.0..500.0).contains(&kind(4, "s")), "{report}");
    assert_eq!((number(&report["applied"]), number(&report["repeats"])), (600.0, 0.0));
    assert!(number(&report["logins"]["redis"]["cpu_us_per_event"]) > 0.0, "{report}");
}
