//! The ledger's figures, computed a second time from the logs of boxes that know nothing of the service's code.
//!
//! This is the short run of `tests/calibration/run.py`; `tests/long` has the one of ten minutes, which also judges the
//! calibration.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::process::Command;

#[test]
fn the_report_says_what_the_boxes_wrote_down() {
    let run = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/calibration/run.py");
    let output = Command::new("python3")
        .arg(run)
        .args(["--unpoll", env!("CARGO_BIN_EXE_unpoll")])
        .args([
            "--boxes",
            "60",
            "--control",
            "50",
            "--seconds",
            "24",
            "--interval",
            "2",
            "--keepalive",
            "5",
        ])
        .args(["--tolerance", "0.05", "--short"])
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("push: credited seconds"), "{said}");
}
