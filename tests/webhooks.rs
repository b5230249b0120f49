//! Receipts sent to backends, against receivers on this machine: in order, again until they are taken, by whichever node lives.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::hmac;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use loadtest::redis;
use serde_json::{Value, json};
use support::{Backend, Device, Listening, SOON, Service, Settings, wait_for};

/// A request as it came.
#[derive(Clone, Debug)]
struct Got {
    headers: BTreeMap<String, String>,
    body: String,
    status: u16,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    fn device(&self) -> String {
        self.json()["data"]["device"].as_str().unwrap_or_default().to_owned()
    }

    fn event(&self) -> String {
        self.json()["data"]["event"].as_str().unwrap_or_default().to_owned()
    }

    /// How many of its signatures are right by that secret, read once more from the specification.
    fn signatures_by(&self, secret: &str) -> usize {
        let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let signed = format!("{}.{}.{}", self.id(), self.headers["webhook-timestamp"], self.body);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes());
        let right = format!("v1,{}", BASE64_STANDARD.encode(tag));
        self.headers["webhook-signature"].split(' ').filter(|one| *one == right).count()
    }
}

/// What a receiver answers to a body: a status, and more of the head.
type Answers = Box<dyn Fn(&str) -> (u16, String) + Send>;

/// A receiver that keeps what came and answers as it is told.
#[derive(Clone)]
struct Receiver {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    answers: Arc<Mutex<Answers>>,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let answers: Answers = Box::new(|_| (204, String::new()));
        let receiver = Self {
            address: listener.local_addr().unwrap(),
            got: Arc::default(),
            answers: Arc::new(Mutex::new(answers)),
        };
        let serving = receiver.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (socket, serving) = (socket.unwrap(), serving.clone());
                std::thread::spawn(move || while serving.serve(&socket).is_some() {});
            }
        });
        receiver
    }

    /// One request. `None`: the connection is over.
    fn serve(&self, socket: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(socket);
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            match line.trim_end().split_once(": ") {
                Some((name, value)) => drop(headers.insert(name.to_ascii_lowercase(), value.to_owned())),
                None if line.trim_end().is_empty() => break,
                None => {}
            }
        }
        let mut body = vec![0; headers["content-length"].parse().unwrap()];
        reader.read_exact(&mut body).ok()?;
        let body = String::from_utf8(body).unwrap();
        // Both under one lock, so that the order of what came is that of the answers.
        let mut got = self.got.lock().unwrap();
        let (status, more) = self.answers.lock().unwrap()(&body);
        got.push(Got { headers, body, status });
        drop(got);
        let mut socket = socket;
        socket
            .write_all(format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n{more}\r\n").as_bytes())
            .ok()
    }

    fn answer(&self, answers: impl Fn(&str) -> (u16, String) + Send + 'static) {
        *self.answers.lock().unwrap() = Box::new(answers);
    }

    fn url(&self) -> String {
        format!("http://{}/hook?token=hush", self.address)
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Events that were taken of a device, each once, in the order of their first time.
    fn taken(&self, device: &str) -> Vec<String> {
        let (mut seen, mut events) = (BTreeSet::new(), Vec::new());
        for got in self.got() {
            if got.device() == device && got.status < 300 && seen.insert(got.id().to_owned()) {
                events.push(got.event());
            }
        }
        events
    }

    #[track_caller]
    fn takes(&self, device: &str, events: &[String]) {
        wait_for(&format!("the receipts of {device}"), SOON, || {
            (self.taken(device) == events).then_some(())
        });
    }
}

fn settings() -> Settings {
    Settings::default()
        .set("UNPOLL_WEBHOOKS_ALLOW_NETWORKS", "[\"127.0.0.1/32\"]")
        .set("UNPOLL_WEBHOOKS_LOOK_EVERY_MS", "50")
        .set("UNPOLL_WEBHOOKS_RETRY_FIRST_MS", "50")
        .set("UNPOLL_WEBHOOKS_RETRY_PAUSE_MAX_SECS", "1")
        .set("UNPOLL_WEBHOOKS_LEASE_MS", "4000")
}

/// The engine that a service stands on.
#[derive(Clone, Copy, PartialEq)]
enum Engine {
    Embedded,
    Redis,
}

