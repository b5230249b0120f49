//! Who calls the HTTP interface.

use std::sync::Arc;

use super::{RateLimit, Refusal, TenantId};

/// What an API key may do. Each scope contains the ones before it, but `push`, which only posts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Post and cancel events, and learn what became of them.
    Push,
    /// Read everything of the tenant.
    Read,
    /// Everything of the tenant: devices, keys.
    Admin,
    /// Tenants too.
    Operator,
}

impl Scope {
    /// Whether this scope suffices where `needed` is asked for.
    pub fn covers(self, needed: Self) -> bool {
        self >= Self::Admin && self >= needed || self == needed
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Read => "read",
            Self::Admin => "admin",
            Self::Operator => "operator",
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who one request is of: the owner of an API key or of a token. The auth layer puts it into the request's extensions.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The key's tenant: every answer is about this tenant alone.
    pub tenant: TenantId,
    /// The XMPP domain of that tenant.
    pub domain: Arc<str>,
    /// The public id of the key. `None`: it was a token, and `key_name` is its subject.
    pub key_id: Option<Arc<str>>,
    /// The name of the key, or the subject of the token, for the log.
    pub key_name: Arc<str>,
    /// What it may do.
    pub scope: Scope,
    /// It may post, too: a token can have `read` and `push`, of which neither contains the other.
    pub also_push: bool,
    /// How much it may post.
    pub limits: CallerLimits,
}

/// The limits that were given to a key and its tenant; where there is none, the settings say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallerLimits {
    /// Of all keys of the tenant together.
    pub tenant: Option<RateLimit>,
    /// Of the key.
    pub key: Option<RateLimit>,
}

impl Caller {
    /// Nothing, when the key has the scope.
    ///
    /// # Errors
    /// [`Refusal::Forbidden`], naming the key and the scope.
    pub fn require(&self, needed: Scope) -> Result<(), Refusal> {
        self.require_any(&[needed])
    }

    /// Nothing, when the key has one of the scopes.
    ///
    /// # Errors
    /// [`Refusal::Forbidden`], naming the key and the first of the scopes.
    pub fn require_any(&self, needed: &[Scope]) -> Result<(), Refusal> {
        let posts = |needed: Scope| self.also_push && needed == Scope::Push;
        if needed.iter().any(|needed| self.scope.covers(*needed) || posts(*needed)) {
            return Ok(());
        }
        Err(Refusal::Forbidden {
            key: self.key_name.to_string(),
            needed: needed.first().copied().unwrap_or(Scope::Operator),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Scope::{Admin, Operator, Push, Read};

    #[test]
    fn scopes_cover_what_they_say() {
        let check = |has: super::Scope, needs, expected| assert_eq!(has.covers(needs), expected, "{has:?} for {needs:?}");
        check(Push, Push, true);
        check(Push, Read, false);
        check(Read, Read, true);
        check(Read, Push, false);
        check(Admin, Push, true);
        check(Admin, Read, true);
        check(Admin, Operator, false);
        check(Operator, Admin, true);
    }
}
