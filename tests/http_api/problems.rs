//! Every problem of the document, provoked: status, slug, title, headers and members are those that the document says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
};

use loadtest::redis;
use serde_json::{Value, json};

use crate::support::{Answer, Backend, SOON, Service, Settings, basic, wait_for};

/// Problems that need more than one service and a request, and where they are provoked.
const ELSEWHERE: [(&str, &str); 9] = [
    ("invalid-token", "tests/tokens.rs"),
    ("no-issuer-keys", "tests/tokens.rs"),
    ("no-space", "tests/disk_full.rs"),
    ("unavailable", "tests/redis_away.rs"),
    ("draining", "tests/routes/events.rs"),
    ("item-too-large", "tests/routes/many.rs"),
    ("answer-unread", "tests/routes/many.rs"),
    ("too-many-viewers", "src/admin/tests.rs"),
    ("internal", "src/http/serve/tests.rs"),
];

/// A request that is refused: the problem, the operation, and the answer. Where the operation is empty, none is described: the path
/// or the method is nobody's.
type Row = (&'static str, &'static str, Answer);

struct Provoked {
    backend: Backend,
    rows: Vec<Row>,
}

impl Provoked {
    fn add(&mut self, slug: &'static str, operation: &'static str, answer: Answer) {
        self.rows.push((slug, operation, answer));
    }

    /// An event that is refused.
    fn event(&mut self, slug: &'static str, body: &[u8]) {
        let answer = self
            .backend
            .request("POST", "/v1/events", &[("content-type", "application/json")], body);
        self.add(slug, "post /v1/events", answer);
    }

    fn to(&mut self, slug: &'static str, fields: Value) {
        let mut event = json!({"target": {"device": "box"}, "type": "t"});
        event.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.event(slug, event.to_string().as_bytes());
    }
}

/// Bytes as they are, and the answer to them.
fn raw(service: &Service, request: &str) -> Answer {
    let mut socket = TcpStream::connect(service.http).unwrap();
    let head = format!("authorization: Bearer {}\r\n", service.admin_key());
    socket.write_all(request.replace("KEY\r\n", &head).as_bytes()).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    crate::support::answer(&answer).expect("a whole answer")
}

const UPGRADE: [(&str, &str); 3] = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")];

