//! Stock XMPP libraries and CloudEvents SDKs against the real binary: the device programs of docs/guides/device.md and the
//! posting programs of docs/guides/backend.md, run as they are printed there.
//!
//! `tests/all` installs what they need: a Python environment and node modules in `target/clients`.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
};

use loadtest::redis;
use serde_json::{Value, json};
use support::{Backend, Event, SOON, Service, Settings, wait_for, wait_for_presence};

/// Where a program comes in.
enum Door {
    StartTls,
    DirectTls,
    WebSocket,
}

/// A device program: how to run it, and where it comes in.
struct Program {
    name: &'static str,
    door: Door,
    /// The SASL mechanism by which it logs in for the first time.
    mechanism: fn() -> &'static str,
    command: fn() -> Command,
}

const SLIXMPP: Program = Program {
    name: "slixmpp",
    door: Door::DirectTls,
    mechanism: || if python_binds() { "SCRAM-SHA-256-PLUS" } else { "SCRAM-SHA-256" },
    command: || with_argument(python(), clients().join("device.py")),
};
const XMPP_JS: Program = Program {
    name: "xmpp-js",
    door: Door::DirectTls,
    mechanism: || "SCRAM-SHA-1",
    command: || with_argument(Command::new("node"), node_program("device.mjs")),
};
/// The same program over WebSocket.
const XMPP_JS_WEB: Program = Program {
    name: "xmpp-js-web",
    door: Door::WebSocket,
    command: || {
        let mut command = (XMPP_JS.command)();
        // Node has it without being asked from version 22 on.
        command.env("NODE_OPTIONS", "--experimental-websocket");
        command
    },
    ..XMPP_JS
};
const TOKIO_XMPP: Program = Program {
    name: "tokio-xmpp",
    door: Door::StartTls,
    mechanism: || "SCRAM-SHA-256-PLUS",
    command: || Command::new(example()),
};

const LIBSTROPHE: Program = Program {
    name: "libstrophe",
    door: Door::StartTls,
    // Channel binding came with libstrophe 0.13.
    mechanism: || if strophe_binds() { "SCRAM-SHA-256-PLUS" } else { "SCRAM-SHA-256" },
    command: || Command::new(&*COMPILED),
};

/// The device program in C, compiled once as the guide says.
static COMPILED: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("device-c");
    let guide = fs::read_to_string(root().join("docs/guides/device.md")).unwrap();
    let line = guide
        .lines()
        .find(|line| line.starts_with("cc "))
        .expect("the guide says how to compile it");
    let line = line
        .replace(" -o device ", &format!(" -Werror -o {} ", path.display()))
        .replace("device.c", clients().join("device.c").to_str().unwrap());
    let output = Command::new("sh").args(["-c", &line]).output().expect("there is a shell");
    assert!(output.status.success(), "{line}; tests/all installs libstrophe: {output:?}");
    path
});

#[test]
fn libstrophe_is_a_device() {
    is_a_device(&LIBSTROPHE);
}

#[test]
fn slixmpp_is_a_device() {
    is_a_device(&SLIXMPP);
}

#[test]
fn xmpp_js_is_a_device() {
    is_a_device(&XMPP_JS);
}

#[test]
fn xmpp_js_is_a_device_over_websocket() {
    is_a_device(&XMPP_JS_WEB);
}

#[test]
fn tokio_xmpp_is_a_device() {
    is_a_device(&TOKIO_XMPP);
}

/// slixmpp finds the service, checks its digest, and its plugins report what a backend then reads.
#[test]
fn slixmpp_reports_what_it_is_and_where() {
    let service = Service::start_with(Settings::default().set("UNPOLL_XMPP_LOCATION", "true"));
    let backend = service.backend();
    backend.add_device("box", "secret");
    let mut child = python()
        .arg(clients().join("reports.py"))
        .args(["box@localhost", &service.xmpps.to_string()])
        .env("UNPOLL_PASSWORD", "secret")
        .env("SSL_CERT_FILE", service.ca())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("tests/all installs slixmpp");
    let reads = |expected: Value| {
        wait_for(&format!("the backend reads {expected}"), SOON, || {
            let shown = backend.get("/v1/devices/box").expect(200).json();
            (shown["reported"] == expected).then_some(())
        });
    };
    reads(json!({ "fw": "7.1", "title": "Жалюзи", "location": { "lat": 52.52, "lon": 13.4, "accuracy": 20.0 } }));
    child.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "asked unpoll\nreported\npublished\ntaken back\n"
    );
    reads(json!({ "fw": "7.1", "title": "Жалюзи" }));
}

