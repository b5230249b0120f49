//! The requirements in the XMPP reference name tests that are there.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The section with the requirements.
fn page() -> String {
    let page = fs::read_to_string(root().join("docs/reference/xmpp.md")).unwrap();
    page.split_once("## Every requirement, and its test")
        .expect("the section")
        .1
        .to_owned()
}

/// Whether a source has that test, and runs it.
fn has_test(source: &str, name: &str) -> bool {
    // Suites of the store's contract are made into tests by a macro.
    let declared = source.find(&format!("fn {name}("));
    let Some(at) = declared else {
        return source.lines().any(|line| line.trim() == format!("{name},"));
    };
    let before: Vec<&str> = source[..at].lines().rev().take(4).collect();
    !before.iter().any(|line| line.contains("#[ignore"))
        && (before.iter().any(|line| line.contains("test]")) || source.contains("proptest!"))
}

/// The file in which a test of that path would be.
fn candidates(path: &str) -> Vec<PathBuf> {
    let parts: Vec<&str> = path.split("::").collect();
    let modules = &parts[..parts.len() - 1];
    let whole: PathBuf = modules.iter().collect();
    let mut found = vec![whole.with_extension("rs"), whole.join("mod.rs")];
    // Tests that stand beside the code: `mod tests` in the file of the module.
    if let Some(("tests", outer)) = modules.split_last().map(|(last, outer)| (*last, outer)) {
        let outer: PathBuf = outer.iter().collect();
        found.extend([outer.with_extension("rs"), outer.join("mod.rs")]);
    }
    let store = Path::new("store/contract/mod.rs").to_owned();
    if path.starts_with("store::embedded::tests::") {
        found.push(store);
    }
    found.into_iter().map(|path| root().join("src").join(path)).collect()
}

fn exists(proof: &str) -> bool {
    if proof.ends_with(".txt") {
        return root().join("tests/conversations").join(proof).is_file();
    }
    if let Some((file, name)) = proof.strip_prefix("tests/").and_then(|rest| rest.split_once("::")) {
        return fs::read_to_string(root().join("tests").join(file)).is_ok_and(|source| has_test(&source, name));
    }
    let name = proof.rsplit("::").next().unwrap();
    candidates(proof)
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .any(|source| has_test(&source, name))
}

/// What the last column of a row names.
fn proofs(row: &str) -> Vec<&str> {
    let last = row.trim().trim_end_matches('|').rsplit('|').next().unwrap_or_default();
    last.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_row_names_a_test_that_is_there() {
    let page = page();
    let rows: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.ends_with("| proved by |"))
        .collect();
    assert!(rows.len() > 80, "{}", rows.len());
    let bare: Vec<&&str> = rows.iter().filter(|row| proofs(row).is_empty()).collect();
    assert!(bare.is_empty(), "without a proof: {bare:#?}");
    let missing: Vec<&str> = rows.iter().flat_map(|row| proofs(row)).filter(|proof| !exists(proof)).collect();
    assert!(missing.is_empty(), "not there, or not run: {missing:#?}");
}

#[test]
fn every_transcript_proves_something() {
    let page = page();
    let folder = root().join("tests/conversations");
    for inside in ["", "gateway/"] {
        let entries = fs::read_dir(folder.join(inside)).unwrap().map(|entry| entry.unwrap());
        for entry in entries.filter(|entry| entry.path().is_file()) {
            let name = format!("{inside}{}", entry.file_name().into_string().unwrap());
            assert!(page.contains(&format!("`{name}`")), "{name} is in no row");
        }
    }
}

#[test]
fn a_test_that_is_not_there_is_found_out() {
    for wrong in [
        "99-nothing.txt",
        "tests/kill.rs::nothing",
        "xmpp::tests::login::nothing",
        "xmpp::tests::nowhere::any_cut_of_the_input_gives_the_same_answers",
        // A helper is no test.
        "xmpp::tests::login::scram_log_in",
    ] {
        assert!(!exists(wrong), "{wrong}");
    }
}
