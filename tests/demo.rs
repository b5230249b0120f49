//! The demo tells the whole story and ends well.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::process::Stdio;

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
