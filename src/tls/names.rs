//! Which certificate a client is shown: the one that is good for the name it asks for (SNI, RFC 6066 §3).

use std::{cell::Cell, collections::HashMap, sync::Arc};

use rustls::{
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::certificate::{Identity, dns_names};

thread_local! {
    /// Which one the handshake on this thread took: rustls asks within the call that goes on with the handshake.
    static CHOSEN: Cell<Option<u16>> = const { Cell::new(None) };
}

/// The names that the certificates are good for.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<String, u16>);

impl Names {
    /// Of these certificates. Of two for one name the first counts.
    pub(super) fn of<'a>(identities: impl IntoIterator<Item = &'a Identity>) -> Self {
        let mut names = HashMap::new();
        for (which, identity) in (0..u16::MAX).zip(identities) {
            for name in dns_names(identity) {
                names.entry(name).or_insert(which);
            }
        }
        Self(names)
    }

    /// The certificate for that name, in lower case: exactly, or by a wildcard for its first label (RFC 9525 §6.3).
    pub(super) fn find(&self, name: &str) -> Option<u16> {
        if let Some(which) = self.0.get(name) {
            return Some(*which);
        }
        let (_, parent) = name.split_once('.')?;
        self.0.get(&format!("*.{parent}")).copied()
    }
}

/// Shows each client the certificate for the name that it asks for, and the first one to all others.
#[derive(Debug)]
pub(super) struct ByName {
    names: Arc<Names>,
    keys: Vec<Arc<CertifiedKey>>,
    /// Whether [`take_chosen`] is to know.
    tells: bool,
}

impl ByName {
    pub(super) fn new<'a>(
        names: Arc<Names>,
        identities: impl IntoIterator<Item = &'a Identity>,
        tells: bool,
    ) -> Result<Self, rustls::Error> {
        let provider = aws_lc_rs::default_provider();
        let key = |identity: &Identity| CertifiedKey::from_der(identity.chain.clone(), identity.key.clone_key(), &provider).map(Arc::new);
        Ok(Self {
            names,
            keys: identities.into_iter().map(key).collect::<Result<_, _>>()?,
            tells,
        })
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let which = hello.server_name().and_then(|name| self.names.find(&name.to_ascii_lowercase()));
        let which = which.unwrap_or(0);
        if self.tells {
            CHOSEN.set(Some(which));
        }
        self.keys.get(usize::from(which)).cloned()
    }
}

/// Which certificate the handshake that went on in the last call of rustls on this thread took, if it came to it.
pub fn take_chosen() -> Option<u16> {
    CHOSEN.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_exactly_or_by_a_wildcard_for_one_label() {
        let names = ["a.example", "*.b.example", "x.b.example"];
        let names = Names(names.into_iter().map(str::to_owned).zip(0..).collect());
        for (name, expected) in [
            ("a.example", Some(0)),
            ("y.a.example", None),
            ("y.b.example", Some(1)),
            ("x.b.example", Some(2)),
            ("z.y.b.example", None),
            ("b.example", None),
            ("example", None),
        ] {
            assert_eq!(names.find(name), expected, "{name}");
        }
    }
}
