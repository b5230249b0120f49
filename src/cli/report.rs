//! `unpoll report`: the polling that was avoided, in words or as JSON.

use reqwest::Method;
use serde_json::Value;

use super::{
    Failure, Outcome,
    client::{ServerArguments, segment},
    say,
};

/// Which period, and how to print it.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// The beginning (RFC 3339, such as 2026-11-22T00:00:00Z) [default: as far back as the ledger goes].
    #[arg(long, value_name = "T")]
    from: Option<String>,
    /// The end [default: now].
    #[arg(long, value_name = "T")]
    to: Option<String>,
    /// Prints the report as the server gave it.
    #[arg(long)]
    json: bool,
}

/// Asks and prints.
pub async fn run(arguments: Arguments) -> Outcome {
    let client = arguments.server.client()?;
    let query: Vec<String> = [("from", &arguments.from), ("to", &arguments.to)]
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", segment(value.as_ref()?))))
        .collect();
    let report = client
        .ask(Method::GET, &format!("/v1/reports/polling-avoided?{}", query.join("&")), None)
        .await?;
    if arguments.json {
        return say(serde_json::to_string_pretty(&report).map_err(Failure::failed)?);
    }
    say(words(&report))
}

/// The report as text: every field under its name, nested ones indented, so that nothing the ledger says is left out.
pub(super) fn words(report: &Value) -> String {
    let mut text = String::from("Polling avoided\n");
    describe(&mut text, report, 1);
    text.trim_end().to_owned()
}

fn describe(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = name.replace('_', " ");
                match value {
                    Value::Object(inner) if !inner.is_empty() => {
                        text.push_str(&format!("{indent}{name}:\n"));
                        describe(text, value, depth + 1);
                    }
                    Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_string()) => {
                        text.push_str(&format!("{indent}{name}:\n"));
                        for item in items {
                            match item {
                                Value::Object(_) => {
                                    describe(text, item, depth + 1);
                                    text.push('\n');
                                }
                                _ => text.push_str(&format!("{indent}  - {}\n", plain(item))),
                            }
                        }
                    }
                    value => text.push_str(&format!("{indent}{name}: {}\n", plain(value))),
                }
            }
        }
        value => text.push_str(&format!("{indent}{}\n", plain(value))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".into(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_the_ledger_says_is_left_out() {
        let report = serde_json::json!({"devices": 3, "net": {"bytes": -5}, "assumptions": ["interval 2 s"], "validated": null});
        let expected = "Polling avoided\n  devices: 3\n  net:\n    bytes: -5\n  assumptions:\n    - interval 2 s\n  validated: none";
        assert_eq!(super::words(&report), expected);
    }
}
