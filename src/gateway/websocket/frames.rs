//! Frames of WebSocket (RFC 6455 §5): bytes in, messages out, and back. Pure.
//!
//! Headers are read and written by `tungstenite`; messages are put together here, in the buffer that they were read into, because
//! its own reader keeps a buffer as large as the largest message for each connection. Only what is not whole yet is kept.

use std::io::Cursor;

use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{CloseCode, Control, Data, OpCode},
};

use crate::xmpp::{Message, Unreadable};

/// The largest payload of a control frame (RFC 6455 §5.5).
const CONTROL_MAX_BYTES: u64 = 125;

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// A whole message of text.
    Text(&'a [u8]),
    /// A ping or a pong, of so many bytes with its frame.
    Sign(usize),
    /// The peer closes: nothing more will come.
    Closed,
}

/// One side of a connection: ours, the server's.
pub(super) struct Frames {
    /// The largest message.
    max: usize,
    /// The beginning of a frame that has not come in full. Empty, without memory, nearly always.
    partial: Vec<u8>,
    /// The fragments of a message so far. `None`: none is under way.
    message: Option<Vec<u8>>,
    /// What the peer did wrong. Nothing is read after it.
    fault: Option<Unreadable>,
    peer_closed: Option<CloseCode>,
    closed: bool,
}