/// A service over that engine, and its server, which ends after it.
fn on(engine: Engine, settings: Settings) -> (Service, Option<redis::Server>) {
    if engine == Engine::Embedded {
        return (Service::start_with(settings), None);
    }
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let settings = settings
        .set("UNPOLL_REDIS_URL", &redis.url())
        .set("UNPOLL_REDIS_DURABILITY", "primary");
    (Service::start_with(settings), Some(redis))
}

/// Makes a webhook; gives its path and its secret.
#[track_caller]
fn webhook(backend: &Backend, body: &Value) -> (String, String) {
    let made = backend.send("POST", "/v1/webhooks", body).expect(201).json();
    let secret = made["secret"].as_str().unwrap().to_owned();
    (format!("/v1/webhooks/{}", made["id"].as_str().unwrap()), secret)
}

/// Posts events for a device and takes them back, each of which makes a receipt; gives their ids.
#[track_caller]
fn cancelled(backend: &Backend, device: &str, count: usize) -> Vec<String> {
    let one = |n| {
        let id = backend.push(device, &json!(n));
        backend.delete(&format!("/v1/events/{id}")).expect(200);
        id
    };
    (0..count).map(one).collect()
}

/// Waits until the webhook reads so.
#[track_caller]
fn reads(backend: &Backend, path: &str, name: &str, expected: &Value) -> Value {
    wait_for(&format!("{name} is {expected}"), SOON, || {
        let shown = backend.get(path).expect(200).json();
        (shown[name] == *expected).then_some(shown)
    })
}

/// Fails the receipts of some devices; the others are taken.
fn fails(devices: &'static [&'static str]) -> impl Fn(&str) -> (u16, String) + Send {
    move |body| {
        let fails = devices.iter().any(|device| body.contains(&format!("\"device\":\"{device}\"")));
        (if fails { 500 } else { 204 }, String::new())
    }
}

/// While one device's receipts fail, the others' go on; it is killed meanwhile, and nothing is lost or out of order. `by`: whoever is
/// killed, and whoever lives then.
fn in_order_and_again(first: &Backend, kill: impl FnOnce() -> Backend) {
    for device in ["stuck", "free"] {
        first.add_device(device, "secret");
    }
    let before = cancelled(first, "free", 1);
    let receiver = Receiver::start();
    let (path, secret) = webhook(first, &json!({"url": receiver.url(), "states": ["cancelled", "failed"]}));
    receiver.answer(fails(&["stuck"]));
    let mut stuck = cancelled(first, "stuck", 3);
    let mut free = cancelled(first, "free", 3);
    receiver.takes("free", &free);
    // The first of the device is sent again and again, those behind it wait.
    let of_first = || receiver.got().into_iter().filter(|got| got.event() == stuck[0]).collect::<Vec<_>>();
    let tried = wait_for("the first is tried again", SOON, || {
        Some(of_first()).filter(|tried| tried.len() > 2)
    });
    let ids: BTreeSet<&str> = tried.iter().map(Got::id).collect();
    assert_eq!(ids.len(), 1, "the id stays: {tried:?}");
    assert!(receiver.got().iter().all(|got| ![&stuck[1], &stuck[2]].contains(&&got.event())));
    assert!(
        receiver
            .got()
            .iter()
            .all(|got| got.signatures_by(&secret) == 1 && got.event() != before[0])
    );
    let shown = reads(first, &path, "waiting", &json!(3));
    assert_eq!(
        (&shown["last_error"], &shown["dead_letters"]),
        (&json!("it answered 500"), &json!(0))
    );
    assert!(
        !first.get("/v1/webhooks").expect(200).body.contains("whsec_"),
        "secrets are shown once"
    );

    let backend = kill();
    free.extend(cancelled(&backend, "free", 2));
    stuck.extend(cancelled(&backend, "stuck", 1));
    receiver.takes("free", &free);
    assert!(receiver.taken("stuck").is_empty());
    receiver.answer(fails(&[]));
    receiver.takes("stuck", &stuck);
    let shown = reads(&backend, &path, "waiting", &json!(0));
    assert_eq!((&shown["failing_since"], &shown["enabled"]), (&Value::Null, &json!(true)));
    assert_eq!(receiver.taken("free"), free);
}

#[test]
fn receipts_come_in_order_and_again_until_they_are_taken_though_the_service_is_killed() {
    let mut service = Service::start_with(settings());
    let backend = service.backend();
    in_order_and_again(&backend.clone(), || {
        service.kill();
        service.run();
        backend
    });
    // What may be a secret of the receiver is in no log.
    assert!(!service.log().contains("hush"));
    assert_eq!(service.metric("unpoll_webhooks{state=\"enabled\"}"), Some(1.0));
    assert!(service.metric("unpoll_webhook_attempts_total{result=\"delivered\"}").unwrap() >= 6.0);
}

