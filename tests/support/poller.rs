//! A device that polls, as a guide would have it: one HTTP request a connection.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{Answer, Backend, Service};

/// One event of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Polled {
    pub id: String,
    pub lane: String,
    pub seq: u64,
    pub event: Value,
}

#[derive(Clone, Debug)]
pub struct Poller {
    /// The door, without a key.
    backend: Backend,
    pub id: String,
    authorization: String,
}

impl Poller {
    /// A device of the default tenant, by its bare JID.
    pub fn new(service: &Service, id: &str, password: &str) -> Self {
        Self::logged_in_as(service, id, &format!("{id}@localhost"), password)
    }

    /// One that asks about `id` and logs in with that user name.
    pub fn logged_in_as(service: &Service, id: &str, user: &str, password: &str) -> Self {
        let backend = Backend {
            address: service.http,
            key: String::new(),
        };
        Self {
            backend,
            id: id.to_owned(),
            authorization: basic(user, password),
        }
    }

    pub fn try_request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> std::io::Result<Answer> {
        let mut all = vec![("authorization", self.authorization.as_str())];
        all.extend(headers);
        self.backend
            .try_request(method, &format!("/v1/devices/{}/{path}", self.id), &all, body)
    }

    #[track_caller]
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_request(method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// A poll with that query.
    #[track_caller]
    pub fn poll(&self, query: &str) -> Answer {
        self.request("GET", &format!("events?{query}"), &[], b"")
    }

    /// A poll that knows that entity tag.
    #[track_caller]
    pub fn poll_knowing(&self, query: &str, etag: &str) -> Answer {
        self.request("GET", &format!("events?{query}"), &[("if-none-match", etag)], b"")
    }

    /// A long poll behind `after`.
    pub fn wait(&self, after: &str, wait: Duration) -> Answer {
        self.poll(&format!("after={after}&wait={}", wait.as_secs()))
    }

    #[track_caller]
    pub fn acks(&self, body: &Value) -> Answer {
        self.request("POST", "acks", &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    #[track_caller]
    pub fn acknowledge(&self, ids: &[&str]) -> Value {
        self.acks(&json!({ "ids": ids })).expect(200).json()
    }
}

/// The value of `Authorization` (RFC 7617).
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

impl Answer {
    /// The events of an answer to a poll.
    #[track_caller]
    pub fn events(&self) -> Vec<Polled> {
        assert_eq!(self.status, 200, "{self:?}");
        let body = self.json();
        let event = |event: &Value| Polled {
            id: event["id"].as_str().expect("an id").to_owned(),
            lane: event["lane"].as_str().expect("a lane").to_owned(),
            seq: event["seq"].as_u64().expect("a seq"),
            event: event["event"].clone(),
        };
        body["events"].as_array().expect("events").iter().map(event).collect()
    }

    /// Their ids.
    #[track_caller]
    pub fn ids(&self) -> Vec<String> {
        self.events().into_iter().map(|event| event.id).collect()
    }

    /// Where an answer to a poll left off.
    #[track_caller]
    pub fn next(&self) -> String {
        self.json()["next"].as_str().expect("a next").to_owned()
    }
}
