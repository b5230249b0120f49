//! Bad input to the XMPP endpoint: the client sees the stream or SASL error of the profile, then the connection closes,
//! and every other connection goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;
use support::{Device, SOON, STREAM_HEADER, Service, Settings, Wire};

const STREAMS: &str = "urn:ietf:params:xml:ns:xmpp-streams";

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
        let mut wire = self.service.connect();
        wire.send(STREAM_HEADER);
        wire.expect("stream:stream");
        wire.expect("stream:features");
        wire
    }

    /// Sends `bytes` on that connection: it must end with the stream error `condition`.
    #[track_caller]
    fn ends(wire: Wire, bytes: impl AsRef<[u8]>, condition: &str) {
        Self::ends_with(wire, bytes, &[&format!("<{condition} xmlns="), STREAMS]);
    }

    #[track_caller]
    fn ends_with(mut wire: Wire, bytes: impl AsRef<[u8]>, parts: &[&str]) {
        // The server may close before it has read everything; what it says before that is what counts.
        let _ = wire.try_send(bytes.as_ref());
        let said = wire.to_end(SOON).replace('"', "'");
        for part in parts {
            assert!(said.contains(part), "no {part} in {said:?}");
        }
        assert!(said.contains("</stream:error>") && said.ends_with("</stream:stream>"), "{said:?}");
    }

    /// The bystander still gets events.
    fn untouched(mut self) {
        let backend = self.service.backend();
        let id = backend.push("bystander", &json!("still here"));
        assert_eq!(self.bystander.expect_event().id, id);
    }
}

#[test]
fn malformed_and_restricted_xml_before_login() {
    let scene = Scene::new();
    let check = |bytes: &[u8], condition: &str| Scene::ends(scene.stream(), bytes, condition);
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
        let mut wire = scene.service.connect();
        wire.send(header);
        let said = wire.to_end(SOON);
        assert!(said.contains("<stream:stream ") && said.contains(condition), "{header}: {said}");
        assert!(said.ends_with("</stream:stream>"), "{said}");
    };
    check(&STREAM_HEADER.replace("to='localhost'", "to='elsewhere.example'"), "host-unknown");
    check(&STREAM_HEADER.replace("to='localhost'", ""), "host-unknown");
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
    Scene::ends(scene.stream(), &nested, "policy-violation");
    // In clear, before STARTTLS, too.
    let mut wire = Wire::plain(scene.service.xmpp);
    wire.send(STREAM_HEADER);
    wire.expect("stream:stream");
    wire.expect("stream:features");
    Scene::ends(wire, &nested, "policy-violation");
    scene.untouched();
}

#[test]
fn huge_stanzas_are_refused_before_and_after_login() {
    let scene = Scene::new();
    let auth = format!(
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{}",
        "A".repeat(20 * 1024)
    );
    Scene::ends(scene.stream(), auth, "policy-violation");
    let logged_in = || Device::login(&scene.service, "box", "secret");
    let bind = "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
    let bound = || {
        let mut wire = logged_in();
        wire.send(bind);
        wire.expect("iq");
        wire
    };
    Scene::ends(bound(), format!("<message><body>{}", "x".repeat(300 * 1024)), "policy-violation");
    Scene::ends(bound(), format!("<message>{}", "<a>".repeat(40)), "policy-violation");
    let attributes: String = (0..80).map(|n| format!(" a{n}='1'")).collect();
    Scene::ends(bound(), format!("<message{attributes}/>"), "policy-violation");
    // What is below the limits is taken.
    let mut wire = bound();
    wire.send(&format!(
        "<message to='localhost'><body>{}</body></message>",
        "x".repeat(200 * 1024)
    ));
    wire.send("<iq type='get' id='ping' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>");
    let answer = std::iter::from_fn(|| wire.element(SOON)).find(|element| element.attribute("id").as_deref() == Some("ping"));
    assert_eq!(answer.and_then(|element| element.attribute("type")).as_deref(), Some("result"));
    scene.untouched();
}

#[test]
fn malformed_xml_after_login() {
    let scene = Scene::new();
    let online = || {
        let mut device = Device::bound(&scene.service, "box", "secret");
        device.enable();
        device
    };
    for (bytes, condition) in [
        ("<message><body>x</message>", "not-well-formed"),
        ("<message>&undefined;</message>", "restricted-xml"),
        ("<message><!-- x --></message>", "restricted-xml"),
        ("<unheard-of xmlns='urn:x'/>", "unsupported-stanza-type"),
    ] {
        let mut device = online();
        device.wire().send(bytes);
        let said = device.wire().to_end(SOON);
        // A reference to an entity that is not declared is either not well formed or restricted: RFC 6120 §11.1 allows both.
        let either = condition == "restricted-xml" && said.contains("<not-well-formed");
        assert!(said.contains(&format!("<{condition}")) || either, "{bytes}: {said}");
        assert!(said.ends_with("</stream:stream>"), "{said}");
    }
    scene.untouched();
}

