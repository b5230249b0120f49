//! Stanzas of a session and their answers.

use super::*;

#[test]
fn every_iq_has_its_answer() {
    let check = |iq: &str, answer: &str| {
        let mut talk = Talk::bound();
        let out = talk.send(iq);
        assert_eq!(out, answer, "{iq}");
        assert_eq!(talk.facts(), [""; 0]);
    };
    let result = |attributes: &str, payload: &str| format!("<iq type='result' id='1'{attributes}>{payload}</iq>");
    let me = " to='stb-1@example.com/main'";
    let service = " from='example.com' to='stb-1@example.com/main'";
    let error = |kind: &str, condition: &str| {
        format!("<iq type='error' id='1'{me}><error type='{kind}'><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
    };
    let ask = |attributes: &str, payload: &str| format!("<iq id='1' {attributes}>{payload}</iq>");
    let ping = "<ping xmlns='urn:xmpp:ping'/>";
    check(&ask("type='get'", ping), &result(me, ""));
    check(&ask("type='get' to='example.com'", ping), &result(service, ""));
    check(
        &ask("type='get' to='stb-1@example.com'", ping),
        &result(" from='stb-1@example.com' to='stb-1@example.com/main'", ""),
    );
    check(
        &ask("type='get' to='stb-2@example.com'", ping),
        &error("cancel", "service-unavailable").replace(me, " from='stb-2@example.com' to='stb-1@example.com/main'"),
    );
    check(
        &ask("type='get'", "<query xmlns='jabber:iq:roster'/>"),
        &result(me, "<query xmlns='jabber:iq:roster'/>"),
    );
    check(
        &ask("type='set'", "<query xmlns='jabber:iq:roster'><item jid='a@b'/></query>"),
        &error("cancel", "not-allowed"),
    );
    check(
        &ask("type='set'", "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>"),
        &error("cancel", "not-allowed"),
    );
    check(
        &ask("type='set'", "<session xmlns='urn:ietf:params:xml:ns:xmpp-session'/>"),
        &result(me, ""),
    );
    check(
        &ask("type='get' to='example.com'", "<query xmlns='jabber:iq:version'/>"),
        &result(
            service,
            &format!(
                "<query xmlns='jabber:iq:version'><name>unpoll</name><version>{}</version></query>",
                env!("CARGO_PKG_VERSION")
            ),
        ),
    );
    check(
        &ask(
            "type='get' to='example.com'",
            "<query xmlns='http://jabber.org/protocol/disco#items'/>",
        ),
        &result(service, "<query xmlns='http://jabber.org/protocol/disco#items'/>"),
    );
    check(
        &ask("type='get'", "<query xmlns='http://jabber.org/protocol/disco#info' node='x'/>"),
        &error("cancel", "item-not-found"),
    );
    check(
        &ask("type='get'", "<query xmlns='urn:example:x'/>"),
        &error("cancel", "service-unavailable"),
    );
    check(
        &ask("type='set'", "<block xmlns='urn:xmpp:blocking'/>"),
        &error("cancel", "service-unavailable"),
    );
    check(&ask("type='get'", ""), &error("modify", "bad-request"));
    check(&ask("type='get'", &format!("{ping}{ping}")), &error("modify", "bad-request"));
    check(&ask("type='ask'", ping), &error("modify", "bad-request"));
    check(&ask("", ping), &error("modify", "bad-request"));
    check(
        &format!("<iq type='get'>{ping}</iq>"),
        &error("modify", "bad-request").replace(" id='1'", ""),
    );
    check(&ask("type='result'", ""), "");
    check(&ask("type='error'", ""), "");
    check("<iq type='result'/>", "");
}

#[test]
fn the_service_and_the_account_say_what_they_are() {
    let mut talk = Talk::bound();
    let out = talk.send("<iq type='get' id='1' to='example.com'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>");
    assert!(out.contains("<identity category='server' type='im' name='unpoll'/>"));
    assert!(out.contains("<feature var='msgoffline'/>"));
    let node = crate::xmpp::disco::caps()
        .split_once("node='")
        .unwrap()
        .1
        .replace("' ver='", "#")
        .replace("'/>", "");
    let of_node =
        format!("<iq type='get' id='3' to='example.com'><query xmlns='http://jabber.org/protocol/disco#info' node='{node}'/></iq>");
    assert!(talk.send(&of_node).contains(&format!("node='{node}'><identity category='server'")));
    let out = talk.send("<iq type='get' id='2' to='stb-1@example.com'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>");
    assert!(out.contains("<identity category='account' type='registered'/>"));
}

#[test]
fn an_id_is_given_back_escaped() {
    let mut talk = Talk::bound();
    let out = talk.send("<iq type='get' id='a&apos;&lt;&#10;'><ping xmlns='urn:xmpp:ping'/></iq>");
    assert!(out.starts_with("<iq type='result' id='a&apos;&lt;&#10;' "), "{out}");
}

#[test]
fn a_device_can_address_nothing_but_the_service() {
    let mut talk = Talk::bound();
    assert_eq!(
        talk.send("<message to='stb-2@example.com' id='m'><body>x</body></message>"),
        "<message type='error' id='m' from='stb-2@example.com' to='stb-1@example.com/main'><error type='cancel'>\
         <service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>"
    );
    for silent in [
        "<message to='stb-2@example.com' type='error'/>",
        "<message to='example.com'><body>x</body></message>",
        "<message to='stb-1@example.com/other'/>",
        "<message/>",
    ] {
        assert_eq!(talk.send(silent), "", "{silent}");
    }
}

#[test]
fn a_foreign_sender_ends_the_stream_and_the_own_does_not() {
    for from in ["stb-1@example.com", "stb-1@example.com/main", "STB-1@example.com"] {
        let mut talk = Talk::bound();
        assert_eq!(talk.send(&format!("<message from='{from}'/>")), "", "{from}");
        assert_eq!(talk.facts(), [""; 0]);
    }
    for from in ["stb-2@example.com", "stb-1@example.com/other", "example.com", ""] {
        for stanza in ["message", "presence", "iq"] {
            let mut talk = Talk::bound();
            assert!(
                talk.send(&format!("<{stanza} from='{from}'/>")).contains("<invalid-from "),
                "{from}"
            );
            assert_eq!(talk.facts(), ["over"]);
        }
    }
}

#[test]
fn presence_opens_and_closes_the_way_for_events() {
    let mut talk = Talk::bound();
    assert_eq!(talk.stream.room(), 0);
    assert!(!talk.push(1));
    assert_eq!(
        talk.send("<presence id='p'/>"),
        "<presence from='stb-1@example.com/main' to='stb-1@example.com/main' id='p'/>"
    );
    assert_eq!(talk.facts(), ["ready"]);
    assert_eq!(talk.stream.room(), 32);
    assert_eq!(
        talk.send("<presence><priority>-1</priority></presence>"),
        "<presence from='stb-1@example.com/main' to='stb-1@example.com/main'><priority>-1</priority></presence>"
    );
    assert_eq!(talk.facts(), ["unavailable"]);
    assert_eq!(talk.stream.room(), 0);
    talk.send("<presence><show>away</show><priority> 7 </priority></presence>");
    talk.send("<presence><attributes xmlns='urn:unpoll:event:1'><x/></attributes></presence>");
    assert_eq!(talk.facts(), ["ready"]);
    assert_eq!(talk.send("<presence type='unavailable'/>"), "");
    assert_eq!(talk.facts(), ["unavailable"]);
}

#[test]
fn a_device_says_in_its_presence_whether_it_polls() {
    let check = |presence: &str, expected: &[&str]| {
        let mut talk = Talk::bound();
        talk.send(presence);
        let facts: Vec<String> = talk.facts().into_iter().filter(|fact| !fact.starts_with("reports")).collect();
        assert_eq!(facts, expected, "{presence}");
    };
    let reports = |json: &str| format!("<presence><attributes xmlns='urn:unpoll:event:1'><json>{json}</json></attributes></presence>");
    check(&reports(r#"{"polling":"off","firmware":"21.9"}"#), &["polls Off", "ready"]);
    check(&reports(r#"{"polling":"on"}"#), &["polls On", "ready"]);
    check(&reports(r#"{"polling":false}"#), &["polls Unknown", "ready"]);
    check(&reports(r#"{"firmware":"21.9"}"#), &["ready"]);
    check(&reports("no JSON"), &["ready"]);
    check(
        r#"<presence><attributes xmlns='urn:unpoll:event:1'><json xmlns='urn:xmpp:json:0'>{"polling":"on"}</json></attributes></presence>"#,
        &["polls On", "ready"],
    );
    // To somebody else it says nothing to us.
    check(&reports(r#"{"polling":"off"}"#).replace("<presence>", "<presence to='a@b'>"), &[]);
}

#[test]
fn presence_for_others_goes_nowhere() {
    let mut talk = Talk::bound();
    assert_eq!(
        talk.send("<presence to='a@example.com/x' type='subscribe'/>"),
        "<presence type='unsubscribed' from='a@example.com' to='stb-1@example.com'/>"
    );
    for silent in [
        "<presence to='a@example.com'/>",
        "<presence type='probe' to='a@example.com'/>",
        "<presence type='unsubscribe' to='a@example.com'/>",
        "<presence type='error'/>",
        "<presence type='odd'/>",
    ] {
        assert_eq!(talk.send(silent), "", "{silent}");
    }
    assert_eq!(talk.facts(), [""; 0]);
}

#[test]
fn an_unknown_element_ends_the_stream() {
    for unknown in [
        "<x xmlns='urn:example:x'/>",
        "<message xmlns='jabber:server'/>",
        "<massage/>",
        PLAIN,
        "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
        "<what xmlns='urn:xmpp:sm:3'/>",
        "<stream:features/>",
    ] {
        let mut talk = Talk::bound();
        assert!(talk.send(unknown).contains("<unsupported-stanza-type "), "{unknown}");
        assert_eq!(talk.facts(), ["over"]);
    }
}

#[test]
fn a_clean_close_is_answered_and_ends_the_session() {
    for goodbye in [
        "</stream:stream>",
        "<stream:error><undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
    ] {
        let mut talk = Talk::managed();
        assert_eq!(talk.send(goodbye), "</stream:stream>");
        assert_eq!(talk.facts(), ["over"]);
        assert_eq!(talk.send("<presence/>"), "");
        talk.stream.disconnected(talk.now);
        talk.answer();
        assert_eq!(talk.facts(), [""; 0]);
    }
}

#[test]
fn what_the_gateway_asks_for_is_said_and_done() {
    let check = |error: StreamError, said: &str| {
        let mut talk = Talk::managed();
        talk.stream.fail(&error, talk.now);
        talk.answer();
        assert_eq!(talk.output(), format!("<stream:error>{said}</stream:error></stream:stream>"));
        assert_eq!(talk.facts(), ["over"]);
        talk.stream.fail(&error, talk.now);
        assert_eq!(talk.output(), "");
    };
    let text = |text: &str| format!("<text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>{text}</text>");
    let name = |name: &str| format!("<{name} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>");
    check(StreamError::Conflict, &(name("conflict") + &text("replaced by a newer connection")));
    check(
        StreamError::SystemShutdown,
        &(name("system-shutdown") + &text("this node stops; reconnect")),
    );
    check(
        StreamError::ResourceConstraint { retry_after: 40 },
        &(name("resource-constraint") + &text("overloaded; retry in 40 s") + "<retry xmlns='urn:unpoll:event:1' after='40'/>"),
    );
    check(StreamError::InternalServerError, &name("internal-server-error"));
    check(StreamError::NotAuthorized, &name("not-authorized"));
}

#[test]
fn an_overload_is_said_before_the_peer_spoke() {
    let mut talk = Talk::with(config(), false);
    talk.stream.fail(&StreamError::ResourceConstraint { retry_after: 5 }, talk.now);
    let out = talk.output();
    assert!(out.starts_with("<?xml version='1.0'?><stream:stream "));
    assert!(out.ends_with("<retry xmlns='urn:unpoll:event:1' after='5'/></stream:error></stream:stream>"));
}
