//! A receipt, or a delivery, in one line.

use serde_json::{Value, json};

/// For a person, or with `as_json` for a program: then with the cursor behind which to go on, if there is one.
pub(super) fn receipt(data: &Value, cursor: &str, as_json: bool) -> String {
    if as_json {
        let mut data = data.clone();
        if let Some(fields) = data.as_object_mut().filter(|_| !cursor.is_empty()) {
            fields.insert("cursor".into(), cursor.into());
        }
        return data.to_string();
    }
    let text = |name: &str| data.get(name).and_then(Value::as_str);
    let word = |name: &str| text(name).unwrap_or("-").to_owned();
    let mut line = format!("{}  {:<10} {}  {}", word("at"), word("state"), word("device"), word("event"));
    if let Some(latency) = data.get("latency_ms").and_then(Value::as_u64) {
        line += &format!("  {latency} ms");
    }
    if let Some(attempt) = data.get("attempt").and_then(Value::as_u64).filter(|attempt| *attempt > 1) {
        line += &format!("  attempt {attempt}");
    }
    if let Some(by) = text("replaced_by") {
        line += &format!("  by {by}");
    }
    // What a device says may hold anything, also what a terminal would obey.
    for name in ["reason", "outcome", "code"] {
        if let Some(said) = text(name) {
            line += &format!("  {}", said.escape_debug());
        }
    }
    if let Some(said) = text("text") {
        line += &format!("  {said:?}");
    }
    line
}

/// A gap, for a program.
pub(super) fn gap(data: &Value, cursor: &str) -> String {
    json!({ "gap": data, "cursor": cursor }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_one_line_that_no_terminal_obeys() {
        let data = json!({
            "event": "e1", "device": "box", "state": "failed", "reason": "device-failed", "outcome": "failed", "code": "disk\u{1b}[2J",
            "text": "no\nroom", "replaced_by": null, "attempt": 3, "at": "2026-11-29T12:00:00.000Z", "session_epoch": 5, "latency_ms": 12,
        });
        assert_eq!(
            receipt(&data, "5.3f", false),
            "2026-11-29T12:00:00.000Z  failed     box  e1  12 ms  attempt 3  device-failed  failed  disk\\u{1b}[2J  \"no\\nroom\""
        );
        let line = receipt(&data, "5.3f", true);
        let read: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&read["cursor"], &read["text"], line.lines().count()),
            (&json!("5.3f"), &json!("no\nroom"), 1)
        );
        assert!(!receipt(&data, "", true).contains("cursor"));
    }
}
