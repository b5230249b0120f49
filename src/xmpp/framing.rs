//! How a stream is carried: as one document over TCP (RFC 6120 §4), or as a message for each element over WebSocket (RFC 7395).
//!
//! The machine writes the same bytes either way, but for the stream's own beginning and end. [`messages`] cuts them into
//! messages and gives each the namespaces that over TCP the stream's header declares for all (RFC 7395 §3.3.3). So what is
//! kept for a replay fits both, and a session goes on over either.

use std::{iter, time::Instant};

use super::{
    error::Condition,
    framer::{Fault, Frame, Framer},
    ns,
    stream::{ServerStream, Stage},
    text::attribute,
    traffic::LifeSign,
};

/// How a stream is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// One XML document for each direction: any cut of its bytes will do.
    Stream,
    /// One message for each element, whole and alone.
    WebSocket,
}

/// Why a WebSocket message cannot be read as XML at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// It is larger than a stanza may be.
    TooBig,
    /// It is no text (RFC 7395 §3.2).
    Binary,
    /// It is no UTF-8.
    NotUtf8,
    /// Its frames are against RFC 6455.
    BadFrame,
}

impl Framing {
    /// What reads a new stream.
    pub(super) fn framer(self) -> Framer {
        match self {
            Self::Stream => Framer::default(),
            Self::WebSocket => Framer::of_messages(),
        }
    }

    /// Appends our side's beginning.
    pub(super) fn write_open(self, out: &mut Vec<u8>, id: &str, from: Option<&str>) {
        out.extend_from_slice(match self {
            Self::Stream => {
                b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'".as_slice()
            }
            Self::WebSocket => b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'",
        });
        if let Some(from) = from {
            attribute(out, "from", from);
        }
        attribute(out, "id", id);
        out.extend_from_slice(match self {
            Self::Stream => b" version='1.0' xml:lang='en'>".as_slice(),
            Self::WebSocket => b" version='1.0' xml:lang='en'/>",
        });
    }

    /// Appends our side's end.
    pub(super) fn write_close(self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            Self::Stream => b"</stream:stream>".as_slice(),
            Self::WebSocket => b"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>",
        });
    }

    /// What the peer's side begins with.
    pub(super) fn opening(self) -> (&'static str, &'static str) {
        match self {
            Self::Stream => ("stream", ns::STREAM),
            Self::WebSocket => ("open", ns::FRAMING),
        }
    }
}

/// One message of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a>(pub [&'a [u8]; 3]);

impl Message<'_> {
    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|piece| piece.len()).sum()
    }
}

/// Cuts the output of a stream that is framed for WebSocket into its messages.
pub fn messages(mut output: &[u8]) -> impl Iterator<Item = Message<'_>> {
    iter::from_fn(move || {
        if output.is_empty() {
            return None;
        }
        let (element, rest) = output.split_at_checked(length(output)).unwrap_or((output, &[]));
        output = rest;
        let name = element.iter().position(|byte| matches!(byte, b' ' | b'/' | b'>')).unwrap_or(0);
        let (start, behind) = element.split_at_checked(name).unwrap_or_default();
        Some(Message([start, namespace(start, behind), behind]))
    })
}

/// Bytes of the first element. All that the machine writes has `<` and `>` around tags only.
pub(super) fn length(output: &[u8]) -> usize {
    let find = |byte: u8, from: usize| {
        let rest = output.get(from..)?;
        Some(from + rest.iter().position(|found| *found == byte)?)
    };
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(start) = find(b'<', at)
        && let Some(end) = find(b'>', start)
    {
        let byte = |at: usize| output.get(at).copied();
        match (byte(start + 1), byte(end - 1)) {
            (Some(b'/'), _) => depth = depth.saturating_sub(1),
            (_, Some(b'/')) => {}
            _ => depth += 1,
        }
        at = end + 1;
        if depth == 0 {
            return at;
        }
    }
    output.len()
}

