//! The store on `/metrics`: asked at each scrape, so it is never stale.

use std::{collections::HashMap, sync::Arc};

use prometheus::{
    Registry,
    core::{Collector, Desc},
    proto::{MetricFamily, MetricType},
};

use crate::{domain::Clock, store::StoreStats, telemetry::single};

const METRICS: [(&str, MetricType, &str); 7] = [
    (
        "unpoll_queue_depth",
        MetricType::GAUGE,
        "Events that wait. NaN until they are counted after a start.",
    ),
    (
        "unpoll_oldest_queued_seconds",
        MetricType::GAUGE,
        "How long the oldest waiting event has waited since it could be delivered, as of the last sweep ([dispatch] sweep_secs); 0 when none waits. NaN until they are counted after a start.",
    ),
    ("unpoll_devices", MetricType::GAUGE, "Devices that were added and not removed."),
    ("unpoll_store_disk_bytes", MetricType::GAUGE, "Disk in use by the store."),
    (
        "unpoll_store_free_bytes",
        MetricType::GAUGE,
        "Disk that is free where the store is.",
    ),
    (
        "unpoll_store_writable",
        MetricType::GAUGE,
        "1 when new events are taken, 0 when not (the disk is full, or the store is being reopened).",
    ),
    (
        "unpoll_missed_arrivals_total",
        MetricType::COUNTER,
        "Arrivals that the dispatcher was not told of in time; the resync delivers them later.",
    ),
];

/// Numbers of the store, and of what the dispatcher missed.
pub struct StoreGauges {
    descs: Vec<Desc>,
    stats: Arc<dyn Fn() -> StoreStats + Send + Sync>,
    missed_arrivals: Arc<dyn Fn() -> u64 + Send + Sync>,
    clock: Arc<dyn Clock>,
}

impl StoreGauges {
    /// Registers them. `stats` and `missed_arrivals` are called at each scrape and must not block.
    ///
    /// # Errors
    /// A metric of the same name is registered already.
    pub fn register(
        registry: &Registry,
        stats: Arc<dyn Fn() -> StoreStats + Send + Sync>,
        missed_arrivals: Arc<dyn Fn() -> u64 + Send + Sync>,
        clock: Arc<dyn Clock>,
    ) -> prometheus::Result<()> {
        let desc = |(name, _, help): (&str, MetricType, &str)| Desc::new(name.to_owned(), help.to_owned(), Vec::new(), HashMap::new());
        registry.register(Box::new(Self {
            descs: METRICS.into_iter().map(desc).collect::<prometheus::Result<_>>()?,
            stats,
            missed_arrivals,
            clock,
        }))
    }
}

impl Collector for StoreGauges {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stats = (self.stats)();
        let oldest = stats
            .oldest_queued_at
            .map_or(0.0, |since| self.clock.now().since(since).as_secs_f64());
        let values = [
            stats.queued.map_or(f64::NAN, |queued| queued as f64),
            stats.queued.map_or(f64::NAN, |_| oldest),
            stats.devices as f64,
            stats.disk_bytes as f64,
            stats.free_bytes as f64,
            f64::from(u8::from(stats.writable)),
            (self.missed_arrivals)() as f64,
        ];
        METRICS
            .into_iter()
            .zip(values)
            .map(|((name, kind, help), value)| single(name, kind, help, value))
            .collect()
    }
}