/// TLS, login, an event with unicode, one of 10 KB byte for byte, acknowledgements; killed, and back to what it missed once;
/// and the same again when the connection breaks instead of the device.
fn is_a_device(program: &Program) {
    let mut service = Service::start();
    let backend = service.backend();
    backend.add_device(program.name, "secret");
    let journal = service.dir().join("events.jsonl");
    let mut device = Running::start(program, &service, &journal);
    wait_for_presence(&backend, program.name, "online");
    proved(&service, (program.mechanism)());

    let unicode = json!({ "title": "Жалюзи & 電視 <b>\"'\u{1f4fa}\u{200d}</b> ]]>", "lines": "a\nb\tc" });
    let text = "0123456789 \u{96fb}\u{8996} & <".repeat(600);
    assert!((10_000..20_000).contains(&text.len()));
    let sent = [unicode, json!({ "text": text }), json!(null), json!([])];
    let mut ids: Vec<String> = sent.iter().map(|data| backend.push(program.name, data)).collect();
    delivered(&backend, &ids);
    let applied = applied(&journal, sent.len());
    let arrived: Vec<&Value> = applied.iter().map(|entry| &entry["event"]["data"]).collect();
    assert_eq!(arrived, sent.iter().collect::<Vec<_>>());
    let bytes = applied[1]["event"]["data"]["text"].as_str().unwrap();
    assert!(bytes.as_bytes() == text.as_bytes(), "10 KB arrived, but not byte for byte");

    // With the receipt of XEP-0184, too.
    let receipt = json!({ "target": { "device": program.name }, "type": "t", "data": "receipt", "require": "received" });
    ids.push(backend.post(&receipt).expect(202).json()["id"].as_str().unwrap().to_owned());
    delivered(&backend, &ids);

    // Killed, and back.
    device.kill();
    ids.extend((0..20).map(|n| backend.push(program.name, &json!({ "missed": n }))));
    device = Running::start(program, &service, &journal);
    delivered(&backend, &ids);
    exactly_once(&journal, &ids);

    // The service is killed under it: it comes back by itself to what it missed.
    service.kill();
    service.run();
    ids.extend((0..5).map(|n| backend.push(program.name, &json!({ "meanwhile": n }))));
    delivered(&backend, &ids);
    exactly_once(&journal, &ids);
    device.kill();
}

#[test]
fn xmpp_js_comes_back_by_the_token_that_its_first_login_earned() {
    comes_back_by_its_token(&XMPP_JS);
}

#[test]
fn so_it_does_over_websocket() {
    comes_back_by_its_token(&XMPP_JS_WEB);
}

fn comes_back_by_its_token(program: &Program) {
    let mut service = Service::start();
    let backend = service.backend();
    backend.add_device(program.name, "secret");
    let _device = Running::start(program, &service, &service.dir().join("events.jsonl"));
    wait_for_presence(&backend, program.name, "online");
    proved(&service, (program.mechanism)());
    service.kill();
    service.run();
    proved(&service, "HT-SHA-256-NONE");
}

/// There was one login since the service started, by that mechanism.
#[track_caller]
fn proved(service: &Service, mechanism: &str) {
    const ALL: [&str; 5] = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN", "HT-SHA-256-NONE"];
    let count = |name: &str| service.metric(&format!("unpoll_login_proofs_total{{mechanism=\"{name}\"}}"));
    let logins = wait_for("a login", SOON * 3, || {
        let logins: Vec<&str> = ALL.into_iter().filter(|name| count(name) != Some(0.0)).collect();
        (!logins.is_empty()).then_some(logins)
    });
    assert_eq!((logins.as_slice(), count(mechanism)), (&[mechanism][..], Some(1.0)));
}

