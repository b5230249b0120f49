//! The client's side of SASL PLAIN (RFC 4616) and SCRAM (RFC 5802, RFC 7677), without channel binding.

use std::{collections::HashMap, fmt, num::NonZeroU32, sync::Mutex};

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2, rand};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::Error;

/// Most rounds a server may ask for: a bound on the work of one login.
const ITERATIONS_MAX: u32 = 1_000_000;

/// How to prove the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// RFC 5802.
    ScramSha1,
    /// RFC 7677.
    ScramSha256,
}

impl Mechanism {
    /// All, the strongest first.
    pub const ALL: [Self; 3] = [Self::ScramSha256, Self::ScramSha1, Self::Plain];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha1 => "SCRAM-SHA-1",
            Self::ScramSha256 => "SCRAM-SHA-256",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Hash {
    Sha1,
    Sha256,
}

impl Hash {
    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
        }
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Self::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
        }
    }
}

#[derive(Clone)]
struct Keys {
    client: Vec<u8>,
    server: Vec<u8>,
}

type KnownKeys = HashMap<(Hash, Vec<u8>, u32), Keys>;

/// A password, with the keys already derived from it: devices that share one (and a salt) pay for PBKDF2 once.
pub struct Password {
    text: String,
    known: Mutex<KnownKeys>,
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

impl Password {
    /// Wraps a password. ASCII is taken as it is; SASLprep is not applied.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            known: Mutex::default(),
        }
    }

    /// The SCRAM verifiers of this password, as a credential for `POST /v1/devices`.
    pub fn credential(&self, salt: &[u8], iterations: u32) -> Value {
        let verifier = |hash: Hash| {
            let keys = self.keys(hash, salt, iterations);
            json!({
                "salt": BASE64_STANDARD.encode(salt),
                "iterations": iterations,
                "stored_key": BASE64_STANDARD.encode(digest::digest(hash.digest(), &keys.client)),
                "server_key": BASE64_STANDARD.encode(&keys.server),
            })
        };
        json!({ "type": "scram", "sha256": verifier(Hash::Sha256), "sha1": verifier(Hash::Sha1) })
    }

    fn keys(&self, hash: Hash, salt: &[u8], iterations: u32) -> Keys {
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if known.len() >= 1024 {
            known.clear();
        }
        let derive = || {
            let mut salted = vec![0; hash.digest().output_len()];
            let rounds = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
            pbkdf2::derive(hash.pbkdf2(), rounds, salt, self.text.as_bytes(), &mut salted);
            let key = hmac::Key::new(hash.hmac(), &salted);
            let sign = |label: &str| hmac::sign(&key, label.as_bytes()).as_ref().to_vec();
            Keys {
                client: sign("Client Key"),
                server: sign("Server Key"),
            }
        };
        known.entry((hash, salt.to_vec(), iterations)).or_insert_with(derive).clone()
    }
}

/// The base64 text of the initial PLAIN response.
pub fn plain(user: &str, password: &Password) -> String {
    BASE64_STANDARD.encode(format!("\0{user}\0{}", password.text))
}

/// One SCRAM exchange.
pub struct Scram {
    hash: Hash,
    nonce: String,
    first_bare: String,
    server_signature: Vec<u8>,
}

