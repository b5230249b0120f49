//! What a session counts (XEP-0198 §4): stanzas that came and were dealt with, and stanzas that went and may be lost.

use std::collections::VecDeque;

use xmpp_parsers::minidom::Element;

/// Stanzas kept until the server has them; past it the oldest are forgotten, and the server asks again for what they said.
const SENT_MAX: usize = 1_000;

/// Stanzas from the server. What is not dealt with is not acknowledged, and neither is what came after it.
#[derive(Debug, Default)]
pub struct Received {
    /// How many were dealt with without a hole: `h`.
    done: u32,
    /// Those after it, by whether they were dealt with.
    after: VecDeque<bool>,
}

impl Received {
    /// Another came. Returns its number, to be given to [`Received::deal`].
    pub fn arrive(&mut self) -> u32 {
        self.after.push_back(false);
        self.count()
    }

    /// How many came.
    pub fn count(&self) -> u32 {
        // The window of the server holds them within 32 bits.
        self.done.wrapping_add(self.after.len() as u32)
    }

    /// How many came and are not acknowledged.
    pub fn open(&self) -> usize {
        self.after.len()
    }

    /// This one was dealt with.
    pub fn deal(&mut self, number: u32) {
        let at = number.wrapping_sub(self.done).wrapping_sub(1) as usize;
        if let Some(dealt) = self.after.get_mut(at) {
            *dealt = true;
        }
        while self.after.front() == Some(&true) {
            self.after.pop_front();
            self.done = self.done.wrapping_add(1);
        }
    }

    /// The number to acknowledge.
    pub fn h(&self) -> u32 {
        self.done
    }

    /// The session goes on over another connection: the server repeats what was not acknowledged.
    pub fn resume(&mut self) {
        self.after.clear();
    }
}

/// Stanzas to the server that it has not acknowledged.
#[derive(Debug, Default)]
pub struct Sent {
    acknowledged: u32,
    waiting: VecDeque<Element>,
}

impl Sent {
    /// One more was written.
    pub fn add(&mut self, stanza: Element) {
        self.waiting.push_back(stanza);
        if self.waiting.len() > SENT_MAX {
            self.waiting.pop_front();
            self.acknowledged = self.acknowledged.wrapping_add(1);
        }
    }

    /// The server has everything up to `h`. False: it says so of more than was sent.
    pub fn acknowledge(&mut self, h: u32) -> bool {
        let some = h.wrapping_sub(self.acknowledged) as usize;
        if some > self.waiting.len() {
            // A late word of less than is known already.
            return self.acknowledged.wrapping_sub(h) as usize <= SENT_MAX;
        }
        self.waiting.drain(..some);
        self.acknowledged = h;
        true
    }

    /// Takes out all that may be lost, to send it again.
    pub fn take(&mut self) -> Vec<Element> {
        self.waiting.drain(..).collect()
    }

    /// Whether anything may be lost.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_dealt_with_is_acknowledged_and_in_order() {
        let mut received = Received::default();
        let numbers: Vec<u32> = (0..4).map(|_| received.arrive()).collect();
        assert_eq!((numbers, received.h()), (vec![1, 2, 3, 4], 0));
        received.deal(2);
        received.deal(4);
        assert_eq!(received.h(), 0);
        received.deal(1);
        assert_eq!(received.h(), 2);
        received.deal(1); // a second time changes nothing
        received.deal(9); // nor does one that never came
        assert_eq!(received.h(), 2);
        received.resume();
        assert_eq!((received.arrive(), received.h()), (3, 2));
    }

    #[test]
    fn counting_goes_on_past_the_end_of_the_numbers() {
        let mut received = Received {
            done: u32::MAX - 1,
            ..Received::default()
        };
        let numbers: Vec<u32> = (0..3).map(|_| received.arrive()).collect();
        assert_eq!(numbers, [u32::MAX, 0, 1]);
        numbers.into_iter().for_each(|number| received.deal(number));
        assert_eq!((received.h(), received.count()), (1, 1));
    }

    #[test]
    fn what_the_server_has_is_forgotten_and_nothing_else() {
        let stanza = |id: u32| format!("<iq xmlns='jabber:client' id='{id}'/>").parse::<Element>().unwrap();
        let mut sent = Sent {
            acknowledged: u32::MAX,
            ..Sent::default()
        };
        (0..3).for_each(|id| sent.add(stanza(id)));
        assert!(sent.acknowledge(1));
        assert!(!sent.acknowledge(3), "more than was sent");
        assert!(sent.acknowledge(0), "a late word");
        assert!(sent.is_waiting());
        assert_eq!(sent.take(), [stanza(2)]);
        assert!(!sent.is_waiting());
    }

    #[test]
    fn a_server_that_never_acknowledges_does_not_fill_the_memory() {
        let mut sent = Sent::default();
        let stanza: Element = "<iq xmlns='jabber:client'/>".parse().unwrap();
        (0..SENT_MAX + 5).for_each(|_| sent.add(stanza.clone()));
        assert_eq!(sent.waiting.len(), SENT_MAX);
        assert!(sent.acknowledge((SENT_MAX + 5) as u32));
        assert!(!sent.is_waiting());
    }
}
