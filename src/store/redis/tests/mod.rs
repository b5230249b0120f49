//! Tests of the engine against real servers: the contract, and what is its alone.

mod clock;
mod failover;
mod faults;
mod model;

use std::{
    any::Any,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use loadtest::redis;
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::sync::mpsc;

use super::{Config, Opened, RedisMetrics, RedisStore};
use crate::{
    domain::{CorrectedClock, Durability, ManualClock},
    store::{
        Arrival, Store, Webhooks,
        contract::{self, Bench, START},
        embedded::tests::Embedded,
        transfer::Transfer,
    },
};

/// Servers that the tests of one layout share, each with keys of its own; they end with the last test that uses them.
struct Shared<T>(Mutex<Weak<T>>);

impl<T> Shared<T> {
    const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    fn get(&self, start: impl FnOnce() -> T) -> Arc<T> {
        let mut shared = self.0.lock();
        shared.upgrade().unwrap_or_else(|| {
            let started = Arc::new(start());
            *shared = Arc::downgrade(&started);
            started
        })
    }
}

static SINGLE: Shared<redis::Server> = Shared::new();
static SENTINELS: Shared<redis::Sentinels> = Shared::new();
static CLUSTER: Shared<redis::Cluster> = Shared::new();
static PREFIX: AtomicU32 = AtomicU32::new(0);

pub(super) struct Redis {
    _servers: Arc<dyn Any + Send + Sync>,
    durability: Durability,
    config: Config,
    opened: Opened,
    clock: Arc<ManualClock>,
}

impl Redis {
    async fn new(url: String, durability: Durability, servers: Arc<dyn Any + Send + Sync>) -> Self {
        let config = Config {
            url,
            // The clock of a test stands in the future.
            clock_skew_max_ms: u64::MAX,
            // Nor is a machine that runs many tests at once in a hurry.
            wait_ms: 5_000,
            prefix: format!("u{}:", PREFIX.fetch_add(1, Ordering::Relaxed)),
            ..Config::default()
        };
        let clock = ManualClock::at(START);
        let opened = open(&config, &clock).await;
        Self {
            _servers: servers,
            durability,
            config,
            opened,
            clock,
        }
    }

    pub(super) fn redis(&self) -> &RedisStore {
        &self.opened.store
    }

    pub(super) async fn single() -> Self {
        let server = SINGLE.get(|| redis::Server::start(&redis::Settings::default()).unwrap());
        Self::new(server.url(), Durability::Primary, server).await
    }

    async fn sentinels() -> Self {
        let servers = SENTINELS.get(|| redis::Sentinels::start(1).unwrap());
        Self::new(servers.url(), Durability::Replicated, servers).await
    }

    async fn cluster() -> Self {
        let servers = CLUSTER.get(|| redis::Cluster::start().unwrap());
        Self::new(servers.url(), Durability::Replicated, servers).await
    }
}

async fn open(config: &Config, clock: &Arc<ManualClock>) -> Opened {
    let metrics = RedisMetrics::register(&Registry::new()).unwrap();
    let clock = CorrectedClock::over(clock.clone());
    RedisStore::open(config.clone(), contract::limits(), clock, "localhost", None, metrics)
        .await
        .unwrap()
}

impl Bench for Redis {
    fn store(&self) -> Arc<dyn Store> {
        self.opened.store.clone()
    }

    fn transfer(&self) -> Arc<dyn Transfer> {
        self.opened.store.clone()
    }

    fn webhooks(&self) -> Arc<dyn Webhooks> {
        self.opened.store.clone()
    }

    fn clock(&self) -> Arc<ManualClock> {
        Arc::clone(&self.clock)
    }

    fn arrivals(&mut self) -> &mut mpsc::Receiver<Arrival> {
        &mut self.opened.arrivals
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    async fn reopen(self) -> Self {
        self.opened.store.close().await;
        let opened = open(&self.config, &self.clock).await;
        Self { opened, ..self }
    }
}

mod single {
    use super::*;
    contract::run_contract!(Redis::single().await);
}

mod from_embedded {
    use super::*;
    contract::run_transfer!(Embedded::new(), Redis::single().await);
}

mod to_embedded {
    use super::*;
    contract::run_transfer!(Redis::single().await, Embedded::new());
}

mod sentinels {
    use super::*;
    contract::run_contract!(Redis::sentinels().await);
}

mod cluster {
    use super::*;
    contract::run_contract!(Redis::cluster().await);
    contract::run_transfer!(Redis::cluster().await, Redis::cluster().await);
}
