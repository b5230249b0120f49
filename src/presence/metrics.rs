//! Presence on `/metrics`.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::store::ChangeKind;

/// Counts what is told of presence. Clones share everything.
#[derive(Clone)]
pub struct PresenceMetrics {
    pub(super) streams: IntGauge,
    sent: IntCounterVec,
    pub(super) gaps: IntCounter,
    pub(super) lost_seats: IntCounter,
}

impl PresenceMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A metric of the same name is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            streams: IntGauge::new("unpoll_presence_streams", "Streams of presence that are open at this node.")?,
            sent: IntCounterVec::new(
                Opts::new(
                    "unpoll_presence_changes_sent_total",
                    "Changes written to streams of presence by kind, each as often as there are streams that get it.",
                ),
                &["kind"],
            )?,
            gaps: IntCounter::new(
                "unpoll_presence_gaps_total",
                "Streams of presence that were told of a gap: what they asked for was not kept any more.",
            )?,
            lost_seats: IntCounter::new(
                "unpoll_presence_lost_seats_total",
                "Seats of dead nodes that this node ended, so that the feed tells of their devices.",
            )?,
        };
        for kind in ChangeKind::ALL {
            metrics.sent.get_metric_with_label_values(&[kind.as_str()])?;
        }
        registry.register(Box::new(metrics.streams.clone()))?;
        registry.register(Box::new(metrics.sent.clone()))?;
        registry.register(Box::new(metrics.gaps.clone()))?;
        registry.register(Box::new(metrics.lost_seats.clone()))?;
        Ok(metrics)
    }

    pub(super) fn sent(&self, kind: ChangeKind) {
        self.sent.with_label_values(&[kind.as_str()]).inc();
    }
}
