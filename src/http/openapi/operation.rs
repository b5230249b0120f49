//! One operation: a method of a path, what it takes and every answer that it can give.

use serde_json::Value;

use super::Schema;
use crate::domain::{Limits, Scope};

/// What every operation may refuse that reads a JSON body.
pub const READS_JSON: [&str; 9] = [
    "bad-json",
    "bad-utf8",
    "unprintable-text",
    "unknown-field",
    "missing-field",
    "invalid-field",
    "body-too-large",
    "body-too-slow",
    "body-broken",
];
/// What every operation may refuse that reads a body line by line.
pub const READS_LINES: [&str; 4] = ["unsupported-media-type", "invalid-field", "body-too-slow", "body-broken"];

/// Who may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// Who has a key with one of these scopes; none: with any.
    Key(Vec<Scope>),
    /// A device about itself.
    Device,
}

/// A method of a path. Everything but [`Operation::new`] adds to it.
#[derive(Clone, Debug)]
pub struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    pub(super) text: String,
    pub(super) access: Access,
    pub(super) parameters: Vec<Parameter>,
    pub(super) bodies: Vec<Content>,
    pub(super) body_required: bool,
    pub(super) answers: Vec<Answer>,
    pub(super) refuses: Vec<&'static str>,
}

/// A parameter.
#[derive(Clone, Debug)]
pub(super) struct Parameter {
    pub place: &'static str,
    pub name: &'static str,
    pub schema: Schema,
    pub text: String,
    pub example: Option<Value>,
}

/// A body in one content type, with its examples: a name, and the value (a text where the type is not JSON).
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub media_type: &'static str,
    pub schema: Schema,
    pub examples: Vec<(&'static str, Value)>,
}

/// An answer that is no problem.
#[derive(Clone, Debug)]
pub struct Answer {
    pub(super) status: u16,
    pub(super) text: &'static str,
    pub(super) headers: Vec<(&'static str, Schema)>,
    pub(super) contents: Vec<Content>,
}

impl Operation {
    /// `method` in lower case, `path` as the route is mounted, `id` unique, `tag` the heading that it stands under.
    pub fn new(method: &'static str, path: &'static str, id: &'static str, tag: &'static str, access: Access) -> Self {
        let mut refuses = vec!["overloaded", "internal"];
        match &access {
            Access::Open => {}
            Access::Key(scopes) => {
                refuses.extend([
                    "unauthenticated",
                    "expired-key",
                    "invalid-token",
                    "no-issuer-keys",
                    "invalid-parameter",
                ]);
                refuses.extend((!scopes.is_empty()).then_some("forbidden"));
            }
            Access::Device => refuses.extend([
                "wrong-credentials",
                "too-many-wrong",
                "other-device",
                "invalid-parameter",
                "unavailable",
            ]),
        }
        if path.contains('{') {
            refuses.push("unknown-path");
        }
        Self {
            method,
            path,
            id,
            tag,
            summary: "",
            text: String::new(),
            access,
            parameters: Vec::new(),
            bodies: Vec::new(),
            body_required: true,
            answers: Vec::new(),
            refuses,
        }
    }

    /// What it is for, in one line.
    pub fn summary(mut self, summary: &'static str) -> Self {
        self.summary = summary;
        self
    }

    /// What there is to know about it.
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }

    /// A segment of the path, with an example.
    pub fn segment(self, name: &'static str, schema: Schema, text: &str, example: &str) -> Self {
        self.parameter("path", name, schema, text, Some(example.into()))
    }

    /// The device that the path names.
    pub fn device(self) -> Self {
        self.segment("id", super::device_id(), "The device.", "tsn-746")
            .refuses(["invalid-device-id"])
    }

    /// The event that the path names.
    pub fn event(self) -> Self {
        self.segment("id", super::event_id(), "The event.", "mfrggzdfmztwq2lkmfrggzdfmztwq2lk")
            .refuses(["unknown-event"])
    }

    /// A query parameter that may be left out.
    pub fn query(self, name: &'static str, schema: Schema, text: &str) -> Self {
        self.parameter("query", name, schema, text, None)
    }

    /// `limit` and `cursor`.
    pub fn paged(self, limits: &Limits) -> Self {
        let most = u64::try_from(limits.page_max).unwrap_or(u64::MAX);
        let text = format!("The most items on the page. Default: {}.", limits.page_default);
        self.query("limit", Schema::count().between(1, most), &text).query(
            "cursor",
            Schema::text(),
            "The `next` of the page before. Opaque.",
        )
    }

    /// A header that may be left out.
    pub fn header(self, name: &'static str, schema: Schema, text: &str) -> Self {
        self.parameter("header", name, schema, text, None)
    }

    fn parameter(mut self, place: &'static str, name: &'static str, schema: Schema, text: &str, example: Option<Value>) -> Self {
        self.parameters.push(Parameter {
            place,
            name,
            schema,
            text: text.to_owned(),
            example,
        });
        self
    }

    /// A body that it takes. Called again for another content type.
    pub fn body(mut self, media_type: &'static str, schema: Schema) -> Self {
        self.bodies.push(Content {
            media_type,
            schema,
            examples: Vec::new(),
        });
        self
    }

    /// An example of the body added last. Tests send it.
    pub fn example(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        if let Some(body) = self.bodies.last_mut() {
            body.examples.push((name, value.into()));
        }
        self
    }

    /// The body may be left out.
    pub fn body_optional(mut self) -> Self {
        self.body_required = false;
        self
    }

    /// An answer.
    pub fn answer(mut self, answer: Answer) -> Self {
        self.answers.push(answer);
        self
    }

    /// Problems that it answers, by slug, beside those that its access and its path imply.
    pub fn refuses(mut self, slugs: impl IntoIterator<Item = &'static str>) -> Self {
        self.refuses.extend(slugs);
        self
    }
}

impl Answer {
    /// An answer without a body.
    pub fn empty(status: u16, text: &'static str) -> Self {
        Self {
            status,
            text,
            headers: Vec::new(),
            contents: Vec::new(),
        }
    }

    /// An answer in JSON.
    pub fn json(status: u16, text: &'static str, schema: Schema) -> Self {
        Self::of(status, text, "application/json", schema)
    }

    /// An answer of another type.
    pub fn of(status: u16, text: &'static str, media_type: &'static str, schema: Schema) -> Self {
        Self::empty(status, text).or(media_type, schema)
    }

    /// The same answer in another type.
    pub fn or(mut self, media_type: &'static str, schema: Schema) -> Self {
        self.contents.push(Content {
            media_type,
            schema,
            examples: Vec::new(),
        });
        self
    }

    /// A header that it always has.
    pub fn header(mut self, name: &'static str, schema: Schema) -> Self {
        self.headers.push((name, schema));
        self
    }

    /// An example of the body, in the type that was added last.
    pub fn example(mut self, value: impl Into<Value>) -> Self {
        if let Some(content) = self.contents.last_mut() {
            content.examples.push(("example", value.into()));
        }
        self
    }
}
