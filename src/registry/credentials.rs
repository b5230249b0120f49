//! Credentials as a request brings them, and as the store keeps them.

use std::sync::Arc;

use data_encoding::HEXLOWER_PERMISSIVE;
use tokio::sync::Semaphore;

use crate::{
    domain::{CertificatePin, Credential, Limits, Password, Refusal, ScramSecret, ScramVerifier},
    http::json::Field,
};

/// The fewest PBKDF2 rounds (RFC 7677 §4), for secrets that cannot be guessed.
pub(super) const ITERATIONS_MIN: u32 = 4_096;
/// The most: a box of 2010 needs a second for them.
pub(super) const ITERATIONS_MAX: u32 = 10_000;
/// The longest password, in bytes.
pub(super) const PASSWORD_MAX: usize = 256;

/// Passwords in both forms are one type, certificates the other.
const TYPES: usize = 2;

/// A credential of a request, not yet derived.
#[derive(Debug)]
pub(super) enum Given {
    Password(Password),
    Verifiers(ScramSecret),
    Certificate(CertificatePin),
}

/// `credentials`: an array of at most two of a type.
pub(super) fn parse(field: &Field<'_>, limits: &Limits) -> Result<Vec<Given>, Refusal> {
    let given: Vec<Given> = field
        .array(TYPES * limits.credentials_max)?
        .into_iter()
        .map(credential)
        .collect::<Result<_, _>>()?;
    let certificates = given.iter().filter(|one| matches!(one, Given::Certificate(_))).count();
    let most = certificates.max(given.len() - certificates);
    if most > limits.credentials_max {
        return Err(field.invalid(format!("{most} are of one type; at most {} are allowed", limits.credentials_max)));
    }
    Ok(given)
}

/// A password, here or in its short form.
pub(super) fn password(field: &Field<'_>) -> Result<Given, Refusal> {
    let text = field.text()?;
    if text.is_empty() || text.len() > PASSWORD_MAX {
        return Err(field.invalid(format!("it has {} bytes; 1 to {PASSWORD_MAX} are allowed", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(field.invalid("it has control characters, which SASLprep forbids (RFC 4013 §2.3)"));
    }
    Ok(Given::Password(Password(text.into_owned())))
}

fn credential(field: Field<'_>) -> Result<Given, Refusal> {
    let mut fields = field.clone().object()?;
    let kind = fields.need("type")?;
    let word = kind.text()?;
    let given = match word.as_ref() {
        "password" => password(&fields.need("value")?)?,
        "scram" => Given::Verifiers(ScramSecret {
            sha256: verifier(fields.need("sha256")?, 32)?,
            sha1: fields.take("sha1").map(|field| verifier(field, 20)).transpose()?,
        }),
        "certificate" => Given::Certificate(pin(&fields.need("sha256")?)?),
        _ => return Err(kind.invalid(format!("{word:?} is none of password, scram, certificate"))),
    };
    fields.finish()?;
    Ok(given)
}

/// The SHA-256 of a certificate's DER in hexadecimal, as `openssl x509 -fingerprint -sha256` prints it, too.
fn pin(field: &Field<'_>) -> Result<CertificatePin, Refusal> {
    let digits: String = field.text()?.chars().filter(|c| *c != ':').collect();
    let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok();
    let sha256 = bytes.and_then(|bytes| bytes.try_into().ok());
    let sha256 = sha256.ok_or_else(|| field.invalid("it is no SHA-256 of a certificate: 64 hexadecimal digits"))?;
    Ok(CertificatePin { sha256 })
}

fn verifier(field: Field<'_>, key_len: usize) -> Result<ScramVerifier, Refusal> {
    let mut fields = field.object()?;
    let iterations = fields.need("iterations")?;
    let rounds = u32::try_from(iterations.integer()?).ok();
    let rounds = rounds.filter(|rounds| (ITERATIONS_MIN..=ITERATIONS_MAX).contains(rounds));
    let rounds = rounds.ok_or_else(|| iterations.invalid(format!("{ITERATIONS_MIN} to {ITERATIONS_MAX} are allowed")))?;
    let found = ScramVerifier {
        salt: bytes(&fields.need("salt")?, 8..=64)?,
        iterations: rounds,
        stored_key: bytes(&fields.need("stored_key")?, key_len..=key_len)?,
        server_key: bytes(&fields.need("server_key")?, key_len..=key_len)?,
    };
    fields.finish()?;
    Ok(found)
}

fn bytes(field: &Field<'_>, sizes: std::ops::RangeInclusive<usize>) -> Result<Vec<u8>, Refusal> {
    let decoded = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, field.text()?.as_bytes());
    let decoded = decoded.map_err(|error| field.invalid(format!("it is not base64 (RFC 4648 §4): {error}")))?;
    if !sizes.contains(&decoded.len()) {
        let (from, to) = (sizes.start(), sizes.end());
        let allowed = if from == to { from.to_string() } else { format!("{from} to {to}") };
        return Err(field.invalid(format!("it has {} bytes; {allowed} are allowed", decoded.len())));
    }
    Ok(decoded)
}

/// What to store. A password that the device has already keeps its verifiers, so that putting the same again changes nothing; a
/// new one takes over their salt and rounds, so that a client with either logs in at its first try.
pub(super) async fn derive(
    given: Vec<Given>,
    existing: Vec<Credential>,
    iterations: u32,
    derivations: &Arc<Semaphore>,
) -> Result<Vec<Credential>, Refusal> {
    if given.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |what: &str| Refusal::Internal(format!("credentials: {what}"));
    let permit = Arc::clone(derivations).acquire_owned().await.map_err(|_| failed("stopped"))?;
    let derived = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        derive_now(given, &existing, iterations)
    });
    derived
        .await
        .map_err(|_| failed("panicked"))?
        .ok_or_else(|| failed("no random bytes"))
}

