//! Writing text into XML.

/// Appends `text` as character data or as the value of an attribute in single quotes.
pub(super) fn escape(out: &mut Vec<u8>, text: &str) {
    replaced(out, text, |byte| match byte {
        b'\'' => Some(b"&apos;"),
        b'"' => Some(b"&quot;"),
        b'\t' => Some(b"&#9;"),
        b'\n' => Some(b"&#10;"),
        _ => always(byte),
    });
}

/// Appends `text` as character data where quotes are frequent: only what must be is escaped.
pub(super) fn escape_characters(out: &mut Vec<u8>, text: &str) {
    // A carriage return is rare: without one the others are searched for many bytes at a time.
    if memchr::memchr(b'\r', text.as_bytes()).is_some() {
        return replaced(out, text, always);
    }
    let mut rest = text.as_bytes();
    while let Some((plain, behind)) = memchr::memchr3(b'&', b'<', b'>', rest).and_then(|at| rest.split_at_checked(at)) {
        out.extend_from_slice(plain);
        let Some((byte, behind)) = behind.split_first() else { break };
        out.extend_from_slice(always(*byte).unwrap_or_default());
        rest = behind;
    }
    out.extend_from_slice(rest);
}

/// What stands for a byte that no text may hold as it is.
fn always(byte: u8) -> Option<&'static [u8]> {
    match byte {
        b'&' => Some(b"&amp;"),
        b'<' => Some(b"&lt;"),
        b'>' => Some(b"&gt;"),
        // A parser would read it as a line feed.
        b'\r' => Some(b"&#13;"),
        _ => None,
    }
}

/// Appends `text` with each byte replaced for which `entity` has something.
fn replaced(out: &mut Vec<u8>, text: &str, entity: impl Fn(u8) -> Option<&'static [u8]>) {
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let Some(entity) = entity(*byte) else { continue };
        out.extend_from_slice(bytes.get(from..at).unwrap_or_default());
        out.extend_from_slice(entity);
        from = at + 1;
    }
    out.extend_from_slice(bytes.get(from..).unwrap_or_default());
}

/// Appends ` name='value'`.
pub(super) fn attribute(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(b' ');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"='");
    escape(out, value);
    out.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_its_place() {
        let mut out = Vec::new();
        attribute(&mut out, "id", "a'b\"c<d>&e\n");
        assert_eq!(out, b" id='a&apos;b&quot;c&lt;d&gt;&amp;e&#10;'");
        let mut out = Vec::new();
        escape_characters(&mut out, r#"{"a":"<&>'"}"#);
        assert_eq!(out, br#"{"a":"&lt;&amp;&gt;'"}"#);
        for text in ["", "&", "a>", "<<", "a\rb<", "\r", "電視 & ✓"] {
            let (mut out, mut simple) = (Vec::new(), Vec::new());
            escape_characters(&mut out, text);
            replaced(&mut simple, text, always);
            assert_eq!(out, simple, "{text:?}");
        }
    }
}
