//! What the ingress says of itself.

use serde_json::{Value, json};

use crate::{
    domain::{DeliveryState, Durability, GROUP_DEVICES_MAX, Limits, Scope},
    http::openapi::{Access, Answer, Operation, READS_JSON, Schema, device_id, event_id, require, urgency},
};

const DURABILITY: [Durability; 4] = [Durability::Disk, Durability::Replicated, Durability::Primary, Durability::None];

/// `POST /v1/events`.
pub fn operations(limits: &Limits) -> Vec<Operation> {
    let key_max = limits.idempotency_key_max_bytes;
    vec![
        Operation::new("post", "/v1/events", "postEvent", "events", Access::Key(vec![Scope::Push]))
            .summary("Post an event.")
            .text(
                "The event is stored as durably as `Push-Durability` names before the answer. Native JSON, or a CloudEvent 1.0: structured, \
                 or binary with `ce-` headers, whose body is then the data. Many events come as a batch or as NDJSON: each stands alone, one that \
                 is refused spoils no other, and the answer tells of each by its `index`. Retry with the same key after a `503`, or when no answer came.",
            )
            .query(
                "validate_only",
                Schema::flag(),
                "Checks everything but the room in the queue, stores nothing, and answers how many devices it is for.",
            )
            .query(
                "results",
                Schema::word(["summary", "errors", "all"]),
                "With many events: the counts (default), or a line for each that was refused, or for each one, as soon as it is known.",
            )
            .header(
                "Idempotency-Key",
                Schema::text().long(1, key_max),
                "Who posts the same again gets the first answer again. Else `source` and `id` of the event, when both are given.",
            )
            .header("TTL", ttl(limits), "As the field `ttl` (RFC 8030 §5.2).")
            .header("Urgency", urgency(), "As the field `urgency` (RFC 8030 §5.3).")
            .body("application/json", native(limits))
            .example(
                "to a device",
                json!({
                    "target": {"device": "tsn-746"},
                    "type": "com.example.recording.scheduled",
                    "data": {"program": "SH016916860000"},
                    "ttl": 86_400,
                }),
            )
            .example(
                "to the devices of a user",
                json!({"target": {"user": "ann"}, "type": "com.example.profile.changed", "data": {"profile": 7}}),
            )
            .example(
                "all options",
                json!({
                    "id": "rec-88121", "source": "/scheduler", "type": "com.example.recording.scheduled", "time": "2026-11-22T01:30:00Z",
                    "data": {"program": "SH016916860000"}, "target": {"device": "tsn-746"},
                    "ttl": 86_400, "urgency": "high", "collapse_key": "todo-list", "require": "received",
                }),
            )
            .body("application/cloudevents+json", cloud_event(limits))
            .example("structured", cloud_event_example("rec-88122"))
            .body(
                "application/cloudevents-batch+json",
                Schema::list(Schema::anything()).about(&format!("CloudEvents, each judged alone; at most {}.", limits.batch_max_events)),
            )
            .example("a batch", json!([cloud_event_example("rec-88123"), cloud_event_example("rec-88124")]))
            .body(
                "application/x-ndjson",
                Schema::anything().about("An event a line: native or, where it has `specversion`, a CloudEvent. As many as you like."),
            )
            .example(
                "lines",
                "{\"target\":{\"device\":\"tsn-746\"},\"type\":\"com.example.line\",\"data\":1}\n{\"target\":{\"device\":\"tsn-746\"},\"type\":\"com.example.line\",\"data\":2}\n",
            )
            .answer(taken(
                202,
                "It is stored, and waits for its device.",
            ))
            .answer(taken_or_looked_at())
            .refuses(READS_JSON)
            .refuses([
                "unsupported-media-type",
                "no-target",
                "two-targets",
                "ttl-out-of-range",
                "data-too-large",
                "too-many-events",
                "rate-limited",
                "invalid-device-id",
                "unknown-device",
                "removed-device",
                "unknown-user",
                "too-many-targets",
                "key-reused",
                "queue-full",
                "no-space",
                "unavailable",
                "draining",
            ]),
    ]
}

fn ttl(limits: &Limits) -> Schema {
    Schema::count()
        .between(0, limits.ttl_max_secs)
        .about("Seconds that the event is worth delivering; 0: now or never.")
}

fn deliver_at(limits: &Limits) -> Schema {
    let text = format!(
        "Not before that time, at most {} s ahead. The TTL counts from it.",
        limits.deliver_at_max_secs
    );
    Schema::time().about(&text)
}

fn cloud_event_example(id: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/scheduler", "type": "com.example.recording.scheduled",
        "subject": "tsn-746", "pushttl": 600, "data": {"program": "SH016916860000"},
    })
}

fn collapse_key(limits: &Limits) -> Schema {
    Schema::text()
        .long(1, limits.collapse_key_max_bytes)
        .about("A newer event with the same key replaces one that is not yet delivered. Without control characters.")
}

fn target() -> Schema {
    Schema::object([
        ("device?", device_id()),
        (
            "devices?",
            Schema::list(device_id()).about(&format!("At most {GROUP_DEVICES_MAX}; the order means nothing.")),
        ),
        (
            "user?",
            Schema::text().long(1, 128).about("The devices that this user has at that moment."),
        ),
    ])
    .about("To whom: exactly one of them.")
}

