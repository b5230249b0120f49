//! What became of all events of a request, counted.

use serde_json::{Map, Value};

use super::{
    super::accept::Accepted,
    outcome::{Outcome, refused},
};
use crate::{
    domain::{Durability, Refusal},
    http::problem,
};

/// Refused events that a summary names; of the rest it tells how many there are.
const NAMED_MAX: usize = 100;

/// The counts, and the first that were refused.
#[derive(Debug)]
pub(super) struct Summary {
    validate_only: bool,
    total: usize,
    accepted: usize,
    repeated: usize,
    valid: usize,
    targets: usize,
    durability: [(Durability, usize); 4],
    refused: usize,
    named: Vec<(usize, Refusal)>,
}

impl Summary {
    pub fn new(validate_only: bool) -> Self {
        let all = [Durability::Disk, Durability::Replicated, Durability::Primary, Durability::None];
        Self {
            validate_only,
            total: 0,
            accepted: 0,
            repeated: 0,
            valid: 0,
            targets: 0,
            durability: all.map(|durability| (durability, 0)),
            refused: 0,
            named: Vec::new(),
        }
    }

    pub fn total(&self) -> usize {
        self.total
    }

    /// Counts one; `named`: the first that are refused are kept for [`Summary::whole`].
    pub fn add(&mut self, index: usize, outcome: &Outcome, named: bool) {
        self.total += 1;
        match outcome {
            Outcome::Stored(Accepted { durability, is_repeat, .. }) => {
                *(if *is_repeat { &mut self.repeated } else { &mut self.accepted }) += 1;
                let of_level = self.durability.iter_mut().find(|(known, _)| known == durability);
                of_level.into_iter().for_each(|(_, count)| *count += 1);
            }
            Outcome::Valid { targets } => {
                self.valid += 1;
                self.targets += targets;
            }
            Outcome::Refused(refusal) => {
                self.refused += 1;
                if named && self.named.len() < NAMED_MAX {
                    self.named.push((index, refusal.clone()));
                }
            }
        }
    }

    /// The whole answer: the counts, `failed` with the first that were refused, `left_off` with the number of the others, and
    /// `problem` when the request was not read to its end.
    pub fn whole(self, end: Option<&Refusal>) -> Value {
        let mut members = self.counts();
        let failed: Vec<Value> = self.named.iter().map(|(index, refusal)| refused(*index, refusal)).collect();
        members.insert("left_off".into(), (self.refused - failed.len()).into());
        members.insert("failed".into(), failed.into());
        if let Some(refusal) = end {
            members.insert("problem".into(), problem(refusal).into());
        }
        Value::Object(members)
    }

    /// The last line of an answer that told of events one by one.
    pub fn last_line(&self, end: Option<&Refusal>) -> String {
        let mut members = Map::new();
        members.insert("summary".into(), self.counts().into());
        if let Some(refusal) = end {
            members.insert("problem".into(), problem(refusal).into());
        }
        format!("{}\n", Value::Object(members))
    }

    fn counts(&self) -> Map<String, Value> {
        let mut members = Map::new();
        members.insert("total".into(), self.total.into());
        if self.validate_only {
            members.insert("valid".into(), self.valid.into());
            members.insert("targets".into(), self.targets.into());
        } else {
            members.insert("accepted".into(), self.accepted.into());
            members.insert("repeated".into(), self.repeated.into());
            let levels = self.durability.iter().filter(|(_, count)| *count > 0);
            let levels: Map<String, Value> = levels.map(|(level, count)| (level.as_str().to_owned(), (*count).into())).collect();
            members.insert("durability".into(), levels.into());
        }
        members.insert("refused".into(), self.refused.into());
        members
    }
}
