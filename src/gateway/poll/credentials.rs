//! Who polls: HTTP Basic (RFC 7617) or a token as Bearer (RFC 6750 §2.1), checked once and then known by its HMAC.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::{error::Unspecified, hmac, rand::SystemRandom};
use axum::http::{HeaderMap, header};
use base64::{Engine, prelude::BASE64_STANDARD};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{
    Config,
    metrics::{Login, PollMetrics},
    recent::Recent,
};
use crate::{
    domain::{Credential, Password, Refusal, ScramSecret, ScramVerifier, TenantId, Timestamp},
    gateway::{DeviceTokens, Hosts},
    http::single,
    store::{Device, DeviceKey},
    tokens::TokenError,
};

/// The longest value of `Authorization` that is looked at, in bytes.
const HEADER_MAX: usize = 12 * 1_024;
/// Wrong passwords are counted for so long.
const WRONG_WITHIN: Duration = Duration::from_secs(60);
/// What a request is told that finds no room for the check of its password.
const BUSY_FOR: Duration = Duration::from_secs(5);

/// Who a request says it comes from.
#[derive(Debug)]
pub(super) struct Claim {
    /// The device. `None`: a name that no device can have.
    pub(super) key: Option<DeviceKey>,
    pub(super) password: Password,
}

impl Claim {
    /// The claim in the request's header: the bare JID of the device (RFC 7622), or its id in the default tenant; of a Bearer token
    /// whom it names.
    ///
    /// # Errors
    /// `WrongCredentials` when there is none.
    pub(super) fn of(headers: &HeaderMap, hosts: &Hosts, tokens: &DeviceTokens) -> Result<Self, Refusal> {
        Self::read(headers, hosts, tokens).ok_or(Refusal::WrongCredentials)
    }

    fn read(headers: &HeaderMap, hosts: &Hosts, tokens: &DeviceTokens) -> Option<Self> {
        let value = single(headers, header::AUTHORIZATION.as_str()).ok()??;
        let (scheme, token) = value.split_once(' ')?;
        if token.len() > HEADER_MAX {
            return None;
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            return Self::of_token(token.trim(), tokens);
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let pair = String::from_utf8(BASE64_STANDARD.decode(token.trim()).ok()?).ok()?;
        let (user, password) = pair.split_once(':')?;
        let (id, tenant) = match user.split_once('@') {
            Some((id, domain)) => (id, hosts(&domain.to_ascii_lowercase())),
            None => (user, Some(TenantId::default())),
        };
        let key = id.parse().ok().zip(tenant).map(|(device, tenant)| DeviceKey { tenant, device });
        Some(Self {
            key,
            password: Password(password.to_owned()),
        })
    }
}

impl Claim {
    fn of_token(token: &str, tokens: &DeviceTokens) -> Option<Self> {
        let password = Password(token.to_owned());
        tokens.takes(&password).then_some(())?;
        let key = tokens.claimed(token);
        Some(Self { key, password })
    }
}

/// Checks passwords and tokens.
pub(super) struct Logins {
    /// Of this process alone: what it signs proves nothing elsewhere.
    key: hmac::Key,
    known: Mutex<Recent<DeviceKey, Known>>,
    wrong: Mutex<Recent<DeviceKey, Wrong>>,
    rooms: Semaphore,
    turns: Arc<Semaphore>,
    known_for: Duration,
    wrong_max: u32,
    metrics: PollMetrics,
}

/// A password that was right.
#[derive(Debug)]
struct Known {
    tag: hmac::Tag,
    until: Timestamp,
}

/// Passwords that were wrong.
#[derive(Clone, Copy, Debug)]
struct Wrong {
    since: Timestamp,
    times: u32,
}

impl Logins {
    pub(super) fn new(config: &Config, metrics: PollMetrics) -> Result<Self, Unspecified> {
        let bound = |permits: usize| permits.min(Semaphore::MAX_PERMITS);
        Ok(Self {
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?,
            known: Mutex::new(Recent::new(config.passwords_known_max)),
            wrong: Mutex::new(Recent::new(config.passwords_known_max)),
            rooms: Semaphore::new(bound(config.password_checks_waiting_max.max(1))),
            turns: Arc::new(Semaphore::new(bound(config.password_checks()))),
            known_for: Duration::from_secs(config.password_known_secs),
            wrong_max: config.wrong_passwords_max.max(1),
            metrics,
        })
    }

    /// Nothing, when the claim is true of `device`. `like` is a secret that a name without one pretends to have: it is checked for
    /// as long, so that an answer does not tell which devices there are.
    ///
    /// # Errors
    /// `WrongCredentials`; `TooManyWrong`; `Overloaded` when too many wait for their check.
    pub(super) async fn check(
        &self,
        claim: &Claim,
        device: Option<&Device>,
        like: Option<ScramSecret>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let own: Vec<ScramSecret> = device.map(secrets).unwrap_or_default();
        let genuine = !own.is_empty();
        let secrets = if genuine { own } else { vec![like.unwrap_or_else(nobodys)] };
        let password = claim.password.clone();
        let right = move || {
            let right = secrets.iter().any(|secret| secret.matches(&password));
            Ok((right && genuine).then_some(Timestamp(u64::MAX)))
        };
        self.prove(claim, device, now, right).await
    }

