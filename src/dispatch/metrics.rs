//! What the dispatcher counts.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

use crate::domain::{Outcome, Reason, Urgency};

/// Handles that the dispatcher updates.
#[derive(Clone)]
pub struct DispatchMetrics {
    /// Events written on arrival.
    pub written_at_once: IntCounter,
    /// Events that had to wait in the store though a session was there.
    pub deferred: IntCounter,
    /// Events that were written and came back because their session ended.
    pub returned: IntCounter,
    /// Times that ending deliveries in the store had to be tried again.
    pub settle_retries: IntCounter,
    /// Events that their device wants once more.
    pub put_off: IntCounter,
    /// Events to several devices whose copies were made here, because whoever accepted them had not finished.
    pub completed: IntCounter,
    deliveries: IntCounterVec,
    latency: HistogramVec,
}

impl DispatchMetrics {
    /// Registers the handles; every label set starts at 0.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let offers = IntCounterVec::new(
            Opts::new(
                "unpoll_arrivals_total",
                "Stored events whose device held a session, by whether they were written at once or had to wait.",
            ),
            &["result"],
        )?;
        let returned = IntCounter::new(
            "unpoll_events_returned_total",
            "Events written to a session that ended before acknowledging them; they wait again.",
        )?;
        let settle_retries = IntCounter::new(
            "unpoll_settle_retries_total",
            "Times that ending deliveries in the store had to be tried again.",
        )?;
        let put_off = IntCounter::new(
            "unpoll_events_put_off_total",
            "Events that their device wanted once more, by failed with retry or later; they wait again.",
        )?;
        let completed = IntCounter::new(
            "unpoll_groups_completed_total",
            "Events to several devices whose copies the dispatcher made, because the node that accepted them had not finished.",
        )?;
        let deliveries = IntCounterVec::new(
            Opts::new("unpoll_deliveries_total", "Deliveries that ended, by state and reason."),
            &["state", "reason"],
        )?;
        let latency = HistogramVec::new(
            HistogramOpts::new(
                "unpoll_delivery_latency_seconds",
                "Time from acceptance to the acknowledgement or outcome that an event required.",
            )
            .buckets(vec![
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3_600.0, 86_400.0,
            ]),
            &["urgency"],
        )?;
        for collector in [offers.clone(), deliveries.clone()] {
            registry.register(Box::new(collector))?;
        }
        for collector in [returned.clone(), settle_retries.clone(), put_off.clone(), completed.clone()] {
            registry.register(Box::new(collector))?;
        }
        registry.register(Box::new(latency.clone()))?;
        let metrics = Self {
            written_at_once: offers.with_label_values(&["written"]),
            deferred: offers.with_label_values(&["deferred"]),
            returned,
            settle_retries,
            put_off,
            completed,
            deliveries,
            latency,
        };
        for state in ["delivered", "processed", "expired", "replaced", "cancelled"] {
            metrics.deliveries.with_label_values(&[state, "none"]);
        }
        for outcome in [
            Outcome::Rejected(Reason::DeviceError),
            Outcome::Rejected(Reason::DeviceRejected),
            Outcome::Failed(Reason::DeviceFailed),
            Outcome::Failed(Reason::TooManyAttempts),
            Outcome::Failed(Reason::Poison),
            Outcome::Failed(Reason::DeviceRemoved),
            Outcome::Failed(Reason::QueueFull),
        ] {
            metrics.counter(outcome);
        }
        for urgency in Urgency::ALL {
            metrics.latency(urgency);
        }
        Ok(metrics)
    }

    /// The counter of an outcome.
    pub fn counter(&self, outcome: Outcome) -> IntCounter {
        let reason = outcome.reason().map_or("none", Reason::as_str);
        self.deliveries.with_label_values(&[outcome.state().as_str(), reason])
    }

    /// The latency of one urgency.
    pub fn latency(&self, urgency: Urgency) -> Histogram {
        self.latency.with_label_values(&[urgency.as_str()])
    }

    /// Counts the end of a delivery, and how long it took when it was delivered.
    pub fn ended(&self, outcome: Outcome, urgency: Urgency, waited: Duration) {
        self.counter(outcome).inc();
        if matches!(outcome, Outcome::Delivered | Outcome::Processed) {
            self.latency(urgency).observe(waited.as_secs_f64());
        }
    }

    /// Counts ends that happened elsewhere: `replaced` at acceptance, `cancelled` by the API, `failed` at a removal.
    pub fn count(&self, state: &str, reason: &str, by: u64) {
        self.deliveries.with_label_values(&[state, reason]).inc_by(by);
    }
}
