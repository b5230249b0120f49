//! SCRAM (RFC 5802, RFC 7677), the server's side, from stored keys.

use std::sync::OnceLock;

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest, hmac};
use base64::{Engine, prelude::BASE64_STANDARD};

use crate::domain::{ScramSecret, ScramVerifier, TenantId};

use super::{super::error::LoginFailure, binding::Bindings};

/// The challenge for a name that is no device's, in a registry without devices: as of a generated secret.
const FAKE_ITERATIONS: u32 = 4096;
const FAKE_SALT_LEN: usize = 16;

/// Which hash a mechanism uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::xmpp) enum Hash {
    Sha256,
    Sha1,
}

impl Hash {
    fn hmac(self, key: &[u8], data: &[u8]) -> hmac::Tag {
        let algorithm = match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), data)
    }

    fn digest(self, data: &[u8]) -> digest::Digest {
        match self {
            Self::Sha256 => digest::digest(&digest::SHA256, data),
            Self::Sha1 => digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, data),
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha1 => 20,
        }
    }
}

/// The client's first message.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::xmpp) struct ClientFirst {
    /// What the final message must repeat: the header and the channel binding (`c=`).
    binding: Vec<u8>,
    /// Whom it wants to be, if it says so.
    pub(in crate::xmpp) authzid: Option<String>,
    /// Who it is.
    pub(in crate::xmpp) user: String,
    nonce: String,
    bare: String,
}

/// `=2C` is a comma and `=3D` an equals sign (RFC 5802 §5.1).
fn saslname(text: &str) -> Option<String> {
    let mut name = String::with_capacity(text.len());
    let mut parts = text.split('=');
    name.push_str(parts.next()?);
    for part in parts {
        if let Some(rest) = part.strip_prefix("2C") {
            name.push(',');
            name.push_str(rest);
        } else {
            name.push('=');
            name.push_str(part.strip_prefix("3D")?);
        }
    }
    (!name.is_empty()).then_some(name)
}

impl ClientFirst {
    /// Reads `n,[a=authzid],n=user,r=nonce[,…]`, with `plus` `p=binding,…`. Who says `y` could have bound and was not offered
    /// to: where it was offered, somebody took the offer out (RFC 5802 §6).
    pub(in crate::xmpp) fn parse(message: &str, plus: bool, bindings: &Bindings) -> Result<Self, LoginFailure> {
        let malformed = LoginFailure::MalformedRequest;
        let mut parts = message.splitn(3, ',');
        let (flag, authzid, bare) = match (parts.next(), parts.next(), parts.next()) {
            (Some(flag), Some(authzid), Some(bare)) => (flag, authzid, bare),
            _ => return Err(malformed),
        };
        let mut binding = format!("{flag},{authzid},").into_bytes();
        match (flag.strip_prefix("p="), flag) {
            (Some(name), _) if plus => binding.extend_from_slice(bindings.find(name).ok_or(LoginFailure::NotAuthorized)?),
            (None, "n") if !plus => {}
            (None, "y") if !plus && !bindings.any() => {}
            (None, "y") if !plus => return Err(LoginFailure::NotAuthorized),
            _ => return Err(malformed),
        }
        let authzid = match authzid {
            "" => None,
            given => Some(given.strip_prefix("a=").and_then(saslname).ok_or(malformed)?),
        };
        let mut fields = bare.split(',');
        let user = fields.next().and_then(|field| field.strip_prefix("n=")).and_then(saslname);
        let nonce = fields.next().and_then(|field| field.strip_prefix("r="));
        let (Some(user), Some(nonce)) = (user, nonce) else {
            return Err(malformed);
        };
        let printable = |nonce: &str| nonce.bytes().all(|byte| matches!(byte, 0x21..=0x7e));
        if nonce.is_empty() || !printable(nonce) {
            return Err(malformed);
        }
        Ok(Self {
            binding,
            authzid,
            user,
            nonce: nonce.to_owned(),
            bare: bare.to_owned(),
        })
    }
}

/// What the server waits for after its challenge.
#[derive(Debug)]
pub(in crate::xmpp) struct Challenge {
    hash: Hash,
    /// All share salt and iterations; any may match.
    verifiers: Vec<ScramVerifier>,
    first: ClientFirst,
    nonce: String,
    message: String,
    /// There is such a device, with a verifier for that hash.
    real: bool,
}

