//! What `deploy/` ships works: the unit, the image, the compose file, the rules, the alerts, the dashboard.
//!
//! Needs Debian's systemd, strace, prometheus, docker-compose, haproxy and redis-server; `tests/all` installs them, and starts nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod cluster;
mod dashboard;
mod guide;
mod image;
mod kubernetes;
mod prometheus;
mod rules;
#[path = "../support/mod.rs"]
mod support;
mod unit;
mod words;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// The path of a file of the repository.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The text of a file of the repository.
#[track_caller]
fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Runs a program to its end.
#[track_caller]
fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output();
    let name = command.get_program().to_string_lossy();
    output.unwrap_or_else(|error| panic!("{name} does not run ({error}); tests/all installs it"))
}

/// Runs a program that must succeed; gives what it said, stdout and then stderr.
#[track_caller]
fn done(command: &mut Command) -> String {
    let output = run(command);
    let said = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    said
}
