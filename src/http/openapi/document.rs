//! All operations, as one OpenAPI 3.1 document.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    Access, Answer, Operation, Schema,
    operation::{Content, Parameter},
};
use crate::{
    domain::{Explained, Scope, explained},
    http::problem,
};

/// What the document says of the whole.
const ABOUT: &str = "Events in, outcomes back. A backend calls with a key (`Authorization: Bearer …`), a device about itself with its own \
credentials. Every refusal is a problem (RFC 9457) whose `type` leads to its page. After a 4xx nothing is stored; after a `503` the event \
may be, so retry with the same key. `429` and `503` carry `Retry-After`.";

/// The document of the HTTP interface.
#[derive(Clone, Debug)]
pub struct Document {
    json: Value,
    faults: Vec<String>,
}

impl Document {
    /// Puts the operations together.
    pub fn new(operations: Vec<Operation>) -> Self {
        let explained = explained();
        let mut written = Written {
            explained: &explained,
            schemas: Map::new(),
            faults: Vec::new(),
        };
        let (mut paths, mut tags, mut ids) = (Map::new(), Vec::new(), Vec::new());
        for operation in &operations {
            if !tags.contains(&operation.tag) {
                tags.push(operation.tag);
            }
            if ids.contains(&operation.id) {
                written.fault(format!("two operations have the id {}", operation.id));
            }
            ids.push(operation.id);
            let shown = written.operation(operation);
            let path = paths.entry(operation.path).or_insert_with(|| json!({}));
            let twice = path
                .as_object_mut()
                .and_then(|path| path.insert(operation.method.to_owned(), shown));
            if twice.is_some() {
                written.fault(format!("{} {} is described twice", operation.method, operation.path));
            }
        }
        written.hoist(&mut problem_schema().0);
        let examples: Map<String, Value> = explained.iter().map(Explained::example).collect();
        let tags: Vec<Value> = tags.into_iter().map(|tag| json!({ "name": tag })).collect();
        let json = json!({
            "openapi": "3.1.0",
            "info": {
                "title": "unpoll",
                "version": env!("CARGO_PKG_VERSION"),
                "description": ABOUT,
                "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "tags": tags,
            "paths": paths,
            "components": {"schemas": written.schemas, "examples": examples, "securitySchemes": security_schemes()},
        });
        Self {
            json,
            faults: written.faults,
        }
    }

    /// The document.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// What is wrong with the descriptions: a problem that is not in the table, a name given twice. Tests want none.
    pub fn faults(&self) -> &[String] {
        &self.faults
    }
}

impl Explained {
    fn example(&self) -> (String, Value) {
        let face = self.refusal.face();
        let value = Value::Object(problem(&self.refusal));
        (face.slug.to_owned(), json!({"summary": face.title, "value": value}))
    }
}

/// What the document is made with.
struct Written<'a> {
    explained: &'a [Explained],
    schemas: Map<String, Value>,
    faults: Vec<String>,
}

impl<'a> Written<'a> {
    fn fault(&mut self, what: String) {
        self.faults.push(what);
    }

    fn operation(&mut self, operation: &Operation) -> Value {
        let mut shown = json!({
            "operationId": operation.id,
            "tags": [operation.tag],
            "summary": operation.summary,
            "security": security(&operation.access),
        });
        let mut member = |name: &str, value: Value| {
            if let Some(members) = shown.as_object_mut() {
                members.insert(name.to_owned(), value);
            }
        };
        if !operation.text.is_empty() {
            member("description", operation.text.as_str().into());
        }
        if !operation.parameters.is_empty() {
            let parameters = operation.parameters.iter().map(|one| self.parameter(one)).collect();
            member("parameters", Value::Array(parameters));
        }
        if !operation.bodies.is_empty() {
            let content: Map<String, Value> = operation.bodies.iter().map(|body| self.content(body)).collect();
            member("requestBody", json!({"required": operation.body_required, "content": content}));
        }
        let mut responses: BTreeMap<String, Value> = BTreeMap::new();
        for answer in &operation.answers {
            let shown = self.answer(answer);
            if responses.insert(answer.status.to_string(), shown).is_some() {
                self.fault(format!("{}: {} is described twice", operation.id, answer.status));
            }
        }
        for (status, problems) in self.problems(operation) {
            let refusal = refusal(&problems);
            if responses.insert(status.to_string(), refusal).is_some() {
                self.fault(format!("{}: {status} is both an answer and a problem", operation.id));
            }
        }
        let responses: Map<String, Value> = responses.into_iter().collect();
        member("responses", Value::Object(responses));
        shown
    }

