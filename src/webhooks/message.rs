//! What is sent: one receipt, or one word about webhooks, in the form that Standard Webhooks recommends.

use data_encoding::BASE32_NOPAD;
use serde_json::{Value, json};

use crate::{
    domain::{Gap, Timestamp, sha256},
    store::{Receipt, Webhook, WebhookDisabled},
};

/// A message before it is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// `webhook-id`: the same whenever it is sent, so that a receiver drops a repeat.
    pub(super) id: String,
    /// The body.
    pub(super) body: String,
}

impl Message {
    fn new(id: String, kind: &str, at: Timestamp, data: &Value) -> Self {
        Self {
            id,
            body: json!({"type": kind, "timestamp": at, "data": data}).to_string(),
        }
    }

    /// The message of a receipt.
    ///
    /// # Errors
    /// When it cannot be written as JSON, which would be a bug.
    pub(super) fn of(receipt: &Receipt) -> Result<Self, serde_json::Error> {
        let mut data = serde_json::to_value(receipt)?;
        if let Some(members) = data.as_object_mut() {
            // A place in the store, and no fact of the delivery.
            members.shift_remove("position");
            // The event as its backend knows it, and under which id its device knows it.
            members.insert("delivery".into(), receipt.event.as_str().into());
            members.shift_remove("group");
            members.insert("event".into(), receipt.posted().into());
            // In the words that the stream of receipts has for it.
            if members.shift_remove("told").is_some()
                && let Some(told) = &receipt.told
            {
                members.insert("outcome".into(), told.status.as_str().into());
                members.insert("code".into(), told.code.as_deref().into());
                members.insert("text".into(), told.text.as_deref().into());
            }
        }
        let kind = format!("com.unpoll.delivery.{}", receipt.state);
        Ok(Self::new(id_of(receipt), &kind, receipt.at, &data))
    }

    /// That another webhook of the tenant was disabled.
    pub(super) fn disabled(webhook: &Webhook, disabled: &WebhookDisabled) -> Self {
        let id = digest("whd", &[&webhook.id, &disabled.since.0.to_string()]);
        let data = json!({"id": webhook.id, "url": webhook.url, "reason": disabled.reason, "since": disabled.since});
        Self::new(id, "com.unpoll.webhook.disabled", disabled.since, &data)
    }

    /// That receipts are missing, in the words of the stream of receipts.
    pub(super) fn gap(webhook: &Webhook, gap: &Gap, at: Timestamp) -> Self {
        let data = json!({"webhook": webhook.id, "after": gap.after, "from": gap.from, "to": gap.to, "reason": gap.reason});
        // Found again by whoever comes next, it is the same.
        let id = digest("gap", &[&data.to_string()]);
        Self::new(id, "com.unpoll.receipts.gap", at, &data)
    }

    /// A message that says nothing, to try whether a receiver takes it.
    pub(super) fn test(webhook: &Webhook, now: Timestamp) -> Self {
        let id = digest("wht", &[&webhook.id, &now.0.to_string()]);
        Self::new(id, "com.unpoll.webhook.test", now, &json!({"id": webhook.id}))
    }
}

/// The id of the message of a receipt. It is made of what the receipt says, and not of its place in a log: it stays the same when
/// everything is moved into another store.
pub(super) fn id_of(receipt: &Receipt) -> String {
    let at = receipt.at.0.to_string();
    digest("rcp", &[&receipt.event, &receipt.device, receipt.state.as_str(), &at])
}

/// The kind, and 160 bits of SHA-256.
fn digest(kind: &str, facts: &[&str]) -> String {
    let hash = sha256(facts.join("\0").as_bytes());
    let short = hash.first_chunk::<20>().map_or(&hash[..], |short| &short[..]);
    format!("{kind}_{}", BASE32_NOPAD.encode(short).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(position: u64, device: &str, at: u64) -> Receipt {
        let receipt = json!({
            "position": position, "event": "abc", "device": device, "state": "delivered", "at": Timestamp(at), "session_epoch": 7,
            "latency_ms": 40,
        });
        serde_json::from_value(receipt).unwrap()
    }

    #[test]
    fn a_receipt_is_a_message_whose_id_says_what_and_not_where() {
        let message = Message::of(&receipt(9, "tsn-1", 1_000)).unwrap();
        let body: Value = serde_json::from_str(&message.body).unwrap();
        assert_eq!(
            body,
            json!({
                "type": "com.unpoll.delivery.delivered",
                "timestamp": "1970-01-01T00:00:01.000Z",
                "data": {"event": "abc", "device": "tsn-1", "state": "delivered", "at": "1970-01-01T00:00:01.000Z", "session_epoch": 7,
                         "latency_ms": 40, "attempt": 1, "delivery": "abc"},
            })
        );
        assert_eq!(message, Message::of(&receipt(1 << 40, "tsn-1", 1_000)).unwrap());
        assert!(message.id.starts_with("rcp_") && message.id.len() == 36, "{}", message.id);
        assert_ne!(message.id, id_of(&receipt(9, "tsn-2", 1_000)));
        assert_ne!(message.id, id_of(&receipt(9, "tsn-1", 1_001)));
    }
}
