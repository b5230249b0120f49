//! The registry's interface: devices with their credentials, keys, and the limits.
//!
//! A device's password is turned into SCRAM verifiers at once, off the event loop and a bounded number at a time; neither it nor
//! they are ever shown. A key is shown once, when it is made; the store has its hash.
//!
//! What is deliberately absent: presence (it has a part of its own), and deliveries (`receipts`).

mod bulk;
mod credentials;
mod devices;
mod form;
mod keys;
mod limits;

use std::{num::NonZeroUsize, sync::Arc};

use axum::{Router, routing::get};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

pub use keys::{new_key, new_key_id};

use crate::{
    domain::{Clock, DeviceId, Epoch, Limits, TenantId},
    store::Store,
};

/// How the registry takes devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// PBKDF2 rounds for a password that a person may have chosen. Default: 10000; 4096 to 10000 are taken. A generated secret (32
    /// hexadecimal digits, or 22 letters of both cases and digits) gets 4096: it cannot be guessed, and each round costs the box.
    pub scram_iterations: u32,
    /// Bulk requests of devices at once; one more is answered 429. Default: 4.
    pub bulk_max_requests: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scram_iterations: credentials::ITERATIONS_MAX,
            bulk_max_requests: 4,
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
    /// Passwords that are being turned into verifiers: as many as the machine has cores.
    derivations: Arc<Semaphore>,
    bulks: Semaphore,
}

impl RegistryState {
    /// `end_session` is called after a device was removed whose seat was held.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, limits: Limits, config: Config, end_session: EndSession) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self(Arc::new(Parts {
            store,
            clock,
            limits,
            end_session,
            derivations: Arc::new(Semaphore::new(cores)),
            bulks: Semaphore::new(config.bulk_max_requests),
            config,
        }))
    }
}

/// `/v1/devices`, `/v1/keys` and `/v1/limits`, to be mounted behind the gate.
pub fn routes(state: RegistryState) -> Router {
    Router::new()
        .route("/v1/devices", get(devices::list).post(bulk::post))
        .route(
            "/v1/devices/{id}",
            get(devices::show).put(devices::put).patch(devices::patch).delete(devices::remove),
        )
        .route("/v1/keys", get(keys::list).post(keys::create))
        .route("/v1/keys/{id}", axum::routing::delete(keys::revoke))
        .route("/v1/limits", get(limits::limits))
        .with_state(state)
}
