//! `unpoll push --ndjson`: many events in one request, read and sent as they come.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    pin::pin,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use reqwest::{Body, Method};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::cli::{
    Failure, Outcome,
    client::{Client, problem_text},
    say,
    table::harmless,
};

/// Bytes that are read and sent at once.
const PIECE: usize = 64 * 1024;
/// Pieces that were read and are not sent yet.
const PIECES: usize = 4;
/// The longest line of an answer, in bytes.
const ANSWER_LINE_MAX: usize = 1024 * 1024;
/// Places of empty lines that are remembered, so that a refused event is named by its line. Behind them it is named by its index.
const EMPTY_MAX: usize = 64 * 1024;

/// Sends the events of a file (`-`: stdin), says which were refused while it sends, and what became of all.
pub(super) async fn run(client: &Client, file: &Path, key: Option<&str>, json: bool) -> Outcome {
    let shown = file.display().to_string();
    let unreadable = |error: &io::Error| Failure::Failed(format!("{shown} cannot be read: {error}"));
    let source: Box<dyn Read + Send> = if file.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(file).map_err(|error| unreadable(&error))?)
    };
    let sent: Arc<Mutex<Sent>> = Arc::default();
    let body = Body::wrap_stream(pieces(source, sent.clone()).map_err(|error| unreadable(&error))?);
    let header = key.map(|key| ("idempotency-key", key));
    let asked = client
        .stream_with(Method::POST, "/v1/events?results=errors", header, Some(body))
        .await;
    let told = match asked {
        Ok(answer) => tell(pin!(answer.bytes_stream()), &sent, json, say).await,
        Err(failure) => Err(failure),
    };
    // What broke the request is what its end is called by.
    if let Some(error) = sent.lock().broke.take() {
        return Err(Failure::Failed(format!(
            "{}; what was read before may have been sent",
            unreadable(&error)
        )));
    }
    let Some(summary) = told? else {
        return Err(Failure::Failed(format!(
            "the answer was cut before its last line, so it is not known what became of the rest; {}",
            if key.is_some() {
                "send all of it again with the same --idempotency-key: what is there already is not sent twice"
            } else {
                "with --idempotency-key it could be sent again without a repeat"
            }
        )));
    };
    let refused = summary.pointer("/summary/refused").and_then(Value::as_u64).unwrap_or(0);
    match (summary.get("problem"), refused) {
        (Some(problem), _) => Err(Failure::Failed(format!(
            "the request was not taken to its end: {}; nothing behind the events that are counted was taken",
            harmless(&problem_text(problem))
        ))),
        (None, 0) => Ok(()),
        (None, refused) => Err(Failure::Failed(format!(
            "{refused} events were refused, and are named on stdout; send again those with 429 and 503, and only those"
        ))),
    }
}

/// What was sent so far, as far as the answer needs it.
#[derive(Default)]
struct Sent {
    lines: Lines,
    /// Why no more was read.
    broke: Option<io::Error>,
}

