//! From bytes to stanzas: a parser that checks every limit before it builds anything, and that is gone while the stream idles.

use std::sync::Arc;

use rxml::{
    Parse, RawEvent, RawParser,
    error::{EndOrError, Error},
};

use super::{
    element::{Element, KEPT_DEPTH},
    namespaces::Namespaces,
    ns,
};

/// Limits of one stanza.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes of it.
    pub(super) bytes: usize,
    /// Nesting; the stanza itself is 1.
    pub(super) depth: usize,
    /// Attributes of one element.
    pub(super) attributes: usize,
}

/// What was read.
#[derive(Debug)]
pub(super) enum Frame {
    /// The stream header, and the namespace of what it contains.
    Header(Element, Option<Arc<str>>),
    /// A stanza, or any other element right below the stream.
    Stanza(Element),
    /// `</stream:stream>`.
    End,
}

/// What is wrong with the input. Every one ends the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// No XML, or no UTF-8.
    NotWellFormed,
    /// A comment, processing instruction, DTD or entity (RFC 6120 §11.1).
    Restricted,
    /// Characters between stanzas.
    BadFormat,
    /// More bytes than allowed.
    TooBig,
    /// Deeper or with more attributes than allowed.
    TooComplex,
}

/// A name as it stands in a tag.
type RawName = (Option<rxml::NcName>, rxml::NcName);

/// What of a stream header still counts after it: only kept where it is not what everybody sends.
#[derive(Debug)]
struct Opening {
    root: Box<str>,
    names: Namespaces,
}

const USUAL_ROOT: &str = "stream:stream";

struct Reading {
    raw: RawParser,
    names: Namespaces,
    element: Element,
    /// Elements that are open, the stream itself included.
    depth: u16,
    /// Places of the open elements that are kept.
    open: Vec<u32>,
    head: Option<Head>,
}

/// A tag whose attributes are still coming.
struct Head {
    name: RawName,
    attributes: Vec<(RawName, String)>,
}

/// Cuts the input into frames.
#[derive(Default)]
pub(super) struct Framer {
    reading: Option<Box<Reading>>,
    opening: Option<Box<Opening>>,
    /// Bytes of the frame so far. Zero: between frames.
    used: usize,
    started: bool,
    /// The header closed itself.
    ended: bool,
}

fn blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

impl Framer {
    /// For input in which every element stands alone and declares its own namespaces: there is no header.
    pub(super) fn of_messages() -> Self {
        Self {
            started: true,
            opening: Some(Box::new(Opening {
                root: USUAL_ROOT.into(),
                names: Namespaces::default(),
            })),
            ..Self::default()
        }
    }

    /// Reads on. Takes what it read off the front of `input`; `None` when it needs more.
    pub(super) fn next(&mut self, input: &mut &[u8], bounds: &Bounds) -> Result<Option<Frame>, Fault> {
        if self.ended {
            return Ok(Some(Frame::End));
        }
        if self.used == 0 {
            let blanks = input.iter().take_while(|byte| blank(**byte)).count();
            *input = &input[blanks..];
            match input.first() {
                None => return Ok(None),
                Some(b'<') => {}
                Some(_) if self.started => return Err(Fault::BadFormat),
                Some(_) => return Err(Fault::NotWellFormed),
            }
        }
        let started = self.started;
        let reading = match &mut self.reading {
            Some(reading) => reading,
            none => none.insert(Box::new(Reading::new(started, self.opening.as_deref())?)),
        };
        loop {
            let allowed = bounds.bytes.saturating_sub(self.used).min(input.len());
            let mut slice = &input[..allowed];
            let parsed = reading.raw.parse(&mut slice, false);
            let taken = allowed - slice.len();
            *input = &input[taken..];
            self.used += taken;
            match parsed {
                Ok(Some(event)) => {
                    let Some(frame) = reading.take(event, started, bounds)? else {
                        continue;
                    };
                    self.used = 0;
                    if let Frame::Header(..) = frame {
                        self.started = true;
                        self.opening = reading.opening();
                        self.ended = reading.raw.parse(&mut &b""[..], false).is_ok();
                    }
                    return Ok(Some(frame));
                }
                Ok(None) => return Err(Fault::NotWellFormed),
                Err(EndOrError::NeedMoreData) if input.is_empty() => return Ok(None),
                // What was allowed is used up, and the end is not in sight.
                Err(EndOrError::NeedMoreData) => return Err(Fault::TooBig),
                Err(EndOrError::Error(error)) => return Err(Fault::from(error)),
            }
        }
    }

    /// Whether the next byte begins a stanza of an open stream.
    pub(super) fn between_stanzas(&self) -> bool {
        self.started && self.used == 0
    }

    /// Drops the parser if nothing is half read.
    pub(super) fn rest(&mut self) {
        if self.used == 0 {
            self.reading = None;
        }
    }

    /// Bytes of memory behind this.
    pub(super) fn memory(&self) -> usize {
        let reading = self.reading.as_ref().map_or(0, |reading| {
            // The lexer's scratch buffer is the largest part of a parser.
            size_of::<Reading>() + 8192 + reading.element.memory() + reading.names.memory()
        });
        let opening = self
            .opening
            .as_ref()
            .map_or(0, |opening| size_of::<Opening>() + opening.root.len() + opening.names.memory());
        reading + opening
    }
}

