//! Secrets and signatures as Standard Webhooks 1.0.0 has them: HMAC-SHA256 over `id.timestamp.body`.

use aws_lc_rs::{hmac, rand};
use base64::{Engine, prelude::BASE64_STANDARD};

use crate::{domain::Timestamp, store::WebhookSecret};

/// What a secret begins with.
const PREFIX: &str = "whsec_";
/// Bytes of a secret that is made here; 24 to 64 are taken.
const MADE_BYTES: usize = 32;
const LEAST_BYTES: usize = 24;
const MOST_BYTES: usize = 64;

/// A new secret: `whsec_` and 256 random bits.
///
/// # Errors
/// When the system gives no random bytes.
pub(super) fn new_secret() -> Result<String, aws_lc_rs::error::Unspecified> {
    let mut bytes = [0; MADE_BYTES];
    rand::fill(&mut bytes)?;
    Ok(format!("{PREFIX}{}", BASE64_STANDARD.encode(bytes)))
}

/// The bytes of a secret.
///
/// # Errors
/// What is wrong with it.
pub(super) fn secret_bytes(text: &str) -> Result<Vec<u8>, String> {
    let encoded = text
        .strip_prefix(PREFIX)
        .ok_or_else(|| format!("it does not begin with {PREFIX}, as secrets of Standard Webhooks do"))?;
    let bytes = BASE64_STANDARD
        .decode(encoded)
        .map_err(|_| "what follows whsec_ is not Base64".to_owned())?;
    if (LEAST_BYTES..=MOST_BYTES).contains(&bytes.len()) {
        Ok(bytes)
    } else {
        Err(format!("it has {} bytes; {LEAST_BYTES} to {MOST_BYTES} are allowed", bytes.len()))
    }
}

/// The value of `webhook-signature`: a signature by each secret that is live, the newest first.
pub(super) fn sign(secrets: &[WebhookSecret], id: &str, now: Timestamp, body: &str) -> String {
    let signed = format!("{id}.{}.{body}", seconds(now));
    let mut all = Vec::with_capacity(secrets.len());
    for secret in secrets.iter().filter(|secret| secret.until.is_none_or(|until| now < until)) {
        // One that is stored is valid: it was checked on its way in.
        let Ok(bytes) = secret_bytes(&secret.text) else { continue };
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), signed.as_bytes());
        all.push(format!("v1,{}", BASE64_STANDARD.encode(tag)));
    }
    all.join(" ")
}

/// The value of `webhook-timestamp`.
pub(super) fn seconds(now: Timestamp) -> u64 {
    now.0 / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str, until: Option<u64>) -> WebhookSecret {
        WebhookSecret {
            text: text.to_owned(),
            until: until.map(Timestamp),
        }
    }

    #[test]
    fn a_message_is_signed_as_the_reference_libraries_do() {
        // The vector of the reference implementations.
        let secrets = [secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", None)];
        let signature = sign(
            &secrets,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            Timestamp(1_614_265_330_123),
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn an_old_secret_signs_until_its_time_is_over() {
        let (new, old) = (new_secret().unwrap(), new_secret().unwrap());
        let secrets = [secret(&new, None), secret(&old, Some(5_000))];
        let count = |now| sign(&secrets, "id", Timestamp(now), "{}").split(' ').count();
        assert_eq!((count(4_999), count(5_000)), (2, 1));
        assert_eq!(
            sign(&secrets, "id", Timestamp(9_000), "{}"),
            sign(&secrets[..1], "id", Timestamp(9_000), "{}")
        );
    }

    #[test]
    fn a_secret_has_its_form() {
        assert_eq!(secret_bytes(&new_secret().unwrap()).unwrap().len(), 32);
        let check = |text: &str, why: &str| {
            let error = secret_bytes(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        };
        check("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "begin with whsec_");
        check("whsec_%%%", "Base64");
        check("whsec_AAAA", "it has 3 bytes");
        check(&format!("whsec_{}", BASE64_STANDARD.encode([1; 65])), "it has 65 bytes");
    }
}
