//! The ledger as sessions, the store and readers see it.

mod control;
mod intervals;
mod measured;
mod polls;
mod recomputed;
mod simulation;
mod storing;
mod words;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;

use super::*;
use crate::{
    domain::{ManualClock, Uncredited, Urgency},
    store::{FeedBounds, Receipt, StoreError},
};

/// A store of minutes that fails as told.
#[derive(Default)]
struct Minutes {
    rows: Mutex<BTreeMap<(u64, String), BTreeMap<String, f64>>>,
    faults: Mutex<VecDeque<Fault>>,
    unreadable: AtomicBool,
}

#[derive(Clone, Copy)]
enum Fault {
    /// Nothing is stored.
    Busy,
    /// It is stored, but the answer is lost.
    AnswerLost,
    /// It is not stored, and nobody knows.
    RequestLost,
}

#[async_trait]
impl Records for Minutes {
    async fn receipts(&self, _: TenantId, _: u64, _: usize) -> Result<Vec<Receipt>, StoreError> {
        Ok(Vec::new())
    }

    async fn receipt_bounds(&self, _: TenantId) -> Result<FeedBounds, StoreError> {
        Ok(FeedBounds::default())
    }

    async fn add_ledger_minute(&self, minute: u64, node: &str, figures: &[(String, f64)]) -> Result<(), StoreError> {
        let fault = self.faults.lock().pop_front();
        match fault {
            Some(Fault::Busy) => return Err(StoreError::Busy),
            Some(Fault::RequestLost) => return Err(StoreError::Unavailable("request lost".into())),
            Some(Fault::AnswerLost) | None => {}
        }
        let mut rows = self.rows.lock();
        let row = rows.entry((minute, node.to_owned())).or_default();
        for (name, amount) in figures {
            *row.entry(name.clone()).or_default() += amount;
        }
        match fault {
            Some(_) => Err(StoreError::Unavailable("answer lost".into())),
            None => Ok(()),
        }
    }

    async fn ledger(&self, from: u64, to: u64) -> Result<BTreeMap<String, f64>, StoreError> {
        if self.unreadable.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("unreadable".into()));
        }
        let mut sum = BTreeMap::new();
        for ((minute, _), row) in self.rows.lock().iter() {
            if (from..to).contains(minute) {
                for (name, amount) in row {
                    *sum.entry(name.clone()).or_default() += amount;
                }
            }
        }
        Ok(sum)
    }
}

struct Bench {
    ledger: Arc<Ledger>,
    minutes: Arc<Minutes>,
    clock: Arc<ManualClock>,
    registry: prometheus::Registry,
}

/// 2026-11-22T00:00:00Z.
const START: Timestamp = Timestamp(1_795_305_600_000);
const KEEPALIVE: Duration = Duration::from_secs(300);

fn bench() -> Bench {
    let (minutes, clock, registry) = (Arc::new(Minutes::default()), ManualClock::at(START), prometheus::Registry::new());
    let ledger = Ledger::new(
        Config::default(),
        minutes.clone(),
        clock.clone(),
        &registry,
        "n1".into(),
        Arc::new(|| [900, 50, 50]),
    )
    .expect("no metric twice");
    Bench {
        ledger,
        minutes,
        clock,
        registry,
    }
}

impl Bench {
    fn open(&self, device: &str, interval: Option<u32>, polling: Polling) -> Account {
        let device = device.parse().expect("a device id");
        self.ledger.open(TenantId(0), &device, interval, polling, KEEPALIVE, START)
    }

    /// The sum over all label sets that have these labels.
    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.registry.gather();
        let family = families
            .iter()
            .find(|family| family.name() == name)
            .unwrap_or_else(|| panic!("no {name}"));
        let fits = |metric: &&prometheus::proto::Metric| {
            let has = |(name, value): &(&str, &str)| metric.get_label().iter().any(|pair| pair.name() == *name && pair.value() == *value);
            labels.iter().all(has)
        };
        family
            .get_metric()
            .iter()
            .filter(fits)
            .map(|metric| metric.get_counter().get_value())
            .sum()
    }

    async fn report(&self) -> Report {
        self.ledger
            .report(START, Timestamp(START.0 + 30 * 86_400_000))
            .await
            .expect("the store answers")
    }
}

