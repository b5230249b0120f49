//! What the way between nodes counts.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::store::Hint;

/// Handles that it updates.
#[derive(Clone)]
pub struct ClusterMetrics {
    sent: [IntCounter; 3],
    received: [IntCounter; 3],
    dropped: IntCounterVec,
    /// Batches written.
    pub(super) batches: IntCounter,
    /// Hints that went through Redis.
    pub(super) fallback: IntCounter,
    /// Connections that this node has to others.
    pub(super) connected: IntGauge,
    /// Tries to connect that failed.
    pub(super) failures: IntCounter,
}

/// Why a hint did not go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Dropped {
    /// Too much waited for that node.
    Full,
    /// It came and could not be read, or too much waited here.
    Unread,
}

impl Dropped {
    const ALL: [Self; 2] = [Self::Full, Self::Unread];

    fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Unread => "unread",
        }
    }
}

const KINDS: [&str; 3] = ["arrived", "displaced", "removed"];

fn of<'a>([arrived, displaced, removed]: &'a [IntCounter; 3], hint: &Hint) -> &'a IntCounter {
    match hint {
        Hint::Arrived(_) => arrived,
        Hint::Displaced { .. } => displaced,
        Hint::Removed { .. } => removed,
    }
}

impl ClusterMetrics {
    /// Registers the handles; every label set starts at 0.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let hints = IntCounterVec::new(
            Opts::new("unpoll_cluster_hints_total", "Hints between nodes by direction and kind."),
            &["direction", "kind"],
        )?;
        let metrics = Self {
            sent: KINDS.map(|kind| hints.with_label_values(&["sent", kind])),
            received: KINDS.map(|kind| hints.with_label_values(&["received", kind])),
            dropped: IntCounterVec::new(
                Opts::new(
                    "unpoll_cluster_hints_dropped_total",
                    "Hints that did not reach a session, by reason; the sessions find in the store what they told of.",
                ),
                &["reason"],
            )?,
            batches: IntCounter::new("unpoll_cluster_batches_total", "Writes to other nodes, each of one or more hints.")?,
            fallback: IntCounter::new(
                "unpoll_cluster_fallback_total",
                "Hints that went through Redis because their node could not be reached.",
            )?,
            connected: IntGauge::new("unpoll_cluster_connections", "Connections that this node has to other nodes.")?,
            failures: IntCounter::new(
                "unpoll_cluster_connect_failures_total",
                "Tries to connect to another node that failed.",
            )?,
        };
        for reason in Dropped::ALL {
            metrics.dropped.with_label_values(&[reason.as_str()]);
        }
        registry.register(Box::new(hints))?;
        registry.register(Box::new(metrics.dropped.clone()))?;
        for counter in [&metrics.batches, &metrics.fallback, &metrics.failures] {
            registry.register(Box::new(counter.clone()))?;
        }
        registry.register(Box::new(metrics.connected.clone()))?;
        Ok(metrics)
    }

    pub(super) fn sent(&self, hint: &Hint) {
        of(&self.sent, hint).inc();
    }

    pub(super) fn received(&self, hint: &Hint) {
        of(&self.received, hint).inc();
    }

    pub(super) fn dropped(&self, reason: Dropped) {
        self.dropped.with_label_values(&[reason.as_str()]).inc();
    }
}
