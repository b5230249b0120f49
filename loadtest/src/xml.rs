//! One stanza as a small tree, read with `rxml` under bounds of our own.

use std::borrow::Cow;

use rxml::{Event, Options, Parse, Parser, WithOptions};

use crate::Error;

/// Deepest tree that is built.
pub const DEPTH_MAX: usize = 64;
/// Longest attribute value or text token.
const TOKEN_MAX: usize = 512 * 1024;

/// An element: resolved namespace, attributes, children, text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Local name.
    pub name: String,
    /// Namespace URI.
    pub ns: String,
    /// (namespace or empty, local name, value), in no order.
    pub attributes: Vec<(String, String, String)>,
    /// Child elements in order.
    pub children: Vec<Element>,
    /// The text directly inside, joined.
    pub text: String,
}

impl Element {
    /// Reads `stanza` as the next child of the stream that `header` opened: prefixes and the default namespace come from there.
    ///
    /// # Errors
    /// Not well-formed, not namespace-well-formed, or deeper than [`DEPTH_MAX`].
    pub fn parse(header: &[u8], stanza: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(header)?;
        reader.read(stanza)
    }

    /// Reads the attributes of a stream header.
    ///
    /// # Errors
    /// As [`Element::parse`].
    pub fn header(header: &[u8]) -> Result<Self, Error> {
        Reader::new(header).map(|reader| reader.root)
    }

    /// The value of the attribute without namespace.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(ns, local, _)| ns.is_empty() && local == name)
            .map(|(.., value)| value.as_str())
    }

    /// The first child of that name and namespace.
    pub fn child(&self, name: &str, ns: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.is(name, ns))
    }

    /// Whether it has that name and namespace.
    pub fn is(&self, name: &str, ns: &str) -> bool {
        self.name == name && self.ns == ns
    }
}

struct Reader {
    parser: Parser,
    root: Element,
}

impl Reader {
    fn new(header: &[u8]) -> Result<Self, Error> {
        let options = Options {
            max_token_length: TOKEN_MAX,
            ..Options::default()
        };
        let mut reader = Self {
            parser: Parser::with_options(options),
            root: Element::default(),
        };
        let mut rest = header;
        loop {
            match reader.parser.parse(&mut rest, false) {
                Ok(Some(Event::StartElement(_, name, attributes))) => {
                    reader.root = opened(name, attributes);
                    return Ok(reader);
                }
                Ok(Some(Event::XmlDeclaration(..))) => {}
                other => return Err(Error::Xml(format!("stream header: {other:?}"))),
            }
        }
    }

    fn read(&mut self, stanza: &[u8]) -> Result<Element, Error> {
        let (mut rest, mut open) = (stanza, Vec::<Element>::new());
        loop {
            match self.parser.parse(&mut rest, false) {
                Ok(Some(Event::StartElement(_, name, attributes))) if open.len() < DEPTH_MAX => open.push(opened(name, attributes)),
                Ok(Some(Event::StartElement(..))) => return Err(Error::Xml(format!("more than {DEPTH_MAX} levels"))),
                Ok(Some(Event::Text(_, text))) => {
                    if let Some(parent) = open.last_mut() {
                        parent.text.push_str(&text);
                    }
                }
                Ok(Some(Event::EndElement(_))) => match (open.pop(), open.last_mut()) {
                    (Some(done), Some(parent)) => parent.children.push(done),
                    (Some(done), None) => return Ok(done),
                    (None, _) => return Err(Error::Xml("an end without a start".into())),
                },
                Ok(Some(Event::XmlDeclaration(..))) => {}
                Ok(None) => return Err(Error::Xml("the document ended".into())),
                Err(reason) => return Err(Error::Xml(format!("{reason:?} in {}", shorten(stanza)))),
            }
        }
    }
}

fn opened(name: rxml::QName, attributes: rxml::AttrMap) -> Element {
    Element {
        ns: name.0.as_str().to_owned(),
        name: name.1.to_string(),
        attributes: attributes
            .into_iter()
            .map(|((ns, name), value)| (ns.as_str().to_owned(), name.to_string(), value))
            .collect(),
        ..Element::default()
    }
}

/// The start of `bytes`, for messages.
pub fn shorten(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..200).unwrap_or(bytes)).into_owned()
}

/// Escapes text or an attribute value of either quote.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '\'', '"']) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] =
        b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' id='s1'>";

    #[test]
    fn a_stanza_takes_its_namespaces_from_the_stream_header() {
        let error = Element::parse(
            HEADER,
            b"<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
        )
        .unwrap();
        assert!(error.is("error", "http://etherx.jabber.org/streams"));
        let message = Element::parse(HEADER, b"<message id='a&amp;b'><body>\xe9\x9b\xbb &lt;</body></message>").unwrap();
        assert!(message.is("message", "jabber:client"));
        assert_eq!(
            (
                message.attribute("id"),
                message.child("body", "jabber:client").unwrap().text.as_str()
            ),
            (Some("a&b"), "電 <")
        );
        assert_eq!(Element::header(HEADER).unwrap().attribute("id"), Some("s1"));
    }

    #[test]
    fn long_text_survives_and_depth_is_bounded() {
        let text = "x".repeat(100_000);
        assert_eq!(
            Element::parse(HEADER, format!("<m>{text}</m>").as_bytes()).unwrap().text.len(),
            100_000
        );
        let deep = format!("{}{}", "<m>".repeat(65), "</m>".repeat(65));
        assert!(Element::parse(HEADER, deep.as_bytes()).is_err());
        assert!(Element::parse(HEADER, b"<m></n>").is_err());
        assert!(Element::parse(HEADER, b"<p:m/>").is_err());
    }

    #[test]
    fn escaping_is_undone_by_reading() {
        let text = "a<b>&\"c'";
        let stanza = format!("<m k='{}'>{}</m>", escape(text), escape(text));
        let read = Element::parse(HEADER, stanza.as_bytes()).unwrap();
        assert_eq!((read.attribute("k"), read.text.as_str()), (Some(text), text));
    }
}
