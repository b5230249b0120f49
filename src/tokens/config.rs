//! The settings of `[tokens]`.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use reqwest::Url;
use serde::{Deserialize, Serialize};

/// A signature that is taken (RFC 7518 §3.1, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256, keys of 2048 bits and more.
    RS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// `[tokens]`: JWTs of devices. Without keys no token is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A file with the issuer's public keys: a JWKS (RFC 7517), or public keys in PEM. Default: "". It is read again every
    /// `refresh_secs`, and when a token names a key that is not known.
    pub keys_file: PathBuf,
    /// The address of the issuer's JWKS, with https (http on loopback only), instead of `keys_file`. Default: "".
    pub keys_url: String,
    /// Who must have issued a token (`iss`). Default: ""; keys need it.
    pub issuer: String,
    /// For whom a token must be (`aud`). Default: "", which means the domain.
    pub audience: String,
    /// Signatures that are taken: "ES256", "EdDSA", "RS256". Default: all of them.
    pub algorithms: Vec<Algorithm>,
    /// How far the clocks of issuer and service may be apart, in seconds. Default: 60.
    pub leeway_secs: u64,
    /// The claim with the name, or the domain, of the device's tenant. Default: "", which means that every token is of the default tenant.
    pub tenant_claim: String,
    /// A device that is not in the registry is added at its first login with a token; one that was removed is not. Default: false.
    pub register: bool,
    /// How often the keys are read again, in seconds. Default: 300.
    pub refresh_secs: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keys_file: PathBuf::new(),
            keys_url: String::new(),
            issuer: String::new(),
            audience: String::new(),
            algorithms: vec![Algorithm::ES256, Algorithm::EdDsa, Algorithm::RS256],
            leeway_secs: 60,
            tenant_claim: String::new(),
            register: false,
            refresh_secs: 300,
        }
    }
}

impl Config {
    /// Whether tokens are taken at all.
    pub fn enabled(&self) -> bool {
        !self.keys_file.as_os_str().is_empty() || !self.keys_url.is_empty()
    }

    /// Everything that does not fit together, each with the setting and the way out.
    pub fn problems(&self) -> Vec<String> {
        if !self.enabled() {
            return Vec::new();
        }
        let mut problems = check_source("tokens", &self.keys_file, &self.keys_url);
        problems.extend(check_trust("tokens", &self.issuer, &self.algorithms));
        problems
    }
}

/// What is wrong with the place of the keys, as that section names it.
pub(super) fn check_source(section: &str, keys_file: &Path, keys_url: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if !keys_file.as_os_str().is_empty() && !keys_url.is_empty() {
        problems.push(format!(
            "{section}.keys_file and {section}.keys_url are two sources of keys: set one of them"
        ));
    }
    if !keys_url.is_empty() && !is_safe(keys_url) {
        problems.push(format!(
            "{section}.keys_url = {keys_url:?} is no address with https: whoever stands between could give keys of his own"
        ));
    }
    problems
}

/// What is wrong with whom it trusts.
pub(super) fn check_trust(section: &str, issuer: &str, algorithms: &[Algorithm]) -> Vec<String> {
    let mut problems = Vec::new();
    if issuer.is_empty() {
        problems.push(format!(
            "{section}.issuer is empty: name the issuer whose tokens are taken (their `iss`)"
        ));
    }
    if algorithms.is_empty() {
        problems.push(format!(
            "{section}.algorithms is empty, so no token could be taken: name ES256, EdDSA or RS256"
        ));
    }
    problems
}

/// HTTPS, or HTTP to this machine.
fn is_safe(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| match url.scheme() {
        "https" => url.has_host(),
        "http" => url.host_str().is_some_and(|host| {
            let host = host.trim_matches(['[', ']']);
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }),
        _ => false,
    })
}
