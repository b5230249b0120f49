//! The poll run, and the box that polls, against a door of a few lines whose faults are known: the run must find them.

#![allow(clippy::unwrap_used, reason = "a test may fail; clippy knows only functions marked as tests")]

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use loadtest::{
    Door, Poller,
    counted::{Counted, Counter, Side},
};
use rustls::{ServerConfig, server::NoServerSessionStorage};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// What the door does wrong.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// It keeps no TLS sessions.
    Forgets,
    /// It answers 200 to those who know the entity tag.
    Repeats,
    /// It answers 429 to every 50th request.
    Refuses,
    /// It closes the connection instead of its 70th answer.
    Closes,
}

struct FakeDoor {
    address: SocketAddr,
    directory: TempDir,
    sockets: Arc<Mutex<Vec<Counter>>>,
}

impl FakeDoor {
    async fn start(fault: Fault) -> Self {
        let pair = rcgen::generate_simple_self_signed(["load.test".to_owned()]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), pair.cert.pem()).unwrap();
        std::fs::write(directory.path().join("password"), "secret\n").unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![pair.cert.der().clone()],
                PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der()).into(),
            )
            .unwrap();
        if fault == Fault::Forgets {
            tls.session_storage = Arc::new(NoServerSessionStorage {});
        }
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (numbers, sockets): (Arc<AtomicU64>, Arc<Mutex<Vec<Counter>>>) = Default::default();
        let known = sockets.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (socket, counter) = Counted::new(socket);
                known.lock().unwrap().push(counter);
                tokio::spawn(serve(acceptor.clone(), socket, fault, numbers.clone()));
            }
        });
        Self {
            address,
            directory,
            sockets,
        }
    }

    fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// What its sockets carried: out, in.
    fn carried(&self) -> (u64, u64) {
        let sides: Vec<(Side, Side)> = self.sockets.lock().unwrap().iter().map(Counter::sides).collect();
        (
            sides.iter().map(|(out, _)| out.bytes).sum(),
            sides.iter().map(|(_, inward)| inward.bytes).sum(),
        )
    }

    async fn run(&self, passes: bool) -> Value {
        let mut run = tokio::process::Command::new(env!("CARGO_BIN_EXE_loadtest"));
        run.args("poll --boxes 6 --at-once 3 --polls 120 --json".split(' '));
        run.args(["--https", &self.address.to_string(), "--pid", &std::process::id().to_string()]);
        run.arg("--ca").arg(self.ca());
        run.arg("--password-file").arg(self.directory.path().join("password"));
        let done = run.output().await.unwrap();
        assert_eq!(done.status.success(), passes, "{done:?}");
        serde_json::from_slice(&done.stdout).unwrap_or_default()
    }
}

