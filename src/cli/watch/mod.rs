//! `unpoll watch`: receipts in the terminal, a line each. It comes back by itself where it was when the connection ends.

mod line;
mod sse;

use std::time::Duration;

use reqwest::{Method, Response, StatusCode, header::RETRY_AFTER};
use serde_json::Value;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};

use self::sse::{Event, Parser};
use super::{
    Failure, Outcome,
    client::{Client, ServerArguments, problem, segment},
    say,
};

/// A stream that says nothing for so long is dead: it would have told that it lives.
const SILENT: Duration = Duration::from_secs(45);
/// The first pause before another try, and the longest.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The longest pause that a server may ask for.
const ASKED_MAX: Duration = Duration::from_secs(60);

/// Which receipts, and whose.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// Only those of this event: tells how it is with each of its devices, and ends when all have come to an end.
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// Only those of these devices.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    device: Vec<String>,
    /// Only these states, such as failed,expired.
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<String>,
    /// Begins with what comes now, with the oldest that is kept, or behind the cursor of a line of --json.
    #[arg(long, value_name = "now|oldest|CURSOR", default_value = "now", conflicts_with = "event")]
    from: String,
    /// Prints one JSON object a line, as the API has them, with the cursor behind which to go on.
    #[arg(long)]
    json: bool,
    /// Ends after this many receipts.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Why a connection is over.
enum Over {
    /// There is nothing more to be told.
    Done,
    /// It is worth trying again, after a pause that the server asks for.
    Again(String, Option<Duration>),
}

/// Watches until a signal, the count, or the end of the event.
pub async fn run(arguments: Arguments) -> Outcome {
    let client = arguments.server.client()?;
    let handler = |kind| signal(kind).map_err(|error| Failure::Failed(format!("signals cannot be handled: {error}")));
    let (mut terminate, mut interrupt) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    let mut watch = Watch {
        client,
        arguments,
        last: None,
        told: 0,
    };
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        outcome = watch.until_done() => outcome,
    }
}

struct Watch {
    client: Client,
    arguments: Arguments,
    /// The id behind which the stream goes on. `None`: none came yet.
    last: Option<String>,
    /// Receipts that were printed.
    told: u64,
}

impl Watch {
    async fn until_done(&mut self) -> Outcome {
        let mut pause = PAUSE;
        loop {
            let before = self.last.clone();
            let (why, asked) = match self.follow().await? {
                Over::Done => return Ok(()),
                Over::Again(why, asked) => (why, asked),
            };
            if self.last != before {
                pause = PAUSE;
            }
            let wait = asked.map_or(pause, |asked| asked.min(ASKED_MAX));
            tell(format_args!("{why}; trying again in {} s", wait.as_secs()));
            sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn path(&self) -> String {
        let arguments = &self.arguments;
        let mut query = Vec::new();
        let mut list = |name: &str, words: &[String]| {
            if !words.is_empty() {
                query.push(format!("{name}={}", segment(&words.join(","))));
            }
        };
        list("event", arguments.event.as_slice());
        list("device", &arguments.device);
        list("state", &arguments.state);
        match (&self.last, arguments.from.as_str()) {
            (Some(last), _) => query.push(format!("last_event_id={}", segment(last))),
            (None, from @ ("now" | "oldest")) => query.push(format!("from={from}")),
            (None, cursor) => query.push(format!("last_event_id={}", segment(cursor))),
        }
        format!("/v1/receipts?{}", query.join("&"))
    }

    /// One connection, to its end.
    async fn follow(&mut self) -> Result<Over, Failure> {
        let began = self.last.is_some();
        let mut answer = match timeout(SILENT, self.client.open(&self.path())).await {
            Ok(Ok(answer)) => answer,
            // A server that never answered is perhaps the wrong one.
            Ok(Err(error)) if !began => return Err(self.client.unreachable(&error)),
            Ok(Err(error)) => return Ok(Over::Again(self.client.unreachable(&error).to_string(), None)),
            Err(_) => return Ok(Over::Again("the server does not answer".into(), None)),
        };
        if !answer.status().is_success() {
            return refused(answer, began).await;
        }
        let mut parser = Parser::default();
        loop {
            let piece = match timeout(SILENT, answer.chunk()).await {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) => return Ok(Over::Again("the server ended the stream".into(), None)),
                Ok(Err(error)) => return Ok(Over::Again(format!("the stream was cut: {error}"), None)),
                Err(_) => return Ok(Over::Again("the stream is silent".into(), None)),
            };
            for event in parser.feed(&piece).map_err(Failure::failed)? {
                if self.take(event).await? {
                    return Ok(Over::Done);
                }
            }
        }
    }

    /// Prints an event. True: it was the last that is wanted.
    async fn take(&mut self, event: Event) -> Result<bool, Failure> {
        let first = self.last.is_none();
        if let Some(data) = &event.data {
            let data: Value = serde_json::from_str(data).map_err(|error| Failure::Failed(format!("the stream has no JSON: {error}")))?;
            match event.kind.as_str() {
                "receipt" => {
                    say(line::receipt(&data, &event.id, self.arguments.json))?;
                    self.told += 1;
                }
                "gap" if self.arguments.json => say(line::gap(&data, &event.id))?,
                "gap" => tell(format_args!("receipts are missing: {data}")),
                // Of a newer server.
                _ => {}
            }
        }
        let is_receipt = event.kind == "receipt";
        self.last = Some(event.id);
        if self.arguments.count.is_some_and(|count| self.told >= count) {
            return Ok(true);
        }
        match self.arguments.event.clone() {
            // The stream is open: nothing is missed between how it is now and what comes.
            Some(id) if first => self.begin(&id).await,
            Some(id) if is_receipt => Ok(!self.is_open(&id).await?),
            _ => Ok(false),
        }
    }

    /// Tells how it is with each device of an event. True: all have come to an end.
    async fn begin(&mut self, id: &str) -> Result<bool, Failure> {
        let json = self.arguments.json;
        let path = format!("/v1/events/{}/deliveries", segment(id));
        self.client.each(&path, |delivery| say(line::receipt(delivery, "", json))).await?;
        Ok(!self.is_open(id).await?)
    }

    /// Whether an event has deliveries that are still to come to an end.
    async fn is_open(&self, id: &str) -> Result<bool, Failure> {
        let event = self.client.ask(Method::GET, &format!("/v1/events/{}", segment(id)), None).await?;
        let count = |state: &str| event.pointer(&format!("/deliveries/{state}")).and_then(Value::as_u64).unwrap_or(0);
        Ok(["accepted", "scheduled", "queued", "dispatched"]
            .map(count)
            .iter()
            .any(|count| *count > 0))
    }
}

/// An answer that is no stream: worth another try, or not.
async fn refused(answer: Response, began: bool) -> Result<Over, Failure> {
    let status = answer.status();
    let asked = answer
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let body = answer.bytes().await.unwrap_or_default();
    let why = problem(status, &body);
    let passes = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    if passes || (began && status.is_server_error()) {
        return Ok(Over::Again(why, asked.map(Duration::from_secs)));
    }
    Err(Failure::Failed(why))
}

/// A line for the person who watches. Nobody watching is no failure.
fn tell(line: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "unpoll: {line}");
}
