//! A server of our own: `unpoll serve` in a temporary directory, stopped when dropped.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{Error, error::in_time};

/// The line of JSON that the server prints when it can serve.
#[derive(Clone, Debug, Deserialize)]
pub struct Ready {
    /// HTTP for backends.
    pub http: SocketAddr,
    /// HTTP over TLS.
    #[serde(default)]
    pub https: Option<SocketAddr>,
    /// XMPP with STARTTLS, or plain.
    pub xmpp: SocketAddr,
    /// XMPP with direct TLS.
    pub xmpps: SocketAddr,
    /// The listener of operators, when it is on.
    #[serde(default)]
    pub admin: Option<SocketAddr>,
    /// The domain.
    pub domain: String,
}

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The `unpoll` binary.
    pub program: PathBuf,
    /// Where its data lives; a temporary directory when absent.
    pub data: Option<PathBuf>,
    /// The core it is pinned to by `taskset`.
    pub core: Option<usize>,
    /// Allow logins without TLS.
    pub plain: bool,
    /// Domain to serve.
    pub domain: String,
    /// Further environment, such as `UNPOLL_XMPP_KEEPALIVE_SECS`.
    pub environment: Vec<(String, String)>,
}

impl Launch {
    /// A server with TLS required, a temporary directory, no pinning.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            data: None,
            core: None,
            plain: false,
            domain: "load.test".into(),
            environment: Vec::new(),
        }
    }
}

/// A running server. Dropping it kills it.
pub struct Server {
    launch: Launch,
    child: Child,
    ready: Ready,
    data: PathBuf,
    log: PathBuf,
    _temporary: tempfile::TempDir,
}

impl Server {
    /// Starts it on free ports of the loopback interface and waits, at most 30 s, until it says that it is ready.
    ///
    /// # Errors
    /// It cannot be started, ends, or says nothing; the text has the end of its log.
    pub async fn start(launch: &Launch) -> Result<Self, Error> {
        let temporary = tempfile::Builder::new().prefix("unpoll-load-").tempdir()?;
        let data = launch.data.clone().unwrap_or_else(|| temporary.path().join("data"));
        let log = temporary.path().join("server.log");
        let (child, ready) = run(launch, &data, &log, None).await?;
        Ok(Self {
            launch: launch.clone(),
            child,
            ready,
            data,
            log,
            _temporary: temporary,
        })
    }

    /// Kills it (SIGKILL) and starts it again, at the same addresses and with the same data.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn kill_and_start(&mut self) -> Result<(), Error> {
        self.child.kill().await?;
        (self.child, self.ready) = run(&self.launch, &self.data, &self.log, Some(&self.ready)).await?;
        Ok(())
    }

    /// Its addresses and domain.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Its process.
    ///
    /// # Errors
    /// It has ended.
    pub fn pid(&self) -> Result<u32, Error> {
        self.child
            .id()
            .ok_or_else(|| Error::Server(format!("it has ended; its log ends:\n{}", tail(&self.log))))
    }

    /// The certificate to trust.
    pub fn ca(&self) -> PathBuf {
        self.data.join("ca.pem")
    }

    /// The admin key's file.
    pub fn key(&self) -> PathBuf {
        self.data.join("admin.key")
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// Asks it to stop (SIGTERM), waits at most 30 s, then kills it. True when it stopped by itself with exit code 0.
    ///
    /// # Errors
    /// It has ended already.
    pub async fn stop(mut self) -> Result<bool, Error> {
        let pid = i32::try_from(self.pid()?).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(|e| Error::Server(e.to_string()))?;
        }
        match tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await {
            Ok(status) => Ok(status?.success()),
            Err(_) => {
                self.child.kill().await?;
                Ok(false)
            }
        }
    }
}

/// Starts the program and waits until it is ready; `at`: where it was before.
async fn run(launch: &Launch, data: &Path, log: &Path, at: Option<&Ready>) -> Result<(Child, Ready), Error> {
    let mut command = match launch.core {
        Some(core) => {
            let mut command = Command::new("taskset");
            command.arg("-c").arg(core.to_string()).arg(&launch.program);
            command
        }
        None => Command::new(&launch.program),
    };
    command.args(["serve", "--domain", &launch.domain, "--data-dir"]).arg(data);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let was = |address: fn(&Ready) -> Option<SocketAddr>| at.and_then(address).unwrap_or(any).to_string();
    command.args(["--http", &was(|ready| Some(ready.http))]);
    command.args(["--https", &was(|ready| ready.https)]);
    command.args(["--admin", &was(|ready| ready.admin)]);
    command.args(["--xmpp", &was(|ready| Some(ready.xmpp))]);
    command.args(["--xmpps", &was(|ready| Some(ready.xmpps))]);
    if launch.plain {
        command.env("UNPOLL_XMPP_REQUIRE_TLS", "false");
    }
    command.envs(launch.environment.iter().map(|(name, value)| (name, value)));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(log)?)
        .kill_on_drop(true);
    let mut child = command
        .spawn()
        .map_err(|e| Error::Server(format!("{}: {e}", launch.program.display())))?;
    let stdout = child.stdout.take().ok_or_else(|| Error::Server("no stdout".into()))?;
    let ready = in_time("the server's ready line", Duration::from_secs(30), read_ready(stdout)).await;
    let ready = ready.map_err(|reason| Error::Server(format!("{reason}; its log ends:\n{}", tail(log))))?;
    Ok((child, ready))
}

async fn read_ready(stdout: tokio::process::ChildStdout) -> Result<Ready, Error> {
    let mut lines = BufReader::new(stdout).lines();
    let line = lines
        .next_line()
        .await?
        .ok_or_else(|| Error::Server("it ended without a ready line".into()))?;
    // It prints nothing more, but a closed pipe would be a surprise to it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    serde_json::from_str(&line).map_err(|e| Error::Server(format!("ready line: {e}: {line}")))
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
