//! The transcripts of `tests/conversations`, which a device maker can read, held against the machine: as they stand, and with
//! every byte sent alone.
//!
//! `C:` is what the client sends, `S:` all that it is answered since, `=` what the gateway is told. `+` is something else that
//! happens: `+ event 1`, `+ 31 s`, `+ lost`. `␣` is a blank. `!` chooses who is there: `clear`, `tls` (the default), `session`, `managed`,
//! `located`, and `websocket`, where each `C:` is one message. A line that begins with blanks goes on with the one before; `…` stands for
//! anything; `#` begins a comment.
//! `BLESS=1` writes what the machine answers into the files: read the difference before you commit it.

use std::{fs, path::PathBuf};

use super::*;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conversations");

/// Instead of a size to cut to: over WebSocket, an element a message.
const OVER_WEBSOCKET: usize = 0;
/// Transcripts in which the client always sends whole elements: they hold over WebSocket, too.
const WHOLE_ELEMENTS: [&str; 10] = [
    "01-login-and-event.txt",
    "03-one-round-trip.txt",
    "04-failed-logins.txt",
    "07-questions.txt",
    "08-stream-management.txt",
    "09-silence.txt",
    "10-receipts.txt",
    "11-presence.txt",
    "12-outcomes.txt",
    "20-reported.txt",
];

/// One step of a transcript.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Comment(String),
    Scene(String),
    Client(String),
    Server(String),
    Happens(String),
    Told(String),
}

fn read(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        if line.starts_with(' ') {
            match steps.last_mut() {
                Some(Step::Client(text) | Step::Server(text)) => text.push_str(line.trim_start()),
                other => panic!("{line:?} goes on with {other:?}"),
            }
            continue;
        }
        let rest = line.get(2..).unwrap_or_default().trim_start().to_owned();
        steps.push(match line.get(..2) {
            Some("C:") => Step::Client(rest),
            Some("S:") => Step::Server(rest),
            Some("! ") => Step::Scene(rest),
            Some("+ ") => Step::Happens(rest),
            Some("= ") => Step::Told(rest),
            Some("# ") | None => Step::Comment(line.to_owned()),
            _ => panic!("{line:?} is no step"),
        });
    }
    steps
}