fn strophe_binds() -> bool {
    let asked = Command::new("pkg-config").args(["--atleast-version=0.13", "libstrophe"]).status();
    asked.expect("pkg-config is installed").success()
}

/// Whether this Python knows a channel binding of TLS 1.3: without one slixmpp cannot use the mechanisms that have it.
fn python_binds() -> bool {
    let output = python()
        .args(["-c", "import ssl; print('tls-exporter' in ssl.CHANNEL_BINDING_TYPES)"])
        .output()
        .expect("tests/all installs what it needs");
    output.stdout.starts_with(b"True")
}

#[track_caller]
fn delivered(backend: &Backend, ids: &[String]) {
    for id in ids {
        wait_for("the event is delivered", SOON * 3, || {
            (backend.state(id) == "delivered").then_some(())
        });
    }
}

/// The journal holds these events, each once, in the order in which they were posted, with rising numbers.
#[track_caller]
fn exactly_once(journal: &Path, ids: &[String]) {
    let entries = applied(journal, ids.len());
    let applied: Vec<&str> = entries.iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    assert_eq!(applied, ids.iter().map(String::as_str).collect::<Vec<_>>());
    let numbers: Vec<u64> = entries.iter().map(|entry| entry["seq"].as_u64().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

/// The journal, once it has that many entries: a library may acknowledge what its program has yet to write down.
#[track_caller]
fn applied(journal: &Path, entries: usize) -> Vec<Value> {
    wait_for("the events are applied", SOON, || {
        let text = fs::read_to_string(journal).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let read: Vec<Value> = whole.map(|line| serde_json::from_str(line).unwrap()).collect();
        (read.len() >= entries).then_some(read)
    })
}

/// A running device program, killed at the end.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(program: &Program, service: &Service, journal: &Path) -> Self {
        let place = match program.door {
            Door::StartTls => format!("localhost:{}", service.xmpp.port()),
            Door::DirectTls => format!("localhost:{}", service.xmpps.port()),
            Door::WebSocket => format!("wss://localhost:{}/xmpp-websocket", service.https.port()),
        };
        let log_path = service.dir().join("device.log");
        let log = fs::File::options().create(true).append(true).open(&log_path).unwrap();
        let child = (program.command)()
            .args([format!("{}@localhost", program.name), place])
            .arg(journal)
            .env("UNPOLL_PASSWORD", "secret")
            .env("SSL_CERT_FILE", service.ca())
            .env("NODE_EXTRA_CA_CERTS", service.ca())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start ({error}); tests/all installs what it needs", program.name));
        Self { child, log: log_path }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let status = self.child.try_wait();
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            println!("--- the device ({status:?}):\n{log}");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn factory_secrets_reach_the_service_as_verifiers_only() {
    let service = Service::start();
    let secrets = service.dir().join("secrets.txt");
    let provision = || {
        let mut command = with_argument(python(), clients().join("provision.py"));
        command.arg(&secrets).args(["tsn-1001", "tsn-1002"]).output().unwrap()
    };
    let output = provision();
    assert!(output.status.success(), "{output:?}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&secrets).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let told = service.dir().join("devices.ndjson");
    fs::write(&told, &output.stdout).unwrap();
    let kept = fs::read_to_string(&secrets).unwrap();
    assert!(!provision().status.success(), "secrets that boxes may have are not written over");
    assert_eq!(fs::read_to_string(&secrets).unwrap(), kept);

    let mut import = service.command();
    let output = import.args(["device", "import"]).arg(&told).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let backend = service.backend();
    for line in kept.lines() {
        let (id, secret) = line.split_once(' ').unwrap();
        assert!(!String::from_utf8_lossy(&fs::read(&told).unwrap()).contains(secret));
        let event = backend.push(id, &json!("hello"));
        let device = support::Device::online(&service, id, secret);
        assert_eq!(device.expect_event().id, event);
    }
    assert_eq!(kept.lines().count(), 2);
}

#[test]
fn a_box_without_a_clock_gets_the_time_from_the_service_and_from_nobody_else() {
    let (service, stranger) = (Service::start(), Service::start());
    let https = service.ready["https"].as_str().unwrap().replace("127.0.0.1", "localhost");
    let ask = |authority: &Path, floor: u64| {
        let output = with_argument(python(), clients().join("clock.py"))
            .args([&https, &floor.to_string()])
            .env("SSL_CERT_FILE", authority)
            .output()
            .unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        (
            output.status.success(),
            told.trim().parse::<u64>().ok(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let (is_done, told, said) = ask(&service.ca(), 1_767_225_600);
    assert!(is_done, "{said}");
    assert!(told.unwrap().abs_diff(now) < 60, "{told:?} at {now}");
    let (is_done, told, said) = ask(&service.ca(), now + 86_400);
    assert!(!is_done && told.is_none() && said.contains("before this firmware"), "{said}");
    let (is_done, told, said) = ask(&stranger.ca(), 0);
    assert!(!is_done && told.is_none() && said.contains("CERTIFICATE_VERIFY_FAILED"), "{said}");
}

#[test]
fn the_cloudevents_sdk_for_python_posts() {
    posts(|| with_argument(python(), clients().join("post.py")));
}

#[test]
fn the_cloudevents_sdk_for_javascript_posts() {
    posts(|| with_argument(Command::new("node"), node_program("post.mjs")));
}

/// In every form, each with its extension attributes; the device gets what was posted, and a batch and lines in their order.
fn posts(command: impl Fn() -> Command) {
    let service = Service::start();
    let backend = service.backend();
    backend.add_device("box", "secret");
    let device = support::Device::online(&service, "box", "secret");
    for (mode, count) in [("structured", 1), ("binary", 1), ("batch", 3), ("ndjson", 3)] {
        let event = |n: usize| {
            json!({
                "attributes": {
                    "id": format!("{mode}-{n}"), "source": "/sdk", "type": "com.example.test", "subject": "Жалюзи",
                    "pushdevice": "box", "pushttl": "600", "pushurgency": "high", "traceparent": "00-1-2-01",
                },
                "data": { "title": "Жалюзи & 電視", "text": "x\u{e9}".repeat(3_500) },
            })
        };
        let events: Vec<Value> = (0..count).map(event).collect();
        let mut child = command()
            .args([&format!("http://{}", service.http), mode])
            .env("UNPOLL_KEY", service.admin_key())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tests/all installs what it needs");
        let lines: Vec<String> = events.iter().map(Value::to_string).collect();
        child.stdin.take().unwrap().write_all(lines.join("\n").as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{mode}: {output:?}");
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        if count > 1 {
            assert_eq!(
                (&answer["accepted"], &answer["refused"]),
                (&json!(count), &json!(0)),
                "{mode}: {answer}"
            );
        }
        for event in events {
            let pushed = device.expect_event();
            assert!(count > 1 || json!(pushed.id) == answer["id"], "{mode}: {answer}");
            assert!(pushed.lane.starts_with("high."), "{pushed:?}");
            let got = pushed.cloud_event();
            for name in ["id", "source", "type", "subject", "traceparent"] {
                assert_eq!(got[name], event["attributes"][name], "{mode}: {name}");
            }
            assert_eq!(got["data"], event["data"], "{mode}");
            delivered(&backend, &[pushed.id]);
        }
    }
}

#[test]
fn curl_posts_over_https_and_learns_the_fate() {
    let service = Service::start();
    service.backend().add_device("box", "secret");
    let device = support::Device::online(&service, "box", "secret");
    let address = service.ready["https"].as_str().unwrap().replace("127.0.0.1", "localhost");
    let header = format!("authorization: Bearer {}", service.admin_key());
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args(["-sS", "--fail-with-body", "--cacert"])
            .arg(service.ca())
            .args(["-H", &header])
            .args(arguments)
            .output();
        let output = output.expect("curl is installed");
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let event = r#"{"target":{"device":"box"},"type":"t","data":{"title":"電視"}}"#;
    let posted = curl(&[
        "-H",
        "content-type: application/json",
        "-d",
        event,
        &format!("https://{address}/v1/events"),
    ]);
    let pushed = device.expect_event();
    assert_eq!(
        (json!(pushed.id), pushed.data()),
        (posted["id"].clone(), json!({ "title": "電視" }))
    );
    let path = format!("https://{address}/v1/events/{}/deliveries", pushed.id);
    wait_for("curl reads that it is delivered", SOON, || {
        (curl(&[&path])["items"][0]["state"] == "delivered").then_some(())
    });
}

/// Cases for each operation, of schemathesis; `tests/long` gives it more.
const CASES: &str = "12";

fn cases() -> String {
    std::env::var("UNPOLL_TEST_CASES").unwrap_or_else(|_| CASES.to_owned())
}

/// The document is valid OpenAPI 3.1, and its examples do what it says.
#[test]
fn the_examples_of_the_document_lead_to_the_answers_that_it_describes() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let embedded = Settings::default().set("UNPOLL_XMPP_REQUIRE_TLS", "false");
    let clustered = embedded.clone().set("UNPOLL_REDIS_URL", &redis.url());
    [embedded, clustered].into_iter().for_each(the_examples_lead_to_what_is_described);
}

fn the_examples_lead_to_what_is_described(settings: Settings) {
    let service = Service::start_with(settings);
    let output = python()
        .arg(clients().join("documents.py"))
        .arg(format!("http://{}", service.http))
        .env("UNPOLL_KEY", service.admin_key())
        .output()
        .expect("tests/all installs what it needs");
    assert!(output.status.success(), "{output:?}");
    let counts: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        counts["sent"].as_u64() >= counts["operations"].as_u64().filter(|count| *count > 20),
        "{counts}"
    );
}

/// Made-up requests, valid and not: no server error, and no answer but those that the document describes.
#[test]
fn schemathesis_finds_no_server_error_and_no_undocumented_answer() {
    let service = Service::start_with(Settings::default().set("UNPOLL_POLL_WAIT_MAX_SECS", "0"));
    let backend = service.backend();
    backend.add_device("box", "secret");
    let key = backend.get("/v1/keys").expect(200).json()["items"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    // Streams have no end.
    let output = Command::new(installed().join("python/bin/st"))
        .args([
            "run",
            &format!("http://{}/openapi.json", service.http),
            "--no-color",
            "--seed",
            "746",
            "--no-shrink",
        ])
        .args(["--header", &format!("Authorization: Bearer {}", service.admin_key())])
        .args(["--phases", "coverage,fuzzing", "--max-examples", &cases(), "--continue-on-failure"])
        .args([
            "--exclude-path",
            "/v1/presence/stream",
            "--exclude-path",
            "/v1/receipts",
            "--warnings",
            "off",
        ])
        // What no schema can say (which device is there, which cursor was given) may be refused, with 4xx; and an event that was taken back
        // still has its story.
        .args(["--checks", "all", "--exclude-checks"])
        .arg("positive_data_acceptance,use_after_free,ensure_resource_availability")
        .env("PYTHONPATH", clients())
        .env("SCHEMATHESIS_HOOKS", "made_up")
        .env("KEPT", format!("box,{key}"))
        .current_dir(service.dir())
        .output()
        .expect("tests/all installs what it needs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    backend.get("/v1/limits").expect(200);
    backend.get("/v1/devices/box").expect(200);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn clients() -> PathBuf {
    root().join("tests/clients")
}

/// Where `tests/all` installs what the programs need; it tells when that is not `target/clients`.
fn installed() -> PathBuf {
    std::env::var_os("TEST_CLIENTS_DIR").map_or_else(|| root().join("target/clients"), PathBuf::from)
}

fn python() -> Command {
    Command::new(installed().join("python/bin/python"))
}

/// Node looks for modules beside the program, so the program is copied there.
fn node_program(name: &str) -> PathBuf {
    let path = installed().join("node").join(name);
    // Under a name of its own and renamed: another test may be starting the same program.
    let fresh = path.with_extension(format!("{:?}.new", std::thread::current().id()));
    fs::copy(clients().join(name), &fresh).expect("tests/all makes target/clients/node");
    fs::rename(&fresh, &path).unwrap();
    path
}

/// Two folders above this one. Cargo builds it together with all tests; before `--test stock_clients` alone, `cargo build --examples`.
fn example() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    this.ancestors().nth(2).unwrap().join("examples/device")
}

fn with_argument(mut command: Command, argument: PathBuf) -> Command {
    command.arg(argument);
    command
}
