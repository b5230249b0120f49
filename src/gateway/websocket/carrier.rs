//! How the bytes of one WebSocket connection are carried: in messages, inside TLS that HTTPS began.
//!
//! That TLS is rustls with its own buffers, which it empties here at once. It keeps 4.5 KiB more for a quiet connection than
//! the TLS of the other doors (`Wire::Tls`), whose handshake this code makes itself.

use std::io::{self, Read as _, Write as _};

use rustls::{HandshakeKind, ProtocolVersion, ServerConnection};

use super::{
    super::{
        buffers,
        wire::{Heard, WireError},
    },
    frames::{Frames, Said},
};
use crate::xmpp::{Bindings, messages};

/// Opened bytes that are looked at in one go.
const PIECE: usize = 4096;

/// One WebSocket connection.
pub(in super::super) struct Carrier {
    /// `None`: a proxy before the service has ended TLS, or nobody has any.
    tls: Option<ServerConnection>,
    frames: Frames,
    /// What was read with the end of the handshake.
    early: Vec<u8>,
    peer_closed: bool,
}

impl Carrier {
    /// Goes on after the handshake with what was read behind it. `max`: the largest message.
    pub(in super::super) fn new(mut tls: Option<ServerConnection>, early: Vec<u8>, max: usize) -> Self {
        if let Some(tls) = &mut tls {
            // All that goes in is taken out at once; a bound would cut it short.
            tls.set_buffer_limit(None);
        }
        Self {
            tls,
            frames: Frames::new(max),
            early,
            peer_closed: false,
        }
    }

    /// From now on messages may be that large.
    pub(in super::super) fn allow(&mut self, max: usize) {
        self.frames.allow(max);
    }

    /// TLS is up.
    pub(in super::super) fn secured(&self) -> bool {
        self.tls.is_some()
    }

    /// It showed a ticket of an earlier connection.
    pub(in super::super) fn returning(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// What logins can be bound to. Not to the certificate: HTTPS may have been served another one since.
    pub(in super::super) fn bindings(&self) -> Bindings {
        let exporter = self.tls.as_ref().and_then(|tls| {
            if tls.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
                return None;
            }
            tls.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(&[])).ok()
        });
        Bindings { exporter, end_point: None }
    }

    /// The peer closed, in WebSocket or in TLS: nothing more will come.
    pub(in super::super) fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// As [`Wire::open`](super::super::wire::Wire::open).
    pub(in super::super) fn open(
        &mut self,
        buffer: &mut [u8],
        heard: &mut dyn FnMut(Heard<'_>),
        answer: &mut Vec<u8>,
    ) -> Result<(), WireError> {
        let mut said = buffers::take();
        let mut early = std::mem::take(&mut self.early);
        self.read(&mut early, heard, &mut said);
        let result = if self.tls.is_some() {
            self.decrypt(buffer, heard, &mut said)
        } else {
            self.read(buffer, heard, &mut said);
            Ok(())
        };
        // After an error this sends the alert.
        let sealed = self.encrypt(&said, answer);
        buffers::keep(said);
        result.and(sealed)
    }

    fn decrypt(&mut self, buffer: &[u8], heard: &mut dyn FnMut(Heard<'_>), said: &mut Vec<u8>) -> Result<(), WireError> {
        let mut input = buffer;
        let mut piece = [0; PIECE];
        loop {
            let Some(tls) = &mut self.tls else { return Ok(()) };
            if !input.is_empty() {
                tls.read_tls(&mut input).map_err(|_| WireError::Closed)?;
            }
            tls.process_new_packets()?;
            loop {
                let Some(tls) = &mut self.tls else { return Ok(()) };
                match tls.reader().read(&mut piece) {
                    Ok(0) => {
                        self.peer_closed = true;
                        return Ok(());
                    }
                    Ok(read) => self.read(piece.get_mut(..read).unwrap_or_default(), heard, said),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => return Err(WireError::Closed),
                }
            }
            if input.is_empty() {
                return Ok(());
            }
        }
    }

    fn read(&mut self, bytes: &mut [u8], heard: &mut dyn FnMut(Heard<'_>), said: &mut Vec<u8>) {
        let mut closed = false;
        let result = self.frames.read(
            bytes,
            &mut |what| match what {
                Said::Text(text) => heard(Heard::Clear(text)),
                Said::Sign(bytes) => heard(Heard::Alive(bytes)),
                Said::Closed => closed = true,
            },
            said,
        );
        self.peer_closed |= closed;
        if let Err(fault) = result {
            heard(Heard::Unreadable(fault));
        }
    }

    /// As [`Wire::seal`](super::super::wire::Wire::seal): `clear` is output of a stream, whole elements.
    pub(in super::super) fn seal(&mut self, clear: &[u8], sealed: &mut Vec<u8>) -> Result<(), WireError> {
        let mut framed = buffers::take();
        for message in messages(clear) {
            self.frames.text(&message, &mut framed);
        }
        let result = self.encrypt(&framed, sealed);
        buffers::keep(framed);
        result
    }

    /// Appends the close of WebSocket, and of TLS.
    pub(in super::super) fn goodbye(&mut self, sealed: &mut Vec<u8>) -> Result<(), WireError> {
        let mut close = Vec::new();
        self.frames.close(&mut close);
        self.encrypt(&close, sealed)?;
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        self.encrypt(&[], sealed)
    }

    fn encrypt(&mut self, framed: &[u8], sealed: &mut Vec<u8>) -> Result<(), WireError> {
        let Some(tls) = &mut self.tls else {
            sealed.extend_from_slice(framed);
            return Ok(());
        };
        tls.writer().write_all(framed).map_err(|_| WireError::Closed)?;
        while tls.wants_write() {
            tls.write_tls(sealed).map_err(|_| WireError::Closed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
