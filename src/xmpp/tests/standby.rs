//! XEP-0352: what waits while the device is inactive.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::store::Cursor;

const ACTIVE: &str = "<active xmlns='urn:xmpp:csi:0'/>";
const INACTIVE: &str = "<inactive xmlns='urn:xmpp:csi:0'/>";

/// An event of that urgency in the queue where the store puts it.
fn event_for(urgency: Urgency, number: u64) -> Arc<QueuedEvent> {
    event_of(number, |event| {
        event.event.urgency = urgency;
        event.lane = Lane::Queue(urgency, Generation(0x3f));
        event.located.queue = Some(if urgency == Urgency::High { Queue::First } else { Queue::Rest });
    })
}

#[test]
fn low_urgency_waits_while_the_device_is_inactive_and_comes_once_it_is_active() {
    let mut talk = Talk::managed();
    assert_eq!(talk.send(INACTIVE), "");
    let low = [event_for(Urgency::Low, 1), event_for(Urgency::VeryLow, 3)];
    assert!(!talk.push_event(&low[0], false));
    assert!(talk.push(2));
    assert!(!talk.push_event(&low[1], false));
    assert!(talk.push_event(&event_for(Urgency::High, 1), false));
    assert_eq!(talk.flush().matches("<message ").count(), 2, "what is urgent goes on");
    talk.send("<a xmlns='urn:xmpp:sm:3' h='3'/>");
    assert_eq!(talk.facts(), ["delivered 2, delivered 1"]);
    assert_eq!(talk.stream.session().unwrap().cursor().rest, 3);
    talk.send(ACTIVE);
    assert_eq!(talk.facts(), ["ready"]);
    assert_eq!(
        talk.stream.session_mut().unwrap().read_on().rest,
        0,
        "read again from before the first that waits"
    );
    assert!(talk.push_event(&low[0], true) && talk.push(2) && talk.push_event(&low[1], true));
    assert_eq!(numbers(&talk.flush()), [1, 3], "what was acknowledged is not written again");
    assert!(!talk.stream.session().unwrap().owes());
    assert_eq!(talk.send(ACTIVE), "");
    assert_eq!(talk.facts(), [""; 0]);
}

#[test]
fn indications_are_no_stanzas_and_a_resumed_stream_is_active() {
    let mut talk = Talk::managed();
    talk.send(&[INACTIVE, INACTIVE].concat());
    assert_eq!(talk.send("<r xmlns='urn:xmpp:sm:3'/>"), "<a xmlns='urn:xmpp:sm:3' h='1'/>");
    assert!(!talk.push_event(&event_for(Urgency::Low, 1), false));
    talk.stream.disconnected(talk.now);
    let session = talk.stream.take_session();
    let mut again = Talk::new();
    again.parked = session;
    again.log_in();
    let out = again.send("<resume xmlns='urn:xmpp:sm:3' previd='00000000000000000000000000000001' h='1'/>");
    assert!(out.contains("<resumed "), "{out}");
    assert_eq!(again.facts(), ["ready"]);
    assert_eq!(again.stream.session_mut().unwrap().read_on().rest, 0);
    assert!(again.push_event(&event_for(Urgency::Low, 1), true));
}

#[test]
fn what_expired_while_it_waited_is_not_written() {
    let mut talk = Talk::managed();
    talk.send(INACTIVE);
    assert!(!talk.push_event(&event_for(Urgency::Low, 1), false));
    talk.later(3600);
    talk.send(ACTIVE);
    talk.stream.session_mut().unwrap().read_on();
    assert!(talk.push_event(&event_for(Urgency::Low, 1), true));
    assert_eq!(talk.flush(), "");
    assert_eq!(talk.facts(), ["ready", "expired 1"]);
    assert!(!talk.stream.session().unwrap().owes());
}

#[test]
fn a_refill_that_began_before_the_device_woke_up_gives_nothing_out_of_order() {
    let mut talk = Talk::managed();
    talk.send(INACTIVE);
    assert!(!talk.push_event(&event_for(Urgency::Low, 1), false));
    assert_eq!(talk.stream.session_mut().unwrap().read_on().rest, 1);
    talk.send(ACTIVE);
    assert!(!talk.push_event(&event_for(Urgency::Low, 2), true), "1 goes before");
    talk.stream.session_mut().unwrap().caught_up();
    assert_eq!(talk.stream.session_mut().unwrap().read_on().rest, 0);
    assert!(talk.push_event(&event_for(Urgency::Low, 1), true) && talk.push_event(&event_for(Urgency::Low, 2), true));
    assert_eq!(numbers(&talk.flush()), [1, 2]);
}

#[test]
fn an_event_that_is_now_or_never_does_not_wait() {
    let mut talk = Talk::managed();
    talk.send(INACTIVE);
    let now_or_never = event_of(1, |event| {
        event.event.urgency = Urgency::Low;
        event.event.ttl = Duration::ZERO;
        event.located.queue = None;
    });
    assert!(talk.push_event(&now_or_never, false));
}

