//! Tests of the engine against real servers: the contract, and what is its alone.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use prometheus::Registry;
use tokio::sync::mpsc;

use super::{Config, Opened, RedisMetrics, RedisStore};
use crate::{
    domain::{Clock, Durability, ManualClock},
    store::{
        Arrival, Store,
        contract::{self, Bench, START},
    },
};

struct Server {
    child: std::process::Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let child = std::process::Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--appendonly",
                "yes",
                "--save",
                "",
                "--dir",
            ])
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("apt-get install redis-server");
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Self {
            child,
            port,
            _folder: folder,
        }
    }
}

struct Redis {
    _server: Arc<Server>,
    config: Config,
    opened: Opened,
    clock: Arc<ManualClock>,
}

static PREFIX: AtomicU32 = AtomicU32::new(0);

impl Redis {
    async fn new() -> Self {
        let server = Arc::new(Server::start());
        let config = Config {
            url: format!("redis://127.0.0.1:{}", server.port),
            prefix: format!("u{}-{}:", std::process::id(), PREFIX.fetch_add(1, Ordering::Relaxed)),
            ..Config::default()
        };
        let clock = ManualClock::at(START);
        let opened = open(&config, &clock).await;
        Self {
            _server: server,
            config,
            opened,
            clock,
        }
    }
}

async fn open(config: &Config, clock: &Arc<ManualClock>) -> Opened {
    let metrics = RedisMetrics::register(&Registry::new()).unwrap();
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    RedisStore::open(config.clone(), contract::limits(), clock, "localhost", None, metrics)
        .await
        .unwrap()
}

impl Bench for Redis {
    fn store(&self) -> Arc<dyn Store> {
        self.opened.store.clone()
    }

    fn clock(&self) -> Arc<ManualClock> {
        Arc::clone(&self.clock)
    }

    fn arrivals(&mut self) -> &mut mpsc::Receiver<Arrival> {
        &mut self.opened.arrivals
    }

    fn durability(&self) -> Durability {
        Durability::Primary
    }

    async fn reopen(self) -> Self {
        self.opened.store.close().await;
        let opened = open(&self.config, &self.clock).await;
        Self { opened, ..self }
    }
}

contract::run_contract!(Redis::new().await);
