//! What became of a delivery, in words: why a device did not get it, or not yet.

use serde_json::Value;

/// A text of an object.
pub fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

/// Whether that state is an end.
pub fn is_end(state: &str) -> bool {
    !matches!(state, "accepted" | "scheduled" | "queued" | "dispatched")
}

/// Whether the device has it.
pub fn is_delivered(state: &str) -> bool {
    matches!(state, "delivered" | "processed")
}

/// Why it is in that state. `presence`: that of its device, if it was asked for. Empty: there is nothing to say.
pub fn why(delivery: &Value, presence: Option<&Value>) -> String {
    let mut said: Vec<String> = Vec::new();
    match text(delivery, "state").unwrap_or_default() {
        "queued" => said.extend(presence.map(waits_for)),
        "dispatched" => said.push("written to its connection, not acknowledged yet".into()),
        "scheduled" => said.push("its time has not come".into()),
        "expired" => said.push(format!("its TTL ended at {}", text(delivery, "expires_at").unwrap_or("?"))),
        "replaced" => said.push(format!("by {}", text(delivery, "replaced_by").unwrap_or("a newer event"))),
        _ => {}
    }
    said.extend(text(delivery, "reason").map(str::to_owned));
    if let Some(outcome) = text(delivery, "outcome") {
        let code = text(delivery, "code").map(|code| format!(" {code}")).unwrap_or_default();
        let words = text(delivery, "text").map(|words| format!(": {words}")).unwrap_or_default();
        said.push(format!("the device says {outcome}{code}{words}"));
    }
    said.join("; ")
}

/// Why an event waits for a device with that presence.
fn waits_for(presence: &Value) -> String {
    let since = |name: &str| text(presence, name).map(|at| format!(" since {at}")).unwrap_or_default();
    match text(presence, "state").unwrap_or_default() {
        "online" if text(presence, "slow_since").is_some() => format!("the device does not read{}", since("slow_since")),
        "online" => "waits for its turn: behind others, or out of the window".into(),
        "away" => format!(
            "the connection of the device broke; last seen{}",
            since("last_seen_at").replace(" since", "")
        ),
        _ => match text(presence, "last_seen_at") {
            Some(at) => format!("the device is offline; last seen {at}"),
            None => "the device was never connected".into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_person_is_told_why() {
        let check = |delivery: Value, presence: Value, expected: &str| assert_eq!(why(&delivery, Some(&presence)), expected);
        let queued = json!({"state": "queued"});
        check(queued.clone(), json!({"state": "offline"}), "the device was never connected");
        check(
            queued.clone(),
            json!({"state": "offline", "last_seen_at": "T"}),
            "the device is offline; last seen T",
        );
        check(
            queued.clone(),
            json!({"state": "away", "last_seen_at": "T"}),
            "the connection of the device broke; last seen T",
        );
        check(
            queued.clone(),
            json!({"state": "online", "slow_since": "T"}),
            "the device does not read since T",
        );
        check(
            json!({"state": "queued", "outcome": "later", "code": "busy", "text": "recording"}),
            json!({"state": "online"}),
            "waits for its turn: behind others, or out of the window; the device says later busy: recording",
        );
        check(json!({"state": "expired", "expires_at": "T"}), json!({}), "its TTL ended at T");
        check(json!({"state": "replaced", "replaced_by": "e2"}), json!({}), "by e2");
        check(json!({"state": "failed", "reason": "poison"}), json!({}), "poison");
        check(json!({"state": "delivered"}), json!({}), "");
        assert_eq!(why(&queued, None), "");
        assert!(is_end("expired") && !is_end("dispatched") && is_delivered("processed") && !is_delivered("failed"));
    }
}