#[test]
fn another_node_takes_over_from_one_that_is_killed() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let settings = settings()
        .set("UNPOLL_REDIS_URL", &redis.url())
        .set("UNPOLL_REDIS_DURABILITY", "primary")
        .set("UNPOLL_REDIS_HEARTBEAT_MS", "500");
    let mut nodes: Vec<Service> = (0..2).map(|_| Service::start_with(settings.clone())).collect();
    let backends: Vec<Backend> = nodes.iter().map(|node| nodes[0].backend().at(node.http)).collect();
    let sent = |node: &Service| node.metric("unpoll_webhook_attempts_total{result=\"refused\"}").unwrap();
    in_order_and_again(&backends[1], || {
        let serves = usize::from(sent(&nodes[1]) > sent(&nodes[0]));
        nodes[serves].kill();
        backends[1 - serves].clone()
    });
}

#[test]
fn a_receiver_ends_it_by_410_and_other_webhooks_are_told() {
    ends_by_410(Engine::Embedded);
}

#[test]
fn a_receiver_ends_it_by_410_and_other_webhooks_are_told_on_redis() {
    ends_by_410(Engine::Redis);
}

fn ends_by_410(engine: Engine) {
    let (service, _redis) = on(engine, settings().set("UNPOLL_WEBHOOKS_DISABLE_AFTER_SECS", "1"));
    let backend = service.backend();
    backend.add_device("box", "secret");
    let (gone, failing, good) = (Receiver::start(), Receiver::start(), Receiver::start());
    gone.answer(|_| (410, String::new()));
    failing.answer(|_| (500, String::new()));
    let all = [&gone, &failing, &good].map(|receiver| webhook(&backend, &json!({"url": receiver.url()})).0);
    let mut events = cancelled(&backend, "box", 2);
    for (path, reason) in [(&all[0], "gone"), (&all[1], "failing")] {
        let shown = reads(&backend, path, "enabled", &json!(false));
        assert_eq!(shown["disabled"]["reason"], reason);
        assert!(shown["disabled"]["since"].is_string());
    }
    good.takes("box", &events);
    assert_eq!(gone.got().len(), 1, "nothing more is sent");
    let told = |reason: &str| {
        good.got().into_iter().find(|got| {
            let body = got.json();
            body["type"] == "com.unpoll.webhook.disabled" && body["data"]["reason"] == reason
        })
    };
    for reason in ["gone", "failing"] {
        wait_for(&format!("it is told of the one that is {reason}"), SOON, || told(reason));
        let count = service.metric(&format!("unpoll_webhook_disabled_total{{reason=\"{reason}\"}}"));
        assert_eq!(count, Some(1.0));
    }
    // One that failed for too long may fail again when it is enabled; one that is gone resumes where it was.
    gone.answer(|_| (204, String::new()));
    let shown = backend.send("PATCH", &all[0], &json!({"enabled": true})).expect(200).json();
    assert_eq!((&shown["enabled"], &shown["disabled"]), (&json!(true), &Value::Null));
    gone.takes("box", &events);
    backend.send("PATCH", &all[2], &json!({"enabled": false})).expect(200);
    assert_eq!(backend.get(&all[2]).expect(200).json()["disabled"]["reason"], "request");
    events.extend(cancelled(&backend, "box", 1));
    gone.takes("box", &events);
    backend.delete(&all[0]).expect(204);
    assert_eq!(backend.get(&all[0]).expect(404).slug(), "unknown-webhook");
    backend.send("PATCH", &all[2], &json!({"enabled": true})).expect(200);
    good.takes("box", &events);
}

#[test]
fn what_is_never_taken_is_a_dead_letter_and_can_be_sent_again() {
    dead_letters_and_rotation(Engine::Embedded);
}

#[test]
fn what_is_never_taken_is_a_dead_letter_and_can_be_sent_again_on_redis() {
    dead_letters_and_rotation(Engine::Redis);
}

