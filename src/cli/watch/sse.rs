//! Server-sent events as they are read (WHATWG HTML §9.2.6): lines, fields, and an event at each empty line.

/// The longest line that is read, in bytes.
const LINE_MAX: usize = 1024 * 1024;

/// One event; without data it tells only where the stream is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// The last id that was read: behind this the stream goes on.
    pub(super) id: String,
    /// `message` is empty.
    pub(super) kind: String,
    pub(super) data: Option<String>,
}

/// Reads a stream piece by piece.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    next: Event,
    id: String,
}

impl Parser {
    /// Takes a piece; answers the events that it completes.
    ///
    /// # Errors
    /// A line that is too long, or no text.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<Vec<Event>, String> {
        let mut events = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + part.len() > LINE_MAX {
                return Err(format!("a line of the stream is longer than {LINE_MAX} bytes"));
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = String::from_utf8(std::mem::take(&mut self.line)).map_err(|_| "the stream is not UTF-8".to_owned())?;
                events.extend(self.take(line.trim_end_matches(['\n', '\r'])));
            }
        }
        Ok(events)
    }

    fn take(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.next);
            let is_something = event.data.is_some() || event.id != self.id;
            self.id.clone_from(&event.id);
            self.next.id.clone_from(&event.id);
            return is_something.then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" if !value.contains('\0') => value.clone_into(&mut self.next.id),
            "event" => value.clone_into(&mut self.next.kind),
            "data" => {
                let data = self.next.data.get_or_insert_default();
                if !data.is_empty() {
                    data.push('\n');
                }
                data.push_str(value);
            }
            // A comment, the pause before another try, or nothing that is known.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_read_the_same_however_it_is_cut() {
        let text = "retry: 2000\nid: 4.3f\n\n: alive\n\nid: 5.3f\nevent: receipt\ndata: {\"a\":1}\n\nid: 6.3f\r\ndata:x\r\ndata: y\r\n\r\nevent: gone\n\n";
        let event = |id: &str, kind: &str, data: Option<&str>| Event {
            id: id.into(),
            kind: kind.into(),
            data: data.map(str::to_owned),
        };
        let expected = [
            event("4.3f", "", None),
            event("5.3f", "receipt", Some("{\"a\":1}")),
            event("6.3f", "", Some("x\ny")),
        ];
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let found: Vec<Event> = text.as_bytes().chunks(size).flat_map(|piece| parser.feed(piece).unwrap()).collect();
            assert_eq!(found, expected, "in pieces of {size}");
        }
        let mut parser = Parser::default();
        assert!(parser.feed(&vec![b'x'; LINE_MAX]).unwrap().is_empty());
        assert!(parser.feed(b"x").is_err());
        assert!(Parser::default().feed(b"\xff\n").is_err());
    }
}
