//! Redis Cluster: three primaries, a replica each.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use super::{RedisError, Server, Settings, Tls, free_port, until};

const SERVERS: usize = 6;
const ORDERED_AGAIN_AFTER: Duration = Duration::from_secs(6);

/// The servers.
#[derive(Debug)]
pub struct Cluster {
    servers: Vec<Server>,
}

impl Cluster {
    /// Starts six servers and makes a cluster of them.
    ///
    /// # Errors
    /// See [`RedisError`].
    pub fn start() -> Result<Self, RedisError> {
        Self::start_with(None)
    }

    /// The same, where all speak TLS.
    ///
    /// # Errors
    /// See [`RedisError`].
    pub fn start_with(tls: Option<&Tls>) -> Result<Self, RedisError> {
        let mut servers = Vec::new();
        for _ in 0..SERVERS {
            let settings = Settings::default()
                .tls(tls)
                .line(if tls.is_some() { "tls-cluster yes" } else { "tls-cluster no" })
                .line("cluster-enabled yes")
                .line("cluster-config-file nodes.conf")
                .line("cluster-node-timeout 2000")
                .line("repl-diskless-sync-delay 0")
                // The port of the bus is that of the server and 10,000 unless it is named; that one may be taken.
                .line(format!("cluster-port {}", free_port()?));
            servers.push(Server::start(&settings)?);
        }
        let cluster = Self { servers };
        let addresses: Vec<String> = cluster.servers.iter().map(Server::reached_at).collect();
        let files = tls.map(|tls| [&tls.ca, &tls.certificate, &tls.key].map(|file| file.display().to_string()));
        let flags = match &files {
            Some([ca, certificate, key]) => vec!["--tls", "--cacert", ca, "--cert", certificate, "--key", key],
            None => Vec::new(),
        };
        let mut words = vec!["--cluster", "create"];
        words.extend(addresses.iter().map(String::as_str));
        cluster.cli(&[&words[..], &["--cluster-replicas", "1", "--cluster-yes"], &flags].concat())?;
        cluster.wait_until_healthy()?;
        Ok(cluster)
    }