/// What the start tag must declare beyond what it does, when its name is `start` and `behind` follows.
fn namespace(start: &[u8], behind: &[u8]) -> &'static [u8] {
    const DECLARED: &[u8] = b" xmlns='";
    if start.starts_with(b"<stream:") {
        return b" xmlns:stream='http://etherx.jabber.org/streams'";
    }
    let tag = behind.split(|byte| *byte == b'>').next().unwrap_or_default();
    if tag.windows(DECLARED.len()).any(|piece| piece == DECLARED) {
        b""
    } else {
        b" xmlns='jabber:client'"
    }
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'))
}

impl ServerStream {
    /// The peer gave a sign of life below the stream, of so many bytes: a ping or pong of WebSocket. It is no stanza.
    pub fn alive(&mut self, bytes: usize, now: Instant) {
        if self.stage == Stage::Closed {
            return;
        }
        self.live.heard(now);
        self.traffic.receive(LifeSign::Keepalive, bytes);
        self.flood.element();
        self.count_flood(bytes, now);
    }

    /// The peer sent what is no message of text. Ends the stream.
    pub fn unreadable(&mut self, what: Unreadable) {
        self.fail_with(&match what {
            Unreadable::TooBig => Condition::StanzaTooBig,
            Unreadable::NotUtf8 => Condition::NotWellFormed,
            Unreadable::Binary | Unreadable::BadFrame => Condition::BadFormat,
        });
    }

    /// One message of a stream that is framed for WebSocket: one element, whole and alone.
    pub(super) fn read_message(&mut self, message: &[u8], now: Instant) {
        match self.stage {
            Stage::Closed | Stage::Tls | Stage::Taken => return,
            Stage::Waiting => return self.keep(message),
            Stage::Header | Stage::Open | Stage::Bound | Stage::Leaving => {}
        }
        if is_blank(message) {
            // No element, but nothing to end a session for: a sign of life, as a blank is over TCP.
            self.flood.element();
            return self.traffic.receive(LifeSign::Keepalive, message.len());
        }
        let mut rest = message;
        let alone = message.iter().filter(|byte| **byte == b'<').count() == 1 && message.ends_with(b"/>");
        if alone && self.acknowledged_shortly(&mut rest, now) {
            return self.flood.element();
        }
        let bounds = self.config.bounds(self.logged_in());
        let element = match self.framer.next(&mut rest, &bounds) {
            Ok(Some(Frame::Stanza(element))) if is_blank(rest) => element,
            // Not whole, not alone, or the end of something that never began.
            Ok(_) => return self.fail_with(&Condition::NotWellFormed),
            Err(Fault::BadFormat) => return self.fail_with(&Condition::NotWellFormed),
            Err(fault) => return self.fail_with(&fault.into()),
        };
        let tag = element.top();
        if tag.is("close", ns::FRAMING) {
            return self.finished();
        }
        if self.stage == Stage::Header {
            self.traffic.receive(LifeSign::Connect, message.len());
            return self.header(tag, None);
        }
        self.flood.element();
        let kind = self.stanza(tag, now);
        self.traffic.receive(kind, message.len());
    }
}

/// Input that waits: for WebSocket each message with its length in front, so that they stay apart.
pub(super) fn keep(framing: Framing, kept: &mut Vec<u8>, bytes: &[u8]) {
    if framing == Framing::WebSocket {
        kept.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    }
    kept.extend_from_slice(bytes);
}

/// What was kept, piece by piece.
pub(super) fn pieces(framing: Framing, kept: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = kept;
    iter::from_fn(move || {
        let length = match framing {
            _ if rest.is_empty() => return None,
            Framing::Stream => rest.len(),
            Framing::WebSocket => {
                let (length, behind) = rest.split_first_chunk()?;
                rest = behind;
                u32::from_le_bytes(*length) as usize
            }
        };
        let (piece, behind) = rest.split_at_checked(length)?;
        rest = behind;
        Some(piece)
    })
}
