//! Events on their way to a device.

use super::*;

#[test]
fn an_event_is_the_message_of_the_profile() {
    let mut talk = Talk::managed();
    let event = event_of(1187, |event| {
        event.attempt = 2;
        event.event.collapse_key = Some("a'b".into());
        event.event.urgency = Urgency::High;
        event.event.require = Require::Received;
        event.event.json = Data(r#"{"title":"Жалюзи & <電視>"}"#.into());
    });
    assert!(talk.push_event(&event, true));
    let id = event.id.to_string();
    assert_eq!(
        talk.flush(),
        format!(
            "<message type='normal' id='{id}' from='example.com' to='stb-1@example.com'><event xmlns='urn:unpoll:event:1' id='{id}' \
             lane='normal.3f' seq='1187' accepted='2026-09-21T14:13:20.000Z' expires='2026-09-21T15:13:20.000Z' collapse='a&apos;b' \
             urgency='high' attempt='2' require='received'><json xmlns='urn:xmpp:json:0'>\
             {{\"title\":\"Жалюзи &amp; &lt;電視&gt;\"}}</json></event><request xmlns='urn:xmpp:receipts'/>\
             <stanza-id xmlns='urn:xmpp:sid:0' by='example.com' id='{id}'/>\
             <delay xmlns='urn:xmpp:delay' from='example.com' stamp='2026-09-21T14:13:20.000Z'/>\
             <no-copy xmlns='urn:xmpp:hints'/><store xmlns='urn:xmpp:hints'/></message><r xmlns='urn:xmpp:sm:3'/>"
        )
    );
}

#[test]
fn a_stock_parser_reads_the_event_back() {
    let json = r#"{"a":"\u0000 ]]> <![CDATA[ & ' \" Жук 電視 😀"}"#;
    let mut talk = Talk::managed();
    let event = event_of(1, |event| event.event.json = Data(json.into()));
    talk.push_event(&event, false);
    let out = talk.output();
    let message: xmpp_parsers::minidom::Element = out.replacen("<message", "<message xmlns='jabber:client'", 1).parse().unwrap();
    let wrapper = message.get_child("event", "urn:unpoll:event:1").unwrap();
    assert_eq!(wrapper.get_child("json", "urn:xmpp:json:0").unwrap().text(), json);
    assert!(!out.contains("<![CDATA["), "embedded parsers choke on it: {out}");
}

#[test]
fn an_event_with_a_ttl_of_zero_is_a_headline_that_nobody_stores() {
    let mut talk = Talk::managed();
    let event = event_of(1, |event| {
        event.event.ttl = Duration::ZERO;
        event.located.queue = None;
    });
    assert!(talk.push_event(&event, false));
    let out = talk.flush();
    assert!(out.starts_with("<message type='headline' "));
    assert!(out.contains("<no-store xmlns='urn:xmpp:hints'/>") && !out.contains("<store "));
    talk.send("<a xmlns='urn:xmpp:sm:3' h='2'/>");
    assert_eq!(talk.facts(), ["delivered 1"]);
}

#[test]
fn an_event_is_written_once_and_ends_when_it_is_acknowledged() {
    let mut talk = Talk::managed();
    assert!(talk.push(1) && talk.push(2) && talk.push(1) && talk.push(2));
    let out = talk.flush();
    assert_eq!(numbers(&out), [1, 2]);
    assert!(out.ends_with("<r xmlns='urn:xmpp:sm:3'/>"));
    assert_eq!(talk.flush(), "");
    assert_eq!(talk.stream.session().unwrap().cursor().rest, 2);
    assert!(talk.stream.session().unwrap().holds(event(2).id));
    assert_eq!(talk.stream.session().unwrap().unacknowledged().len(), 2);
    talk.send("<a xmlns='urn:xmpp:sm:3' h='2'/>");
    assert_eq!(talk.facts(), ["delivered 1"]);
    talk.send("<a xmlns='urn:xmpp:sm:3' h='2'/>");
    assert_eq!(talk.facts(), [""; 0]);
    talk.send("<a xmlns='urn:xmpp:sm:3' h='3'/>");
    assert_eq!(talk.facts(), ["delivered 2"]);
    assert_eq!(talk.stream.session().unwrap().unacknowledged(), []);
}

#[test]
fn a_burst_is_asked_about_once_and_behind_its_last_event() {
    let mut talk = Talk::managed();
    for number in 1..=20 {
        assert!(talk.push(number));
    }
    let out = talk.flush();
    assert_eq!((numbers(&out).len(), out.matches("<r ").count()), (20, 1));
    assert!(out.ends_with("</message><r xmlns='urn:xmpp:sm:3'/>"));
    talk.send("<a xmlns='urn:xmpp:sm:3' h='21'/>");
    assert_eq!(talk.facts().len(), 1, "one answer settles them all");
    assert_eq!(talk.elapse() + &talk.flush(), "", "nothing more is asked");
}

#[test]
fn an_expired_event_is_not_written() {
    let mut talk = Talk::managed();
    talk.later(3600);
    assert!(talk.push(1));
    assert_eq!(talk.flush(), "");
    assert_eq!(talk.facts(), ["expired 1"]);
    assert_eq!(talk.stream.session().unwrap().cursor().rest, 1);
    assert!(talk.push(1));
    assert_eq!(talk.facts(), [""; 0]);
}

#[test]
fn the_window_is_bounded_in_events_and_opens_again() {
    let mut talk = Talk::managed();
    for number in 1..=32 {
        assert_eq!(talk.stream.room() as u64, 33 - number);
        assert!(talk.push(number));
    }
    assert_eq!(talk.stream.room(), 0);
    assert!(!talk.push(33));
    talk.stream.refused();
    assert_eq!(numbers(&talk.flush()).len(), 32);
    talk.send("<a xmlns='urn:xmpp:sm:3' h='1'/>");
    assert_eq!(talk.facts(), [""; 0]);
    talk.send("<a xmlns='urn:xmpp:sm:3' h='2'/>");
    assert_eq!(talk.facts(), ["delivered 1", "ready"]);
    assert!(talk.push(33));
    talk.send("<a xmlns='urn:xmpp:sm:3' h='3'/>");
    assert_eq!(talk.facts(), ["delivered 2"]);
}

#[test]
fn the_window_is_bounded_in_bytes_and_one_event_always_fits() {
    let mut talk = Talk::managed();
    let large = |number, bytes: usize| event_of(number, |event| event.event.json = Data("x".repeat(bytes).into()));
    assert!(talk.push_event(&large(1, 100_000), false));
    assert_eq!(talk.stream.room(), 0);
    assert!(!talk.push(2));
    assert_eq!(numbers(&talk.flush()), [1]);
    talk.send("<a xmlns='urn:xmpp:sm:3' h='2'/>");
    assert!(talk.push_event(&large(2, 40_000), false));
    assert!(!talk.push_event(&large(3, 40_000), false));
    talk.stream.refused();
    talk.send(" ");
    assert_eq!(talk.facts(), ["delivered 1"], "nothing was freed yet");
    assert_eq!(talk.stream.session().unwrap().cursor().rest, 2);
    assert!(talk.push(3));
    assert_eq!(numbers(&talk.flush()), [3]);
    talk.send("<a xmlns='urn:xmpp:sm:3' h='3'/>");
    assert_eq!(talk.facts(), ["delivered 2", "ready"]);
}

#[test]
fn an_event_that_requires_a_receipt_ends_with_it() {
    let mut talk = Talk::managed();
    assert!(talk.push_event(&event_with_receipt(1), false));
    assert!(talk.flush().contains("<request xmlns='urn:xmpp:receipts'/>"));
    talk.send("<a xmlns='urn:xmpp:sm:3' h='2'/>");
    assert_eq!(talk.facts(), [""; 0]);
    let session = talk.stream.session().unwrap();
    assert_eq!(session.unacknowledged().len(), 1);
    assert!(session.holds(event(1).id));
    assert_eq!(talk.stream.room(), 31);
    let receipt = format!(
        "<message to='example.com' id='r'><received xmlns='urn:xmpp:receipts' id='{}'/></message>",
        id(1)
    );
    for expected in [&["delivered 1"][..], &[]] {
        assert_eq!(talk.send(&receipt), "");
        assert_eq!(talk.facts(), expected);
    }
    assert_eq!(talk.stream.room(), 32);
    for odd in ["x", &id(9)] {
        talk.send(&format!("<message><received xmlns='urn:xmpp:receipts' id='{odd}'/></message>"));
    }
    talk.send("<message><received xmlns='urn:xmpp:receipts'/></message>");
    assert_eq!(talk.facts(), [""; 0]);
}

#[test]
fn a_receipt_ahead_of_the_acknowledgement_counts_once() {
    let mut talk = Talk::managed();
    talk.push_event(&event_with_receipt(1), false);
    talk.push(2);
    for number in [1, 2] {
        talk.send(&format!(
            "<message><received xmlns='urn:xmpp:receipts' id='{}'/></message>",
            id(number)
        ));
    }
    assert_eq!(talk.facts(), ["delivered 1", "delivered 2"]);
    assert!(!talk.stream.session().unwrap().holds(event(1).id));
    talk.send("<a xmlns='urn:xmpp:sm:3' h='3'/>");
    assert_eq!(talk.facts(), [""; 0]);
    assert_eq!(talk.stream.room(), 32);
}

#[test]
fn a_receipt_that_never_comes_holds_the_window_until_the_event_expires() {
    let mut talk = Talk::managed();
    for number in 1..=32 {
        talk.push_event(&event_with_receipt(number), false);
    }
    talk.send("<a xmlns='urn:xmpp:sm:3' h='33'/>");
    assert!(!talk.push(33));
    talk.stream.refused();
    talk.later(3600);
    talk.send(" ");
    let facts = talk.facts();
    assert!(facts[0].starts_with("expired 1, expired 2"), "{facts:?}");
    assert_eq!(facts[1], "ready");
}

#[test]
fn an_error_in_answer_to_an_event_rejects_it() {
    let mut talk = Talk::managed();
    talk.push(1);
    talk.flush();
    let error = format!(
        "<message type='error' to='example.com' id='{}'><error type='cancel'/></message>",
        id(1)
    );
    assert_eq!(talk.send(&error), "");
    assert_eq!(talk.facts(), ["rejected 1"]);
    talk.send(&error);
    talk.send("<a xmlns='urn:xmpp:sm:3' h='2'/>");
    assert_eq!(talk.facts(), [""; 0]);
}

#[test]
fn without_stream_management_a_ping_ends_what_came_before_it() {
    let mut talk = Talk::bound();
    talk.send("<presence/>");
    talk.facts();
    talk.push(1);
    talk.push(2);
    let out = talk.flush();
    assert!(out.ends_with("<iq type='get' id='ping-1' from='example.com' to='stb-1@example.com/main'><ping xmlns='urn:xmpp:ping'/></iq>"));
    talk.push(3);
    assert!(!talk.flush().contains("<ping"), "one ping at a time");
    assert_eq!(talk.send("<iq type='result' id='ping-7'/>"), "");
    assert_eq!(talk.facts(), [""; 0]);
    let out = talk.send("<iq type='error' id='ping-1'><error type='cancel'/></iq>");
    assert_eq!(talk.facts(), ["delivered 1, delivered 2"]);
    assert!(out.contains("id='ping-2'"), "the rest is asked for, too: {out}");
    talk.send("<iq type='result' id='ping-1'/>");
    assert_eq!(talk.facts(), [""; 0]);
    talk.send("<iq type='result' id='ping-2'/>");
    assert_eq!(talk.facts(), ["delivered 3"]);
}

#[test]
fn bytes_are_counted_by_what_they_were_for() {
    let mut talk = Talk::managed();
    talk.stream.traffic();
    talk.push(1);
    let out = talk.flush();
    let json = r#"{"n":1}"#.len();
    let r = "<r xmlns='urn:xmpp:sm:3'/>".len();
    let a = "<a xmlns='urn:xmpp:sm:3' h='2'/>";
    talk.send(a);
    talk.send(" \n");
    talk.send("<presence/>");
    let mut expected = Traffic {
        framing: (out.len() - r - json) as u32,
        ..Traffic::default()
    };
    expected.sent[LifeSign::Acknowledgement.index()] = r as u32;
    expected.received[LifeSign::Acknowledgement.index()] = a.len() as u32;
    expected.received[LifeSign::Keepalive.index()] = 2;
    expected.received[LifeSign::Presence.index()] = "<presence/>".len() as u32;
    expected.sent[LifeSign::Presence.index()] = "<presence from='stb-1@example.com/main' to='stb-1@example.com/main'/>".len() as u32;
    assert_eq!(talk.stream.traffic(), expected);
}
