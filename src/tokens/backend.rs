//! Tokens of backends, instead of API keys: which tenant, and what they may do.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use prometheus::Registry;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Algorithm, TokenError,
    config::{check_source, check_trust},
    metrics::TokenMetrics,
    verifier::{Rules, Verifier, is_token},
};
use crate::domain::{Scope, Timestamp};

/// The longest subject, in characters: it is shown in the log and in the audit log.
const SUBJECT_MAX: usize = 256;

/// `[jwt]`: JWTs of backends, which they may show instead of an API key. Without keys none is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackendConfig {
    /// A file with the issuer's public keys: a JWKS (RFC 7517), or public keys in PEM. Default: "". It is read again every
    /// `refresh_secs`, and when a token names a key that is not known.
    pub keys_file: PathBuf,
    /// The address of the issuer's JWKS, with https (http on loopback only), instead of `keys_file`. Default: "".
    pub keys_url: String,
    /// Who must have issued a token (`iss`). Default: ""; keys need it.
    pub issuer: String,
    /// For whom a token must be (`aud`). Default: ""; keys need it.
    pub audience: String,
    /// Signatures that are taken: "ES256", "EdDSA", "RS256". Default: all of them.
    pub algorithms: Vec<Algorithm>,
    /// How far the clocks of issuer and service may be apart, in seconds. Default: 60.
    pub leeway_secs: u64,
    /// How often the keys are read again, in seconds. Default: 300.
    pub refresh_secs: u64,
    /// The claim with the name, or the domain, of the tenant. Default: "", which means that every token is of the default tenant.
    pub tenant_claim: String,
    /// The claim that says what the token allows: words in one text (RFC 8693 §4.2), or an array of words. Default: "scope".
    pub scope_claim: String,
    /// What each word allows: "word=scope", where the scope is one of push, read, admin, operator. Other words say nothing here.
    /// Default: "unpoll:push=push", "unpoll:read=read", "unpoll:admin=admin".
    pub scopes: Vec<String>,
}

impl Default for BackendConfig {
    fn default() -> Self {
        Self {
            keys_file: PathBuf::new(),
            keys_url: String::new(),
            issuer: String::new(),
            audience: String::new(),
            algorithms: vec![Algorithm::ES256, Algorithm::EdDsa, Algorithm::RS256],
            leeway_secs: 60,
            refresh_secs: 300,
            tenant_claim: String::new(),
            scope_claim: "scope".into(),
            scopes: vec!["unpoll:push=push".into(), "unpoll:read=read".into(), "unpoll:admin=admin".into()],
        }
    }
}

impl BackendConfig {
    /// Whether tokens are taken at all.
    pub fn enabled(&self) -> bool {
        !self.keys_file.as_os_str().is_empty() || !self.keys_url.is_empty()
    }

    /// Everything that does not fit together, each with the setting and the way out.
    pub fn problems(&self) -> Vec<String> {
        if !self.enabled() {
            return Vec::new();
        }
        let mut problems = check_source("jwt", &self.keys_file, &self.keys_url);
        problems.extend(check_trust("jwt", &self.issuer, &self.algorithms));
        if self.audience.is_empty() {
            problems.push("jwt.audience is empty: name for whom tokens must be (their `aud`), or those for others would be taken".into());
        }
        if self.scope_claim.is_empty() {
            problems.push("jwt.scope_claim is empty: name the claim that says what a token allows".into());
        }
        problems.extend(
            self.scopes.iter().filter(|text| mapped(text).is_none()).map(|text| {
                format!("jwt.scopes has {text:?}, which is not of the form word=scope with one of push, read, admin, operator")
            }),
        );
        problems
    }
}

fn mapped(text: &str) -> Option<(&str, Scope)> {
    let (word, scope) = text.rsplit_once('=')?;
    let scopes = [Scope::Push, Scope::Read, Scope::Admin, Scope::Operator];
    let scope = scopes.into_iter().find(|known| known.as_str() == scope)?;
    let is_word = !word.is_empty() && !word.contains(char::is_whitespace);
    is_word.then_some((word, scope))
}

/// Checks tokens of backends. Cheap to clone; without keys in the settings it takes none.
#[derive(Clone, Default)]
pub struct BackendTokens(pub(super) Option<Arc<Inner>>);

pub(super) struct Inner {
    pub(super) verifier: Arc<Verifier>,
    tenant_claim: String,
    scope_claim: String,
    scopes: BTreeMap<String, Scope>,
}

/// A token that was found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// Whose it is.
    pub subject: String,
    /// The name or the domain of the tenant. `None`: the default one.
    pub tenant: Option<String>,
    /// All that it allows; it may be nothing.
    pub scopes: Vec<Scope>,
    /// When it ends, the leeway counted in.
    pub until: Timestamp,
}

impl BackendTokens {
    pub(super) fn new(config: &BackendConfig, registry: &Registry) -> prometheus::Result<Self> {
        let metrics = TokenMetrics::of_backends(registry)?;
        if !config.enabled() {
            return Ok(Self(None));
        }
        let rules = Rules {
            algorithms: config.algorithms.clone(),
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            leeway_secs: config.leeway_secs,
        };
        let scopes = config.scopes.iter().filter_map(|text| mapped(text));
        Ok(Self(Some(Arc::new(Inner {
            verifier: Arc::new(Verifier::new(rules, metrics)),
            tenant_claim: config.tenant_claim.clone(),
            scope_claim: config.scope_claim.clone(),
            scopes: scopes.map(|(word, scope)| (word.to_owned(), scope)).collect(),
        }))))
    }

    /// Whether `text` is to be checked here, and not as a key: it has the form of a JWT, and tokens are taken.
    pub fn takes(&self, text: &str) -> bool {
        self.0.is_some() && is_token(text)
    }

    /// Rises when the issuer's keys are others: what was checked before is to be checked again.
    pub fn version(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.verifier.version())
    }

    /// Whose token it is, and what it allows. Costs up to 0.1 ms of CPU, so keep it off the event loop.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn check(&self, token: &str, now: Timestamp) -> Result<Bearer, TokenError> {
        let inner = self.0.as_ref().ok_or(TokenError::Malformed)?;
        let found = inner.check(token, now);
        inner.verifier.found(&found);
        found
    }
}

impl Inner {
    fn check(&self, token: &str, now: Timestamp) -> Result<Bearer, TokenError> {
        let verified = self.verifier.verify(token, now)?;
        let subject = verified.subject;
        let length = subject.chars().count();
        if length == 0 || length > SUBJECT_MAX || subject.chars().any(char::is_control) {
            return Err(TokenError::Subject);
        }
        let tenant = match self.tenant_claim.as_str() {
            "" => None,
            claim => {
                let tenant = verified.claims.get(claim).and_then(Value::as_str);
                Some(tenant.ok_or(TokenError::Tenant)?.to_owned())
            }
        };
        Ok(Bearer {
            subject,
            tenant,
            scopes: self.scopes(&verified.claims),
            until: verified.until,
        })
    }

    fn scopes(&self, claims: &Map<String, Value>) -> Vec<Scope> {
        let known = |word: &str| self.scopes.get(word).copied();
        match claims.get(&self.scope_claim) {
            Some(Value::String(words)) => words.split_ascii_whitespace().filter_map(known).collect(),
            Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).filter_map(known).collect(),
            _ => Vec::new(),
        }
    }
}
