//! A Prosody of our own: free ports, self-made certificate, accounts, everything in a temporary directory.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::net::TcpStream;

pub const DOMAIN: &str = "load.test";
pub const PASSWORD: &str = "a,pass=word with blanks";
/// How often other ports are tried: between choosing a port and listening on it, someone else may take it.
const ATTEMPTS: u32 = 5;

pub struct Prosody {
    pub starttls: SocketAddr,
    pub direct: SocketAddr,
    directory: TempDir,
    child: Option<Child>,
}

impl Prosody {
    /// Starts one that keeps sessions without a connection for as long as a test may take. `None`, with a note, where Prosody is
    /// not installed; a panic there in CI.
    pub async fn start() -> Option<Self> {
        Self::with_hibernation(300).await
    }

    /// As [`Prosody::start`], but a session without a connection is given up after 2 s.
    pub async fn forgetful() -> Option<Self> {
        Self::with_hibernation(2).await
    }

    async fn with_hibernation(seconds: u32) -> Option<Self> {
        let about = Command::new("prosodyctl")
            .arg("about")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if about.is_err() {
            assert!(
                std::env::var("CI").is_err(),
                "Prosody must be installed in CI: apt-get install prosody"
            );
            eprintln!("NOT RUN: Prosody is not installed (apt-get install prosody)");
            return None;
        }
        for _ in 0..ATTEMPTS {
            let mut prosody = Self::certificate_only();
            prosody.configure(seconds);
            prosody.register(&["anna", "bert"]);
            if prosody.run().await {
                return Some(prosody);
            }
        }
        panic!("no free ports in {ATTEMPTS} attempts");
    }

    /// Only the directory with a certificate for [`DOMAIN`]; nothing runs.
    pub fn certificate_only() -> Self {
        let directory = tempfile::Builder::new().prefix("loadtest-prosody-").tempdir().unwrap();
        let made = Command::new("openssl")
            .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '))
            .args("-addext basicConstraints=critical,CA:FALSE -keyout key.pem -out cert.pem".split(' '))
            .arg(format!("-subj=/CN={DOMAIN}"))
            .arg(format!("-addext=subjectAltName=DNS:{DOMAIN}"))
            .current_dir(directory.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "openssl: {made:?}");
        let (starttls, direct) = free_ports();
        Self {
            starttls,
            direct,
            directory,
            child: None,
        }
    }

    /// The certificate that devices must trust.
    pub fn ca(&self) -> PathBuf {
        self.file("cert.pem")
    }

    /// A file of its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.file("prosody.log")).unwrap_or_default()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Adds accounts as its storage holds them; all have [`PASSWORD`].
    pub fn register(&self, users: &[impl AsRef<str>]) {
        let accounts = self.file("data").join(DOMAIN.replace('.', "%2e")).join("accounts");
        fs::create_dir_all(&accounts).unwrap();
        for user in users {
            let file = format!("{}.dat", user.as_ref().replace('-', "%2d"));
            fs::write(accounts.join(file), format!("return {{ [\"password\"] = \"{PASSWORD}\"; }};\n")).unwrap();
        }
    }

    /// Waits until a session without a connection has been given up: the log says so.
    pub async fn has_forgotten(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.log().contains("Destroying session for hibernating too long") {
            assert!(Instant::now() < end, "Prosody kept the session; its log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn configure(&self, hibernation_secs: u32) {
        let (here, starttls, direct) = (self.directory.path().display(), self.starttls.port(), self.direct.port());
        let text = format!(
            r#"pidfile = "{here}/prosody.pid"
data_path = "{here}/data"
certificates = "{here}"
log = {{ debug = "{here}/prosody.log" }}
run_as_root = true
plugin_paths = {{}}
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {starttls} }}
c2s_direct_tls_ports = {{ {direct} }}
s2s_ports = {{}}
http_ports = {{}}
https_ports = {{}}
modules_enabled = {{ "roster", "saslauth", "tls", "disco", "ping", "smacks", "offline", "message" }}
modules_disabled = {{ "s2s" }}
authentication = "internal_plain"
storage = "internal"
allow_unencrypted_plain_auth = false
c2s_require_encryption = true
smacks_hibernation_time = {hibernation_secs}
smacks_max_unacked_stanzas = 0
ssl = {{ certificate = "{here}/cert.pem", key = "{here}/key.pem" }}
c2s_direct_tls_ssl = {{ certificate = "{here}/cert.pem", key = "{here}/key.pem" }}
VirtualHost "{DOMAIN}"
"#
        );
        fs::write(self.file("prosody.cfg.lua"), text).unwrap();
    }

    /// Starts the process and waits until it listens. False when a port was taken meanwhile.
    async fn run(&mut self) -> bool {
        let output = fs::File::create(self.file("output")).unwrap();
        let mut command = Command::new("prosody");
        command
            .arg("--config")
            .arg(self.file("prosody.cfg.lua"))
            .arg("-F")
            .stdin(Stdio::null());
        command.stdout(output.try_clone().unwrap()).stderr(output);
        self.child = Some(command.spawn().unwrap());
        let end = Instant::now() + Duration::from_secs(20);
        while !self.log().contains("Activated service 'c2s_direct_tls' on [127.0.0.1]") || !listens(self.starttls).await {
            if self.log().contains("Failed to open server port") {
                return false;
            }
            let output = fs::read_to_string(self.file("output")).unwrap_or_default();
            assert!(Instant::now() < end, "Prosody does not listen:\n{output}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        listens(self.direct).await
    }
}

impl Drop for Prosody {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended already; the wait takes its remains either way.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

async fn listens(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_ok()
}

fn free_ports() -> (SocketAddr, SocketAddr) {
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (one, other) = (bind(), bind());
    (one.local_addr().unwrap(), other.local_addr().unwrap())
}
