//! The push run against a server of a few lines, whose faults are known: the run must find them.

#![allow(clippy::unwrap_used, reason = "a test may fail; clippy knows only functions marked as tests")]

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use loadtest::frame::{Frame, Framer};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// What the server does wrong to every 50th event.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    Loses,
    Repeats,
}

type Devices = Arc<Mutex<HashMap<String, mpsc::UnboundedSender<String>>>>;

const FEATURES: &str = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' id='s' from='load.test' \
    version='1.0'><stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms>\
    </stream:features>";

async fn device(mut socket: TcpStream, number: u64, devices: Devices) {
    let (mut framer, mut bytes) = (Framer::default(), vec![0; 4096]);
    let (events, mut outgoing) = mpsc::unbounded_channel::<String>();
    let user = format!("load-{number}");
    loop {
        tokio::select! {
            event = outgoing.recv() => socket.write_all(event.unwrap().as_bytes()).await.unwrap(),
            read = socket.read(&mut bytes) => match read {
                Ok(read) if read > 0 => framer.feed(&bytes[..read]),
                _ => return,
            },
        }
        while let Some(frame) = framer.take().unwrap() {
            let answer = match frame {
                Frame::Header(_) => FEATURES.into(),
                Frame::End => return,
                Frame::Stanza(stanza) => {
                    let stanza = String::from_utf8(stanza.to_vec()).unwrap();
                    match stanza.split([' ', '/', '>']).next().unwrap() {
                        "<auth" => {
                            framer.restart();
                            "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>".into()
                        }
                        "<iq" => format!(
                            "<iq type='result' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>{user}@load.test/r</jid>\
                             </bind></iq>"
                        ),
                        "<enable" => "<enabled xmlns='urn:xmpp:sm:3'/>".into(),
                        "<presence" => {
                            devices.lock().unwrap().insert(user.clone(), events.clone());
                            String::new()
                        }
                        "<a" => String::new(),
                        other => panic!("{other}"),
                    }
                }
            };
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    }
}

async fn backend(mut socket: TcpStream, fault: Fault, numbers: Arc<AtomicU64>, devices: Devices) {
    let mut read = Vec::new();
    loop {
        let (head, body) = loop {
            let text = String::from_utf8_lossy(&read).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                assert!(head.contains("authorization: Bearer the-key"), "{head}");
                let length = head
                    .split("content-length: ")
                    .nth(1)
                    .map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
                if body.len() >= length {
                    read.drain(..head.len() + 4 + length);
                    break (head.to_owned(), body[..length].to_owned());
                }
            }
            if socket.read_buf(&mut read).await.unwrap() == 0 {
                return;
            }
        };
        let (status, answer) = if head.starts_with("GET") {
            (200, "{\"state\":\"delivered\"}".to_owned())
        } else {
            let deliver = |text: &str| {
                let number = numbers.fetch_add(1, Relaxed) + 1;
                let event: Value = serde_json::from_str(text).unwrap();
                let json = event["data"].to_string();
                let send = |seq: u64| {
                    let message = format!(
                        "<message><event xmlns='urn:unpoll:event:1' id='e{number}' lane='n' seq='{seq}'><json xmlns='urn:xmpp:json:0'>{json}\
                         </json></event></message><r xmlns='urn:xmpp:sm:3'/>"
                    );
                    devices.lock().unwrap()[event["target"]["device"].as_str().unwrap()]
                        .send(message)
                        .unwrap();
                };
                match (fault, number % 50) {
                    (Fault::Loses, 0) => {}
                    (Fault::Repeats, 0) => [number, number].into_iter().for_each(send),
                    _ => send(number),
                }
                format!("{{\"id\":\"e{number}\"}}")
            };
            if head.contains("application/x-ndjson") {
                let ids: Vec<String> = body.lines().map(deliver).collect();
                let counts = format!("{{\"accepted\":{},\"refused\":0}}", ids.len());
                if head.contains("results=all") {
                    (200, format!("{}\n{{\"summary\":{counts}}}\n", ids.join("\n")))
                } else {
                    (200, counts)
                }
            } else {
                (202, deliver(&body))
            }
        };
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
        socket.write_all(answer.as_bytes()).await.unwrap();
    }
}

