//! A request's JSON, taken apart by hand: each problem names the field, or the place; values keep their bytes.
//!
//! serde's derive would say `invalid type: string "x", expected u64 at line 1 column 19`. A backend needs the name of the field.

use std::{borrow::Cow, fmt};

use serde::{
    Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};

use super::text;
use crate::domain::Refusal;

/// The name under which a problem speaks of the whole body.
pub const BODY: &str = "the body";

/// The text of a body.
///
/// # Errors
/// `BadUtf8` with the offset of the first bad byte.
pub fn utf8(bytes: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(bytes).map_err(|error| Refusal::BadUtf8 {
        offset: error.valid_up_to(),
    })
}

/// One JSON value of a request: its name and its text as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// How problems call it: `ttl`, `target.device`, `credentials[1].value`.
    pub path: Cow<'a, str>,
    /// Its JSON, byte for byte.
    pub raw: &'a str,
}

/// The members of a JSON object, in the order in which they were sent. A handler takes those it knows and calls [`Fields::finish`].
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    path: Cow<'a, str>,
    members: Vec<(Cow<'a, str>, &'a str)>,
}

impl<'a> Fields<'a> {
    /// The object that a body is.
    ///
    /// # Errors
    /// `BadUtf8`; `BadJson` with line and column; `InvalidField` when it is no object, or a member is given twice.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let text = utf8(bytes)?;
        if !text.trim_start().starts_with('{') {
            json(text)?;
            return Err(wrong_type(BODY, "a JSON object", text.trim_start()));
        }
        Self::members(Cow::Borrowed(""), text)
    }

    fn members(path: Cow<'a, str>, text: &'a str) -> Result<Self, Refusal> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let members = deserializer
            .deserialize_map(Members)
            .and_then(|members| deserializer.end().map(|()| members))
            .map_err(|error| bad_json(&error))?;
        for (at, (name, _)) in members.iter().enumerate() {
            if members.get(..at).unwrap_or_default().iter().any(|(earlier, _)| earlier == name) {
                return Err(Refusal::InvalidField {
                    field: join(&path, name),
                    why: "it is given twice".into(),
                });
            }
        }
        Ok(Self { path, members })
    }

    /// Whether it has that member.
    pub fn has(&self, name: &str) -> bool {
        self.members.iter().any(|(known, _)| known == name)
    }

    /// Takes a member out.
    pub fn take(&mut self, name: &'static str) -> Option<Field<'a>> {
        let at = self.members.iter().position(|(known, _)| known == name)?;
        let (_, raw) = self.members.remove(at);
        let path = if self.path.is_empty() {
            Cow::Borrowed(name)
        } else {
            join(&self.path, name).into()
        };
        Some(Field { path, raw })
    }

    /// Takes a member that must be there.
    ///
    /// # Errors
    /// `MissingField`.
    pub fn need(&mut self, name: &'static str) -> Result<Field<'a>, Refusal> {
        self.take(name).ok_or_else(|| Refusal::MissingField(join(&self.path, name)))
    }

    /// The members that are left, in order.
    pub fn rest(self) -> impl Iterator<Item = (Cow<'a, str>, &'a str)> {
        self.members.into_iter()
    }

    /// Nothing, when every member was taken.
    ///
    /// # Errors
    /// `UnknownField` for the first that was not.
    pub fn finish(self) -> Result<(), Refusal> {
        match self.members.first() {
            None => Ok(()),
            Some((name, _)) => Err(Refusal::UnknownField(join(&self.path, name))),
        }
    }
}

impl<'a> Field<'a> {
    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        self.raw == "null"
    }

    /// Its text.
    ///
    /// # Errors
    /// `InvalidField` when it is no string, `UnprintableText` when it has half of a surrogate pair or what XML cannot carry.
    pub fn text(&self) -> Result<Cow<'a, str>, Refusal> {
        let Some(inner) = self.raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
            return Err(self.wrong_type("a string"));
        };
        text::check_json(&self.path, self.raw)?;
        if !inner.contains('\\') {
            return Ok(Cow::Borrowed(inner));
        }
        match serde_json::from_str(self.raw) {
            Ok(text) => Ok(Cow::Owned(text)),
            Err(error) => Err(self.invalid(error.to_string())),
        }
    }

    /// Its number, when it is a whole one. Saturates.
    ///
    /// # Errors
    /// `InvalidField` when it is anything else.
    pub fn integer(&self) -> Result<i64, Refusal> {
        let digits = self.raw.strip_prefix('-').unwrap_or(self.raw);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(self.wrong_type("a whole number"));
        }
        let saturated = if self.raw.starts_with('-') { i64::MIN } else { i64::MAX };
        Ok(self.raw.parse().unwrap_or(saturated))
    }

    /// Its members.
    ///
    /// # Errors
    /// `InvalidField` when it is no object, or a member is given twice.
    pub fn object(self) -> Result<Fields<'a>, Refusal> {
        if !self.raw.starts_with('{') {
            return Err(self.wrong_type("an object"));
        }
        Fields::members(self.path, self.raw)
    }

    /// Its items.
    ///
    /// # Errors
    /// `InvalidField` when it is no array, or has more than `max` items.
    pub fn array(&self, max: usize) -> Result<Vec<Field<'a>>, Refusal> {
        if !self.raw.starts_with('[') {
            return Err(self.wrong_type("an array"));
        }
        let all = Items {
            max: usize::MAX,
            too_many: &mut false,
        };
        let items = serde_json::Deserializer::from_str(self.raw)
            .deserialize_seq(all)
            .map_err(|error| bad_json(&error))?;
        if items.len() > max {
            return Err(self.invalid(format!("it has {} items; at most {max} are allowed", items.len())));
        }
        let item = |(at, raw)| Field {
            path: format!("{}[{at}]", self.path).into(),
            raw,
        };
        Ok(items.into_iter().enumerate().map(item).collect())
    }

    /// It as a value of its own, nested at most [`text::DEPTH_MAX`] deep.
    ///
    /// # Errors
    /// `InvalidField`, `UnprintableText`.
    pub fn value(&self) -> Result<serde_json::Value, Refusal> {
        text::check_json(&self.path, self.raw)?;
        serde_json::from_str(self.raw).map_err(|error| self.invalid(error.to_string()))
    }

    /// The refusal of this field.
    pub fn invalid(&self, why: impl Into<String>) -> Refusal {
        Refusal::InvalidField {
            field: self.path.clone().into_owned(),
            why: why.into(),
        }
    }

    fn wrong_type(&self, expected: &str) -> Refusal {
        wrong_type(&self.path, expected, self.raw)
    }
}

