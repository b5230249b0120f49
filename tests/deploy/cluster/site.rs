//! The containers of `deploy/compose.cluster.yml` as processes: their commands, settings, files and secrets, at addresses of loopback.
//!
//! What differs from containers: 172.28.0.x is a network of 127.0.0.0/8 drawn at random, and who would listen at every address of its
//! container listens at its own.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use super::super::{
    path, read, run,
    support::{SOON, TestDir, terminate, unpoll, wait_for},
};

/// The network of the shipped files.
pub const NETWORK: &str = "172.28.0.";
/// Containers that are not run here: no files of the cluster's own.
const NOT_RUN: [&str; 2] = ["prometheus", "grafana"];

/// Domain of the devices.
pub const DOMAIN: &str = "push.example.com";

pub struct Site {
    pub dir: TestDir,
    network: String,
    services: BTreeMap<String, Value>,
    running: BTreeMap<String, Child>,
}

/// The compose file as docker-compose understands it.
pub fn resolved(folder: &Path) -> Value {
    // Debian's docker-compose is older than `name`.
    let text = fs::read_to_string(folder.join("compose.cluster.yml")).unwrap();
    assert!(text.contains("\nname: unpoll-cluster\n"));
    fs::write(folder.join("resolved.yml"), text.replace("\nname: unpoll-cluster\n", "\n")).unwrap();
    let mut config = Command::new("docker-compose");
    config.args(["-f", "resolved.yml", "config"]).current_dir(folder);
    let output = run(config.env("UNPOLL_DOMAIN", DOMAIN));
    assert!(output.status.success(), "{output:?}");
    serde_saphyr::from_str(&String::from_utf8(output.stdout).unwrap()).unwrap()
}

