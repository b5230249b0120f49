//! What presence says of itself.

use super::State;
use crate::{
    domain::{Limits, Scope},
    http::openapi::{Access, Answer, Operation, Schema, device_id},
    store::Transport,
};

/// Presence of one, of all, and as a feed.
pub fn operations(limits: &Limits) -> Vec<Operation> {
    let operation = |path, id| Operation::new("get", path, id, "presence", Access::Key(vec![Scope::Read])).refuses(["unavailable"]);
    vec![
        operation("/v1/devices/{id}/presence", "getPresence")
            .summary("Whether a device is there.")
            .device()
            .answer(Answer::json(200, "Its presence.", presence()))
            .refuses(["unknown-device", "removed-device"]),
        operation("/v1/presence", "listPresence")
            .summary("Presence of all devices, in order of their ids.")
            .paged(limits)
            .query(
                "filter",
                Schema::text(),
                "Those that it fits alone: a subset of AIP-160, with `state` in it.",
            )
            .refuses(["invalid-filter"])
            .answer(Answer::json(200, "A page of it.", Schema::page(presence()).named("Presences"))),
        operation("/v1/presence/stream", "streamPresence")
            .summary("Every connect and disconnect, in order, as server-sent events.")
            .text("`id` is the position in the feed: send the last one to go on where you were, to any node. The stream has no end.")
            .query(
                "after",
                Schema::text(),
                "The position behind which to begin; `0`: with all that is kept. Default: with what happens now.",
            )
            .header("Last-Event-ID", Schema::text(), "As `after`, and before it.")
            .answer(Answer::of(
                200,
                "Events `connected`, `disconnected`, `node-lost` and `gap`.",
                "text/event-stream",
                Schema::text(),
            ))
            .refuses(["invalid-field", "too-many-streams", "draining"]),
    ]
}

fn presence() -> Schema {
    let states = [State::Online, State::Away, State::Offline].map(|state| serde_json::json!(state));
    let close = Schema::object([("reason", Schema::text()), ("at", Schema::time())]).named("LastClose");
    Schema::object([
        ("device", device_id()),
        (
            "state",
            Schema::text()
                .with("enum", states.to_vec())
                .about("`away`: its connection broke, and its session waits to be resumed."),
        ),
        (
            "session_epoch",
            Schema::count()
                .or_null()
                .about("Rises with every session and never falls; offline, that of the last one."),
        ),
        ("connected_at", Schema::time().or_null()),
        ("last_seen_at", Schema::time().or_null().about("Its last proof of life.")),
        ("node", Schema::text().or_null()),
        ("transport", Schema::word(Transport::ALL.map(Transport::as_str)).or_null()),
        (
            "slow_since",
            Schema::time()
                .or_null()
                .about("Since when it has not taken what was written to it."),
        ),
        ("flooding", Schema::flag().about("It sends more than it may.")),
        ("last_close", close.or_null()),
        (
            "seat_changes",
            Schema::count().about("In this minute. Many: two devices have one identity."),
        ),
    ])
    .named("Presence")
}
