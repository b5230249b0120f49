//! What became of one event of many.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::super::accept::Accepted;
use crate::{domain::Refusal, http::problem};

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is stored, now or, as a repeat, before.
    Stored(Accepted),
    /// It would have been stored, for so many devices.
    Valid { targets: usize },
    /// It was not stored, unless the refusal says that it may have been.
    Refused(Refusal),
}

impl Outcome {
    pub fn of(answer: Result<Accepted, Refusal>) -> Self {
        answer.map_or_else(Self::Refused, Self::Stored)
    }

    /// Adds it as a line: `{"index":0,"status":202,"id":…,"state":…,"durability":…}`, or with `problem` instead of what is stored.
    pub fn write(&self, index: usize, into: &mut String) {
        // Writing to a String does not fail.
        let _ = match self {
            Self::Stored(Accepted {
                id,
                state,
                durability,
                is_repeat,
            }) => {
                let status = if *is_repeat { 200 } else { 202 };
                let durability = durability.as_str();
                writeln!(
                    into,
                    r#"{{"index":{index},"status":{status},"id":"{id}","state":"{state}","durability":"{durability}"}}"#
                )
            }
            Self::Valid { targets } => writeln!(into, r#"{{"index":{index},"status":200,"targets":{targets}}}"#),
            Self::Refused(refusal) => writeln!(into, "{}", refused(index, refusal)),
        };
    }
}

/// A refused event in an answer: `{"index","status","problem"}`, with `retry_after` in seconds where the problem has one.
pub(super) fn refused(index: usize, refusal: &Refusal) -> Value {
    let mut members = Map::new();
    members.insert("index".into(), index.into());
    members.insert("status".into(), refusal.face().status.into());
    if let Some(wait) = refusal.retry_after() {
        members.insert("retry_after".into(), wait.as_secs().max(1).into());
    }
    members.insert("problem".into(), problem(refusal).into());
    Value::Object(members)
}
