//! Text as HTML.

use std::borrow::Cow;

/// Text in which nothing is markup.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

/// Text in which what stands between backticks is code, and nothing else is markup.
pub(super) fn prose(text: &str) -> String {
    let mut written = String::with_capacity(text.len() + 32);
    for (at, part) in text.split('`').enumerate() {
        if at % 2 == 1 {
            written.extend(["<code>", &escape(part), "</code>"]);
        } else {
            written.push_str(&escape(part));
        }
    }
    written
}

/// A whole page. `body` is markup.
pub(super) fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <link rel=\"stylesheet\" href=\"/docs/style.css\">\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_markup_but_code() {
        assert_eq!(escape("plain"), "plain");
        assert_eq!(
            prose("a `<b>` & 'c' <script>"),
            "a <code>&lt;b&gt;</code> &amp; &#39;c&#39; &lt;script&gt;"
        );
    }
}
