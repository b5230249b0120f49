//! What the demo stands on: a directory of its own, and a server in a process of its own; or several, on a Redis of the user's.

use std::{path::PathBuf, time::Duration};

use futures_util::future::join_all;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, sleep_until},
};

use super::{metrics::Metrics, node::Node};
use crate::{
    certificate::CA_FILE,
    cli::{Failure, Outcome, client::Client, secret::generate_password},
    config::Layers,
    store::redis,
};

/// How long servers may take to stop before they are killed.
const STOPPED_WITHIN: Duration = Duration::from_secs(15);
/// How long a node that was killed stays away.
const DEAD_FOR: Duration = Duration::from_secs(3);
/// How the nodes of the demo differ from the defaults: quicker to see that one is gone, and to book what they counted.
const NODE_SETTINGS: [(&str, &str); 3] = [
    ("UNPOLL_REDIS_HEARTBEAT_MS", "1000"),
    ("UNPOLL_REDIS_NODE_LOST_SECS", "5"),
    ("UNPOLL_LEDGER_FLUSH_SECS", "1"),
];

/// The servers of the demo, and how to reach them.
pub struct Stage {
    directory: Directory,
    nodes: Vec<Node>,
    redis: Option<redis::Config>,
    /// Speaks to each node with the admin key; the first of them answers questions.
    pub clients: Vec<Client>,
    /// Host and port of XMPP over TLS, of each node.
    pub xmpps: Vec<String>,
    /// Host and port of HTTPS, of each node.
    pub https: Vec<String>,
    /// The XMPP domain.
    pub domain: String,
}

/// A directory that goes away with its owner.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // Nothing is left to do about a directory that cannot be removed; it lies among the temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Several nodes on one Redis.
pub struct Shared {
    /// How it is reached, and the prefix of this demo's keys.
    redis: redis::Config,
    environment: Vec<(String, String)>,
    nodes: usize,
}

impl Shared {
    /// `nodes` of them on the Redis of that URL, with keys of their own; other settings of Redis are those of the environment.
    pub fn new(url: &str, nodes: usize) -> Result<Self, Failure> {
        let wrong = |error: crate::config::ConfigError| Failure::Usage(error.to_string());
        let given: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("UNPOLL_REDIS_") && !["UNPOLL_REDIS_URL", "UNPOLL_REDIS_PREFIX"].contains(&name.as_str()))
            .collect();
        let own = [
            ("UNPOLL_REDIS_URL".to_owned(), url.to_owned()),
            ("UNPOLL_REDIS_PREFIX".to_owned(), format!("unpoll-demo-{}:", generate_password()?)),
        ];
        let defaults = NODE_SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let environment: Vec<_> = defaults.into_iter().chain(given).chain(own).collect();
        let mut layers = Layers::new().map_err(wrong)?;
        layers.environment(environment.iter().cloned());
        let redis = layers.build().map_err(wrong)?.redis;
        match redis.problems() {
            problems if problems.is_empty() => Ok(Self { redis, environment, nodes }),
            problems => Err(Failure::Usage(problems.join("\n"))),
        }
    }

    /// What the keys of this demo begin with.
    pub fn prefix(&self) -> &str {
        &self.redis.prefix
    }
}

