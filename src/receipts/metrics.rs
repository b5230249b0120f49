//! Receipts on `/metrics`.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::domain::Missing;

/// Counts what is told of receipts. Clones share everything.
#[derive(Clone)]
pub struct ReceiptMetrics {
    pub(super) streams: IntGauge,
    pub(super) sent: IntCounter,
    gaps: IntCounterVec,
}

impl ReceiptMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A metric of the same name is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            streams: IntGauge::new("unpoll_receipt_streams", "Streams of receipts that are open at this node.")?,
            sent: IntCounter::new(
                "unpoll_receipts_sent_total",
                "Receipts written to streams, each as often as there are streams that get it.",
            )?,
            gaps: IntCounterVec::new(
                Opts::new(
                    "unpoll_receipt_gaps_total",
                    "Streams of receipts that were told of a gap, by what became of the missing ones.",
                ),
                &["reason"],
            )?,
        };
        for reason in Missing::ALL {
            metrics.gaps.get_metric_with_label_values(&[reason.as_str()])?;
        }
        registry.register(Box::new(metrics.streams.clone()))?;
        registry.register(Box::new(metrics.sent.clone()))?;
        registry.register(Box::new(metrics.gaps.clone()))?;
        Ok(metrics)
    }

    pub(super) fn gap(&self, reason: Missing) {
        self.gaps.with_label_values(&[reason.as_str()]).inc();
    }
}
