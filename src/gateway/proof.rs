//! What a login shows: passwords, tokens and certificates, held against the registry.

use super::{
    certificate,
    login::{Facts, Progress, SLOWED_MAX},
    metrics::Login,
};
use crate::{
    domain::{Credential, DeviceId, FastChange, FastTokens, Password, ScramSecret},
    store::{Device, DeviceKey, Registered, Store, StoreError, Unread},
    tokens::{TokenError, Valid},
    xmpp::{Credentials, Pinned},
};

/// The mechanism by which a password or a token is shown as it is.
const PLAIN: &str = "PLAIN";
/// Devices looked at for one with a secret.
const NEIGHBOURS: usize = 8;

impl Progress<'_> {
    pub(super) async fn find(&mut self, key: DeviceKey, tokens: bool) -> Option<Credentials> {
        (self.unavailable, self.unread) = (None, None);
        self.tries = Some((key.clone(), self.tries.take().map_or(0, |(_, tries)| tries) + 1));
        if let Some(wait) = self.connection.shared.wait_for_guesses(&key, SLOWED_MAX) {
            self.within(tokio::time::sleep(wait)).await?;
        }
        let store = self.connection.shared.store.clone();
        let found = self.look_up(&key, tokens, &*store).await?;
        if tokens {
            return Some(found);
        }
        let secretless =
            matches!(&found, Credentials::Unknown { .. }) || matches!(&found, Credentials::Found { secrets, .. } if secrets.is_empty());
        if !secretless {
            return Some(found);
        }
        let like = self.within(neighbour(&*store, &key)).await?;
        Some(Credentials::Unknown { like })
    }

    async fn look_up(&mut self, key: &DeviceKey, tokens: bool, store: &dyn Store) -> Option<Credentials> {
        let read = async {
            let registered = store.device_for_login(key).await?;
            let tokens = match &registered {
                Registered::Present(device) if tokens => store.fast_tokens(key, device.credential_generation).await?,
                _ => FastTokens::default(),
            };
            Ok::<_, StoreError>((registered, tokens))
        };
        Some(match self.within(read).await? {
            Ok((Registered::Present(device), tokens)) => {
                self.facts = Facts::of(&device);
                Credentials::Found {
                    secrets: device.credentials.iter().filter_map(Credential::scram).cloned().collect(),
                    generation: device.credential_generation,
                    tokens,
                }
            }
            Ok((Registered::Removed(_) | Registered::Unknown, _)) => Credentials::Unknown { like: None },
            Err(error) => {
                if self.mechanism == Some(PLAIN) {
                    // It may be a token, which is checked without the store.
                    self.unavailable = Some(error);
                } else {
                    self.put_off(&key.device, &error);
                }
                Credentials::Unavailable
            }
        })
    }

    /// A login that is to be tried again later.
    pub(super) fn put_off(&self, device: &DeviceId, error: &StoreError) {
        tracing::warn!(device.id = %device, error = %error, "{device} cannot log in, the store does not answer: {error}");
        self.connection.shared.metrics.login(Login::Unavailable);
    }

    /// Checks a password off the event loop. `None`: the check failed by a bug.
    pub(super) async fn check(&self, password: Password, secrets: Vec<ScramSecret>) -> Option<bool> {
        let _permit = self.connection.shared.password_checks.acquire().await.ok()?;
        let check = tokio::task::spawn_blocking(move || secrets.iter().any(|secret| secret.matches(&password)));
        let checked = check.await;
        if let Err(error) = &checked {
            tracing::error!(%error, "the check of a password failed: {error}");
        }
        checked.ok()
    }

    /// Looks up which certificates the device may show.
    pub(super) async fn check_certificate(&mut self, key: DeviceKey, sha256: [u8; 32]) {
        let shared = &self.connection.shared;
        self.unread = None;
        let Some(found) = self.within(shared.store.device_for_login(&key)).await else {
            return;
        };
        let pinned = match found {
            Ok(Registered::Present(device)) => {
                self.facts = Facts::of(&device);
                certificate::pinned(&device, sha256)
            }
            Ok(Registered::Removed(_) | Registered::Unknown) => Pinned::Unknown,
            Err(StoreError::Unavailable(_)) if shared.store.seats_unread() => {
                self.unread = Some(Unread {
                    register: None,
                    certificate: Some(sha256),
                });
                Pinned::Unread
            }
            Err(error) => {
                self.put_off(&key.device, &error);
                Pinned::Unavailable
            }
        };
        self.tell(|state, now| state.stream.certificate_checked(pinned, now));
    }

    /// A token instead of a password: checked by the issuer's keys, then the device is looked up, or added.
    pub(super) async fn check_token(&mut self, key: DeviceKey, token: Password) {
        let shared = &self.connection.shared;
        let Some(checked) = self.within(self.valid(key.clone(), token)).await else {
            return;
        };
        let answer = match checked {
            Some(Ok(_)) => {
                let found = match self.unavailable.take() {
                    Some(error) => Some(Err(error)),
                    None => {
                        let found = shared.tokens.device(&*shared.store, &key, shared.clock.now());
                        self.within(found).await
                    }
                };
                match found {
                    None => return,
                    Some(Err(StoreError::Unavailable(_))) if shared.store.seats_unread() => {
                        self.unread = Some(shared.tokens.unread(&key));
                        return self.tell(|state, now| state.stream.token_accepted(0, now));
                    }
                    Some(found) => found.map_err(|error| self.put_off(&key.device, &error)),
                }
            }
            Some(Err(TokenError::NoKeys)) | None => Err(()),
            Some(Err(error)) => {
                tracing::debug!(device.id = %key.device, client.address = %self.connection.client, "a token of {} was refused: {error}", key.device);
                Ok(None)
            }
        };
        match answer {
            Ok(Some(device)) => {
                self.facts = Facts::of(&device);
                self.tell(|state, now| state.stream.token_accepted(device.credential_generation, now));
            }
            Ok(None) => self.tell(|state, now| state.stream.password_checked(Some(false), now)),
            Err(()) => self.tell(|state, now| state.stream.password_checked(None, now)),
        }
    }

    /// Checks a token off the event loop. `None`: the check failed by a bug.
    async fn valid(&self, key: DeviceKey, token: Password) -> Option<Result<Valid, TokenError>> {
        let shared = &self.connection.shared;
        let _permit = shared.password_checks.acquire().await.ok()?;
        let (tokens, now) = (shared.tokens.clone(), shared.clock.now());
        let checked = tokio::task::spawn_blocking(move || tokens.check(&key, &token, now)).await;
        if let Err(error) = &checked {
            tracing::error!(%error, "the check of a token failed: {error}");
        }
        checked.ok()
    }

    /// Gives out or takes back FAST tokens where no claim takes it along.
    pub(super) async fn change_tokens(&self, key: &DeviceKey, generation: u32, change: FastChange) {
        // Not cut short: a token that was stored is to be given out.
        let changed = self.connection.shared.store.change_fast_tokens(key, generation, change).await;
        if let Err(error) = &changed {
            tracing::warn!(device.id = %key.device, error = %error, "{} gets no FAST token: {error}", key.device);
        }
        self.tell(|state, now| state.stream.tokens_changed(changed.is_ok(), now));
    }
}

/// How often the device polls, in seconds, where its backend says so.
pub(super) fn poll_interval_secs(device: &Device) -> Option<u32> {
    let secs = device.attributes.get("poll_interval_secs")?.as_u64()?;
    u32::try_from(secs).ok().filter(|secs| *secs > 0)
}

/// A secret of a device that is always the same for that name: what a name that is no device's pretends to have. It is the same at
/// every try, and as mixed as the secrets of the devices are.
pub(super) async fn neighbour(store: &dyn Store, key: &DeviceKey) -> Option<ScramSecret> {
    // A registry that cannot be read shows in the look-up of real devices, too.
    let devices = store.neighbours(key, NEIGHBOURS).await.unwrap_or_default();
    let secrets: Vec<Credential> = devices.into_iter().flat_map(|device| device.credentials).collect();
    secrets.iter().find_map(Credential::scram).cloned()
}
