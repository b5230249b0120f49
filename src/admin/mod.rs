//! The operator's door: metrics, health, readiness and a live page, on a listener of its own.
//!
//! The page is made of the files in `page/` and of server-sent events; its figures are those of `/metrics`, so they agree.
//!
//! What is deliberately absent: any change of state. On loopback it needs no key; beyond loopback `app` puts the auth layer
//! before all but [`probes`]: who asks for these, a balancer or an orchestrator, can often not be given a key.

mod assets;
mod figures;
mod gauges;
mod health;
mod history;
mod live;
mod snapshot;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::future::BoxFuture;
use tracing::error;

pub use gauges::StoreGauges;
pub use health::Check;
pub use live::{Live, VIEWERS_MAX};

use crate::{
    domain::Clock,
    telemetry::{Metrics, TEXT_FORMAT},
};

/// Makes the report of the last 24 hours as JSON, in the form of `GET /v1/reports/polling-avoided`. Asked for once a minute
/// while somebody watches the page. `None`: it cannot be made now, and why is in the log.
pub type DayReport = Arc<dyn Fn() -> BoxFuture<'static, Option<serde_json::Value>> + Send + Sync>;

/// What the door shows. Cheap to clone.
#[derive(Clone)]
pub struct AdminState {
    /// All metrics of the process.
    pub metrics: Metrics,
    /// Answers at each request what the service needs to take traffic: store, listeners, not draining. It must not block.
    pub readiness: Arc<dyn Fn() -> Vec<Check> + Send + Sync>,
    /// The XMPP domain of the default tenant.
    pub domain: Arc<str>,
    /// This node.
    pub node: Arc<str>,
    /// The time of the page's figures.
    pub clock: Arc<dyn Clock>,
    /// What the page shows of the last 24 hours.
    pub report: DayReport,
}

/// `/healthz` and `/readyz`: whether it lives, and whether it takes traffic. They hold no secret.
pub fn probes(state: AdminState) -> Router {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .with_state(state)
}

/// `/metrics`, and the page at `/` with its figures at `/live`.
pub fn routes(state: AdminState, live: &Live) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .with_state(state)
        .merge(assets::routes())
        .merge(Router::new().route("/live", get(live::live)).with_state(live.shared()))
}

async fn metrics(State(state): State<AdminState>) -> Response {
    match state.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            error!(%error, "the metrics have no text form");
            (StatusCode::INTERNAL_SERVER_ERROR, "the metrics have no text form; see the log\n").into_response()
        }
    }
}
