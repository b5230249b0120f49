//! Nodes on one Redis, all of our own: what the runs about Redis measure.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use loadtest::{
    Error, Poster, process,
    redis::{self, Info},
    server::{Launch, Server},
};

use super::{
    SERVER_CORE,
    target::{Protection, Recipe, random_password, read},
};

/// How long a fact about the service may take to come about.
const SOON: Duration = Duration::from_secs(30);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What our keys in Redis begin with.
pub const KEYS: &str = "unpoll:";

/// What a service on Redis is made of.
#[derive(Args, Clone)]
pub struct Shape {
    /// The `unpoll` binary that each node runs.
    #[arg(long, value_name = "PATH")]
    spawn: PathBuf,
    /// Replicas of the Redis server; with any, events are accepted at level `replicated`.
    #[arg(long, default_value_t = 0)]
    pub replicas: usize,
    /// A setting of the nodes, by its name in their environment; may be repeated.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Connect devices without TLS.
    #[arg(long)]
    plain: bool,
    /// Pin all nodes to core 0; Redis and the drivers to core 1.
    #[arg(long)]
    pub pin: bool,
    /// Logins at the same time.
    #[arg(long, default_value_t = 64)]
    pub at_once: usize,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

impl Shape {
    /// How devices connect.
    pub fn transport(&self) -> Protection {
        if self.plain { Protection::Plain } else { Protection::Tls }
    }

    /// What events are accepted at.
    pub fn durability(&self) -> &'static str {
        if self.replicas > 0 { "replicated" } else { "primary" }
    }

    /// Starts Redis, its replicas and so many nodes, and waits until all know of one another.
    pub async fn start(&self, nodes: usize) -> Result<Service, Error> {
        // Nothing is rewritten meanwhile: its cost would fall to whatever happens then, and the file would not only grow.
        let settings = redis::Settings::default().line("auto-aof-rewrite-percentage 0");
        // They inherit the core that this process is pinned to.
        let redis = redis::Server::start(&settings)?;
        let mut replicas = Vec::new();
        for _ in 0..self.replicas {
            let settings = settings.clone().line(format!("replicaof 127.0.0.1 {}", redis.port));
            replicas.push(redis::Server::start(&settings)?);
        }
        let follow = u32::try_from(self.replicas).unwrap_or(u32::MAX);
        until("the replicas", async || Ok(redis.reaches(follow)?)).await?;
        let mut environment = vec![
            ("UNPOLL_REDIS_URL".into(), redis.url()),
            ("UNPOLL_REDIS_DURABILITY".into(), self.durability().into()),
        ];
        environment.extend(self.settings.iter().cloned());
        let launch = Launch {
            core: self.pin.then_some(SERVER_CORE),
            plain: self.plain,
            environment,
            ..Launch::new(&self.spawn)
        };
        let mut running = Vec::new();
        for _ in 0..nodes {
            running.push(Server::start(&launch).await?);
        }
        let first = running.first().ok_or_else(|| Error::Machine("--nodes: at least one".into()))?;
        let service = Service {
            key: read(&first.key())?,
            transport: self.transport(),
            password: random_password()?,
            nodes: running,
            redis,
            replicas,
        };
        let all = nodes as f64;
        until("all nodes to know all", async || {
            let known = service.each("unpoll_nodes").await?;
            Ok(known.iter().all(|known| *known >= all))
        })
        .await?;
        Ok(service)
    }
}

/// Reads `NAME=VALUE`.
fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text} is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Waits until it is so.
pub async fn until(what: &'static str, mut is: impl AsyncFnMut() -> Result<bool, Error>) -> Result<(), Error> {
    let end = Instant::now() + SOON;
    while !is().await? {
        if Instant::now() >= end {
            return Err(Error::Timeout { what, within: SOON });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// A service of our own. It ends with this value, its nodes first.
pub struct Service {
    nodes: Vec<Server>,
    pub redis: redis::Server,
    replicas: Vec<redis::Server>,
    key: String,
    password: String,
    transport: Protection,
}

impl Service {
    /// A poster of its own connection to that node.
    pub fn poster(&self, node: usize) -> Result<Poster, Error> {
        Ok(Poster::new(self.node(node)?.ready().http, Some(self.key.clone())))
    }

    /// How devices of that name connect to that node.
    pub fn recipe(&self, node: usize, prefix: &str) -> Result<Recipe, Error> {
        Ok(Recipe::of(self.node(node)?, self.transport, prefix, &self.password))
    }

    fn node(&self, node: usize) -> Result<&Server, Error> {
        self.nodes
            .get(node)
            .ok_or_else(|| Error::Machine(format!("there is no node {node}")))
    }

    /// CPU that each node has used.
    pub fn cpu(&self) -> Result<Vec<Duration>, Error> {
        self.nodes.iter().map(|node| process::cpu(node.pid()?)).collect()
    }

    /// Memory (RssAnon) of each node.
    pub fn memory(&self) -> Result<Vec<u64>, Error> {
        self.nodes.iter().map(|node| process::memory(node.pid()?)).collect()
    }

    /// CPU that the replicas have used.
    pub fn cpu_of_replicas(&self) -> Result<Duration, Error> {
        let mut all = Duration::ZERO;
        for replica in &self.replicas {
            all += Info::of(replica)?.cpu();
        }
        Ok(all)
    }

    /// The sum of these series of each node; `series` is a name, with the beginning of its labels or none.
    pub async fn each(&self, series: &str) -> Result<Vec<f64>, Error> {
        let mut values = Vec::new();
        for node in &self.nodes {
            let admin = node.ready().admin.ok_or_else(|| Error::Server("no admin listener".into()))?;
            values.push(sum(&Poster::new(admin, None).get("/metrics").await?.text(), series));
        }
        Ok(values)
    }

    /// The same over all nodes.
    pub async fn sum(&self, series: &str) -> Result<f64, Error> {
        Ok(self.each(series).await?.iter().sum())
    }

    /// Stops the nodes, all at once. True when all stopped as they should.
    pub async fn stop(self) -> Result<bool, Error> {
        let mut stops = tokio::task::JoinSet::new();
        for node in self.nodes {
            stops.spawn(node.stop());
        }
        let mut clean = true;
        while let Some(stopped) = stops.join_next().await {
            clean &= stopped.map_err(|error| Error::Server(error.to_string()))??;
        }
        Ok(clean)
    }
}

/// Adds up the samples whose name and labels begin so.
fn sum(metrics: &str, series: &str) -> f64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(series)?;
        // A longer name is another metric.
        let whole = series.contains('{') || rest.starts_with([' ', '{']);
        rest.rsplit_once(' ').filter(|_| whole)?.1.parse::<f64>().ok()
    };
    metrics.lines().filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_metric_are_added_up() {
        let metrics = "# HELP a b\na{k=\"x\",l=\"1\"} 2\na{k=\"y\",l=\"1\"} 3.5\na_count 7\n";
        for (series, expected) in [("a", 5.5), ("a{k=\"x\"", 2.0), ("a_count", 7.0), ("b", 0.0)] {
            assert_eq!(sum(metrics, series), expected, "{series}");
        }
    }
}