    fn parameter(&mut self, parameter: &Parameter) -> Value {
        let mut schema = parameter.schema.0.clone();
        self.hoist(&mut schema);
        let mut shown = json!({
            "name": parameter.name,
            "in": parameter.place,
            "required": parameter.place == "path",
            "description": parameter.text,
            "schema": schema,
        });
        if let (Some(example), Some(members)) = (&parameter.example, shown.as_object_mut()) {
            members.insert("example".into(), example.clone());
        }
        shown
    }

    fn content(&mut self, content: &Content) -> (String, Value) {
        let mut schema = content.schema.0.clone();
        self.hoist(&mut schema);
        let mut shown = json!({ "schema": schema });
        if let (false, Some(members)) = (content.examples.is_empty(), shown.as_object_mut()) {
            let examples = content
                .examples
                .iter()
                .map(|(name, value)| ((*name).to_owned(), json!({ "value": value })));
            members.insert("examples".into(), Value::Object(examples.collect()));
        }
        (content.media_type.to_owned(), shown)
    }

    fn answer(&mut self, answer: &Answer) -> Value {
        let mut shown = json!({ "description": answer.text });
        let Some(members) = shown.as_object_mut() else { return shown };
        if !answer.headers.is_empty() {
            let mut headers = Map::new();
            for (name, schema) in &answer.headers {
                let mut schema = schema.0.clone();
                self.hoist(&mut schema);
                headers.insert((*name).to_owned(), json!({"required": true, "schema": schema}));
            }
            members.insert("headers".into(), Value::Object(headers));
        }
        if !answer.contents.is_empty() {
            let content: Map<String, Value> = answer.contents.iter().map(|content| self.content(content)).collect();
            members.insert("content".into(), Value::Object(content));
        }
        shown
    }

    /// The problems of an operation, by status.
    fn problems(&mut self, operation: &Operation) -> BTreeMap<u16, Vec<&'a Explained>> {
        let mut found: BTreeMap<u16, Vec<&'a Explained>> = BTreeMap::new();
        for slug in &operation.refuses {
            let known = self.explained.iter().find(|one| one.refusal.face().slug == *slug);
            let Some(known) = known else {
                self.faults.push(format!("{}: no problem is called {slug}", operation.id));
                continue;
            };
            let list = found.entry(known.refusal.face().status).or_default();
            if !list.iter().any(|one| one.refusal.face().slug == *slug) {
                list.push(known);
            }
        }
        found
    }

    /// Moves every schema that has a name of its own to the components, and leaves a reference.
    fn hoist(&mut self, schema: &mut Value) {
        match schema {
            Value::Object(members) => {
                members.values_mut().for_each(|member| self.hoist(member));
                let Some(name) = members.get("title").and_then(Value::as_str).map(str::to_owned) else {
                    return;
                };
                members.shift_remove("title");
                let found = Value::Object(std::mem::take(members));
                match self.schemas.get(&name) {
                    Some(known) if *known != found => self.fault(format!("two schemas have the name {name}")),
                    Some(_) => {}
                    None => drop(self.schemas.insert(name.clone(), found)),
                }
                *schema = json!({"$ref": format!("#/components/schemas/{name}")});
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.hoist(item)),
            _ => {}
        }
    }
}

/// The answer of one status that is some problem.
fn refusal(problems: &[&Explained]) -> Value {
    let (mut text, mut types, mut examples) = (Vec::new(), Vec::new(), Map::new());
    for known in problems {
        let face = known.refusal.face();
        text.push(format!("`{}`: {}.", face.slug, face.title));
        types.push(format!("/problems/{}", face.slug));
        examples.insert(
            face.slug.to_owned(),
            json!({"$ref": format!("#/components/examples/{}", face.slug)}),
        );
    }
    let schema = json!({
        "allOf": [{"$ref": "#/components/schemas/Problem"}],
        "properties": {"type": {"enum": types}},
    });
    let mut shown = json!({
        "description": text.join(" "),
        "content": {"application/problem+json": {"schema": schema, "examples": examples}},
    });
    let mut headers = Map::new();
    if problems.iter().any(|known| known.refusal.retry_after().is_some()) {
        let seconds = json!({"type": "integer", "minimum": 1});
        headers.insert(
            "Retry-After".into(),
            json!({"required": true, "description": "When to try again, in seconds.", "schema": seconds}),
        );
    }
    if problems.iter().any(|known| known.refusal.face().status == 401) {
        headers.insert("WWW-Authenticate".into(), json!({"required": true, "schema": {"type": "string"}}));
    }
    if let (false, Some(members)) = (headers.is_empty(), shown.as_object_mut()) {
        members.insert("headers".into(), Value::Object(headers));
    }
    shown
}

