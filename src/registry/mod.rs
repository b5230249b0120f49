//! The registry's interface: devices with their credentials, keys, tenants, what was changed by whom, and the limits.
//!
//! A device's password is turned into SCRAM verifiers at once, off the event loop and a bounded number at a time; neither it nor
//! they are ever shown. A key is shown once, when it is made; the store has its hash.
//!
//! What is deliberately absent: presence (it has a part of its own), and deliveries (`receipts`).

mod audit;
mod bulk;
mod callers;
mod credentials;
mod devices;
mod form;
mod keys;
mod limits;
mod openapi;
mod rates;
mod tenants;
mod uses;

use std::{num::NonZeroUsize, sync::Arc};

use axum::{Router, routing::get};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

pub use callers::{caller, tenant_named, within};
pub use keys::{GRACE_MAX_SECS as KEY_GRACE_MAX_SECS, new_key, new_key_id};
pub use limits::CallersLimits;
pub use openapi::operations;
pub use tenants::Certified;
pub use uses::KeyUses;

use crate::{
    domain::{Clock, Cohort, DeviceId, Epoch, Limits, TenantId, stable_hash},
    store::Store,
};

/// How the registry takes devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// PBKDF2 rounds for a password that a person may have chosen. Default: 10000; 4096 to 10000 are taken. A generated secret (32
    /// hexadecimal digits, or 22 letters of both cases and digits) gets 4096: it cannot be guessed, and each round costs the box.
    pub scram_iterations: u32,
    /// Bulk requests of devices at once; one more is answered 429. Default: 4.
    pub bulk_max_requests: usize,
    /// Percent of the devices added without a cohort that are put into cohort `control`, by a stable hash of tenant and id; the
    /// rest are of cohort `push`. 0 to 100, fractions too. Default: 0.
    pub control_percent: f64,
    /// How long the secret of a key goes on behind a newer one, when the request does not say, in seconds. At most 2592000 (30 days).
    /// Default: 86400 (1 day).
    pub key_grace_secs: u64,
    /// Mixed into that hash: another salt draws another control cohort. Devices that are there stay in their cohort until they are
    /// put again. Default: "".
    pub cohort_salt: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scram_iterations: credentials::ITERATIONS_MAX,
            bulk_max_requests: 4,
            control_percent: 0.0,
            key_grace_secs: 86_400,
            cohort_salt: String::new(),
        }
    }
}

impl Config {
    /// The cohort of a device that nobody put into one.
    pub fn cohort(&self, tenant: TenantId, device: &DeviceId) -> Cohort {
        // Evenly in [0, 1).
        let place = (stable_hash("cohort", &self.cohort_salt, tenant, device) >> 11) as f64 / (1_u64 << 53) as f64;
        if place * 100.0 < self.control_percent {
            Cohort::Control
        } else {
            Cohort::Push
        }
    }
}

/// Ends the session of a removed device, if it has that epoch.
pub type EndSession = Arc<dyn Fn(TenantId, &DeviceId, Epoch) + Send + Sync>;

/// What the registry's interface stands on. Cheap to clone.
#[derive(Clone)]
pub struct RegistryState(Arc<Parts>);

struct Parts {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    config: Config,
    end_session: EndSession,
    uses: KeyUses,
    /// Passwords that are being turned into verifiers: as many as the machine has cores.
    derivations: Arc<Semaphore>,
    bulks: Semaphore,
}

impl RegistryState {
    /// `end_session` is called after a device was removed whose seat was held; `uses` knows what the store does not know yet.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        limits: Limits,
        config: Config,
        end_session: EndSession,
        uses: KeyUses,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self(Arc::new(Parts {
            store,
            clock,
            limits,
            end_session,
            uses,
            derivations: Arc::new(Semaphore::new(cores)),
            bulks: Semaphore::new(config.bulk_max_requests),
            config,
        }))
    }
}

/// `/v1/devices`, `/v1/keys`, `/v1/tenants`, `/v1/audit` and `/v1/limits`, to be mounted behind the gate.
pub fn routes(state: RegistryState) -> Router {
    Router::new()
        .route("/v1/devices", get(devices::list).post(bulk::post))
        .route(
            "/v1/devices/{id}",
            get(devices::show).put(devices::put).patch(devices::patch).delete(devices::remove),
        )
        .route("/v1/keys", get(keys::list).post(keys::create))
        .route("/v1/keys/{id}", axum::routing::delete(keys::revoke).post(keys::rotate))
        .route("/v1/audit", get(audit::list))
        .route("/v1/limits", get(limits::limits))
        .route("/v1/tenants", get(tenants::list))
        .route("/v1/tenants/{name}", get(tenants::show).put(tenants::put).delete(tenants::remove))
        .with_state(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_cohort_is_drawn_by_hash_and_drawn_anew_by_salt() {
        let drawn = |control_percent, salt: &str| -> Vec<bool> {
            let config = Config {
                control_percent,
                cohort_salt: salt.to_owned(),
                ..Config::default()
            };
            let of = |n: u32| {
                let device = format!("tsn-{n}").parse().expect("a device id");
                config.cohort(TenantId(0), &device) == Cohort::Control
            };
            (0..20_000).map(of).collect()
        };
        let count = |drawn: &[bool]| drawn.iter().filter(|control| **control).count();
        let both = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|(a, b)| **a && **b).count();
        assert_eq!(count(&drawn(0.0, "")), 0);
        assert_eq!(count(&drawn(100.0, "")), 20_000);
        let first = drawn(2.5, "");
        assert!((430..570).contains(&count(&first)), "{}", count(&first));
        assert_eq!(first, drawn(2.5, ""));
        // A larger share keeps those that are in it; another salt has few in common.
        assert_eq!(both(&first, &drawn(5.0, "")), count(&first));
        assert!(both(&first, &drawn(2.5, "b")) < 40);
    }
}
