//! The door for devices that still poll: plain HTTP, the same mailbox.
//!
//! `GET /v1/devices/{id}/events` shows what waits behind a cursor, also what is written to a session and not acknowledged;
//! `POST /v1/devices/{id}/acks` ends deliveries, each with the fate and the receipt that it would have had by XMPP. A device
//! logs in with HTTP Basic or its token at every request. A poll takes no seat, so presence does not see it, and a device may change
//! between polls and a session at any moment: an event leaves the queue by whichever acknowledgement comes first.
//!
//! What is deliberately absent: any state of a device. Its cursor is in its own hands, sealed by ids of the store.

mod acks;
mod config;
mod credentials;
mod cursor;
mod events;
mod metrics;
mod page;
mod recent;
mod tab;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    routing::{get, post},
};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

pub(super) use acks::OUTCOMES_MAX;
pub use config::Config;
pub use metrics::PollMetrics;

use self::credentials::Logins;
use super::{DeviceTokens, Hosts, Links};
use crate::{
    domain::{Clock, DeviceSignal, Outcome, PollMeter, Urgency},
    store::Store,
};

/// Counts a delivery that a device ended: how, how urgent it was, and how long it took from acceptance.
pub type CountEnded = Arc<dyn Fn(Outcome, Urgency, Duration) + Send + Sync>;

/// What the door is made of.
pub struct Parts {
    /// Queues and credentials.
    pub store: Arc<dyn Store>,
    /// Sessions, which are told what was acknowledged here.
    pub links: Arc<dyn Links>,
    /// Where the dispatcher listens.
    pub signals: mpsc::Sender<DeviceSignal>,
    /// The ledger.
    pub meter: Arc<dyn PollMeter>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Made with [`PollMetrics::register`].
    pub metrics: PollMetrics,
    /// Takes device tokens.
    pub tokens: DeviceTokens,
    /// Which tenant a domain belongs to.
    pub hosts: Hosts,
    /// The poll interval of a device that has none of its own, in seconds.
    pub interval_secs: u32,
    /// Told of every delivery that ended here.
    pub ended: CountEnded,
    /// Ends every wait.
    pub stop: CancellationToken,
}

/// The door. Cheap to clone.
#[derive(Clone)]
pub struct Door(Arc<Shared>);

struct Shared {
    config: Config,
    parts: Parts,
    logins: Logins,
    waits: Semaphore,
}

impl Door {
    /// A door that is not mounted yet.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new(config: Config, parts: Parts) -> Result<Self, aws_lc_rs::error::Unspecified> {
        Ok(Self(Arc::new(Shared {
            logins: Logins::new(&config, parts.metrics.clone())?,
            waits: Semaphore::new(config.waits_max.min(Semaphore::MAX_PERMITS)),
            config,
            parts,
        })))
    }
}

/// A device's own paths, to be mounted beside the gate: they authenticate by themselves.
pub fn routes(door: Door) -> Router {
    Router::new()
        .route("/v1/devices/{id}/events", get(events::poll))
        .route("/v1/devices/{id}/acks", post(acks::acknowledge))
        .with_state(door)
}
