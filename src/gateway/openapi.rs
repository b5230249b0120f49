//! What the doors on HTTP say of themselves: polls, and the WebSocket.

use serde_json::json;

use super::poll::Config;
use crate::{
    domain::Status,
    http::openapi::{Access, Answer, Operation, READS_JSON, Schema, event_id},
};

/// A device's own calls, and where it finds its WebSocket.
pub fn operations(config: &Config) -> Vec<Operation> {
    let mut all = polls(config);
    all.extend(websocket());
    all
}

fn polls(config: &Config) -> Vec<Operation> {
    let wait = format!(
        "How long to wait for an event, in seconds. Default: 0; at most {}.",
        config.wait_max_secs
    );
    vec![
        Operation::new("get", "/v1/devices/{id}/events", "pollEvents", "device", Access::Device)
            .summary("What waits for the device that calls.")
            .text("It shows; `acks` takes out of the queue.")
            .segment("id", Schema::text(), "The device itself.", "tsn-746")
            .query(
                "after",
                Schema::text(),
                "The `next` of an earlier answer: what came behind it. Opaque.",
            )
            .query("wait", Schema::count().between(0, config.wait_max_secs), &wait)
            .header("If-None-Match", Schema::text(), "The `ETag` of the last answer.")
            .answer(
                Answer::json(200, "The events, oldest first.", polled())
                    .header("ETag", Schema::text())
                    .header("Retry-After", Schema::count()),
            )
            .answer(
                Answer::empty(304, "Nothing is new.")
                    .header("ETag", Schema::text())
                    .header("Retry-After", Schema::count()),
            )
            .refuses(["invalid-field"]),
        Operation::new("post", "/v1/devices/{id}/acks", "acknowledgeEvents", "device", Access::Device)
            .summary("Acknowledge events, or say what became of them.")
            .text("Answered once it is stored. Exactly one of `ids`, `upto` and `outcomes`.")
            .segment("id", Schema::text(), "The device itself.", "tsn-746")
            .body("application/json", acks(config))
            .example("by id", json!({"ids": ["mfrggzdfmztwq2lkmfrggzdfmztwq2lk"]}))
            .example(
                "outcomes",
                json!({"outcomes": [{"id": "mfrggzdfmztwq2lkmfrggzdfmztwq2lk", "status": "failed", "retry": 30, "code": "disk-full"}]}),
            )
            .answer(Answer::json(200, "What it did.", acknowledged()))
            .refuses(READS_JSON)
            .refuses(["no-space"]),
    ]
}

fn polled() -> Schema {
    let event = Schema::object([
        ("id", event_id()),
        ("lane", Schema::text().about("Numbers count within one lane.")),
        (
            "seq",
            Schema::count().about("A repeat has a number that is not above the last one of its lane."),
        ),
        ("event", Schema::map(Schema::anything()).about("The CloudEvent.")),
    ]);
    Schema::object([
        ("events", Schema::list(event)),
        ("next", Schema::text().about("For `after` and `upto`.")),
        ("poll_after_seconds", Schema::count()),
    ])
    .named("Polled")
}

fn acks(config: &Config) -> Schema {
    let outcome = Schema::object([
        ("id", Schema::text()),
        ("status", Schema::word(Status::ALL.map(Status::as_str))),
        (
            "retry?",
            Schema::count().about("With `failed`: it wants the event again after so many seconds."),
        ),
        ("code?", Schema::text().about("A word of its own for programs.")),
        ("text?", Schema::text().about("For people.")),
        ("data?", Schema::anything()),
    ]);
    Schema::any_of([
        Schema::object([("ids", Schema::list(Schema::text()).with("maxItems", config.acks_max))]),
        Schema::object([("upto", Schema::text().about("The `next` of an answer: all that it showed."))]),
        Schema::object([("outcomes", Schema::list(outcome).with("maxItems", super::poll::OUTCOMES_MAX))]),
    ])
    .named("Acks")
}

fn acknowledged() -> Schema {
    Schema::object([
        ("acknowledged", Schema::count().about("Deliveries that it ended.")),
        ("ended_before", Schema::count()),
        ("put_off?", Schema::count().about("Events that wait once more.")),
        (
            "outcome_wanted?",
            Schema::list(Schema::text()).about("Events that require an outcome."),
        ),
        (
            "unknown",
            Schema::list(Schema::text()).about("Ids that are no events of this device."),
        ),
    ])
    .named("Acknowledged")
}

fn websocket() -> Vec<Operation> {
    let meta = |path, id, kind, schema| {
        Operation::new("get", path, id, "device", Access::Open)
            .summary("Where the WebSocket of a domain is (XEP-0156).")
            .answer(Answer::of(200, "A link to it.", kind, schema).header("Access-Control-Allow-Origin", Schema::word(["*"])))
            .refuses(["tls-required", "invalid-field"])
    };
    let link = Schema::object([("rel", Schema::text()), ("href", Schema::text().with("format", "uri"))]);
    vec![
        Operation::new("get", "/xmpp-websocket", "connectWebSocket", "device", Access::Open)
            .summary("XMPP over WebSocket (RFC 7395), on HTTPS. Devices log in inside.")
            .answer(Answer::empty(101, "From here on it is a WebSocket."))
            .refuses([
                "upgrade-required",
                "bad-handshake",
                "tls-required",
                "foreign-origin",
                "invalid-field",
                "draining",
            ]),
        meta("/.well-known/host-meta", "getHostMeta", "application/xrd+xml", Schema::text()),
        meta(
            "/.well-known/host-meta.json",
            "getHostMetaJson",
            "application/json",
            Schema::object([("links", Schema::list(link))]),
        ),
    ]
}
