//! What XML 1.0 can carry: everything that will reach a device is checked here, at the edge.

use memchr::memchr3;

use crate::domain::Refusal;

/// The deepest nesting of arrays and objects in a request's JSON.
pub const DEPTH_MAX: usize = 64;

/// Checks JSON text (valid as such) that will reach a device as it is, escapes and all: no raw U+FFFE or U+FFFF (XML 1.0 §2.2), no
/// half of a surrogate pair (RFC 8259 §8.2: its meaning is unpredictable), no nesting deeper than [`DEPTH_MAX`]. Control
/// characters cannot be raw in JSON, and their escapes are plain letters to XML.
///
/// # Errors
/// `UnprintableText` or `InvalidField` with `field`.
pub fn check_json(field: &str, json: &str) -> Result<(), Refusal> {
    let bytes = json.as_bytes();
    let (mut at, mut depth, mut in_string) = (0, 0_usize, false);
    let unprintable = |code, offset| Refusal::UnprintableText {
        field: field.to_owned(),
        code,
        offset,
    };
    while let Some(byte) = bytes.get(at) {
        if in_string {
            // What is between the bytes that matter in a string is most of it.
            match memchr3(b'"', b'\\', 0xef, &bytes[at..]) {
                None => break,
                Some(skipped @ 1..) => {
                    at += skipped;
                    continue;
                }
                Some(0) => {}
            }
        }
        at += match byte {
            b'"' => {
                in_string = !in_string;
                1
            }
            b'\\' => match escaped(bytes, at) {
                None => 2,
                Some(high @ 0xd800..=0xdbff) => match escaped(bytes, at + 6) {
                    Some(0xdc00..=0xdfff) => 12,
                    _ => return Err(unprintable(high, at)),
                },
                Some(low @ 0xdc00..=0xdfff) => return Err(unprintable(low, at)),
                Some(_) => 6,
            },
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(Refusal::InvalidField {
                        field: field.to_owned(),
                        why: format!("it is nested deeper than {DEPTH_MAX} levels at offset {at}"),
                    });
                }
                1
            }
            b'}' | b']' if !in_string => {
                depth = depth.saturating_sub(1);
                1
            }
            0xef => match bytes.get(at + 1..at + 3) {
                Some([0xbf, last @ (0xbe | 0xbf)]) => return Err(unprintable(0xff40 | u32::from(*last), at)),
                _ => 3,
            },
            _ => 1,
        };
    }
    Ok(())
}

/// The code of the escape `\uXXXX` at `at`.
fn escaped(bytes: &[u8], at: usize) -> Option<u32> {
    match bytes.get(at..at + 6)? {
        [b'\\', b'u', digits @ ..] => u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok(),
        _ => None,
    }
}

/// Checks text that goes into an XML attribute or a name as it is: no control characters, no U+FFFE or U+FFFF.
///
/// # Errors
/// `UnprintableText` with `field`.
pub fn check_plain(field: &str, text: &str) -> Result<(), Refusal> {
    match text
        .char_indices()
        .find(|(_, c)| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'))
    {
        None => Ok(()),
        Some((offset, character)) => Err(Refusal::UnprintableText {
            field: field.to_owned(),
            code: character.into(),
            offset,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_that_xml_cannot_carry_is_found_with_its_place() {
        let check = |json: &str, expected: Option<(u32, usize)>| {
            let found = match check_json("data", json) {
                Ok(()) => None,
                Err(Refusal::UnprintableText { code, offset, .. }) => Some((code, offset)),
                Err(other) => panic!("{other}"),
            };
            assert_eq!(found, expected, "{json}");
        };
        check(r#"{"a":"Жалюзи & 電視 <tag> 📺 ﻿ �"}"#, None);
        check("\"a\u{fffe}\"", Some((0xfffe, 2)));
        check("{\"\u{ffff}\":1}", Some((0xffff, 2)));
        check("\"\u{ffbe}\u{1fffe}\"", None);
        check(r#""\u0000\u001f\ufffe""#, None);
        check(r#""\ud83d\udcfa""#, None);
        check(r#""\uD83D""#, Some((0xd83d, 1)));
        check(r#""\ud83dx\udcfa""#, Some((0xd83d, 1)));
        check(r#""x\udcfa""#, Some((0xdcfa, 2)));
        check(r#""\\ud83d""#, None);
        check(r#""\"\\\ud83d""#, Some((0xd83d, 5)));
    }

    #[test]
    fn nesting_has_a_bound_and_strings_do_not_nest() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(check_json("data", &nested(DEPTH_MAX)).is_ok());
        assert!(check_json("data", &nested(DEPTH_MAX + 1)).is_err());
        assert!(check_json("data", &format!("\"{}\"", "[".repeat(1000))).is_ok());
        assert!(check_json("data", &format!("[{}1]", "[],".repeat(1000))).is_ok());
    }

    #[test]
    fn plain_text_has_no_control_characters() {
        assert!(check_plain("collapse_key", "todo list 電").is_ok());
        for (text, offset) in [("a\0", 1), ("\n", 0), ("ab\u{85}", 2), ("\u{ffff}", 0)] {
            let refused = check_plain("collapse_key", text);
            assert!(
                matches!(refused, Err(Refusal::UnprintableText { offset: at, .. }) if at == offset),
                "{text:?}"
            );
        }
    }
}
