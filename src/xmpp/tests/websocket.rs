//! The same conversations with a message for each element (RFC 7395).

use xmpp_parsers::minidom;

use super::*;

const OPEN: &str = "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='example.com' version='1.0'/>";
const CLOSE: &str = "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>";

/// The messages of an output, each in one piece; all must be XML that stands alone, with a namespace.
pub(super) fn whole(output: &[u8]) -> Vec<String> {
    let whole = |message: Message| String::from_utf8(message.0.concat()).unwrap();
    let all: Vec<String> = messages(output).map(whole).collect();
    for message in &all {
        let parsed: minidom::Element = message.parse().unwrap_or_else(|error| panic!("{error}: {message}"));
        if matches!(parsed.name(), "message" | "presence" | "iq") {
            assert_eq!(parsed.ns(), "jabber:client", "{message}");
        }
    }
    all
}

/// An output over WebSocket as it would be over TCP.
pub(super) fn as_over_tcp(output: &[u8]) -> String {
    whole(output);
    let each = messages(output).map(|message| {
        let text = String::from_utf8([message.0[0], message.0[2]].concat()).unwrap();
        if let Some(rest) = text.strip_prefix("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'") {
            let rest = rest.strip_suffix("/>").unwrap();
            return format!(
                "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'{rest}>"
            );
        }
        if text == CLOSE { "</stream:stream>".to_owned() } else { text }
    });
    each.collect()
}

/// What a client says over TCP as the messages that it would send over WebSocket.
pub(super) fn messages_of(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut rest = text;
    if let Some((_, behind)) = rest.split_once("?>") {
        rest = behind;
    }
    while !rest.is_empty() {
        if let Some(behind) = rest.strip_prefix("</stream:stream>") {
            all.push(CLOSE.to_owned());
            rest = behind;
        } else if let Some(header) = rest.strip_prefix("<stream:stream") {
            let (attributes, behind) = header.split_once('>').unwrap();
            let kept: String = attributes
                .split_inclusive('\'')
                .collect::<Vec<_>>()
                .chunks(2)
                .filter(|pair| !pair[0].contains("xmlns"))
                .map(<[&str]>::concat)
                .collect();
            all.push(format!("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'{kept}/>"));
            rest = behind;
        } else {
            let blank = rest.len() - rest.trim_start().len();
            let (element, behind) = match blank {
                0 => rest.split_at(framing::length(rest.as_bytes())),
                blank => rest.split_at(blank),
            };
            let bare = ["<message", "<presence", "<iq"].into_iter().find(|name| element.starts_with(name));
            let declared = element.split('>').next().unwrap().contains(" xmlns=");
            all.push(match bare {
                Some(name) if !declared => element.replacen(name, &format!("{name} xmlns='jabber:client'"), 1),
                _ => element.to_owned(),
            });
            rest = behind;
        }
    }
    all
}

fn talk() -> Talk {
    Talk::new().over(Carried::WebSocket)
}

/// A managed session whose output is read as over TCP; what is sent goes through [`raw`] as it is.
fn managed() -> Talk {
    let mut talk = Talk::new().over(Carried::WebSocketAsTcp).binds().manages();
    talk.carried = Carried::WebSocket;
    talk
}

#[test]
fn each_element_goes_alone_and_declares_what_it_needs() {
    let mut talk = managed();
    assert!(talk.push(1) && talk.push(2));
    talk.stream.flush(talk.now);
    let said = whole(talk.stream.output());
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(
        said[0].starts_with("<message xmlns='jabber:client' type='normal' id='"),
        "{}",
        said[0]
    );
    assert_eq!(said[2], "<r xmlns='urn:xmpp:sm:3'/>");
    talk.output();
    assert_eq!(talk.send("<a xmlns='urn:xmpp:sm:3' h='3'/>"), "");
    assert_eq!(talk.facts(), ["delivered 1, delivered 2"]);
}

#[test]
fn what_waits_for_an_answer_stays_in_messages() {
    let mut talk = talk();
    talk.send(OPEN);
    talk.stream.receive(PLAIN.as_bytes(), talk.now, talk.time);
    // The gateway has not answered yet.
    talk.stream.receive(OPEN.as_bytes(), talk.now, talk.time);
    talk.stream.receive(b" ", talk.now, talk.time);
    talk.stream
        .receive(BIND.replacen("<iq", "<iq xmlns='jabber:client'", 1).as_bytes(), talk.now, talk.time);
    talk.stream.receive(ENABLE.as_bytes(), talk.now, talk.time);
    talk.answer();
    let said = whole(talk.stream.output());
    let starts: Vec<&str> = said.iter().map(|message| message.split([' ', '>']).next().unwrap()).collect();
    assert_eq!(starts, ["<success", "<open", "<stream:features", "<iq", "<enabled"], "{said:?}");
}

