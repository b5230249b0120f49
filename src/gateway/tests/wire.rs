//! TLS in memory: what is heard, in which order, however the bytes are cut.

use std::{io::Write, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::{TLS12, TLS13},
};

use super::super::wire::{Heard, READ_BUFFER, Wire};
use crate::{
    certificate,
    tls::{ClientFiles, Files, Keeper, Served, Source},
};

const WORDS: &[u8] = b"<?xml version='1.0'?>";

struct Peers {
    served: Arc<Served>,
    client: Arc<ClientConfig>,
    shown: CertificateDer<'static>,
}

/// A service that asks for certificates, and a client that shows one of the same authority's.
fn peers(version: &'static SupportedProtocolVersion) -> Peers {
    let directory = tempfile::tempdir().unwrap();
    let identity = certificate::generated(directory.path(), "localhost", std::time::SystemTime::now()).unwrap();
    let file = |name: &str| directory.path().join(name);
    let files = Files {
        own: Source::Given {
            certificate: file("certificate.pem"),
            key: file("key.pem"),
        },
        more: Vec::new(),
        domains: crate::tls::Domains::default(),
        clients: ClientFiles {
            ca: Some(file("ca.pem")),
            ..ClientFiles::default()
        },
        tickets: None,
    };
    let keeper = Keeper::open(
        files,
        std::time::Duration::MAX,
        crate::domain::SystemClock::shared(),
        &prometheus::Registry::new(),
    )
    .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("ca.pem")).unwrap()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(identity.chain.clone(), PrivateKeyDer::from_pem_file(file("key.pem")).unwrap())
        .unwrap();
    Peers {
        served: keeper.current().get(),
        client: Arc::new(client),
        shown: identity.chain[0].clone(),
    }
}

/// What a connection hears, when the client's bytes come in pieces of that size, its first words in one flight with the end of
/// its handshake.
fn heard(peers: &Peers, piece: usize) -> Vec<String> {
    let mut wire = Wire::tls(peers.served.clone()).unwrap();
    let mut client = ClientConnection::new(peers.client.clone(), "localhost".try_into().unwrap()).unwrap();
    let (mut said, mut spoken) = (Vec::new(), false);
    for _ in 0..6 {
        if !client.is_handshaking() && !spoken {
            client.writer().write_all(WORDS).unwrap();
            spoken = true;
        }
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).unwrap();
        }
        let mut answer = Vec::new();
        for piece in flight.chunks(piece) {
            let kept = wire.kept();
            let mut buffer = vec![0; READ_BUFFER];
            buffer[kept..kept + piece.len()].copy_from_slice(piece);
            wire.begin(&mut buffer);
            let mut hear = |heard: Heard<'_>| match heard {
                Heard::Secured(secured) => {
                    let chain = secured.chain.expect("the client showed a certificate");
                    assert!(chain[0] == peers.shown && secured.served.leaf == peers.shown);
                    said.push("secured".to_owned());
                }
                Heard::Clear(clear) => said.push(String::from_utf8(clear.to_vec()).unwrap()),
                Heard::Alive(_) | Heard::Unreadable(_) => unreachable!(),
            };
            wire.open(&mut buffer[..kept + piece.len()], &mut hear, &mut answer).unwrap();
        }
        let mut answer = answer.as_slice();
        while !answer.is_empty() {
            client.read_tls(&mut answer).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    said
}

#[test]
fn the_end_of_the_handshake_is_told_once_and_before_the_first_words() {
    for version in [&TLS13, &TLS12] {
        let peers = peers(version);
        for piece in [1, 7, 100, 16 * 1024] {
            assert_eq!(heard(&peers, piece), ["secured", "<?xml version='1.0'?>"], "{version:?} by {piece}");
        }
    }
}

#[test]
fn a_resumed_connection_brings_its_certificate_along() {
    for version in [&TLS13, &TLS12] {
        let peers = peers(version);
        for _ in 0..3 {
            assert_eq!(heard(&peers, 16 * 1024)[0], "secured");
        }
    }
}
