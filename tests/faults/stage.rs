//! Node processes on one Redis, and what a test asks of them.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use loadtest::{Options, Password, Security, redis};
use serde_json::{Value, json};

use crate::support::{Backend, Device, Service, Settings, wait_for};

/// How long a fact may take while the machine starts processes and logs in crowds.
pub const LATE: Duration = Duration::from_secs(120);

pub const PASSWORD: &str = "secret";
/// The least that RFC 7677 allows; verifiers are the same for all devices, so that each process derives them once.
const ITERATIONS: u32 = 4_096;
const SALT: [u8; 16] = *b"the same for all";

/// Servers that hold the truth.
pub trait Redis {
    /// Addresses of those that are primaries now.
    fn primaries(&self) -> Vec<String>;
}

impl Redis for redis::Server {
    fn primaries(&self) -> Vec<String> {
        vec![self.url()]
    }
}

impl Redis for redis::Sentinels {
    fn primaries(&self) -> Vec<String> {
        vec![wait_for("a primary", LATE, || self.primary_url())]
    }
}

impl Redis for redis::Cluster {
    fn primaries(&self) -> Vec<String> {
        self.primary_urls()
    }
}

/// The nodes, with a key that all of them take.
pub struct Stage<R> {
    /// One at a time: each starts many processes.
    _alone: MutexGuard<'static, ()>,
    pub nodes: Vec<Service>,
    pub key: String,
    pub redis: R,
}

/// What nodes on that Redis are told: they find one another dead after 3 s.
pub fn settings(url: &str) -> Settings {
    Settings::default()
        .set("UNPOLL_REDIS_URL", url)
        .set("UNPOLL_REDIS_HEARTBEAT_MS", "500")
        .set("UNPOLL_REDIS_NODE_LOST_SECS", "3")
        .set("UNPOLL_XMPP_REQUIRE_TLS", "false")
}

impl<R> Stage<R> {
    pub fn start(redis: R, nodes: impl IntoIterator<Item = Settings>) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let nodes: Vec<Service> = nodes.into_iter().map(Service::start_with).collect();
        let key = nodes[0].admin_key();
        Self {
            _alone: alone,
            nodes,
            key,
            redis,
        }
    }

    pub fn backend(&self, node: usize) -> Backend {
        Backend {
            address: self.nodes[node].http,
            key: self.key.clone(),
        }
    }

    /// `/readyz` of a node: whether it is, and what it says.
    pub fn readiness(&self, node: usize) -> (bool, Value) {
        let admin = Backend {
            address: self.nodes[node].admin,
            key: self.key.clone(),
        };
        let answer = admin.get("/readyz");
        (answer.status == 200, serde_json::from_str(&answer.body).unwrap_or_default())
    }

    #[track_caller]
    pub fn wait_until_ready(&self) {
        wait_for("every node to be ready", LATE, || {
            (0..self.nodes.len()).all(|node| self.readiness(node).0).then_some(())
        });
    }

    pub fn presence(&self, node: usize, device: &str) -> Value {
        self.backend(node).get(&format!("/v1/devices/{device}/presence")).expect(200).json()
    }

    /// Registers devices that all have the same password.
    #[track_caller]
    pub fn add_devices(&self, ids: impl IntoIterator<Item = String>) {
        let credential = Password::new(PASSWORD).credential(&SALT, ITERATIONS);
        let line = |id| json!({"id": id, "credentials": [&credential]}).to_string() + "\n";
        let body: String = ids.into_iter().map(line).collect();
        let headers = [("content-type", "application/x-ndjson")];
        let answer = self
            .backend(0)
            .request("POST", "/v1/devices", &headers, body.as_bytes())
            .expect(200);
        assert_eq!(answer.json()["rejected"], 0, "{answer:?}");
    }

    /// A device as it would connect to a node.
    pub fn options(&self, node: usize, id: &str) -> Options {
        let password = std::sync::Arc::new(Password::new(PASSWORD));
        Options::new(self.nodes[node].xmpp, Security::Plain, "localhost", id, password)
    }

    #[track_caller]
    pub fn online(&self, node: usize, id: &str) -> Device {
        Device::connect(self.options(node, id)).unwrap_or_else(|error| panic!("{id}: {error}"))
    }
}
