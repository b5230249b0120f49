//! Names of things: devices, users, tenants, cohorts, domains.

use std::{fmt, str::FromStr, sync::Arc};

/// Why a text is not a name. The message names the rule and, where there is one, the offset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Empty, or longer than 64 characters.
    #[error("it has {0} characters; 1 to 64 are allowed")]
    Length(usize),
    /// A character outside the alphabet.
    #[error("character {character:?} at offset {offset} is not allowed; use a-z, 0-9, '.', '_' and '-'")]
    Character {
        /// The offending character.
        character: char,
        /// Its byte offset.
        offset: usize,
    },
}

/// Whether a text is a domain name as XMPP domains are written here: labels of lower-case letters, digits and `-`, joined by `.`.
pub fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// The id of one device inside its tenant: `[a-z0-9._-]{1,64}`, folded to lower case when parsed.
///
/// It is the localpart of the device's bare JID (RFC 7622 §3.3), a subset of it that needs no further preparation.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(Arc<str>);

impl DeviceId {
    /// The longest id, in bytes.
    pub const MAX_LEN: usize = 64;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one of all examples.
    pub(super) fn example() -> Self {
        Self("tsn-746".into())
    }
}

impl FromStr for DeviceId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let length = text.chars().count();
        if length == 0 || length > Self::MAX_LEN {
            return Err(InvalidName::Length(length));
        }
        let folded = text.to_ascii_lowercase();
        let odd = folded
            .char_indices()
            .find(|(_, c)| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-'));
        match odd {
            Some((offset, character)) => Err(InvalidName::Character { character, offset }),
            None => Ok(Self(folded.into())),
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The owner of devices, a household: 1 to 128 printable characters without spaces, taken as given.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one of all examples.
    pub(super) fn example() -> Self {
        Self("household-9".into())
    }
}

impl FromStr for UserId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let length = text.chars().count();
        if length == 0 || length > 128 {
            return Err(InvalidName::Length(length));
        }
        match text.char_indices().find(|(_, c)| c.is_control() || c.is_whitespace()) {
            Some((offset, character)) => Err(InvalidName::Character { character, offset }),
            None => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a tenant. It is in every key of the store and in every event id. The default tenant is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(pub u16);

/// How a device learns of events: pushed to, polling, or polling for comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cohort {
    /// Connected, and told.
    #[default]
    Push,
    /// Not yet migrated: it polls.
    Poll,
    /// Kept polling on purpose, so that the ledger can be validated.
    Control,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_id_is_folded_and_checked() {
        let check = |text: &str| text.parse::<DeviceId>().map(|id| id.to_string()).map_err(|e| e.to_string());
        assert_eq!(check("TSN-746"), Ok("tsn-746".into()));
        assert_eq!(check("a.b_c-9"), Ok("a.b_c-9".into()));
        assert!(check("").is_err_and(|e| e.contains("1 to 64")));
        assert!(check(&"x".repeat(65)).is_err());
        assert!(check("a b").is_err_and(|e| e.contains("offset 1")));
        assert!(check("жук").is_err());
    }
}
