//! One token: is it the issuer's, is it for us, is it still good. Whose it is, is for those who ask.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use jsonwebtoken::Validation;
use parking_lot::RwLock;
use serde_json::{Map, Value};
use tokio::sync::Notify;

use super::{Algorithm, keys::Keys, metrics::TokenMetrics};
use crate::domain::Timestamp;

/// The longest token, in bytes. Before login a stanza has at most 16 KiB, and Base64 takes a third more.
pub(super) const TOKEN_MAX: usize = 8 * 1024;
/// Keys that are tried for one token that names none.
const TRIES_MAX: usize = 4;

/// Why a token is not taken. A device reads `not-authorized`, whatever it is; but for [`TokenError::NoKeys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.words())]
pub enum TokenError {
    /// No JWT, or one of an algorithm that is not taken.
    Malformed,
    /// Its key is not among the issuer's.
    UnknownKey,
    /// The signature is wrong.
    Signature,
    /// Of another issuer.
    Issuer,
    /// For another audience.
    Audience,
    /// For a tenant that takes no tokens, or is not known.
    Tenant,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYet,
    /// Its subject is nobody.
    Subject,
    /// The issuer's keys are not known yet: not the fault of whoever showed it.
    NoKeys,
}

impl TokenError {
    /// The same in words that do not change.
    pub fn words(self) -> &'static str {
        match self {
            Self::Malformed => "it is no token of a kind that is taken",
            Self::UnknownKey => "its key is not known",
            Self::Signature => "its signature is wrong",
            Self::Issuer => "it is of another issuer",
            Self::Audience => "it is for another audience",
            Self::Tenant => "it is for a tenant that is not known here",
            Self::Expired => "it has expired",
            Self::NotYet => "it is not valid yet",
            Self::Subject => "its subject cannot be used here",
            Self::NoKeys => "the keys of the issuer are not there",
        }
    }
}

/// What tokens are held to.
pub(super) struct Rules {
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) issuer: String,
    pub(super) audience: String,
    pub(super) leeway_secs: u64,
}

/// Checks the tokens of one issuer.
pub(super) struct Verifier {
    pub(super) rules: Rules,
    keys: RwLock<Option<Arc<Keys>>>,
    /// Rises with every other set of keys.
    version: AtomicU64,
    /// A token named a key that is not known.
    pub(super) wanted: Notify,
    pub(super) metrics: TokenMetrics,
}

/// A token that was found good.
pub(super) struct Verified {
    pub(super) subject: String,
    pub(super) claims: Map<String, Value>,
    /// When it ends, the leeway counted in.
    pub(super) until: Timestamp,
}

/// Whether a text has the form of a JWT.
pub(super) fn is_token(text: &str) -> bool {
    // `{"` in Base64: every header begins so.
    text.starts_with("eyJ") && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl Verifier {
    pub(super) fn new(rules: Rules, metrics: TokenMetrics) -> Self {
        Self {
            rules,
            keys: RwLock::new(None),
            version: AtomicU64::new(0),
            wanted: Notify::new(),
            metrics,
        }
    }

    pub(super) fn replace(&self, keys: Keys) {
        self.metrics.keys.set(i64::try_from(keys.len()).unwrap_or(i64::MAX));
        *self.keys.write() = Some(Arc::new(keys));
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Counts what was found, and has the keys read again when one is missing.
    pub(super) fn found<T>(&self, found: &Result<T, TokenError>) {
        self.metrics.checked(found);
        if matches!(found, Err(TokenError::UnknownKey)) {
            self.wanted.notify_one();
        }
    }

    /// Signature, issuer, audience and times.
    pub(super) fn verify(&self, token: &str, now: Timestamp) -> Result<Verified, TokenError> {
        if token.len() > TOKEN_MAX {
            return Err(TokenError::Malformed);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        let algorithm = match header.alg {
            jsonwebtoken::Algorithm::RS256 => Algorithm::RS256,
            jsonwebtoken::Algorithm::ES256 => Algorithm::ES256,
            jsonwebtoken::Algorithm::EdDSA => Algorithm::EdDsa,
            _ => return Err(TokenError::Malformed),
        };
        // RFC 7515 §4.1.11: what must be understood is not.
        if header.crit.is_some() || !self.rules.algorithms.contains(&algorithm) {
            return Err(TokenError::Malformed);
        }
        let keys = self.keys.read().clone().ok_or(TokenError::NoKeys)?;
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&self.rules.issuer]);
        validation.set_audience(&[&self.rules.audience]);
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        // The time is given, and compared below.
        validation.validate_exp = false;
        let mut found = Err(TokenError::UnknownKey);
        for key in keys.find(algorithm, header.kid.as_deref()).take(TRIES_MAX) {
            use jsonwebtoken::errors::ErrorKind;
            found = jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &validation).map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature => TokenError::Signature,
                ErrorKind::InvalidIssuer => TokenError::Issuer,
                ErrorKind::InvalidAudience => TokenError::Audience,
                _ => TokenError::Malformed,
            });
            if found.as_ref().err() != Some(&TokenError::Signature) {
                break;
            }
        }
        let claims = found?.claims;
        let until = self.until(&claims, now)?;
        let subject = claims.get("sub").and_then(Value::as_str).ok_or(TokenError::Malformed)?.to_owned();
        Ok(Verified { subject, claims, until })
    }

    /// When it ends, if `now` is in its time.
    fn until(&self, claims: &Map<String, Value>, now: Timestamp) -> Result<Timestamp, TokenError> {
        let (now, leeway) = (now.0 as f64 / 1000.0, self.rules.leeway_secs as f64);
        let time = |name| match claims.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(time) => time.as_f64().filter(|time| time.is_finite()).map(Some).ok_or(TokenError::Malformed),
        };
        let (ends, begins) = (time("exp")?.ok_or(TokenError::Malformed)?, time("nbf")?);
        if now >= ends + leeway {
            return Err(TokenError::Expired);
        }
        if begins.is_some_and(|from| now < from - leeway) {
            return Err(TokenError::NotYet);
        }
        // A cast that saturates: far is far enough.
        Ok(Timestamp(((ends + leeway) * 1000.0) as u64))
    }
}
