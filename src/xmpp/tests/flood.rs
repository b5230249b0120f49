//! What one session may send.

use super::*;

const PING: &str = "<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>";

/// Sends pings until the stream asks to be read more slowly; answers how many.
fn flood(talk: &mut Talk) -> usize {
    for sent in 1..=10_000 {
        talk.send("<presence/>");
        let counted = format!("<a xmlns='urn:xmpp:sm:3' h='{}'/>", sent + 1);
        assert!(!talk.send(&counted).contains("error"), "{sent}");
        if talk.stream.slowed_until().is_some() {
            return sent;
        }
    }
    panic!("nobody minds");
}

#[test]
fn who_sends_too_much_is_read_more_slowly_and_cut_off_when_it_goes_on() {
    let mut talk = Talk::managed();
    talk.facts();
    let sent = flood(&mut talk);
    assert!((950..=1_001).contains(&sent), "two elements each, 2,000 at once: {sent}");
    assert!(talk.stream.flooding());
    let began = talk.now;
    let mut handled = sent as u32 + 1;
    // It fills every gap at once.
    let last = loop {
        let until = talk.stream.slowed_until().unwrap();
        assert!(until > talk.now && until <= talk.now + Duration::from_secs(2));
        assert!(talk.stream.wake_at() <= until);
        let passed = until - talk.now;
        talk.now = until;
        talk.time = talk.time.plus(passed);
        talk.elapse();
        assert_eq!(talk.stream.slowed_until(), None);
        handled += 1;
        let out = talk.send(&format!("<presence/><a xmlns='urn:xmpp:sm:3' h='{handled}'/>"));
        if out.contains("stream:error") {
            break out;
        }
    };
    assert!(
        last.contains("<policy-violation ") && last.contains("too much was sent for too long"),
        "{last}"
    );
    assert!(talk.now - began >= Duration::from_secs(60) && talk.now - began < Duration::from_secs(63));
    assert_eq!(talk.facts().last().unwrap(), "over");
}

#[test]
fn who_pauses_is_forgiven() {
    let mut talk = Talk::managed();
    flood(&mut talk);
    talk.later(30);
    talk.elapse();
    talk.send(" ");
    assert!(!talk.stream.flooding() && talk.stream.slowed_until().is_none());
}

#[test]
fn bytes_count_too() {
    let mut talk = Talk::managed();
    let body = format!("<message to='example.com'><body>{}</body></message>", "x".repeat(200_000));
    for slowed in [false, false, false, false, false, true] {
        talk.send(&body);
        assert_eq!(talk.stream.slowed_until().is_some(), slowed);
    }
    let wait = talk.stream.slowed_until().unwrap() - talk.now;
    assert!(wait > Duration::from_secs(1) && wait < Duration::from_secs(2), "{wait:?}");
}

#[test]
fn what_a_device_says_of_its_events_is_no_flood() {
    let mut talk = Talk::managed();
    for number in 1..=5_000u64 {
        assert!(talk.push_event(&event_with_receipt(number), true));
        talk.flush();
        let handled = number + 1;
        talk.send(&format!("<a xmlns='urn:xmpp:sm:3' h='{handled}'/>"));
        let receipt = format!(
            "<message to='example.com'><received xmlns='urn:xmpp:receipts' id='{}'/></message>{}",
            id(number),
            " ".repeat(500)
        );
        talk.send(&receipt);
        assert_eq!(talk.stream.slowed_until(), None, "{number}");
    }
    assert!(!talk.stream.flooding());
}

#[test]
fn nothing_is_limited_by_a_rate_of_zero() {
    let mut unlimited = config();
    unlimited.flood.stanzas_per_second = 0;
    unlimited.flood.bytes_per_second = 0;
    let mut talk = Talk::bound_with(unlimited);
    for _ in 0..2_000 {
        talk.send(PING);
    }
    assert!(!talk.stream.flooding());
}