async fn listen<F: Future<Output = ()> + Send + 'static>(serve: impl Fn(TcpStream, u64) -> F + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            tokio::spawn(serve(socket, number));
        }
    });
    address
}

async fn check(fault: Fault, passes: bool, more: &[&str]) -> Value {
    let (devices, numbers): (Devices, Arc<AtomicU64>) = Default::default();
    let known = devices.clone();
    let xmpp = listen(move |socket, number| device(socket, number, known.clone())).await;
    let http = listen(move |socket, _| backend(socket, fault, numbers.clone(), devices.clone())).await;
    let directory = tempfile::tempdir().unwrap();
    let (key, password) = (directory.path().join("key"), directory.path().join("password"));
    std::fs::write(&key, "the-key\n").unwrap();
    std::fs::write(&password, "p").unwrap();
    let mut run = tokio::process::Command::new(env!("CARGO_BIN_EXE_loadtest"));
    // One login after the other, so that the server knows them by their order.
    run.args("push --plain --devices 8 --posters 4 --warmup 0 --seconds 1 --patience 1 --wait answer --json --at-once 1".split(' '));
    run.args([
        "--server",
        &xmpp.to_string(),
        "--url",
        &format!("http://{http}"),
        "--pid",
        &std::process::id().to_string(),
    ]);
    run.args(more).arg("--key-file").arg(key).arg("--password-file").arg(password);
    let done = run.output().await.unwrap();
    assert_eq!(done.status.success(), passes, "{done:?}");
    serde_json::from_slice(&done.stdout).unwrap()
}

#[tokio::test]
async fn a_faultless_server_passes_and_every_event_is_accounted_for() {
    let report = check(Fault::None, true, &[]).await;
    assert!(report["accepted"].as_u64().unwrap() > 50, "{report}");
    assert_eq!(
        (&report["received"], &report["lost"], &report["repeats"]),
        (&report["accepted"], &0.into(), &0.into())
    );
    assert_eq!(
        (&report["settled"], &report["acknowledgements"]),
        (&report["settled_asked"], &report["accepted"])
    );
    assert!(report["cpu_us_per_event"].as_f64().unwrap() > 0.0 && report["post_to_device"]["p99_us"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn lost_events_are_counted_and_fail_the_run() {
    let report = check(Fault::Loses, false, &[]).await;
    let (accepted, lost) = (report["accepted"].as_u64().unwrap(), report["lost"].as_u64().unwrap());
    assert!(accepted > 50 && lost == accepted / 50, "{report}");
}

#[tokio::test]
async fn repeats_are_counted_and_dropped_by_their_number() {
    let report = check(Fault::Repeats, true, &[]).await;
    let (accepted, repeats) = (report["accepted"].as_u64().unwrap(), report["repeats"].as_u64().unwrap());
    assert!(accepted > 50 && repeats == accepted / 50, "{report}");
}

#[tokio::test]
async fn events_of_one_request_are_accounted_for_one_by_one() {
    let several = ["--form", "ndjson", "--per-request", "7"];
    let report = check(Fault::None, true, &several).await;
    let accepted = report["accepted"].as_u64().unwrap();
    assert!(accepted > 50 && accepted.is_multiple_of(7), "{report}");
    assert_eq!(
        (&report["received"], &report["settled"]),
        (&report["accepted"], &report["settled_asked"])
    );
    let report = check(Fault::Loses, false, &several).await;
    let (accepted, lost) = (report["accepted"].as_u64().unwrap(), report["lost"].as_u64().unwrap());
    assert!(lost == accepted / 50, "{report}");
}
