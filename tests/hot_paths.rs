//! Instructions of the hot paths, counted by callgrind: the same on a busy machine, where times are not.
//!
//! `cargo test --release --test hot_paths -- --ignored --nocapture` compares with `tests/hot_paths.txt` and fails when a path
//! grew by more than a tenth; `BLESS=1` writes the file. Needs valgrind.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::Command,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use axum::{Extension, body::Body, http::Request};
use tower::ServiceExt as _;
use unpoll::{
    domain::{
        Caller, Data, Epoch, Event, EventId, Generation, Lane, Limits, Located, Password, Queue, Require, Scope, ScramSecret, Seq,
        SessionId, SystemClock, TenantId, Timestamp, Urgency,
    },
    ingress::{self, IngressMetrics, IngressState},
    store::{
        DeviceChange, DeviceKey, QueuedEvent, Registry as _,
        embedded::{self, EmbeddedStore},
    },
    xmpp::{Action, Credentials, Pushed, ServerStream, StreamConfig},
};

/// Its name, what one round of it is, and how to run so many rounds.
type HotPath = (&'static str, &'static str, fn(u64));

const PATHS: [HotPath; 3] = [
    (
        "event-out",
        "an event of 500 bytes rendered into a session, and its acknowledgement read",
        event_out,
    ),
    ("keepalive", "a request for an acknowledgement read and answered", keepalive),
    ("event-in", "POST /v1/events: parsed, committed to disk, answered", event_in),
];
/// Rounds that are left out of the count, and rounds that are counted.
const ROUNDS: (u64, u64) = (200, 1_000);
/// A path may grow by this part before it is looked at.
const TOLERANCE: f64 = 0.1;

#[test]
#[ignore = "a figure: minutes, and only in release"]
fn the_hot_paths_cost_what_they_did() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hot_paths.txt");
    let known = fs::read_to_string(&file).unwrap_or_default();
    let (mut fresh, mut grown) = (String::new(), Vec::new());
    for (path, what, _) in PATHS {
        let (few, many) = (count(path, ROUNDS.0), count(path, ROUNDS.0 + ROUNDS.1));
        let a_round = (many - few) / ROUNDS.1;
        writeln!(fresh, "{path} {a_round}").unwrap();
        let before = known.lines().find_map(|line| line.strip_prefix(path)?.trim().parse::<u64>().ok());
        println!("{path}: {a_round} instructions ({what}); before: {before:?}");
        if before.is_none_or(|before| a_round as f64 > before as f64 * (1.0 + TOLERANCE)) {
            grown.push(path);
        }
    }
    if std::env::var_os("BLESS").is_some() {
        fs::write(&file, fresh).unwrap();
    } else {
        assert!(
            grown.is_empty(),
            "grew by more than {TOLERANCE}, or new: {grown:?}; see why, then BLESS=1"
        );
    }
}

/// Instructions of a process that runs a path so many times.
fn count(path: &str, rounds: u64) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--error-limit=no"])
        .arg(format!("--callgrind-out-file={}", folder.path().join("out").display()))
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--test-threads=1", "a_path_by_name"])
        .env("HOT_PATH", path)
        .env("HOT_PATH_ROUNDS", rounds.to_string())
        .output()
        .expect("valgrind of Debian's package of that name");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
    let collected = said.lines().find_map(|line| line.split("Collected : ").nth(1)?.trim().parse().ok());
    collected.unwrap_or_else(|| panic!("no count in {said}"))
}

/// What valgrind runs.
#[test]
#[ignore = "run by the test above"]
fn a_path_by_name() {
    let Ok(name) = std::env::var("HOT_PATH") else { return };
    let rounds = std::env::var("HOT_PATH_ROUNDS").unwrap().parse().unwrap();
    let (_, _, run) = PATHS.into_iter().find(|(path, ..)| *path == name).unwrap();
    run(rounds);
}

const NOW: Timestamp = Timestamp(1_790_000_000_000);

/// A session with stream management, available.
fn session(now: Instant) -> ServerStream {
    let secret = ScramSecret::derive(&Password("pencil".into()), 4_096).unwrap();
    let config = StreamConfig::new(Arc::new(|_| Some(TenantId(0))));
    let mut stream = ServerStream::new(Arc::new(config), true, [7; 32], now);
    let header = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='localhost' version='1.0'>";
    for said in [
        header,
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGJveABwZW5jaWw=</auth>",
        header,
        "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
        "<enable xmlns='urn:xmpp:sm:3' resume='true'/>",
        "<presence/>",
        "<a xmlns='urn:xmpp:sm:3' h='1'/>",
    ] {
        stream.receive(said.as_bytes(), now, NOW);
        while let Some(action) = stream.next_action() {
            match action {
                Action::FindCredentials { .. } => {
                    let secrets = vec![secret.clone()];
                    stream.credentials_found(
                        Credentials::Found {
                            secrets,
                            generation: 1,
                            tokens: unpoll::domain::FastTokens::default(),
                        },
                        now,
                    );
                }
                Action::CheckPassword { .. } => stream.password_checked(Some(true), now),
                Action::Claim { .. } => stream.claimed(Epoch(1), SessionId(1), now),
                _ => {}
            }
        }
        stream.output().clear();
    }
    assert!(stream.session().is_some(), "bound");
    stream
}