impl Site {
    /// Lays the files out as a checkout has them, with addresses of this machine.
    pub fn new() -> Self {
        let mut random = [0; 2];
        aws_lc_rs::rand::fill(&mut random).unwrap();
        let network = format!("127.{}.{}.", 16 + random[0] % 224, random[1]);
        let dir = TestDir::new();
        for name in [
            "compose.cluster.yml",
            "haproxy/haproxy.cfg",
            "redis/redis.conf",
            "redis/sentinel.conf",
            "redis/primary.conf",
            "redis/replica.conf",
        ] {
            let file = dir.path().join("deploy").join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, read(&format!("deploy/{name}")).replace(NETWORK, &network)).unwrap();
        }
        let haproxy = dir.path().join("deploy/haproxy/haproxy.cfg");
        let settings = fs::read_to_string(&haproxy).unwrap();
        for word in ["\n  bind :", "defaults ready\n", "maxconn 150000\n"] {
            assert!(settings.contains(word), "{word}");
        }
        let settings = settings
            // As many descriptors as this machine has.
            .replace("maxconn 150000\n", "maxconn 2000\n")
            .replace("\n  bind :", &format!("\n  bind {network}10:"))
            .replace("defaults ready\n", &format!("defaults ready\n  source {network}10\n"));
        fs::write(haproxy, settings).unwrap();
        fs::create_dir(dir.path().join("logs")).unwrap();
        let services = resolved(&dir.path().join("deploy"))["services"].as_object().unwrap().clone();
        Self {
            dir,
            network,
            services: services.into_iter().collect(),
            running: BTreeMap::new(),
        }
    }

    /// A text of the shipped files with the addresses of this machine.
    pub fn here(&self, text: &str) -> String {
        text.replace(NETWORK, &self.network)
    }

    /// Where a port of a container is reached.
    pub fn at(&self, service: &str, port: u16) -> SocketAddr {
        let address = self.services[service]["networks"]["inside"]["ipv4_address"].as_str().unwrap();
        format!("{address}:{port}").parse().unwrap()
    }

    /// The directory of a volume.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.dir.path().join("volumes").join(name)
    }

    pub fn log(&self, service: &str) -> String {
        fs::read_to_string(self.log_file(service)).unwrap_or_default()
    }

    fn log_file(&self, service: &str) -> PathBuf {
        self.dir.path().join("logs").join(service)
    }

    /// `docker compose up`: what these need first, then they; all when none is named.
    pub fn up(&mut self, services: &[&str]) {
        let names: Vec<String> = match services {
            [] => self.services.keys().cloned().collect(),
            some => some.iter().map(ToString::to_string).collect(),
        };
        for name in names {
            self.up_one(&name);
        }
    }

    fn up_one(&mut self, name: &str) {
        if self.running.contains_key(name) || NOT_RUN.contains(&name) {
            return;
        }
        let needs = self.services[name]["depends_on"].as_object().cloned().unwrap_or_default();
        for needed in needs.keys() {
            self.up_one(needed);
        }
        // `restart: unless-stopped`: what ends is started again, as a node does that finds no replica yet.
        let mut child = self.spawn(name);
        wait_for(&format!("{name} serves"), SOON * 3, || {
            if child.try_wait().unwrap().is_some() {
                child = self.spawn(name);
            }
            self.serves(name).then_some(())
        });
        self.running.insert(name.to_owned(), child);
    }

    fn serves(&self, name: &str) -> bool {
        let port = match name.split('-').next().unwrap() {
            "unpoll" => {
                let mut health = unpoll();
                health.arg("health").env("UNPOLL_DATA_DIR", self.volume(name));
                return run(&mut health).status.success();
            }
            "redis" => 6379,
            "sentinel" => 26379,
            _ => 8443,
        };
        TcpStream::connect(self.at(name, port)).is_ok()
    }

    fn spawn(&self, name: &str) -> Child {
        let service = &self.services[name];
        let address = self.at(name, 0).ip().to_string();
        // Where a path of the container is here.
        let mut places: Vec<(String, String)> = Vec::new();
        let mut folder = self.dir.path().to_owned();
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let mut parts = volume.as_str().unwrap().split(':');
            let (from, to) = (parts.next().unwrap(), parts.next().unwrap());
            let from = if from.starts_with('/') {
                PathBuf::from(from)
            } else {
                folder = self.volume(from);
                fs::create_dir_all(&folder).unwrap();
                folder.clone()
            };
            places.push((to.to_owned(), from.display().to_string()));
        }
        for secret in service["secrets"].as_array().into_iter().flatten() {
            let source = secret["source"].as_str().unwrap();
            let file = self.dir.path().join("deploy/secrets").join(source);
            places.push((format!("/run/secrets/{source}"), file.display().to_string()));
        }
        let place = |text: &str| places.iter().fold(text.to_owned(), |text, (there, here)| text.replace(there, here));
        let words: Vec<String> = service["command"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|word| place(word.as_str().unwrap()))
            .collect();
        let mut command = match name.split('-').next().unwrap() {
            // ENTRYPOINT and ENV of the image.
            "unpoll" => {
                let mut command = unpoll();
                command.args(&words).env("UNPOLL_DATA_DIR", place("/var/lib/unpoll"));
                for (setting, value) in service["environment"].as_object().unwrap() {
                    command.env(setting, place(value.as_str().unwrap()).replace("0.0.0.0", &address));
                }
                // The loopback of a container is its own.
                command.env("UNPOLL_HTTP_LISTEN", format!("{address}:8080"));
                command.env("UNPOLL_LOG_LEVEL", "info,unpoll::gateway=debug");
                command
            }
            "haproxy" => {
                let mut command = Command::new("haproxy");
                command.args(["-W", "-db", "-f", &place("/usr/local/etc/haproxy/haproxy.cfg")]);
                command
            }
            _ => {
                let own = format!("--bind {address} --bind-source-addr {address}");
                let mut command = Command::new(&words[0]);
                let server = words[2].find("exec redis-server ").expect("it runs redis-server");
                let (before, server) = words[2].split_at(server);
                let file = server.split(' ').nth(2).unwrap();
                let server = server.replace(file, &format!("{file} {own}"));
                command.arg(&words[1]).arg(format!("{before}{server}"));
                command
            }
        };
        let log = File::options().create(true).append(true).open(self.log_file(name)).unwrap();
        command.current_dir(folder).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// `docker compose stop`: SIGTERM, and the grace period. Gives the exit code.
    pub fn stop(&mut self, name: &str) -> Option<i32> {
        let grace = self.services[name]["stop_grace_period"].as_str().unwrap_or("10s");
        let grace = match grace.trim_end_matches('s').split_once('m') {
            Some((minutes, rest)) => minutes.parse::<u64>().unwrap() * 60 + rest.parse::<u64>().unwrap_or(0),
            None => grace.trim_end_matches('s').parse().unwrap(),
        };
        let mut child = self.running.remove(name).expect("it runs");
        terminate(&child);
        wait_for(&format!("{name} stops"), Duration::from_secs(grace), || child.try_wait().unwrap()).code()
    }

    /// SIGKILL.
    pub fn kill(&mut self, name: &str) {
        let mut child = self.running.remove(name).expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for (name, mut child) in std::mem::take(&mut self.running) {
            // HAProxy's worker ends with its master only when that is told.
            terminate(&child);
            let end = std::time::Instant::now() + Duration::from_secs(if name == "haproxy" { 5 } else { 0 });
            while child.try_wait().ok().flatten().is_none() && std::time::Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        for name in self.services.keys() {
            let log = self.log(name);
            if std::thread::panicking() {
                let tail: Vec<&str> = log.lines().rev().take(25).collect();
                eprintln!("--- the end of the log of {name}");
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

/// The shipped file, in a folder of its own as docker-compose wants it.
pub fn shipped() -> Value {
    let dir = TestDir::new();
    fs::copy(path("deploy/compose.cluster.yml"), dir.path().join("compose.cluster.yml")).unwrap();
    resolved(dir.path())
}
