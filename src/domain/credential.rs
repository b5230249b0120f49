//! Secrets of devices, as the store keeps them: never the password itself.

use std::fmt;

use aws_lc_rs::{digest, hmac, pbkdf2, rand};
use serde::{Deserialize, Serialize};

/// A password in passing. Its `Debug` prints `***`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What SCRAM needs to verify one password by one hash (RFC 5802 §3): not enough to log in with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScramVerifier {
    /// Salt, raw bytes.
    #[serde(with = "base64_bytes")]
    pub salt: Vec<u8>,
    /// Rounds of PBKDF2, at least 4,096.
    pub iterations: u32,
    /// H(ClientKey).
    #[serde(with = "base64_bytes")]
    pub stored_key: Vec<u8>,
    /// HMAC(SaltedPassword, "Server Key").
    #[serde(with = "base64_bytes")]
    pub server_key: Vec<u8>,
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScramVerifier(***, {} iterations)", self.iterations)
    }
}

/// The verifiers of one password, for both hashes: many clients know only SHA-1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScramSecret {
    /// For SCRAM-SHA-256 (RFC 7677).
    pub sha256: ScramVerifier,
    /// For SCRAM-SHA-1 (RFC 5802). Absent when the operator imported SHA-256 alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha1: Option<ScramVerifier>,
}

/// One way a device proves who it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Credential {
    /// A password, given or imported as SCRAM verifiers. At most two live at once, for rotation.
    Scram(ScramSecret),
    /// A certificate that it may show in TLS (EXTERNAL). At most two live at once. A device that has one is let in by no other.
    Certificate(CertificatePin),
}

impl Credential {
    /// The verifiers, if it is a password.
    pub fn scram(&self) -> Option<&ScramSecret> {
        match self {
            Self::Scram(secret) => Some(secret),
            Self::Certificate(_) => None,
        }
    }

    /// The certificate, if it is one.
    pub fn certificate(&self) -> Option<&CertificatePin> {
        match self {
            Self::Scram(_) => None,
            Self::Certificate(pin) => Some(pin),
        }
    }

    /// The word for its type.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Scram(_) => "scram",
            Self::Certificate(_) => "certificate",
        }
    }
}

/// One certificate, by its fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificatePin {
    /// SHA-256 of its DER.
    #[serde(with = "hex_bytes")]
    pub sha256: [u8; 32],
}

impl ScramSecret {
    /// Derives both verifiers from `password` with a fresh salt. Costs two PBKDF2 of `iterations` rounds (about 1 ms at
    /// 4,096), so keep it off the event loop.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn derive(password: &Password, iterations: u32) -> Result<Self, aws_lc_rs::error::Unspecified> {
        Ok(Self::derive_with_salt(password, &Self::fresh_salt()?, iterations))
    }

    /// The same with a salt that is there. Passwords of one device share their salt while one replaces the other: SCRAM shows a
    /// client one salt before it knows which password the client has.
    pub fn derive_with_salt(password: &Password, salt: &[u8], iterations: u32) -> Self {
        Self {
            sha256: ScramVerifier::derive(Hash::Sha256, password, salt, iterations),
            sha1: Some(ScramVerifier::derive(Hash::Sha1, password, salt, iterations)),
        }
    }

    /// 128 random bits.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn fresh_salt() -> Result<[u8; 16], aws_lc_rs::error::Unspecified> {
        let mut salt = [0; 16];
        rand::fill(&mut salt)?;
        Ok(salt)
    }

    /// Whether `password` is the one of this secret. Costs one PBKDF2; compares in constant time.
    pub fn matches(&self, password: &Password) -> bool {
        let made = ScramVerifier::derive(Hash::Sha256, password, &self.sha256.salt, self.sha256.iterations);
        aws_lc_rs::constant_time::verify_slices_are_equal(&made.stored_key, &self.sha256.stored_key).is_ok()
    }
}

#[derive(Clone, Copy)]
enum Hash {
    Sha256,
    Sha1,
}

impl ScramVerifier {
    fn derive(hash: Hash, password: &Password, salt: &[u8], iterations: u32) -> Self {
        let (pbkdf2, hmac, digest) = match hash {
            Hash::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, hmac::HMAC_SHA256, &digest::SHA256),
            Hash::Sha1 => (
                pbkdf2::PBKDF2_HMAC_SHA1,
                hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
                &digest::SHA1_FOR_LEGACY_USE_ONLY,
            ),
        };
        let rounds = std::num::NonZeroU32::new(iterations).unwrap_or(std::num::NonZeroU32::MIN);
        let mut salted = vec![0; digest.output_len()];
        pbkdf2::derive(pbkdf2, rounds, salt, password.0.as_bytes(), &mut salted);
        let key = hmac::Key::new(hmac, &salted);
        let client_key = hmac::sign(&key, b"Client Key");
        Self {
            salt: salt.to_vec(),
            iterations,
            stored_key: digest::digest(digest, client_key.as_ref()).as_ref().to_vec(),
            server_key: hmac::sign(&key, b"Server Key").as_ref().to_vec(),
        }
    }
}

mod hex_bytes {
    use data_encoding::HEXLOWER;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let bytes = HEXLOWER
            .decode(String::deserialize(deserializer)?.as_bytes())
            .map_err(D::Error::custom)?;
        bytes.try_into().map_err(|_| D::Error::custom("not 32 bytes"))
    }
}

mod base64_bytes {
    use base64::{Engine, prelude::BASE64_STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        BASE64_STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifier_is_the_one_of_rfc_7677() {
        // RFC 7677 §3: user "user", password "pencil".
        let salt = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, "W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let made = ScramVerifier::derive(Hash::Sha256, &Password("pencil".into()), &salt, 4096);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &made.server_key);
        let message = b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
            s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signature = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, hmac::sign(&key, message));
        assert_eq!(signature, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn a_secret_knows_its_password_and_prints_nothing() {
        let secret = ScramSecret::derive(&Password("pencil".into()), 4096).unwrap();
        assert!(secret.matches(&Password("pencil".into())));
        assert!(!secret.matches(&Password("pen".into())));
        assert!(format!("{secret:?} {:?}", Password("pencil".into())).contains("***"));
    }
}