async fn serve(acceptor: TlsAcceptor, socket: Counted<TcpStream>, fault: Fault, numbers: Arc<AtomicU64>) {
    let Ok(mut stream) = acceptor.accept(socket).await else { return };
    let mut read = Vec::new();
    loop {
        let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else {
            match stream.read_buf(&mut read).await {
                Ok(0) | Err(_) => break,
                Ok(_) => continue,
            }
        };
        let head = String::from_utf8(read.drain(..end + 4).collect()).unwrap();
        assert!(head.starts_with("GET /v1/devices/load-"), "{head}");
        // load-0@load.test:secret … load-5@load.test:secret
        assert!(head.contains("\r\nauthorization: Basic bG9hZC"), "{head}");
        let number = numbers.fetch_add(1, Relaxed) + 1;
        let knows = head.contains("\r\nif-none-match: \"tag\"");
        let body = r#"{"events":[],"next":"n","poll_after_seconds":900}"#;
        let answer = match fault {
            Fault::Closes if number == 70 => break,
            Fault::Refuses if number.is_multiple_of(50) => "HTTP/1.1 429 X\r\ncontent-length: 0\r\n\r\n".to_owned(),
            _ if knows && fault != Fault::Repeats => "HTTP/1.1 304 X\r\netag: \"tag\"\r\n\r\n".to_owned(),
            _ => format!("HTTP/1.1 200 X\r\netag: \"tag\"\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
        };
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
    let _ = stream.shutdown().await;
}

#[tokio::test]
async fn a_faultless_door_passes_and_each_way_is_what_it_says() {
    let report = FakeDoor::start(Fault::None).await.run(true).await;
    let turns = report["turns"].as_array().unwrap();
    let seen: Vec<(&str, u64, u64, u64)> = turns
        .iter()
        .map(|turn| {
            let connections = turn["traffic"]["connections"].as_u64().unwrap();
            assert!(
                turn["statuses"][if turn["way"] == "unchanged" { "304" } else { "200" }] == 120,
                "{turn}"
            );
            assert!(
                turn["time"]["count"] == 120 && turn["cpu_us_per_poll"].as_f64().unwrap() >= 0.0,
                "{turn}"
            );
            (
                turn["way"].as_str().unwrap(),
                turn["polls"].as_u64().unwrap(),
                connections,
                turn["resumed"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("cold", 120, 120, 0),
            ("resumed", 120, 120, 120),
            ("kept", 120, 0, 0),
            ("unchanged", 120, 0, 0)
        ]
    );
    let each = |turn: usize, what: &str| turns[turn]["each"][what].as_f64().unwrap();
    let bytes = |turn| each(turn, "sent") + each(turn, "received");
    assert!(bytes(0) > bytes(1) && bytes(1) > bytes(2) && bytes(2) > bytes(3), "{report}");
    assert_eq!((each(2, "packets"), each(3, "packets")), (3.0, 3.0));
    assert!(each(0, "packets") > 10.0, "{report}");
    assert_eq!(each(3, "sent_with_headers"), each(3, "sent") + 104.0);
    assert!(report["protection"].as_str().unwrap().contains("TLSv1_3"), "{report}");
}

#[tokio::test]
async fn a_door_that_resumes_no_session_is_found() {
    let report = FakeDoor::start(Fault::Forgets).await.run(false).await;
    assert_eq!(
        (&report["turns"][1]["resumed"], &report["turns"][1]["wrong"]),
        (&0.into(), &120.into())
    );
    assert_eq!(report["turns"][0]["wrong"], 0);
}

#[tokio::test]
async fn a_door_that_never_says_304_is_found() {
    let report = FakeDoor::start(Fault::Repeats).await.run(false).await;
    assert_eq!(report["turns"][3]["wrong"], 120);
}

#[tokio::test]
async fn refusals_are_counted_and_fail_the_run() {
    let report = FakeDoor::start(Fault::Refuses).await.run(false).await;
    let refused: u64 = (0..4).filter_map(|turn| report["turns"][turn]["statuses"]["429"].as_u64()).sum();
    // 6 polls to warm up, then 6 before each turn and 120 in it: all multiples of 50 up to 510 lie in a turn.
    assert_eq!(refused, 10, "{report}");
}

#[tokio::test]
async fn a_connection_that_breaks_is_a_failed_poll() {
    let report = FakeDoor::start(Fault::Closes).await.run(false).await;
    let turn = &report["turns"][0];
    assert_eq!((&turn["polls"], &turn["wrong"]), (&119.into(), &0.into()), "{report}");
    assert_eq!(turn["failed"].as_object().unwrap().len(), 1, "{report}");
}

#[tokio::test]
async fn both_ends_of_a_socket_count_the_same() {
    let door = FakeDoor::start(Fault::None).await;
    let entrance = Door::new(door.address, "load.test", &door.ca()).unwrap();
    let mut poller = Poller::new(&entrance, "load-0", "secret", true).unwrap();
    assert_eq!(poller.resumed(), None);
    for (connection, resumed) in [(1, false), (2, true)] {
        assert_eq!(poller.poll(None).await.unwrap().status, 200);
        assert_eq!(poller.poll(Some("\"tag\"")).await.unwrap().status, 304);
        assert_eq!(poller.resumed(), Some(resumed));
        poller.close().await.unwrap();
        let traffic = poller.traffic();
        assert_eq!(
            (traffic.connections, traffic.closed, traffic.answers),
            (connection, connection, 2 * connection)
        );
    }
    let traffic = poller.traffic();
    assert_eq!(door.carried(), (traffic.received.bytes, traffic.sent.bytes));
    let mut padded = Poller::new(&entrance.with_cookie(300), "load-0", "secret", false).unwrap();
    padded.poll(None).await.unwrap();
    padded.poll(None).await.unwrap();
    let before = padded.traffic();
    padded.poll(None).await.unwrap();
    assert!(padded.traffic().since(&before).sent.bytes > 400);
}
