//! The audit log has every administrative change, whichever route makes it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::Service;

/// A method of a path, as `/openapi.json` has it.
struct Operation {
    method: String,
    path: String,
    described: Value,
}

impl Operation {
    /// Scopes of a key one of which it needs. `None`: it is no key that opens it.
    fn scopes(&self) -> Option<Vec<&str>> {
        let keys = self.described["security"]
            .as_array()?
            .iter()
            .filter_map(|way| way["key"].as_array());
        let scopes: Vec<&str> = keys.flatten().filter_map(Value::as_str).collect();
        (!scopes.is_empty()).then_some(scopes)
    }

    /// What makes comes first, what removes comes last.
    fn turn(&self) -> (usize, &str) {
        let order = ["PUT", "POST", "PATCH", "GET", "DELETE"];
        (order.iter().position(|method| *method == self.method).unwrap(), &self.path)
    }

    /// The example of its body, with its content type.
    fn body(&self) -> Option<(&str, Vec<u8>)> {
        let (media_type, content) = self.described["requestBody"]["content"].as_object()?.iter().next()?;
        let example = content["examples"].as_object().and_then(|examples| examples.values().next());
        let body = match &example?["value"] {
            Value::String(lines) => lines.clone(),
            other => other.to_string(),
        };
        Some((media_type, body.into_bytes()))
    }

    /// Its path with the examples of its parameters, or with what `made` has below that path.
    fn concrete(&self, made: &BTreeMap<String, String>) -> String {
        let mut path = self.path.clone();
        for parameter in self.described["parameters"].as_array().into_iter().flatten() {
            if parameter["in"] != "path" {
                continue;
            }
            let name = format!("{{{}}}", parameter["name"].as_str().unwrap());
            let example = parameter["example"]
                .as_str()
                .unwrap_or_else(|| panic!("{path} has no example of {name}"));
            let (above, _) = self.path.split_once(&format!("/{name}")).unwrap();
            let value = match made.get(above) {
                // What is to be done stands behind the id.
                Some(id) => id.clone() + example.find(':').map_or("", |at| &example[at..]),
                None => example.to_owned(),
            };
            path = path.replace(&name, &value);
        }
        path
    }
}

fn operations(document: &Value) -> Vec<Operation> {
    let paths = document["paths"].as_object().unwrap().iter();
    let all = paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().iter();
        methods.map(|(method, described)| Operation {
            method: method.to_uppercase(),
            path: path.clone(),
            described: described.clone(),
        })
    });
    all.collect()
}

/// Every operation that changes anything and is no event's, called as its own example says.
#[test]
fn every_route_that_changes_anything_is_for_admins_and_is_written_down() {
    let service = Service::start();
    let backend = service.backend();
    let mut changes = operations(&backend.get("/openapi.json").expect(200).json());
    changes.retain(|operation| {
        let changes = operation.method != "GET" || operation.path == "/v1/export";
        let of_events = operation.path == "/v1/events" || operation.path.starts_with("/v1/events/");
        changes && !of_events && operation.scopes().is_some()
    });
    changes.sort_by(|one, other| one.turn().cmp(&other.turn()));
    let (mut made, mut expected, mut done) = (BTreeMap::new(), Vec::new(), 0);
    for operation in &changes {
        let scopes = operation.scopes().unwrap();
        let of_admins = scopes.iter().all(|scope| ["admin", "operator"].contains(scope));
        assert!(of_admins, "{} {} is for {scopes:?}", operation.method, operation.path);
        let path = operation.concrete(&made);
        let (media_type, body) = operation.body().unwrap_or(("application/json", Vec::new()));
        let answer = backend.request(&operation.method, &path, &[("content-type", media_type)], &body);
        if operation.method == "POST"
            && answer.status == 201
            && let Some(id) = answer.json()["id"].as_str()
        {
            made.insert(operation.path.clone(), id.to_owned());
        }
        done += usize::from(answer.status < 300);
        expected.push(json!([operation.method, path, answer.status]));
    }
    let entries = backend.get("/v1/audit?limit=1000").expect(200).json();
    let entries = entries["items"].as_array().unwrap().iter();
    let written: Vec<Value> = entries
        .map(|entry| json!([entry["method"], entry["resource"], entry["outcome"]["status"]]))
        .collect();
    assert_eq!(written, expected);
    // All but the import of nothing.
    assert!(done >= 13, "{expected:?}");
    for path in ["/v1/webhooks", "/v1/keys"] {
        assert!(made.contains_key(path), "{path}: {expected:?}");
    }
}