fn after(secs: u64) -> Timestamp {
    START.plus(Duration::from_secs(secs))
}

#[tokio::test]
async fn a_half_open_connection_earns_nothing_after_what_its_last_proof_vouches_for() {
    let bench = bench();
    let mut account = bench.open("tsn-1", None, Polling::Off);
    bench.ledger.proof(&mut account, after(300));
    bench.ledger.proof(&mut account, after(10_000));
    bench.ledger.close(&mut account, after(10_100));
    bench.ledger.proof(&mut account, after(10_200)); // after its end an account earns no more
    assert_eq!(bench.metric("unpoll_credited_connected_seconds_total", &[]), 630.0);
    let no_proof = bench.metric("unpoll_uncredited_connected_seconds_total", &[("reason", "no_proof")]);
    assert_eq!(no_proof, 9_370.0 + 100.0 + 100.0);
    assert!((bench.metric("unpoll_polls_avoided_total", &[("baseline", "declared")]) - 0.7).abs() < 1e-5);
    assert_eq!(bench.metric("unpoll_polls_avoided_total", &[("baseline", "measured")]), 0.0);
}

#[test]
fn a_clock_that_lags_earns_nothing_twice() {
    let bench = bench();
    let mut account = bench.open("tsn-1", None, Polling::Off);
    for secs in [300, 100, 300] {
        bench.ledger.proof(&mut account, after(secs));
    }
    assert_eq!(bench.metric("unpoll_credited_connected_seconds_total", &[]), 300.0);
}

#[tokio::test]
async fn who_polls_or_may_poll_earns_nothing() {
    let bench = bench();
    for (polling, why) in [(Polling::On, Uncredited::PollingOn), (Polling::Unknown, Uncredited::ModeUnknown)] {
        let mut account = bench.open("tsn-1", None, polling);
        bench.ledger.proof(&mut account, after(300));
        bench.ledger.delivered(&mut account, Urgency::Normal, after(10), after(11));
        bench.ledger.expiring(&account, after(10), after(11));
        let reason = cell::UNCREDITED.iter().find(|(reason, _)| *reason == why).expect("listed").1;
        assert_eq!(
            bench.metric("unpoll_uncredited_connected_seconds_total", &[("reason", reason)]),
            300.0
        );
    }
    let report = bench.report().await;
    assert_eq!((report.credited_seconds, report.coverage), (0.0, Some(0.0)));
    assert_eq!((report.latency_saved.deliveries, report.latency_saved.mean_seconds), (0.0, None));
    assert_eq!(report.events_saved_from_expiry, 0.0);
}

#[test]
fn a_device_with_an_interval_of_its_own_counts_under_attribute() {
    let bench = bench();
    let mut account = bench.open("tsn-1", Some(60), Polling::Off);
    bench.ledger.proof(&mut account, after(300));
    let polls = |policy| bench.metric("unpoll_polls_avoided_total", &[("baseline", "efficient"), ("policy", policy)]);
    assert_eq!((polls("attribute"), polls("900s")), (5.0, 0.0));
}

#[tokio::test]
async fn an_event_from_before_the_session_claims_no_latency() {
    let bench = bench();
    let mut account = bench.open("tsn-1", None, Polling::Off);
    bench
        .ledger
        .delivered(&mut account, Urgency::Normal, Timestamp(START.0 - 1), after(1));
    assert_eq!(bench.report().await.latency_saved.deliveries, 0.0);
}

