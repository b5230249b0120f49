//! Events in: `POST /v1/events`. Parses once, checks everything, and answers once the event is durable.
//!
//! An event is native JSON (`native`) or a CloudEvent, structured or binary (`cloudevents`). Both become a `draft::Draft`, and that
//! becomes the stored event with its idempotency key. Whatever is refused has stored nothing. `many` takes several in one request, as
//! a batch or as NDJSON.
//!
//! What is deliberately absent: looking for the device's session. The store answers who holds the seat in the step that stores the
//! event, and the dispatcher follows the store.

mod accept;
mod admission;
mod cloudevents;
mod draft;
mod events;
mod many;
mod native;
mod openapi;
mod options;
mod rates;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
};

use axum::{Router, middleware, routing::post};
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use serde::{Deserialize, Serialize};

pub use accept::CountEnded;
pub use openapi::operations;
pub use rates::{Config as RatesConfig, LiveNodes, Rates};

use self::{accept::Accepted, admission::Admission};
use crate::{
    domain::{Clock, DeliveryState, Durability, Limits, Refusal},
    http::Shed,
    store::Store,
};

/// How many requests are admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Events of requests with one that may wait for the store at once; one more is answered 429 `overloaded`. Default: 1024.
    pub in_flight_max: usize,
    /// Events of requests with many that may: a batch, or NDJSON, is read more slowly when there is no room for more. Default: 2048.
    pub in_flight_many_max: usize,
    /// Bytes that requests may hold meanwhile; more is answered 429 `overloaded`. A request of NDJSON counts with 2 MiB, the others
    /// with what they have. Default: 134217728.
    pub in_flight_max_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            in_flight_max: 1_024,
            in_flight_many_max: 2_048,
            in_flight_max_bytes: 128 * 1024 * 1024,
        }
    }
}

/// What the ingress counts.
#[derive(Clone)]
pub struct IngressMetrics {
    accepted: [(Durability, IntCounter); 4],
    refused: Arc<HashMap<&'static str, IntCounter>>,
    scheduled: IntCounter,
}

impl IngressMetrics {
    /// Registers `unpoll_events_accepted_total{durability}`; repeats of an idempotency key are not counted;
    /// `unpoll_events_scheduled_total`; and `unpoll_events_refused_total{slug}`, for the events of batches and NDJSON; a request that is refused counts elsewhere.
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
        let refused = IntCounterVec::new(
            Opts::new(
                "unpoll_events_refused_total",
                "Events of batches and NDJSON that were refused one by one, by problem.",
            ),
            &["slug"],
        )?;
        registry.register(Box::new(accepted.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        let scheduled = IntCounter::new(
            "unpoll_events_scheduled_total",
            "Events that were accepted for later, by deliver_at. They are among the accepted ones, too.",
        )?;
        registry.register(Box::new(scheduled.clone()))?;
        let all = [Durability::Disk, Durability::Replicated, Durability::Primary, Durability::None];
        Ok(Self {
            accepted: all.map(|durability| (durability, accepted.with_label_values(&[durability.as_str()]))),
            refused: Arc::new(Refusal::SLUGS.map(|slug| (slug, refused.with_label_values(&[slug]))).into()),
            scheduled,
        })
    }

    fn accepted(&self, accepted: &Accepted) {
        for (_, counter) in self.accepted.iter().filter(|(known, _)| *known == accepted.durability) {
            counter.inc();
        }
        if accepted.state == DeliveryState::Scheduled {
            self.scheduled.inc();
        }
    }

    fn refused(&self, refusal: &Refusal) {
        if let Some(counter) = self.refused.get(refusal.face().slug) {
            counter.inc();
        }
    }
}

/// What the ingress stands on. Cheap to clone.
#[derive(Clone)]
pub struct IngressState(Arc<Parts>);

struct Parts {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    draining: Arc<AtomicBool>,
    metrics: IngressMetrics,
    ended: CountEnded,
    admission: Admission,
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
    /// `ended` is told how many deliveries the acceptance of an event ended.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        limits: Limits,
        config: Config,
        metrics: IngressMetrics,
        ended: CountEnded,
        throttle: Throttle,
    ) -> Self {
        Self(Arc::new(Parts {
            store,
            clock,
            limits,
            draining: throttle.draining.clone(),
            metrics,
            ended,
            admission: Admission::new(&config),
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