#[test]
fn a_forged_sender_ends_the_stream() {
    let scene = Scene::new();
    let mut device = Device::bound(&scene.service, "box", "secret");
    device.wire().send("<message from='bystander@localhost/x' to='localhost'/>");
    let said = device.wire().to_end(SOON);
    assert!(said.contains("<invalid-from"), "{said}");
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
        Scene::ends(scene.stream(), stanza, "not-authorized");
    }
    // Login before TLS.
    let mut wire = Wire::plain(scene.service.xmpp);
    wire.send(STREAM_HEADER);
    wire.expect("stream:stream");
    let features = wire.expect("stream:features");
    assert!(
        features.raw.contains("<required/>") && !features.raw.contains("mechanism"),
        "{features:?}"
    );
    wire.send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGJveABzZWNyZXQ=</auth>");
    let refusal = wire.element(SOON).expect("an answer").raw;
    assert!(refusal.contains("<encryption-required"), "{refusal}");

    // Stanzas before bind; stream management before bind and twice.
    let mut wire = Device::login(&scene.service, "box", "secret");
    wire.send("<enable xmlns='urn:xmpp:sm:3'/>");
    assert!(wire.expect("failed").raw.contains("unexpected-request"));
    wire.send("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>");
    assert_eq!(wire.expect("iq").attribute("type").as_deref(), Some("result"));
    wire.send("<iq type='set' id='c'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>");
    let second = wire.expect("iq");
    assert!(second.raw.contains("not-allowed"), "{second:?}");
    wire.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>");
    wire.expect("enabled");
    wire.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>");
    assert!(wire.expect("failed").raw.contains("unexpected-request"));
    scene.untouched();
}

#[test]
fn bytes_sent_in_clear_behind_starttls_are_never_read_as_secure() {
    let scene = Scene::new();
    let mut wire = Wire::plain(scene.service.xmpp);
    wire.send(STREAM_HEADER);
    wire.expect("stream:stream");
    wire.expect("stream:features");
    // The injection class of CVE-2011-0411: a whole login, sent in clear behind <starttls/>.
    let injected = format!(
        "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>{STREAM_HEADER}\
         <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGJveABzZWNyZXQ=</auth>"
    );
    wire.send(&injected);
    let said = wire.to_end(SOON);
    assert!(!said.contains("<success"), "{said}");
    scene.untouched();
}

#[test]
fn a_wrong_password_fails_and_the_stream_goes_on_for_some_tries() {
    let scene = Scene::new();
    let auth = |text: &str| {
        let encoded = BASE64_STANDARD.encode(text);
        format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{encoded}</auth>")
    };
    let mut wire = scene.stream();
    wire.send(&auth("\0box\0wrong"));
    assert!(wire.expect("failure").raw.contains("<not-authorized"), "a wrong password");
    wire.send(&auth("\0nobody\0secret"));
    assert!(
        wire.expect("failure").raw.contains("<not-authorized"),
        "an unknown device looks the same"
    );
    wire.send(&auth("\0box\0wrong"));
    let said = wire.to_end(SOON);
    assert!(said.contains("<policy-violation"), "the third failure ends the stream: {said}");

    let mut wire = scene.stream();
    let mut check = |element: &str, condition: &str| {
        wire.send(element);
        let failure = wire.expect("failure").raw;
        assert!(failure.contains(&format!("<{condition}")), "{element}: {failure}");
    };
    check(
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='DIGEST-MD5'/>",
        "invalid-mechanism",
    );
    check(
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>!!!</auth>",
        "incorrect-encoding",
    );

    let mut wire = scene.stream();
    wire.send(&auth("no separators"));
    assert!(wire.expect("failure").raw.contains("<malformed-request"));
    wire.send(&auth("bystander\0box\0secret"));
    assert!(wire.expect("failure").raw.contains("<invalid-authzid"));
    scene.untouched();
}

#[test]
fn silence_before_login_ends() {
    let scene = Scene::with(Settings::default().set("UNPOLL_XMPP_LOGIN_WITHIN_SECS", "2"));
    let within = Duration::from_secs(12);
    let mut wire = scene.stream();
    let said = wire.to_end(within);
    assert!(said.contains("<connection-timeout") || said.contains("<policy-violation"), "{said}");
    // TCP and nothing more: closed, with or without a word.
    Wire::plain(scene.service.xmpps).to_end(within);
    let said = Wire::plain(scene.service.xmpp).to_end(within);
    assert!(!said.contains("<stream:features"), "{said}");
    scene.untouched();
}

#[test]
fn an_acknowledgement_of_more_than_was_sent_ends_the_session() {
    let scene = Scene::new();
    let mut device = Device::bound(&scene.service, "box", "secret");
    device.enable();
    device.wire().send("<a xmlns='urn:xmpp:sm:3' h='77'/>");
    let said = device.wire().to_end(SOON).replace('"', "'");
    assert!(
        said.contains("<undefined-condition") && said.contains("<handled-count-too-high"),
        "{said}"
    );
    assert!(said.contains("h='77'") && said.contains("send-count='0'"), "{said}");
    scene.untouched();
}

#[test]
fn odd_but_legal_stanzas_are_answered_and_the_stream_lives() {
    let scene = Scene::new();
    let mut device = Device::bound(&scene.service, "box", "secret");
    let wire = device.wire();
    let mut check = |stanza: &str, parts: &[&str]| {
        wire.send(stanza);
        let answer = wire.expect("iq").raw;
        for part in parts {
            assert!(answer.contains(part), "{stanza}: no {part} in {answer}");
        }
    };
    check(
        "<iq type='get' id='1' to='localhost'><query xmlns='urn:example:x'/></iq>",
        &["error", "service-unavailable", "1"],
    );
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
    check(
        "<iq type='get' id='7' to='localhost'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>",
        &["category", "urn:xmpp:ping", "result"],
    );
    check(
        "<iq type='odd' id='8' to='localhost'><query xmlns='urn:example:x'/></iq>",
        &["bad-request"],
    );
    scene.untouched();
}
