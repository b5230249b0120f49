//! Bad input to the XMPP endpoint: the client sees the stream or SASL error of the profile, then the connection closes,
//! and every other connection goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use loadtest::{Security, Trust};
use serde_json::json;
use support::{Device, Mechanism, Options, SOON, STREAM_HEADER, Service, Settings, Wire};

const STREAMS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
const BIND: &str = "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>";

/// A service with the device `box`, and one that is online and must not notice anything.
struct Scene {
    service: Service,
    bystander: Device,
}

impl Scene {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let service = Service::start_with(settings);
        let backend = service.backend();
        backend.add_device("box", "secret");
        backend.add_device("bystander", "secret");
        let bystander = Device::online(&service, "bystander", "secret");
        Self { service, bystander }
    }

    /// TLS and a stream, before login.
    fn stream(&self) -> Wire {
        self.service.connect().open()
    }

    /// TCP and a stream, before TLS.
    fn clear(&self) -> Wire {
        Wire::plain(self.service.xmpp).open()
    }

    /// Logged in, bound, with stream management.
    fn bound(&self) -> Wire {
        Device::bound(&self.service, "box", "secret")
    }

    /// The bystander still gets events.
    fn untouched(self) {
        let id = self.service.backend().push("bystander", &json!("still here"));
        assert_eq!(self.bystander.expect_event().id, id);
    }
}

/// Sends `bytes`: the connection must end with the stream error `condition`. Gives what the server said.
#[track_caller]
fn ends(mut wire: Wire, bytes: impl AsRef<[u8]>, condition: &str) -> String {
    // The server may close before it has read everything; what it says before that is what counts.
    let _ = wire.try_send(bytes.as_ref());
    let said = wire.until_closed(SOON);
    let expected = format!("<{condition} xmlns='{STREAMS}'");
    assert!(said.contains(&expected), "no {expected} in {said:?}");
    assert!(said.contains("</stream:error>") && said.ends_with("</stream:stream>"), "{said:?}");
    said
}

fn plain(identity: &str) -> String {
    let encoded = BASE64_STANDARD.encode(identity);
    format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{encoded}</auth>")
}

