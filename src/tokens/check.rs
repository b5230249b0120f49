//! Tokens of devices: which device is it.

use std::sync::Arc;

use prometheus::Registry;
use serde_json::{Map, Value};

use super::{
    Config, TokenError,
    metrics::TokenMetrics,
    verifier::{Rules, TOKEN_MAX, Verifier, is_token},
};
use crate::domain::{DeviceId, TenantId, Timestamp};

/// The tenant that has that word as its name or its domain, and its domain. Answers from memory.
pub type TenantNamed = Arc<dyn Fn(&str) -> Option<(TenantId, String)> + Send + Sync>;

/// Checks tokens of devices. Cheap to clone; without keys in the settings it takes none.
#[derive(Clone, Default)]
pub struct Tokens(pub(super) Option<Arc<Inner>>);

pub(super) struct Inner {
    pub(super) verifier: Arc<Verifier>,
    /// Of the default tenant.
    domain: String,
    tenant_claim: String,
    tenants: TenantNamed,
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

impl Tokens {
    /// For the devices of `domain`, and of the tenants that tokens name where the settings say how.
    ///
    /// # Errors
    /// When a metric of the same name is there.
    pub(super) fn new(config: &Config, domain: &str, tenants: TenantNamed, registry: &Registry) -> prometheus::Result<Self> {
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
            tenant_claim: config.tenant_claim.clone(),
            tenants,
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
    pub fn claimed(&self, token: &str) -> Option<(TenantId, DeviceId)> {
        let inner = self.0.as_ref()?;
        if token.len() > TOKEN_MAX {
            return None;
        }
        let claims: Map<String, Value> = jsonwebtoken::dangerous::insecure_decode(token).ok()?.claims;
        let (tenant, domain) = inner.tenant(&claims).ok()?;
        Some((tenant, device(claims.get("sub")?.as_str()?, &domain)?))
    }
}

impl Inner {
    fn check(&self, tenant: TenantId, token: &str, now: Timestamp) -> Result<Valid, TokenError> {
        if self.tenant_claim.is_empty() && tenant != TenantId::default() {
            return Err(TokenError::Tenant);
        }
        let verified = self.verifier.verify(token, now)?;
        let (named, domain) = self.tenant(&verified.claims)?;
        if named != tenant {
            return Err(TokenError::Tenant);
        }
        let device = device(&verified.subject, &domain).ok_or(TokenError::Subject)?;
        Ok(Valid {
            device,
            until: verified.until,
        })
    }

    /// The tenant of a token with these claims, and its domain. One that names none is of nobody where tokens are to name one.
    fn tenant(&self, claims: &Map<String, Value>) -> Result<(TenantId, String), TokenError> {
        if self.tenant_claim.is_empty() {
            return Ok((TenantId::default(), self.domain.clone()));
        }
        let word = claims.get(&self.tenant_claim).and_then(Value::as_str).ok_or(TokenError::Tenant)?;
        (self.tenants)(word).ok_or(TokenError::Tenant)
    }
}

/// A subject is the id of a device, or its bare JID at the domain of its tenant.
fn device(subject: &str, own: &str) -> Option<DeviceId> {
    match subject.split_once('@') {
        Some((device, domain)) if domain.eq_ignore_ascii_case(own) => device.parse().ok(),
        Some(_) => None,
        None => subject.parse().ok(),
    }
}
