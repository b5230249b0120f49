//! Everything that is known of one device, for a person who asks why it did not get something.

use reqwest::Method;
use serde_json::Value;

use super::{Client, Failure, Outcome, path};
use crate::cli::{
    fate::{self, text},
    say,
    table::{Table, harmless},
};

/// Reads its row, its presence and its last deliveries, and prints them.
pub(super) async fn run(client: &Client, id: &str, deliveries: usize, json: bool) -> Outcome {
    let mut device = client.ask(Method::GET, &path(id), None).await?;
    let presence = client.ask(Method::GET, &format!("{}/presence", path(id)), None).await?;
    let page = format!("{}/deliveries?limit={}", path(id), deliveries.max(1));
    let mut page = client.ask(Method::GET, &page, None).await?;
    let last = page.get_mut("items").map(Value::take).unwrap_or_default();
    if json {
        if let Value::Object(device) = &mut device {
            device.insert("presence".into(), presence);
            device.insert("deliveries".into(), last);
        }
        return say(serde_json::to_string_pretty(&device).map_err(Failure::failed)?);
    }
    say(facts(&device, &presence))?;
    let last = last.as_array().map(Vec::as_slice).unwrap_or_default();
    if last.is_empty() {
        return say("\nnothing was sent to it lately");
    }
    say("")?;
    let mut table = Table::new(&["ACCEPTED", "EVENT", "STATE", "URGENCY", "ATTEMPT", "AT", "WHY"]);
    for delivery in last {
        let attempt = delivery.get("attempt").map(Value::to_string).unwrap_or_default();
        table.row(&[
            text(delivery, "accepted_at").unwrap_or_default(),
            text(delivery, "event").unwrap_or_default(),
            text(delivery, "state").unwrap_or_default(),
            text(delivery, "urgency").unwrap_or_default(),
            &attempt,
            text(delivery, "at").unwrap_or_default(),
            &fate::why(delivery, Some(&presence)),
        ])?;
    }
    table.print()
}

/// A line for each fact that there is.
fn facts(device: &Value, presence: &Value) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("{name:<12} {}", harmless(&value)));
        }
    };
    let of = |value: &Value, name: &str| text(value, name).unwrap_or_default().to_owned();
    let object = |name: &str| match device.get(name) {
        Some(Value::Object(map)) if !map.is_empty() => Value::Object(map.clone()).to_string(),
        _ => String::new(),
    };
    line("device", of(device, "jid"));
    line("user", of(device, "user"));
    line("cohort", of(device, "cohort"));
    line("attributes", object("attributes"));
    line("reported", object("reported"));
    line("reported at", of(device, "reported_at"));
    let credentials = device.get("credentials").and_then(Value::as_array).map(Vec::as_slice);
    let kinds: Vec<&str> = credentials.unwrap_or_default().iter().filter_map(|one| text(one, "type")).collect();
    line("credentials", if kinds.is_empty() { "none".into() } else { kinds.join(", ") });
    line("added", of(device, "created_at"));
    line("changed", of(device, "updated_at"));

    let since = text(presence, "connected_at").map(|at| format!(" since {at}")).unwrap_or_default();
    let node = text(presence, "node").map(|node| format!(" at {node}")).unwrap_or_default();
    let transport = text(presence, "transport")
        .map(|transport| format!(" by {transport}"))
        .unwrap_or_default();
    line("presence", format!("{}{since}{node}{transport}", of(presence, "state")));
    line("last seen", of(presence, "last_seen_at"));
    line(
        "epoch",
        presence
            .get("session_epoch")
            .filter(|epoch| !epoch.is_null())
            .map(Value::to_string)
            .unwrap_or_default(),
    );
    let close = presence
        .get("last_close")
        .and_then(|close| Some(format!("{} at {}", text(close, "reason")?, text(close, "at")?)));
    line("last close", close.unwrap_or_default());
    line("slow since", of(presence, "slow_since"));
    if presence.get("flooding") == Some(&Value::Bool(true)) {
        line("flooding", "it sends more than it may, and is read more slowly".into());
    }
    let changes = presence.get("seat_changes").and_then(Value::as_u64).unwrap_or(0);
    line("seat_changes", format!("{changes} in this minute"));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_facts_that_there_are_have_a_line_each() {
        let device = json!({"jid": "box@localhost", "user": null, "cohort": "push", "attributes": {"name": "\u{1b}[31m"}, "reported": {},
            "credentials": [{"type": "scram"}, {"type": "certificate"}], "created_at": "T1", "updated_at": "T2"});
        let presence = json!({"state": "online", "connected_at": "T3", "node": "n1", "transport": "xmpps", "session_epoch": 7,
            "last_seen_at": "T4", "last_close": {"reason": "lost", "at": "T5"}, "flooding": false, "slow_since": null, "seat_changes": 2});
        let expected = [
            "device       box@localhost",
            "cohort       push",
            r#"attributes   {"name":"\u001b[31m"}"#,
            "credentials  scram, certificate",
            "added        T1",
            "changed      T2",
            "presence     online since T3 at n1 by xmpps",
            "last seen    T4",
            "epoch        7",
            "last close   lost at T5",
            "seat_changes 2 in this minute",
        ];
        assert_eq!(facts(&device, &presence), expected.join("\n"));
    }
}
