//! The certificate changes while devices are connected: none is dropped, and who comes next sees the new one.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{fs, net::SocketAddr, path::Path};

use loadtest::{Security, Trust};
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use serde_json::json;
use support::{Authority, Device, Options, SOON, STREAM_HEADER, Service, Settings, TestDir, peer, wait_for};

const DEVICES: usize = 50;
const REPLACED: &str = r#"unpoll_certificate_reloads_total{result="replaced"}"#;
const FAILED: &str = r#"unpoll_certificate_reloads_total{result="failed"}"#;

/// What all TLS listeners show to a client that trusts `ca`.
fn shown(service: &Service, ca: &Path) -> [CertificateDer<'static>; 3] {
    let https: SocketAddr = service.ready["https"].as_str().unwrap().parse().unwrap();
    let starttls = format!("{STREAM_HEADER}<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    [
        peer(service.xmpps, ca, b"xmpp-client", None),
        peer(
            service.xmpp,
            ca,
            b"xmpp-client",
            Some((&starttls, "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")),
        ),
        peer(https, ca, b"http/1.1", None),
    ]
}

fn counts(service: &Service, series: &str, times: f64) {
    wait_for(series, SOON, || (service.metric(series) == Some(times)).then_some(()));
}

#[test]
fn a_new_certificate_is_served_without_dropping_a_device_and_a_broken_one_is_not() {
    let dir = TestDir::new();
    let authority = Authority::new(dir.path(), "test");
    let ca = dir.path().join("test-ca.pem");
    let first = authority.server("server");
    let settings = Settings {
        expects_errors: true,
        ..Settings::default()
    };
    let settings = settings
        .set("UNPOLL_TLS_CERTIFICATE", first.certificate.to_str().unwrap())
        .set("UNPOLL_TLS_KEY", first.key.to_str().unwrap());
    let service = Service::start_with(settings);
    let backend = service.backend();
    let devices: Vec<Device> = (0..DEVICES)
        .map(|number| {
            let id = format!("box-{number}");
            backend.add_device(&id, "9f86d081884c7d659a2feaa0c55ad015");
            Device::connect(options(&service, &ca, &id)).unwrap()
        })
        .collect();
    assert_eq!(shown(&service, &ca), [first.der.clone(), first.der.clone(), first.der.clone()]);
    let expiry = service.metric("unpoll_certificate_expiry_seconds").unwrap();

    let second = authority.server("server");
    service.signal(Signal::HUP);
    counts(&service, REPLACED, 1.0);
    assert_ne!(first.der, second.der);
    assert_eq!(shown(&service, &ca), [second.der.clone(), second.der.clone(), second.der.clone()]);
    assert!(service.metric("unpoll_certificate_expiry_seconds").unwrap() >= expiry);

    fs::write(&second.certificate, "-----BEGIN CERTIFICATE-----\nbroken").unwrap();
    service.signal(Signal::HUP);
    counts(&service, FAILED, 1.0);
    assert_eq!(shown(&service, &ca), [second.der.clone(), second.der.clone(), second.der]);
    let errors = service.log();
    let errors: Vec<&str> = errors.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(
        errors.len() == 1 && errors[0].contains("server.pem holds no certificate in PEM"),
        "{errors:?}"
    );

    for (number, device) in devices.iter().enumerate() {
        assert!(device.is_connected(), "box-{number}");
        let id = backend.push(&format!("box-{number}"), &json!(number));
        assert_eq!(device.expect_event().id, id);
    }
}

#[test]
fn a_change_of_the_files_is_noticed_without_a_signal() {
    let dir = TestDir::new();
    let authority = Authority::new(dir.path(), "test");
    let ca = dir.path().join("test-ca.pem");
    let first = authority.server("server");
    let settings = Settings::default()
        .set("UNPOLL_TLS_CERTIFICATE", first.certificate.to_str().unwrap())
        .set("UNPOLL_TLS_KEY", first.key.to_str().unwrap())
        .set("UNPOLL_TLS_RELOAD_SECS", "1");
    let service = Service::start_with(Settings {
        // A look may fall between the writing of the two files, which the next one heals.
        expects_errors: true,
        ..settings
    });
    let second = authority.server("server");
    counts(&service, REPLACED, 1.0);
    assert_eq!(shown(&service, &ca), [second.der.clone(), second.der.clone(), second.der]);
}

/// A device of that service that trusts `ca`.
fn options(service: &Service, ca: &Path, id: &str) -> Options {
    let trust = Trust::ca_file(ca).unwrap();
    let password = std::sync::Arc::new(loadtest::sasl::Password::new("9f86d081884c7d659a2feaa0c55ad015"));
    Options::new(service.xmpps, Security::Tls(trust), "localhost", id, password)
}