    /// Nothing, when the claim's token is the one of that device, which need not be in the registry yet.
    ///
    /// # Errors
    /// As [`Self::check`]; `Unavailable` while the issuer's keys are not there.
    pub(super) async fn check_token(
        &self,
        claim: &Claim,
        key: &DeviceKey,
        device: Option<&Device>,
        tokens: &DeviceTokens,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let (tokens, key, token) = (tokens.clone(), key.clone(), claim.password.clone());
        let valid = move || match tokens.check(&key, &token, now) {
            Ok(valid) => Ok(Some(valid.until)),
            Err(TokenError::NoKeys) => Err(Refusal::Unavailable { retry_after: BUSY_FOR }),
            Err(_) => Ok(None),
        };
        self.prove(claim, device, now, valid).await
    }

    /// Has `work` done off the event loop, in its turn; it answers until when the claim is true, at most.
    async fn prove(
        &self,
        claim: &Claim,
        device: Option<&Device>,
        now: Timestamp,
        work: impl FnOnce() -> Result<Option<Timestamp>, Refusal> + Send + 'static,
    ) -> Result<(), Refusal> {
        let known = || device.is_some_and(|device| self.knows(claim, device, now));
        if known() {
            self.metrics.login(Login::Known).inc();
            return Ok(());
        }
        self.may_try(claim, now)?;
        let room = self.rooms.try_acquire().map_err(|_| {
            self.metrics.login(Login::Refused).inc();
            Refusal::Overloaded { retry_after: BUSY_FOR }
        })?;
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| Refusal::Internal("password checks ended".into()))?;
        drop(room);
        if known() {
            // Another request of the device was checked while this one waited.
            self.metrics.login(Login::Known).inc();
            return Ok(());
        }
        // And others may have been wrong meanwhile: guesses that come all at once are no more than those that come in a row.
        self.may_try(claim, now)?;
        let checked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        let proven = checked.await.map_err(|error| {
            tracing::error!(%error, "the check of a password failed: {error}");
            Refusal::Internal("the check of a password".into())
        })??;
        let Some(until) = proven else {
            self.note_wrong(claim, now);
            return Err(Refusal::WrongCredentials);
        };
        if let (Some(device), Some(key)) = (device, &claim.key) {
            self.remember(key, claim, device, until, now);
        }
        Ok(())
    }

    /// What a tag is made of: a device that was removed and added again has another ordinal, changed credentials another generation.
    fn message(claim: &Claim, device: &Device) -> Vec<u8> {
        let tenant = claim.key.as_ref().map_or(u16::MAX, |key| key.tenant.0);
        let mut message = Vec::with_capacity(10 + claim.password.0.len());
        message.extend(tenant.to_be_bytes());
        message.extend(device.ordinal.to_be_bytes());
        message.extend(device.credential_generation.to_be_bytes());
        message.extend(claim.password.0.as_bytes());
        message
    }

    fn knows(&self, claim: &Claim, device: &Device, now: Timestamp) -> bool {
        let Some(key) = &claim.key else { return false };
        let known = self.known.lock();
        // The comparison takes the same time wherever the first difference is.
        known
            .get(key)
            .is_some_and(|known| now < known.until && hmac::verify(&self.key, &Self::message(claim, device), known.tag.as_ref()).is_ok())
    }

    fn remember(&self, key: &DeviceKey, claim: &Claim, device: &Device, until: Timestamp, now: Timestamp) {
        self.metrics.login(Login::Checked).inc();
        let known = Known {
            tag: hmac::sign(&self.key, &Self::message(claim, device)),
            until: until.min(now.plus(self.known_for)),
        };
        self.known.lock().put(key.clone(), known);
        self.wrong.lock().remove(key);
    }

    fn may_try(&self, claim: &Claim, now: Timestamp) -> Result<(), Refusal> {
        let wrong = claim.key.as_ref().and_then(|key| self.wrong.lock().get(key).copied());
        match wrong {
            Some(wrong) if wrong.times >= self.wrong_max && now < wrong.since.plus(WRONG_WITHIN) => {
                self.metrics.login(Login::Refused).inc();
                let retry_after = wrong.since.plus(WRONG_WITHIN).since(now);
                Err(Refusal::TooManyWrong { retry_after })
            }
            _ => Ok(()),
        }
    }

    fn note_wrong(&self, claim: &Claim, now: Timestamp) {
        self.metrics.login(Login::Wrong).inc();
        let Some(key) = &claim.key else { return };
        let mut all = self.wrong.lock();
        let mut wrong = match all.get(key) {
            Some(wrong) if now < wrong.since.plus(WRONG_WITHIN) => *wrong,
            _ => Wrong { since: now, times: 0 },
        };
        wrong.times = wrong.times.saturating_add(1);
        all.put(key.clone(), wrong);
    }
}

/// The passwords of a device.
fn secrets(device: &Device) -> Vec<ScramSecret> {
    device.credentials.iter().filter_map(Credential::scram).cloned().collect()
}

/// A secret that no password has, where no device has any.
fn nobodys() -> ScramSecret {
    ScramSecret {
        sha256: ScramVerifier {
            salt: vec![0; 16],
            iterations: 10_000,
            stored_key: vec![0; 32],
            server_key: vec![0; 32],
        },
        sha1: None,
    }
}
