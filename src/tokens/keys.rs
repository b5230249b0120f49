//! The issuer's public keys: JWKS or PEM in, keys with one algorithm each out. Pure.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use serde::Deserialize;
use x509_parser::{
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519},
    prelude::FromDer,
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

use super::Algorithm;

/// Most keys of one issuer. He needs two to rotate.
const KEYS_MAX: usize = 64;
/// Bytes of an RSA modulus: 2048 to 8192 bits. Smaller ones are weak, larger ones cost too much.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// A public key, with the one algorithm that it is used with.
pub(super) struct Key {
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// All keys of the issuer.
#[derive(Default)]
pub(super) struct Keys(Vec<Key>);

impl Keys {
    /// Reads a JWKS (RFC 7517 §5) or public keys in PEM (RFC 7468 §13). What a JWKS has beside keys for those algorithms is
    /// skipped, as §5 asks.
    pub(super) fn read(text: &[u8], allowed: &[Algorithm]) -> Result<Self, String> {
        let keys = if text.trim_ascii_start().starts_with(b"{") {
            from_jwks(text)?
        } else {
            from_pem(text)?
        };
        let keys: Vec<Key> = keys.into_iter().filter(|key| allowed.contains(&key.algorithm)).collect();
        match keys.len() {
            0 => Err("there is no public key for one of the algorithms".into()),
            many if many > KEYS_MAX => Err(format!("there are {many} keys; at most {KEYS_MAX} are taken")),
            _ => Ok(Self(keys)),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Keys for that algorithm that may be the one of that id; a key without an id may be any.
    pub(super) fn find(&self, algorithm: Algorithm, id: Option<&str>) -> impl Iterator<Item = &Key> {
        self.0.iter().filter(move |key| {
            let named = id.is_none() || key.id.is_none() || key.id.as_deref() == id;
            key.algorithm == algorithm && named
        })
    }
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

fn from_jwks(text: &[u8]) -> Result<Vec<Key>, String> {
    let jwks: Jwks = serde_json::from_slice(text).map_err(|error| format!("it is no JWKS: {error}"))?;
    let read = |value| serde_json::from_value::<Jwk>(value).ok().and_then(from_jwk);
    Ok(jwks.keys.into_iter().filter_map(read).collect())
}

/// `None`: not a key that verifies signatures of ours.
fn from_jwk(jwk: Jwk) -> Option<Key> {
    let for_encryption = jwk.purpose.as_deref().is_some_and(|purpose| purpose != "sig");
    let cannot_verify = jwk.key_ops.is_some_and(|operations| operations.iter().all(|one| one != "verify"));
    if for_encryption || cannot_verify {
        return None;
    }
    let (algorithm, name, key) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => {
            let (n, e) = (jwk.n?, jwk.e?);
            let modulus = BASE64_URL_SAFE_NO_PAD.decode(&n).ok()?;
            RSA_BYTES.contains(&modulus.len()).then_some(())?;
            (Algorithm::RS256, "RS256", DecodingKey::from_rsa_components(&n, &e).ok()?)
        }
        ("EC", Some("P-256")) => (Algorithm::ES256, "ES256", DecodingKey::from_ec_components(&jwk.x?, &jwk.y?).ok()?),
        ("OKP", Some("Ed25519")) => (Algorithm::EdDsa, "EdDSA", DecodingKey::from_ed_components(&jwk.x?).ok()?),
        _ => return None,
    };
    // RFC 9864 calls EdDSA on that curve Ed25519.
    let named = jwk.alg.is_none_or(|alg| alg == name || (alg == "Ed25519" && name == "EdDSA"));
    named.then_some(Key {
        id: jwk.kid,
        algorithm,
        key,
    })
}

fn from_pem(text: &[u8]) -> Result<Vec<Key>, String> {
    let mut keys = Vec::new();
    for section in SubjectPublicKeyInfoDer::pem_slice_iter(text) {
        let section = section.map_err(|error| format!("it is neither a JWKS nor PEM: {error}"))?;
        keys.extend(from_spki(&section));
    }
    Ok(keys)
}

fn from_spki(der: &[u8]) -> Option<Key> {
    let (_, info) = SubjectPublicKeyInfo::from_der(der).ok()?;
    let kind = &info.algorithm.algorithm;
    let bytes: &[u8] = &info.subject_public_key.data;
    let (algorithm, key) = if *kind == OID_PKCS1_RSAENCRYPTION {
        let PublicKey::RSA(rsa) = info.parsed().ok()? else { return None };
        RSA_BYTES.contains(&(rsa.key_size() / 8)).then_some(())?;
        (Algorithm::RS256, DecodingKey::from_rsa_der(bytes))
    } else if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
        (curve == OID_EC_P256).then_some(())?;
        (Algorithm::ES256, DecodingKey::from_ec_der(bytes))
    } else if *kind == OID_SIG_ED25519 {
        (Algorithm::EdDsa, DecodingKey::from_ed_der(bytes))
    } else {
        return None;
    };
    Some(Key { id: None, algorithm, key })
}
