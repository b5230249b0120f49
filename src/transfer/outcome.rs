//! What became of the lines of an import.

use serde::Serialize;

use crate::store::transfer::{Counts, Taken};

/// Refused lines that the answer names; all are counted.
const NAMED_MAX: usize = 100;

/// The answer to an import.
#[derive(Debug, Default, Serialize)]
pub(super) struct Outcome {
    /// Lines whose rows are stored by this request.
    pub(super) stored: Counts,
    /// Lines whose rows were there.
    pub(super) present: Counts,
    /// How many lines were refused.
    pub(super) refused: u64,
    /// The first of them.
    pub(super) problems: Vec<Problem>,
    /// Everything was taken in.
    pub(super) complete: bool,
}

/// A line that was refused.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    /// From 1.
    line: usize,
    /// The path of the field, where it is one.
    #[serde(skip_serializing_if = "String::is_empty")]
    field: String,
    /// What is wrong, and what to do.
    detail: String,
}

impl Outcome {
    pub(super) fn refuse(&mut self, line: usize, field: impl Into<String>, detail: impl ToString) {
        self.refused += 1;
        if self.problems.len() < NAMED_MAX {
            self.problems.push(Problem {
                line,
                field: field.into(),
                detail: detail.to_string(),
            });
        }
    }

    pub(super) fn took(&mut self, taken: Taken, rows: Counts) {
        match taken {
            Taken::Stored => self.stored.add(rows),
            Taken::Present => self.present.add(rows),
        }
    }
}
