//! PLAIN (RFC 4616): the password itself, under TLS.

use crate::domain::Password;

/// What a client says.
pub(in crate::xmpp) struct Plain {
    /// Whom it wants to be, if it says so.
    pub(in crate::xmpp) authzid: Option<String>,
    /// Who it is.
    pub(in crate::xmpp) user: String,
    /// Its password.
    pub(in crate::xmpp) password: Password,
}

impl Plain {
    /// Reads `[authzid] NUL authcid NUL passwd` (RFC 4616 §2).
    pub(in crate::xmpp) fn parse(message: &str) -> Option<Self> {
        match message.split('\0').collect::<Vec<_>>()[..] {
            [authzid, user, password] if !user.is_empty() && !password.is_empty() => Some(Self {
                authzid: (!authzid.is_empty()).then(|| authzid.to_owned()),
                user: user.to_owned(),
                password: Password(password.to_owned()),
            }),
            _ => None,
        }
    }
}