/// What bodies and parameters provoke.
fn of_events(all: &mut Provoked) {
    all.event("bad-json", b"{\"target\"");
    all.event("bad-utf8", b"{\"type\":\"\xff\"}");
    all.to("unprintable-text", json!({"data": "\u{fffe}"}));
    all.to("unknown-field", json!({"tll": 5}));
    all.event("missing-field", br#"{"target":{"device":"box"}}"#);
    all.to("invalid-field", json!({"urgency": "loud"}));
    all.to("no-target", json!({"target": null}));
    all.to("two-targets", json!({"target": {"device": "box", "user": "ann"}}));
    all.to("ttl-out-of-range", json!({"ttl": -1}));
    all.to("data-too-large", json!({"data": "x".repeat(65_536)}));
    all.event("body-too-large", "x".repeat(262_145).as_bytes());
    all.to("unknown-device", json!({"target": {"device": "nobody"}}));
    all.to("removed-device", json!({"target": {"device": "gone"}}));
    all.to("unknown-user", json!({"target": {"user": "nobody"}}));
    let crowd: Vec<String> = (0..65).map(|n| format!("box-{n}")).collect();
    all.to("too-many-targets", json!({"target": {"devices": crowd}}));
    all.to("invalid-device-id", json!({"target": {"device": "a b"}}));
    let keyed = |backend: &Backend, data: u8| {
        let body = json!({"target": {"device": "box"}, "data": data}).to_string();
        let headers = [("content-type", "application/json"), ("idempotency-key", "k")];
        backend.request("POST", "/v1/events", &headers, body.as_bytes())
    };
    keyed(&all.backend, 1).expect(202);
    let reused = keyed(&all.backend, 2);
    all.add("key-reused", "post /v1/events", reused);
    // The queue has room for one.
    all.backend.push("full", &json!(1));
    all.to("queue-full", json!({"target": {"device": "full"}}));
    let many = format!("[{}0]", "0,".repeat(1_000));
    let batch = [("content-type", "application/cloudevents-batch+json")];
    let many = all.backend.request("POST", "/v1/events", &batch, many.as_bytes());
    all.add("too-many-events", "post /v1/events", many);
    let text = all
        .backend
        .request("POST", "/v1/events", &[("content-type", "text/plain")], b"hello");
    all.add("unsupported-media-type", "post /v1/events", text);
}

/// What paths, keys and devices' own calls provoke.
fn of_callers(all: &mut Provoked) {
    let backend = all.backend.clone();
    all.add("invalid-parameter", "get /v1/devices", backend.get("/v1/devices?limit=0"));
    all.add("unknown-event", "get /v1/events/{id}", backend.get("/v1/events/none"));
    all.add("unknown-key", "delete /v1/keys/{id}", backend.delete("/v1/keys/none"));
    all.add("unauthenticated", "get /v1/limits", backend.with_key("wrong").get("/v1/limits"));
    let made = backend
        .send("POST", "/v1/keys", &json!({"name": "scheduler", "scope": "push"}))
        .expect(201)
        .json();
    let scheduler = backend.with_key(made["key"].as_str().unwrap());
    all.add("forbidden", "get /v1/devices", scheduler.get("/v1/devices"));
    let body = json!({"name": "short", "scope": "read", "expires_in_secs": 1});
    let made = backend.send("POST", "/v1/keys", &body).expect(201).json();
    let short = backend.with_key(made["key"].as_str().unwrap());
    let ended = wait_for("the key ends", SOON, || {
        let answer = short.get("/v1/limits");
        (answer.status != 200).then_some(answer)
    });
    all.add("expired-key", "get /v1/limits", ended);
    all.add("unknown-webhook", "get /v1/webhooks/{id}", backend.get("/v1/webhooks/none"));
    all.add("invalid-filter", "get /v1/devices", backend.get("/v1/devices?filter="));
    all.add("unknown-tenant", "get /v1/tenants/{name}", backend.get("/v1/tenants/nobody"));
    all.add("too-many-consumers", "get /v1/receipts", backend.get("/v1/receipts"));
    all.add("unknown-path", "", backend.get("/v1/event"));
    all.add("method-not-allowed", "", backend.request("PUT", "/v1/events", &[], b""));
    // No bulk request has room here, and no stream.
    let bulk = backend.request("POST", "/v1/devices", &[("content-type", "application/x-ndjson")], b"");
    all.add("overloaded", "post /v1/devices", bulk);
    all.add("too-many-streams", "get /v1/presence/stream", backend.get("/v1/presence/stream"));
    let mut head: Value = serde_json::from_str(backend.get("/v1/export").expect(200).body.lines().next().unwrap()).unwrap();
    head["export"]["format"] = json!(999);
    let import = backend.request(
        "POST",
        "/v1/import",
        &[("content-type", "application/x-ndjson")],
        head.to_string().as_bytes(),
    );
    all.add("conflict", "post /v1/import", import);
    let device = backend.with_key("");
    let poll = |path: &str, password: &str| device.request("GET", path, &[("authorization", &basic("box", password))], b"");
    all.add(
        "other-device",
        "get /v1/devices/{id}/events",
        poll("/v1/devices/full/events", "secret"),
    );
    all.add(
        "wrong-credentials",
        "get /v1/devices/{id}/events",
        poll("/v1/devices/box/events", "wrong"),
    );
    // One wrong password a minute is looked at.
    all.add(
        "too-many-wrong",
        "get /v1/devices/{id}/events",
        poll("/v1/devices/box/events", "wrong"),
    );
}

/// What posting too much provokes: one delivery a second.
fn of_rates(all: &mut Provoked) {
    let body = json!({"name": "slow", "scope": "push", "limits": {"deliveries_per_second": 1, "burst": 1}});
    let made = all.backend.send("POST", "/v1/keys", &body).expect(201).json();
    let slow = all.backend.with_key(made["key"].as_str().unwrap());
    let event = json!({"target": {"device": "box"}, "type": "t"});
    let limited = wait_for("a second delivery is refused", SOON, || {
        Some(slow.post(&event)).filter(|answer| answer.status != 202 && answer.slug() == "rate-limited")
    });
    all.add("rate-limited", "post /v1/events", limited);
}

/// What only bytes provoke.
fn of_bodies(all: &mut Provoked, service: &Service) {
    let head = "POST /v1/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\nKEY\r\n";
    let slow = raw(service, &format!("{head}content-length: 9\r\n\r\n{{"));
    all.add("body-too-slow", "post /v1/events", slow);
    let broken = raw(service, &format!("{head}transfer-encoding: chunked\r\n\r\nno number\r\n"));
    all.add("body-broken", "post /v1/events", broken);
}

/// What the WebSocket provokes. `open` takes devices without TLS, and pages of one origin.
fn of_websockets(all: &mut Provoked, open: &Service) {
    const CONNECT: &str = "get /xmpp-websocket";
    let strict = all.backend.clone();
    let open = Backend {
        address: open.http,
        key: String::new(),
    };
    let connect = |backend: &Backend, more: &[(&str, &str)]| backend.request("GET", "/xmpp-websocket", &[&UPGRADE, more].concat(), b"");
    all.add("upgrade-required", CONNECT, strict.get("/xmpp-websocket"));
    all.add("tls-required", CONNECT, connect(&strict, &[]));
    all.add(
        "foreign-origin",
        CONNECT,
        connect(&open, &[("origin", "https://elsewhere.example")]),
    );
    all.add("bad-handshake", CONNECT, connect(&open, &[]));
}

/// The names of the members of a problem.
fn names(problem: &Value) -> BTreeSet<&String> {
    problem.as_object().unwrap().keys().collect()
}

#[test]
fn every_documented_problem_is_provoked_and_is_as_its_document_says() {
    are_as_documented(Settings::default());
}

#[test]
fn every_documented_problem_is_the_same_on_redis() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    are_as_documented(Settings::default().set("UNPOLL_REDIS_URL", &redis.url()));
}