fn dead_letters_and_rotation(engine: Engine) {
    let (service, _redis) = on(engine, settings().set("UNPOLL_WEBHOOKS_RETRY_FOR_SECS", "0"));
    let backend = service.backend();
    backend.add_device("box", "secret");
    let (receiver, elsewhere) = (Receiver::start(), Receiver::start());
    let target = elsewhere.url();
    receiver.answer(move |_| (302, format!("location: {target}\r\n")));
    let (path, secret) = webhook(&backend, &json!({"url": receiver.url(), "states": ["cancelled"]}));
    let events = cancelled(&backend, "box", 3);
    reads(&backend, &path, "dead_letters", &json!(3));
    assert!(elsewhere.got().is_empty(), "a redirect is not followed");
    let letters = backend.get(&format!("{path}/dead-letters?limit=2")).expect(200).json();
    let next = backend
        .get(&format!("{path}/dead-letters?cursor={}", letters["next"].as_str().unwrap()))
        .expect(200)
        .json();
    let letters: Vec<Value> = [letters["items"].clone(), next["items"].clone()]
        .iter()
        .flat_map(|items| items.as_array().unwrap().clone())
        .collect();
    let of: Vec<&str> = letters.iter().map(|letter| letter["event"].as_str().unwrap()).collect();
    assert_eq!(of, events);
    assert_eq!(
        (&letters[0]["attempts"], &letters[0]["error"]),
        (&json!(1), &json!("it answered 302; redirects are not followed"))
    );
    assert_eq!(letters[0]["id"], json!(receiver.got()[0].id()));

    // A test goes once, and says what came of it.
    let test = || backend.send("POST", &format!("{path}:test"), &json!({})).expect(200).json();
    let said = test();
    assert_eq!(
        (&said["delivered"], &said["result"], &said["status"]),
        (&json!(false), &json!("redirect"), &json!(302))
    );
    receiver.answer(|_| (204, String::new()));
    assert_eq!(test()["delivered"], true);
    assert_eq!(receiver.got().last().unwrap().json()["type"], "com.unpoll.webhook.test");

    // After a rotation both secrets sign.
    let rotated = backend.send("POST", &format!("{path}:rotate"), &json!({})).expect(200).json();
    let new = rotated["secret"].as_str().unwrap();
    assert!(rotated["old_secret_until"].is_string());
    let redriven = backend.send("POST", &format!("{path}:redrive"), &json!({})).expect(200).json();
    assert_eq!(redriven, json!({"redriven": 3, "dead_letters": 0}));
    receiver.takes("box", &events);
    let last = receiver.got().pop().unwrap();
    assert_eq!((last.signatures_by(&secret), last.signatures_by(new)), (1, 1));
    assert_eq!(last.id(), letters[2]["id"]);
    backend
        .send("POST", &format!("{path}:rotate"), &json!({"grace_secs": 0}))
        .expect(200);
    assert_eq!(test()["delivered"], true);
    assert_eq!(receiver.got().last().unwrap().signatures_by(new), 0);
}

#[test]
fn a_receiver_is_told_of_receipts_that_are_missing() {
    told_of_a_gap(Engine::Embedded);
}

#[test]
fn a_receiver_is_told_of_receipts_that_are_missing_on_redis() {
    told_of_a_gap(Engine::Redis);
}

fn told_of_a_gap(engine: Engine) {
    let settings = settings()
        .set("UNPOLL_LIMITS_RECEIPTS_MAX", "3")
        .set("UNPOLL_DISPATCH_SWEEP_SECS", "1");
    let (mut service, _redis) = on(engine, settings);
    let backend = service.backend();
    backend.add_device("box", "secret");
    let receiver = Receiver::start();
    let (path, secret) = webhook(&backend, &json!({"url": receiver.url(), "enabled": false}));
    let events = cancelled(&backend, "box", 8);
    // Until all but three are dropped.
    let kept = wait_for("the oldest are dropped", SOON, || {
        let mut stream = Listening::receipts(&backend, "?from=oldest", None);
        let first = stream.expect();
        (first.data["event"] == json!(events[5])).then_some(first.cursor)
    });
    let begin = format!("0.{}", kept.split_once('.').unwrap().1);
    let told = Listening::receipts(&backend, "", Some(&begin)).expect();
    assert_eq!((told.kind.as_str(), &told.data["reason"]), ("gap", &json!("dropped")));

    // It is not taken at first, like a receipt.
    let attempts = AtomicUsize::new(0);
    receiver.answer(move |body| {
        let refused = body.contains("com.unpoll.receipts.gap") && attempts.fetch_add(1, Ordering::Relaxed) < 2;
        (if refused { 500 } else { 204 }, String::new())
    });
    backend.send("PATCH", &path, &json!({"enabled": true})).expect(200);
    receiver.takes("box", &events[5..]);
    if engine == Engine::Embedded {
        service.kill();
        service.run();
    }
    let gaps = || -> Vec<Got> {
        let got = receiver.got();
        got.into_iter()
            .filter(|got| got.json()["type"] == "com.unpoll.receipts.gap")
            .collect()
    };
    let got = wait_for("the gap is taken", SOON, || {
        Some(gaps()).filter(|got| got.iter().any(|got| got.status == 204))
    });
    let mut expected = told.data.clone();
    expected["webhook"] = json!(path.rsplit('/').next().unwrap());
    for one in &got {
        assert_eq!(one.json()["data"], expected, "in the words of the stream");
        assert_eq!((one.id(), one.signatures_by(&secret)), (got[0].id(), 1));
    }
    assert!(got.len() >= 3, "{got:?}");
    if engine == Engine::Redis {
        assert_eq!(service.metric("unpoll_webhook_gaps_total{reason=\"dropped\"}"), Some(1.0));
    }
    assert_eq!(receiver.taken("box"), events[5..]);
}

