//! A primary, its replicas, and three Sentinels that watch over them.

use std::time::Duration;

use super::{RedisError, Server, Settings, until};

/// The name of the service at the Sentinels.
const SERVICE: &str = "unpoll";

/// The servers.
#[derive(Debug)]
pub struct Sentinels {
    data: Vec<Server>,
    watching: Vec<Server>,
}

impl Sentinels {
    /// Starts a primary with `replicas` replicas, and three Sentinels that fail over after a second.
    ///
    /// # Errors
    /// See [`RedisError`].
    pub fn start(replicas: usize) -> Result<Self, RedisError> {
        Self::start_with(replicas, &Settings::default(), Duration::from_secs(1))
    }

    /// The same with settings of the servers with the data: any of them can become the primary. Where they have TLS, the Sentinels have it, too.
    /// They fail over when a primary does not answer for `down_after`.
    ///
    /// # Errors
    /// See [`RedisError`].
    pub fn start_with(replicas: usize, each: &Settings, down_after: Duration) -> Result<Self, RedisError> {
        let tls = each.tls.as_ref();
        let mut data = vec![Server::start(each)?];
        let port = |data: &[Server]| data.first().map_or(0, |primary| primary.tls_port.unwrap_or(primary.port));
        for _ in 0..replicas {
            let of = format!("replicaof 127.0.0.1 {}", port(&data));
            data.push(Server::start(&each.clone().line(of).line("repl-diskless-sync-delay 0"))?);
        }
        let mut watching = Vec::new();
        for _ in 0..3 {
            let port = port(&data);
            let settings = Settings {
                sentinel: true,
                tls: None,
                lines: vec![
                    format!("sentinel monitor {SERVICE} 127.0.0.1 {port} 2"),
                    format!("sentinel down-after-milliseconds {SERVICE} {}", down_after.as_millis()),
                    format!("sentinel failover-timeout {SERVICE} 3000"),
                    format!("sentinel parallel-syncs {SERVICE} 2"),
                ],
            };
            watching.push(Server::start(&settings.tls(tls))?);
        }
        let servers = Self { data, watching };
        servers.wait_until_healthy()?;
        Ok(servers)
    }

    /// `redis-sentinel://…/unpoll`, with TLS `rediss-sentinel://…`.
    pub fn url(&self) -> String {
        let addresses: Vec<String> = self.watching.iter().map(Server::reached_at).collect();
        let s = if self.watching.iter().any(|server| server.tls_port.is_some()) {
            "s"
        } else {
            ""
        };
        format!("redis{s}-sentinel://{}/{SERVICE}", addresses.join(","))
    }

    /// Where the primary is, as most Sentinels say.
    pub fn primary(&self) -> Option<usize> {
        let says = |sentinel: &Server| {
            let address: Vec<String> = sentinel.query(&["SENTINEL", "get-master-addr-by-name", SERVICE]).ok()?;
            let port: u16 = address.get(1)?.parse().ok()?;
            self.data
                .iter()
                .position(|server| server.port == port || server.tls_port == Some(port))
        };
        let said: Vec<usize> = self.watching.iter().filter_map(says).collect();
        said.iter()
            .copied()
            .find(|one| said.iter().filter(|other| *other == one).count() * 2 > self.watching.len())
    }

    /// Where the primary is: `redis://…`.
    pub fn primary_url(&self) -> Option<String> {
        self.data.get(self.primary()?).map(Server::url)
    }

    /// Has the Sentinels make a replica the primary while the primary lives.
    ///
    /// # Errors
    /// They refuse, or it does not come about within 30 s.
    pub fn fail_over(&self) -> Result<(), RedisError> {
        let primary = self.primary().ok_or_else(|| RedisError::Cli("no primary".into()))?;
        if let Some(sentinel) = self.watching.first() {
            let _: () = sentinel.query(&["SENTINEL", "FAILOVER", SERVICE])?;
        }
        self.wait_for_failover(primary)
    }

    /// SIGKILL to the primary; answers which server it was.
    pub fn kill_primary(&mut self) -> Option<usize> {
        let index = self.primary()?;
        self.data.get_mut(index)?.kill();
        Some(index)
    }

    /// The servers with the data: primary and replicas.
    pub fn data(&mut self) -> &mut [Server] {
        &mut self.data
    }

    /// Starts the servers that are dead; they come back as replicas.
    ///
    /// # Errors
    /// See [`RedisError`].
    pub fn restart_dead(&mut self) -> Result<(), RedisError> {
        for server in &mut self.data {
            if server.pid().is_none() {
                server.restart()?;
            }
        }
        Ok(())
    }

    /// Waits until the Sentinels agree on a primary that has all the others as replicas, in step with it.
    ///
    /// # Errors
    /// It does not come about within 30 s.
    pub fn wait_until_healthy(&self) -> Result<(), RedisError> {
        let healthy = || {
            let Some(primary) = self.primary().and_then(|index| self.data.get(index)) else {
                return false;
            };
            let is = |server: &Server, field, wanted: &str| server.info(field).is_ok_and(|value| value.as_deref() == Some(wanted));
            let replicas = self.data.iter().filter(|server| server.port != primary.port);
            let knows = |sentinel: &Server| {
                let text = sentinel.info("master0").ok().flatten().unwrap_or_default();
                text.contains("status=ok") && text.contains("sentinels=3") && text.contains(&format!("slaves={}", self.data.len() - 1))
            };
            is(primary, "role", "master")
                && is(primary, "connected_slaves", &(self.data.len() - 1).to_string())
                && primary
                    .reaches(u32::try_from(self.data.len() - 1).unwrap_or(u32::MAX))
                    .unwrap_or(false)
                && replicas.clone().all(|replica| is(replica, "master_link_status", "up"))
                && self.watching.iter().all(knows)
        };
        until("a primary with its replicas that the Sentinels agree on", healthy, || {
            self.watching.first().map(Server::log).unwrap_or_default()
        })
    }

    /// Waits until another server than that one is the primary and takes writes.
    ///
    /// # Errors
    /// It does not come about within 30 s.
    pub fn wait_for_failover(&self, from: usize) -> Result<(), RedisError> {
        let other = || {
            self.primary().is_some_and(|now| {
                now != from
                    && self
                        .data
                        .get(now)
                        .is_some_and(|server| server.info("role").is_ok_and(|role| role.as_deref() == Some("master")))
            })
        };
        until("a failover", other, || self.watching.first().map(Server::log).unwrap_or_default())
    }
}
