//! The commands of docs/guides/cluster.md start it; then a device and a backend come through the balancer, and things fail.

use std::{
    fs,
    io::Write,
    net::{IpAddr, SocketAddr, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use loadtest::{Error, Options, Security, Trust, sasl::Password};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use serde_json::{Value, json};

use super::{
    super::{
        guide, run,
        support::{Authority, Client, Device, SOON, wait_for},
    },
    site::{DOMAIN, Site},
};

/// Where the device comes from.
const DEVICE: &str = "127.0.0.7";
const NODES: [&str; 3] = ["unpoll-1", "unpoll-2", "unpoll-3"];
const REDIS: [&str; 3] = ["redis-1", "redis-2", "redis-3"];

/// Who talks to the service from outside.
struct Outside {
    site: Site,
    key: String,
}

/// An answer over HTTPS.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn says_when_to_come_again(&self) -> bool {
        self.head.to_ascii_lowercase().contains("\nretry-after: ")
    }
}

/// One request by curl, on a connection of its own. `None`: there was no answer.
fn curl(balancer: SocketAddr, ca: &str, key: &str, method: &str, path: &str, body: &str) -> Option<Answer> {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--include",
        "--http1.1",
        "--max-time",
        "60",
        "--cacert",
        ca,
    ]);
    curl.args(["--noproxy", "*", "--resolve", &format!("{DOMAIN}:8443:{}", balancer.ip())]);
    curl.args(["--request", method, "--header", &format!("authorization: Bearer {key}")]);
    if !body.is_empty() {
        curl.args(["--header", "content-type: application/json", "--data", body]);
    }
    let output = run(curl.arg(format!("https://{DOMAIN}:8443{path}")));
    if !output.status.success() {
        eprintln!("curl: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    let text = String::from_utf8(output.stdout).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Some(Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

impl Outside {
    /// Runs the commands of the guide; what Docker would do is done by the site.
    fn start() -> Self {
        let mut site = Site::new();
        let authority = Authority::new(site.dir.path(), "test");
        let mut params = CertificateParams::new(vec![DOMAIN.to_owned(), "localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let issued = authority.issue("issued", params);
        fs::copy(issued.certificate, site.dir.path().join("fullchain.pem")).unwrap();
        fs::copy(issued.key, site.dir.path().join("privkey.pem")).unwrap();

        let stubs = "docker() { shift 3; echo \"$*\" >> calls; local verb=$1; shift\n\
                     case $verb in\n\
                     up) echo \"$*\" > up.new; mv up.new up; while [ -e up ]; do sleep 0.05; done ;;\n\
                     exec) shift; local node=$1; shift; UNPOLL_DATA_DIR=../volumes/$node \"$@\" ;;\n\
                     esac; }\n\
                     chown() { echo \"chown $*\" >> calls; }\n";
        let commands = guide::commands("docs/guides/cluster.md", "Start with Docker Compose");
        let script = format!("{stubs}{}", site.here(&commands));
        let mut bash = guide::bash_command(&script, site.dir.path(), &[]).spawn().unwrap();
        let wanted = site.dir.path().join("deploy/up");
        let status = loop {
            if let Ok(words) = fs::read_to_string(&wanted) {
                let services: Vec<&str> = words.split_whitespace().filter(|word| !word.starts_with("--")).collect();
                site.up(&services);
                fs::remove_file(&wanted).unwrap();
            }
            if let Some(status) = bash.try_wait().unwrap() {
                break status;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(status.success(), "{status}: {script}");
        let key = fs::read_to_string(site.volume("unpoll-1").join("admin.key")).unwrap();
        let outside = Self {
            key: key.trim().to_owned(),
            site,
        };
        outside.every_secret_is_its_users();
        outside.wait_until_all_are_ready();
        outside
    }

    /// Each file is for its owner alone, is given to that user, and holds something.
    fn every_secret_is_its_users(&self) {
        let calls = fs::read_to_string(self.site.dir.path().join("deploy/calls")).unwrap();
        let compose = super::site::shipped();
        let secrets = compose["secrets"].as_object().unwrap();
        assert_eq!(secrets.len(), 7);
        for name in secrets.keys() {
            let file = self.site.dir.path().join("deploy/secrets").join(name);
            assert_eq!(guide::mode(&file) & 0o077, 0, "{name}");
            assert!(fs::metadata(&file).unwrap().len() > 10, "{name}");
            assert!(calls.contains(&format!("secrets/{name}")), "nobody is given {name}");
        }
    }

    fn balancer(&self, port: u16) -> SocketAddr {
        self.site.at("haproxy", port)
    }

    fn ca(&self) -> String {
        self.site.dir.path().join("test-ca.pem").display().to_string()
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        curl(self.balancer(8443), &self.ca(), &self.key, method, path, &body).expect("an answer")
    }

    fn state(&self, event: &str) -> String {
        let answer = self.ask("GET", &format!("/v1/events/{event}/deliveries"), &Value::Null);
        let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        body["items"][0]["state"].as_str().unwrap_or_default().to_owned()
    }

    /// Posts until it is accepted; gives the id.
    fn push(&self, device: &str) -> String {
        let event = json!({ "target": { "device": device }, "type": "test", "data": {} });
        wait_for("an event is accepted", SOON * 2, || {
            let answer = self.ask("POST", "/v1/events", &event);
            if answer.status != 202 {
                assert!(
                    matches!(answer.status, 429 | 503) && answer.says_when_to_come_again(),
                    "{}",
                    answer.head
                );
                return None;
            }
            assert!(
                answer.head.to_ascii_lowercase().contains("push-durability: replicated"),
                "{}",
                answer.head
            );
            let body: Value = serde_json::from_str(&answer.body).unwrap();
            Some(body["id"].as_str().unwrap().to_owned())
        })
    }

    fn options(&self, device: &str) -> Options {
        let trust = Trust::ca_file(self.ca().as_ref()).unwrap();
        let password = Arc::new(Password::new("secret"));
        Options {
            source: Some(DEVICE.parse::<IpAddr>().unwrap()),
            ..Options::new(self.balancer(5223), Security::Tls(trust), DOMAIN, device, password)
        }
    }

    /// A device, once it is let in: what it does when it hears that it may come again.
    fn comes_back(&self, device: &str) -> Device {
        wait_for("the device is let in", SOON * 2, || match Device::connect(self.options(device)) {
            Ok(device) => Some(device),
            Err(Error::Refused { condition, .. }) if condition == "temporary-auth-failure" => None,
            Err(error) => panic!("{error}"),
        })
    }

    fn metric(&self, node: &str, series: &str) -> Option<f64> {
        let backend = super::super::support::Backend {
            address: self.site.at(node, 9090),
            key: self.key.clone(),
        };
        let answer = backend.try_request("GET", "/metrics", &[], b"").ok()?.expect(200);
        let line = answer.body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        line.parse().ok()
    }

    /// HAProxy asks without a key, and so do we.
    fn is_ready(&self, node: &str) -> bool {
        let backend = super::super::support::Backend {
            address: self.site.at(node, 9090),
            key: String::new(),
        };
        matches!(backend.try_request("GET", "/readyz", &[], b""), Ok(answer) if answer.status == 200)
    }

    fn wait_until_all_are_ready(&self) {
        wait_for("three nodes that see one another", SOON * 2, || {
            let sees_all = |node: &&str| self.is_ready(node) && self.metric(node, "unpoll_nodes") == Some(3.0);
            NODES.iter().all(sees_all).then_some(())
        });
        wait_for("HAProxy sees them", SOON, || {
            let up = self.servers_up();
            (up == 18).then_some(())
        });
    }

    /// Servers that HAProxy counts as up: three for each of six back ends.
    fn servers_up(&self) -> usize {
        let backend = super::super::support::Backend {
            address: self.balancer(8404),
            key: String::new(),
        };
        let text = backend.get("/metrics").expect(200).body;
        let up = |line: &&str| line.starts_with("haproxy_server_status{") && line.contains("state=\"UP\"") && line.ends_with(" 1");
        text.lines().filter(up).count()
    }

    fn redis(&self, server: &str, user: &str, words: &[&str]) -> String {
        let secrets = fs::read_to_string(self.site.dir.path().join("deploy/secrets/redis.conf")).unwrap();
        let line = secrets.lines().find_map(|line| line.strip_prefix(&format!("user {user} on >")));
        let password = line.unwrap().split(' ').next().unwrap();
        let at = self.site.at(server, 6379);
        let mut cli = Command::new("redis-cli");
        cli.args(["-h", &at.ip().to_string(), "--no-auth-warning", "--user", user, "--pass", password]);
        let output = run(cli.args(words));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn has_its_file(&self, server: &str) -> bool {
        let info = self.redis(server, "sentinel", &["INFO"]);
        let says = |line: &str| info.lines().any(|said| said.trim_end() == line);
        says("loading:0") && says("aof_enabled:1") && says("aof_rewrite_in_progress:0") && says("aof_rewrite_scheduled:0")
    }

    fn is_primary(&self, server: &str) -> bool {
        self.redis(server, "sentinel", &["INFO", "replication"]).contains("role:master")
    }
}

#[test]
fn the_cluster_of_the_guide_serves_and_survives_what_the_guide_says() {
    let mut outside = Outside::start();
    the_user_may_do_no_more_than_it_needs(&outside);
    let added = outside.ask("PUT", "/v1/devices/box", &json!({ "password": "secret" }));
    assert_eq!(added.status, 201, "{}", added.head);
    a_client_is_known_by_its_own_address(&outside);
    a_node_that_stops_refuses_nothing(&mut outside);
    a_primary_that_dies_loses_nothing(&mut outside);
    while_all_of_redis_is_away_the_nodes_still_answer(&mut outside);
}

fn the_user_may_do_no_more_than_it_needs(outside: &Outside) {
    let tries = |words: &[&str]| outside.redis("redis-1", "unpoll", words);
    for words in [
        &["FLUSHALL"][..],
        &["CONFIG", "GET", "*"],
        &["SET", "other", "1"],
        &["KEYS", "unpoll:*"],
        &["SHUTDOWN"],
    ] {
        let said = tries(words);
        assert!(said.contains("NOPERM"), "{words:?}: {said}");
    }
    assert!(tries(&["GET", "unpoll:{r}identity"]).len() > 1);
    let at = outside.site.at("redis-1", 6379).ip().to_string();
    let nobody = run(Command::new("redis-cli").args(["-h", &at, "GET", "unpoll:{r}identity"]));
    assert!(String::from_utf8_lossy(&nobody.stdout).contains("NOAUTH"), "{nobody:?}");
}

fn a_client_is_known_by_its_own_address(outside: &Outside) {
    let device = Device::connect(outside.options("box")).unwrap();
    let id = outside.push("box");
    assert_eq!(device.expect_event().id, id);
    wait_for("the receipt", SOON, || (outside.state(&id) == "delivered").then_some(()));
    device.close();

    // Who sends no TLS is logged with the address that HAProxy told.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&format!("{DEVICE}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&outside.balancer(5223).into()).unwrap();
    let mut socket = TcpStream::from(socket);
    let logged = format!("TLS of a device at {} failed", socket.local_addr().unwrap());
    socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    wait_for(&logged, SOON, || {
        NODES.iter().any(|node| outside.site.log(node).contains(&logged)).then_some(())
    });
}

/// Under load, from outside: connections and requests one after the other, and a device that comes back.
fn a_node_that_stops_refuses_nothing(outside: &mut Outside) {
    let over = Arc::new(AtomicBool::new(false));
    let (balancer, xmpps, ca, key) = (outside.balancer(8443), outside.balancer(5223), outside.ca(), outside.key.clone());
    let poster = {
        let (over, ca) = (over.clone(), ca.clone());
        std::thread::spawn(move || {
            let (mut accepted, mut put_off) = (Vec::new(), 0);
            while !over.load(Ordering::Relaxed) {
                let event = json!({ "target": { "device": "box" }, "type": "test", "data": { "n": accepted.len() } });
                let answer = curl(balancer, &ca, &key, "POST", "/v1/events", &event.to_string()).expect("no request is refused");
                if answer.status == 202 {
                    let body: Value = serde_json::from_str(&answer.body).unwrap();
                    accepted.push(body["id"].as_str().unwrap().to_owned());
                } else {
                    assert!(answer.status == 503 && answer.says_when_to_come_again(), "{}", answer.head);
                    put_off += 1;
                }
            }
            (accepted, put_off)
        })
    };
    let knocker = {
        let over = over.clone();
        let client = Client::new(ca.as_ref(), b"xmpp-client", None, &rustls::version::TLS13);
        std::thread::spawn(move || {
            let mut connected = 0;
            while !over.load(Ordering::Relaxed) {
                client.connect(xmpps, None);
                connected += 1;
            }
            connected
        })
    };
    let mut device = Device::connect(outside.options("box")).unwrap();
    let node_of_device = || {
        let presence = outside.ask("GET", "/v1/devices/box/presence", &Value::Null).body;
        let presence: Value = serde_json::from_str(&presence).unwrap();
        let of = |node: &&&str| {
            let ready = fs::read(outside.site.volume(node).join("ready.json")).unwrap();
            serde_json::from_slice::<Value>(&ready).unwrap()["node"] == presence["node"]
        };
        *NODES.iter().find(of).unwrap()
    };
    let node = node_of_device();
    let mut got: Vec<String> = (0..5).map(|_| device.expect_event().id).collect();
    assert_eq!(outside.site.stop(node), Some(0));
    let why = device.ended().to_string();
    assert!(why.contains("system-shutdown"), "{why}");
    while let Some(event) = device.event(Duration::ZERO) {
        got.push(event.id);
    }
    // The balancer leads it to another node at once.
    let device = Device::connect(outside.options("box")).unwrap();
    got.push(device.expect_event().id);
    outside.site.up(&[node]);
    outside.wait_until_all_are_ready();
    over.store(true, Ordering::Relaxed);
    let ((accepted, put_off), connected) = (poster.join().unwrap(), knocker.join().unwrap());
    println!(
        "{} events accepted, {put_off} put off, {connected} connections while a node was restarted",
        accepted.len()
    );
    assert!(accepted.len() > 20 && connected > 20);
    let last = accepted.last().unwrap().clone();
    while !got.contains(&last) {
        got.push(device.expect_event().id);
    }
    let lost: Vec<_> = accepted.iter().filter(|id| !got.contains(id)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    device.close();
}

fn a_primary_that_dies_loses_nothing(outside: &mut Outside) {
    assert!(outside.is_primary("redis-1"));
    let before = outside.push("box");
    outside.site.kill("redis-1");
    let after = outside.push("box");
    let device = outside.comes_back("box");
    assert_eq!(device.expect_event().id, before);
    assert_eq!(device.expect_event().id, after);
    wait_for("the replica that is missing is seen", SOON * 2, || {
        (outside.metric("unpoll-1", "unpoll_redis_replicas") == Some(1.0)).then_some(())
    });
    outside.site.up(&["redis-1"]);
    wait_for("it is there again, as a replica", SOON * 2, || {
        let all = outside.metric("unpoll-1", "unpoll_redis_replicas") == Some(2.0);
        (all && !outside.is_primary("redis-1")).then_some(())
    });
    device.close();
}

fn while_all_of_redis_is_away_the_nodes_still_answer(outside: &mut Outside) {
    let device = outside.comes_back("box");
    let before = outside.push("box");
    assert_eq!(device.expect_event().id, before);
    // A server that writes its first append-only file, as a replica does behind a whole copy, does not heed SIGTERM (Redis 7.0).
    wait_for("each server has its append-only file", SOON * 2, || {
        REDIS.iter().all(|server| outside.has_its_file(server)).then_some(())
    });
    for server in REDIS {
        outside.site.stop(server);
    }
    wait_for("HAProxy sees that none is ready", SOON, || {
        (outside.servers_up() == 9).then_some(())
    });
    let event = json!({ "target": { "device": "box" }, "type": "test", "data": {} });
    for _ in 0..6 {
        let refused = outside.ask("POST", "/v1/events", &event);
        assert!(refused.status == 503 && refused.says_when_to_come_again(), "{}", refused.head);
    }
    assert!(device.is_connected());
    // Who follows whom is in the settings that stay: the first primary does not come back as one, with less than the others have.
    let kept = fs::read_to_string(outside.site.volume("redis-1").join("redis.conf")).unwrap();
    assert!(kept.lines().any(|line| line.starts_with("replicaof ")), "{kept}");
    outside.site.up(&REDIS);
    let after = outside.push("box");
    assert!(device.is_connected());
    wait_for("the event", SOON, || (device.expect_event().id == after).then_some(()));
    outside.wait_until_all_are_ready();
    device.close();
}