impl Challenge {
    /// Answers `first`. Of several secrets those that share the salt of number `turn` (modulo their number) are tried: the
    /// protocol shows a single salt. Without one, the challenge looks like that of `like` and the proof will fail.
    pub(in crate::xmpp) fn new(
        hash: Hash,
        first: ClientFirst,
        secrets: &[ScramSecret],
        like: Option<&ScramSecret>,
        turn: usize,
        tenant: TenantId,
        server_nonce: &str,
    ) -> Self {
        let mut verifiers: Vec<_> = secrets
            .iter()
            .filter_map(|secret| match hash {
                Hash::Sha256 => Some(&secret.sha256),
                Hash::Sha1 => secret.sha1.as_ref(),
            })
            .cloned()
            .collect();
        let real = !verifiers.is_empty();
        let shown = match verifiers.get(turn.checked_rem(verifiers.len()).unwrap_or(0)) {
            Some(shown) => shown.clone(),
            None => fake_verifier(hash, tenant, &first.user, secrets.first().or(like)),
        };
        verifiers.retain(|one| one.salt == shown.salt && one.iterations == shown.iterations);
        if verifiers.is_empty() {
            verifiers.push(shown.clone());
        }
        let nonce = format!("{}{server_nonce}", first.nonce);
        let message = format!("r={nonce},s={},i={}", BASE64_STANDARD.encode(&shown.salt), shown.iterations);
        Self {
            hash,
            verifiers,
            first,
            nonce,
            message,
            real,
        }
    }

    /// The server's first message.
    pub(in crate::xmpp) fn message(&self) -> &str {
        &self.message
    }

    /// Checks the client's final message; the server's final message comes back.
    pub(in crate::xmpp) fn verify(&self, message: &str) -> Result<String, LoginFailure> {
        let malformed = LoginFailure::MalformedRequest;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(malformed)?;
        let mut fields = without_proof.split(',');
        let binding = fields.next().and_then(|field| field.strip_prefix("c=")).ok_or(malformed)?;
        let nonce = fields.next().and_then(|field| field.strip_prefix("r=")).ok_or(malformed)?;
        let binding = BASE64_STANDARD.decode(binding).map_err(|_| malformed)?;
        let proof = BASE64_STANDARD.decode(proof).map_err(|_| malformed)?;
        let signed = format!("{},{},{without_proof}", self.first.bare, self.message);
        let mut right = None;
        for verifier in &self.verifiers {
            let signature = self.hash.hmac(&verifier.stored_key, signed.as_bytes());
            let client_key: Vec<u8> = proof.iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
            let matches = verify_slices_are_equal(self.hash.digest(&client_key).as_ref(), &verifier.stored_key).is_ok();
            if matches && proof.len() == self.hash.len() {
                right = Some(verifier);
            }
        }
        match right {
            Some(verifier) if self.real && binding == self.first.binding && nonce == self.nonce => {
                let signature = self.hash.hmac(&verifier.server_key, signed.as_bytes());
                Ok(format!("v={}", BASE64_STANDARD.encode(signature)))
            }
            _ => Err(LoginFailure::NotAuthorized),
        }
    }
}

static FAKE: OnceLock<hmac::Key> = OnceLock::new();

/// Gives the random bytes that fake secrets are made from; the first ones given in this process count, so that an unknown
/// name shows the same salt at every login.
pub(in crate::xmpp) fn seed_fakes(random: &[u8; 32]) {
    FAKE.get_or_init(|| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, random);
        hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, b"unknown devices").as_ref())
    });
}

fn fake_bytes(label: &str, hash: Hash, tenant: TenantId, user: &str, len: usize) -> Vec<u8> {
    let key = FAKE.get_or_init(|| hmac::Key::new(hmac::HMAC_SHA256, b"unknown devices"));
    let block = |number: usize| hmac::sign(key, format!("{label} {number} {hash:?} {} {user}", tenant.0).as_bytes());
    let mut bytes: Vec<u8> = (0..len.div_ceil(32)).flat_map(|number| block(number).as_ref().to_vec()).collect();
    bytes.truncate(len);
    bytes
}

/// The verifier of a name that is no device's: salt and rounds have the form of those of `like`, so that nobody can tell.
fn fake_verifier(hash: Hash, tenant: TenantId, user: &str, like: Option<&ScramSecret>) -> ScramVerifier {
    let like = like.map(|secret| match hash {
        Hash::Sha256 => &secret.sha256,
        Hash::Sha1 => secret.sha1.as_ref().unwrap_or(&secret.sha256),
    });
    let stored_key = fake_bytes("key", hash, tenant, user, hash.len());
    ScramVerifier {
        salt: fake_bytes("salt", hash, tenant, user, like.map_or(FAKE_SALT_LEN, |like| like.salt.len())),
        iterations: like.map_or(FAKE_ITERATIONS, |like| like.iterations),
        server_key: stored_key.clone(),
        stored_key,
    }
}

/// A secret that no password opens, at the cost of that of `like`.
pub(in crate::xmpp) fn fake_secret(tenant: TenantId, user: &str, like: Option<&ScramSecret>) -> ScramSecret {
    ScramSecret {
        sha256: fake_verifier(Hash::Sha256, tenant, user, like),
        sha1: None,
    }
}
