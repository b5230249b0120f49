//! JSON Schema (draft 2020-12, which OpenAPI 3.1 speaks), as far as bodies and answers need it.

use serde_json::{Map, Value, json};

use crate::domain::{Require, Urgency};

/// The schema of one value. One that is [`Schema::named`] is written once, and referred to.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema(pub(super) Value);

impl Schema {
    fn of(kind: &str) -> Self {
        Self(json!({ "type": kind }))
    }

    /// Any JSON.
    pub fn anything() -> Self {
        Self(json!({}))
    }

    /// A text.
    pub fn text() -> Self {
        Self::of("string")
    }

    /// A whole number that is not negative.
    pub fn count() -> Self {
        Self::of("integer").with("minimum", 0)
    }

    /// Any number.
    pub fn number() -> Self {
        Self::of("number")
    }

    /// `true` or `false`.
    pub fn flag() -> Self {
        Self::of("boolean")
    }

    /// A time (RFC 3339).
    pub fn time() -> Self {
        Self::text().with("format", "date-time")
    }

    /// One of some words.
    pub fn word<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let words: Vec<&str> = words.into_iter().collect();
        Self::text().with("enum", words)
    }

    /// A list.
    pub fn list(items: Self) -> Self {
        Self::of("array").with("items", items.0)
    }

    /// An object whose names are data.
    pub fn map(values: Self) -> Self {
        Self::of("object").with("additionalProperties", values.0)
    }

    /// An object of these members and no others. One whose name ends with `?` may be left out.
    pub fn object<'a>(members: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for (name, schema) in members {
            let bare = name.trim_end_matches('?');
            if bare == name {
                required.push(name);
            }
            properties.insert(bare.to_owned(), schema.0);
        }
        let mut object = Self::of("object").with("properties", properties);
        if !required.is_empty() {
            object = object.with("required", required);
        }
        object.with("additionalProperties", false)
    }

    /// What fits at least one of these.
    pub fn any_of(schemas: impl IntoIterator<Item = Self>) -> Self {
        let schemas: Vec<Value> = schemas.into_iter().map(|schema| schema.0).collect();
        Self(json!({ "anyOf": schemas }))
    }

    /// A page of a list: `{items, next}`.
    pub fn page(items: Self) -> Self {
        Self::object([
            ("items", Self::list(items)),
            (
                "next",
                Self::text().or_null().about("The cursor of the next page; `null` at the end."),
            ),
        ])
    }

    /// The same with a keyword more.
    pub fn with(mut self, keyword: &str, value: impl Into<Value>) -> Self {
        if let Some(members) = self.0.as_object_mut() {
            members.insert(keyword.to_owned(), value.into());
        }
        self
    }

    /// The JSON of it.
    pub fn into_json(self) -> Value {
        self.0
    }

    /// The same under a name of its own.
    pub fn named(self, name: &str) -> Self {
        self.with("title", name)
    }

    /// The same, explained.
    pub fn about(self, text: &str) -> Self {
        self.with("description", text)
    }

    /// A text, of so many characters.
    pub fn long(self, least: usize, most: usize) -> Self {
        self.with("minLength", least).with("maxLength", most)
    }

    /// A number, between these.
    pub fn between(self, least: u64, most: u64) -> Self {
        self.with("minimum", least).with("maximum", most)
    }

    /// The same, or `null`.
    pub fn or_null(mut self) -> Self {
        let named = self.0.get("title").is_some();
        let kind = self.0.get("type").and_then(Value::as_str).map(str::to_owned);
        let (Some(kind), false) = (kind, named) else {
            return Self::any_of([self, Self::of("null")]);
        };
        if let Some(words) = self.0.get_mut("enum").and_then(Value::as_array_mut) {
            words.push(Value::Null);
        }
        self.with("type", vec![kind.as_str(), "null"])
    }
}

/// The id of a device.
pub fn device_id() -> Schema {
    Schema::text()
        .named("DeviceId")
        .with("pattern", "^[A-Za-z0-9._-]{1,64}$")
        .about("Folded to lower case.")
        .with("examples", vec!["tsn-746"])
}

/// The id of an event.
pub fn event_id() -> Schema {
    Schema::text()
        .named("EventId")
        .with("pattern", "^[a-z2-7]{32}$")
        .about("Opaque and unguessable.")
        .with("examples", vec!["mfrggzdfmztwq2lkmfrggzdfmztwq2lk"])
}

/// How urgent an event is.
pub fn urgency() -> Schema {
    Schema::word(Urgency::ALL.map(Urgency::as_str))
        .named("Urgency")
        .about("As in RFC 8030 §5.3; each is a lane of its own. Default: `normal`.")
}

/// What makes an event `delivered`.
pub fn require() -> Schema {
    let words = [Require::Acknowledged, Require::Received, Require::Processed];
    Schema::word(words.map(Require::as_str)).named("Require").about(
        "What makes it `delivered`. `acknowledged` (default): the device's XMPP library has it. `received`: its application has it. \
         `processed`: the device says what became of it.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_closed_and_names_what_it_needs() {
        let object = Schema::object([("id", Schema::text()), ("note?", Schema::count().or_null())]);
        assert_eq!(
            object.0,
            json!({
                "type": "object",
                "properties": {"id": {"type": "string"}, "note": {"type": ["integer", "null"], "minimum": 0}},
                "required": ["id"],
                "additionalProperties": false,
            })
        );
    }

    #[test]
    fn what_may_be_null_says_so() {
        assert_eq!(
            Schema::word(["a"]).or_null().0,
            json!({"type": ["string", "null"], "enum": ["a", null]})
        );
        let named = Schema::text().named("Name");
        assert_eq!(named.clone().or_null().0, json!({"anyOf": [named.0, {"type": "null"}]}));
    }
}
