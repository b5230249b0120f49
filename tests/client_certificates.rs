//! Devices that log in by certificate: EXTERNAL over direct TLS and STARTTLS, TLS 1.3 and 1.2, by hand and with slixmpp.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{fs, path::PathBuf, process::Command, time::SystemTime};

use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, OtherNameValue, SanType, SerialNumber};
use rustix::process::Signal;
use rustls::version::{TLS12, TLS13};
use serde_json::json;
use support::{Authority, Client, Device, Issued, SOON, STREAM_HEADER, Secure, Service, Settings, TestDir, wait_for};

const FEATURES: &str = "</stream:features>";
const OFFER: &str = "<mechanism>EXTERNAL</mechanism>";
const SUCCESS: &str = "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>";
const STARTTLS: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
const PROCEED: &str = "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";

/// A certificate of a client with that serial number.
fn params(serial: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(SerialNumber::from(serial));
    params
}

/// One that names these XMPP addresses.
fn named(serial: u64, addresses: &[&str]) -> CertificateParams {
    let mut params = params(serial);
    let name = |address: &&str| SanType::OtherName((vec![1, 3, 6, 1, 5, 5, 7, 8, 5], OtherNameValue::Utf8String((*address).to_owned())));
    params.subject_alt_names = addresses.iter().map(name).collect();
    params
}

struct Scene {
    dir: TestDir,
    authority: Authority,
    service: Service,
}

impl Scene {
    /// A service that trusts the authority `boxes`, with the device `box`.
    fn new(change: impl FnOnce(Settings) -> Settings) -> Self {
        let dir = TestDir::new();
        let authority = Authority::new(dir.path(), "boxes");
        let ca = dir.path().join("boxes-ca.pem");
        let service = Service::start_with(change(Settings::default().set("UNPOLL_TLS_CLIENT_CA", ca.to_str().unwrap())));
        service.backend().add_device("box", "secret");
        Self { dir, authority, service }
    }

    fn client(&self, shows: Option<&Issued>) -> Client {
        Client::new(&self.service.ca(), b"xmpp-client", shows, &TLS13)
    }

    fn connect(&self, shows: Option<&Issued>) -> Secure {
        self.client(shows).connect(self.service.xmpps, None)
    }

    /// What is offered to who shows that.
    fn offered(&self, shows: Option<&Issued>) -> String {
        self.connect(shows).says(STREAM_HEADER, FEATURES)
    }
}

fn external(authzid: &str) -> String {
    let text = if authzid.is_empty() {
        "=".to_owned()
    } else {
        BASE64_STANDARD.encode(authzid)
    };
    format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>{text}</auth>")
}

/// Logs in by the certificate and binds.
#[track_caller]
fn logs_in(mut secure: Secure, authzid: &str, device: &str) {
    let features = secure.says(STREAM_HEADER, FEATURES);
    assert!(features.contains(OFFER), "{features}");
    secure.says(&external(authzid), SUCCESS);
    secure.says(STREAM_HEADER, FEATURES);
    let bound = secure.says(
        "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
        "</iq>",
    );
    assert!(bound.contains(&format!("<jid>{device}@localhost/")), "{bound}");
}

#[track_caller]
fn fails(mut secure: Secure, authzid: &str, condition: &str) {
    let features = secure.says(STREAM_HEADER, FEATURES);
    assert!(features.contains(OFFER), "{features}");
    let answer = secure.says(&external(authzid), "</failure>");
    assert!(answer.contains(&format!("<{condition}")), "{answer}");
}

