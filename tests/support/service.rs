//! The real binary as a child process.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use super::{Backend, SOON, Wire, wait_for};

/// A directory of the test, removed at its end.
pub struct TestDir(tempfile::TempDir);

impl TestDir {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Default for TestDir {
    fn default() -> Self {
        Self::new()
    }
}

/// What differs from the defaults.
#[derive(Clone, Default)]
pub struct Settings {
    /// Variables of the environment: `UNPOLL_XMPP_KEEPALIVE_SECS`.
    pub environment: Vec<(String, String)>,
    /// Where the store lies, when not in the test's own directory.
    pub data_dir: Option<PathBuf>,
    /// The test makes the service log an error on purpose.
    pub expects_errors: bool,
}

impl Settings {
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }
}

pub struct Service {
    settings: Settings,
    dir: TestDir,
    child: Option<Child>,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub admin: SocketAddr,
    pub xmpp: SocketAddr,
    pub xmpps: SocketAddr,
    pub ready: Value,
}

impl Service {
    /// Runs `unpoll serve` until the value is dropped.
    pub fn start() -> Self {
        Self::start_with(Settings::default())
    }

    pub fn start_with(settings: Settings) -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut service = Self {
            settings,
            dir: TestDir::new(),
            child: None,
            http: nowhere,
            https: nowhere,
            admin: nowhere,
            xmpp: nowhere,
            xmpps: nowhere,
            ready: Value::Null,
        };
        service.run();
        service
    }

    /// Starts the process, on the same ports as before, and waits for its ready line.
    pub fn run(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = unpoll();
        command
            .arg("serve")
            .arg("--data-dir")
            .arg(self.data_dir())
            .args([
                "--http",
                &self.http.to_string(),
                "--https",
                &self.https.to_string(),
                "--admin",
                &self.admin.to_string(),
            ])
            .args(["--xmpp", &self.xmpp.to_string(), "--xmpps", &self.xmpps.to_string()])
            .envs(self.settings.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command.spawn().expect("the binary starts");
        let mut line = String::new();
        let read = BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line);
        if read.is_err() || line.is_empty() {
            let status = child.wait();
            panic!("no ready line ({status:?}); its log:\n{}", self.log());
        }
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(ready["ready"], true, "{line}");
        let address = |name: &str| ready[name].as_str().and_then(|text| text.parse().ok());
        let address = |name: &str| address(name).unwrap_or_else(|| panic!("no {name} in the ready line: {line}"));
        (self.http, self.https, self.admin) = (address("http"), address("https"), address("admin"));
        (self.xmpp, self.xmpps) = (address("xmpp"), address("xmpps"));
        self.ready = ready;
        self.child = Some(child);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; gives the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        terminate(&child);
        let status = wait_for("the service stops after SIGTERM", Duration::from_secs(150), || {
            child.try_wait().unwrap()
        });
        status.code()
    }

    /// Waits until it has ended by itself; gives the exit code.
    pub fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        let status = wait_for("the service ends", Duration::from_secs(150), || child.try_wait().unwrap());
        status.code()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().expect("it runs"));
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// The test's own directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.settings.data_dir.clone().unwrap_or_else(|| self.dir.path().join("data"))
    }

    /// The authority that signed the service's certificate.
    pub fn ca(&self) -> PathBuf {
        self.data_dir().join("ca.pem")
    }

    pub fn admin_key(&self) -> String {
        let path = self.data_dir().join("admin.key");
        fs::read_to_string(path).expect("the admin key is there").trim().to_owned()
    }

    /// A backend with the admin key.
    pub fn backend(&self) -> Backend {
        Backend {
            address: self.http,
            key: self.admin_key(),
        }
    }

    /// A fresh connection with direct TLS.
    pub fn connect(&self) -> Wire {
        Wire::tls(self.xmpps, &self.ca())
    }

    /// A command of `unpoll` that talks to this service.
    pub fn command(&self) -> Command {
        let mut command = unpoll();
        command
            .env("UNPOLL_URL", format!("http://{}", self.http))
            .env("UNPOLL_KEY", self.admin_key())
            .env("UNPOLL_DATA_DIR", self.data_dir())
            .current_dir(self.dir.path());
        command
    }

    /// The value of a metric; `series` is its name, with its labels if it has any.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let metrics = Backend {
            address: self.admin,
            key: String::new(),
        };
        let text = metrics.get("/metrics").expect(200).body;
        let line = text
            .lines()
            .find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let log = self.log();
        if std::thread::panicking() {
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- the end of the service's log");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
            return;
        }
        let error = log.lines().find(|line| line.contains("ERROR") || line.contains("panicked at"));
        assert!(
            self.settings.expects_errors || error.is_none(),
            "the service logged an error: {error:?}"
        );
    }
}

/// The binary, without the settings of whoever runs the tests.
pub fn unpoll() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unpoll"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("UNPOLL_")) {
        command.env_remove(name);
    }
    command
}

/// Sends SIGTERM to a child.
pub fn terminate(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

/// Whether a device's presence becomes `state` soon.
#[track_caller]
pub fn wait_for_presence(backend: &Backend, device: &str, state: &str) {
    wait_for(&format!("{device} is {state}"), SOON, || {
        (backend.presence(device) == state).then_some(())
    });
}
