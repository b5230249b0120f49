//! `unpoll push`: one event, for trying things out and for scripts; or a file of many.

mod lines;

use std::{
    collections::HashSet,
    io::Read,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    Failure, Outcome,
    client::{Client, ServerArguments, segment},
    fate::{self, text},
    say,
    table::harmless,
};

/// The most that is read from stdin, in bytes; the server's own limit is smaller.
const DATA_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// How soon it is asked what became of an event, at first; each pause is twice as long, up to the longest.
const ASK_AFTER: Duration = Duration::from_millis(50);
const ASK_EVERY: Duration = Duration::from_secs(1);

/// What a file of events says itself.
const OF_ONE_EVENT: [&str; 9] = [
    "devices",
    "user",
    "kind",
    "ttl",
    "urgency",
    "collapse_key",
    "require",
    "wait",
    "data",
];

/// What to send to whom.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// The device that shall have it. May be repeated, up to 64 times: it is one event to all of them.
    #[arg(long = "device", value_name = "ID", required_unless_present_any = ["user", "ndjson"])]
    devices: Vec<String>,
    /// Or all devices of this user.
    #[arg(long, value_name = "U", conflicts_with = "devices")]
    user: Option<String>,
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
    /// What makes it delivered.
    #[arg(long)]
    require: Option<RequireWord>,
    /// Sent again with the same key, it is the same event.
    #[arg(long, value_name = "K")]
    idempotency_key: Option<String>,
    /// Waits so long for its end and says it. The exit code is 0 only if it was delivered.
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
    /// Sends a file of events instead, one a line as POST /v1/events takes them ('-' is stdin), and says which were refused. The exit
    /// code is 0 only if none was. With --idempotency-key K the event with the index I has the key K#I.
    #[arg(long, value_name = "FILE", conflicts_with_all = OF_ONE_EVENT)]
    ndjson: Option<PathBuf>,
    /// Prints JSON, for programs: the answer of the server, and with --wait the delivery, one line each.
    #[arg(long)]
    json: bool,
    /// Its data as JSON; '-' reads stdin.
    #[arg(value_name = "JSON", required_unless_present_any = ["kind", "ndjson"])]
    data: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum UrgencyWord {
    VeryLow,
    Low,
    Normal,
    High,
}

#[derive(Clone, Copy, ValueEnum)]
enum RequireWord {
    /// The device's XMPP library has it.
    Acknowledged,
    /// Its application has it.
    Received,
    /// The device says that it did it.
    Processed,
}

impl Arguments {
    fn target(&self) -> Value {
        match (&self.user, self.devices.as_slice()) {
            (Some(user), _) => json!({ "user": user }),
            (None, [device]) => json!({ "device": device }),
            (None, devices) => json!({ "devices": devices }),
        }
    }

    /// Whom it is for, in a line for people.
    fn whom(&self) -> String {
        match &self.user {
            Some(user) => format!("user {user}"),
            None => self.devices.join(", "),
        }
    }

    fn event(&self, data: Option<&Value>) -> Value {
        let urgency = self.urgency.map(|urgency| match urgency {
            UrgencyWord::VeryLow => "very-low",
            UrgencyWord::Low => "low",
            UrgencyWord::Normal => "normal",
            UrgencyWord::High => "high",
        });
        let require = self.require.map(|require| match require {
            RequireWord::Acknowledged => "acknowledged",
            RequireWord::Received => "received",
            RequireWord::Processed => "processed",
        });
        let options = [
            ("target", Some(self.target())),
            ("data", data.cloned()),
            ("type", self.kind.clone().map(Value::from)),
            ("ttl", self.ttl.map(Value::from)),
            ("urgency", urgency.map(Value::from)),
            ("collapse_key", self.collapse_key.clone().map(Value::from)),
            ("require", require.map(Value::from)),
        ];
        let given = options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(given.collect::<Map<_, _>>())
    }

    async fn post(&self, client: &Client, event: &Value) -> Result<Value, Failure> {
        match &self.idempotency_key {
            Some(key) => {
                client
                    .ask_json_with(Method::POST, "/v1/events", ("idempotency-key", key), event)
                    .await
            }
            None => client.ask_json(Method::POST, "/v1/events", event).await,
        }
    }
}

/// Sends it, says what the server answered, and waits if asked to.
pub async fn run(arguments: Arguments) -> Outcome {
    if arguments.ttl == Some(0) && arguments.wait.is_some() {
        let why = "an event with a TTL of 0 is stored nowhere, so nobody knows its end; leave --wait out, or give it a TTL";
        return Err(Failure::Usage(why.into()));
    }
    if let Some(file) = &arguments.ndjson {
        let client = arguments.server.client()?;
        return lines::run(&client, file, arguments.idempotency_key.as_deref(), arguments.json).await;
    }
    let data = arguments.data.as_deref().map(read).transpose()?;
    let client = arguments.server.client()?;
    let answer = arguments.post(&client, &arguments.event(data.as_ref())).await?;
    say(if arguments.json {
        answer.to_string()
    } else {
        accepted(&arguments.whom(), &answer)
    })?;
    let Some(seconds) = arguments.wait else { return Ok(()) };
    // One that cannot be added to the time is for ever.
    let until = Instant::now().checked_add(Duration::from_secs(seconds));
    let failures = wait(&client, text(&answer, "id").unwrap_or_default(), until, arguments.json).await?;
    match failures.as_slice() {
        [] => Ok(()),
        [rest @ .., last] => {
            // All but the last are told here, and the last as every failure is.
            rest.iter().for_each(|failure| eprintln!("unpoll: {failure}"));
            Err(Failure::Failed(last.clone()))
        }
    }
}

