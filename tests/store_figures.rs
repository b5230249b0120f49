//! Figures of the embedded store. They take minutes and mean something in release only:
//! `cargo test --release --test store_figures -- --ignored --nocapture --test-threads=1`. `EVENTS` sets how many.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use unpoll::{
    domain::{Clock, Data, Event, EventId, Limits, Outcome, Require, SystemClock, TenantId, Urgency},
    store::{
        DeviceChange, DeviceKey, Mailbox, NewEvent, Registry, Settle, Settled,
        embedded::{Config, EmbeddedStore},
    },
};

const DEVICES: usize = 10_000;

fn events() -> usize {
    std::env::var("EVENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000)
}

fn open(folder: &std::path::Path) -> Arc<EmbeddedStore> {
    let config = Config {
        data_dir: folder.to_path_buf(),
        ..Config::default()
    };
    EmbeddedStore::open(config, Limits::default(), SystemClock::shared()).unwrap().0
}

fn key(n: usize) -> DeviceKey {
    DeviceKey {
        tenant: TenantId(0),
        device: format!("box-{:05}", n % DEVICES).parse().unwrap(),
    }
}

fn event(n: usize, clock: &dyn Clock) -> NewEvent {
    NewEvent {
        event: Event {
            tenant: TenantId(0),
            device: key(n).device,
            accepted_at: clock.now(),
            deliver_at: None,
            ttl: Duration::from_secs(86_400),
            urgency: Urgency::Normal,
            collapse_key: None,
            require: Require::Acknowledged,
            json: Data("x".repeat(500).into()),
        },
        idempotency: None,
    }
}

async fn add_devices(store: &Arc<EmbeddedStore>, clock: &dyn Clock) {
    let mut adding = tokio::task::JoinSet::new();
    for n in 0..DEVICES {
        let (store, now) = (Arc::clone(store), clock.now());
        adding.spawn(async move { store.put_device(&key(n), DeviceChange::default(), true, now).await.unwrap() });
    }
    while adding.join_next().await.is_some() {}
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks: u64 = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|n| n.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a figure: minutes, and only in release"]
async fn a_million_pending_events_are_ready_in_three_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let clock = SystemClock::shared();
    let store = open(folder.path());
    add_devices(&store, &*clock).await;
    let started = Instant::now();
    let total = events();
    let mut last: Option<EventId> = None;
    for n in (0..total).step_by(250) {
        let results = store.enqueue((n..n + 250).map(|n| event(n, &*clock)).collect()).await;
        last = results.into_iter().map(|result| result.unwrap().id).next_back();
    }
    println!("{total} events stored in {:?}", started.elapsed());
    // What a kill leaves: the journal as it is.
    let copy = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(folder.path())
        .arg(copy.path().join("data"))
        .status();
    assert!(copied.unwrap().success());
    store.close();
    let started = Instant::now();
    let store = open(&copy.path().join("data"));
    let page = store.pending(&key(7), unpoll::store::Cursor::default(), 10).await.unwrap();
    let ready = started.elapsed();
    println!("ready after {ready:?} with {:?}", store.stats());
    assert_eq!(page.events.len(), 10.min(total / DEVICES));
    assert!(store.delivery(TenantId(0), last.unwrap()).await.unwrap().is_some());
    assert_eq!(store.stats().queued, Some(total as u64));
    assert!(ready < Duration::from_secs(3), "{ready:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a figure: minutes, and only in release"]
async fn an_event_costs_few_microseconds_of_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let clock = SystemClock::shared();
    let store = open(folder.path());
    add_devices(&store, &*clock).await;
    let total = events() / 5;
    for (name, posters, size) in [("one by one, 32 at once", 32, 1), ("in batches of 100", 4, 100)] {
        let (before, started) = (cpu(), Instant::now());
        let mut running = tokio::task::JoinSet::new();
        for poster in 0..posters {
            let (store, clock) = (Arc::clone(&store), Arc::clone(&clock));
            running.spawn(async move {
                for n in (poster * size..total).step_by(posters * size) {
                    let results = store.enqueue((n..n + size).map(|n| event(n, &*clock)).collect()).await;
                    let ends = results.into_iter().enumerate().map(|(i, result)| {
                        let id = result.unwrap().id;
                        Settle {
                            device: key(n + i),
                            id,
                            located: store.locate(TenantId(0), id).unwrap(),
                            outcome: Outcome::Delivered,
                            at: clock.now(),
                            epoch: None,
                            told: None,
                        }
                    });
                    for settled in store.settle(ends.collect()).await {
                        assert!(matches!(settled.unwrap(), Settled::Now { .. }));
                    }
                }
            });
        }
        while let Some(done) = running.join_next().await {
            done.unwrap();
        }
        let (wall, used) = (started.elapsed(), cpu() - before);
        let each = used.as_secs_f64() * 1e6 / total as f64;
        println!(
            "{name}: {each:.1} us of CPU an event (enqueue and settle), {:.0} events/s",
            total as f64 / wall.as_secs_f64()
        );
    }
}