/// Whether `said` is `expected`, where `…` stands for anything.
fn matches(expected: &str, said: &str) -> bool {
    let mut pieces = expected.split('…');
    let Some(mut rest) = pieces.next().and_then(|first| said.strip_prefix(first)) else {
        return false;
    };
    let mut open = false;
    for piece in pieces {
        open = piece.is_empty();
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    open || rest.is_empty()
}

struct Run {
    talk: Talk,
    /// Answered, and not expected yet.
    said: String,
    cut: usize,
}

impl Run {
    fn new(scene: &str, cut: usize) -> Self {
        let carried = if cut == OVER_WEBSOCKET {
            Carried::WebSocketAsTcp
        } else {
            Carried::Tcp
        };
        let talk = match scene {
            "clear" => Talk::with(config(), false),
            "tls" => Talk::new().over(carried),
            "session" => Talk::new().over(carried).binds(),
            "located" => {
                let located = StreamConfig {
                    location: true,
                    ..config()
                };
                Talk::with(located, true).over(carried).binds()
            }
            "managed" => Talk::new().over(carried).binds().manages(),
            "websocket" => Talk::new().over(Carried::WebSocket),
            _ => panic!("{scene:?} is no scene"),
        };
        Self {
            talk,
            said: String::new(),
            cut,
        }
    }

    fn client(&mut self, text: &str) {
        let cut = if self.talk.carried == Carried::Tcp { self.cut } else { usize::MAX };
        for bytes in text.replace('␣', " ").as_bytes().chunks(cut) {
            let said = self.talk.send_bytes(bytes);
            self.said.push_str(&said);
        }
    }

    fn happens(&mut self, what: &str) {
        let said = match what.split_once(' ') {
            Some(("event", number)) => {
                assert!(self.talk.push(number.parse().unwrap()), "the event is not taken");
                self.talk.flush()
            }
            Some(("receipt", number)) => {
                assert!(self.talk.push_event(&event_with_receipt(number.parse().unwrap()), false));
                self.talk.flush()
            }
            Some(("outcome", number)) => {
                assert!(self.talk.push_event(&event_with_outcome(number.parse().unwrap()), false));
                self.talk.flush()
            }
            Some((seconds, "s")) => {
                self.talk.later(seconds.parse().unwrap());
                self.talk.elapse()
            }
            _ if what == "lost" => {
                self.talk.stream.disconnected(self.talk.now);
                self.talk.answer();
                self.talk.output()
            }
            _ => panic!("{what:?} does not happen"),
        };
        self.said.push_str(&said);
    }
}

/// Runs a transcript, and writes what is said where `bless` says so.
fn run(name: &str, steps: &[Step], cut: usize, bless: bool) -> Vec<Step> {
    let mut run = Run::new("tls", cut);
    let mut written = Vec::new();
    for step in steps {
        if !matches!(step, Step::Server(_) | Step::Comment(_) | Step::Told(_)) {
            settle(name, &mut run, &mut written, bless);
        }
        match step {
            Step::Scene(scene) => run = Run::new(scene, cut),
            Step::Client(text) => run.client(text),
            Step::Happens(what) => run.happens(what),
            Step::Comment(_) => {
                settle(name, &mut run, &mut written, bless);
            }
            Step::Server(_) | Step::Told(_) if bless => continue,
            Step::Server(expected) => {
                let said = std::mem::take(&mut run.said);
                assert!(
                    matches(expected, &said),
                    "{name}, {cut} bytes at a time\nexpected {expected}\n     got {said}"
                );
            }
            Step::Told(expected) => assert_eq!(run.talk.facts().join("; "), *expected, "{name}"),
        }
        written.push(step.clone());
    }
    settle(name, &mut run, &mut written, bless);
    written
}

/// Nothing may be said or told that no line expects.
fn settle(name: &str, run: &mut Run, written: &mut Vec<Step>, bless: bool) {
    let (said, told) = (std::mem::take(&mut run.said), run.talk.facts().join("; "));
    if bless {
        if !said.is_empty() {
            written.push(Step::Server(said));
        }
        if !told.is_empty() {
            written.push(Step::Told(told));
        }
        return;
    }
    assert!(said.is_empty() && told.is_empty(), "{name}: nobody expected {said:?} {told:?}");
}

/// A step as it stands in a file, one top-level element a line.
fn line(step: &Step) -> String {
    match step {
        Step::Comment(text) => text.clone(),
        Step::Scene(text) => format!("! {text}"),
        Step::Client(text) => format!("C: {text}"),
        Step::Happens(text) => format!("+ {text}"),
        Step::Told(text) => format!("= {text}"),
        Step::Server(text) => {
            let mut text = text.clone();
            let opens = |before: &str| before.contains("<stream:stream") || before.contains("<open ");
            if let Some(at) = text.find(" id='").filter(|at| opens(&text[..*at])) {
                let end = at + 5 + text[at + 5..].find('\'').unwrap();
                text.replace_range(at + 5..end, "…");
            }
            for start in [
                "<stream:features",
                "<stream:error",
                "<message ",
                "<iq ",
                "<presence ",
                "<r ",
                "<a ",
                "</stream:stream",
                "<close ",
            ] {
                text = text.replace(start, &format!("\n   {start}"));
            }
            format!("S: {}", text.trim_start())
        }
    }
}

#[test]
fn every_transcript_is_what_is_said() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut files: Vec<PathBuf> = fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 8, "{files:?}");
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let steps = read(&fs::read_to_string(&file).unwrap());
        if bless {
            let written = run(&name, &steps, usize::MAX, true);
            let text: String = written.iter().map(|step| line(step) + "\n").collect();
            fs::write(&file, text).unwrap();
        }
        let steps = read(&fs::read_to_string(&file).unwrap());
        for cut in [usize::MAX, 1, 7] {
            run(&name, &steps, cut, false);
        }
        if WHOLE_ELEMENTS.contains(&name.as_str()) {
            run(&name, &steps, OVER_WEBSOCKET, false);
        }
    }
}

#[test]
fn dots_stand_for_anything_and_nothing_else_does() {
    assert!(matches("a…c", "abc") && matches("a…", "abc") && matches("…", "") && matches("a", "a"));
    assert!(!matches("a…c", "abcd") && !matches("a", "ab") && !matches("b…", "ab"));
}
