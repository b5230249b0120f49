//! A server of the demo: a process of its own, which can be killed and started again where it was.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
    time::{Instant, timeout},
};

use super::{
    fleet::{ask_to_stop, stop_at, this_program},
    metrics::Metrics,
    stage::spawn,
};
use crate::{
    certificate::{CERTIFICATE_FILE, KEY_FILE},
    cli::{Failure, client::Client},
};

/// How long a server may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Boxes that poll, and the backend.
const HTTP_CONNECTIONS_MAX: u32 = 6_000;
/// How much of its log a failure shows.
const LOG_LINES_SHOWN: usize = 5;

/// One server, while it runs and while it does not.
pub struct Node {
    directory: PathBuf,
    /// Whose certificate it shows: its own, or that of the first.
    certificate_of: PathBuf,
    environment: Vec<(String, String)>,
    child: tokio::sync::Mutex<Option<Child>>,
    /// Its ready line; from then on it keeps its addresses.
    ready: Value,
    admin: Option<Client>,
    polls: Mutex<Polls>,
}

/// The polls that it counted as avoided.
#[derive(Debug, Default)]
struct Polls {
    /// In lives that ended.
    before: f64,
    /// In this one, as far as it was asked.
    now: f64,
}

impl Node {
    /// A server with its files in `directory`, and with the certificate of the one in `certificate_of`.
    pub fn new(directory: PathBuf, certificate_of: PathBuf, environment: Vec<(String, String)>) -> Self {
        Self {
            directory,
            certificate_of,
            environment,
            child: tokio::sync::Mutex::default(),
            ready: Value::Null,
            admin: None,
            polls: Mutex::default(),
        }
    }

    /// Starts it for the first time, on free ports of loopback.
    pub async fn start(&mut self) -> Result<(), Failure> {
        self.ready = self.run().await?;
        self.admin = Some(Client::new(&format!("http://{}", self.address("admin")?), "", None)?);
        Ok(())
    }

    /// Starts it again, where it was.
    pub async fn start_again(&self) -> Result<(), Failure> {
        self.run().await.map(|_| ())
    }

    /// SIGKILL: it has no time to do anything.
    pub async fn kill(&self) -> Result<(), Failure> {
        // What it counted since it was asked last is lost with it.
        let _ = self.polls_avoided().await;
        if let Some(mut child) = self.child.lock().await.take() {
            child.kill().await.map_err(Failure::failed)?;
        }
        let mut polls = self.polls.lock();
        polls.before += std::mem::take(&mut polls.now);
        Ok(())
    }

    /// Whether it serves.
    pub async fn is_up(&self) -> bool {
        self.child.lock().await.is_some()
    }

    /// Asks it to stop; it is killed when it has not by then.
    pub async fn stop(&self, by: Instant) {
        if let Some(mut child) = self.child.lock().await.take() {
            ask_to_stop(&child);
            stop_at(&mut child, by).await;
        }
    }

    /// Where one of its listeners is: `http`, `xmpps`, …
    pub fn address(&self, listener: &str) -> Result<String, Failure> {
        let text = self.ready.get(listener).and_then(Value::as_str).map(str::to_owned);
        text.ok_or_else(|| Failure::Failed(format!("the server's ready line has no {listener}: {}", self.ready)))
    }

    /// What its metrics say now, as Prometheus reads them.
    pub async fn metrics(&self) -> Result<String, Failure> {
        let admin = self
            .admin
            .as_ref()
            .ok_or_else(|| Failure::Failed("a server was not started".into()))?;
        let (status, body) = admin.exchange(reqwest::Method::GET, "/metrics", None).await?;
        if !status.is_success() {
            return Err(Failure::Failed(format!("the server's /metrics answers with HTTP {status}")));
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// The polls avoided in all its lives, as far as it tells.
    pub async fn polls_avoided(&self) -> Option<f64> {
        let told = match self.metrics().await {
            Ok(text) => Metrics::read(&text).polls_avoided(),
            Err(_) => None,
        };
        let mut polls = self.polls.lock();
        polls.now = told.unwrap_or(polls.now);
        let all = polls.before + polls.now;
        (told.is_some() || all > 0.0).then_some(all)
    }

    /// The polls avoided in lives that ended.
    pub fn polls_before(&self) -> f64 {
        self.polls.lock().before
    }

    /// The end of its log. Empty: it said nothing.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(log_path(&self.directory)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.split_at(lines.len().saturating_sub(LOG_LINES_SHOWN)).1.join("\n")
    }

    async fn run(&self) -> Result<Value, Failure> {
        let mut child = self.spawn()?;
        let ready = match timeout(READY_WITHIN, ready_line(&mut child)).await {
            Ok(ready) => ready?,
            Err(_) => return Err(Failure::Failed("the server was not ready within 30 s".into())),
        };
        *self.child.lock().await = Some(child);
        Ok(ready)
    }

    fn spawn(&self) -> Result<Child, Failure> {
        let failed = |error: std::io::Error| Failure::Failed(format!("{} cannot be written: {error}", self.directory.display()));
        std::fs::create_dir_all(&self.directory).map_err(failed)?;
        let log = std::fs::File::options().create(true).append(true).open(log_path(&self.directory));
        let mut command = this_program()?;
        command.arg("serve").arg("--data-dir").arg(&self.directory);
        for listener in ["http", "https", "admin", "xmpp", "xmpps"] {
            let address = self.address(listener).unwrap_or_else(|_| "127.0.0.1:0".to_owned());
            command.args([format!("--{listener}"), address]);
        }
        if self.certificate_of != self.directory {
            command
                .env("UNPOLL_TLS_CERTIFICATE", self.certificate_of.join(CERTIFICATE_FILE))
                .env("UNPOLL_TLS_KEY", self.certificate_of.join(KEY_FILE));
        }
        command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            // Every box that polls keeps its connection.
            .env("UNPOLL_HTTP_CONNECTIONS_MAX", HTTP_CONNECTIONS_MAX.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.map_err(failed)?);
        spawn(&mut command)
    }
}

async fn ready_line(server: &mut Child) -> Result<Value, Failure> {
    let ended = || Failure::Failed("the server ended before it was ready".into());
    let stdout = server.stdout.take().ok_or_else(ended)?;
    let line = BufReader::new(stdout)
        .lines()
        .next_line()
        .await
        .map_err(Failure::failed)?
        .ok_or_else(ended)?;
    serde_json::from_str(&line).map_err(|error| Failure::Failed(format!("the server's ready line is not JSON: {error}")))
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("log")
}