fn problem_schema() -> Schema {
    Schema::object([
        (
            "type",
            Schema::text()
                .with("format", "uri-reference")
                .about("Its end is the slug; it leads to a page."),
        ),
        ("title", Schema::text().about("The same for every occurrence.")),
        ("status", Schema::count()),
        ("detail", Schema::text().about("What is wrong here, and what to do.")),
        ("field?", Schema::text().about("The path of the field: `target.device`.")),
        ("parameter?", Schema::text().about("The query parameter.")),
        ("offset?", Schema::count().about("Of the byte, within the field or the body.")),
        ("line?", Schema::count().about("From 1.")),
        ("column?", Schema::count().about("From 1.")),
        ("limit?", Schema::count().about("The bound that was reached.")),
        ("event?", super::event_id()),
        (
            "violated-policies?",
            Schema::list(Schema::text()).about("Whose limit it is: `tenant` or `key`."),
        ),
    ])
    .named("Problem")
    .about("A problem (RFC 9457).")
}

/// What a caller must have: for a key one of the scopes, by the names that OpenAPI 3.1 allows beside any scheme.
fn security(access: &Access) -> Value {
    match access {
        Access::Open => json!([]),
        Access::Key(scopes) if scopes.is_empty() => json!([{ "key": [] }]),
        Access::Key(scopes) => scopes.iter().map(|scope| json!({ "key": [scope] })).collect(),
        Access::Device => json!([{ "device": [] }, { "deviceToken": [] }]),
    }
}

fn security_schemes() -> Value {
    let scopes = [Scope::Push, Scope::Read, Scope::Admin, Scope::Operator]
        .map(Scope::as_str)
        .join("`, `");
    json!({
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": format!(
                "An API key. The scope that an operation needs stands beside it, one of `{scopes}`: `admin` and `operator` may do all that \
                 `push` and `read` may, `operator` all that `admin` may."
            ),
        },
        "device": {
            "type": "http",
            "scheme": "basic",
            "description": "The bare JID of the device, such as `tsn-746@example.org`, and its password.",
        },
        "deviceToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "The token of the device."},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(slug: &'static str, schema: Schema) -> Operation {
        Operation::new("get", "/v1/things", "listThings", "things", Access::Key(vec![Scope::Read]))
            .answer(Answer::json(200, "Things.", schema))
            .refuses([slug])
    }

    #[test]
    fn a_name_is_written_once_and_referred_to() {
        let document = Document::new(vec![described("unavailable", Schema::list(super::super::event_id()))]);
        assert_eq!(document.faults(), [] as [String; 0]);
        let json = document.json();
        let answers = &json["paths"]["/v1/things"]["get"]["responses"];
        let items = &answers["200"]["content"]["application/json"]["schema"]["items"];
        assert_eq!(items, &json!({"$ref": "#/components/schemas/EventId"}));
        assert_eq!(json["components"]["schemas"]["EventId"]["type"], "string");
        assert_eq!(answers["503"]["headers"]["Retry-After"]["required"], true);
        assert_eq!(json["paths"]["/v1/things"]["get"]["security"], json!([{"key": ["read"]}]));
    }

    #[test]
    fn what_does_not_fit_together_is_a_fault() {
        let two = Schema::object([("a", Schema::text().named("X")), ("b", Schema::count().named("X"))]);
        let check = |operations, fault: &str| {
            let document = Document::new(operations);
            assert!(document.faults().iter().any(|one| one.contains(fault)), "{:?}", document.faults());
        };
        check(vec![described("no-such-slug", Schema::text())], "no problem is called no-such-slug");
        check(vec![described("internal", two)], "two schemas have the name X");
        check(
            vec![described("internal", Schema::text()), described("internal", Schema::text())],
            "described twice",
        );
    }
}
