//! A real Prometheus on a free port of loopback, with the configuration that `deploy/` ships.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use super::{
    path, read,
    support::{Backend, SOON, TestDir, terminate, wait_for},
};

pub struct Prometheus {
    child: Child,
    api: Backend,
    _dir: TestDir,
}

impl Prometheus {
    /// Scrapes `target` with that key, and evaluates the rules, each second.
    pub fn start(target: SocketAddr, key: &str) -> Self {
        let dir = TestDir::new();
        fs::write(dir.path().join("key"), key).unwrap();
        fs::write(dir.path().join("prometheus.yml"), config(target, dir.path())).unwrap();
        // Another program may take the port between our look and its bind: then this one ends, and the next is tried.
        for _ in 0..10 {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let api = Backend {
                address,
                key: String::new(),
            };
            let mut child = spawn(address, dir.path());
            let ready = wait_for("Prometheus is ready", SOON * 2, || match child.try_wait().unwrap() {
                Some(_) => Some(false),
                None => matches!(api.try_request("GET", "/-/ready", &[], b""), Ok(answer) if answer.status == 200).then_some(true),
            });
            if ready {
                return Self { child, api, _dir: dir };
            }
        }
        panic!("Prometheus does not start: {}", fs::read_to_string(dir.path().join("log")).unwrap());
    }

    /// What the API answers to a path.
    pub fn get(&self, path: &str) -> Value {
        self.api.get(path).expect(200).json()["data"].clone()
    }

    /// The series of an instant query, or why it has none.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let answer = self.api.get(&format!("/api/v1/query?query={}", encode(expression)));
        let body = answer.json();
        if body["status"] != "success" {
            return Err(body["error"].as_str().unwrap_or_default().to_owned());
        }
        let result = &body["data"]["result"];
        match result.as_array() {
            Some(series) if series.is_empty() => Err("no series".to_owned()),
            Some(series) => Ok(series.clone()),
            None => Err(format!("no vector: {result}")),
        }
    }

    /// The values of a label of a metric.
    pub fn label_values(&self, metric: &str, label: &str) -> Vec<String> {
        let found = self.get(&format!("/api/v1/label/{label}/values?match[]={}", encode(metric)));
        let values = found.as_array().into_iter().flatten();
        values.filter_map(|value| value.as_str().map(str::to_owned)).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        terminate(&self.child);
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while self.child.try_wait().ok().flatten().is_none() && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The shipped configuration with what the test must change.
fn config(target: SocketAddr, dir: &Path) -> String {
    let changes = [
        ("scrape_interval: 15s", "scrape_interval: 1s".to_owned()),
        ("evaluation_interval: 15s", "evaluation_interval: 1s".to_owned()),
        ("rules/*.yml", path("deploy/prometheus/rules/*.yml").display().to_string()),
        ("unpoll:9090", target.to_string()),
        ("/run/secrets/prometheus.key", dir.join("key").display().to_string()),
    ];
    changes
        .into_iter()
        .fold(read("deploy/prometheus/prometheus.yml"), |text, (from, to)| {
            assert!(text.contains(from), "{from} is not in prometheus.yml");
            text.replace(from, &to)
        })
}

fn spawn(address: SocketAddr, dir: &Path) -> Child {
    let log = File::create(dir.join("log")).unwrap();
    let mut command = Command::new("prometheus");
    command
        .arg("--config.file=prometheus.yml")
        .arg("--storage.tsdb.path=data")
        .arg(format!("--web.listen-address={address}"))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    command.spawn().expect("prometheus runs; tests/all installs it")
}

/// A text as a value of a query string.
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}
