//! Cuts the bytes of an XMPP stream into its header, its stanzas and its end, without building anything.
//!
//! Only quotes, tags and depth are followed; [`crate::xml`] then reads one stanza properly. So an idle stream keeps no parser.

use bytes::{Bytes, BytesMut};

use crate::Error;

/// Longest header, stanza or blank run a stream may hold. Servers are asked for far less.
pub const FRAME_MAX: usize = 1024 * 1024;

/// One piece of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The opening `<stream:stream …>`, with the XML declaration if there was one.
    Header(Bytes),
    /// One complete child of the stream.
    Stanza(Bytes),
    /// `</stream:stream>`.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    Text,
    Opened,
    Tag { closing: bool, slash: bool },
    Quote(u8),
    Declaration,
}

/// Follows one stream; give it bytes, take frames.
#[derive(Debug)]
pub struct Framer {
    held: BytesMut,
    scanned: usize,
    depth: u32,
    inside: Inside,
    header_seen: bool,
}

impl Default for Framer {
    fn default() -> Self {
        Self {
            held: BytesMut::new(),
            scanned: 0,
            depth: 0,
            inside: Inside::Text,
            header_seen: false,
        }
    }
}

impl Framer {
    /// Adds what was read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Whether bytes wait that make no frame yet.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Forgets everything and waits for a new stream header (RFC 6120 §4.3.3). Bytes already held are kept: a server may not send
    /// any before the restart, so the caller checks [`Framer::is_empty`] where that matters.
    pub fn restart(&mut self) {
        (self.scanned, self.depth, self.inside, self.header_seen) = (0, 0, Inside::Text, false);
    }

    /// The next frame, when it is complete.
    ///
    /// # Errors
    /// A comment, a processing instruction or a DTD (RFC 6120 §11.1), text between stanzas, or a frame beyond [`FRAME_MAX`].
    pub fn take(&mut self) -> Result<Option<Frame>, Error> {
        while let Some(&byte) = self.held.get(self.scanned) {
            self.scanned += 1;
            match self.inside {
                Inside::Text if byte == b'<' => self.inside = Inside::Opened,
                Inside::Text if self.depth == 0 => {
                    if !byte.is_ascii_whitespace() {
                        return Err(Error::Xml(format!("byte {byte:#04x} between stanzas")));
                    }
                    if self.scanned == 1 && self.header_seen {
                        self.skip_blanks();
                    }
                }
                Inside::Text => self.skip_text(),
                Inside::Opened => {
                    self.inside = match byte {
                        b'/' => Inside::Tag {
                            closing: true,
                            slash: false,
                        },
                        b'?' if !self.header_seen && self.depth == 0 => Inside::Declaration,
                        b'!' | b'?' => return Err(Error::Xml("restricted: comment, instruction or DTD".into())),
                        _ => Inside::Tag {
                            closing: false,
                            slash: false,
                        },
                    }
                }
                Inside::Declaration => {
                    if byte == b'>' {
                        self.inside = Inside::Text;
                    }
                }
                Inside::Quote(quote) => {
                    if byte == quote {
                        self.inside = Inside::Tag {
                            closing: false,
                            slash: false,
                        };
                    }
                }
                Inside::Tag { closing, slash } => match byte {
                    b'\'' | b'"' if !closing => self.inside = Inside::Quote(byte),
                    b'>' => {
                        self.inside = Inside::Text;
                        if let Some(frame) = self.tag_ended(closing, slash)? {
                            return Ok(Some(frame));
                        }
                    }
                    _ => {
                        self.inside = Inside::Tag {
                            closing,
                            slash: byte == b'/',
                        }
                    }
                },
            }
        }
        if self.held.is_empty() {
            self.held = BytesMut::new();
        } else if self.held.len() > FRAME_MAX {
            return Err(Error::Xml(format!("a frame of more than {FRAME_MAX} bytes")));
        }
        Ok(None)
    }

    fn tag_ended(&mut self, closing: bool, slash: bool) -> Result<Option<Frame>, Error> {
        if !self.header_seen {
            if closing || slash {
                return Err(Error::Xml("a stream that ends before it begins".into()));
            }
            self.header_seen = true;
            return Ok(Some(Frame::Header(self.cut())));
        }
        match (closing, slash) {
            (true, _) if self.depth == 0 => {
                self.cut();
                return Ok(Some(Frame::End));
            }
            (true, _) => self.depth -= 1,
            (false, false) => self.depth = self.depth.saturating_add(1),
            (false, true) => {}
        }
        Ok((self.depth == 0).then(|| Frame::Stanza(self.cut())))
    }

    fn cut(&mut self) -> Bytes {
        let frame = self.held.split_to(self.scanned).freeze();
        self.scanned = 0;
        frame
    }

    fn skip_blanks(&mut self) {
        let _ = self.held.split_to(1);
        self.scanned = 0;
    }

    fn skip_text(&mut self) {
        let rest = self.held.get(self.scanned..).unwrap_or_default();
        self.scanned += rest.iter().position(|byte| *byte == b'<').unwrap_or(rest.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' from=\"a>b\">";

    fn frames(input: &str, chunk: usize) -> Result<Vec<String>, Error> {
        let (mut framer, mut found) = (Framer::default(), Vec::new());
        for piece in input.as_bytes().chunks(chunk) {
            framer.feed(piece);
            while let Some(frame) = framer.take()? {
                found.push(match frame {
                    Frame::Header(bytes) | Frame::Stanza(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                    Frame::End => "END".into(),
                });
            }
        }
        Ok(found)
    }

    #[test]
    fn a_stream_is_cut_alike_wherever_the_network_cuts_it() {
        let stanzas = [
            "<r xmlns='urn:xmpp:sm:3'/>",
            "<message id='a/>'><body>x &lt; y</body><e/></message>",
            "<iq><q a='1' /></iq >",
        ];
        let input = format!("{HEADER}{}\n {}{}</stream:stream>", stanzas[0], stanzas[1], stanzas[2]);
        let expected: Vec<&str> = [&[HEADER][..], &stanzas[..], &["END"]].concat();
        for chunk in 1..=input.len() {
            assert_eq!(frames(&input, chunk).unwrap(), expected, "chunks of {chunk}");
        }
    }

    #[test]
    fn what_the_rfc_forbids_is_an_error() {
        for bad in ["<!-- c -->", "<?pi?>", "<!DOCTYPE x>", "text", "<m><!-- c --></m>"] {
            assert!(frames(&format!("{HEADER}{bad}"), 7).is_err(), "{bad}");
        }
        assert!(frames("</stream:stream>", 99).is_err());
        assert!(frames(&format!("{HEADER}<m>{}", "x".repeat(FRAME_MAX + 1)), 65_536).is_err());
    }
}
