//! Webhooks and dead letters as their tenant reads them. Secrets are shown where they are made, and nowhere else.

use serde_json::{Value, json};

use super::message::id_of;
use crate::store::{Unsent, Webhook, WebhookWork};

/// A webhook in a list.
pub(super) fn shown(webhook: &Webhook) -> Value {
    let rotating = webhook.secrets.iter().filter_map(|secret| secret.until).max();
    json!({
        "id": webhook.id,
        "url": webhook.url,
        "states": webhook.states,
        "enabled": webhook.disabled.is_none(),
        "disabled": webhook.disabled,
        "old_secret_until": rotating,
        "created_at": webhook.created_at,
        "updated_at": webhook.updated_at,
    })
}

/// One alone, with how its sending goes.
pub(super) fn shown_alone(webhook: &Webhook, work: &WebhookWork) -> Value {
    let mut shown = shown(webhook);
    let oldest = work.waiting.iter().map(|unsent| unsent.receipt.at).min();
    let sending = json!({
        "waiting": work.waiting.len(),
        "oldest_waiting_at": oldest,
        "dead_letters": work.dead_letters,
        "delivered_at": work.progress.delivered_at,
        "failing_since": work.progress.failing_since,
        "last_error": work.progress.error,
    });
    if let (Some(members), Value::Object(sending)) = (shown.as_object_mut(), sending) {
        members.extend(sending);
    }
    shown
}

/// The same with a secret that was just made.
pub(super) fn with_secret(mut shown: Value, secret: &str) -> Value {
    if let Some(members) = shown.as_object_mut() {
        members.insert("secret".into(), secret.into());
    }
    shown
}

/// A receipt that was given up.
pub(super) fn dead_letter(letter: &Unsent) -> Value {
    json!({
        "id": id_of(&letter.receipt),
        "event": letter.receipt.posted(),
        "delivery": letter.receipt.event,
        "device": letter.receipt.device,
        "state": letter.receipt.state,
        "at": letter.receipt.at,
        "attempts": letter.attempts,
        "since": letter.since,
        "given_up_at": letter.at,
        "error": letter.error,
    })
}
