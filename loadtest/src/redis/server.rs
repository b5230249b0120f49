//! One server.

use std::{
    fmt::Write,
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use redis::{Connection, FromRedisValue};
use rustix::process::{Pid, Signal, kill_process};

use super::{RedisError, free_port, until};

/// How often another free port is tried when somebody was faster.
const TRIES: usize = 5;

/// What a server shows and whom it trusts. It then also listens with TLS, on a port of its own, and tests go on to speak to it in clear.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The authority of certificates, its own and those of others.
    pub ca: PathBuf,
    /// Its certificate: for `127.0.0.1`, and good for both sides, since servers speak to one another.
    pub certificate: PathBuf,
    /// The private key of that.
    pub key: PathBuf,
    /// Whether clients must show a certificate.
    pub mutual: bool,
}

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Lines of its settings file beside port, directory and log. Default: the append-only file, synced every second.
    pub lines: Vec<String>,
    /// Whether it is a Sentinel.
    pub sentinel: bool,
    /// Whether it listens with TLS, too.
    pub tls: Option<Tls>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lines: vec!["appendonly yes".into(), "appendfsync everysec".into(), "save \"\"".into()],
            sentinel: false,
            tls: None,
        }
    }
}

impl Settings {
    /// With TLS, also between servers.
    #[must_use]
    pub fn tls(self, tls: Option<&Tls>) -> Self {
        let Some(tls) = tls else { return self };
        Self {
            tls: Some(tls.clone()),
            ..self.line("tls-replication yes")
        }
    }

    /// Adds a line.
    #[must_use]
    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }
}

/// A server that runs, or did until it was killed.
#[derive(Debug)]
pub struct Server {
    child: Option<Child>,
    /// Where it listens.
    pub port: u16,
    /// Where it listens with TLS.
    pub tls_port: Option<u16>,
    folder: tempfile::TempDir,
    sentinel: bool,
}

impl Server {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// See [`RedisError`].
    pub fn start(settings: &Settings) -> Result<Self, RedisError> {
        let mut tries = TRIES;
        loop {
            let started = Self::try_start(settings);
            tries -= 1;
            if started.is_ok() || tries == 0 {
                return started;
            }
        }
    }

    fn try_start(settings: &Settings) -> Result<Self, RedisError> {
        let folder = tempfile::tempdir()?;
        let port = free_port()?;
        let mut text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nlogfile log\ndaemonize no\nprotected-mode no\n",
            folder.path().display()
        );
        let mut tls_port = None;
        if let Some(tls) = &settings.tls {
            let port = free_port()?;
            tls_port = Some(port);
            let clients = if tls.mutual { "yes" } else { "no" };
            let files = [("ca-cert", &tls.ca), ("cert", &tls.certificate), ("key", &tls.key)];
            let _ = writeln!(text, "tls-port {port}\ntls-auth-clients {clients}"); // into a String it cannot fail
            for (name, file) in files {
                let _ = writeln!(text, "tls-{name}-file {}", file.display());
            }
        }
        for line in &settings.lines {
            let _ = writeln!(text, "{line}"); // into a String it cannot fail
        }
        fs::write(folder.path().join("redis.conf"), text)?;
        let mut server = Self {
            child: None,
            port,
            tls_port,
            folder,
            sentinel: settings.sentinel,
        };
        server.restart()?;
        Ok(server)
    }

    /// Starts it again, on the same port with the same files, and waits until it answers.
    ///
    /// # Errors
    /// See [`RedisError`].
    pub fn restart(&mut self) -> Result<(), RedisError> {
        self.kill();
        let mut command = Command::new("redis-server");
        command.arg("redis.conf").current_dir(self.folder.path());
        if self.sentinel {
            command.arg("--sentinel");
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        self.child = Some(child);
        let answers = || self.answers();
        until("an answer of redis-server", answers, || self.log())
    }

    fn answers(&self) -> bool {
        let pong = self.query::<String>(&["PING"]);
        // The process that answers is this one: another could have been faster to its port.
        let pid = pong.and_then(|_| self.info("process_id"));
        pid.ok().flatten() == self.pid().map(|pid| pid.to_string())
    }

    /// The value of a field of INFO.
    ///
    /// # Errors
    /// It does not answer.
    pub fn info(&self, field: &str) -> Result<Option<String>, RedisError> {
        let all: String = self.query(&["INFO"])?;
        let value = all.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(value.map(|value| value.trim().to_owned()))
    }

    /// Runs a command.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub fn query<T: FromRedisValue>(&self, words: &[&str]) -> Result<T, RedisError> {
        let mut cmd = redis::Cmd::new();
        cmd.arg(words);
        Ok(cmd.query(&mut self.connection()?)?)
    }

    pub(super) fn connection(&self) -> Result<Connection, RedisError> {
        let within = Duration::from_secs(2);
        let connection = redis::Client::open(self.url())?.get_connection_with_timeout(within)?;
        connection.set_read_timeout(Some(within))?;
        Ok(connection)
    }

    /// Whether a write reaches as many replicas.
    ///
    /// # Errors
    /// It does not answer.
    pub fn reaches(&self, replicas: u32) -> Result<bool, RedisError> {
        let mut connection = self.connection()?;
        redis::cmd("PUBLISH").arg("unpoll-test").arg("").exec(&mut connection)?;
        let reached: u32 = redis::cmd("WAIT").arg(replicas).arg(1_000).query(&mut connection)?;
        Ok(reached >= replicas)
    }

    /// `redis://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// `rediss://127.0.0.1:port`, of a server with TLS.
    pub fn tls_url(&self) -> String {
        format!("rediss://{}", self.reached_at())
    }

    /// Where it is reached by who speaks TLS, if it does, else in clear.
    pub fn reached_at(&self) -> String {
        format!("127.0.0.1:{}", self.tls_port.unwrap_or(self.port))
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// SIGKILL, unless it is dead.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP: it keeps its connections and answers nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            // It may have ended by itself; then there is nobody to be told.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.split_at(lines.len().saturating_sub(20)).1.join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
