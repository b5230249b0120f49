//! As much XML as a test needs to read what a server of XMPP writes: no comments, no CDATA, no DTD.

/// One element with its text as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub raw: String,
}

impl Element {
    /// The name in the start tag, with its prefix; `/stream:stream` for the end of the stream.
    pub fn name(&self) -> &str {
        let end = self.raw[2..].find([' ', '/', '>', '\n']).map_or(self.raw.len(), |end| end + 2);
        &self.raw[1..if self.raw.starts_with("</") { self.raw.len() - 1 } else { end }]
    }

    /// The value of an attribute of the start tag.
    pub fn attribute(&self, name: &str) -> Option<String> {
        let tag = &self.raw[..tag_end(&self.raw).expect("a start tag")];
        let mut rest = tag;
        while let Some(at) = rest.find(&format!("{name}=")) {
            let before = rest[..at].chars().next_back();
            let value = &rest[at + name.len() + 1..];
            if before.is_some_and(char::is_whitespace) {
                let quote = value.chars().next().expect("a quote");
                return Some(unescape(value[1..].split(quote).next().expect("a value")));
            }
            rest = value;
        }
        None
    }

    /// The first descendant of that name.
    pub fn find(&self, name: &str) -> Option<Self> {
        let mut from = 1;
        while let Some(at) = self.raw[from..].find(&format!("<{name}")) {
            let start = from + at;
            let next = self.raw[start + 1 + name.len()..].chars().next();
            if matches!(next, Some(' ' | '/' | '>')) {
                return first(&self.raw[start..]).map(|(element, _)| element);
            }
            from = start + 1;
        }
        None
    }

    /// The text of an element without children.
    pub fn text(&self) -> String {
        let start = tag_end(&self.raw).expect("a start tag");
        match self.raw.rfind("</") {
            Some(end) if end >= start => unescape(&self.raw[start..end]),
            _ => String::new(),
        }
    }
}

/// The first whole element of `text` and how many bytes it and what precedes it take. A stream header counts as a whole
/// element when it is the first, and so does the end of the stream.
pub fn first(text: &str) -> Option<(Element, usize)> {
    let start = text.find('<')?;
    let (mut at, mut depth) = (start, 0_i32);
    loop {
        let end = at + tag_end(&text[at..])?;
        let tag = &text[at..end];
        if tag.starts_with("<?") {
            return first(&text[end..]).map(|(element, taken)| (element, end + taken));
        }
        if tag.starts_with("</") {
            depth -= 1;
        } else if !tag.ends_with("/>") {
            depth += 1;
        }
        let header = depth == 1 && at == start && tag.starts_with("<stream:stream");
        if depth <= 0 || header {
            let raw = text[start..end].to_owned();
            return Some((Element { raw }, end));
        }
        at = end + text[end..].find('<')?;
    }
}

/// Where the tag at the beginning of `text` ends; a `>` inside quotes does not end it.
fn tag_end(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '>') => return Some(at + 1),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    None
}

/// Replaces the five entities of XML and numeric references.
pub fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let end = rest[at..].find(';').expect("an entity") + at;
        match &rest[at + 1..end] {
            "amp" => out.push('&'),
            "lt" => out.push('<'),
            "gt" => out.push('>'),
            "quot" => out.push('"'),
            "apos" => out.push('\''),
            number => {
                let number = number.strip_prefix('#').expect("a known entity");
                let code = number
                    .strip_prefix('x')
                    .map_or_else(|| number.parse().unwrap(), |hex| u32::from_str_radix(hex, 16).unwrap());
                out.push(char::from_u32(code).expect("a character"));
            }
        }
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    out
}
