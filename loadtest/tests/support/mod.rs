//! A Prosody of our own: free ports, self-made certificate, two users, everything in a temporary directory.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::net::TcpStream;

pub const DOMAIN: &str = "load.test";
pub const PASSWORD: &str = "a,pass=word with blanks";
/// Seconds for which this Prosody keeps a session that lost its connection.
const HIBERNATION_SECS: u64 = 3;

pub struct Prosody {
    pub starttls: SocketAddr,
    pub direct: SocketAddr,
    directory: TempDir,
    child: Option<Child>,
}

impl Prosody {
    /// Starts it. `None`, with a note, where it is not installed; a panic there in CI.
    pub async fn start() -> Option<Self> {
        if Command::new("prosodyctl")
            .arg("about")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_err()
        {
            assert!(
                std::env::var("CI").is_err(),
                "Prosody must be installed in CI: apt-get install prosody"
            );
            eprintln!("NOT RUN: Prosody is not installed (apt-get install prosody)");
            return None;
        }
        let mut prosody = Self::certificate_only();
        let (directory, starttls, direct) = (prosody.directory.path(), prosody.starttls.port(), prosody.direct.port());
        let here = directory.display();
        let config = directory.join("prosody.cfg.lua");
        let text = format!(
            r#"pidfile = "{here}/prosody.pid"
data_path = "{here}/data"
certificates = "{here}"
log = {{ debug = "{here}/prosody.log" }}
run_as_root = true
daemonize = false
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
smacks_hibernation_time = {HIBERNATION_SECS}
smacks_max_unacked_stanzas = 0
ssl = {{ certificate = "{here}/cert.pem", key = "{here}/key.pem" }}
c2s_direct_tls_ssl = {{ certificate = "{here}/cert.pem", key = "{here}/key.pem" }}
VirtualHost "{DOMAIN}"
"#
        );
        fs::create_dir(directory.join("data")).unwrap();
        fs::write(&config, text).unwrap();
        for user in ["anna", "bert"] {
            let register = Command::new("prosodyctl")
                .arg("--config")
                .arg(&config)
                .args(["register", user, DOMAIN, PASSWORD])
                .output();
            let register = register.unwrap();
            assert!(register.status.success(), "prosodyctl register: {register:?}");
        }
        let output = fs::File::create(directory.join("output")).unwrap();
        let mut command = Command::new("prosody");
        command.arg("--config").arg(&config).arg("-F").stdin(Stdio::null());
        command.stdout(output.try_clone().unwrap()).stderr(output);
        prosody.child = Some(command.spawn().unwrap());
        prosody.until_it_listens().await;
        Some(prosody)
    }

    /// Only the directory with a certificate for [`DOMAIN`]; nothing runs.
    pub fn certificate_only() -> Self {
        let directory = tempfile::Builder::new().prefix("loadtest-prosody-").tempdir().unwrap();
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
                "-keyout",
            ])
            .arg(directory.path().join("key.pem"))
            .arg("-out")
            .arg(directory.path().join("cert.pem"))
            .args([
                "-subj",
                &format!("/CN={DOMAIN}"),
                "-addext",
                &format!("subjectAltName=DNS:{DOMAIN}"),
            ])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
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
    pub fn ca(&self) -> &Path {
        // Leaked once a test: a path that lives as long as the test does.
        Box::leak(self.directory.path().join("cert.pem").into_boxed_path())
    }

    /// Waits until a session without a connection has been given up: the log says so.
    pub async fn forget_after_hibernation(&self) {
        let end = Instant::now() + Duration::from_secs(HIBERNATION_SECS + 20);
        while !self.log().contains("Destroying session for hibernating too long") {
            assert!(Instant::now() < end, "Prosody kept the session; its log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("prosody.log")).unwrap_or_default()
    }

    async fn until_it_listens(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(self.starttls).await.is_err() || TcpStream::connect(self.direct).await.is_err() {
            let read = |name: &str| fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
            assert!(
                Instant::now() < end,
                "Prosody does not listen:\n{}\n{}",
                read("output"),
                read("prosody.log")
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Prosody {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_ports() -> (SocketAddr, SocketAddr) {
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (one, other) = (bind(), bind());
    (one.local_addr().unwrap(), other.local_addr().unwrap())
}
