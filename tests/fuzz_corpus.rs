//! What coverage-guided fuzzing found worth keeping (`tests/fuzz/corpus`), run again, as it is and crossed with itself.
//! `tests/long coverage` looks for more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "fuzz/conversation.rs"]
mod conversation;

use std::fs;

fn corpus() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 100, "{} files in {folder}", files.len());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

#[test]
fn every_conversation_of_the_corpus_holds() {
    corpus().iter().for_each(|input| conversation::run(input));
}

/// Two conversations in one: the first half of one, then the second half of another, in each scene.
#[test]
fn so_do_those_made_of_two() {
    let corpus = corpus();
    for (number, one) in corpus.iter().enumerate() {
        let other = &corpus[(number * 7 + 13) % corpus.len()];
        for scene in [0, 1, 2, 3, 0xd0, 0xe0] {
            let mut input = vec![scene];
            input.extend(&one[one.len().min(1)..one.len().div_ceil(2)]);
            input.extend(&other[other.len() / 2..]);
            conversation::run(&input);
        }
    }
}

/// What clients say in the transcripts of `tests/conversations`, and what happens meanwhile, for each scene of the fuzzer.
fn transcripts() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conversations");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        for scene in text.split("\n! ") {
            let mut said = Vec::new();
            for line in scene.lines() {
                match (line.get(..3), line) {
                    (Some("C: "), _) => said.extend(&line.as_bytes()[3..]),
                    (_, "+ lost" | "+ again") => said.push(7),
                    (_, "+ drained") => said.push(8),
                    (Some("+ e" | "+ l" | "+ o"), _) => said.push(0),
                    (Some("+ r"), _) => said.push(1),
                    (Some("+ 1" | "+ 3" | "+ 2"), _) => said.push(3),
                    _ => {}
                }
            }
            // Strangers, in clear and in TLS; a session with stream management and without.
            found.extend((0..4).map(|scene| [&[scene], &*said].concat()));
        }
    }
    found
}

/// `SEEDS=folder` writes them there, for the fuzzer to begin with.
#[test]
fn what_the_transcripts_say_holds_in_every_scene() {
    let inputs = transcripts();
    assert!(inputs.len() > 400, "{}", inputs.len());
    for (number, input) in inputs.iter().enumerate() {
        conversation::run(input);
        if let Some(folder) = std::env::var_os("SEEDS") {
            fs::write(std::path::Path::new(&folder).join(format!("transcript-{number}")), input).unwrap();
        }
    }
}