impl Scram {
    /// Begins an exchange; the second value is the base64 text of the client's first message. `None` for PLAIN.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn begin(mechanism: Mechanism, user: &str) -> Result<Option<(Self, String)>, Error> {
        let mut random = [0; 18];
        rand::fill(&mut random).map_err(|_| Error::Sasl("no random bytes"))?;
        Ok(Self::begin_with(mechanism, user, BASE64_STANDARD.encode(random)))
    }

    fn begin_with(mechanism: Mechanism, user: &str, nonce: String) -> Option<(Self, String)> {
        let hash = match mechanism {
            Mechanism::Plain => return None,
            Mechanism::ScramSha1 => Hash::Sha1,
            Mechanism::ScramSha256 => Hash::Sha256,
        };
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={user},r={nonce}");
        let first = BASE64_STANDARD.encode(format!("n,,{first_bare}"));
        Some((
            Self {
                hash,
                nonce,
                first_bare,
                server_signature: Vec::new(),
            },
            first,
        ))
    }

    /// Answers the server's challenge (base64); the result is the base64 text of the client's final message.
    ///
    /// # Errors
    /// A challenge that is malformed, does not extend our nonce, or asks for too many rounds.
    pub fn answer(&mut self, challenge: &str, password: &Password) -> Result<String, Error> {
        let challenge = decode(challenge)?;
        let field = |key: &str| {
            challenge
                .split(',')
                .find_map(|part| part.strip_prefix(key))
                .ok_or(Error::Sasl("a challenge lacks a field"))
        };
        let (nonce, salt, rounds) = (field("r=")?, field("s=")?, field("i=")?);
        if !nonce.starts_with(&self.nonce) || nonce.len() <= self.nonce.len() {
            return Err(Error::Sasl("the server's nonce does not extend ours"));
        }
        let salt = BASE64_STANDARD.decode(salt).map_err(|_| Error::Sasl("the salt is not base64"))?;
        let rounds: u32 = rounds.parse().map_err(|_| Error::Sasl("the rounds are no number"))?;
        if rounds == 0 || rounds > ITERATIONS_MAX {
            return Err(Error::Sasl("too many rounds, or none"));
        }
        let keys = password.keys(self.hash, &salt, rounds);
        let without_proof = format!("c=biws,r={nonce}");
        let signed = format!("{},{challenge},{without_proof}", self.first_bare);
        let stored = digest::digest(self.hash.digest(), &keys.client);
        let signature = hmac::sign(&hmac::Key::new(self.hash.hmac(), stored.as_ref()), signed.as_bytes());
        let proof: Vec<u8> = keys.client.iter().zip(signature.as_ref()).map(|(key, mask)| key ^ mask).collect();
        self.server_signature = hmac::sign(&hmac::Key::new(self.hash.hmac(), &keys.server), signed.as_bytes())
            .as_ref()
            .to_vec();
        Ok(BASE64_STANDARD.encode(format!("{without_proof},p={}", BASE64_STANDARD.encode(proof))))
    }

    /// Checks the text of `<success/>`: that the server knows the password too.
    ///
    /// # Errors
    /// A missing or wrong signature.
    pub fn verify(&self, success: &str) -> Result<(), Error> {
        let last = decode(success)?;
        let signature = last
            .split(',')
            .find_map(|part| part.strip_prefix("v="))
            .ok_or(Error::Sasl("no server signature"))?;
        let signature = BASE64_STANDARD
            .decode(signature)
            .map_err(|_| Error::Sasl("the server signature is not base64"))?;
        if self.server_signature.is_empty() || constant_time::verify_slices_are_equal(&signature, &self.server_signature).is_err() {
            return Err(Error::Sasl("the server signature is wrong"));
        }
        Ok(())
    }
}

fn decode(text: &str) -> Result<String, Error> {
    let bytes = BASE64_STANDARD.decode(text.trim()).map_err(|_| Error::Sasl("not base64"))?;
    String::from_utf8(bytes).map_err(|_| Error::Sasl("not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mechanism: Mechanism, nonce: &str, challenge: &str, answer: &str, success: &str) {
        let (mut scram, _) = Scram::begin_with(mechanism, "user", nonce.into()).unwrap();
        let password = Password::new("pencil");
        assert_eq!(
            scram.answer(&BASE64_STANDARD.encode(challenge), &password).unwrap(),
            BASE64_STANDARD.encode(answer)
        );
        scram.verify(&BASE64_STANDARD.encode(success)).unwrap();
        assert!(scram.verify(&BASE64_STANDARD.encode("v=AAAA")).is_err());
    }

    #[test]
    fn the_examples_of_the_rfcs_come_out() {
        check(
            Mechanism::ScramSha1,
            "fyko+d2lbbFgONRv9qkxdawL",
            "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        );
        check(
            Mechanism::ScramSha256,
            "rOprNGfwEbeRWgbNEkqO",
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        );
    }

    #[test]
    fn a_server_that_reuses_our_nonce_or_asks_for_a_million_rounds_is_refused() {
        for bad in [
            "r=abc,s=AAAA,i=4096",
            "r=abcd,s=AAAA,i=2000000",
            "r=xyz,s=AAAA,i=4096",
            "r=abcd,s=AAAA",
            "r=abcd,s=!,i=1",
        ] {
            let (mut scram, _) = Scram::begin_with(Mechanism::ScramSha256, "user", "abc".into()).unwrap();
            assert!(scram.answer(&BASE64_STANDARD.encode(bad), &Password::new("p")).is_err(), "{bad}");
        }
    }
}
