//! The demo tells the whole story and ends well.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::process::Stdio;

use loadtest::redis;
use support::{TestDir, unpoll};

#[test]
fn the_demo_runs_to_its_report() {
    let dir = TestDir::new();
    let mut demo = unpoll();
    demo.args(["demo", "--devices", "20", "--seconds", "5"])
        .current_dir(dir.path())
        .stdin(Stdio::null());
    let output = demo.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains('\u{1b}'), "a plain log when stdout is no terminal");
    let lower = said.to_lowercase();
    for figure in ["events", "p50", "p99", "polls avoided"] {
        assert!(lower.contains(figure), "no {figure} in:\n{said}");
    }
}

#[test]
fn several_nodes_on_one_redis_lose_nothing_when_one_is_killed_and_leave_nothing_there() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    redis.query::<()>(&["SET", "somebody's", "x"]).unwrap();
    let dir = TestDir::new();
    let mut demo = unpoll();
    demo.args([
        "demo",
        "--devices",
        "30",
        "--control",
        "10",
        "--seconds",
        "8",
        "--redis",
        &redis.url(),
    ])
    .current_dir(dir.path())
    .stdin(Stdio::null());
    let output = demo.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    for words in [
        "nodes: 3 of 3",
        "nodes: 2 of 3",
        "durable in Redis",
        " 0 lost, 0 applied twice",
        "3 on one Redis",
        "polls avoided",
        "cohort push      30 devices",
    ] {
        assert!(said.contains(words), "no {words:?} in:\n{said}");
    }
    let left: Vec<String> = redis.query(&["KEYS", "*"]).unwrap();
    assert_eq!(left, ["somebody's"]);
}

#[test]
fn a_redis_that_is_not_there_or_not_fit_is_named_and_nothing_is_left() {
    let refused = |url: &str| {
        let output = unpoll().args(["demo", "--redis", url]).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused("redis://127.0.0.1:9");
    assert!(said.contains("Redis is not reached") && said.contains("127.0.0.1:9"), "{said}");
    let volatile = redis::Settings {
        lines: vec!["appendonly no".into()],
        ..redis::Settings::default()
    };
    let redis = redis::Server::start(&volatile).unwrap();
    let said = refused(&redis.url());
    assert!(said.contains("appendonly yes"), "{said}");
    assert_eq!(redis.query::<u64>(&["DBSIZE"]).unwrap(), 0);
}
