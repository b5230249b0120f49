//! Device tokens at the doors: whose they are, and the device in the registry.

use std::sync::Arc;

use crate::{
    domain::{Cohort, DeviceId, Password, TenantId, Timestamp},
    store::{Device, DeviceChange, DeviceKey, Registered, Store, StoreError, Unread},
    tokens::{TokenError, Tokens, Valid},
};

/// The cohort of a device that nobody put into one.
pub type CohortOf = Arc<dyn Fn(TenantId, &DeviceId) -> Cohort + Send + Sync>;

/// Device tokens, as every door takes them. Cheap to clone.
#[derive(Clone)]
pub struct DeviceTokens {
    tokens: Tokens,
    cohort: CohortOf,
}

impl Default for DeviceTokens {
    /// Takes none.
    fn default() -> Self {
        Self {
            tokens: Tokens::default(),
            cohort: Arc::new(|_, _| Cohort::Push),
        }
    }
}

impl DeviceTokens {
    /// With those tokens; `cohort` says where a device goes that is added at its first login.
    pub fn new(tokens: Tokens, cohort: CohortOf) -> Self {
        Self { tokens, cohort }
    }

    /// Whether it is a token, and no password.
    pub(super) fn takes(&self, password: &Password) -> bool {
        self.tokens.takes(&password.0)
    }

    /// Whom a token says it is of, unchecked.
    pub(super) fn claimed(&self, token: &str) -> Option<DeviceKey> {
        let (tenant, device) = self.tokens.claimed(token)?;
        Some(DeviceKey { tenant, device })
    }

    /// Checks that the token is the one of that device. Costs up to 0.1 ms of CPU: keep it off the event loop.
    ///
    /// # Errors
    /// Why it is not taken.
    pub(super) fn check(&self, key: &DeviceKey, token: &Password, now: Timestamp) -> Result<Valid, TokenError> {
        let valid = self.tokens.check(key.tenant, &token.0, now)?;
        if valid.device != key.device {
            return Err(TokenError::Subject);
        }
        Ok(valid)
    }

    /// What is to be judged of a device whose token was found valid while its row could not be read.
    pub(super) fn unread(&self, key: &DeviceKey) -> Unread {
        Unread {
            register: self.tokens.registers().then(|| (self.cohort)(key.tenant, &key.device)),
            certificate: None,
        }
    }

    /// The device, once its token was found valid: added now, if it never was and the settings say so. `None`: it was removed,
    /// which a token does not undo, or it is not known.
    pub(super) async fn device(&self, store: &dyn Store, key: &DeviceKey, now: Timestamp) -> Result<Option<Device>, StoreError> {
        match store.device_for_login(key).await? {
            Registered::Present(device) => Ok(Some(*device)),
            Registered::Unknown if self.tokens.registers() => {
                let change = DeviceChange {
                    cohort: Some((self.cohort)(key.tenant, &key.device)),
                    ..DeviceChange::default()
                };
                let (device, is_new) = store.put_device(key, change, true, now).await?;
                if is_new {
                    tracing::debug!(device.id = %key.device, "the device {} was added at its first login with a token", key.device);
                }
                Ok(Some(device))
            }
            Registered::Removed(_) | Registered::Unknown => Ok(None),
        }
    }
}
