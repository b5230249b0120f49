//! Tokens of devices: which device is it.

use std::sync::Arc;

use prometheus::Registry;
use serde::Deserialize;

use super::{
    Config, TokenError,
    metrics::TokenMetrics,
    verifier::{Rules, TOKEN_MAX, Verifier, is_token},
};
use crate::domain::{DeviceId, TenantId, Timestamp};

/// Checks tokens of devices. Cheap to clone; without keys in the settings it takes none.
#[derive(Clone, Default)]
pub struct Tokens(pub(super) Option<Arc<Inner>>);

pub(super) struct Inner {
    pub(super) verifier: Arc<Verifier>,
    domain: String,
    register: bool,
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
}

impl Tokens {
    /// For the devices of `domain`.
    ///
    /// # Errors
    /// When a metric of the same name is there.
    pub(super) fn new(config: &Config, domain: &str, registry: &Registry) -> prometheus::Result<Self> {
        let metrics = TokenMetrics::of_devices(registry)?;
        if !config.enabled() {
            return Ok(Self(None));
        }
        let audience = if config.audience.is_empty() { domain } else { &config.audience };
        let rules = Rules {
            algorithms: config.algorithms.clone(),
            issuer: config.issuer.clone(),
            audience: audience.to_owned(),
            leeway_secs: config.leeway_secs,
        };
        Ok(Self(Some(Arc::new(Inner {
            verifier: Arc::new(Verifier::new(rules, metrics)),
            domain: domain.to_owned(),
            register: config.register,
        }))))
    }

    /// Whether `text` is to be checked here, and not as a password: it has the form of a JWT, and tokens are taken.
    pub fn takes(&self, text: &str) -> bool {
        self.0.is_some() && is_token(text)
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
        let inner = self.0.as_ref().ok_or(TokenError::Tenant)?;
        let found = inner.check(tenant, token, now);
        inner.verifier.found(&found);
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
}

impl Inner {
    fn check(&self, tenant: TenantId, token: &str, now: Timestamp) -> Result<Valid, TokenError> {
        if tenant != TenantId::default() {
            return Err(TokenError::Tenant);
        }
        let verified = self.verifier.verify(token, now)?;
        let device = self.device(&verified.subject).ok_or(TokenError::Subject)?;
        Ok(Valid {
            device,
            until: verified.until,
        })
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
