//! One stanza or header, read: a flat list of elements, so that neither use nor drop ever recurses.

use std::{ops::Range, sync::Arc};

/// Elements nested deeper than this within a stanza are checked, counted and left out: nothing is deeper that we read. The deepest
/// is a published location: iq, pubsub, publish, item, geoloc, lat.
pub(super) const KEPT_DEPTH: u16 = 6;

/// A top-level element of a stream with what it contains, in document order.
#[derive(Debug, Default)]
pub(super) struct Element {
    text: String,
    nodes: Vec<Node>,
    attributes: Vec<Attribute>,
    pieces: Vec<(u32, Span)>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    from: u32,
    to: u32,
}

#[derive(Debug)]
struct Node {
    depth: u16,
    namespace: Option<Arc<str>>,
    name: Span,
    attributes: Range<u32>,
}

#[derive(Debug)]
struct Attribute {
    namespace: Option<Arc<str>>,
    name: Span,
    value: Span,
}

impl Element {
    fn keep(&mut self, text: &str) -> Span {
        let from = self.text.len();
        self.text.push_str(text);
        // A stanza is far below 4 GiB: its limit is checked before this is fed.
        Span {
            from: u32::try_from(from).unwrap_or(u32::MAX),
            to: u32::try_from(self.text.len()).unwrap_or(u32::MAX),
        }
    }

    fn span(&self, span: Span) -> &str {
        self.text.get(span.from as usize..span.to as usize).unwrap_or_default()
    }

    /// Adds an element at `depth` (1: the top), and answers its place.
    pub(super) fn open(&mut self, depth: u16, namespace: Option<Arc<str>>, name: &str) -> u32 {
        let name = self.keep(name);
        let at = u32::try_from(self.attributes.len()).unwrap_or(u32::MAX);
        self.nodes.push(Node {
            depth,
            namespace,
            name,
            attributes: at..at,
        });
        u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX)
    }

    /// Adds an attribute to the element opened last.
    pub(super) fn attribute(&mut self, namespace: Option<Arc<str>>, name: &str, value: &str) {
        let (name, value) = (self.keep(name), self.keep(value));
        self.attributes.push(Attribute { namespace, name, value });
        if let Some(node) = self.nodes.last_mut() {
            node.attributes.end += 1;
        }
    }

    /// Adds text to the element at `place`.
    pub(super) fn characters(&mut self, place: u32, text: &str) {
        let span = self.keep(text);
        self.pieces.push((place, span));
    }

    /// The top element.
    pub(super) fn top(&self) -> Tag<'_> {
        Tag { element: self, place: 0 }
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.text.capacity()
            + self.nodes.capacity() * size_of::<Node>()
            + self.attributes.capacity() * size_of::<Attribute>()
            + self.pieces.capacity() * size_of::<(u32, Span)>()
    }
}

/// One element of an [`Element`].
#[derive(Clone, Copy)]
pub(super) struct Tag<'a> {
    element: &'a Element,
    place: usize,
}

impl<'a> Tag<'a> {
    fn node(self) -> Option<&'a Node> {
        self.element.nodes.get(self.place)
    }

    /// Its local name.
    pub(super) fn name(self) -> &'a str {
        self.node().map_or("", |node| self.element.span(node.name))
    }

    /// Its namespace; empty when it has none.
    pub(super) fn namespace(self) -> &'a str {
        self.node().and_then(|node| node.namespace.as_deref()).unwrap_or_default()
    }

    /// Whether it has that name and namespace.
    pub(super) fn is(self, name: &str, namespace: &str) -> bool {
        self.name() == name && self.namespace() == namespace
    }

    /// The value of its attribute without a namespace.
    pub(super) fn attribute(self, name: &str) -> Option<&'a str> {
        let range = self.node()?.attributes.clone();
        self.element
            .attributes
            .get(range.start as usize..range.end as usize)?
            .iter()
            .find(|attribute| attribute.namespace.is_none() && self.element.span(attribute.name) == name)
            .map(|attribute| self.element.span(attribute.value))
    }

    /// The elements right below it.
    pub(super) fn children(self) -> impl Iterator<Item = Tag<'a>> {
        let element = self.element;
        let depth = self.node().map_or(0, |node| node.depth);
        element
            .nodes
            .iter()
            .enumerate()
            .skip(self.place + 1)
            .take_while(move |(_, node)| node.depth > depth)
            .filter(move |(_, node)| node.depth == depth + 1)
            .map(move |(place, _)| Tag { element, place })
    }

    /// The first element right below it of that name and namespace.
    pub(super) fn child(self, name: &str, namespace: &str) -> Option<Tag<'a>> {
        self.children().find(|tag| tag.is(name, namespace))
    }

    /// The characters right below it.
    pub(super) fn text(self) -> String {
        let place = u32::try_from(self.place).unwrap_or(u32::MAX);
        self.element
            .pieces
            .iter()
            .filter(|(of, _)| *of == place)
            .map(|(_, span)| self.element.span(*span))
            .collect()
    }
}
