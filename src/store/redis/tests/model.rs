//! The model test on Redis: two nodes with clocks of their own on one server.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use loadtest::redis::{Server, Settings};
use parking_lot::Mutex;
use prometheus::Registry;

use super::super::{
    Config, Opened, RedisMetrics, RedisStore,
    keys::{BUCKETS, Slot},
    shards::Route,
};
use crate::{
    domain::{CorrectedClock, ManualClock, TenantId},
    store::{
        Arrival, DeviceKey, Hint, Mailbox, Store,
        contract::{
            START, key,
            model::{self, During, World},
        },
    },
};

/// One server for all sequences; each has keys of its own.
struct TwoNodes {
    server: Arc<Mutex<Server>>,
    config: Config,
    nodes: Vec<Opened>,
    clocks: [Arc<ManualClock>; 2],
}

static PREFIX: AtomicU32 = AtomicU32::new(0);

/// Every write reaches the kernel before it is answered: a server that is killed loses nothing, and no disk is waited for.
fn start() -> Arc<Mutex<Server>> {
    let settings = Settings {
        lines: vec!["appendonly yes".into(), "appendfsync no".into(), "save \"\"".into()],
        sentinel: false,
    };
    Arc::new(Mutex::new(Server::start(&settings).unwrap()))
}

async fn open(config: &Config, clock: &Arc<ManualClock>) -> Opened {
    let metrics = RedisMetrics::register(&Registry::new()).unwrap();
    let clock = CorrectedClock::over(clock.clone());
    RedisStore::open(config.clone(), model::limits(), clock, "localhost", None, metrics)
        .await
        .unwrap()
}

impl TwoNodes {
    async fn new(server: Arc<Mutex<Server>>) -> Self {
        let config = Config {
            url: server.lock().url(),
            prefix: format!("m{}:", PREFIX.fetch_add(1, Ordering::Relaxed)),
            // Each goes by its own clock, wherever the model puts it.
            clock_skew_max_ms: u64::MAX,
            answer_within_ms: 10_000,
            patience_ms: 20_000,
            heartbeat_ms: 100,
            ..Config::default()
        };
        let clocks = [ManualClock::at(START), ManualClock::at(START)];
        let nodes = vec![open(&config, &clocks[0]).await, open(&config, &clocks[1]).await];
        Self {
            server,
            config,
            nodes,
            clocks,
        }
    }

    /// Waits until a node works: it reads and claims.
    async fn works(&self, node: usize) {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let store = &self.nodes[node].store;
            let reads = store.seat(&key("a")).await;
            let reached = !matches!(reads, Err(crate::store::StoreError::Unavailable(_)));
            let health = store.health();
            if reached && health.serving && health.joined && self.writes(node).await {
                return;
            }
            assert!(Instant::now() < until, "node {node} does not come back: {reads:?}, {health:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl TwoNodes {
    /// Whether each way of durable writes that the devices of the model take is open: its connection went with the server, and whoever
    /// uses it first may find that out.
    async fn writes(&self, node: usize) -> bool {
        for device in model::devices() {
            let route = Route::durable(Slot::of_bucket(device.bucket()));
            let ping = self.nodes[node].store.shared.shards.ask(route, |_| ::redis::cmd("PING"));
            if ping.await.is_err() {
                return false;
            }
        }
        true
    }
}

impl World for TwoNodes {
    const NODES: usize = 2;
    const SEATS_DIE_WITH_THEIR_NODE: bool = false;
    const HAS_SERVER: bool = true;

    fn store(&self, node: usize) -> Arc<dyn Store> {
        self.nodes[node].store.clone()
    }

    fn name(&self, node: usize) -> Arc<str> {
        self.nodes[node].store.node()
    }

    fn clock(&self, node: usize) -> Arc<ManualClock> {
        Arc::clone(&self.clocks[node])
    }

    /// Everything was put into its channel before the step was answered.
    async fn arrivals(&mut self, node: usize, _: usize) -> Vec<Arrival> {
        let name = self.name(node);
        let mut came = Vec::new();
        while let Ok(arrival) = self.nodes[node].arrivals.try_recv() {
            came.push(arrival);
        }
        // What the other node says to one that is dead is heard by nobody.
        while let Ok(addressed) = self.nodes[1 - node].hints.try_recv() {
            if let Hint::Arrived(arrival) = addressed.hint
                && addressed.node == name
            {
                came.push(arrival);
            }
        }
        came
    }

    async fn crash(&mut self, node: usize, during: During) {
        // What is written to a socket is with the server, whoever dies: it is waited for, so that it cannot come later.
        if let Some(under_way) = during {
            under_way.await;
        }
        let opened = open(&self.config, &self.clocks[node]).await;
        // Dropped without a goodbye.
        drop(std::mem::replace(&mut self.nodes[node], opened));
    }

    async fn kill_server(&mut self, during: During) {
        let under_way = during.map(|under_way| tokio::spawn(under_way));
        // It may be on its way, done, or not begun.
        tokio::task::yield_now().await;
        let server = Arc::clone(&self.server);
        tokio::task::spawn_blocking(move || server.lock().restart().unwrap()).await.unwrap();
        if let Some(under_way) = under_way {
            under_way.await.unwrap();
        }
        for node in 0..Self::NODES {
            self.works(node).await;
        }
    }

    async fn flush_scripts(&mut self) {
        let server = Arc::clone(&self.server);
        let flush = move || server.lock().query::<()>(&["SCRIPT", "FLUSH"]).unwrap();
        tokio::task::spawn_blocking(flush).await.unwrap();
    }

    async fn rest(&mut self) {
        let shared = &self.nodes[0].store.shared;
        // Receipts that other nodes, and those that died, left in their outboxes.
        (0..BUCKETS).for_each(|bucket| shared.touch(bucket));
        shared.count_all().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_agrees_with_its_model() {
    let server = start();
    let name = "store::redis::tests::model::the_store_agrees_with_its_model";
    model::agrees(name, 40, Duration::from_secs(30), async || TwoNodes::new(Arc::clone(&server)).await).await;
}