fn are_as_documented(engine: Settings) {
    let service = Service::start_with(
        engine
            .set("UNPOLL_HTTP_BODY_SECS", "1")
            .set("UNPOLL_LIMITS_QUEUE_MAX_EVENTS", "1")
            .set("UNPOLL_POLL_WRONG_PASSWORDS_MAX", "1")
            .set("UNPOLL_PRESENCE_STREAMS_MAX", "0")
            .set("UNPOLL_RECEIPTS_STREAMS_MAX", "0")
            .set("UNPOLL_REGISTRY_BULK_MAX_REQUESTS", "0"),
    );
    let open = Service::start_with(
        Settings::default()
            .set("UNPOLL_XMPP_REQUIRE_TLS", "false")
            .set("UNPOLL_XMPP_WEBSOCKET_ORIGINS", "[\"https://here.example\"]"),
    );
    let backend = service.backend();
    let document = backend.get("/openapi.json").expect(200).json();
    ["box", "full", "gone"]
        .iter()
        .for_each(|device| backend.add_device(device, "secret"));
    backend.delete("/v1/devices/gone").expect(204);
    let mut all = Provoked { backend, rows: Vec::new() };
    of_events(&mut all);
    of_callers(&mut all);
    of_rates(&mut all);
    of_bodies(&mut all, &service);
    of_websockets(&mut all, &open);

    let examples = document["components"]["examples"].as_object().unwrap();
    for (slug, operation, answer) in &all.rows {
        assert_eq!(answer.slug(), *slug, "{answer:?}");
        let (problem, shown) = (answer.json(), &examples[*slug]["value"]);
        for member in ["type", "title", "status"] {
            assert_eq!(problem[member], shown[member], "{slug}");
        }
        assert_eq!(
            (&problem["status"], names(&problem)),
            (&json!(answer.status), names(shown)),
            "{slug}"
        );
        let headers = [
            ("retry-after", matches!(answer.status, 429 | 503)),
            ("www-authenticate", answer.status == 401),
        ];
        for (name, expected) in headers {
            assert_eq!(answer.header(name).is_some(), expected, "{slug}: {answer:?}");
        }
        let Some((method, path)) = operation.split_once(' ') else {
            continue;
        };
        let described = &document["paths"][path][method]["responses"][answer.status.to_string()];
        let types = &described["content"]["application/problem+json"]["schema"]["properties"]["type"]["enum"];
        assert!(
            types.as_array().is_some_and(|types| types.contains(&problem["type"])),
            "{operation} does not name {slug}"
        );
    }

    let mut where_provoked: BTreeMap<&str, &str> = ELSEWHERE.into();
    for (slug, file) in ELSEWHERE {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        assert!(text.contains(&format!("{slug}\"")), "{file} does not provoke {slug}");
    }
    where_provoked.extend(all.rows.iter().map(|(slug, ..)| (*slug, "here")));
    let documented: BTreeSet<&str> = examples.keys().map(String::as_str).collect();
    let provoked: BTreeSet<&str> = where_provoked.into_keys().collect();
    assert_eq!(
        documented, provoked,
        "a problem that no test provokes, or one that is not documented"
    );
}
