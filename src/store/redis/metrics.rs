//! Redis on `/metrics`.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Counts what happens between this node and Redis. Clones share everything.
#[derive(Clone)]
pub struct RedisMetrics {
    commands: IntCounterVec,
    batch_seconds: Histogram,
    up: IntGauge,
    breaker_open: IntGauge,
    replicas: IntGauge,
    degraded: IntGauge,
    nodes: IntGauge,
    nodes_lost: IntCounter,
    skew: prometheus::Gauge,
    receipts_lag: prometheus::Gauge,
    claims_pending: IntGauge,
}

impl std::fmt::Debug for RedisMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedisMetrics")
    }
}

impl RedisMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A metric of the same name is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| IntGauge::new(name, help);
        let metrics = Self {
            commands: IntCounterVec::new(
                Opts::new(
                    "unpoll_redis_commands_total",
                    "Commands to Redis by result: ok, error (refused), timeout (no answer).",
                ),
                &["result"],
            )?,
            batch_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "unpoll_redis_batch_seconds",
                    "From writing a pipeline to Redis to its last answer, with the wait for replicas.",
                )
                .buckets(vec![0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0]),
            )?,
            up: gauge("unpoll_redis_up", "1 when every shard answers.")?,
            breaker_open: gauge(
                "unpoll_redis_breaker_open",
                "1 while requests are refused at once because a shard has failed for a second.",
            )?,
            replicas: gauge("unpoll_redis_replicas", "Connected replicas of the shard that has the fewest.")?,
            degraded: gauge(
                "unpoll_redis_durability_degraded",
                "1 while new events are refused because not every replica takes what is written (durability replicated).",
            )?,
            nodes: gauge("unpoll_nodes", "Live nodes, this one included.")?,
            nodes_lost: IntCounter::new(
                "unpoll_nodes_lost_total",
                "Nodes whose heartbeat ended without a goodbye, as this node saw it.",
            )?,
            skew: prometheus::Gauge::new(
                "unpoll_clock_skew_seconds",
                "This node's clock before that of Redis, at the last heartbeat.",
            )?,
            receipts_lag: prometheus::Gauge::new(
                "unpoll_receipts_lag_seconds",
                "How old a receipt may be that is not in its tenant's log yet: since the last round of this node began that emptied every outbox that was due.",
            )?,
            claims_pending: gauge(
                "unpoll_claims_pending",
                "Seats taken or given up while Redis did not answer, which it is still to be told.",
            )?,
        };
        for result in ["ok", "error", "timeout"] {
            metrics.commands.with_label_values(&[result]);
        }
        registry.register(Box::new(metrics.commands.clone()))?;
        registry.register(Box::new(metrics.batch_seconds.clone()))?;
        for gauge in [
            &metrics.up,
            &metrics.breaker_open,
            &metrics.replicas,
            &metrics.degraded,
            &metrics.nodes,
            &metrics.claims_pending,
        ] {
            registry.register(Box::new(gauge.clone()))?;
        }
        registry.register(Box::new(metrics.nodes_lost.clone()))?;
        registry.register(Box::new(metrics.skew.clone()))?;
        registry.register(Box::new(metrics.receipts_lag.clone()))?;
        Ok(metrics)
    }

    pub(super) fn batch(&self, _commands: usize, took: Duration) {
        self.batch_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn command(&self, result: &str) {
        self.commands.with_label_values(&[result]).inc();
    }

    pub(super) fn shards(&self, up: bool, breaker_open: bool, degraded: bool) {
        self.up.set(i64::from(up));
        self.breaker_open.set(i64::from(breaker_open));
        self.degraded.set(i64::from(degraded));
    }

    pub(super) fn replicas(&self, fewest: u32) {
        self.replicas.set(i64::from(fewest));
    }

    pub(super) fn nodes(&self, live: usize, lost: u64) {
        self.nodes.set(i64::try_from(live).unwrap_or(i64::MAX));
        self.nodes_lost.inc_by(lost);
    }

    pub(super) fn skew(&self, milliseconds: i64) {
        self.skew.set(milliseconds as f64 / 1000.0);
    }

    pub(super) fn receipts_lag(&self, lag: Duration) {
        self.receipts_lag.set(lag.as_secs_f64());
    }

    pub(super) fn claims_pending(&self, seats: usize) {
        self.claims_pending.set(i64::try_from(seats).unwrap_or(i64::MAX));
    }
}
