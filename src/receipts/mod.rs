//! Outcomes back to backends: what became of an event, of its deliveries, and of everything sent to a device.
//!
//! What is deliberately absent: any state of its own. The store has the states; `dispatched` (written to a live session) is
//! known to the session alone, and asked of it at each request.

mod config;
mod cursor;
mod events;
mod fate;
mod follow;
mod metrics;
mod openapi;
mod rooms;
mod row;
mod stream;
mod view;

use std::{collections::HashSet, sync::Arc};

use axum::{Router, routing::get};
use futures_util::future::BoxFuture;

pub use openapi::operations;

use crate::{
    domain::{Clock, EventId, Limits},
    store::{DeviceKey, Store},
};

pub use config::Config;
pub use metrics::ReceiptMetrics;
pub use stream::Stream;

/// Which of those events are written to the live session of their device, wherever it is, and not acknowledged yet.
pub type Dispatched = Arc<dyn Fn(DeviceKey, Vec<EventId>) -> BoxFuture<'static, HashSet<EventId>> + Send + Sync>;

/// Counts deliveries that ended because their backend took them back.
pub type CountCancelled = Arc<dyn Fn(u64) + Send + Sync>;

/// What the receipts stand on. Cheap to clone.
#[derive(Clone)]
pub struct ReceiptsState(Arc<Parts>);

struct Parts {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    dispatched: Dispatched,
    cancelled: CountCancelled,
}

impl ReceiptsState {
    /// `dispatched` is asked about events that wait; `cancelled` is told of every delivery that a DELETE ended.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, limits: Limits, dispatched: Dispatched, cancelled: CountCancelled) -> Self {
        Self(Arc::new(Parts {
            store,
            clock,
            limits,
            dispatched,
            cancelled,
        }))
    }
}

/// `/v1/events/{id}`, its deliveries, and the deliveries of a device, to be mounted behind the gate.
pub fn routes(state: ReceiptsState) -> Router {
    Router::new()
        .route("/v1/events/{id}", get(events::event).delete(events::cancel))
        .route("/v1/events/{id}/deliveries", get(events::deliveries))
        .route("/v1/devices/{id}/deliveries", get(events::timeline))
        .with_state(state)
}
