//! What the HTTP listeners count.

use std::{collections::HashMap, sync::Arc, time::Duration};

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::domain::Refusal;

/// The label of a request whose path nobody serves.
const OTHER: &str = "other";

/// Requests, refusals and connections. Cheap to clone.
#[derive(Clone)]
pub struct HttpMetrics {
    duration: Arc<HashMap<&'static str, Histogram>>,
    refusals: Arc<HashMap<&'static str, IntCounter>>,
    /// Connections that are open now, all listeners together.
    pub(super) connections: IntGauge,
    /// Connections that found no room.
    pub(super) turned_away: IntCounter,
}

impl HttpMetrics {
    /// Registers `unpoll_request_duration_seconds{route}`, `unpoll_refusals_total{slug}`, `unpoll_http_connections` and
    /// `unpoll_http_turned_away_total`. `routes` are the paths of all parts, as the parts' `ROUTES` name them.
    ///
    /// # Errors
    /// When one of them is registered already.
    pub fn register(registry: &Registry, routes: &[&'static str]) -> prometheus::Result<Self> {
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "unpoll_request_duration_seconds",
                "Time from the head of a request to the head of its answer, in seconds.",
            )
            .buckets(vec![0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0]),
            &["route"],
        )?;
        let refusals = IntCounterVec::new(Opts::new("unpoll_refusals_total", "Requests that were refused, by problem."), &["slug"])?;
        let connections = IntGauge::new("unpoll_http_connections", "HTTP connections that are open now.")?;
        let turned_away = IntCounter::new("unpoll_http_turned_away_total", "HTTP connections that found no room and were closed.")?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(refusals.clone()))?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(turned_away.clone()))?;
        let routes = routes.iter().copied().chain([OTHER]);
        Ok(Self {
            duration: Arc::new(routes.map(|route| (route, duration.with_label_values(&[route]))).collect()),
            refusals: Arc::new(Refusal::SLUGS.map(|slug| (slug, refusals.with_label_values(&[slug]))).into()),
            connections,
            turned_away,
        })
    }

    pub(super) fn answered(&self, route: Option<&str>, slug: Option<&str>, took: Duration) {
        let histogram = route.and_then(|route| self.duration.get(route)).or_else(|| self.duration.get(OTHER));
        if let Some(histogram) = histogram {
            histogram.observe(took.as_secs_f64());
        }
        if let Some(counter) = slug.and_then(|slug| self.refusals.get(slug)) {
            counter.inc();
        }
    }
}
