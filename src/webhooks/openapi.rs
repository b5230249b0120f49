//! What webhooks say of themselves.

use serde_json::json;

use super::sender::Verdict;
use crate::{
    domain::{DeliveryState, Limits, Scope},
    http::openapi::{Access, Answer, Operation, READS_JSON, Schema, device_id, event_id},
    store::WebhookEnd,
};

/// Why a change of the store may not be made.
const STORES: [&str; 3] = ["conflict", "no-space", "unavailable"];

/// Webhooks, and what they could not send.
pub fn operations(limits: &Limits) -> Vec<Operation> {
    let operation = |method, path, id| Operation::new(method, path, id, "webhooks", Access::Key(vec![Scope::Admin]));
    let one = |method, id| {
        operation(method, "/v1/webhooks/{id}", id)
            .segment("id", Schema::text(), "Its id.", "wh_mfrggzdfmztwq2lk")
            .refuses(["unknown-webhook", "unavailable"])
    };
    vec![
        operation("post", "/v1/webhooks", "postWebhook")
            .summary("Be told of receipts by HTTP, as Standard Webhooks 1.0.0 has it.")
            .text("The answer is the only place where the secret is ever shown. It begins with the receipts that come from now on.")
            .body("application/json", body(true))
            .example(
                "ends alone",
                json!({"url": "https://hooks.example.org/unpoll", "states": ["delivered", "expired"]}),
            )
            .answer(Answer::json(201, "The webhook.", webhook().with_secret()))
            .refuses(READS_JSON)
            .refuses(STORES)
            .refuses(["unsupported-media-type"]),
        operation("get", "/v1/webhooks", "listWebhooks")
            .summary("All webhooks.")
            .paged(limits)
            .answer(Answer::json(
                200,
                "A page of them.",
                Schema::page(webhook().schema("Webhook")).named("Webhooks"),
            ))
            .refuses(["unavailable"]),
        one("get", "getWebhook")
            .summary("A webhook, and how its sending goes.")
            .answer(Answer::json(200, "It.", webhook().with_work())),
        one("patch", "patchWebhook")
            .summary("Change a webhook, stop it, or let it go on.")
            .body("application/json", body(false))
            .example("let it go on", json!({"enabled": true}))
            .answer(Answer::json(200, "It, as it is now.", webhook().with_work()))
            .refuses(READS_JSON)
            .refuses(STORES)
            .refuses(["unsupported-media-type"]),
        one("delete", "removeWebhook")
            .summary("Remove a webhook, and what waits for it.")
            .answer(Answer::empty(204, "It is removed."))
            .refuses(STORES),
        operation("post", "/v1/webhooks/{id}", "actOnWebhook")
            .segment(
                "id",
                Schema::text(),
                "Its id, and what is to be done.",
                "wh_mfrggzdfmztwq2lk:rotate",
            )
            .summary("`:test`, `:rotate` or `:redrive`, behind the id.")
            .text(
                "`:test` sends one message that says nothing. `:rotate` gives another secret; the old one signs, too, for `grace_secs`. \
                 `:redrive` puts dead letters back among what waits, 500 at once.",
            )
            .body(
                "application/json",
                Schema::object([
                    ("secret?", secret().or_null()),
                    ("grace_secs?", Schema::count().between(0, 30 * 86_400)),
                ]),
            )
            .body_optional()
            .example("another secret", json!({"grace_secs": 3_600}))
            .answer(Answer::json(
                200,
                "What came of it.",
                Schema::any_of([webhook().with_secret(), tested(), redriven()]),
            ))
            .refuses(READS_JSON)
            .refuses(STORES)
            .refuses(["unsupported-media-type", "unknown-webhook", "unknown-path", "method-not-allowed"]),
        operation("get", "/v1/webhooks/{id}/dead-letters", "listDeadLetters")
            .summary("What could not be sent in time, the oldest first.")
            .segment("id", Schema::text(), "Its id.", "wh_mfrggzdfmztwq2lk")
            .paged(limits)
            .answer(Answer::json(
                200,
                "A page of them.",
                Schema::page(dead_letter()).named("DeadLetters"),
            ))
            .refuses(["unknown-webhook", "unavailable"]),
    ]
}

fn state() -> Schema {
    Schema::word(DeliveryState::ALL.map(DeliveryState::as_str))
}

fn secret() -> Schema {
    Schema::text().about("`whsec_` and base64 of 24 to 64 bytes. Default: a random one.")
}

fn body(new: bool) -> Schema {
    let url = Schema::text().about("`https`, to an address that is public or that the operator allows.");
    let mut members = vec![
        (if new { "url" } else { "url?" }, url),
        (
            "states?",
            Schema::list(state())
                .or_null()
                .about("Changes to these states alone. Default: all."),
        ),
        ("enabled?", Schema::flag()),
    ];
    if new {
        members.push(("secret?", secret().or_null()));
    }
    Schema::object(members)
}

/// The members of a webhook.
struct Members(Vec<(&'static str, Schema)>);

fn webhook() -> Members {
    let disabled = Schema::object([
        ("reason", Schema::word(WebhookEnd::ALL.map(WebhookEnd::as_str))),
        ("since", Schema::time()),
    ]);
    Members(vec![
        ("id", Schema::text()),
        ("url", Schema::text()),
        ("states", Schema::list(state()).about("Empty: all.")),
        ("enabled", Schema::flag()),
        ("disabled", disabled.or_null()),
        (
            "old_secret_until",
            Schema::time()
                .or_null()
                .about("Until when the secret before the newest signs, too."),
        ),
        ("created_at", Schema::time()),
        ("updated_at", Schema::time()),
    ])
}

impl Members {
    fn schema(self, name: &str) -> Schema {
        Schema::object(self.0).named(name)
    }

    fn with_secret(mut self) -> Schema {
        self.0.push(("secret", Schema::text()));
        self.schema("NewWebhook")
    }

    fn with_work(mut self) -> Schema {
        self.0.extend([
            ("waiting", Schema::count().about("Receipts that are to be sent again.")),
            ("oldest_waiting_at", Schema::time().or_null()),
            ("dead_letters", Schema::count()),
            ("delivered_at", Schema::time().or_null().about("When its receiver last took one.")),
            ("failing_since", Schema::time().or_null()),
            ("last_error", Schema::text().or_null()),
        ]);
        self.schema("WebhookStatus")
    }
}

fn tested() -> Schema {
    Schema::object([
        ("delivered", Schema::flag()),
        ("result", Schema::word(Verdict::ALL.map(Verdict::as_str))),
        ("status", Schema::count().or_null()),
        ("error", Schema::text().or_null()),
        ("took_ms", Schema::count()),
    ])
    .named("WebhookTest")
}

fn redriven() -> Schema {
    Schema::object([
        ("redriven", Schema::count()),
        ("dead_letters", Schema::count().about("Those that are left.")),
    ])
    .named("Redriven")
}

fn dead_letter() -> Schema {
    Schema::object([
        ("id", Schema::text().about("The `webhook-id` that it was sent with.")),
        ("event", event_id()),
        ("device", device_id()),
        ("state", state()),
        ("at", Schema::time()),
        ("attempts", Schema::count()),
        ("since", Schema::time()),
        ("given_up_at", Schema::time()),
        ("error", Schema::text().or_null()),
    ])
    .named("DeadLetter")
}