fn derive_now(given: Vec<Given>, existing: &[Credential], iterations: u32) -> Option<Vec<Credential>> {
    let rounds = |password: &Password| {
        if looks_generated(&password.0) {
            ITERATIONS_MIN
        } else {
            iterations.clamp(ITERATIONS_MIN, ITERATIONS_MAX)
        }
    };
    let mut certificates = Vec::new();
    let settled: Vec<Result<ScramSecret, Password>> = given
        .into_iter()
        .filter_map(|given| match given {
            Given::Verifiers(secret) => Some(Ok(secret)),
            Given::Password(password) => Some(known(&password, existing, rounds(&password)).ok_or(password)),
            Given::Certificate(pin) => {
                certificates.push(Credential::Certificate(pin));
                None
            }
        })
        .collect();
    let needed = settled
        .iter()
        .filter_map(|one| one.as_ref().err())
        .map(rounds)
        .max()
        .unwrap_or(ITERATIONS_MIN);
    let shared = settled.iter().filter_map(|one| one.as_ref().ok()).find(|secret| {
        let salts_agree = secret
            .sha1
            .as_ref()
            .is_some_and(|sha1| sha1.salt == secret.sha256.salt && sha1.iterations == secret.sha256.iterations);
        salts_agree && secret.sha256.iterations >= needed
    });
    let (salt, rounds) = match shared {
        Some(secret) => (secret.sha256.salt.clone(), secret.sha256.iterations),
        None => (ScramSecret::fresh_salt().ok()?.to_vec(), needed),
    };
    let derive =
        |one: Result<ScramSecret, Password>| one.unwrap_or_else(|password| ScramSecret::derive_with_salt(&password, &salt, rounds));
    let passwords = settled.into_iter().map(|one| Credential::Scram(derive(one)));
    Some(passwords.chain(certificates).collect())
}

/// The verifiers that the device has of that password already, of at least so many rounds.
fn known(password: &Password, existing: &[Credential], rounds: u32) -> Option<ScramSecret> {
    existing.iter().filter_map(Credential::scram).find_map(|secret| {
        let fits = secret.sha1.is_some() && secret.sha256.iterations >= rounds;
        (fits && secret.matches(password)).then(|| secret.clone())
    })
}

/// Whether a secret has the form of 128 random bits in hexadecimal or base64.
fn looks_generated(text: &str) -> bool {
    let has = |test: fn(&u8) -> bool| text.bytes().any(|byte| test(&byte));
    let hex =
        text.len() >= 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) && has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic);
    let base64 = text.len() >= 22
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_+/=".contains(&byte))
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_uppercase);
    hex || base64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_random_gets_fewer_rounds() {
        let check = |text: &str, expected| assert_eq!(looks_generated(text), expected, "{text}");
        check("secret", false);
        check("correct horse battery staple", false);
        check("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false);
        check("9f86d081884c7d659a2feaa0c55ad015", true);
        check("W22ZaJ0SNY7soEsUEjb6gQ==", true);
        check("W22ZaJ0SNY7soEs", false);
    }

    #[tokio::test]
    async fn the_same_password_keeps_its_verifiers() {
        let rooms = Arc::new(Semaphore::new(1));
        let given = |text: &str| vec![Given::Password(Password(text.into()))];
        let first = derive(given("pencil"), Vec::new(), 4_096, &rooms).await.unwrap();
        assert_eq!(derive(given("pencil"), first.clone(), 4_096, &rooms).await.unwrap(), first);
        assert_ne!(derive(given("pen"), first.clone(), 4_096, &rooms).await.unwrap(), first);
        assert_ne!(
            derive(given("pencil"), first.clone(), 5_000, &rooms).await.unwrap(),
            first,
            "other rounds"
        );
    }
}
