//! Silence, and what follows from it.

use super::*;

#[test]
fn a_silent_device_is_asked_and_then_dead() {
    for (managed, probe, end) in [
        (true, "<r xmlns='urn:xmpp:sm:3'/>", "hibernate 300"),
        (
            false,
            "<iq type='get' id='ping-1' from='example.com' to='stb-1@example.com/main'><ping xmlns='urn:xmpp:ping'/></iq>",
            "over",
        ),
    ] {
        let mut talk = if managed { Talk::managed() } else { Talk::bound() };
        assert_eq!(talk.stream.wake_at(), talk.now + Duration::from_secs(300));
        talk.later(299);
        assert_eq!(talk.elapse(), "");
        talk.later(1);
        assert_eq!(talk.elapse(), probe);
        assert_eq!(talk.stream.wake_at(), talk.now + Duration::from_secs(30));
        talk.later(29);
        assert_eq!(talk.elapse(), "");
        talk.later(1);
        assert!(talk.elapse().contains("<connection-timeout "));
        assert_eq!(talk.facts(), [end]);
        assert!(talk.stream.wake_at() > talk.now + Duration::from_secs(3600));
    }
}

#[test]
fn any_byte_is_a_sign_of_life() {
    let mut talk = Talk::managed();
    for _ in 0..5 {
        talk.later(300);
        assert_eq!(talk.elapse(), "<r xmlns='urn:xmpp:sm:3'/>");
        talk.later(10);
        talk.send(" ");
        assert_eq!(talk.stream.last_heard(), talk.now);
        talk.later(25);
        assert_eq!(talk.elapse(), "");
        talk.later(10);
        talk.send("<a xmlns='urn:xmpp:sm:3' h='1'/>");
    }
    assert_eq!(talk.facts(), [""; 0]);
}

#[test]
fn a_pong_in_time_keeps_a_plain_session_alive() {
    let mut talk = Talk::bound();
    for number in 1..=3 {
        talk.later(300);
        assert!(talk.elapse().contains(&format!("id='ping-{number}'")));
        talk.later(5);
        talk.send(&format!("<iq type='result' id='ping-{number}' from='example.com'/>").replace(" from='example.com'", ""));
    }
    assert_eq!(talk.facts(), [""; 0]);
    let traffic = talk.stream.traffic();
    assert!(traffic.sent[LifeSign::Keepalive.index()] > 0 && traffic.received[LifeSign::Keepalive.index()] > 0);
}

#[test]
fn a_device_silent_after_a_push_is_dead_when_the_acknowledgement_is_overdue() {
    let mut talk = Talk::managed();
    talk.push(1);
    talk.flush();
    assert_eq!(talk.stream.wake_at(), talk.now + Duration::from_secs(30));
    talk.later(30);
    talk.elapse();
    assert_eq!(talk.facts(), ["hibernate 300"]);
    assert_eq!(talk.stream.take_session().unwrap().unacknowledged().len(), 1);
}

#[test]
fn a_device_that_talks_and_does_not_acknowledge_is_reminded_once() {
    let mut talk = Talk::managed();
    talk.push(1);
    talk.flush();
    talk.later(20);
    talk.send("<message/>");
    talk.later(10);
    assert_eq!(talk.elapse(), "<r xmlns='urn:xmpp:sm:3'/>");
    talk.later(20);
    talk.send("<message/>");
    assert_eq!(talk.elapse(), "");
    talk.later(10);
    talk.elapse();
    assert_eq!(talk.facts(), ["hibernate 300"]);

    let mut talk = Talk::managed();
    talk.push(1);
    talk.flush();
    talk.later(20);
    talk.send("<message/>");
    talk.later(10);
    talk.elapse();
    talk.send("<a xmlns='urn:xmpp:sm:3' h='2'/>");
    talk.later(100);
    assert_eq!(talk.elapse(), "");
    assert_eq!(talk.facts(), ["delivered 1"]);
}

#[test]
fn progress_in_acknowledging_gives_time_for_the_rest() {
    let mut talk = Talk::managed();
    talk.push(1);
    talk.push(2);
    talk.flush();
    talk.later(29);
    talk.send("<a xmlns='urn:xmpp:sm:3' h='2'/>");
    talk.later(29);
    assert_eq!(talk.elapse(), "");
    talk.send("<a xmlns='urn:xmpp:sm:3' h='3'/>");
    assert_eq!(talk.facts(), ["delivered 1", "delivered 2"]);
    assert_eq!(talk.stream.wake_at(), talk.now + Duration::from_secs(300));
}

