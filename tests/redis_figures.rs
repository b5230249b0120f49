//! Figures of the store in Redis. They mean something in release, and on a machine that does nothing else:
//! `cargo test --release --test redis_figures -- --ignored --nocapture`. `EVENTS` sets how many, `TOGETHER` how many are under way at once;
//! with `REDIS_URL` a server that runs already is taken, such as one that callgrind counts.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use loadtest::redis;
use unpoll::{
    domain::{Clock, CorrectedClock, Data, Event, Limits, Outcome, Require, SessionId, SystemClock, TenantId, Urgency},
    store::{
        Cursor, DeviceChange, DeviceKey, Mailbox, NewEvent, NewSeat, Records, Registry, Settle, Settled, Transport,
        redis::{Config, RedisMetrics, RedisStore},
    },
};

const DEVICES: usize = 1_000;

fn from_environment(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
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

/// One of the parts of INFO, by name.
fn info(url: &str, part: &str) -> BTreeMap<String, String> {
    let mut connection = ::redis::Client::open(url).unwrap().get_connection().unwrap();
    let text: String = ::redis::cmd("INFO").arg(part).query(&mut connection).unwrap();
    text.lines()
        .filter_map(|line| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned())))
        .collect()
}

fn cpu(url: &str) -> f64 {
    let info = info(url, "cpu");
    ["used_cpu_user", "used_cpu_sys"]
        .iter()
        .map(|name| info[*name].parse::<f64>().unwrap())
        .sum()
}

/// Calls and microseconds of each command.
fn commands(url: &str) -> BTreeMap<String, (f64, f64)> {
    let number = |stats: &str, name: &str| -> f64 {
        let value = stats.split(',').find_map(|stat| stat.strip_prefix(name)?.strip_prefix('='));
        value.unwrap().parse().unwrap()
    };
    info(url, "commandstats")
        .into_iter()
        .map(|(name, stats)| (name.replace("cmdstat_", ""), (number(&stats, "calls"), number(&stats, "usec"))))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a figure: only in release, and on a quiet machine"]
async fn what_an_event_costs_redis() {
    let own = std::env::var("REDIS_URL")
        .is_err()
        .then(|| redis::Server::start(&redis::Settings::default()).unwrap());
    let url = own.as_ref().map_or_else(|| std::env::var("REDIS_URL").unwrap(), redis::Server::url);
    let (total, together) = (from_environment("EVENTS", 100_000), from_environment("TOGETHER", 32));
    let clock = SystemClock::shared();
    let config = Config {
        url: url.clone(),
        // Under callgrind a server is slow.
        answer_within_ms: 60_000,
        patience_ms: 60_000,
        heartbeat_ms: 20_000,
        ..Config::default()
    };
    let metrics = RedisMetrics::register(&prometheus::Registry::new()).unwrap();
    let store = RedisStore::open(
        config,
        Limits::default(),
        CorrectedClock::over(clock.clone()),
        "localhost",
        None,
        metrics,
    )
    .await
    .unwrap()
    .store;
    for n in 0..DEVICES {
        let (added, _) = store.put_device(&key(n), DeviceChange::default(), true, clock.now()).await.unwrap();
        // Each has a session that has read what waits, as who acknowledges has.
        let seat = NewSeat {
            session: SessionId(n as u128),
            node: store.node(),
            transport: Transport::Xmpps,
            at: clock.now(),
            credential_generation: added.credential_generation,
            fast: None,
        };
        store.claim(&key(n), seat).await.unwrap();
        store.pending(&key(n), Cursor::default(), 1).await.unwrap();
    }
    // Waits until the log of receipts has so many.
    let logged = async |count: usize| {
        while store.receipts(TenantId(0), count as u64 - 1, 1).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let run = async |from: usize, to: usize| {
        let mut running = tokio::task::JoinSet::new();
        for poster in 0..together {
            let (store, clock) = (Arc::clone(&store), Arc::clone(&clock));
            running.spawn(async move {
                for n in (from + poster..to).step_by(together) {
                    let stored = store.enqueue(vec![event(n, &*clock)]).await.remove(0).unwrap();
                    let settle = Settle {
                        device: key(n),
                        id: stored.id,
                        located: store.locate(TenantId(0), stored.id).unwrap(),
                        outcome: Outcome::Delivered,
                        at: clock.now(),
                        epoch: None,
                        told: None,
                    };
                    assert!(matches!(store.settle(vec![settle]).await.remove(0).unwrap(), Settled::Now { .. }));
                }
            });
        }
        running.join_all().await;
        logged(to).await;
    };
    let warm = total / 10;
    run(0, warm).await;
    let (cpu_before, commands_before, started) = (cpu(&url), commands(&url), Instant::now());
    run(warm, warm + total).await;
    let (wall, used) = (started.elapsed(), cpu(&url) - cpu_before);
    println!(
        "{total} events, {together} at once: {:.1} us of Redis CPU an event (enqueue, settle, receipt moved), {:.0} events/s",
        used * 1e6 / total as f64,
        total as f64 / wall.as_secs_f64()
    );
    for (name, (calls, micros)) in commands(&url) {
        let (calls_before, micros_before) = commands_before.get(&name).copied().unwrap_or_default();
        let (calls, micros) = (calls - calls_before, micros - micros_before);
        if calls > 0.0 {
            println!(
                "  {name:<16} {:>7.3} calls an event, {:>6.2} us each, {:>6.2} us an event",
                calls / total as f64,
                micros / calls,
                micros / total as f64
            );
        }
    }
}
