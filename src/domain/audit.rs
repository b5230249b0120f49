//! What the audit log tells: who changed what, from where, when, and what came of it. Never a secret.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Caller, Scope, Timestamp};

/// An administrative change, or the attempt of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditEntry {
    /// A name of this change that no other has.
    pub id: String,
    /// When it was asked for.
    pub at: Timestamp,
    /// Who asked.
    pub actor: Actor,
    /// What he might do.
    pub scope: Scope,
    /// The client's address, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
    /// The verb: a method of HTTP.
    pub method: String,
    /// The path, at most 512 bytes of it.
    pub resource: String,
    /// The members of the request's JSON, at most 32: which fields were to be changed, not to what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// What came of it. `None`: it is going on, or nobody knows, because the node or the connection ended first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<AuditOutcome>,
}

/// Who asked for a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Actor {
    /// Whoever had that key.
    Key {
        /// Its public id.
        id: String,
        /// Its name at that time.
        name: String,
    },
    /// Whoever had a token.
    Token {
        /// Its subject.
        subject: String,
    },
}

impl Actor {
    /// Who a caller is.
    pub fn of(caller: &Caller) -> Self {
        match &caller.key_id {
            Some(id) => Self::Key {
                id: id.to_string(),
                name: caller.key_name.to_string(),
            },
            None => Self::Token {
                subject: caller.key_name.to_string(),
            },
        }
    }
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditOutcome {
    /// When it was known.
    pub at: Timestamp,
    /// The status of the answer. 2xx: it was made. 4xx: it was refused. 5xx: it may have been made.
    pub status: u16,
    /// The slug of the problem, if the answer was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The path of what was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// How much of it was done, where a change has many parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}
