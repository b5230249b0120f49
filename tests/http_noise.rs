//! Fuzzing of HTTP, through a socket of the real service: whatever comes is answered or closed, nothing of a refused
//! request is stored, and the service goes on. `PROPTEST_CASES` sets how many; 256 by default.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use proptest::{prelude::*, sample::Index, test_runner::TestRunner};
use serde_json::{Value, json};
use support::{Backend, SOON, Service, Settings};

/// Correct requests, to be spoiled.
fn requests(key: &str) -> Vec<Vec<u8>> {
    let with_body = |head: &str, body: &str| {
        let length = body.len();
        format!("{head}Host: h\r\nAuthorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
    };
    let native = r#"{"id":"e","type":"t","source":"/s","time":"2026-11-22T01:30:00Z","data":{"n":[1,2.5e3,null,"\u00e9\ud83d\ude00"]},"target":{"device":"box"},"ttl":86400,"urgency":"high","collapse_key":"k"}"#;
    let cloud = r#"{"specversion":"1.0","id":"c","source":"/s","type":"t","subject":"box","datacontenttype":"application/json","pushttl":60,"data":{"n":1}}"#;
    let chunked = format!(
        "POST /v1/events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x};x=y\r\n{native}\r\n0\r\nTrailer: 1\r\n\r\n",
        native.len()
    );
    vec![
        with_body("POST /v1/events HTTP/1.1\r\nContent-Type: application/json\r\nTTL: 60\r\n", native),
        with_body(
            "POST /v1/events HTTP/1.1\r\nContent-Type: application/cloudevents+json; charset=utf-8\r\n",
            cloud,
        ),
        with_body(
            "POST /v1/events HTTP/1.1\r\nce-specversion: 1.0\r\nce-id: b\r\nce-source: /s\r\nce-type: t\r\nce-subject: box\r\nContent-Type: application/json\r\n",
            "{}",
        ),
        chunked.into_bytes(),
        with_body(
            "POST /v1/events HTTP/1.1\r\nContent-Type: application/x-ndjson\r\nIdempotency-Key: k\r\n",
            &format!("{native}\n\n{cloud}\r\nnonsense\n{native}"),
        ),
        with_body(
            "POST /v1/events?results=all HTTP/1.1\r\nContent-Type: application/cloudevents-batch+json\r\n",
            &format!("[{cloud},{{}},{cloud}]"),
        ),
        with_body("GET /v1/devices?limit=10&cursor=abc HTTP/1.1\r\n", ""),
        with_body(
            "PUT /v1/devices/box%2e1 HTTP/1.1\r\nContent-Type: application/json\r\n",
            r#"{"attributes":{"a":1},"cohort":"poll"}"#,
        ),
        with_body("GET /v1/reports/polling-avoided?from=2026-11-22T01:30:00%2B01:00 HTTP/1.0\r\n", ""),
    ]
}

#[derive(Clone, Debug)]
enum Spoil {
    /// One byte becomes another.
    Set(Index, u8),
    /// Bytes are put in.
    Insert(Index, Vec<u8>),
    /// A stretch is taken out.
    Remove(Index, usize),
    /// A stretch comes twice.
    Repeat(Index, usize),
    /// The rest does not come.
    Cut(Index),
}

fn spoil() -> impl Strategy<Value = Spoil> {
    let telling = prop::sample::select(vec![
        b"\r\n".to_vec(),
        b"\0".to_vec(),
        b"\xff\xfe".to_vec(),
        b"Content-Length: 5\r\n".to_vec(),
        b"Transfer-Encoding: chunked\r\n".to_vec(),
        b"%00".to_vec(),
        b"/../".to_vec(),
        b"\"\\ud800\"".to_vec(),
        b"[[[[[[[[[[[[[[[[".to_vec(),
        b"1e999".to_vec(),
        b"\xed\xa0\x80".to_vec(),
    ]);
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Spoil::Set(at, byte)),
        (any::<Index>(), telling).prop_map(|(at, bytes)| Spoil::Insert(at, bytes)),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Spoil::Insert(at, bytes)),
        (any::<Index>(), 1usize..40).prop_map(|(at, length)| Spoil::Remove(at, length)),
        (any::<Index>(), 1usize..200).prop_map(|(at, length)| Spoil::Repeat(at, length)),
        any::<Index>().prop_map(Spoil::Cut),
    ]
}

fn spoiled(mut request: Vec<u8>, spoils: &[Spoil]) -> Vec<u8> {
    for spoil in spoils {
        let place = |index: &Index| index.index(request.len().max(1)).min(request.len());
        match spoil {
            Spoil::Set(at, byte) => {
                let at = place(at);
                if let Some(place) = request.get_mut(at) {
                    *place = *byte;
                }
            }
            Spoil::Insert(at, bytes) => {
                let at = place(at);
                request.splice(at..at, bytes.iter().copied());
            }
            Spoil::Remove(at, length) => {
                let at = place(at);
                let end = (at + length).min(request.len());
                request.drain(at..end);
            }
            Spoil::Repeat(at, length) => {
                let at = place(at);
                let end = (at + length).min(request.len());
                let again = request.get(at..end).unwrap_or_default().to_vec();
                request.splice(at..at, again);
            }
            Spoil::Cut(at) => {
                let at = place(at);
                request.truncate(at);
            }
        }
    }
    request
}

