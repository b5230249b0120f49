//! What the HTTP listeners count.

use std::{collections::HashMap, sync::Arc, time::Duration};

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

use crate::domain::Refusal;

/// The label of a request whose path nobody serves.
const OTHER: &str = "other";

/// The paths that have a label of their own, as the parts write them.
pub const ROUTES: [&str; 32] = [
    "/.well-known/host-meta",
    "/.well-known/host-meta.json",
    "/docs",
    "/docs/style.css",
    "/openapi.json",
    "/problems/{slug}",
    "/v1/audit",
    "/v1/events",
    "/v1/events/{id}",
    "/v1/events/{id}/deliveries",
    "/v1/devices",
    "/v1/devices/{id}",
    "/v1/devices/{id}/acks",
    "/v1/devices/{id}/deliveries",
    "/v1/devices/{id}/events",
    "/v1/devices/{id}/presence",
    "/v1/export",
    "/v1/import",
    "/v1/keys",
    "/v1/keys/{id}",
    "/v1/limits",
    "/v1/presence",
    "/v1/presence/stream",
    "/v1/receipts",
    "/v1/reports/polling-avoided",
    "/v1/tenants",
    "/v1/tenants/{name}",
    "/v1/webhooks",
    "/v1/webhooks/{id}",
    "/v1/webhooks/{id}/dead-letters",
    "/xmpp-websocket",
    OTHER,
];

/// Requests and refusals. Cheap to clone.
#[derive(Clone)]
pub struct HttpMetrics {
    duration: Arc<HashMap<&'static str, Histogram>>,
    refusals: Arc<HashMap<&'static str, IntCounter>>,
    written: IntCounter,
    unwritten: IntCounter,
}

impl HttpMetrics {
    /// Registers `unpoll_request_duration_seconds{route}`, `unpoll_refusals_total{slug}` and `unpoll_audit_entries_total{result}`.
    ///
    /// # Errors
    /// When one of them is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "unpoll_request_duration_seconds",
                "Time from the head of a request to the head of its answer, in seconds.",
            )
            .buckets(vec![0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0]),
            &["route"],
        )?;
        let refusals = IntCounterVec::new(
            Opts::new("unpoll_refusals_total", "Requests that were refused, by problem."),
            &["slug"],
        )?;
        let audit = IntCounterVec::new(
            Opts::new(
                "unpoll_audit_entries_total",
                "Administrative changes with their outcome in the audit log (written), and those that were answered with 503 because they could \
                 not be written there (failed).",
            ),
            &["result"],
        )?;
        registry.register(Box::new(audit.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(refusals.clone()))?;
        Ok(Self {
            written: audit.with_label_values(&["written"]),
            unwritten: audit.with_label_values(&["failed"]),
            duration: Arc::new(ROUTES.map(|route| (route, duration.with_label_values(&[route]))).into()),
            refusals: Arc::new(Refusal::SLUGS.map(|slug| (slug, refusals.with_label_values(&[slug]))).into()),
        })
    }

    /// A change is in the audit log, or could not be written there.
    pub(super) fn audited(&self, ok: bool) {
        if ok { self.written.inc() } else { self.unwritten.inc() }
    }

    pub(super) fn answered(&self, route: Option<&str>, slug: Option<&str>, took: Duration) {
        let histogram = route
            .and_then(|route| self.duration.get(route))
            .or_else(|| self.duration.get(OTHER));
        if let Some(histogram) = histogram {
            histogram.observe(took.as_secs_f64());
        }
        if let Some(counter) = slug.and_then(|slug| self.refusals.get(slug)) {
            counter.inc();
        }
    }
}