    fn cli(&self, words: &[&str]) -> Result<String, RedisError> {
        let output = Command::new("redis-cli").args(words).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            Ok(said)
        } else {
            Err(RedisError::Cli(format!("{said}{}", String::from_utf8_lossy(&output.stderr))))
        }
    }

    /// `redis-cluster://…`, with TLS `rediss-cluster://…`, with three of the servers.
    pub fn url(&self) -> String {
        let addresses: Vec<String> = self.servers.iter().take(3).map(Server::reached_at).collect();
        let s = if self.servers.iter().any(|server| server.tls_port.is_some()) {
            "s"
        } else {
            ""
        };
        format!("redis{s}-cluster://{}", addresses.join(","))
    }

    /// The servers, primaries and replicas.
    pub fn servers(&mut self) -> &mut [Server] {
        &mut self.servers
    }

    fn live(&self) -> impl Iterator<Item = (usize, &Server)> {
        self.servers.iter().enumerate().filter(|(_, server)| server.pid().is_some())
    }

    /// Where the primaries are: `redis://…` each.
    pub fn primary_urls(&self) -> Vec<String> {
        let is_primary = |server: &&Server| server.info("role").is_ok_and(|role| role.as_deref() == Some("master"));
        self.live().map(|(_, server)| server).filter(is_primary).map(Server::url).collect()
    }

    /// A replica of the primary of a slot, in step with it, becomes the primary while that one lives (`CLUSTER FAILOVER`).
    ///
    /// # Errors
    /// It is refused, or does not come about within 30 s.
    pub fn fail_over(&self, slot: u16) -> Result<(), RedisError> {
        let lacks = |what: &str| RedisError::Cli(what.into());
        let primary = self.primary_of(slot).ok_or_else(|| lacks("no primary serves the slot"))?;
        let port = self.servers.get(primary).map(|server| server.port.to_string());
        let follows = |server: &&Server| server.info("master_port").is_ok_and(|of| of.is_some() && of == port);
        let replica = self
            .servers
            .iter()
            .find(follows)
            .ok_or_else(|| lacks("the primary has no replica"))?;
        let _: () = replica.query(&["CLUSTER", "FAILOVER"])?;
        self.wait_for_failover(slot, primary)
    }

    /// The primary that serves a slot, as the first live server sees it.
    pub fn primary_of(&self, slot: u16) -> Option<usize> {
        let (_, server) = self.live().next()?;
        let nodes: String = server.query(&["CLUSTER", "NODES"]).ok()?;
        let serves = |line: &&str| {
            line.contains("master")
                && !line.contains("fail")
                && line.split_whitespace().skip(8).any(|range| {
                    let (first, last) = range.split_once('-').unwrap_or((range, range));
                    first.parse().is_ok_and(|first: u16| first <= slot) && last.parse().is_ok_and(|last: u16| slot <= last)
                })
        };
        let line = nodes.lines().find(serves)?;
        let address = line.split_whitespace().nth(1)?.split('@').next()?;
        self.servers.iter().position(|server| server.address() == address)
    }

    /// SIGKILL to the primary of a slot; answers which server it was.
    pub fn kill_primary_of(&mut self, slot: u16) -> Option<usize> {
        let index = self.primary_of(slot)?;
        self.servers.get_mut(index)?.kill();
        Some(index)
    }

    /// Lets the replica of a slot's primary take its place, as before maintenance; answers which server it was.
    ///
    /// # Errors
    /// There is none, or it does not come about within 30 s.
    pub fn fail_over(&self, slot: u16) -> Result<usize, RedisError> {
        let lacks = |what: &str| RedisError::Cli(format!("no {what} of the slot {slot} is known"));
        let index = self.primary_of(slot).ok_or_else(|| lacks("primary"))?;
        let port = self.servers.get(index).map_or(0, |primary| primary.port).to_string();
        let follows = |server: &Server| server.info("master_port").is_ok_and(|of| of.as_deref() == Some(&port));
        let (_, replica) = self.live().find(|(_, server)| follows(server)).ok_or_else(|| lacks("replica"))?;
        // A server gives it up when its primary is too busy for 5 s; then it is ordered again, and refuses when it has just happened.
        let mut ordered: Option<Instant> = None;
        let happened = || {
            if ordered.is_none_or(|at| at.elapsed() > ORDERED_AGAIN_AFTER) {
                ordered = Some(Instant::now());
                let _ = replica.query::<()>(&["CLUSTER", "FAILOVER"]);
            }
            self.primary_of(slot).is_some_and(|now| now != index)
        };
        until("a failover by order", happened, || replica.log())?;
        self.wait_for_failover(slot, index)?;
        Ok(index)
    }

    /// Starts the servers that are dead; they come back as replicas.
    ///
    /// # Errors
    /// See [`RedisError`].
    pub fn restart_dead(&mut self) -> Result<(), RedisError> {
        for server in &mut self.servers {
            if server.pid().is_none() {
                server.restart()?;
            }
        }
        Ok(())
    }

    /// Waits until every server sees every slot served, and every primary has its replica in step.
    ///
    /// # Errors
    /// It does not come about within 30 s.
    pub fn wait_until_healthy(&self) -> Result<(), RedisError> {
        let healthy = || {
            self.servers.iter().all(|server| {
                let info: String = server.query(&["CLUSTER", "INFO"]).unwrap_or_default();
                let role = server.info("role").ok().flatten();
                let in_step = match role.as_deref() {
                    Some("master") => server.reaches(1).unwrap_or(false),
                    _ => server.info("master_link_status").is_ok_and(|value| value.as_deref() == Some("up")),
                };
                let whole = ["cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:6"];
                whole.iter().all(|fact| info.contains(fact)) && in_step
            })
        };
        until("a whole cluster", healthy, || {
            self.servers.first().map(Server::log).unwrap_or_default()
        })
    }

    /// Waits until another server than that one serves the slot.
    ///
    /// # Errors
    /// It does not come about within 30 s.
    pub fn wait_for_failover(&self, slot: u16, from: usize) -> Result<(), RedisError> {
        let other = || {
            let whole = |server: &Server| {
                server
                    .query::<String>(&["CLUSTER", "INFO"])
                    .is_ok_and(|info| info.contains("cluster_state:ok"))
            };
            self.primary_of(slot).is_some_and(|now| now != from) && self.live().all(|(_, server)| whole(server))
        };
        until("a failover", other, || self.servers.first().map(Server::log).unwrap_or_default())
    }

    /// Moves a slot with its keys to the primary of another one, key by key; `between` is called before each key and before the end.
    ///
    /// # Errors
    /// A server refuses a step.
    pub fn migrate(&self, slot: u16, to_primary_of: u16, mut between: impl FnMut()) -> Result<(), RedisError> {
        let find = |slot| self.primary_of(slot).and_then(|index| self.servers.get(index));
        let (Some(from), Some(to)) = (find(slot), find(to_primary_of)) else {
            return Err(RedisError::Cli("no primary serves the slot".into()));
        };
        let (from_id, to_id): (String, String) = (from.query(&["CLUSTER", "MYID"])?, to.query(&["CLUSTER", "MYID"])?);
        let slot = slot.to_string();
        let _: () = to.query(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id])?;
        let _: () = from.query(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id])?;
        loop {
            let keys: Vec<Vec<u8>> = from.query(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"])?;
            let Some(key) = keys.first() else { break };
            between();
            let key = String::from_utf8_lossy(key);
            let port = to.port.to_string();
            let _: () = from.query(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000", "REPLACE"])?;
        }
        between();
        for server in [to, from] {
            let _: () = server.query(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id])?;
        }
        for (_, server) in self.live() {
            // A replica learns it by gossip.
            let _ = server.query::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
        }
        Ok(())
    }
}