#[test]
fn a_certificate_opens_the_door_and_a_missing_or_bad_one_does_not_close_it() {
    let scene = Scene::new(|settings| settings);
    let good = scene.authority.issue("good", named(1, &["box@localhost"]));
    for authzid in ["", "box@localhost"] {
        logs_in(scene.connect(Some(&good)), authzid, "box");
    }
    let old = Client::new(&scene.service.ca(), b"xmpp-client", Some(&good), &TLS12);
    logs_in(old.connect(scene.service.xmpps, None), "", "box");
    let starttls = format!("{STREAM_HEADER}{STARTTLS}");
    logs_in(
        scene.client(Some(&good)).connect(scene.service.xmpp, Some((&starttls, PROCEED))),
        "",
        "box",
    );

    fails(scene.connect(Some(&good)), "other@localhost", "invalid-authzid");
    let several = scene.authority.issue("several", named(2, &["box@localhost", "other@localhost"]));
    fails(scene.connect(Some(&several)), "", "invalid-authzid");
    logs_in(scene.connect(Some(&several)), "box@localhost", "box");
    let unknown = scene.authority.issue("unknown", named(3, &["nobody@localhost"]));
    fails(scene.connect(Some(&unknown)), "", "not-authorized");

    // What proves nothing is not offered, and the password opens the door all the same.
    let mut expired = named(4, &["box@localhost"]);
    let now = SystemTime::now();
    expired.not_before = (now - SOON * 10_000).into();
    expired.not_after = (now - SOON * 100).into();
    let mut server = named(5, &["box@localhost"]);
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let stranger = Authority::new(scene.dir.path(), "stranger");
    let bad = [
        None,
        Some(scene.authority.issue("expired", expired)),
        Some(scene.authority.issue("server", server)),
        Some(stranger.issue("strange", named(1, &["box@localhost"]))),
        Some(scene.authority.self_signed("self", named(1, &["box@localhost"]))),
    ];
    for shown in &bad {
        let mut secure = scene.connect(shown.as_ref());
        let features = secure.says(STREAM_HEADER, FEATURES);
        assert!(!features.contains("EXTERNAL"), "{features}");
        let refused = secure.says(&external(""), "</failure>");
        assert!(refused.contains("<invalid-mechanism"), "{refused}");
        let plain = BASE64_STANDARD.encode("\0box\0secret");
        secure.says(
            &format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{plain}</auth>"),
            SUCCESS,
        );
    }
    let device = Device::online(&scene.service, "box", "secret");
    assert!(device.is_connected());
}

#[test]
fn a_revoked_certificate_is_worth_nothing_at_its_next_connection() {
    let list = TestDir::new();
    let file: PathBuf = list.path().join("revoked");
    fs::write(&file, "# none yet\n").unwrap();
    let scene = Scene::new(|settings| settings.set("UNPOLL_TLS_CLIENT_REVOKED", file.to_str().unwrap()));
    let (lost, kept) = (
        scene.authority.issue("lost", named(0xa1b2, &["box@localhost"])),
        scene.authority.issue("kept", named(0xa1b3, &["box@localhost"])),
    );
    let client = scene.client(Some(&lost));
    logs_in(client.connect(scene.service.xmpps, None), "", "box");
    let resumed = client.connect(scene.service.xmpps, None);
    assert!(resumed.is_resumed(), "TLS is resumed");
    logs_in(resumed, "", "box");
    let replaced = |times: f64| {
        scene.service.signal(Signal::HUP);
        let series = r#"unpoll_certificate_reloads_total{result="replaced"}"#;
        wait_for("the list is read", SOON, || {
            (scene.service.metric(series) == Some(times)).then_some(())
        });
    };
    fs::write(&file, "00:A1:B2 # lost in the post\n").unwrap();
    replaced(1.0);
    assert!(
        !client
            .connect(scene.service.xmpps, None)
            .says(STREAM_HEADER, FEATURES)
            .contains("EXTERNAL")
    );
    logs_in(scene.connect(Some(&kept)), "", "box");

    // The same by a list of the authority's.
    fs::write(&file, scene.authority.revoke(&[0xa1b3])).unwrap();
    replaced(2.0);
    assert!(!scene.offered(Some(&kept)).contains("EXTERNAL"));
    logs_in(scene.connect(Some(&lost)), "", "box");
}