#[test]
fn malformed_and_restricted_xml_before_login() {
    let scene = Scene::new();
    let check = |bytes: &[u8], condition: &str| _ = ends(scene.stream(), bytes, condition);
    check(b"<auth><b></auth>", "not-well-formed");
    check(b"<auth \xff='1'/>", "not-well-formed");
    check(b"<a\0/>", "not-well-formed");
    check(b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' a='1' a='2'/>", "not-well-formed");
    check(b"<!DOCTYPE x [<!ENTITY a 'b'>]>", "restricted-xml");
    check(b"<?pi?><x/>", "restricted-xml");
    check(b"<!-- x --><x/>", "restricted-xml");
    scene.untouched();
}

#[test]
fn a_bad_stream_header_is_answered_with_a_header_and_the_error() {
    let scene = Scene::new();
    let check = |header: &str, condition: &str| {
        let said = ends(scene.service.connect(), header, condition);
        assert!(said.contains("<stream:stream "), "{header}: {said}");
    };
    check(&STREAM_HEADER.replace("to='localhost'", "to='elsewhere.example'"), "host-unknown");
    check(
        &STREAM_HEADER.replace("http://etherx.jabber.org/streams", "urn:wrong"),
        "invalid-namespace",
    );
    check(&STREAM_HEADER.replace("jabber:client", "jabber:server"), "invalid-namespace");
    check("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", "not-well-formed");
    scene.untouched();
}

#[test]
fn six_thousand_nested_elements_before_login_are_a_stream_error() {
    let scene = Scene::new();
    let nested = "<a>".repeat(6_000);
    ends(scene.stream(), &nested, "policy-violation");
    ends(scene.clear(), &nested, "policy-violation");
    scene.untouched();
}

#[test]
fn huge_stanzas_are_refused_before_and_after_login() {
    let scene = Scene::new();
    let auth = format!(
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{}",
        "A".repeat(20 * 1024)
    );
    ends(scene.stream(), auth, "policy-violation");
    ends(
        scene.bound(),
        format!("<message><body>{}", "x".repeat(300 * 1024)),
        "policy-violation",
    );
    ends(scene.bound(), format!("<message>{}", "<a>".repeat(40)), "policy-violation");
    let attributes: String = (0..80).map(|n| format!(" a{n}='1'")).collect();
    ends(scene.bound(), format!("<message{attributes}/>"), "policy-violation");
    // What is below the limits is taken.
    let mut wire = scene.bound();
    wire.send(&format!(
        "<message to='localhost'><body>{}</body></message>",
        "x".repeat(200 * 1024)
    ));
    wire.send("<iq type='get' id='ping' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>");
    wire.until("id='ping'");
    scene.untouched();
}

#[test]
fn bad_xml_after_login() {
    let scene = Scene::new();
    ends(scene.bound(), "<message><body>x</message>", "not-well-formed");
    ends(scene.bound(), "<message><!-- x --></message>", "restricted-xml");
    ends(scene.bound(), "<unheard-of xmlns='urn:x'/>", "unsupported-stanza-type");
    ends(
        scene.bound(),
        "<message from='bystander@localhost/x' to='localhost'/>",
        "invalid-from",
    );
    // RFC 6120 §11.1 forbids entity references; one that nobody declared is not well-formed XML either.
    let mut wire = scene.bound();
    wire.send("<message>&undefined;</message>");
    let said = wire.until_closed(SOON);
    assert!(said.contains("<restricted-xml") || said.contains("<not-well-formed"), "{said}");
    scene.untouched();
}

#[test]
fn negotiation_out_of_order() {
    let scene = Scene::new();
    for stanza in [
        "<message/>",
        "<presence/>",
        "<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>",
    ] {
        ends(scene.stream(), stanza, "not-authorized");
    }
    // Login before TLS.
    let mut wire = Wire::plain(scene.service.xmpp);
    wire.send(STREAM_HEADER);
    let features = wire.until("</stream:features>");
    assert!(features.contains("<required/>") && !features.contains("mechanism"), "{features}");
    wire.send(&plain("\0box\0secret"));
    wire.until("<encryption-required");

    // Stream management before bind, and twice; bind twice.
    let mut wire = Device::logged_in(&scene.service, "box", "secret");
    wire.send("<enable xmlns='urn:xmpp:sm:3'/>");
    assert!(wire.until("</failed>").contains("unexpected-request"));
    wire.send(&format!("<iq type='set' id='b'>{BIND}</iq>"));
    assert!(wire.until("</iq>").contains("type='result'"));
    wire.send(&format!("<iq type='set' id='c'>{BIND}</iq>"));
    assert!(wire.until("</iq>").contains("not-allowed"));
    wire.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>");
    wire.until("<enabled ");
    wire.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>");
    assert!(wire.until("</failed>").contains("unexpected-request"));
    scene.untouched();
}

#[test]
fn bytes_sent_in_clear_behind_starttls_are_never_read_as_secure() {
    let scene = Scene::new();
    let mut wire = scene.clear();
    // The injection class of CVE-2011-0411: a whole login, sent in clear behind <starttls/>.
    let login = plain("\0box\0secret");
    wire.send(&format!(
        "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>{STREAM_HEADER}{login}"
    ));
    let said = wire.until_closed(SOON);
    assert!(!said.contains("<success"), "{said}");
    scene.untouched();
}

#[test]
fn a_wrong_password_fails_and_the_stream_goes_on_for_some_tries() {
    let scene = Scene::new();
    let mut wire = scene.stream();
    wire.send(&plain("\0box\0wrong"));
    let wrong = wire.until("</failure>");
    assert!(wrong.contains("<not-authorized"), "{wrong}");
    wire.send(&plain("\0nobody\0secret"));
    assert_eq!(wire.until("</failure>"), wrong, "an unknown device looks the same");
    let said = ends(wire, plain("\0box\0wrong"), "policy-violation");
    assert!(said.contains("<not-authorized"), "{said}");

    let fails = |element: &str, condition: &str| {
        let mut wire = scene.stream();
        wire.send(element);
        let failure = wire.until("</failure>");
        assert!(failure.contains(&format!("<{condition}")), "{element}: {failure}");
    };
    fails(
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='DIGEST-MD5'/>",
        "invalid-mechanism",
    );
    fails(
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>!!!</auth>",
        "incorrect-encoding",
    );
    fails(&plain("no separators"), "malformed-request");
    fails(&plain("bystander\0box\0secret"), "invalid-authzid");
    scene.untouched();
}

#[test]
fn every_mechanism_logs_in_over_both_ways_of_tls() {
    let scene = Scene::new();
    for mechanism in Mechanism::ALL {
        for starttls in [false, true] {
            let mut options = Options {
                mechanism: Some(mechanism),
                ..Device::options(&scene.service, "box", "secret")
            };
            if starttls {
                let trust = Trust::ca_file(&scene.service.ca()).unwrap();
                (options.server, options.security) = (scene.service.xmpp, Security::StartTls(trust));
            }
            let device = Device::connect(options).unwrap_or_else(|error| panic!("{mechanism:?}, STARTTLS {starttls}: {error}"));
            device.close();
        }
    }
    scene.untouched();
}

#[test]
fn silence_before_login_ends() {
    let scene = Scene::with(Settings::default().set("UNPOLL_XMPP_LOGIN_WITHIN_SECS", "2"));
    let within = Duration::from_secs(15);
    let said = scene.stream().until_closed(within);
    assert!(said.contains("<connection-timeout") || said.contains("<policy-violation"), "{said}");
    // TCP and nothing more: closed, with or without a word.
    Wire::plain(scene.service.xmpps).until_closed(within);
    Wire::plain(scene.service.xmpp).until_closed(within);
    scene.untouched();
}

#[test]
fn an_acknowledgement_of_more_than_was_sent_ends_the_session() {
    let scene = Scene::new();
    let said = ends(scene.bound(), "<a xmlns='urn:xmpp:sm:3' h='77'/>", "undefined-condition");
    for part in ["<handled-count-too-high xmlns='urn:xmpp:sm:3'", "h='77'", "send-count='0'"] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    scene.untouched();
}

#[test]
fn odd_but_legal_stanzas_are_answered_and_the_stream_lives() {
    let scene = Scene::new();
    let options = Options {
        presence: None,
        ..Device::options(&scene.service, "box", "secret")
    };
    let device = Device::connect(options).unwrap();
    let check = |stanza: &str, parts: &[&str]| {
        let answer = format!("{:?}", device.answer_to(stanza));
        for part in parts {
            assert!(answer.contains(&format!("\"{part}\"")), "{stanza}: no {part} in {answer}");
        }
    };
    let unheard = "<iq type='get' id='1' to='localhost'><query xmlns='urn:example:x'/></iq>";
    check(unheard, &["error", "service-unavailable", "1"]);
    check("<iq type='get' id='2'><query xmlns='jabber:iq:roster'/></iq>", &["result", "2"]);
    check(
        "<iq type='set' id='3'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>",
        &["result"],
    );
    check(
        "<iq type='get' id='4' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>",
        &["result"],
    );
    check("<iq type='get' id='5'><ping xmlns='urn:xmpp:ping'/></iq>", &["result"]);
    check(
        "<iq type='get' id='6' to='localhost'><query xmlns='jabber:iq:version'/></iq>",
        &["unpoll"],
    );
    let features = "<iq type='get' id='7' to='localhost'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>";
    check(features, &["category", "urn:xmpp:ping", "result"]);
    check(
        "<iq type='odd' id='8' to='localhost'><query xmlns='urn:example:x'/></iq>",
        &["bad-request"],
    );
    scene.untouched();
}

#[test]
fn a_name_that_is_no_devices_shows_what_a_device_shows() {
    let scene = Scene::new();
    let challenge = |user: &str| {
        let mut wire = scene.stream();
        let first = BASE64_STANDARD.encode(format!("n,,n={user},r=abc"));
        wire.send(&format!(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-256'>{first}</auth>"
        ));
        let text = wire.until("</challenge>");
        let inside = text.trim_end_matches("</challenge>").rsplit('>').next().unwrap();
        let message = String::from_utf8(BASE64_STANDARD.decode(inside).unwrap()).unwrap();
        let field = |name: &str| {
            message
                .split(',')
                .find_map(|field| field.strip_prefix(name).map(str::to_owned))
                .unwrap()
        };
        (field("s=").len(), field("i="))
    };
    // A chosen password has more rounds than a generated one; a guessed name shows those of a device that is there.
    assert_eq!(challenge("box").1, "10000");
    assert_eq!(challenge("nobody"), challenge("box"));
    assert_eq!(challenge("zz-after-all-others"), challenge("box"));
    scene.untouched();
}
