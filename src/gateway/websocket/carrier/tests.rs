//! What HTTPS began, carried on: both sides in memory.

use std::{io::Write as _, sync::Arc};

use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, crypto::aws_lc_rs, version};

use super::*;
use crate::{certificate::Identity, tls::Served};

/// Both sides of a handshake that is done.
fn handshake(version: &'static SupportedProtocolVersion) -> (ClientConnection, ServerConnection) {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = key.cert.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let private = rustls::pki_types::PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into());
    let identity = Identity {
        chain: vec![certificate],
        key: private,
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut client = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(Served::new(&identity, None).unwrap().web.clone()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let sent = sent(&mut client);
        server.read_tls(&mut sent.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer).unwrap();
        }
        receive(&mut client, &answer);
    }
    (client, server)
}

fn sent(client: &mut ClientConnection) -> Vec<u8> {
    let mut sent = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut sent).unwrap();
    }
    sent
}

/// What the client reads, of what it was sent.
fn receive(client: &mut ClientConnection, mut bytes: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets().unwrap();
        // Nothing more, for now.
        let _ = client.reader().read_to_end(&mut read);
    }
    read
}

#[test]
fn logins_are_bound_to_what_both_sides_know_on_tls_1_3_and_to_nothing_before() {
    let (client, server) = handshake(&version::TLS13);
    let exported = client
        .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(&[]))
        .unwrap();
    let bindings = Carrier::new(Some(server), Vec::new(), 100).bindings();
    assert_eq!((bindings.exporter, bindings.end_point), (Some(exported), None));
    let (_, server) = handshake(&version::TLS12);
    assert_eq!(Carrier::new(Some(server), Vec::new(), 100).bindings(), Bindings::default());
    assert_eq!(Carrier::new(None, Vec::new(), 100).bindings(), Bindings::default());
}

#[test]
fn what_came_with_the_handshake_is_read_first_and_a_key_update_is_followed() {
    let (mut client, server) = handshake(&version::TLS13);
    // A ping with an empty payload, and a text of one letter; each masked with nothing.
    let (ping, text) = ([0x89, 0x80, 0, 0, 0, 0], [0x81, 0x81, 0, 0, 0, 0, b'x']);
    let mut carrier = Carrier::new(Some(server), ping.to_vec(), 100);
    let large = frame_of(60);
    client.writer().write_all(&text).unwrap();
    client.refresh_traffic_keys().unwrap();
    client.writer().write_all(&large).unwrap();
    let mut sent = sent(&mut client);
    let (mut heard, mut answer) = (Vec::new(), Vec::new());
    let mut hear = |what: Heard<'_>| {
        heard.push(match what {
            Heard::Clear(text) => String::from_utf8(text.to_vec()).unwrap(),
            Heard::Alive(bytes) => format!("alive {bytes}"),
            Heard::Secured(_) | Heard::Unreadable(_) => unreachable!(),
        });
    };
    carrier.open(&mut [], &mut hear, &mut answer).unwrap();
    for byte in &mut sent {
        carrier.open(std::slice::from_mut(byte), &mut hear, &mut answer).unwrap();
    }
    assert_eq!(heard, ["alive 6".to_owned(), "x".to_owned(), "y".repeat(60)]);
    carrier.seal(b"<presence/><r xmlns='urn:xmpp:sm:3'/>", &mut answer).unwrap();
    carrier.goodbye(&mut answer).unwrap();
    let read = receive(&mut client, &answer);
    let expected = [
        b"\x8a\x00".as_slice(),
        b"\x81\x21<presence xmlns='jabber:client'/>",
        b"\x81\x1a<r xmlns='urn:xmpp:sm:3'/>",
        b"\x88\x02\x03\xe8",
    ];
    assert_eq!(read, expected.concat());
    // Its close_notify says that nothing more comes.
    let state = client.process_new_packets().unwrap();
    assert!(state.peer_has_closed() && !carrier.peer_closed());
}

fn frame_of(length: u8) -> Vec<u8> {
    let mut frame = vec![0x81, 0x80 | length, 0, 0, 0, 0];
    frame.extend(vec![b'y'; usize::from(length)]);
    frame
}

#[test]
fn broken_tls_is_an_error_with_an_alert() {
    let (mut client, server) = handshake(&version::TLS13);
    let mut carrier = Carrier::new(Some(server), Vec::new(), 100);
    client.writer().write_all(b"xxx").unwrap();
    let mut sent = sent(&mut client);
    *sent.last_mut().unwrap() ^= 1;
    let mut answer = Vec::new();
    assert!(carrier.open(&mut sent, &mut |_| (), &mut answer).is_err());
    assert!(!answer.is_empty(), "an alert");
}
