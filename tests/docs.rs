//! The documents are true: programs in the guides are the ones that run, commands in them work, and links lead somewhere.
//!
//! `BLESS=1 cargo test --test docs` writes the programs into the guides.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use support::{SOON, Service, Settings, TestDir, unpoll, wait_for};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All pages: README.md and whatever lies below docs/.
fn pages() -> Vec<PathBuf> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let mut found = vec![root().join("README.md")];
    below(&root().join("docs"), &mut found);
    found
}

/// The fenced blocks of a page: the language, and the text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let (mut found, mut open): (Vec<(String, String)>, bool) = (Vec::new(), false);
    for line in page.lines() {
        match (line.strip_prefix("```"), open) {
            (Some(language), false) => {
                found.push((language.to_owned(), String::new()));
                open = true;
            }
            (Some(_), true) => open = false,
            (None, true) => {
                let (_, text) = found.last_mut().unwrap();
                text.push_str(line);
                text.push('\n');
            }
            (None, false) => {}
        }
    }
    assert!(!open, "a block is not closed");
    found
}

#[test]
fn the_programs_in_the_guides_are_those_that_the_tests_run() {
    let mut shown = 0;
    for guide in [
        "docs/guides/device.md",
        "docs/guides/boot-without-clock.md",
        "docs/guides/backend.md",
        "docs/guides/polling.md",
    ] {
        let page = read(guide);
        let mut fresh = String::new();
        let mut rest = page.as_str();
        while let Some(at) = rest.find("<!-- tests/clients/") {
            let name = rest[at..].split(' ').nth(1).unwrap();
            let fence = at + rest[at..].find("```").unwrap();
            let begin = fence + rest[fence..].find('\n').unwrap() + 1;
            let end = begin
                + if rest[begin..].starts_with("```") {
                    0
                } else {
                    rest[begin..].find("\n```").unwrap() + 1
                };
            fresh.push_str(&rest[..begin]);
            fresh.push_str(&read(name));
            rest = &rest[end..];
            shown += 1;
        }
        fresh.push_str(rest);
        if std::env::var_os("BLESS").is_some() {
            fs::write(root().join(guide), &fresh).unwrap();
        } else {
            assert!(
                page == fresh,
                "{guide} shows another program than the tests run; BLESS=1 cargo test --test docs"
            );
        }
    }
    assert_eq!(
        shown, 11,
        "four devices, one that polls, two posting programs, one that reads receipts, a receiver of webhooks, provisioning and the clock"
    );
}

/// The guide's commands, in order, in one directory with a service that has its data there.
#[test]
fn the_commands_of_the_guides_work() {
    for guide in ["docs/guides/backend.md", "docs/guides/device.md", "docs/guides/polling.md"] {
        let dir = TestDir::new();
        let service = Service::start_with(Settings {
            data_dir: Some(dir.path().join("unpoll-data")),
            ..Settings::default()
        });
        let mut script = String::from("set -euo pipefail\n");
        let commands: Vec<String> = blocks(&read(guide))
            .into_iter()
            .filter(|(language, _)| language == "sh")
            .map(|block| block.1)
            .collect();
        assert!(!commands.is_empty());
        commands.iter().for_each(|command| script.push_str(command));
        let https = service.ready["https"].as_str().unwrap();
        let script = script
            .replace("localhost:8080", &service.http.to_string())
            .replace("localhost:8443", &https.replace("127.0.0.1", "localhost"))
            .replace("localhost:5223", &service.xmpps.to_string());
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_unpoll"));
        let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let output = Command::new("bash")
            .args(["-c", &script])
            .current_dir(dir.path())
            .env("PATH", path)
            .env("UNPOLL_URL", format!("http://{}", service.http))
            .output()
            .unwrap();
        assert!(output.status.success(), "{guide}: {script}\n{output:?}");
    }
}

#[test]
fn the_program_that_reads_receipts_goes_on_where_it_was() {
    let mut service = Service::start();
    let backend = service.backend();
    backend.add_device("box", "secret");
    let file = service.dir().join("cursor");
    let start = |service: &Service| {
        let mut child = Command::new("python3")
            .arg(root().join("tests/clients/receipts.py"))
            .args([format!("http://{}", service.http), file.display().to_string()])
            .env("UNPOLL_KEY", service.admin_key())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines.map(|line| line.unwrap().split(' ').nth(2).unwrap().to_owned()))
    };
    let end = || {
        let event = backend.push("box", &serde_json::json!(1));
        backend.delete(&format!("/v1/events/{event}")).expect(200);
        event
    };
    let events = [end(), end()];
    let (mut program, mut told) = start(&service);
    assert_eq!([told.next().unwrap(), told.next().unwrap()], events);
    // The stream is cut, and it comes back by itself.
    service.kill();
    service.run();
    let third = end();
    assert_eq!(told.next(), Some(third));
    // It goes on where its file says.
    wait_for("the cursor of the third", SOON, || {
        std::fs::read_to_string(&file).unwrap().starts_with("3.").then_some(())
    });
    program.kill().unwrap();
    program.wait().unwrap();
    let fourth = end();
    let (mut program, mut told) = start(&service);
    assert_eq!(told.next(), Some(fourth));
    program.kill().unwrap();
    program.wait().unwrap();
}

/// The README's two commands are there; `tests/all` runs the demo itself.
#[test]
fn the_commands_of_the_readme_are_understood() {
    let commands: Vec<String> = blocks(&read("README.md"))
        .into_iter()
        .filter(|(language, _)| language == "sh")
        .map(|block| block.1)
        .collect();
    assert_eq!(commands.len(), 2, "{commands:?}");
    let arguments = commands[0].trim().strip_prefix("cargo run --release -- ").expect("cargo run");
    let output = unpoll().args(arguments.split(' ')).arg("--help").output().unwrap();
    assert!(output.status.success(), "{}: {output:?}", commands[0]);
    assert_eq!(commands[1].trim(), "tests/all");
    let script = fs::metadata(root().join("tests/all")).unwrap();
    assert!(
        std::os::unix::fs::PermissionsExt::mode(&script.permissions()) & 0o111 != 0,
        "tests/all can be run"
    );
}

#[test]
fn links_between_pages_lead_somewhere() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let prose: String = text.split("```").step_by(2).collect();
        for link in prose.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.contains("://") || link.starts_with('#') {
                continue;
            }
            let target = page.parent().unwrap().join(link.split('#').next().unwrap());
            assert!(target.exists(), "{} links to {link}", page.display());
        }
    }
}

#[test]
fn the_table_of_the_map_is_the_one_that_the_code_is_held_to() {
    let table = read("docs/ARCHITECTURE.md");
    let held = read("tests/architecture.rs");
    let rows = held.split("const MAY_IMPORT").nth(1).unwrap().split("];").next().unwrap();
    for row in rows.split("(\"").skip(1) {
        let part = row.split('"').next().unwrap();
        let allowed: Vec<&str> = row
            .split("&[")
            .nth(1)
            .unwrap()
            .split(']')
            .next()
            .unwrap()
            .split('"')
            .filter(|word| word.chars().all(char::is_alphabetic) && !word.is_empty())
            .collect();
        let Some(line) = table.lines().find(|line| line.starts_with(&format!("| `{part}` |"))) else {
            assert!(["telemetry", "crew", "certificate"].contains(&part), "{part} has no row in the map");
            continue;
        };
        let cell = line.split('|').nth(3).unwrap();
        for name in allowed {
            assert!(
                cell.contains(name),
                "{part} may import {name}, says the test; the map does not: {cell}"
            );
        }
    }
}