#[tokio::test]
async fn push_that_is_slower_than_polling_shows_as_negative() {
    let bench = bench();
    let mut account = bench.open("tsn-1", Some(10), Polling::Off);
    bench.ledger.delivered(&mut account, Urgency::Normal, after(1), after(500));
    bench.ledger.overhead(Overhead::Connect, Direction::In, 5_000, 8);
    bench.ledger.overhead(Overhead::Connect, Direction::Out, 6_000, 8);
    let report = bench.report().await;
    assert!(report.latency_saved.sum_seconds < -480.0, "{report:?}");
    let declared = report.baselines["declared"].as_ref().expect("there");
    assert_eq!(
        (declared.gross_bytes.total(), declared.overhead_bytes, declared.net_bytes),
        (0.0, 12_664.0, -12_664.0)
    );
    // 16 packets and 16 acknowledgements of 52 bytes each.
    assert_eq!(report.overhead_packets, 32.0);
    assert!(words(&report).contains("net -12.66 kB"), "{}", words(&report));
}

#[test]
fn an_event_that_a_poll_would_have_missed_is_counted() {
    let bench = bench();
    let account = bench.open("tsn-1", None, Polling::Off);
    let tick = clock::tick(after(10), account.phase_ms, 900);
    bench.ledger.expiring(&account, after(10), Timestamp(tick.at_ms + 1)); // the poll would have come in time
    assert_eq!(bench.metric("unpoll_events_saved_from_expiry_total", &[]), 0.0);
    bench.ledger.expiring(&account, after(10), Timestamp(tick.at_ms));
    assert_eq!(bench.metric("unpoll_events_saved_from_expiry_total", &[]), 1.0);
}

#[test]
fn every_label_set_exists_from_the_start() {
    let bench = bench();
    let sets: BTreeMap<String, usize> = bench
        .registry
        .gather()
        .iter()
        .map(|family| (family.name().to_owned(), family.get_metric().len()))
        .collect();
    let expected = [
        ("unpoll_calibration_ratio", 4),
        ("unpoll_calibration_ratio_high", 4),
        ("unpoll_calibration_ratio_low", 4),
        ("unpoll_cohort_devices", 3),
        ("unpoll_connection_memory_bytes", 1),
        ("unpoll_credited_connected_seconds_total", 2),
        ("unpoll_events_saved_from_expiry_total", 1),
        ("unpoll_keepalives_total", 1),
        ("unpoll_legacy_poll_bytes_total", 6),
        ("unpoll_legacy_poll_duration_seconds", 1),
        ("unpoll_legacy_poll_interval_seconds", 1),
        ("unpoll_legacy_polls_total", 12),
        ("unpoll_overhead_bytes_total", 14),
        ("unpoll_overhead_cpu_seconds_total", 1),
        ("unpoll_overhead_packets_total", 14),
        ("unpoll_poll_avoided_bytes_total", 12),
        ("unpoll_poll_avoided_cpu_seconds_total", 3),
        ("unpoll_poll_latency_saved_seconds", 12),
        ("unpoll_polling_devices", 1),
        ("unpoll_polls_avoided_total", 12),
        ("unpoll_uncredited_connected_seconds_total", 3),
        ("unpoll_untracked_polls_total", 1),
        ("unpoll_virtual_poll_wait_seconds", 1),
    ];
    assert_eq!(sets, expected.map(|(name, count)| (name.to_owned(), count)).into());
}

/// SplitMix64: the same numbers in every run.
struct Random(u64);

impl Random {
    /// Evenly in (0, 1].
    fn even(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((bits ^ (bits >> 31)) >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Evenly within `variation` · √3 of the mean: then its coefficient of variation is `variation`.
    fn jittered(&mut self, mean: f64, variation: f64) -> f64 {
        mean * (1.0 + variation * 3_f64.sqrt() * (2.0 * self.even() - 1.0))
    }

    /// Exponential with this mean.
    fn waiting_time(&mut self, mean: f64) -> f64 {
        -self.even().ln() * mean
    }
}