impl Reading {
    /// A parser before the stream header, or, in an open stream, one that has read the header already.
    fn new(started: bool, opening: Option<&Opening>) -> Result<Self, Fault> {
        let mut reading = Self {
            raw: RawParser::new(),
            names: Namespaces::default(),
            element: Element::default(),
            depth: 0,
            open: Vec::new(),
            head: None,
        };
        if started {
            let root = opening.map_or(USUAL_ROOT, |opening| &opening.root);
            let tag = format!("<{root}>");
            let mut tag = tag.as_bytes();
            loop {
                match reading.raw.parse(&mut tag, false) {
                    Ok(Some(_)) => {}
                    Err(EndOrError::NeedMoreData) => break,
                    _ => return Err(Fault::NotWellFormed),
                }
            }
            reading.names = opening.map_or_else(Namespaces::usual, |opening| opening.names.clone());
            reading.depth = 1;
        }
        Ok(reading)
    }

    /// What of the header that was just read must be known later on.
    fn opening(&mut self) -> Option<Box<Opening>> {
        let root = match self.head.take() {
            Some(Head {
                name: (Some(prefix), name),
                ..
            }) => format!("{}:{}", prefix.as_str(), name.as_str()),
            Some(Head { name: (None, name), .. }) => name.as_str().to_owned(),
            None => return None,
        };
        (root != USUAL_ROOT || !self.names.are_usual()).then(|| {
            Box::new(Opening {
                root: root.into(),
                names: self.names.clone(),
            })
        })
    }

    fn take(&mut self, event: RawEvent, started: bool, bounds: &Bounds) -> Result<Option<Frame>, Fault> {
        match event {
            RawEvent::XmlDeclaration(..) => Ok(None),
            RawEvent::ElementHeadOpen(_, name) => {
                self.depth += 1;
                // The stream is at depth 1 and does not count.
                if usize::from(self.depth) > bounds.depth + 1 {
                    return Err(Fault::TooComplex);
                }
                self.head = Some(Head {
                    name,
                    attributes: Vec::new(),
                });
                Ok(None)
            }
            RawEvent::Attribute(_, name, value) => {
                if let Some(head) = &mut self.head {
                    if head.attributes.len() >= bounds.attributes {
                        return Err(Fault::TooComplex);
                    }
                    head.attributes.push((name, value));
                }
                Ok(None)
            }
            RawEvent::ElementHeadClose(_) => {
                let Some(mut head) = self.head.take() else {
                    return Err(Fault::NotWellFormed);
                };
                self.open(&mut head)?;
                if started {
                    // A header in the middle of a stream would be an element that never ends.
                    let again = self.depth == 2 && head.name.1.as_str() == "stream" && self.element.top().is("stream", ns::STREAM);
                    return if again { Err(Fault::BadFormat) } else { Ok(None) };
                }
                self.head = Some(head);
                self.open.clear();
                Ok(Some(Frame::Header(std::mem::take(&mut self.element), self.names.unprefixed())))
            }
            RawEvent::ElementFoot(_) => {
                self.names.close(self.depth);
                self.depth -= 1;
                if self.depth < KEPT_DEPTH + 1 {
                    self.open.pop();
                }
                Ok(match self.depth {
                    0 => Some(Frame::End),
                    1 => Some(Frame::Stanza(std::mem::take(&mut self.element))),
                    _ => None,
                })
            }
            RawEvent::Text(_, text) => {
                if self.depth <= 1 {
                    return Err(Fault::BadFormat);
                }
                if self.depth - 1 <= KEPT_DEPTH
                    && let Some(place) = self.open.last()
                {
                    self.element.characters(*place, &text);
                }
                Ok(None)
            }
        }
    }

    /// A tag is complete: resolves its names, and keeps it.
    fn open(&mut self, head: &mut Head) -> Result<(), Fault> {
        for ((prefix, name), uri) in &head.attributes {
            match prefix.as_deref().map(|prefix| prefix.as_str()) {
                Some("xmlns") => self.names.declare(self.depth, name.as_str(), uri),
                None if name.as_str() == "xmlns" => self.names.declare(self.depth, "", uri),
                _ => {}
            }
        }
        let of = |prefix: &Option<rxml::NcName>, names: &Namespaces| match prefix {
            Some(prefix) => names.of(prefix.as_str()).map(Some).ok_or(Fault::NotWellFormed),
            None => Ok(None),
        };
        let namespace = match &head.name.0 {
            None => self.names.unprefixed(),
            prefix => of(prefix, &self.names)?,
        };
        let level = self.depth - u16::from(self.depth > 1);
        let kept = level <= KEPT_DEPTH;
        if kept {
            let place = self.element.open(level, namespace, head.name.1.as_str());
            self.open.push(place);
        }
        let mut seen: Vec<(Option<Arc<str>>, &str)> = Vec::with_capacity(head.attributes.len());
        for ((prefix, name), value) in &head.attributes {
            if prefix.as_deref().is_some_and(|prefix| prefix.as_str() == "xmlns") {
                let declared = Some("http://www.w3.org/2000/xmlns/".into());
                if seen.contains(&(declared.clone(), name.as_str())) {
                    return Err(Fault::NotWellFormed);
                }
                seen.push((declared, name.as_str()));
                continue;
            }
            let namespace = of(prefix, &self.names)?;
            if seen.iter().any(|(other, known)| *known == name.as_str() && *other == namespace) {
                return Err(Fault::NotWellFormed);
            }
            if kept && !(namespace.is_none() && name.as_str() == "xmlns") {
                self.element.attribute(namespace.clone(), name.as_str(), value);
            }
            seen.push((namespace, name.as_str()));
        }
        Ok(())
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            // One name or attribute as long as the parser takes: it is a limit, nothing forbidden. Held by a transcript.
            Error::RestrictedXml("long name or reference" | "event too long") => Self::TooBig,
            Error::RestrictedXml(_) | Error::UndeclaredEntity => Self::Restricted,
            // `<!` with neither `--` nor `[CDATA[` behind it: a DTD. Held by a test.
            Error::InvalidSyntax("malformed cdata or comment section start") => Self::Restricted,
            _ => Self::NotWellFormed,
        }
    }
}