/// Whether a text is JSON.
///
/// # Errors
/// `BadJson` with line and column.
pub fn json(text: &str) -> Result<&RawValue, Refusal> {
    serde_json::from_str(text).map_err(|error| bad_json(&error))
}

/// The items of the JSON array that a body is, each with its text as it was sent.
///
/// # Errors
/// `BadJson` with line and column; `InvalidField` when it is no array; `TooManyEvents` above `max` items.
pub fn items(text: &str, max: usize) -> Result<Vec<&str>, Refusal> {
    if !text.trim_start().starts_with('[') {
        json(text)?;
        return Err(wrong_type(BODY, "an array", text.trim_start()));
    }
    let mut too_many = false;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let items = deserializer.deserialize_seq(Items {
        max,
        too_many: &mut too_many,
    });
    let items = items.and_then(|items| deserializer.end().map(|()| items));
    match items {
        Err(_) if too_many => Err(Refusal::TooManyEvents { limit: max }),
        items => items.map_err(|error| bad_json(&error)),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn wrong_type(path: &str, expected: &str, raw: &str) -> Refusal {
    let is = match raw.bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ if raw.contains(['.', 'e', 'E']) => "a number that is not written as a whole one",
        _ => "a number",
    };
    Refusal::InvalidField {
        field: path.to_owned(),
        why: format!("it must be {expected}, and is {is}"),
    }
}

fn bad_json(error: &serde_json::Error) -> Refusal {
    let detail = match error.classify() {
        Category::Eof => "it ends too early".to_owned(),
        _ => {
            let text = error.to_string();
            let end = text.rfind(" at line ").unwrap_or(text.len());
            text.get(..end).unwrap_or_default().to_owned()
        }
    };
    Refusal::BadJson {
        detail,
        line: error.line().max(1),
        column: error.column().max(1),
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(Cow<'de, str>, &'de str)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(Name(name)) = map.next_key()? {
            // The check for names given twice is quadratic: keep it small.
            if members.len() >= 256 {
                return Err(A::Error::custom("an object of the request has more than 256 members"));
            }
            let raw: &RawValue = map.next_value()?;
            members.push((name, raw.get()));
        }
        Ok(members)
    }
}

/// Reads items up to a number; that there were more is noted, and ends the reading.
struct Items<'a> {
    max: usize,
    too_many: &'a mut bool,
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = Vec<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(raw) = seq.next_element::<&RawValue>()? {
            if items.len() == self.max {
                *self.too_many = true;
                return Err(A::Error::custom("too many items"));
            }
            items.push(raw.get());
        }
        Ok(items)
    }
}

/// A member's name, borrowed where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests;
