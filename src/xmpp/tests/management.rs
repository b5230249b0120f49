//! Stream management: counters, acknowledgement, resumption.

use proptest::prelude::*;

use super::*;

/// Breaks the connection of `talk` and resumes its session on a new one, with the device's count.
fn resumed(mut talk: Talk, handled: u32) -> (Talk, String) {
    talk.stream.disconnected(talk.now);
    talk.answer();
    assert_eq!(talk.facts(), ["hibernate 300"]);
    let session = talk.stream.take_session().unwrap();
    let previous = session.id();
    let mut next = Talk::new();
    (next.now, next.time) = (talk.now, talk.time);
    next.parked = Some(session);
    next.log_in();
    let out = next.send(&format!("<resume xmlns='urn:xmpp:sm:3' previd='{previous}' h='{handled}'/>"));
    (next, out)
}

fn resumed_head(id: u128, handled: u32) -> String {
    format!("<resumed xmlns='urn:xmpp:sm:3' previd='{id:032x}' h='{handled}'/>")
}

#[test]
fn enabling_says_what_was_agreed() {
    let check = |enable: &str, enabled: &str, end: &str| {
        let mut talk = Talk::bound();
        assert_eq!(talk.send(enable), enabled);
        talk.stream.disconnected(talk.now);
        talk.answer();
        assert_eq!(talk.facts(), [end], "{enable}");
    };
    let id = format!("{:032x}", 1);
    check(
        ENABLE,
        &format!("<enabled xmlns='urn:xmpp:sm:3' id='{id}' resume='true' max='300'/>"),
        "hibernate 300",
    );
    check(
        "<enable xmlns='urn:xmpp:sm:3' resume='1' max='20'/>",
        &format!("<enabled xmlns='urn:xmpp:sm:3' id='{id}' resume='true' max='20'/>"),
        "hibernate 20",
    );
    check("<enable xmlns='urn:xmpp:sm:3'/>", "<enabled xmlns='urn:xmpp:sm:3'/>", "over");
    check(
        "<enable xmlns='urn:xmpp:sm:3' resume='true' max='0'/>",
        "<enabled xmlns='urn:xmpp:sm:3'/>",
        "over",
    );
}

#[test]
fn it_is_enabled_once_and_used_only_when_enabled() {
    let failed = "<failed xmlns='urn:xmpp:sm:3'><unexpected-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>";
    let mut talk = Talk::bound();
    for early in [
        "<r xmlns='urn:xmpp:sm:3'/>",
        "<a xmlns='urn:xmpp:sm:3' h='0'/>",
        "<a xmlns='urn:xmpp:sm:3'  h='0'/>",
    ] {
        assert_eq!(talk.send(early), failed);
    }
    talk.send(ENABLE);
    assert_eq!(talk.send(ENABLE), failed);
    assert_eq!(talk.send("<r xmlns='urn:xmpp:sm:3'/>"), "<a xmlns='urn:xmpp:sm:3' h='0'/>");
}

#[test]
fn only_stanzas_behind_enable_are_counted() {
    let mut talk = Talk::bound();
    talk.send("<presence/><message/>");
    talk.send(&format!("<message/>{ENABLE}<r xmlns='urn:xmpp:sm:3'/>"));
    let stanzas = [
        "<message/>",
        "<presence to='x@y'/>",
        "<iq type='result' id='x'/>",
        "<iq type='get'/>",
        "<message type='error'/>",
    ];
    let others = [
        " ",
        "<r xmlns='urn:xmpp:sm:3'/>",
        "<a xmlns='urn:xmpp:sm:3' h='0'/>",
        "<active xmlns='urn:xmpp:csi:0'/>",
        "<inactive xmlns='urn:xmpp:csi:0'/>",
    ];
    for (count, stanza) in stanzas.iter().enumerate() {
        for other in others {
            talk.send(other);
        }
        let out = talk.send(&format!("{stanza}<r xmlns='urn:xmpp:sm:3'/>"));
        assert!(
            out.ends_with(&format!("<a xmlns='urn:xmpp:sm:3' h='{}'/>", count + 1)),
            "{stanza}: {out}"
        );
    }
    assert_eq!(talk.stream.session().unwrap().handled(), 5);
}