/// Sends it all and reads until nothing more comes for a while; then says that no more will, and reads to the end. The
/// statuses of all answers.
fn statuses(backend: &Backend, request: &[u8]) -> Vec<u16> {
    let mut stream = TcpStream::connect(backend.address).unwrap();
    // It may be refused, and the connection closed, before all of it was read.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    for patience in [Duration::from_millis(100), SOON] {
        stream.set_read_timeout(Some(patience)).unwrap();
        match stream.read_to_end(&mut answer) {
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) if error.kind() == ErrorKind::WouldBlock && patience < SOON => {}
            Err(error) => panic!("no end after {:?}: {error}", String::from_utf8_lossy(request)),
        }
        let _ = stream.shutdown(Shutdown::Write);
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let heads = text.split("HTTP/1.").skip(1).filter_map(|rest| rest.get(2..5)?.parse().ok());
    heads.collect()
}

/// Deliveries of all devices.
fn stored(backend: &Backend) -> usize {
    let devices = backend.get("/v1/devices?limit=1000").expect(200).json();
    let ids = devices["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|device| device["id"].as_str().unwrap());
    ids.map(|id| {
        let page = backend.get(&format!("/v1/devices/{id}/deliveries?limit=1000")).expect(200).json();
        page["items"].as_array().unwrap().len()
    })
    .sum()
}

#[test]
fn spoiled_requests_are_answered_or_closed_and_store_nothing_by_half() {
    let service = Service::start();
    let backend = service.backend();
    backend.add_device("box", "secret");
    let requests = requests(&backend.key);
    let accepted = AtomicUsize::new(0);
    let config = ProptestConfig {
        cases: ProptestConfig::default().cases.max(256),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let case = (0..requests.len(), prop::collection::vec(spoil(), 0..4));
    let outcome = TestRunner::new(config).run(&case, |(which, spoils)| {
        let request = spoiled(requests.get(which).unwrap().clone(), &spoils);
        for status in statuses(&backend, &request) {
            prop_assert!((200..500).contains(&status), "{status} for {:?}", String::from_utf8_lossy(&request));
            accepted.fetch_add(usize::from(status == 202), Ordering::Relaxed);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(accepted.load(Ordering::Relaxed) > 0, "no request was left intact");
    assert!(!service.log().contains("panic"), "{}", service.log());

    // What was accepted is stored, and nothing else (what was replaced keeps its row).
    let accepted_in_all = service.metric("unpoll_events_accepted_total{durability=\"disk\"}").unwrap();
    assert_eq!(stored(&backend) as f64, accepted_in_all);
    assert!(accepted_in_all >= accepted.load(Ordering::Relaxed) as f64);
    backend.post(&json!({ "type": "t", "target": { "device": "box" } })).expect(202);
}

/// Sends a request with many events on a socket of its own, says whether more will come, and reads the answer.
fn answered(backend: &Backend, framing: &str, body: &[u8], ends: bool) -> (u16, Value) {
    let mut stream = TcpStream::connect(backend.address).unwrap();
    let (key, kind) = (&backend.key, "application/x-ndjson");
    let head = format!("POST /v1/events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\nContent-Type: {kind}\r\n{framing}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    if ends {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    stream.set_read_timeout(Some(SOON)).unwrap();
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    let (head, body) = loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            // Another answer may be behind it, to what follows a length that is too short.
            let length = head
                .split("\r\n")
                .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let body = length.map_or(Some(body), |length: usize| body.get(..length));
            if let Some(Ok(body)) = body.map(serde_json::from_str::<Value>) {
                break (head.to_owned(), body);
            }
        }
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "no answer to {framing}: {text:?}");
        answer.extend_from_slice(&piece[..read]);
    };
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
}

#[test]
fn of_a_body_that_stops_what_came_whole_is_stored_and_the_rest_is_named() {
    let service = Service::start_with(Settings::default().set("UNPOLL_HTTP_BODY_SECS", "1"));
    let backend = service.backend();
    backend.add_device("box", "secret");
    let event = r#"{"type":"t","target":{"device":"box"}}"#;
    let begun = format!("{event}\nnonsense\n{event}\n{event}");
    let chunked = |piece: &str, next: &str| format!("{:x}\r\n{piece}\r\n{next}", piece.len());
    let cases = [
        // Of the promised length a part comes, and then nothing; or the end of the connection.
        ("Content-Length: 5000", begun.clone(), false, "body-too-slow"),
        ("Content-Length: 5000", begun.clone(), true, "body-broken"),
        ("Transfer-Encoding: chunked", chunked(&begun, "zz\r\n"), false, "body-broken"),
        ("Transfer-Encoding: chunked", chunked(&begun, ""), true, "body-broken"),
        ("Transfer-Encoding: chunked", chunked(&begun, "5\r\n"), false, "body-too-slow"),
    ];
    for (at, (framing, body, ends, slug)) in cases.into_iter().enumerate() {
        let (status, told) = answered(&backend, framing, body.as_bytes(), ends);
        let kind = |problem: &Value| problem["type"].as_str().unwrap_or_default().to_owned();
        assert_eq!((status, kind(&told["problem"])), (200, format!("/problems/{slug}")), "{told}");
        assert_eq!((&told["accepted"], &told["refused"]), (&json!(2), &json!(2)), "{told}");
        assert_eq!(kind(&told["failed"][1]["problem"]), format!("/problems/{slug}"), "{told}");
        assert_eq!(stored(&backend), 2 * (at + 1));
        // Nothing came whole: the request is refused.
        if framing.starts_with("Content") {
            let (status, told) = answered(&backend, framing, b"", ends);
            assert_eq!(
                (status, kind(&told)),
                (if ends { 400 } else { 408 }, format!("/problems/{slug}")),
                "{told}"
            );
        }
    }
    // A length that is too short cuts the last line; what follows is no request.
    let (status, told) = answered(&backend, &format!("Content-Length: {}", event.len() + 11), begun.as_bytes(), true);
    assert_eq!((status, &told["accepted"], &told["refused"]), (200, &json!(1), &json!(2)), "{told}");
}