#[test]
fn a_pinned_certificate_needs_no_authority_and_keeps_all_others_out() {
    let scene = Scene::new(|settings| settings.set("UNPOLL_TLS_CLIENT_PINNED", "true"));
    let backend = scene.service.backend();
    let own = scene.authority.self_signed("own", params(1));
    fails(scene.connect(Some(&own)), "", "invalid-authzid");
    fails(scene.connect(Some(&own)), "box@localhost", "invalid-authzid");
    let by_authority = scene.authority.issue("named", named(2, &["box@localhost"]));
    logs_in(scene.connect(Some(&by_authority)), "", "box");

    let sha256 = data_encoding::HEXLOWER.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &own.der).as_ref());
    let credentials = json!({"credentials": [{"type": "certificate", "sha256": sha256}]}).to_string();
    let put = backend.request("PATCH", "/v1/devices/box", &[], credentials.as_bytes()).expect(200);
    assert_eq!(put.json()["credentials"], json!([{"type": "certificate"}]));
    logs_in(scene.connect(Some(&own)), "box@localhost", "box");
    fails(scene.connect(Some(&by_authority)), "", "not-authorized");
    fails(scene.connect(Some(&own)), "other@localhost", "invalid-authzid");
}

#[test]
fn a_certificate_without_an_address_is_read_by_the_pattern() {
    let scene = Scene::new(|settings| {
        settings
            .set("UNPOLL_XMPP_CERTIFICATE_IDENTITY", "san-uri")
            .set("UNPOLL_XMPP_CERTIFICATE_PATTERN", "urn:example:{device}:serial")
    });
    let mut uri = params(1);
    uri.subject_alt_names = vec![SanType::URI("urn:example:box:serial".try_into().unwrap())];
    uri.distinguished_name.push(DnType::CommonName, "other");
    logs_in(scene.connect(Some(&scene.authority.issue("uri", uri))), "", "box");
    let mut other = params(2);
    other.subject_alt_names = vec![SanType::URI("urn:else:box:serial".try_into().unwrap())];
    fails(scene.connect(Some(&scene.authority.issue("other", other))), "", "invalid-authzid");
}

#[test]
fn slixmpp_logs_in_by_certificate() {
    let scene = Scene::new(|settings| settings);
    let good = scene.authority.issue("good", named(1, &["box@localhost"]));
    let clients = std::env::var("TEST_CLIENTS_DIR").map(PathBuf::from);
    let Ok(clients) = clients else {
        assert!(
            std::env::var_os("CI").is_none(),
            "TEST_CLIENTS_DIR names no directory with slixmpp; tests/all makes one"
        );
        return eprintln!("skipped: there is no slixmpp; tests/all installs it");
    };
    let said = Command::new(clients.join("python/bin/python3"))
        .arg("tests/clients/certificate.py")
        .arg("box@localhost")
        .arg(scene.service.xmpps.to_string())
        .args([&good.certificate, &good.key])
        .env("SSL_CERT_FILE", scene.service.ca())
        .output()
        .unwrap();
    let (out, errors) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert_eq!(out.trim(), "online", "{errors}");
}

#[test]
fn a_bad_file_about_clients_is_named_at_the_start() {
    let dir = TestDir::new();
    let (ca, revoked) = (dir.path().join("ca.pem"), dir.path().join("revoked"));
    Authority::new(dir.path(), "boxes");
    let refused = |ca: &PathBuf, revoked: &PathBuf, expected: &str| {
        let started = support::unpoll()
            .args(["serve", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--xmpp", "127.0.0.1:0", "--xmpps", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path().join("data"))
            .env("UNPOLL_TLS_CLIENT_CA", ca)
            .env("UNPOLL_TLS_CLIENT_REVOKED", revoked)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&started.stderr).into_owned();
        assert!(!started.status.success() && said.contains(expected), "{said}");
    };
    fs::write(&revoked, "12 34\nnot hexadecimal\n").unwrap();
    refused(&ca, &revoked, "ca.pem cannot be used");
    fs::write(&ca, "no PEM").unwrap();
    refused(&ca, &revoked, "cannot be used");
    fs::copy(dir.path().join("boxes-ca.pem"), &ca).unwrap();
    refused(&ca, &revoked, "is no serial number in hexadecimal");
}
