//! Bytes by what they were spent on, for the ledger.

/// A proof of life, for the ledger: what kind of bytes it cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifeSign {
    /// Blank between stanzas, ping or pong, `<r/>` or `<a/>` of an idle probe.
    Keepalive,
    /// An acknowledgement of events.
    Acknowledgement,
    /// Presence.
    Presence,
    /// Stream header, SASL, bind, enable.
    Connect,
    /// Resume.
    Resume,
}

impl LifeSign {
    /// Its place in [`Traffic::received`] and [`Traffic::sent`].
    pub fn index(self) -> usize {
        match self {
            Self::Connect => 0,
            Self::Resume => 1,
            Self::Keepalive => 2,
            Self::Acknowledgement => 3,
            Self::Presence => 4,
        }
    }
}

/// Bytes by kind, for the ledger. Cleartext bytes at the stream; the packet model adds the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Received, by kind: connect, resume, keepalive, ack, presence.
    pub received: [u32; 5],
    /// Sent, by kind: connect, resume, keepalive, ack, presence.
    pub sent: [u32; 5],
    /// Sent: framing of events, that is stanza bytes without the CloudEvents JSON.
    pub framing: u32,
    /// Sent again by XEP-0198 replay.
    pub retry: u32,
}

fn add(place: &mut u32, bytes: usize) {
    *place = place.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
}

impl Traffic {
    /// Counts bytes from the device.
    pub(super) fn receive(&mut self, kind: LifeSign, bytes: usize) {
        if let Some(place) = self.received.get_mut(kind.index()) {
            add(place, bytes);
        }
    }

    /// Counts bytes to the device.
    pub(super) fn send(&mut self, kind: LifeSign, bytes: usize) {
        if let Some(place) = self.sent.get_mut(kind.index()) {
            add(place, bytes);
        }
    }

    /// Counts an event: `stanza` bytes, of which `json` are what the backend posted.
    pub(super) fn event(&mut self, stanza: usize, json: usize) {
        add(&mut self.framing, stanza.saturating_sub(json));
    }

    /// Counts bytes sent again.
    pub(super) fn again(&mut self, bytes: usize) {
        add(&mut self.retry, bytes);
    }

    /// The connection turned out to resume a session: what it cost so far was for that.
    pub(super) fn connect_was_resume(&mut self) {
        for side in [&mut self.received, &mut self.sent] {
            let connect = std::mem::take(&mut side[0]);
            side[1] = side[1].saturating_add(connect);
        }
    }
}
