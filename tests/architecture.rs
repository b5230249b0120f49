//! Holds the code to the import table of docs/ARCHITECTURE.md, and the repository to its top-level names.
//!
//! An ordinary test, so that `cargo test` is the whole truth about the code.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What every part may import, and which parts each may import beside that. Imports point down the flow.
const EVERYONE: [&str; 3] = ["domain", "telemetry", "crew"];
const MAY_IMPORT: [(&str, &[&str]); 21] = [
    ("ingress", &["store", "http"]),
    ("store", &[]),
    ("dispatch", &["store", "presence", "gateway"]),
    ("presence", &["store", "http"]),
    ("registry", &["store", "http"]),
    ("webhooks", &["store", "http"]),
    ("transfer", &["store", "http"]),
    ("gateway", &["presence", "store", "xmpp", "http", "proxy", "tls", "tokens"]),
    ("xmpp", &["store"]),
    ("ledger", &["store", "http"]),
    ("receipts", &["store", "http"]),
    ("cluster", &["store"]),
    ("admin", &["store", "presence", "http"]),
    ("telemetry", &[]),
    ("crew", &[]),
    ("http", &["proxy"]),
    ("proxy", &[]),
    ("tokens", &[]),
    ("tls", &["certificate"]),
    ("certificate", &[]),
    ("domain", &[]),
];

/// The composition root, and what a person types: they know every part, and no part knows them.
const ABOVE: [&str; 5] = ["app", "cli", "config", "lib", "main"];

/// Of a part that is open only in part: who may see which names.
const ONLY: [(&str, &str, &[&str]); 2] = [
    ("dispatch", "gateway", &["Behind", "Link", "Links", "Offer", "link"]),
    ("xmpp", "store", &["QueuedEvent", "Cursor"]),
];

/// The names that explain the project, and those that tools make (all of them ignored by git).
const TOP_LEVEL: [&str; 9] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "deploy",
    "docs",
    "loadtest",
    "src",
    "tests",
];
const MADE: [&str; 3] = ["target", "unpoll-data", "node_modules"];

#[test]
fn imports_point_down_the_flow() {
    let mut wrong = Vec::new();
    let files = sources(&root().join("src"));
    assert!(files.len() > MAY_IMPORT.len(), "the sources are not where this test looks for them");
    for file in files {
        let part = part_of(&file);
        if ABOVE.contains(&part.as_str()) {
            continue;
        }
        let allowed = MAY_IMPORT.iter().find(|(name, _)| *name == part);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{part} is not in the import table; say there what it may import"));
        for path in imports(&fs::read_to_string(&file).unwrap()) {
            let mut names = path.split("::");
            let (imported, item) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
            let open = imported == part || (part != "domain" && EVERYONE.contains(&imported)) || allowed.contains(&imported);
            let only = ONLY.iter().find(|(who, whom, _)| *who == part && *whom == imported);
            let named = only.is_none_or(|(_, _, names)| names.contains(&item));
            if !(open && named) {
                wrong.push(format!("{}: crate::{path}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the table:\n{}", wrong.join("\n"));
}

#[test]
fn every_part_of_the_table_is_there() {
    for (part, _) in MAY_IMPORT {
        let folder = root().join("src").join(part);
        assert!(
            folder.is_dir() || folder.with_extension("rs").is_file(),
            "src/{part} is in the table only"
        );
    }
}

#[test]
fn the_top_level_explains_the_project() {
    let names = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: BTreeSet<String> = names
        .filter(|name| !name.starts_with('.') && !MADE.contains(&name.as_str()))
        .collect();
    let odd: Vec<&String> = names.iter().filter(|name| !TOP_LEVEL.contains(&name.as_str())).collect();
    assert!(odd.is_empty(), "not among the names that explain the project: {odd:?}");
}

#[test]
fn the_reader_of_imports_sees_them_all() {
    let check = |text: &str, expected: &[&str]| assert_eq!(imports(text), expected, "{text}");
    check("use crate::store::Mailbox;", &["store::Mailbox"]);
    check(
        "use crate::{domain::{Clock, EventId}, store::Cursor};",
        &["domain::Clock", "domain::EventId", "store::Cursor"],
    );
    check("let x = crate::ledger::report();", &["ledger::report"]);
    check("// crate::app is not imported\nuse super::lane;", &[]);
    check("pub(crate) fn f() {}", &[]);
    check("use crate::http;\n#[cfg(test)]\nmod tests { use crate::app::App; }", &["http"]);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn part_of(file: &Path) -> String {
    let inside = file.strip_prefix(root().join("src")).unwrap();
    let first = Path::new(inside.components().next().unwrap().as_os_str());
    first.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// All source files that are not tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "tests" {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") && name != "tests.rs" && !name.ends_with("_tests.rs") {
            found.push(path);
        }
    }
    found
}

/// Every path that begins with `crate::`, without that word, before the tests of the file.
fn imports(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code: String = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join(" ");
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_none_or(|c| !c.is_alphanumeric() && c != '_') {
            expand("", &code[at + "crate::".len()..], &mut found);
        }
    }
    found
}

/// Reads one path or one group in braces; gives how much of `text` it took.
fn expand(prefix: &str, text: &str, found: &mut Vec<String>) -> usize {
    let start = text.len() - text.trim_start().len();
    let name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let end = text[start..].find(|c| !name(c)).map_or(text.len(), |end| start + end);
    let path = format!("{prefix}{}", &text[start..end]);
    if !text[end..].starts_with('{') {
        if !path.is_empty() && path != prefix {
            found.push(path);
        }
        return end;
    }
    let mut at = end + 1;
    while at < text.len() {
        at += expand(&path, &text[at..], found);
        let rest = text[at..].find([',', '}']).map_or(text.len(), |next| at + next);
        let done = text[rest..].starts_with('}');
        at = rest + 1;
        if done {
            break;
        }
    }
    at.min(text.len())
}