/// The pieces of what is read; what they have of lines is counted. A thread reads, because a read of a terminal or a pipe may wait for
/// ever, and the command must be able to end meanwhile.
fn pieces(mut source: Box<dyn Read + Send>, sent: Arc<Mutex<Sent>>) -> io::Result<impl Stream<Item = io::Result<Bytes>>> {
    let (pieces, next) = mpsc::channel(PIECES);
    let read = move || {
        let mut piece = vec![0; PIECE];
        loop {
            let bytes = match source.read(&mut piece) {
                Ok(0) => return,
                Ok(length) => Ok(Bytes::copy_from_slice(piece.get(..length).unwrap_or_default())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            match &bytes {
                Ok(bytes) => sent.lock().lines.take(bytes),
                Err(error) => sent.lock().broke = Some(io::Error::new(error.kind(), error.to_string())),
            }
            let ended = bytes.is_err();
            // Nobody waits for it any more: the request is over.
            if pieces.blocking_send(bytes).is_err() || ended {
                return;
            }
        }
    };
    std::thread::Builder::new().name("reader".into()).spawn(read)?;
    Ok(stream::unfold(next, |mut next| async move { Some((next.recv().await?, next)) }))
}

/// Says each line of the answer as it comes. Answers the last one; `None`: it did not come.
async fn tell<S, E>(mut answer: S, sent: &Mutex<Sent>, json: bool, mut say: impl FnMut(String) -> Outcome) -> Result<Option<Value>, Failure>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    let mut buffer = BytesMut::new();
    while let Some(Ok(piece)) = answer.next().await {
        buffer.extend_from_slice(&piece);
        while let Some(end) = memchr::memchr(b'\n', &buffer) {
            let line = buffer.split_to(end + 1);
            let Ok(mut line) = serde_json::from_slice::<Value>(&line) else {
                return Err(Failure::failed("the answer has a line that is not JSON; is --url that of unpoll?"));
            };
            let is_last = line.get("summary").is_some();
            let number = line
                .get("index")
                .and_then(Value::as_u64)
                .map(|index| (index, sent.lock().lines.of(index)));
            if json {
                if let (Some((_, Some(number))), Some(members)) = (number, line.as_object_mut()) {
                    members.insert("line".into(), number.into());
                }
                say(line.to_string())?;
            } else if is_last {
                say(counts(&line))?;
            } else {
                say(refused(&line, number))?;
            }
            if is_last {
                return Ok(Some(line));
            }
        }
        if buffer.len() > ANSWER_LINE_MAX {
            return Err(Failure::failed("the answer has a line without an end; is --url that of unpoll?"));
        }
    }
    Ok(None)
}

/// An event that was refused, in words.
fn refused(line: &Value, number: Option<(u64, Option<u64>)>) -> String {
    let place = match number {
        Some((_, Some(line))) => format!("line {line}"),
        Some((index, None)) => format!("index {index}"),
        None => "?".into(),
    };
    let status = line.get("status").and_then(Value::as_u64).unwrap_or_default();
    let why = line.get("problem").map(problem_text).unwrap_or_default();
    let again = match line.get("retry_after").and_then(Value::as_u64) {
        Some(seconds) => format!("; again after {seconds} s"),
        None => String::new(),
    };
    format!("{place}: {status}, {}{again}", harmless(&why))
}

/// What became of all, in words.
fn counts(line: &Value) -> String {
    let of = |name: &str| line.pointer(&format!("/summary/{name}")).and_then(Value::as_u64).unwrap_or(0);
    let levels = line.pointer("/summary/durability").and_then(Value::as_object);
    let levels: Vec<String> = levels
        .into_iter()
        .flatten()
        .map(|(level, count)| format!("{level} {count}"))
        .collect();
    let durable = if levels.is_empty() {
        String::new()
    } else {
        format!("; durable: {}", levels.join(", "))
    };
    let (total, accepted, repeated, refused) = (of("total"), of("accepted"), of("repeated"), of("refused"));
    format!("{total} events: {accepted} accepted, {repeated} repeated, {refused} refused{durable}")
}

/// Which line of a file an event is in: the service counts events, and no empty lines.
#[derive(Default)]
struct Lines {
    /// Events whose line has ended.
    events: u64,
    /// Empty lines so far.
    empty: u64,
    /// Whether the line that is being read has something in it.
    begun: bool,
    /// From which event on so many empty lines are before it.
    before: Vec<(u64, u64)>,
    /// From that event on it is not remembered any more.
    forgets_from: Option<u64>,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match (byte, self.begun) {
                (b'\n', true) => {
                    self.events += 1;
                    self.begun = false;
                }
                (b'\n', false) => self.skip(),
                (byte, false) => self.begun = !byte.is_ascii_whitespace(),
                (_, true) => {}
            }
        }
    }

    fn skip(&mut self) {
        self.empty += 1;
        let room = self.before.len() < EMPTY_MAX;
        match self.before.last_mut() {
            Some((from, empty)) if *from == self.events => *empty = self.empty,
            _ if room => self.before.push((self.events, self.empty)),
            _ => _ = self.forgets_from.get_or_insert(self.events),
        }
    }

    /// The line of an event, from 1.
    fn of(&self, index: u64) -> Option<u64> {
        if self.forgets_from.is_some_and(|from| index >= from) {
            return None;
        }
        let runs = self.before.partition_point(|(from, _)| *from <= index);
        let empty = runs
            .checked_sub(1)
            .and_then(|last| self.before.get(last))
            .map_or(0, |(_, empty)| *empty);
        Some(index + empty + 1)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_named_by_its_line() {
        let text = b"\n  \n{\"a\":1}\n{\"b\":2}\r\n \t\r\n\n{}\n\n{\"last\":1}";
        for piece in 1..text.len() {
            let mut lines = Lines::default();
            text.chunks(piece).for_each(|piece| lines.take(piece));
            let found: Vec<Option<u64>> = (0..4).map(|index| lines.of(index)).collect();
            assert_eq!(found, [Some(3), Some(4), Some(7), Some(9)], "in pieces of {piece}");
        }
        let mut lines = Lines::default();
        for _ in 0..2 * EMPTY_MAX {
            lines.take(b"\n1\n");
        }
        assert_eq!((lines.of(7), lines.before.len()), (Some(16), EMPTY_MAX));
        let last = EMPTY_MAX as u64;
        assert_eq!((lines.of(last - 1), lines.of(last)), (Some(2 * last), None));
    }

    #[tokio::test]
    async fn an_answer_without_its_last_line_is_cut() {
        let line = json!({"index": 0, "status": 404, "problem": {"detail": "d"}}).to_string() + "\n";
        let summary = json!({"summary": {"total": 1, "refused": 1}}).to_string() + "\n";
        let told = async |text: String| {
            let pieces = text.into_bytes();
            let pieces: Vec<io::Result<Bytes>> = pieces.chunks(3).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            let (sent, mut said) = (Mutex::default(), Vec::new());
            let say = |line| {
                said.push(line);
                Ok(())
            };
            let last = tell(stream::iter(pieces), &sent, false, say).await;
            (last, said)
        };
        let (refused, counts) = ("line 1: 404, d", "1 events: 0 accepted, 0 repeated, 1 refused");
        for cut in [line.clone(), line.clone() + summary.trim_end()] {
            let (last, said) = told(cut).await;
            assert!(last.unwrap().is_none());
            assert_eq!(said, [refused]);
        }
        let (last, said) = told(line + &summary).await;
        assert_eq!(last.unwrap().unwrap()["summary"]["refused"], 1);
        assert_eq!(said, [refused, counts]);
        assert!(told("<html>\n".into()).await.0.is_err());
    }

    #[test]
    fn what_became_of_events_is_said_in_words() {
        let line = json!({"index": 4, "status": 429, "retry_after": 2, "problem": {"detail": "the queue\u{1b} is full"}});
        assert_eq!(
            refused(&line, Some((4, Some(6)))),
            "line 6: 429, the queue· is full; again after 2 s"
        );
        assert_eq!(refused(&line, Some((4, None))), "index 4: 429, the queue· is full; again after 2 s");
        let all = json!({"summary": {"total": 3, "accepted": 1, "repeated": 1, "refused": 1, "durability": {"disk": 2}}});
        assert_eq!(counts(&all), "3 events: 1 accepted, 1 repeated, 1 refused; durable: disk 2");
    }
}
