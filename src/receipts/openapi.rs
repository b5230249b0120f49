//! What the receipts say of themselves.

use serde_json::json;

use crate::{
    domain::{DeliveryState, Limits, Reason, Scope, Status},
    http::openapi::{Access, Answer, Operation, Schema, device_id, event_id, require, urgency},
    store::Transport,
};

/// Events, their deliveries, and the deliveries of a device.
pub fn operations(limits: &Limits) -> Vec<Operation> {
    let readers = || Access::Key(vec![Scope::Read, Scope::Push]);
    vec![
        Operation::new("get", "/v1/events/{id}", "getEvent", "events", readers())
            .summary("What became of an event.")
            .text(format!("A state is kept for {} s after its end.", limits.state_kept_secs))
            .event()
            .answer(Answer::json(200, "The event, with the counts of its deliveries.", event()))
            .refuses(["unavailable"]),
        Operation::new("delete", "/v1/events/{id}", "cancelEvent", "events", Access::Key(vec![Scope::Push]))
            .summary("Take an event back.")
            .text("Idempotent. What was delivered stays delivered.")
            .event()
            .answer(
                Answer::json(
                    200,
                    "How many deliveries it cancelled, now or before, and how many were delivered already.",
                    Schema::object([("cancelled", Schema::count()), ("delivered", Schema::count())]).named("Cancelled"),
                )
                .example(json!({"cancelled": 1, "delivered": 0})),
            )
            .refuses(["unknown-device", "removed-device", "no-space", "unavailable"]),
        Operation::new("get", "/v1/events/{id}/deliveries", "listDeliveries", "events", readers())
            .summary("Its deliveries, one for each device.")
            .event()
            .paged(limits)
            .query("state", state(), "Those in this state alone.")
            .query("device", device_id(), "That of this device alone.")
            .answer(Answer::json(200, "A page of them.", Schema::page(delivery()).named("Deliveries")))
            .refuses(["invalid-device-id", "unavailable"]),
        Operation::new(
            "get",
            "/v1/devices/{id}/deliveries",
            "listDeviceDeliveries",
            "devices",
            Access::Key(vec![Scope::Read]),
        )
        .summary("Everything sent to a device, newest first: why did it not get it?")
        .device()
        .paged(limits)
        .answer(Answer::json(
            200,
            "A page of deliveries.",
            Schema::page(delivery()).named("Deliveries"),
        ))
        .refuses(["unknown-device", "removed-device", "unavailable"]),
        Operation::new("get", "/v1/receipts", "streamReceipts", "events", readers())
            .summary("Every change of a delivery's state, as server-sent events.")
            .text("`id` is the position: send the last one to go on where you were, to any node. The stream has no end.")
            .query(
                "from",
                Schema::word(["oldest"]),
                "With all that is kept. Default: with what comes now.",
            )
            .query("last_event_id", Schema::text(), "The id of the last event that you have.")
            .query("device", Schema::text(), "Of these devices alone, with commas between them.")
            .query("event", Schema::text(), "Of these events alone.")
            .query("state", Schema::text(), "Changes to these states alone.")
            .header("Last-Event-ID", Schema::text(), "As `last_event_id`, and before it.")
            .answer(Answer::of(
                200,
                "Receipts, and `gap` where some are not kept any more.",
                "text/event-stream",
                Schema::text(),
            ))
            .refuses(["invalid-field", "too-many-consumers", "draining", "unavailable"]),
    ]
}

fn state() -> Schema {
    Schema::word(DeliveryState::ALL.map(DeliveryState::as_str)).named("State").about(
        "`queued`: waits for its device. `dispatched`: written to its connection, not acknowledged. `delivered`: acknowledged as `require` \
         says. `processed`: done, says the device. The others are ends without it.",
    )
}

fn event() -> Schema {
    let counts = DeliveryState::ALL.map(|state| (state.as_str(), Schema::count()));
    Schema::object([
        ("id", event_id()),
        (
            "part_of",
            event_id()
                .or_null()
                .about("The event to several devices that it is one delivery of, when it was asked for by the id of that delivery."),
        ),
        ("targets", Schema::count().about("How many devices it has.")),
        (
            "state",
            state().about(
                "Of an event to several devices: that of the delivery that is least far; then `processed` or `delivered` when one is that.",
            ),
        ),
        ("accepted_at", Schema::time()),
        ("expires_at", Schema::time()),
        ("urgency", urgency()),
        ("collapse_key", Schema::text().or_null()),
        ("deliver_at", Schema::time().or_null()),
        ("replaced_by", event_id().or_null()),
        ("require", require()),
        ("deliveries", Schema::object(counts).about("How many are in each state.")),
    ])
    .named("EventStatus")
}

fn session() -> Schema {
    Schema::object([
        ("epoch", Schema::count()),
        ("node", Schema::text()),
        ("transport", Schema::word(Transport::ALL.map(Transport::as_str))),
        ("connected_at", Schema::time()),
    ])
    .named("Session")
}

fn delivery() -> Schema {
    let outcomes = Status::ALL.map(Status::as_str).into_iter().chain(["late-ack"]);
    Schema::object([
        ("event", event_id()),
        (
            "delivery",
            event_id().about("Under which its device knows it: another id where the event went to several devices."),
        ),
        ("device", device_id()),
        ("state", state()),
        (
            "reason",
            Schema::word(Reason::ALL.map(Reason::as_str))
                .or_null()
                .about("Why it ended so, where the state alone does not say."),
        ),
        (
            "outcome",
            Schema::word(outcomes)
                .or_null()
                .about("What the device said of it; `late-ack`: it acknowledged after the end."),
        ),
        ("code", Schema::text().or_null().about("The device's own, as `text` and `data`.")),
        ("text", Schema::text().or_null()),
        ("data", Schema::anything()),
        ("replaced_by", event_id().or_null()),
        ("attempt", Schema::count()),
        ("lane", Schema::text()),
        ("seq", Schema::count().or_null()),
        ("deliver_at", Schema::time().or_null()),
        (
            "waits_for",
            Schema::word(["device", "session", "acknowledgement", "receipt", "outcome"])
                .or_null()
                .about("What is still to happen, while it waits."),
        ),
        (
            "session",
            session()
                .or_null()
                .about("The session that it was written to, and not acknowledged yet."),
        ),
        ("urgency", urgency()),
        ("accepted_at", Schema::time()),
        ("expires_at", Schema::time()),
        (
            "at",
            Schema::time().about("When it came into that state, as far as the store knows."),
        ),
        ("session_epoch", Schema::count().or_null()),
    ])
    .named("Delivery")
}