#[derive(Debug, Clone, Copy)]
enum Turn {
    Arrive(Urgency),
    Inactive,
    Active,
    Acknowledge,
    /// A refill reads where to go on, and is cut off after so many events.
    Refill(usize),
    /// A refill goes on with what it read before something else happened.
    Stale,
    Resume,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => prop::sample::select(&Urgency::ALL[..]).prop_map(Turn::Arrive),
        1 => Just(Turn::Inactive),
        1 => Just(Turn::Active),
        2 => Just(Turn::Acknowledge),
        2 => (1usize..40).prop_map(Turn::Refill),
        1 => Just(Turn::Stale),
        1 => Just(Turn::Resume),
    ]
}

/// A store and a dispatcher in small.
struct Around {
    talk: Talk,
    stored: Vec<Arc<QueuedEvent>>,
    ended: BTreeSet<(Option<Queue>, u64)>,
    /// Read, and not offered yet.
    page: Vec<Arc<QueuedEvent>>,
    written: Vec<(Urgency, u64)>,
    /// Stanzas that the device counted.
    counted: u32,
    inactive: bool,
}

fn place(event: &QueuedEvent) -> (Option<Queue>, u64) {
    (event.located.queue, event.located.number)
}

impl Around {
    fn new() -> Self {
        Self {
            talk: Talk::managed(),
            stored: Vec::new(),
            ended: BTreeSet::new(),
            page: Vec::new(),
            written: Vec::new(),
            counted: 1,
            inactive: false,
        }
    }

    fn read(&mut self) {
        let cursor: Cursor = self.talk.stream.session_mut().unwrap().read_on();
        let behind = |event: &&Arc<QueuedEvent>| {
            !cursor.covers(event.located.queue.unwrap(), event.located.number) && !self.ended.contains(&place(event))
        };
        let mut page: Vec<_> = self.stored.iter().filter(behind).cloned().collect();
        page.sort_by_key(|event| (event.event.urgency != Urgency::High, event.located.number));
        self.page = page;
    }

    fn give(&mut self, most: usize) {
        for event in std::mem::take(&mut self.page).into_iter().take(most) {
            let known = self.talk.stream.session().unwrap().covers(&event);
            match self.talk.stream.push(&event, true, self.talk.now, self.talk.time) {
                Pushed::Full => break,
                Pushed::Taken if !known => {
                    let low = matches!(event.event.urgency, Urgency::Low | Urgency::VeryLow);
                    assert!(
                        !(low && self.inactive),
                        "{:?} was written to an inactive device",
                        event.event.urgency
                    );
                    self.written.push((event.event.urgency, event.located.number));
                    self.counted += 1;
                }
                Pushed::Taken | Pushed::Held => {}
            }
        }
        self.talk.flush();
        self.settle();
    }

    fn settle(&mut self) {
        for fact in std::mem::take(&mut self.talk.seen) {
            if let Action::Ended(ends) = fact {
                self.ended
                    .extend(ends.iter().map(|(_, located, _)| (located.queue, located.number)));
            }
        }
    }

    fn acknowledge(&mut self) {
        let handled = self.counted;
        self.talk.send(&format!("<a xmlns='urn:xmpp:sm:3' h='{handled}'/>"));
        self.settle();
    }

    fn resume(&mut self) {
        self.talk.stream.disconnected(self.talk.now);
        let session = self.talk.stream.take_session();
        let mut again = Talk::new();
        again.parked = session;
        again.log_in();
        let handled = self.counted;
        let out = again.send(&format!(
            "<resume xmlns='urn:xmpp:sm:3' previd='00000000000000000000000000000001' h='{handled}'/>"
        ));
        assert!(out.contains("<resumed "), "{out}");
        self.talk = again;
        self.settle();
        self.inactive = false;
    }
}

proptest! {
    /// Whatever a device says and when: each event is written once, in its lane's order, none of low urgency while it is
    /// inactive, and all are written once it is active.
    #[test]
    fn nothing_is_lost_repeated_or_out_of_order(turns in prop::collection::vec(turn(), 0..120)) {
        let mut around = Around::new();
        let (mut first, mut rest) = (0, 0);
        for turn in turns {
            match turn {
                Turn::Arrive(urgency) => {
                    let number = if urgency == Urgency::High { &mut first } else { &mut rest };
                    *number += 1;
                    around.stored.push(event_for(urgency, *number));
                }
                Turn::Inactive | Turn::Active => {
                    around.inactive = matches!(turn, Turn::Inactive);
                    around.talk.send(if around.inactive { INACTIVE } else { ACTIVE });
                    around.settle();
                }
                Turn::Acknowledge => around.acknowledge(),
                Turn::Refill(most) => {
                    around.read();
                    let later = around.page.get(most..).unwrap_or_default().to_vec();
                    around.give(most);
                    around.page = later;
                }
                Turn::Stale => around.give(2),
                Turn::Resume => around.resume(),
            }
        }
        around.talk.send(ACTIVE);
        around.inactive = false;
        for _ in 0..=around.stored.len() {
            around.read();
            around.give(usize::MAX);
            around.acknowledge();
        }
        let mut expected: Vec<_> = around.stored.iter().map(|event| (event.event.urgency, event.located.number)).collect();
        for urgency in Urgency::ALL {
            let lane: Vec<_> = around.written.iter().filter(|(of, _)| *of == urgency).map(|(_, number)| *number).collect();
            prop_assert!(lane.is_sorted_by(|one, next| one < next), "{urgency}: {lane:?}");
        }
        let mut written = around.written.clone();
        written.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(written, expected);
    }
}
