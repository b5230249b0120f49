//! Events in: `POST /v1/events`. Parses once, checks everything, and answers once the event is durable.
//!
//! One event for one device, as native JSON (`native`) or as a CloudEvent, structured or binary (`cloudevents`). Both become
//! a `draft::Draft`, and that becomes the stored event with its idempotency key. Whatever is refused has stored nothing.
//!
//! What is deliberately absent: looking for the device's session. The store answers who holds the seat in the step that stores the
//! event, and the dispatcher follows the store.

mod cloudevents;
mod draft;
mod events;
mod native;
mod options;
mod rates;

use std::sync::{Arc, atomic::AtomicBool};

use axum::{Router, middleware, routing::post};
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

pub use rates::{Config as RatesConfig, LiveNodes, Rates};

use crate::{
    domain::{Clock, Durability, Limits},
    http::Shed,
    store::Store,
};

/// How many requests are admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Requests that may wait for the store at once; one more is answered 429 `overloaded`. Each holds at most one event. Default: 1024.
    pub in_flight_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { in_flight_max: 1_024 }
    }
}

/// What the ingress counts.
#[derive(Clone)]
pub struct IngressMetrics {
    accepted: [(Durability, IntCounter); 4],
}

impl IngressMetrics {
    /// Registers `unpoll_events_accepted_total{durability}`; repeats of an idempotency key are not counted.
    ///
    /// # Errors
    /// When it is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let accepted = IntCounterVec::new(
            Opts::new(
                "unpoll_events_accepted_total",
                "Events that were accepted, by the durability they were promised.",
            ),
            &["durability"],
        )?;
        registry.register(Box::new(accepted.clone()))?;
        let all = [Durability::Disk, Durability::Replicated, Durability::Primary, Durability::None];
        Ok(Self {
            accepted: all.map(|durability| (durability, accepted.with_label_values(&[durability.as_str()]))),
        })
    }

    fn accepted(&self, durability: Durability) {
        for (_, counter) in self.accepted.iter().filter(|(known, _)| *known == durability) {
            counter.inc();
        }
    }
}

/// Counts deliveries that ended because a newer event replaced them.
pub type CountReplaced = Arc<dyn Fn(u64) + Send + Sync>;

/// What the ingress stands on. Cheap to clone.
#[derive(Clone)]
pub struct IngressState(Arc<Parts>);

struct Parts {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    draining: Arc<AtomicBool>,
    metrics: IngressMetrics,
    replaced: CountReplaced,
    rooms: Semaphore,
    throttle: Throttle,
}

/// Who may post now.
#[derive(Clone)]
pub struct Throttle {
    /// From when it is true, every event is refused with 503 `draining`.
    pub draining: Arc<AtomicBool>,
    /// Limits in deliveries.
    pub rates: Rates,
    /// The queue before the store.
    pub shed: Shed,
}

impl IngressState {
    /// `replaced` is told how many deliveries an event ended.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        limits: Limits,
        config: Config,
        metrics: IngressMetrics,
        replaced: CountReplaced,
        throttle: Throttle,
    ) -> Self {
        Self(Arc::new(Parts {
            store,
            clock,
            limits,
            draining: throttle.draining.clone(),
            metrics,
            replaced,
            rooms: Semaphore::new(config.in_flight_max),
            throttle,
        }))
    }
}

/// `POST /v1/events`, to be mounted behind the gate.
pub fn routes(state: IngressState) -> Router {
    let rates = state.0.throttle.rates.clone();
    Router::new()
        .route("/v1/events", post(events::post))
        .layer(middleware::from_fn_with_state(rates, rates::tell))
        .with_state(state)
}