#[test]
fn only_what_was_sent_behind_enabled_is_counted() {
    // The echo of presence and an event go out before counting starts, the answer to a ping after it.
    let mut talk = Talk::bound();
    talk.send("<presence/>");
    talk.push(1);
    talk.flush();
    talk.send(ENABLE);
    talk.facts();
    talk.send("<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>");
    talk.push(2);
    talk.flush();
    let mut high = Talk::bound();
    high.send(ENABLE);
    assert!(high.send("<a xmlns='urn:xmpp:sm:3' h='1'/>").contains(
        "<undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><handled-count-too-high xmlns='urn:xmpp:sm:3' \
         h='1' send-count='0'/>"
    ));
    // Whoever acknowledges anything has read all that came before.
    talk.send("<a xmlns='urn:xmpp:sm:3' h='1'/>");
    assert_eq!(talk.facts(), ["delivered 1"]);
    talk.send("<a xmlns='urn:xmpp:sm:3' h='2'/>");
    assert_eq!(talk.facts(), ["delivered 2"]);
    assert!(talk.send("<a xmlns='urn:xmpp:sm:3' h='3'/>").contains("send-count='2'"));
    assert_eq!(talk.facts(), ["over"]);
}

#[test]
fn a_count_below_the_last_is_ignored() {
    let mut talk = Talk::managed();
    talk.push(1);
    talk.send("<a xmlns='urn:xmpp:sm:3' h='2'/>");
    talk.facts();
    talk.push(2);
    for h in ["1", "0", "2"] {
        assert_eq!(
            talk.send(&format!("<a xmlns='urn:xmpp:sm:3' h='{h}'/>")).matches("error").count(),
            0
        );
    }
    assert_eq!(talk.facts(), [""; 0]);
    for bad in ["<a xmlns='urn:xmpp:sm:3'/>", "<a xmlns='urn:xmpp:sm:3' h='4294967296'/>"] {
        let mut talk = Talk::managed();
        assert!(talk.send(bad).contains("<bad-format "), "{bad}");
    }
}

#[test]
fn counters_wrap() {
    let mut window = super::window::Window::default();
    window.count_from_here();
    window.start_at(u32::MAX - 1);
    for number in 1..=4 {
        window.event(event(number), false, 10);
    }
    let numbers = |ends: Vec<Ended>| ends.iter().map(|(_, located, _)| located.number).collect::<Vec<_>>();
    assert_eq!(numbers(window.acknowledge(u32::MAX).unwrap()), [1]);
    assert_eq!(numbers(window.acknowledge(0).unwrap()), [2]);
    assert_eq!(numbers(window.acknowledge(u32::MAX).unwrap()), [0; 0]);
    assert!(window.acknowledge(3).is_err());
    assert_eq!(numbers(window.acknowledge(2).unwrap()), [3, 4]);

    let mut talk = Talk::managed();
    talk.stream.session.as_mut().unwrap().handled = u32::MAX;
    assert_eq!(talk.send("<r xmlns='urn:xmpp:sm:3'/>"), "<a xmlns='urn:xmpp:sm:3' h='4294967295'/>");
    assert_eq!(
        talk.send("<message/><r xmlns='urn:xmpp:sm:3'/>"),
        "<a xmlns='urn:xmpp:sm:3' h='0'/>"
    );
}

#[test]
fn a_lost_connection_is_resumed_with_a_replay_in_order() {
    let mut talk = Talk::managed();
    for number in 1..=3 {
        talk.push(number);
    }
    let first = talk.flush();
    talk.send("<a xmlns='urn:xmpp:sm:3' h='2'/>");
    assert_eq!(talk.facts(), ["delivered 1"]);
    // The device got event 2, too, but its acknowledgement was lost.
    let (mut talk, out) = resumed(talk, 3);
    assert!(out.starts_with(&resumed_head(1, 1)), "{out}");
    assert_eq!(numbers(&out), [3]);
    assert!(out.ends_with("<r xmlns='urn:xmpp:sm:3'/>"));
    // What is sent again is the same, byte for byte.
    let last = first.rfind("<message").unwrap();
    assert_eq!(&out[resumed_head(1, 1).len()..], &first[last..]);
    assert_eq!(talk.facts(), ["delivered 2", "ready"]);
    assert!(talk.push(4));
    assert_eq!(numbers(&talk.flush()), [4]);
    talk.send("<a xmlns='urn:xmpp:sm:3' h='5'/>");
    assert_eq!(talk.facts(), ["delivered 3, delivered 4"]);
    let traffic = talk.stream.traffic();
    assert_eq!((traffic.received[0], traffic.sent[0]), (0, 0));
    assert!(traffic.received[1] > 0 && traffic.sent[1] > 0 && traffic.retry > 0);
}

