//! One token: is it the issuer's, is it for us, is it still good, and which device is it.

use std::sync::Arc;

use jsonwebtoken::Validation;
use parking_lot::RwLock;
use prometheus::Registry;
use serde::Deserialize;
use tokio::sync::Notify;

use super::{Algorithm, Config, keys::Keys, metrics::TokenMetrics};
use crate::domain::{DeviceId, TenantId, Timestamp};

/// The longest token, in bytes. Before login a stanza has at most 16 KiB, and Base64 takes a third more.
const TOKEN_MAX: usize = 8 * 1024;
/// Keys that are tried for one token that names none.
const TRIES_MAX: usize = 4;

/// Why a token is not taken. The device reads `not-authorized`, whatever it is; but for [`TokenError::NoKeys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No JWT, or one of an algorithm that is not taken.
    #[error("it is no token of a kind that is taken")]
    Malformed,
    /// Its key is not among the issuer's.
    #[error("its key is not known")]
    UnknownKey,
    /// The signature is wrong.
    #[error("its signature is wrong")]
    Signature,
    /// Of another issuer, for another audience, or for a tenant that takes no tokens.
    #[error("it is of another issuer or for somebody else")]
    NotForUs,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// Its time has not come.
    #[error("it is not valid yet")]
    NotYet,
    /// Its subject is no device.
    #[error("its subject is no device")]
    Subject,
    /// The issuer's keys are not known yet: not the device's fault.
    #[error("the keys of the issuer are not there")]
    NoKeys,
}

/// Checks tokens. Cheap to clone; without keys in the settings it takes none.
#[derive(Clone, Default)]
pub struct Tokens(pub(super) Option<Arc<Inner>>);

pub(super) struct Inner {
    pub(super) algorithms: Vec<Algorithm>,
    issuer: String,
    audience: String,
    domain: String,
    leeway_secs: u64,
    register: bool,
    keys: RwLock<Option<Arc<Keys>>>,
    /// A token named a key that is not known.
    pub(super) wanted: Notify,
    pub(super) metrics: TokenMetrics,
}

/// A token that was found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Valid {
    /// Whose it is.
    pub device: DeviceId,
    /// When it ends, the leeway counted in.
    pub until: Timestamp,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    nbf: Option<f64>,
}

impl Tokens {
    /// For the devices of `domain`.
    ///
    /// # Errors
    /// When a metric of the same name is there.
    pub(super) fn new(config: &Config, domain: &str, registry: &Registry) -> prometheus::Result<Self> {
        let metrics = TokenMetrics::register(registry)?;
        if !config.enabled() {
            return Ok(Self(None));
        }
        let audience = if config.audience.is_empty() { domain } else { &config.audience };
        Ok(Self(Some(Arc::new(Inner {
            algorithms: config.algorithms.clone(),
            issuer: config.issuer.clone(),
            audience: audience.to_owned(),
            domain: domain.to_owned(),
            leeway_secs: config.leeway_secs,
            register: config.register,
            keys: RwLock::new(None),
            wanted: Notify::new(),
            metrics,
        }))))
    }

    /// Whether `text` is to be checked here, and not as a password: it has the form of a JWT, and tokens are taken.
    pub fn takes(&self, text: &str) -> bool {
        // `{"` in Base64: every header begins so.
        self.0.is_some() && text.starts_with("eyJ") && text.bytes().filter(|byte| *byte == b'.').count() == 2
    }

    /// Whether a device that shows a token and is not in the registry is added to it.
    pub fn registers(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.register)
    }

    /// The device of that tenant whose token it is. Costs up to 0.1 ms of CPU, so keep it off the event loop.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn check(&self, tenant: TenantId, token: &str, now: Timestamp) -> Result<Valid, TokenError> {
        let inner = self.0.as_ref().ok_or(TokenError::NotForUs)?;
        let found = inner.check(tenant, token, now);
        inner.metrics.checked(&found);
        if matches!(found, Err(TokenError::UnknownKey)) {
            inner.wanted.notify_one();
        }
        found
    }

    /// Whom the token says it is of. Nothing is checked: for the look-up that goes before [`Self::check`].
    pub fn claimed(&self, token: &str) -> Option<DeviceId> {
        let inner = self.0.as_ref()?;
        if token.len() > TOKEN_MAX {
            return None;
        }
        let claims: Claims = jsonwebtoken::dangerous::insecure_decode(token).ok()?.claims;
        inner.device(&claims.sub)
    }

    pub(super) fn replace(&self, keys: Keys) {
        if let Some(inner) = &self.0 {
            inner.metrics.keys.set(i64::try_from(keys.len()).unwrap_or(i64::MAX));
            *inner.keys.write() = Some(Arc::new(keys));
        }
    }
}

impl Inner {
    fn check(&self, tenant: TenantId, token: &str, now: Timestamp) -> Result<Valid, TokenError> {
        if tenant != TenantId::default() {
            return Err(TokenError::NotForUs);
        }
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
        if header.crit.is_some() || !self.algorithms.contains(&algorithm) {
            return Err(TokenError::Malformed);
        }
        let keys = self.keys.read().clone().ok_or(TokenError::NoKeys)?;
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        // The time is given, and compared below.
        validation.validate_exp = false;
        let mut found = Err(TokenError::UnknownKey);
        for key in keys.find(algorithm, header.kid.as_deref()).take(TRIES_MAX) {
            use jsonwebtoken::errors::ErrorKind;
            found = jsonwebtoken::decode::<Claims>(token, &key.key, &validation).map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature => TokenError::Signature,
                ErrorKind::InvalidIssuer | ErrorKind::InvalidAudience => TokenError::NotForUs,
                _ => TokenError::Malformed,
            });
            if found.as_ref().err() != Some(&TokenError::Signature) {
                break;
            }
        }
        let claims = found?.claims;
        let until = self.until(&claims, now)?;
        let device = self.device(&claims.sub).ok_or(TokenError::Subject)?;
        Ok(Valid { device, until })
    }

    /// When it ends, if `now` is in its time.
    fn until(&self, claims: &Claims, now: Timestamp) -> Result<Timestamp, TokenError> {
        let (now, leeway) = (now.0 as f64 / 1000.0, self.leeway_secs as f64);
        if !claims.exp.is_finite() || claims.nbf.is_some_and(|from| !from.is_finite()) {
            return Err(TokenError::Malformed);
        }
        if now >= claims.exp + leeway {
            return Err(TokenError::Expired);
        }
        if claims.nbf.is_some_and(|from| now < from - leeway) {
            return Err(TokenError::NotYet);
        }
        // A cast that saturates: far is far enough.
        Ok(Timestamp(((claims.exp + leeway) * 1000.0) as u64))
    }

    /// A subject is the id of a device, or its bare JID.
    fn device(&self, subject: &str) -> Option<DeviceId> {
        match subject.split_once('@') {
            Some((device, domain)) if domain.eq_ignore_ascii_case(&self.domain) => device.parse().ok(),
            Some(_) => None,
            None => subject.parse().ok(),
        }
    }
}
