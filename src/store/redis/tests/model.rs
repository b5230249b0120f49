//! The model test on Redis: two nodes with clocks of their own on one server, with Sentinels, and on a cluster of six.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use loadtest::redis::{Cluster, Sentinels, Server, Settings};
use parking_lot::Mutex;
use prometheus::Registry;

use super::super::{
    Config, Opened, RedisMetrics, RedisStore,
    keys::{BUCKETS, SHARED, Slot, tenant_tag},
    mover,
    shards::Route,
};
use crate::{
    domain::{CorrectedClock, ManualClock, TenantId},
    store::{
        Arrival, Hint, Mailbox, Store,
        contract::{
            START,
            model::{self, During, World},
        },
    },
};

/// Servers for all sequences of a test.
enum Servers {
    Single(Server),
    Sentinels(Sentinels),
    Cluster(Cluster),
}

/// Every write reaches the kernel before it is answered: a server that is killed loses nothing, and no disk is waited for.
fn single() -> Servers {
    let settings = Settings {
        lines: vec!["appendonly yes".into(), "appendfsync no".into(), "save \"\"".into()],
        ..Settings::default()
    };
    Servers::Single(Server::start(&settings).unwrap())
}

impl Servers {
    fn url(&self) -> String {
        match self {
            Self::Single(server) => server.url(),
            Self::Sentinels(servers) => servers.url(),
            Self::Cluster(cluster) => cluster.url(),
        }
    }

    /// Kills the server, or a primary whose replica has all that it has; another serves when this returns. Of a cluster it is another
    /// primary each time, and every other time it gives way by order.
    fn fail(&mut self, turn: usize) {
        match self {
            Self::Single(server) => server.restart().unwrap(),
            Self::Sentinels(servers) => {
                servers.wait_until_healthy().unwrap();
                let dead = servers.kill_primary().unwrap();
                servers.wait_for_failover(dead).unwrap();
                servers.restart_dead().unwrap();
                servers.wait_until_healthy().unwrap();
            }
            Self::Cluster(cluster) => {
                cluster.wait_until_healthy().unwrap();
                let slots = model::devices().map(|device| Slot::of_bucket(device.bucket()));
                let slots: Vec<Slot> = slots.chain([Slot::of(SHARED), Slot::of(&tenant_tag(TenantId(0)))]).collect();
                let slot = slots[turn / 2 % slots.len()].0;
                if turn.is_multiple_of(2) {
                    let dead = cluster.kill_primary_of(slot).unwrap();
                    cluster.wait_for_failover(slot, dead).unwrap();
                    cluster.restart_dead().unwrap();
                } else {
                    cluster.fail_over(slot).unwrap();
                }
                cluster.wait_until_healthy().unwrap();
            }
        }
    }

    /// Another server instead of one that has seen many sequences.
    fn renew(&mut self) {
        if matches!(self, Self::Single(_)) {
            *self = single();
        }
    }

    fn flush_scripts(&mut self) {
        let servers = match self {
            Self::Single(server) => std::slice::from_mut(server),
            Self::Sentinels(servers) => servers.data(),
            Self::Cluster(cluster) => cluster.servers(),
        };
        for server in servers {
            // Replicas follow their primaries.
            if server.query::<String>(&["INFO", "replication"]).unwrap().contains("role:master") {
                server.query::<()>(&["FUNCTION", "FLUSH"]).unwrap();
            }
        }
    }
}

/// The nodes of one sequence; it has keys of its own.
struct TwoNodes {
    servers: Arc<Mutex<Servers>>,
    config: Config,
    nodes: Vec<Opened>,
    clocks: [Arc<ManualClock>; 2],
}

/// Sequences of one server: it reads all that they wrote whenever it starts, and nodes that wait for it for long are lost.
const SEQUENCES_MAX: usize = 100;
/// Counts sequences, and servers that failed.
static SEQUENCE: AtomicUsize = AtomicUsize::new(0);
static FAILURE: AtomicUsize = AtomicUsize::new(0);

async fn open(config: &Config, clock: &Arc<ManualClock>) -> Opened {
    let metrics = RedisMetrics::register(&Registry::new()).unwrap();
    let clock = CorrectedClock::over(clock.clone());
    RedisStore::open(config.clone(), model::limits(), clock, "localhost", None, metrics)
        .await
        .unwrap()
}

impl TwoNodes {
    async fn new(servers: Arc<Mutex<Servers>>) -> Self {
        let config = Config {
            url: servers.lock().url(),
            prefix: format!("m{}:", SEQUENCE.fetch_add(1, Ordering::Relaxed)),
            // Each goes by its own clock, wherever the model puts it.
            clock_skew_max_ms: u64::MAX,
            // Nor is a machine that runs many tests at once in a hurry.
            answer_within_ms: 10_000,
            wait_ms: 10_000,
            patience_ms: 30_000,
            heartbeat_ms: 100,
            ..Config::default()
        };
        let clocks = [ManualClock::at(START), ManualClock::at(START)];
        let nodes = vec![open(&config, &clocks[0]).await, open(&config, &clocks[1]).await];
        Self {
            servers,
            config,
            nodes,
            clocks,
        }
    }

    /// Waits until a node works: it reads and claims.
    async fn works(&self, node: usize) {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let store = &self.nodes[node].store;
            let reads = store.seat(&model::devices().next().unwrap()).await;
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
        let servers = Arc::clone(&self.servers);
        let turn = FAILURE.fetch_add(1, Ordering::Relaxed);
        tokio::task::spawn_blocking(move || servers.lock().fail(turn)).await.unwrap();
        if let Some(under_way) = under_way {
            under_way.await.unwrap();
        }
        for node in 0..Self::NODES {
            self.works(node).await;
        }
    }

    async fn flush_scripts(&mut self) {
        let servers = Arc::clone(&self.servers);
        tokio::task::spawn_blocking(move || servers.lock().flush_scripts()).await.unwrap();
    }

    async fn rest(&mut self) {
        let shared = &self.nodes[0].store.shared;
        // Receipts that other nodes, and those that died, left in their outboxes.
        (0..BUCKETS).for_each(|bucket| shared.touch(bucket));
        mover::round(&self.nodes[0].store).await.unwrap();
        shared.count_all().await.unwrap();
    }
}

async fn agrees(test: &str, cases: usize, servers: Servers) {
    let name = format!("store::redis::tests::model::{test}");
    let servers = Arc::new(Mutex::new(servers));
    model::agrees(&name, cases, Duration::from_secs(30), async || {
        if SEQUENCE.load(Ordering::Relaxed) % SEQUENCES_MAX == SEQUENCES_MAX - 1 {
            let servers = Arc::clone(&servers);
            tokio::task::spawn_blocking(move || servers.lock().renew()).await.unwrap();
        }
        TwoNodes::new(Arc::clone(&servers)).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_agrees_with_the_model() {
    agrees("one_server_agrees_with_the_model", 40, single()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_agree_with_the_model() {
    let servers = Servers::Sentinels(Sentinels::start(1).unwrap());
    agrees("sentinels_agree_with_the_model", 4, servers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_agrees_with_the_model() {
    let servers = Servers::Cluster(Cluster::start().unwrap());
    agrees("a_cluster_agrees_with_the_model", 4, servers).await;
}