#[test]
fn a_replay_holds_stanzas_of_every_kind_and_keeps_the_delay() {
    let mut talk = Talk::managed();
    talk.push_event(&event(1), true);
    let mut sent = talk.output();
    sent.push_str(&talk.send("<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>"));
    sent.push_str(&talk.send("<presence><priority>3</priority></presence>"));
    sent.push_str(&talk.send("<message to='x@y' id='m'/>"));
    talk.push(2);
    sent.push_str(&talk.flush());
    assert!(sent.contains("<delay ") && sent.ends_with("<r xmlns='urn:xmpp:sm:3'/>"));
    let (mut talk, out) = resumed(talk, 1);
    assert_eq!(out, resumed_head(1, 4) + &sent);
    talk.facts();
    // Resumed once more, with half of it handled meanwhile.
    let (mut talk, out) = resumed(talk, 4);
    assert_eq!(numbers(&out), [2]);
    assert!(out.contains("<message type='error' id='m'"));
    assert_eq!(talk.facts(), ["delivered 1", "ready"]);
    talk.send("<a xmlns='urn:xmpp:sm:3' h='6'/>");
    assert_eq!(talk.facts(), ["delivered 2"]);
}

#[test]
fn a_resumption_that_claims_too_much_ends_the_session() {
    let mut talk = Talk::managed();
    talk.push(1);
    let (mut talk, out) = resumed(talk, 9);
    assert!(out.contains("<handled-count-too-high xmlns='urn:xmpp:sm:3' h='9' send-count='2'/>"));
    assert_eq!(talk.facts(), ["over"]);
    assert_eq!(talk.stream.session().unwrap().unacknowledged().len(), 1);
}

#[test]
fn what_expired_or_ended_meanwhile_is_not_sent_again() {
    let mut talk = Talk::managed();
    talk.push_event(&event_of(1, |event| event.event.ttl = Duration::from_secs(60)), false);
    talk.push(2);
    talk.push_event(&event_with_receipt(3), false);
    talk.send(&format!("<message><received xmlns='urn:xmpp:receipts' id='{}'/></message>", id(3)));
    talk.push(4);
    talk.flush();
    assert_eq!(talk.facts(), ["delivered 3"]);
    talk.later(60);
    let (mut talk, out) = resumed(talk, 1);
    assert_eq!(numbers(&out), [2, 4]);
    assert_eq!(talk.facts(), ["expired 1", "ready"]);
    // The device counts what it read: two more.
    talk.send("<a xmlns='urn:xmpp:sm:3' h='3'/>");
    assert_eq!(talk.facts(), ["delivered 2, delivered 4"]);
    assert!(talk.send("<a xmlns='urn:xmpp:sm:3' h='4'/>").contains("send-count='3'"));
}

#[test]
fn a_session_without_presence_resumes_without_taking_events() {
    let mut talk = Talk::bound();
    talk.send(ENABLE);
    let (mut talk, out) = resumed(talk, 0);
    assert_eq!(out, resumed_head(1, 0) + "<r xmlns='urn:xmpp:sm:3'/>");
    assert_eq!(talk.facts(), [""; 0]);
    assert_eq!(talk.stream.room(), 0);
    talk.send("<presence/>");
    assert_eq!(talk.facts(), ["ready"]);
}

#[test]
fn stanzas_pipelined_behind_resume_are_read_after_the_switch() {
    let mut talk = Talk::managed();
    talk.push(1);
    talk.stream.disconnected(talk.now);
    let session = talk.stream.take_session().unwrap();
    let mut next = Talk::new();
    next.parked = Some(session);
    next.log_in();
    let out = next.send(&format!(
        "<resume xmlns='urn:xmpp:sm:3' previd='{:032x}' h='1'/><message/><r xmlns='urn:xmpp:sm:3'/>",
        1
    ));
    assert!(out.starts_with(&resumed_head(1, 1)));
    assert!(out.ends_with("<r xmlns='urn:xmpp:sm:3'/><a xmlns='urn:xmpp:sm:3' h='2'/>"), "{out}");
}

#[test]
fn a_session_of_another_device_is_not_resumed() {
    let mut talk = Talk::managed();
    talk.stream.disconnected(talk.now);
    let mut session = talk.stream.take_session().unwrap();
    session.device = "stb-2".parse().unwrap();
    let mut next = Talk::new();
    next.parked = Some(session);
    next.log_in();
    let out = next.send(&format!("<resume xmlns='urn:xmpp:sm:3' previd='{:032x}' h='1'/>", 1));
    assert!(!out.contains("<resumed") && out.contains("<internal-server-error "), "{out}");
}

