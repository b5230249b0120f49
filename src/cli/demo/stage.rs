//! What the demo stands on: a directory of its own and a server in a process of its own.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::metrics::Metrics;
use crate::{
    certificate::CA_FILE,
    cli::{Failure, client::Client, secret::generate_password},
};

/// How long the server may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take to stop before it is killed.
const STOPPED_WITHIN: Duration = Duration::from_secs(15);
/// Boxes that poll, and the backend.
const HTTP_CONNECTIONS_MAX: u32 = 6_000;
/// How much of the server's log a failure shows.
const LOG_LINES_SHOWN: usize = 5;

/// The server of the demo, and how to reach it.
pub struct Stage {
    directory: Directory,
    server: Child,
    /// Speaks to the server with its admin key.
    pub client: Client,
    admin: Client,
    /// Host and port of XMPP over TLS.
    pub xmpps: String,
    /// Host and port of HTTPS.
    pub https: String,
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

impl Stage {
    /// Starts a server on free ports of loopback.
    pub async fn set(poll_interval_secs: u64) -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("unpoll-demo-{}", generate_password()?));
        std::fs::create_dir(&path).map_err(|error| Failure::Failed(format!("{} cannot be made: {error}", path.display())))?;
        let directory = Directory(path);
        let data = directory.0.join("data");
        let mut server = start_server(&directory.0, &data, poll_interval_secs)?;
        let ready = match timeout(READY_WITHIN, ready_line(&mut server)).await {
            Ok(ready) => ready.map_err(|failure| with_log(&directory.0, failure))?,
            Err(_) => {
                return Err(with_log(
                    &directory.0,
                    Failure::Failed("the server was not ready within 30 s".into()),
                ));
            }
        };
        let field = |name: &str| {
            let text = ready.get(name).and_then(Value::as_str).map(str::to_owned);
            text.ok_or_else(|| Failure::Failed(format!("the server's ready line has no {name}: {ready}")))
        };
        let key_file = data.join("admin.key");
        let key = std::fs::read_to_string(&key_file)
            .map_err(|error| Failure::Failed(format!("{} cannot be read: {error}", key_file.display())))?;
        let client = |name| Client::new(&format!("http://{}", field(name)?), key.trim(), None);
        Ok(Self {
            client: client("http")?,
            admin: client("admin")?,
            xmpps: field("xmpps")?,
            https: field("https")?,
            domain: field("domain")?,
            server,
            directory,
        })
    }

    /// The file with the authority to trust.
    pub fn ca(&self) -> PathBuf {
        self.directory.0.join("data").join(CA_FILE)
    }

    /// What the server's metrics say now.
    pub async fn metrics(&self) -> Result<Metrics, Failure> {
        let (status, body) = self.admin.exchange(reqwest::Method::GET, "/metrics", None).await?;
        if !status.is_success() {
            return Err(Failure::Failed(format!("the server's /metrics answers with HTTP {status}")));
        }
        Ok(Metrics::read(&String::from_utf8_lossy(&body)))
    }

    /// The polls avoided so far, if the server tells.
    pub async fn polls_avoided(&self) -> Option<f64> {
        self.metrics().await.ok()?.polls_avoided()
    }

    /// Adds the end of the server's log to a failure.
    pub fn explain(&self, failure: Failure) -> Failure {
        with_log(&self.directory.0, failure)
    }

    /// Stops the server and removes the directory.
    pub async fn clear(&mut self) {
        super::fleet::stop(&mut self.server, STOPPED_WITHIN).await;
    }
}

fn start_server(directory: &Path, data: &Path, poll_interval_secs: u64) -> Result<Child, Failure> {
    let log = std::fs::File::create(log_path(directory)).map_err(|error| Failure::Failed(format!("no log can be written: {error}")))?;
    let mut command = super::fleet::this_program()?;
    command.arg("serve").arg("--data-dir").arg(data);
    for listener in ["--http", "--https", "--admin", "--xmpp", "--xmpps"] {
        command.args([listener, "127.0.0.1:0"]);
    }
    command
        .env("UNPOLL_LEDGER_POLL_INTERVAL_SECS", poll_interval_secs.to_string())
        // Every box that polls keeps its connection.
        .env("UNPOLL_HTTP_CONNECTIONS_MAX", HTTP_CONNECTIONS_MAX.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    spawn(&mut command)
}

/// Starts a child that does not outlive a demo that ends in order.
pub fn spawn(command: &mut Command) -> Result<Child, Failure> {
    command
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Failure::Failed(format!("no process can be started: {error}")))
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
    directory.join("server.log")
}

fn with_log(directory: &Path, failure: Failure) -> Failure {
    let log = std::fs::read_to_string(log_path(directory)).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    match lines.get(lines.len().saturating_sub(LOG_LINES_SHOWN)..) {
        Some(end) if !end.is_empty() => Failure::Failed(format!("{failure}; the server's log ends with:\n{}", end.join("\n"))),
        _ => failure,
    }
}
