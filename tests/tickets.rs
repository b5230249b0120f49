//! A device that goes to another node resumes its TLS session there.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use loadtest::redis;
use rustls::version::{TLS12, TLS13};
use support::{Authority, Client, Issued, STREAM_HEADER, Service, Settings, TestDir};

const FEATURES: &str = "</stream:features>";
const REQUEST: &str = "GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n";

fn node(redis: &redis::Server, shown: &Issued) -> Service {
    let settings = Settings::default()
        .set("UNPOLL_REDIS_URL", &redis.url())
        .set("UNPOLL_REDIS_DURABILITY", "primary")
        .set("UNPOLL_TLS_CERTIFICATE", shown.certificate.to_str().unwrap())
        .set("UNPOLL_TLS_KEY", shown.key.to_str().unwrap());
    Service::start_with(settings)
}

#[test]
fn a_tls_session_is_resumed_at_every_node_that_shows_the_same_certificate() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let dir = TestDir::new();
    let authority = Authority::new(dir.path(), "push");
    let ca = dir.path().join("push-ca.pem");
    let (first, second) = (authority.server("first"), authority.server("second"));
    let nodes = [node(&redis, &first), node(&redis, &first)];
    let other = node(&redis, &second);
    for version in [&TLS13, &TLS12] {
        let client = Client::new(&ca, b"xmpp-client", None, version);
        let resumes = |service: &Service| {
            let mut secure = client.connect(service.xmpps, None);
            // In TLS 1.3 the ticket comes with the first words.
            secure.says(STREAM_HEADER, FEATURES);
            secure.is_resumed()
        };
        assert_eq!([0, 1, 0].map(|node| resumes(&nodes[node])), [false, true, true], "{version:?}");
        assert!(
            !resumes(&other),
            "{version:?}: a ticket dies with the certificate it was given under"
        );
        assert!(!resumes(&nodes[1]), "{version:?}: and its own is not taken elsewhere");
        let web = Client::new(&ca, b"http/1.1", None, version);
        let resumes = |service: &Service| {
            let mut secure = web.connect(service.https, None);
            secure.says(REQUEST, "\r\n\r\n");
            secure.is_resumed()
        };
        assert_eq!([0, 1].map(|node| resumes(&nodes[node])), [false, true], "{version:?}");
    }

    // Two secrets, each of its own period, that Redis forgets by itself; no log holds one.
    let mut secrets: Vec<String> = redis.query(&["KEYS", "unpoll:{r}ticket:*"]).unwrap();
    secrets.sort();
    assert_eq!(secrets.len(), 2, "{secrets:?}");
    for key in &secrets {
        let left: i64 = redis.query(&["PTTL", key]).unwrap();
        assert!((1..=3 * 6 * 3_600_000).contains(&left), "{key}: {left} ms");
    }
}

#[test]
fn a_node_that_starts_again_takes_the_tickets_of_its_life_before() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let mut service = Service::start_with(Settings::default().set("UNPOLL_REDIS_URL", &redis.url()));
    let client = Client::new(&service.ca(), b"xmpp-client", None, &TLS13);
    client.connect(service.xmpps, None).says(STREAM_HEADER, FEATURES);
    assert_eq!(service.stop(), Some(0));
    service.run();
    assert!(client.connect(service.xmpps, None).is_resumed());
}
