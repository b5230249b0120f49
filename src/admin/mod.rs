//! The operator's door: metrics, health, readiness and a page, on a listener of its own.
//!
//! What is deliberately absent: any change of state. On loopback it needs no key; beyond loopback `app` puts the auth layer
//! before it.

mod gauges;
mod health;
mod page;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tracing::error;

pub use gauges::StoreGauges;
pub use health::Check;

use crate::telemetry::{Metrics, TEXT_FORMAT};

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
}

/// `/metrics`, `/healthz`, `/readyz` and the page at `/`.
pub fn routes(state: AdminState) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .with_state(state)
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

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;
    use crate::{
        domain::{ManualClock, Timestamp},
        store::StoreStats,
    };

    fn door(stats: StoreStats, checks: Vec<Check>) -> Router {
        let metrics = Metrics::new().expect("no metric twice");
        let clock = ManualClock::at(Timestamp(1_000_000));
        StoreGauges::register(metrics.registry(), Arc::new(move || stats), Arc::new(|| 3), clock).expect("registered");
        routes(AdminState {
            metrics,
            readiness: Arc::new(move || checks.clone()),
            domain: "push.example".into(),
            node: "n<1>".into(),
        })
    }

    async fn get(door: Router, path: &str) -> (u16, String, String) {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = door.oneshot(request).await.expect("an answer");
        let kind = response.headers()["content-type"].to_str().expect("text").to_owned();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, kind, String::from_utf8(body.to_vec()).expect("UTF-8"))
    }

    fn stats() -> StoreStats {
        StoreStats {
            queued: Some(12_345),
            oldest_queued_at: Some(Timestamp(400_000)),
            devices: 7,
            disk_bytes: 5_000,
            free_bytes: 6_000,
            writable: true,
            ..StoreStats::default()
        }
    }

    #[tokio::test]
    async fn metrics_show_the_store_as_it_is_now() {
        let (status, kind, text) = get(door(stats(), vec![]), "/metrics").await;
        assert_eq!((status, kind.as_str()), (200, TEXT_FORMAT));
        for line in [
            "unpoll_queue_depth 12345",
            "unpoll_oldest_queued_seconds 600",
            "unpoll_devices 7",
            "unpoll_store_disk_bytes 5000",
            "unpoll_store_free_bytes 6000",
            "unpoll_store_writable 1",
            "unpoll_missed_arrivals_total 3",
            "# TYPE unpoll_missed_arrivals_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in {text}");
        }
    }

    #[tokio::test]
    async fn what_the_store_has_not_counted_yet_is_not_a_number() {
        let (_, _, text) = get(door(StoreStats::default(), vec![]), "/metrics").await;
        for line in [
            "unpoll_queue_depth NaN",
            "unpoll_oldest_queued_seconds NaN",
            "unpoll_store_writable 0",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in {text}");
        }
    }

    #[tokio::test]
    async fn one_failed_check_makes_the_service_not_ready_but_alive() {
        let good = Check::new("listeners", true, "5 listen");
        let bad = Check::new("store", false, "no space");
        let (status, _, text) = get(door(stats(), vec![good.clone()]), "/readyz").await;
        assert_eq!(status, 200);
        assert_eq!(
            text,
            r#"{"status":"ready","checks":[{"name":"listeners","ok":true,"detail":"5 listen"}]}"#
        );
        let failing = door(stats(), vec![good, bad]);
        let (status, _, text) = get(failing.clone(), "/readyz").await;
        assert_eq!(status, 503);
        assert!(
            text.starts_with(r#"{"status":"not-ready""#) && text.contains(r#""ok":false,"detail":"no space""#),
            "{text}"
        );
        assert_eq!(
            get(failing, "/healthz").await,
            (200, "application/json".into(), r#"{"status":"ok"}"#.into())
        );
    }

    #[tokio::test]
    async fn the_page_shows_the_figures_and_needs_nothing_from_outside() {
        let (status, kind, text) = get(door(stats(), vec![Check::new("store", false, "no <space>")]), "/").await;
        assert_eq!((status, kind.as_str()), (200, "text/html; charset=utf-8"));
        assert!(
            text.contains("12,345") && text.contains("href=\"/metrics\"") && text.contains("push.example"),
            "{text}"
        );
        assert!(
            text.contains("no &lt;space&gt;") && text.contains("n&lt;1&gt;"),
            "texts are escaped"
        );
        assert!(
            !text.contains("<script") && !text.contains("http://") && !text.contains("https://"),
            "{text}"
        );
    }
}