impl Stage {
    /// The place for it; nothing runs yet. `shared`: `None` for one server with a store of its own.
    pub fn new(poll_interval_secs: u64, shared: Option<Shared>) -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("unpoll-demo-{}", generate_password()?));
        std::fs::create_dir(&path).map_err(|error| Failure::Failed(format!("{} cannot be made: {error}", path.display())))?;
        let directory = Directory(path);
        let (redis, mut environment, count) = match shared {
            Some(shared) => (Some(shared.redis), shared.environment, shared.nodes),
            None => (None, Vec::new(), 1),
        };
        environment.push(("UNPOLL_LEDGER_POLL_INTERVAL_SECS".to_owned(), poll_interval_secs.to_string()));
        let data = |number: usize| directory.0.join(format!("data{number}"));
        let nodes = (0..count)
            .map(|number| Node::new(data(number), data(0), environment.clone()))
            .collect();
        Ok(Self {
            nodes,
            redis,
            clients: Vec::new(),
            xmpps: Vec::new(),
            https: Vec::new(),
            domain: String::new(),
            directory,
        })
    }

    /// Starts the servers, on free ports of loopback.
    pub async fn start(&mut self) -> Outcome {
        if let Some(redis) = &self.redis {
            // The words of a node that does not start would say the same, at the end of a log.
            redis::look_at(redis).await.map_err(Failure::failed)?;
        }
        let mut key = String::new();
        for (number, node) in self.nodes.iter_mut().enumerate() {
            node.start().await?;
            if number == 0 {
                let key_file = self.directory.0.join("data0/admin.key");
                key = std::fs::read_to_string(&key_file)
                    .map_err(|error| Failure::Failed(format!("{} cannot be read: {error}", key_file.display())))?;
                self.domain = node.address("domain")?;
            }
            self.clients
                .push(Client::new(&format!("http://{}", node.address("http")?), key.trim(), None)?);
            self.xmpps.push(node.address("xmpps")?);
            self.https.push(node.address("https")?);
        }
        Ok(())
    }

    /// Speaks to the first server.
    pub fn client(&self) -> Result<&Client, Failure> {
        self.clients
            .first()
            .ok_or_else(|| Failure::Failed("the server was not started".into()))
    }

    /// The file with the authority to trust.
    pub fn ca(&self) -> PathBuf {
        self.directory.0.join("data0").join(CA_FILE)
    }

    /// Whether there are several nodes.
    pub fn is_shared(&self) -> bool {
        self.redis.is_some()
    }

    /// How many nodes serve, and how many there are. `None`: there is one, as ever.
    pub async fn nodes(&self) -> Option<(usize, usize)> {
        if !self.is_shared() {
            return None;
        }
        let up = join_all(self.nodes.iter().map(Node::is_up)).await;
        Some((up.into_iter().filter(|up| *up).count(), self.nodes.len()))
    }

    /// Kills the last node at that time, and starts it again after a while.
    pub async fn accident(&self, at: Instant) -> Outcome {
        let Some(node) = self.nodes.last().filter(|_| self.is_shared()) else {
            return Ok(());
        };
        sleep_until(at).await;
        node.kill().await?;
        sleep(DEAD_FOR).await;
        node.start_again().await
    }

    /// What the servers' metrics say now, all together.
    pub async fn metrics(&self) -> Result<Metrics, Failure> {
        let mut all = String::new();
        for node in &self.nodes {
            all.push_str(&node.metrics().await?);
            all.push('\n');
        }
        let mut metrics = Metrics::read(&all);
        metrics.add_polls_avoided(self.nodes.iter().map(Node::polls_before).sum());
        Ok(metrics)
    }

    /// The polls avoided so far, if the servers tell.
    pub async fn polls_avoided(&self) -> Option<f64> {
        let told = join_all(self.nodes.iter().map(Node::polls_avoided)).await;
        let told: Vec<f64> = told.into_iter().flatten().collect();
        (!told.is_empty()).then(|| told.iter().sum())
    }

    /// Adds the end of the servers' logs to a failure.
    pub fn explain(&self, failure: Failure) -> Failure {
        let logs: Vec<String> = self.nodes.iter().map(Node::log).filter(|log| !log.is_empty()).collect();
        if logs.is_empty() {
            return failure;
        }
        let whose = if logs.len() == 1 {
            "the server's log ends"
        } else {
            "the servers' logs end"
        };
        Failure::Failed(format!("{failure}; {whose} with:\n{}", logs.join("\n")))
    }

    /// Stops the servers, and takes away what they left in Redis.
    pub async fn clear(&self) -> Outcome {
        let by = Instant::now() + STOPPED_WITHIN;
        join_all(self.nodes.iter().map(|node| node.stop(by))).await;
        let Some(redis) = &self.redis else { return Ok(()) };
        redis::remove_all(redis).await.map(|_| ()).map_err(|error| {
            Failure::Failed(format!(
                "keys of the demo were left in Redis, they begin with {}: {error}",
                redis.prefix
            ))
        })
    }
}

/// Starts a child that does not outlive a demo that ends in order.
pub fn spawn(command: &mut Command) -> Result<Child, Failure> {
    command
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Failure::Failed(format!("no process can be started: {error}")))
}
