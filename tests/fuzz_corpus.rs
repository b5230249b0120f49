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
