//! A FAST token (XEP-0484): what the device shows instead of its password when it comes back, in one round trip.

use aws_lc_rs::hmac;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use xmpp_parsers::minidom::Element;

/// The proof that is bound to the TLS connection (RFC 9266).
const BOUND: &str = "HT-SHA-256-EXPR";
/// The proof that is not.
const UNBOUND: &str = "HT-SHA-256-NONE";
/// The longest token that is kept, in bytes.
const VALUE_MAX_BYTES: usize = 1_024;

/// A token and what must be known to use it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    mechanism: String,
    value: String,
    expires: Timestamp,
    /// How many times it was used (XEP-0484 §3.3).
    #[serde(default)]
    pub count: u32,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({}, until {}, ***)", self.mechanism, self.expires)
    }
}

/// The mechanism to ask a token for: a bound one where the connection has a binding.
pub fn best_of(offered: &[String], is_bound: bool) -> Option<&'static str> {
    [(BOUND, is_bound), (UNBOUND, true)]
        .into_iter()
        .find(|(name, possible)| *possible && offered.iter().any(|offered| offered == name))
        .map(|(name, _)| name)
}

impl Token {
    /// Reads `<token/>`. A token stays with the mechanism it was asked for. `None`: not in the form of the XEP.
    pub fn read(element: &Element, mechanism: &str) -> Option<Self> {
        let value = element.attr("token").filter(|value| (1..=VALUE_MAX_BYTES).contains(&value.len()))?;
        Some(Self {
            mechanism: mechanism.to_owned(),
            value: value.to_owned(),
            expires: element.attr("expiry")?.parse().ok()?,
            count: 0,
        })
    }

    /// Its mechanism.
    pub fn mechanism(&self) -> &str {
        &self.mechanism
    }

    /// Whether it can be shown now, on such a connection.
    pub fn is_usable(&self, now: Timestamp, is_bound: bool) -> bool {
        now < self.expires && (is_bound || self.mechanism != BOUND)
    }

    /// What the device says: its name, and that it holds the token.
    pub fn proof(&self, username: &str, binding: Option<&[u8]>) -> Vec<u8> {
        let mut proof = username.as_bytes().to_vec();
        proof.push(0);
        proof.extend_from_slice(self.sign("Initiator", binding).as_ref());
        proof
    }

    /// Whether the server holds the token, too.
    pub fn is_proven(&self, answer: &[u8], binding: Option<&[u8]>) -> bool {
        hmac::verify(&self.key(), &self.signed("Responder", binding), answer).is_ok()
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.value.as_bytes())
    }

    fn sign(&self, role: &str, binding: Option<&[u8]>) -> hmac::Tag {
        hmac::sign(&self.key(), &self.signed(role, binding))
    }

    fn signed(&self, role: &str, binding: Option<&[u8]>) -> Vec<u8> {
        let binding = binding.filter(|_| self.mechanism == BOUND).unwrap_or_default();
        [role.as_bytes(), binding].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(mechanism: &str) -> Token {
        let element = "<token xmlns='urn:xmpp:fast:0' token='secret-token:fast-1' expiry='2026-12-13T00:00:00Z'/>";
        Token::read(&element.parse().unwrap(), mechanism).unwrap()
    }

    #[test]
    fn it_is_proven_as_the_draft_says() {
        // printf 'Initiator' | openssl dgst -sha256 -hmac secret-token:fast-1
        let initiator = "e66a8ce321715b507d13b3b914b3d2883dd71f6cbe9190577080f3cbd35a77d7";
        let responder = "ac8ba839a9632cc2b2079f1ecf80066efa0de65db9a519ab8b3e7716ce3cdbed";
        let proof = token(UNBOUND).proof("tv", Some(b"key"));
        assert_eq!(&proof[..3], b"tv\0");
        assert_eq!(data_encoding::HEXLOWER.encode(&proof[3..]), initiator);
        let answer = data_encoding::HEXLOWER.decode(responder.as_bytes()).unwrap();
        assert!(token(UNBOUND).is_proven(&answer, None));
        assert!(!token(UNBOUND).is_proven(&proof[3..], None), "the device's own words come back");
    }

    #[test]
    fn a_bound_token_proves_nothing_on_another_connection() {
        let token = token(BOUND);
        let answer = token.sign("Responder", Some(b"this connection"));
        assert!(token.is_proven(answer.as_ref(), Some(b"this connection")));
        assert!(!token.is_proven(answer.as_ref(), Some(b"another connection")));
        assert!(!token.is_usable("2026-12-01T00:00:00Z".parse().unwrap(), false));
    }

    #[test]
    fn it_is_used_until_it_expires() {
        let check = |now: &str, usable| assert_eq!(token(UNBOUND).is_usable(now.parse().unwrap(), false), usable, "{now}");
        check("2026-12-12T23:59:59Z", true);
        check("2026-12-13T00:00:00Z", false);
    }

    #[test]
    fn the_bound_mechanism_is_asked_for_where_it_can_be_used() {
        let offered = [UNBOUND.to_owned(), "HT-SHA-256-ENDP".to_owned(), BOUND.to_owned()];
        assert_eq!(best_of(&offered, true), Some(BOUND));
        assert_eq!(best_of(&offered, false), Some(UNBOUND));
        assert_eq!(best_of(&offered[1..2], true), None);
    }

    #[test]
    fn a_token_that_cannot_be_used_is_not_kept_and_none_is_printed() {
        let read = |xml: &str| Token::read(&xml.parse().unwrap(), UNBOUND);
        assert!(read("<token xmlns='urn:xmpp:fast:0' token='' expiry='2026-12-13T00:00:00Z'/>").is_none());
        assert!(read("<token xmlns='urn:xmpp:fast:0' token='t' expiry='soon'/>").is_none());
        assert!(!format!("{:?}", token(BOUND)).contains("secret-token"));
    }
}