#[test]
fn nothing_is_sent_for_a_tenant_that_is_removed() {
    let (service, _redis) = on(Engine::Redis, settings());
    let operator = service.backend();
    let tenant = || {
        operator.send("PUT", "/v1/tenants/tv", &json!({"domain": "tv.example"})).expect(201);
        let key = json!({"name": "first", "scope": "admin", "tenant": "tv"});
        let key = operator.send("POST", "/v1/keys", &key).expect(201).json();
        operator.with_key(key["key"].as_str().unwrap())
    };
    let tv = tenant();
    tv.add_device("box", "secret");
    let receiver = Receiver::start();
    receiver.answer(|_| (500, String::new()));
    let (path, _) = webhook(&tv, &json!({"url": receiver.url()}));
    cancelled(&tv, "box", 1);
    wait_for("it is sent again", SOON, || (receiver.got().len() > 1).then_some(()));
    tv.delete("/v1/devices/box").expect(204);
    operator.delete("/v1/tenants/tv").expect(204);
    assert_eq!(tv.get(&path).expect(401).slug(), "unauthenticated");
    wait_for("nobody serves it", SOON, || {
        (service.metric("unpoll_webhooks{state=\"enabled\"}") == Some(0.0)).then_some(())
    });
    // Who has the name next begins with nothing.
    let next = tenant();
    for list in ["/v1/webhooks", "/v1/devices", "/v1/presence"] {
        assert_eq!(next.get(list).expect(200).json()["items"], json!([]), "{list}");
    }
    let keys = next.get("/v1/keys").expect(200).json();
    assert_eq!(keys["items"].as_array().unwrap().len(), 1);
    next.add_device("box", "secret");
    assert_eq!(next.get("/v1/devices/box/deliveries").expect(200).json()["items"], json!([]));
    let entries = next.get("/v1/audit").expect(200).json();
    assert_eq!(entries["items"].as_array().unwrap().len(), 1, "its own first step: {entries}");
    // It would be sent once a second. What was on its way when the tenant went may have come since.
    let sent = receiver.got().len();
    std::thread::sleep(Duration::from_millis(2_500));
    assert!(receiver.got().len() <= sent + 1, "it is sent on");
}