#[test]
fn a_login_must_be_finished_in_time() {
    type Begin = fn(&mut Talk);
    let silent: Begin = |_| {};
    let begun: Begin = |talk| {
        talk.send(HEADER);
    };
    let unbound: Begin = |talk| talk.log_in();
    for begin in [silent, begun, unbound] {
        let mut talk = Talk::new();
        let started = talk.now;
        talk.later(9);
        begin(&mut talk);
        assert_eq!(talk.stream.wake_at(), started + Duration::from_secs(10));
        assert_eq!(talk.elapse(), "");
        talk.later(1);
        let out = talk.elapse();
        assert!(out.contains("<stream:error><policy-violation "), "{out}");
        assert_eq!(talk.facts(), ["over"]);
    }
}

#[test]
fn nothing_is_said_in_the_middle_of_a_handshake() {
    let mut talk = Talk::with(config(), false);
    talk.send(HEADER);
    talk.stream
        .receive(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", talk.now, talk.time);
    assert!(matches!(talk.stream.next_action(), Some(Action::StartTls)));
    talk.output();
    talk.later(10);
    assert_eq!(talk.elapse(), "");
    assert_eq!(talk.facts(), ["over"]);
}

#[test]
fn a_connection_lost_before_login_leaves_nothing() {
    let mut talk = Talk::new();
    talk.send(HEADER);
    talk.stream.disconnected(talk.now);
    talk.answer();
    assert_eq!(talk.facts(), ["over"]);
    assert_eq!(talk.output(), "");
}

#[test]
fn a_plain_session_that_talks_and_never_answers_a_ping_is_dead_after_a_push() {
    let mut talk = Talk::bound();
    talk.send("<presence/>");
    talk.later(300);
    assert!(talk.elapse().contains("id='ping-1'"));
    talk.send(" ");
    talk.facts();
    talk.push(1);
    assert!(!talk.flush().contains("<ping"), "one ping at a time");
    for _ in 0..2 {
        talk.later(15);
        talk.send(" ");
        talk.later(15);
        talk.elapse();
    }
    assert_eq!(talk.facts(), ["over"]);
    assert_eq!(talk.stream.session().unwrap().unacknowledged().len(), 1);
}

#[test]
fn a_device_asks_for_its_keepalive_and_gets_what_is_within_bounds() {
    let check = |asked: &str, given: u64| {
        let mut talk = Talk::bound();
        let out = talk.send(&format!(
            "<presence><keepalive xmlns='urn:unpoll:event:1' seconds='{asked}'/></presence>"
        ));
        assert_eq!(
            out,
            format!(
                "<presence from='stb-1@example.com/main' to='stb-1@example.com/main'>\
                 <keepalive xmlns='urn:unpoll:event:1' seconds='{given}'/></presence>"
            )
        );
        assert_eq!(talk.facts(), [format!("keepalive {given}"), "ready".into()]);
        assert_eq!(talk.stream.wake_at(), talk.now + Duration::from_secs(given));
        talk.later(given - 1);
        assert_eq!(talk.elapse(), "");
        talk.later(1);
        assert!(talk.elapse().contains("<ping "), "{given}");
    };
    check("600", 600);
    check("1", 30);
    check("0", 30);
    check("99999999999", 1800);
}

#[test]
fn a_presence_that_asks_for_no_keepalive_or_nonsense_changes_nothing() {
    let mut talk = Talk::managed();
    talk.send("<presence><keepalive xmlns='urn:unpoll:event:1' seconds='60'/></presence>");
    assert_eq!(talk.facts(), ["keepalive 60"]);
    for presence in [
        "<presence/>",
        "<presence><keepalive xmlns='urn:unpoll:event:1'/></presence>",
        "<presence><keepalive xmlns='urn:unpoll:event:1' seconds='-5'/></presence>",
    ] {
        assert!(!talk.send(presence).contains("keepalive"));
        assert_eq!(talk.facts(), [""; 0]);
        assert_eq!(talk.stream.session().unwrap().keepalive(), Some(Duration::from_secs(60)));
    }
}

#[test]
fn an_old_connection_ends_in_a_quiet_moment_and_its_session_can_be_resumed() {
    let mut talk = Talk::managed();
    talk.stream.retire_at(talk.now + Duration::from_secs(100));
    assert!(talk.push(1));
    talk.later(90);
    talk.flush();
    talk.later(10);
    assert!(!talk.elapse().contains("error"), "an event is in flight");
    talk.send("<a xmlns='urn:xmpp:sm:3' h='2'/>");
    assert_eq!(talk.stream.wake_at(), talk.now + Duration::from_secs(30));
    talk.later(30);
    let out = talk.elapse();
    assert!(out.contains("<reset xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"), "{out}");
    assert_eq!(talk.facts(), ["delivered 1", "hibernate 300"]);
}
