//! The admin listener alone, over metrics that a test makes up: states that a real service reaches after days.

use std::{net::SocketAddr, sync::Arc};

use prometheus::{GaugeVec, HistogramOpts, HistogramVec, Opts, Registry};
use serde_json::Value;
use tokio::net::TcpListener;
use unpoll::{
    admin::{self, AdminState, Check, Live},
    crew::Crew,
    domain::{Caller, Scope, SystemClock, TenantId},
    http::{self, HttpMetrics},
    telemetry::Metrics,
};

use crate::support::block_on;

pub struct Stage {
    pub address: SocketAddr,
    crew: Crew,
}

impl Stage {
    /// Serves what `fill` puts into the registry.
    pub fn set(fill: impl FnOnce(&Registry), checks: Vec<Check>, report: Option<Value>) -> Self {
        Self::build(fill, checks, report, None)
    }

    /// The same behind the gate, as beyond loopback.
    pub fn behind_the_gate(key: &str) -> Self {
        Self::build(|_| (), vec![], None, Some(key.to_owned()))
    }

    fn build(fill: impl FnOnce(&Registry), checks: Vec<Check>, report: Option<Value>, key: Option<String>) -> Self {
        let metrics = Metrics::new().unwrap();
        fill(metrics.registry());
        let state = AdminState {
            metrics: metrics.clone(),
            readiness: Arc::new(move || checks.clone()),
            domain: "push.example".into(),
            node: "n1".into(),
            clock: SystemClock::shared(),
            report: Arc::new(move || {
                let report = report.clone();
                Box::pin(async move { report })
            }),
        };
        let live = Live::new(state.clone());
        let (mut router, probes) = (admin::routes(state.clone(), &live), admin::probes(state));
        if let Some(key) = key {
            let keys = move |hash: &[u8; 32]| {
                (*hash == http::key_hash(&key)).then(|| Caller {
                    tenant: TenantId(0),
                    domain: "push.example".into(),
                    key_id: Some("id".into()),
                    key_name: "test".into(),
                    also_push: false,
                    scope: Scope::Admin,
                    limits: unpoll::domain::CallerLimits::default(),
                })
            };
            let counts = HttpMetrics::register(metrics.registry()).unwrap();
            router = http::mount_for_browsers(router, probes, http::Access::of_keys(keys), counts);
        } else {
            router = router.merge(probes);
        }
        let crew = Crew::default();
        let address = block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            http::serve(
                listener,
                None,
                unpoll::proxy::Balancers::default(),
                router,
                http::Config::default(),
                &crew,
            );
            live.start(&crew);
            address
        });
        Self { address, crew }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.crew.stop_token().cancel();
    }
}

/// A family with a value for each label set.
pub fn family(registry: &Registry, name: &str, labels: &[&str], values: &[(&[&str], f64)]) {
    let family = GaugeVec::new(Opts::new(name, "Made up."), labels).unwrap();
    values.iter().for_each(|(of, value)| family.with_label_values(of).set(*value));
    registry.register(Box::new(family)).unwrap();
}

/// A histogram with these observations, each so often.
pub fn histogram(registry: &Registry, name: &str, labels: &[&str], of: &[&str], buckets: &[f64], observed: &[(f64, u32)]) {
    let family = HistogramVec::new(HistogramOpts::new(name, "Made up.").buckets(buckets.to_vec()), labels).unwrap();
    let one = family.with_label_values(of);
    for (value, times) in observed {
        (0..*times).for_each(|_| one.observe(*value));
    }
    registry.register(Box::new(family)).unwrap();
}

/// Polls avoided and their bytes, against all three baselines.
pub fn avoided(registry: &Registry, polls: f64, bytes: f64, cost: f64) {
    let each = |value: f64| {
        ["measured", "declared", "efficient"].map(|baseline| (baseline, if baseline == "efficient" { value / 5.0 } else { value }))
    };
    let name = "unpoll_polls_avoided_total";
    let values = each(polls).map(|(baseline, _)| ([baseline, "empty"], polls));
    family(
        registry,
        name,
        &["baseline", "result"],
        &values.each_ref().map(|(of, value)| (of.as_slice(), *value)),
    );
    let values = each(bytes).map(|(baseline, value)| ([baseline, "in"], value));
    let name = "unpoll_poll_avoided_bytes_total";
    family(
        registry,
        name,
        &["baseline", "direction"],
        &values.each_ref().map(|(of, value)| (of.as_slice(), *value)),
    );
    family(registry, "unpoll_overhead_bytes_total", &["kind"], &[(&["keepalive"], cost)]);
}