#[test]
fn only_public_addresses_are_taken_unless_the_operator_names_them() {
    let service = Service::start_with(Settings::default().set("UNPOLL_WEBHOOKS_WEBHOOKS_MAX", "1"));
    let backend = service.backend();
    for url in [
        "http://127.0.0.1:1/",
        "https://127.0.0.1/",
        "https://0x7f.1/",
        "https://localhost/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "http://backend.example/",
        "https://user:secret@backend.example/",
        "ftp://backend.example/",
        "backend.example",
    ] {
        let refused = backend.send("POST", "/v1/webhooks", &json!({"url": url})).expect(400);
        assert_eq!(refused.slug(), "invalid-field", "{url}");
    }
    let slug = |method: &str, path: &str, body: &Value, status: u16| backend.send(method, path, body).expect(status).slug();
    assert_eq!(slug("POST", "/v1/webhooks", &json!({}), 400), "missing-field");
    let url = "https://backend.example/";
    let of = |name: &str, value: Value| json!({"url": url, name: value});
    assert_eq!(slug("POST", "/v1/webhooks", &of("states", json!(["done"])), 400), "invalid-field");
    assert_eq!(slug("POST", "/v1/webhooks", &of("secret", json!("hush")), 400), "invalid-field");
    assert_eq!(slug("POST", "/v1/webhooks", &of("colour", json!("red")), 400), "unknown-field");
    let (path, _) = webhook(&backend, &json!({"url": url}));
    assert_eq!(slug("POST", "/v1/webhooks", &json!({"url": url}), 409), "conflict");
    assert_eq!(slug("PATCH", &path, &json!({"url": "https://10.0.0.1/"}), 400), "invalid-field");
    assert_eq!(slug("POST", &format!("{path}:dance"), &json!({}), 404), "unknown-path");
    assert_eq!(slug("POST", &path, &json!({}), 405), "method-not-allowed");
    assert_eq!(slug("POST", "/v1/webhooks/wh_none:test", &json!({}), 404), "unknown-webhook");
    let reader = backend
        .send("POST", "/v1/keys", &json!({"name": "reader", "scope": "read"}))
        .expect(201)
        .json();
    let reader = backend.with_key(reader["key"].as_str().unwrap());
    assert_eq!(reader.get("/v1/webhooks").expect(403).slug(), "forbidden");
}

/// The receiver of the guide, which verifies by the reference library.
#[test]
fn the_reference_library_takes_what_is_sent_and_nothing_that_was_tampered_with() {
    let service = Service::start_with(settings());
    let backend = service.backend();
    backend.add_device("box", "secret");
    let secret = format!("whsec_{}", BASE64_STANDARD.encode([7; 32]));
    let (mut program, address, mut printed) = python(&secret);
    let kept = Receiver::start();
    for url in [format!("http://{address}/"), kept.url()] {
        let (_, shown) = webhook(&backend, &json!({"url": url, "secret": secret}));
        assert_eq!(shown, secret);
    }
    let device = Device::online(&service, "box", "secret");
    let event = backend.push("box", &json!({"title": "電視"}));
    device.expect_event();
    let mut line = String::new();
    printed.read_line(&mut line).unwrap();
    let message: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&message["type"], &message["data"]["event"], &message["data"]["device"]),
        (&json!("com.unpoll.delivery.delivered"), &json!(event), &json!("box"))
    );
    // The same message said to it by somebody else: as it was, and changed in one place each.
    let got = wait_for("the message comes here, too", SOON, || kept.got().pop());
    assert_eq!(message["id"], json!(got.id()));
    let says = |change: &dyn Fn(&mut Got)| {
        let mut changed = got.clone();
        change(&mut changed);
        let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
        let headers: Vec<(&str, &str)> = names.iter().map(|name| (*name, changed.headers[*name].as_str())).collect();
        let direct = Backend {
            address,
            key: String::new(),
        };
        direct.request("POST", "/", &headers, changed.body.as_bytes()).status
    };
    assert_eq!(says(&|_| {}), 204);
    assert_eq!(says(&|got| got.body = got.body.replace("delivered", "processed")), 401);
    assert_eq!(says(&|got| drop(got.headers.insert("webhook-id".into(), "rcp_other".into()))), 401);
    let later = |got: &mut Got| {
        let time: u64 = got.headers["webhook-timestamp"].parse().unwrap();
        got.headers.insert("webhook-timestamp".into(), (time + 1).to_string());
    };
    assert_eq!(says(&later), 401);
    assert_eq!(
        says(&|got| drop(got.headers.insert("webhook-signature".into(), "v1,AAAA".into()))),
        401
    );
    program.kill().unwrap();
    program.wait().unwrap();
}

/// Starts `receive.py`; gives it, where it listens, and what it prints.
fn python(secret: &str) -> (Child, SocketAddr, impl BufRead + use<>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let installed = std::env::var_os("TEST_CLIENTS_DIR").map_or_else(|| root.join("target/clients"), Into::into);
    let mut program = Command::new(installed.join("python/bin/python"))
        .arg(root.join("tests/clients/receive.py"))
        .arg("0")
        .env("WEBHOOK_SECRET", secret)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tests/all installs what it needs");
    let mut line = String::new();
    BufReader::new(program.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let port: u16 = line.trim().strip_prefix("listening on ").expect("it listens").parse().unwrap();
    let printed = BufReader::new(program.stdout.take().unwrap());
    (program, SocketAddr::from(([127, 0, 0, 1], port)), printed)
}