fn base64() -> Schema {
    Schema::text()
        .with("contentEncoding", "base64")
        .about("Data that is not JSON. Not with `data`.")
}

fn native(limits: &Limits) -> Schema {
    Schema::object([
        ("target", target()),
        (
            "data?",
            Schema::anything().about("What the device reads. It, `data_base64` or `type` must be there."),
        ),
        ("data_base64?", base64()),
        (
            "datacontenttype?",
            Schema::text().with("minLength", 1).about("The type of the data."),
        ),
        (
            "id?",
            Schema::text()
                .with("minLength", 1)
                .about("As in CloudEvents; made by the service when it is left out."),
        ),
        (
            "source?",
            Schema::text()
                .with("minLength", 1)
                .about("As in CloudEvents. With `id` an idempotency key."),
        ),
        ("type?", Schema::text().with("minLength", 1).about("As in CloudEvents.")),
        ("time?", Schema::time().about("When it happened. Default: when it was accepted.")),
        ("ttl?", ttl(limits)),
        ("urgency?", urgency()),
        ("collapse_key?", collapse_key(limits)),
        ("deliver_at?", deliver_at(limits)),
        ("require?", require()),
    ])
    .named("Event")
}

fn cloud_event(limits: &Limits) -> Schema {
    let attribute = Schema::any_of([
        Schema::text(),
        Schema::flag(),
        Schema::number().with("type", "integer"),
        Schema::anything().with("type", "null"),
    ]);
    Schema::object([
        ("specversion", Schema::word(["1.0"])),
        ("id", Schema::text().with("minLength", 1)),
        ("source", Schema::text().with("minLength", 1)),
        ("type", Schema::text().with("minLength", 1)),
        (
            "subject?",
            Schema::text()
                .with("minLength", 1)
                .about("The device, when it is the id of one and no `pushdevice` is there."),
        ),
        ("time?", Schema::time()),
        ("datacontenttype?", Schema::text().with("minLength", 1)),
        ("dataschema?", Schema::text().with("minLength", 1)),
        ("data?", Schema::anything()),
        ("data_base64?", base64()),
        ("pushdevice?", device_id()),
        ("pushttl?", ttl(limits)),
        ("pushurgency?", urgency()),
        ("pushcollapsekey?", collapse_key(limits)),
        ("pushdeliverat?", deliver_at(limits)),
        ("pushrequire?", require()),
    ])
    .with("additionalProperties", attribute.into_json())
    .with("propertyNames", json!({"pattern": "^[a-z0-9_]+$"}))
    .named("CloudEvent")
    .about("Attributes that are not named here reach the device unchanged; one that starts with `push` and is not known is refused.")
}

fn accepted() -> Schema {
    Schema::object([
        ("id", event_id()),
        ("state", Schema::word(DeliveryState::ALL.map(DeliveryState::as_str))),
        ("durability", durability()),
    ])
    .named("Accepted")
}

fn durability() -> Schema {
    Schema::word(DURABILITY.map(Durability::as_str)).named("Durability").about(
        "`disk`: synced to the disk. `replicated`: in Redis and in every replica in step. `primary`: in Redis alone. `none`: nowhere, \
         because the TTL is 0.",
    )
}

fn taken(status: u16, text: &'static str) -> Answer {
    Answer::json(status, text, accepted())
        .header("Location", Schema::text().with("format", "uri-reference"))
        .header("Push-Durability", durability())
        .example(json!({"id": "mfrggzdfmztwq2lkmfrggzdfmztwq2lk", "state": "queued", "durability": "disk"}))
}

/// 200 is the repeat, what `validate_only` found, or what became of many: then without the headers.
fn taken_or_looked_at() -> Answer {
    let looked_at = Schema::object([("targets", Schema::count())]).named("Looked");
    Answer::json(
        200,
        "The repeat of an event that was taken before, with `Location` and `Push-Durability` as then; or, with `validate_only`, how many devices \
         it is for; or what became of many. With `results` `errors` or `all` in lines, of which the last has the `summary`.",
        Schema::any_of([accepted(), looked_at, many()]),
    )
    .or("application/x-ndjson", Schema::text())
}

fn many() -> Schema {
    let refused = Schema::object([
        ("index", Schema::count().about("From 0.")),
        ("status", Schema::count()),
        ("retry_after?", Schema::count().about("In seconds.")),
        ("problem", Schema::map(Schema::anything()).about("A problem (RFC 9457).")),
    ]);
    Schema::object([
        ("total", Schema::count()),
        ("accepted?", Schema::count()),
        ("repeated?", Schema::count()),
        ("durability?", Schema::map(Schema::count()).about("How many at each level.")),
        ("valid?", Schema::count().about("With `validate_only`, as `targets`.")),
        ("targets?", Schema::count()),
        ("refused", Schema::count()),
        ("failed", Schema::list(refused).about("The first hundred that were refused.")),
        ("left_off", Schema::count().about("How many more were refused.")),
        (
            "problem?",
            Schema::map(Schema::anything()).about("Why the request was not read to its end."),
        ),
    ])
    .named("Many")
}