fn queued(number: u64) -> Arc<QueuedEvent> {
    let mut id = [0; 20];
    id[..8].copy_from_slice(&number.to_be_bytes());
    let data = format!(
        r#"{{"specversion":"1.0","id":"e","source":"/s","type":"t","data":"{}"}}"#,
        "x".repeat(430)
    );
    Arc::new(QueuedEvent {
        id: EventId(id),
        located: Located {
            tenant: TenantId(0),
            bucket: 1,
            ordinal: 1,
            queue: Some(Queue::Rest),
            number,
        },
        lane: Lane::Queue(Urgency::Normal, Generation(1)),
        seq: Seq(number),
        attempt: 1,
        event: Event {
            tenant: TenantId(0),
            device: "box".parse().unwrap(),
            accepted_at: NOW,
            deliver_at: None,
            ttl: Duration::from_secs(3_600),
            urgency: Urgency::Normal,
            collapse_key: None,
            require: Require::Acknowledged,
            json: Data(data.into()),
        },
    })
}

fn event_out(rounds: u64) {
    let now = Instant::now();
    let mut stream = session(now);
    let events: Vec<_> = (1..=rounds).map(queued).collect();
    for (number, event) in (1u64..).zip(&events) {
        assert_eq!(stream.push(event, false, now, NOW), Pushed::Taken);
        stream.flush(now);
        stream.output().clear();
        // The presence was the first stanza that counts.
        let ack = format!("<a xmlns='urn:xmpp:sm:3' h='{}'/>", number + 1);
        stream.receive(ack.as_bytes(), now, NOW);
        let mut ended = 0;
        while let Some(action) = stream.next_action() {
            ended += usize::from(matches!(action, Action::Ended(_)));
        }
        assert_eq!(ended, 1);
    }
}

fn keepalive(rounds: u64) {
    let now = Instant::now();
    let mut stream = session(now);
    for _ in 0..rounds {
        stream.receive(b"<r xmlns='urn:xmpp:sm:3'/>", now, NOW);
        while stream.next_action().is_some() {}
        assert!(!stream.output().is_empty());
        stream.output().clear();
    }
}

fn event_in(rounds: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let config = embedded::Config {
            data_dir: folder.path().to_path_buf(),
            ..embedded::Config::default()
        };
        let clock = SystemClock::shared();
        let (store, _arrivals) = EmbeddedStore::open(config, Limits::default(), clock.clone()).unwrap();
        let device = DeviceKey {
            tenant: TenantId(0),
            device: "box".parse().unwrap(),
        };
        store.put_device(&device, DeviceChange::default(), true, NOW).await.unwrap();
        let state = IngressState::new(
            store.clone(),
            clock,
            Limits::default(),
            ingress::Config::default(),
            IngressMetrics::register(&prometheus::Registry::new()).unwrap(),
            Arc::new(|_, _, _| {}),
            ingress::Throttle {
                draining: Arc::new(AtomicBool::new(false)),
                rates: ingress::Rates::new(&ingress::RatesConfig::default(), Arc::new(|| 1)),
                shed: unpoll::http::Shed::new(&unpoll::http::ShedConfig::default(), 1_024, &prometheus::Registry::new()).unwrap(),
            },
        );
        let caller = Caller {
            tenant: TenantId(0),
            domain: "localhost".into(),
            key_id: Some("k".into()),
            also_push: false,
            key_name: "k".into(),
            scope: Scope::Push,
            limits: unpoll::domain::CallerLimits::default(),
        };
        let routes = ingress::routes(state).layer(Extension(caller));
        let body = format!(
            r#"{{"type":"com.example.recording.scheduled","data":"{}","target":{{"device":"box"}},"ttl":3600}}"#,
            "x".repeat(400)
        );
        for _ in 0..rounds {
            let request = Request::post("/v1/events")
                .header("content-type", "application/json")
                .body(Body::from(body.clone()))
                .unwrap();
            let response = routes.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), 202);
        }
        store.close();
    });
}