fn read(data: &str) -> Result<Value, Failure> {
    let mut text = data.to_owned();
    if text == "-" {
        text.clear();
        std::io::stdin()
            .take(DATA_MAX_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| Failure::Failed(format!("stdin cannot be read: {error}")))?;
    }
    serde_json::from_str(&text).map_err(|error| Failure::Usage(format!("the data is not JSON: {error}; quote it for the shell")))
}

fn accepted(whom: &str, answer: &Value) -> String {
    let of = |name: &str| text(answer, name).unwrap_or("?");
    format!(
        "{}: event {} is {}, durable: {}",
        harmless(whom),
        of("id"),
        of("state"),
        of("durability")
    )
}

/// Waits for the end of each delivery of an event, and says it. Answers what to say of those that were not delivered.
async fn wait(client: &Client, id: &str, until: Option<Instant>, json: bool) -> Result<Vec<String>, Failure> {
    let path = format!("/v1/events/{}/deliveries", segment(id));
    let (mut pause, mut told, mut failures) = (ASK_AFTER, HashSet::new(), Vec::new());
    loop {
        let page = client.ask(Method::GET, &path, None).await?;
        let deliveries = page.pointer("/items").and_then(Value::as_array).cloned().unwrap_or_default();
        let left = until.map_or(ASK_EVERY, |until| until.saturating_duration_since(Instant::now()));
        let mut is_complete = !deliveries.is_empty();
        for delivery in &deliveries {
            let state = text(delivery, "state").unwrap_or("unknown");
            let is_end = fate::is_end(state);
            is_complete &= is_end;
            let device = text(delivery, "device").unwrap_or("?");
            if (!is_end && !left.is_zero()) || !told.insert(device.to_owned()) {
                continue;
            }
            if json {
                say(delivery)?;
            }
            let why = match harmless(&fate::why(delivery, None)) {
                why if why.is_empty() => why,
                why => format!(": {why}"),
            };
            match (fate::is_delivered(state), is_end) {
                (true, _) if json => {}
                (true, _) => say(format!("{device}: event {id} is {state}{why}"))?,
                (false, true) => failures.push(format!("{device}: event {id} is {state}{why}")),
                (false, false) => failures.push(format!(
                    "{device}: event {id} is still {state}{why}; it goes on without you, see unpoll device show {device}"
                )),
            }
        }
        if is_complete || left.is_zero() {
            if deliveries.is_empty() {
                failures.push(format!("nothing is known of the event {id}"));
            }
            return Ok(failures);
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (2 * pause).min(ASK_EVERY);
    }
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
            "--require",
            "processed",
            "{}",
        ];
        let event = Push::parse_from(line).arguments.event(Some(&json!({"a": 1})));
        let expected = json!({"target": {"device": "tv"}, "data": {"a": 1}, "type": "t", "ttl": 0, "urgency": "very-low",
            "collapse_key": "k", "require": "processed"});
        assert_eq!(event, expected);
        let arguments = Push::parse_from(["push", "--device", "tv", "--device", "radio", "1"]).arguments;
        assert_eq!(
            arguments.event(Some(&json!(1))),
            json!({"target": {"devices": ["tv", "radio"]}, "data": 1})
        );
        assert_eq!(arguments.whom(), "tv, radio");
        let of_user = Push::parse_from(["push", "--user", "ann", "1"]).arguments;
        assert_eq!(of_user.event(Some(&json!(1))), json!({"target": {"user": "ann"}, "data": 1}));
        assert!(
            Push::try_parse_from(["push", "--user", "ann", "--device", "tv", "1"]).is_err(),
            "one of them"
        );
        let only_type = Push::parse_from(["push", "--device", "tv", "--type", "t"]).arguments;
        assert_eq!(only_type.event(None), json!({"target": {"device": "tv"}, "type": "t"}));
        assert!(Push::try_parse_from(["push", "--device", "tv"]).is_err(), "data or a type");
        assert!(Push::try_parse_from(["push", "1"]).is_err(), "a device");
        let file = ["push", "--ndjson", "-", "--idempotency-key", "k"];
        assert_eq!(Push::parse_from(file).arguments.ndjson.as_deref(), Some("-".as_ref()));
        for of_one in [
            &["--device", "tv"][..],
            &["--user", "ann"],
            &["--ttl", "1"],
            &["--wait", "1"],
            &["--type", "t"],
            &["1"],
        ] {
            assert!(Push::try_parse_from(file.iter().chain(of_one)).is_err(), "{of_one:?}");
        }
    }
}
