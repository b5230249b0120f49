//! HT-SHA-256-* (draft-schmaus-kitten-sasl-ht): a token instead of a password, in one message.

use crate::domain::FastMechanism;

use super::binding::Bindings;

/// The mechanisms that work with these bindings, the safest first.
pub(in crate::xmpp) fn offered(bindings: &Bindings) -> impl Iterator<Item = FastMechanism> {
    FastMechanism::ALL
        .into_iter()
        .filter(|mechanism| binding(*mechanism, bindings).is_some())
}

/// What a proof of that mechanism is bound to.
pub(in crate::xmpp) fn binding(mechanism: FastMechanism, bindings: &Bindings) -> Option<&[u8]> {
    match mechanism {
        FastMechanism::Expr => bindings.find("tls-exporter"),
        FastMechanism::Endp => bindings.find("tls-server-end-point"),
        FastMechanism::None => Some(&[]),
    }
}

/// Reads `authcid NUL proof`.
pub(in crate::xmpp) fn parse(message: &[u8]) -> Option<(String, Vec<u8>)> {
    let nul = message.iter().position(|byte| *byte == 0)?;
    let (user, proof) = (message.get(..nul)?, message.get(nul + 1..)?);
    let user = std::str::from_utf8(user).ok().filter(|user| !user.is_empty())?;
    Some((user.to_owned(), proof.to_vec()))
}