#[test]
fn what_is_not_one_whole_element_ends_the_stream() {
    let check = |message: &str, error: &str| {
        let mut talk = managed();
        let said = talk.send(message);
        let expected =
            format!("<stream:error xmlns:stream='http://etherx.jabber.org/streams'><{error} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>");
        assert!(said.starts_with(&expected) && said.ends_with(CLOSE), "{message}: {said}");
        assert_eq!(talk.facts(), ["over"], "{message}");
    };
    check("<presence xmlns='jabber:client'>", "not-well-formed");
    check(
        "<presence xmlns='jabber:client'/><presence xmlns='jabber:client'/>",
        "not-well-formed",
    );
    check(
        "<a xmlns='urn:xmpp:sm:3' h='1'/><a xmlns='urn:xmpp:sm:3' h='1'/>",
        "not-well-formed",
    );
    check("<a xmlns='urn:xmpp:sm:3' h='1'/>x", "not-well-formed");
    check("</stream:stream>", "not-well-formed");
    check("<presence xmlns='jabber:client'/></stream:stream>", "not-well-formed");
    check("hello", "not-well-formed");
    check("<x:presence/>", "not-well-formed");
    check("<!-- a comment -->", "restricted-xml");
    check("<!DOCTYPE x>", "restricted-xml");
    // What the stream's header would declare is declared by nobody.
    check("<presence/>", "unsupported-stanza-type");
    check(OPEN, "unsupported-stanza-type");
    check(
        &format!(
            "<presence xmlns='jabber:client'><status>{}</status></presence>",
            "x".repeat(257 * 1024)
        ),
        "policy-violation",
    );
}

#[test]
fn a_stream_of_tcp_is_none_of_websocket_and_the_other_way_round() {
    let said = talk().send(HEADER);
    assert!(
        said.starts_with("<open ") && said.contains("<restricted-xml ") || said.contains("<not-well-formed "),
        "{said}"
    );
    let said = Talk::new().send(OPEN);
    assert!(said.contains("<invalid-namespace "), "{said}");
}

#[test]
fn what_no_message_can_be_is_told_and_ends_the_stream() {
    for (what, error) in [
        (Unreadable::TooBig, "policy-violation"),
        (Unreadable::Binary, "bad-format"),
        (Unreadable::NotUtf8, "not-well-formed"),
        (Unreadable::BadFrame, "bad-format"),
    ] {
        let mut talk = managed();
        talk.stream.unreadable(what);
        talk.answer();
        assert!(talk.output().contains(&format!("<{error} ")), "{what:?}");
        assert_eq!(talk.facts(), ["over"]);
    }
}

#[test]
fn a_sign_of_life_below_the_stream_is_one_and_is_no_stanza() {
    let mut talk = managed();
    for _ in 0..10 {
        talk.later(299);
        talk.stream.alive(6, talk.now);
        assert_eq!(talk.elapse(), "");
    }
    assert_eq!(talk.send("<r xmlns='urn:xmpp:sm:3'/>"), "<a xmlns='urn:xmpp:sm:3' h='1'/>");
}

#[test]
fn pings_without_end_are_a_flood() {
    let mut talk = managed();
    for _ in 0..2_100 {
        talk.stream.alive(6, talk.now);
    }
    assert!(talk.stream.slowed_until().is_some());
}

#[test]
fn a_session_goes_on_over_the_other_transport_and_back() {
    let mut tcp = Talk::managed();
    tcp.push(1);
    tcp.send("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>");
    tcp.push(2);
    tcp.stream.disconnected(tcp.now);
    let session = tcp.stream.take_session().unwrap();
    let resume = format!("<resume xmlns='urn:xmpp:sm:3' previd='{}' h='1'/>", session.id());

    let mut web = Talk::new().over(Carried::WebSocketAsTcp);
    web.parked = Some(session);
    web.log_in();
    let replayed = web.send(&resume);
    assert!(replayed.starts_with("<resumed xmlns='urn:xmpp:sm:3' "), "{replayed}");
    assert_eq!(numbers(&replayed), [1, 2]);
    assert!(replayed.contains("<iq type='result' id='p' "), "{replayed}");
    web.stream.disconnected(web.now);

    let mut tcp = Talk::new();
    tcp.parked = web.stream.take_session();
    tcp.log_in();
    assert_eq!(tcp.send(&resume), replayed);
    tcp.send("<a xmlns='urn:xmpp:sm:3' h='4'/>");
    assert_eq!(tcp.facts(), ["ready", "delivered 1, delivered 2"]);
}
