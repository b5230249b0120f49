//! Filters over devices: a subset of AIP-160 (google.aip.dev/160), so that who knows one knows the other.
//!
//! ```text
//! filter     = term *( "AND" term ) | term *( "OR" term )       AND and OR together: with parentheses
//! term       = [ "NOT" | "-" ] ( "(" filter ")" | comparison )
//! comparison = name operator value
//! name       = "id" | "user" | "cohort" | "state" | ( "attributes" | "reported" ) 1*( "." member )
//! operator   = "=" | "!=" | "<" | "<=" | ">" | ">=" | ":"
//! value      = quoted text | text | number | "true" | "false" | "*" (behind ":", whether it is there)
//! ```
//!
//! What is not there fits no comparison, `!=` neither; `NOT name = value` fits it. A filter is parsed once, within bounds, and its evaluation
//! takes no more than its size and that of the device: no loops, no functions, no regular expressions.
//!
//! What is deliberately absent of AIP-160: functions, search in all fields (`term term`), and AND beside OR without parentheses, where AIP-160
//! and everybody else read different things.

mod compare;
mod parse;
mod shown;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Cohort, DeviceId, UserId};
use compare::{Operator, Wanted};

/// The deepest nesting of parentheses.
pub(super) const DEPTH_MAX: usize = 16;
/// The most members behind `attributes` or `reported` in one name: as deep as what a device reports may be.
pub(super) const MEMBERS_MAX: usize = 32;
/// The words of `state`, which only presence knows.
pub(super) const STATES: [&str; 3] = ["online", "away", "offline"];
/// The words of `cohort`.
pub(super) const COHORTS: [&str; 3] = ["push", "poll", "control"];

/// What a filter may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterBounds {
    /// Its length, in bytes.
    pub max_bytes: usize,
    /// Its comparisons.
    pub max_terms: usize,
    /// Whether it may ask for `state`.
    pub state: bool,
}

/// Why a text is no filter: where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at offset {offset}: {why}")]
pub struct InvalidFilter {
    /// In bytes, from 0.
    pub offset: usize,
    /// What is wrong there, and what would be right.
    pub why: String,
}

/// A filter over devices. Its text (`Display`) says the same in the plainest way.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    root: Node,
}

/// What a filter looks at of one device.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its id.
    pub id: &'a DeviceId,
    /// Its owner.
    pub user: Option<&'a UserId>,
    /// How it learns of events.
    pub cohort: Cohort,
    /// Facts of the backend about it.
    pub attributes: &'a Map<String, Value>,
    /// What it reported, as [`Reported::object`](super::Reported::object) gives it. `None`: nothing.
    pub reported: Option<&'a Map<String, Value>>,
    /// Whether it can be reached: `online`, `away` or `offline`. `None`: that is not known (yet).
    pub state: Option<&'a str>,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    /// Every one; two or more.
    All(Vec<Node>),
    /// At least one; two or more.
    Any(Vec<Node>),
    Not(Box<Node>),
    Test(Test),
}

#[derive(Clone, Debug, PartialEq)]
struct Test {
    name: Name,
    operator: Operator,
    wanted: Wanted,
}

#[derive(Clone, Debug, PartialEq)]
enum Name {
    Id,
    User,
    Cohort,
    State,
    Attributes(Arc<[Box<str>]>),
    Reported(Arc<[Box<str>]>),
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// What is wrong, where, and what to do.
    pub fn parse(text: &str, bounds: &FilterBounds) -> Result<Self, InvalidFilter> {
        parse::filter(text, bounds).map(|root| Self { root })
    }

    /// Whether the device fits. `None`: that depends on its state, which is not known.
    pub fn judge(&self, facts: &Facts<'_>) -> Option<bool> {
        self.root.judge(facts)
    }

    /// Whether it looks at what devices report.
    pub fn reads_reported(&self) -> bool {
        self.root.any(&|test| matches!(test.name, Name::Reported(_)))
    }

    /// The user whose devices alone can fit, if it names one: an index finds them.
    pub fn user(&self) -> Option<UserId> {
        let of = |node: &Node| match node {
            Node::Test(test) if test.name == Name::User && test.operator == Operator::Equal => test.wanted.exact()?.parse().ok(),
            _ => None,
        };
        match &self.root {
            Node::All(nodes) => nodes.iter().find_map(of),
            node => of(node),
        }
    }
}

impl Node {
    /// Three-valued logic (Kleene): what is unknown decides only where nothing else does.
    fn judge(&self, facts: &Facts<'_>) -> Option<bool> {
        match self {
            Self::All(nodes) => joined(nodes, facts, false),
            Self::Any(nodes) => joined(nodes, facts, true),
            Self::Not(node) => node.judge(facts).map(|fits| !fits),
            Self::Test(test) => test.judge(facts),
        }
    }

    fn any(&self, is: &impl Fn(&Test) -> bool) -> bool {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().any(|node| node.any(is)),
            Self::Not(node) => node.any(is),
            Self::Test(test) => is(test),
        }
    }
}

/// One node that says `decides` is enough.
fn joined(nodes: &[Node], facts: &Facts<'_>, decides: bool) -> Option<bool> {
    let mut all_known = true;
    for node in nodes {
        match node.judge(facts) {
            Some(fits) if fits == decides => return Some(decides),
            Some(_) => {}
            None => all_known = false,
        }
    }
    all_known.then_some(!decides)
}

impl Test {
    fn judge(&self, facts: &Facts<'_>) -> Option<bool> {
        let text = |text: &str| self.wanted.fits_text(self.operator, text);
        Some(match &self.name {
            Name::Id => text(facts.id.as_str()),
            Name::User => facts.user.is_some_and(|user| text(user.as_str())),
            Name::Cohort => text(word(facts.cohort)),
            Name::State => text(facts.state?),
            Name::Attributes(path) => self.fits_member(Some(facts.attributes), path),
            Name::Reported(path) => self.fits_member(facts.reported, path),
        })
    }

    fn fits_member(&self, map: Option<&Map<String, Value>>, path: &[Box<str>]) -> bool {
        let mut found = None;
        let mut map = map;
        for member in path {
            found = map.and_then(|map| map.get(&**member));
            map = found.and_then(Value::as_object);
        }
        // A member that is null is as one that is not there.
        found.is_some_and(|value| !value.is_null() && self.wanted.fits(self.operator, value))
    }
}

fn word(cohort: Cohort) -> &'static str {
    match cohort {
        Cohort::Push => "push",
        Cohort::Poll => "poll",
        Cohort::Control => "control",
    }
}
