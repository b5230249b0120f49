//! Webhooks on `/metrics`.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::sender::Verdict;
use crate::{domain::Missing, store::WebhookEnd};

/// Counts what is sent to webhooks. Clones share everything.
#[derive(Clone)]
pub struct WebhookMetrics {
    attempts: IntCounterVec,
    disabled: IntCounterVec,
    gaps: IntCounterVec,
    pub(super) dead_letters: IntCounter,
    pub(super) waiting: IntGauge,
    pub(super) oldest: IntGauge,
    webhooks: IntGaugeVec,
}

impl WebhookMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A metric of the same name is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            attempts: IntCounterVec::new(
                Opts::new(
                    "unpoll_webhook_attempts_total",
                    "Requests to webhooks by what came of them: delivered (2xx), gone (410), redirect, refused (any other status), timeout, \
                     unreachable, blocked (an address that may not be reached).",
                ),
                &["result"],
            )?,
            disabled: IntCounterVec::new(
                Opts::new("unpoll_webhook_disabled_total", "Webhooks that were disabled, by reason."),
                &["reason"],
            )?,
            gaps: IntCounterVec::new(
                Opts::new(
                    "unpoll_webhook_gaps_total",
                    "Gaps in the receipts of webhooks, each told to its receiver, by what became of the missing ones.",
                ),
                &["reason"],
            )?,
            dead_letters: IntCounter::new(
                "unpoll_webhook_dead_letters_total",
                "Receipts that no attempt brought to their webhook in time, and that are kept as dead letters.",
            )?,
            waiting: IntGauge::new(
                "unpoll_webhook_waiting",
                "Receipts that wait to be sent again, of the webhooks that this node serves.",
            )?,
            oldest: IntGauge::new(
                "unpoll_webhook_oldest_seconds",
                "Age of the oldest receipt that a webhook is still to get, of the webhooks that this node serves.",
            )?,
            webhooks: IntGaugeVec::new(
                Opts::new("unpoll_webhooks", "Webhooks of all tenants by state; every node tells of all."),
                &["state"],
            )?,
        };
        for verdict in Verdict::ALL {
            metrics.attempts.get_metric_with_label_values(&[verdict.as_str()])?;
        }
        for reason in WebhookEnd::ALL {
            metrics.disabled.get_metric_with_label_values(&[reason.as_str()])?;
        }
        for reason in Missing::ALL {
            metrics.gaps.get_metric_with_label_values(&[reason.as_str()])?;
        }
        metrics.see(0, 0);
        registry.register(Box::new(metrics.attempts.clone()))?;
        registry.register(Box::new(metrics.disabled.clone()))?;
        registry.register(Box::new(metrics.gaps.clone()))?;
        registry.register(Box::new(metrics.dead_letters.clone()))?;
        registry.register(Box::new(metrics.waiting.clone()))?;
        registry.register(Box::new(metrics.oldest.clone()))?;
        registry.register(Box::new(metrics.webhooks.clone()))?;
        Ok(metrics)
    }

    pub(super) fn attempt(&self, verdict: Verdict) {
        self.attempts.with_label_values(&[verdict.as_str()]).inc();
    }

    pub(super) fn gap(&self, reason: Missing) {
        self.gaps.with_label_values(&[reason.as_str()]).inc();
    }

    pub(super) fn disabled(&self, reason: WebhookEnd) {
        self.disabled.with_label_values(&[reason.as_str()]).inc();
    }

    /// How many webhooks there are.
    pub(super) fn see(&self, enabled: usize, disabled: usize) {
        for (state, count) in [("enabled", enabled), ("disabled", disabled)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.webhooks.with_label_values(&[state]).set(count);
        }
    }
}