impl Frames {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            partial: Vec::new(),
            message: None,
            fault: None,
            peer_closed: None,
            closed: false,
        }
    }

    /// From now on messages may be that large.
    pub(super) fn allow(&mut self, max: usize) {
        self.max = max;
    }

    /// Takes bytes that the peer sent, any cut of them, and appends to `answer` what WebSocket itself has to send. After an error
    /// nothing is read any more; `close` says why.
    ///
    /// # Errors
    /// What the peer did that is no message of text.
    pub(super) fn read(&mut self, bytes: &mut [u8], said: &mut dyn FnMut(Said<'_>), answer: &mut Vec<u8>) -> Result<(), Unreadable> {
        if self.fault.is_some() || self.peer_closed.is_some() {
            return Ok(());
        }
        let result = if self.partial.is_empty() {
            let read = self.frames(bytes, said, answer);
            read.map(|read| bytes.get(read..).unwrap_or_default().to_vec())
        } else {
            let mut all = std::mem::take(&mut self.partial);
            all.extend_from_slice(bytes);
            self.frames(&mut all, said, answer).map(|read| {
                all.drain(..read);
                all
            })
        };
        match result {
            Ok(rest) if self.peer_closed.is_none() => self.partial = rest,
            Ok(_) => {}
            Err(fault) => {
                self.message = None;
                self.fault = Some(fault);
                return Err(fault);
            }
        }
        Ok(())
    }

    /// Reads the whole frames at the front. Answers how many bytes they are.
    fn frames(&mut self, bytes: &mut [u8], said: &mut dyn FnMut(Said<'_>), answer: &mut Vec<u8>) -> Result<usize, Unreadable> {
        let mut read = 0;
        while self.peer_closed.is_none() {
            let rest = bytes.get_mut(read..).unwrap_or_default();
            let mut cursor = Cursor::new(&*rest);
            let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(|_| Unreadable::BadFrame)? else {
                break;
            };
            let start = usize::try_from(cursor.position()).map_err(|_| Unreadable::BadFrame)?;
            let mask = self.check(&header, length)?;
            // `check` has bounded it.
            let end = start + usize::try_from(length).map_err(|_| Unreadable::TooBig)?;
            let Some(payload) = rest.get_mut(start..end) else { break };
            for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
                *byte ^= mask;
            }
            self.take(&header, payload, end, said, answer)?;
            read += end;
        }
        Ok(read)
    }

    /// Whether a frame may be what its header says, before any of it is kept. Answers its mask.
    fn check(&self, header: &FrameHeader, length: u64) -> Result<[u8; 4], Unreadable> {
        let extended = header.rsv1 || header.rsv2 || header.rsv3;
        // A client masks every frame (RFC 6455 §5.1).
        let mask = header.mask.filter(|_| !extended).ok_or(Unreadable::BadFrame)?;
        let before = self.message.as_ref().map_or(0, Vec::len);
        match (header.opcode, &self.message) {
            (OpCode::Control(_), _) if !header.is_final || length > CONTROL_MAX_BYTES => Err(Unreadable::BadFrame),
            (OpCode::Control(_), _) => Ok(mask),
            (OpCode::Data(Data::Binary), None) => Err(Unreadable::Binary),
            (OpCode::Data(Data::Text), None) | (OpCode::Data(Data::Continue), Some(_)) => {
                let room = self.max.saturating_sub(before) as u64;
                if length > room { Err(Unreadable::TooBig) } else { Ok(mask) }
            }
            (OpCode::Data(_), _) => Err(Unreadable::BadFrame),
        }
    }

    /// One whole frame of so many bytes.
    fn take(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        bytes: usize,
        said: &mut dyn FnMut(Said<'_>),
        answer: &mut Vec<u8>,
    ) -> Result<(), Unreadable> {
        match header.opcode {
            OpCode::Control(Control::Ping) => {
                if !self.closed {
                    write(OpCode::Control(Control::Pong), &[payload], answer);
                }
                said(Said::Sign(bytes));
            }
            OpCode::Control(Control::Close) => {
                self.peer_closed = Some(code(payload));
                said(Said::Closed);
            }
            OpCode::Control(_) => said(Said::Sign(bytes)),
            OpCode::Data(_) => {
                let whole = match (&mut self.message, header.is_final) {
                    (None, true) => payload,
                    (None, false) => {
                        self.message = Some(payload.to_vec());
                        return Ok(());
                    }
                    (Some(message), last) => {
                        message.extend_from_slice(payload);
                        if !last {
                            return Ok(());
                        }
                        message
                    }
                };
                std::str::from_utf8(whole).map_err(|_| Unreadable::NotUtf8)?;
                said(Said::Text(whole));
                self.message = None;
            }
        }
        Ok(())
    }

    /// Appends a message of text.
    pub(super) fn text(&self, message: &Message<'_>, out: &mut Vec<u8>) {
        if !self.closed {
            write(OpCode::Data(Data::Text), &message.0, out);
        }
    }

    /// Appends our close, once; nothing goes out after it (RFC 6455 §5.5.1).
    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let code = match (self.fault, self.peer_closed) {
            (Some(Unreadable::TooBig), _) => CloseCode::Size,
            (Some(Unreadable::Binary), _) => CloseCode::Unsupported,
            (Some(Unreadable::NotUtf8), _) => CloseCode::Invalid,
            (Some(Unreadable::BadFrame), _) => CloseCode::Protocol,
            (None, Some(theirs)) => theirs,
            (None, None) => CloseCode::Normal,
        };
        write(OpCode::Control(Control::Close), &[&u16::from(code).to_be_bytes()], out);
    }

    /// Bytes of memory behind this.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.partial.capacity() + self.message.as_ref().map_or(0, Vec::capacity)
    }
}

/// What to answer to a close: its code, if it is one that may be sent (RFC 6455 §7.4.1).
fn code(payload: &[u8]) -> CloseCode {
    match payload.split_first_chunk() {
        None if payload.is_empty() => CloseCode::Normal,
        Some((code, reason)) if std::str::from_utf8(reason).is_ok() => {
            let code = CloseCode::from(u16::from_be_bytes(*code));
            if code.is_allowed() { code } else { CloseCode::Protocol }
        }
        _ => CloseCode::Protocol,
    }
}

/// Appends one frame, not masked, as a server's are.
fn write(opcode: OpCode, pieces: &[&[u8]], out: &mut Vec<u8>) {
    let header = FrameHeader {
        opcode,
        ..FrameHeader::default()
    };
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    // Writing to a Vec cannot fail.
    let _ = header.format(length as u64, out);
    for piece in pieces {
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests;
