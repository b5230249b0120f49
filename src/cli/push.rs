//! `unpoll push`: one event, for trying things out and for scripts.

use std::io::Read;

use clap::ValueEnum;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{Failure, Outcome, client::ServerArguments, say};

/// The most that is read from stdin, in bytes; the server's own limit is smaller.
const DATA_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// What to send to whom.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// The device that shall have it.
    #[arg(long, value_name = "ID")]
    device: String,
    /// The type of the event, such as com.example.recording.scheduled.
    #[arg(long = "type", value_name = "T")]
    kind: Option<String>,
    /// How long it may wait for the device, in seconds; 0 means now or never.
    #[arg(long, value_name = "S")]
    ttl: Option<u64>,
    /// How urgent it is.
    #[arg(long)]
    urgency: Option<UrgencyWord>,
    /// It replaces what waits under the same key.
    #[arg(long, value_name = "K")]
    collapse_key: Option<String>,
    /// Its data as JSON; '-' reads stdin.
    #[arg(value_name = "JSON")]
    data: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum UrgencyWord {
    VeryLow,
    Low,
    Normal,
    High,
}

impl Arguments {
    fn event(&self, data: Value) -> Value {
        let mut event = Map::new();
        event.insert("target".into(), json!({"device": self.device}));
        event.insert("data".into(), data);
        let urgency = self.urgency.map(|urgency| match urgency {
            UrgencyWord::VeryLow => "very-low",
            UrgencyWord::Low => "low",
            UrgencyWord::Normal => "normal",
            UrgencyWord::High => "high",
        });
        let options = [
            ("type", self.kind.clone().map(Value::from)),
            ("ttl", self.ttl.map(Value::from)),
            ("urgency", urgency.map(Value::from)),
            ("collapse_key", self.collapse_key.clone().map(Value::from)),
        ];
        for (name, value) in options {
            if let Some(value) = value {
                event.insert(name.into(), value);
            }
        }
        Value::Object(event)
    }
}

/// Sends it and prints the answer as one JSON line.
pub async fn run(arguments: Arguments) -> Outcome {
    let mut text = arguments.data.clone();
    if text == "-" {
        text.clear();
        std::io::stdin()
            .take(DATA_MAX_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| Failure::Failed(format!("stdin cannot be read: {error}")))?;
    }
    let data =
        serde_json::from_str(&text).map_err(|error| Failure::Usage(format!("the data is not JSON: {error}; quote it for the shell")))?;
    let client = arguments.server.client()?;
    say(client.ask_json(Method::POST, "/v1/events", &arguments.event(data)).await?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    #[derive(clap::Parser)]
    struct Push {
        #[command(flatten)]
        arguments: super::Arguments,
    }

    #[test]
    fn the_flags_become_the_fields_of_the_event() {
        let line = [
            "push",
            "--device",
            "tv",
            "--type",
            "t",
            "--ttl",
            "0",
            "--urgency",
            "very-low",
            "--collapse-key",
            "k",
            "{}",
        ];
        let event = Push::parse_from(line).arguments.event(json!({"a": 1}));
        let expected =
            json!({"target": {"device": "tv"}, "data": {"a": 1}, "type": "t", "ttl": 0, "urgency": "very-low", "collapse_key": "k"});
        assert_eq!(event, expected);
        let event = Push::parse_from(["push", "--device", "tv", "1"]).arguments.event(json!(1));
        assert_eq!(event, json!({"target": {"device": "tv"}, "data": 1}));
    }
}