#[test]
fn the_older_stream_says_conflict_and_nothing_else() {
    let mut talk = Talk::managed();
    talk.push(1);
    talk.flush();
    assert!(talk.stream.take_session().is_some());
    assert_eq!(
        talk.send("<message/><r xmlns='urn:xmpp:sm:3'/><a xmlns='urn:xmpp:sm:3' h='2'/>"),
        ""
    );
    assert!(!talk.push(2));
    assert_eq!(talk.flush(), "");
    talk.later(1000);
    assert_eq!(talk.elapse(), "");
    assert_eq!(talk.facts(), [""; 0]);
    talk.stream.fail(&StreamError::Conflict, talk.now);
    assert!(talk.output().starts_with("<stream:error><conflict "));
}

#[test]
fn while_the_node_stops_acknowledgements_still_count() {
    let mut talk = Talk::managed();
    talk.push(1);
    talk.push_event(&event_with_receipt(2), false);
    talk.flush();
    talk.stream.fail(&StreamError::SystemShutdown, talk.now);
    talk.answer();
    assert!(talk.output().ends_with("</stream:stream>"));
    assert_eq!(talk.facts(), ["over"]);
    assert_eq!(talk.send("<a xmlns='urn:xmpp:sm:3' h='3'/>"), "");
    assert_eq!(talk.facts(), ["delivered 1"]);
    let receipt = format!("<message><received xmlns='urn:xmpp:receipts' id='{}'/></message>", id(2));
    assert_eq!(talk.send(&format!("<presence/>{receipt}</stream:stream>")), "");
    assert_eq!(talk.facts(), ["delivered 2"]);
    assert_eq!(talk.send("<<"), "");
    assert_eq!(talk.facts(), [""; 0]);
}

#[test]
fn a_device_that_never_acknowledges_is_cut_off_before_it_fills_memory() {
    let mut talk = Talk::managed();
    let mut sent = 0;
    while talk.facts().is_empty() {
        talk.send("<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>");
        sent += 1;
        assert!(sent < 200);
    }
    assert_eq!(sent, 129);
}

proptest! {
    /// Whatever a device acknowledges, each event ends once, in order, and the counts never drift.
    #[test]
    fn acknowledgements_settle_each_event_once_and_in_order(
        start in any::<u32>(),
        steps in prop::collection::vec((0u8..4, 0usize..6), 1..80),
    ) {
        let mut window = super::window::Window::default();
        window.count_from_here();
        window.start_at(start);
        let (mut sent, mut handled, mut next) = (0u32, 0u32, 1u64);
        let mut ended = Vec::new();
        let mut settle = |ends: Vec<Ended>| {
            ended.extend(ends.iter().map(|(_, located, _)| located.number));
        };
        for (kind, amount) in steps {
            match kind {
                0 => for _ in 0..amount {
                    window.event(event(next), false, 10);
                    next += 1;
                    sent += 1;
                },
                1 => for _ in 0..amount {
                    window.other(b"<x/>");
                    sent += 1;
                },
                2 => {
                    handled = sent.min(handled + amount as u32);
                    settle(window.acknowledge(start.wrapping_add(handled)).unwrap());
                }
                _ => {
                    // An old count, and one that is too high.
                    let back = handled.saturating_sub(amount as u32);
                    settle(window.acknowledge(start.wrapping_add(back)).unwrap());
                    prop_assert!(window.acknowledge(start.wrapping_add(sent + 1)).is_err());
                }
            }
        }
        settle(window.acknowledge(start.wrapping_add(sent)).unwrap());
        prop_assert_eq!(ended, (1..next).collect::<Vec<_>>());
        prop_assert_eq!((window.events(), window.bytes(), window.in_flight()), (0, 0, 0));
    }
}

#[test]
fn the_answer_to_a_ping_settles_what_was_written_before_enable() {
    // xmpp.js sends presence and enable in one packet: the events go out between them, with a ping behind.
    let mut talk = Talk::bound();
    talk.send("<presence/>");
    assert!(talk.push(1) && talk.push(2));
    assert!(talk.flush().contains("id='ping-1'"));
    talk.send(ENABLE);
    assert!(talk.push(3));
    talk.flush();
    talk.facts();
    talk.send("<iq type='result' id='ping-1'/>");
    assert_eq!(talk.facts(), ["delivered 1, delivered 2"]);
    talk.send("<a xmlns='urn:xmpp:sm:3' h='0'/>");
    assert_eq!(talk.facts(), [""; 0], "counting is as it was");
    talk.send("<a xmlns='urn:xmpp:sm:3' h='1'/>");
    assert_eq!(talk.facts(), ["delivered 3"]);
}
