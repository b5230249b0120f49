//! The transcripts of `tests/conversations`, which a device maker can read, held against the machine: as they stand, with every byte
//! sent alone, and with all that a client can say without an answer sent at once.
//!
//! `C:` is what the client sends, `S:` all that it is answered since, `=` what the gateway is told. `+` is something else that
//! happens: `+ event 1`, `+ 31 s`, `+ lost`, `+ reconnects`, `+ comes back`, `+ ends conflict`. `␣` is a blank; [`words`] are computed. `!` chooses who is there: `clear`, `tls` (the default), `session`, `managed`,
//! `located`, `bound` (TLS 1.3), `certificate`, and `websocket`, where each `C:` is one message. A line that begins with blanks goes on with the one before; `…` stands for
//! anything; `#` begins a comment.
//! `BLESS=1` writes what the machine answers into the files: read the difference before you commit it.

use std::{fs, path::PathBuf};

use super::{sasl2::bindings, *};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conversations");

/// Instead of a size to cut to: over WebSocket, an element a message.
const OVER_WEBSOCKET: usize = 0;
/// Transcripts in which the client always sends whole elements: they hold over WebSocket, too.
const WHOLE_ELEMENTS: [&str; 21] = [
    "01-login-and-event.txt",
    "03-one-round-trip.txt",
    "04-failed-logins.txt",
    "07-questions.txt",
    "08-stream-management.txt",
    "09-silence.txt",
    "10-receipts.txt",
    "11-presence.txt",
    "12-outcomes.txt",
    "13-scram.txt",
    "14-fast.txt",
    "15-certificate.txt",
    "16-limits.txt",
    "17-standby.txt",
    "18-resumption.txt",
    "19-ended-by-the-service.txt",
    "20-reported.txt",
    "24-counting.txt",
    "26-refusals.txt",
    "27-presence-kinds.txt",
    "28-pings.txt",
];

mod transcript;
mod words;

use transcript::{Step, line, matches, pipelined, read};
use words::Words;

/// One run of a transcript.
struct Run {
    talk: Talk,
    words: Words,
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
        let (scene, of) = scene.split_once(' ').unwrap_or((scene, ""));
        let talk = match scene {
            "clear" => Talk::with(config(), false),
            "bound" => {
                let mut talk = Talk::new().over(carried);
                talk.stream.bound_to(bindings());
                talk
            }
            "certificate" | "pinned-other" => {
                let mut talk = Talk::new().over(carried);
                talk.stream.certificate(PeerCertificate {
                    proves: of
                        .split_whitespace()
                        .map(|name| name.split_once('@').unwrap())
                        .map(|(device, at)| (device.parse().unwrap(), at.to_owned()))
                        .collect(),
                    sha256: [7; 32],
                });
                if scene == "pinned-other" {
                    talk.pinned = Pinned::Other;
                }
                talk
            }
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
            // After a long life.
            "counted" => {
                let mut talk = Talk::new().over(carried).binds().manages();
                let (from, session) = (of.parse().unwrap(), talk.stream.session.as_mut().unwrap());
                session.window.start_at(from);
                session.handled = from;
                talk
            }
            "websocket" => Talk::new().over(Carried::WebSocket),
            _ => panic!("{scene:?} is no scene"),
        };
        Self {
            talk,
            words: Words::default(),
            said: String::new(),
            cut,
        }
    }

    fn client(&mut self, text: &str) {
        let cut = if self.talk.carried == Carried::Tcp { self.cut } else { usize::MAX };
        let text = self.words.say(&text.replace('␣', " "));
        for bytes in text.as_bytes().chunks(cut) {
            let said = self.talk.send_bytes(bytes);
            self.words.heard.push_str(&said);
            self.said.push_str(&said);
        }
    }

    /// The device is back on a new connection; what the service knows of it goes on.
    fn reconnect(&mut self) {
        self.words.reconnect();
        let before = &mut self.talk;
        before.parked = before.stream.take_session().or(before.parked.take());
        let mut stream = ServerStream::new(Arc::new(config()), true, [9; 32], before.now);
        if before.carried != Carried::Tcp {
            stream = stream.framed(Framing::WebSocket);
        }
        stream.bound_to(bindings());
        before.stream = stream;
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
            Some(("low", number)) => {
                let event = event_of(number.parse().unwrap(), |event| event.event.urgency = Urgency::Low);
                self.talk.push_event(&event, false);
                self.talk.flush()
            }
            // In one piece, whatever the rest is cut into.
            Some(("sends", text)) => self.talk.send(text),
            // The gateway reads the store again from where the session says.
            Some(("read", low)) => {
                let number = low.strip_prefix("low ").unwrap().parse().unwrap();
                let event = event_of(number, |event| event.event.urgency = Urgency::Low);
                self.talk.stream.session_mut().unwrap().read_on();
                assert!(self.talk.push_event(&event, true));
                self.talk.stream.session_mut().unwrap().caught_up();
                self.talk.flush()
            }
            Some(("waited", number)) => {
                assert!(self.talk.push_event(&event(number.parse().unwrap()), true));
                self.talk.flush()
            }
            Some((days, "days")) => {
                let day = Duration::from_secs(24 * 3600);
                self.talk.time = self.talk.time.plus(day * days.parse().unwrap());
                String::new()
            }
            Some(("ends", why)) => {
                let error = match why {
                    "conflict" => StreamError::Conflict,
                    "system-shutdown" => StreamError::SystemShutdown,
                    "resource-constraint" => StreamError::ResourceConstraint { retry_after: 40 },
                    "internal-server-error" => StreamError::InternalServerError,
                    "not-authorized" => StreamError::NotAuthorized,
                    _ => panic!("{why:?} ends nothing"),
                };
                self.talk.stream.fail(&error, self.talk.now);
                self.talk.answer();
                self.talk.output()
            }
            Some((seconds, "s")) => {
                self.talk.later(seconds.parse().unwrap());
                self.talk.elapse()
            }
            _ if what == "reconnects" => {
                self.reconnect();
                String::new()
            }
            // It logs in as ever, and has read the features behind that.
            _ if what == "comes back" => {
                self.reconnect();
                self.talk.log_in();
                String::new()
            }
            _ if what == "old" => {
                self.talk.stream.retire_at(self.talk.now);
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
            // What is right stays as it is written, dots and all.
            Step::Server(expected) if bless && matches(expected, &run.said) => run.said.clear(),
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

#[test]
fn every_transcript_is_what_is_said() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut files: Vec<PathBuf> = fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path()).collect();
    // Those of two connections are the gateway's.
    files.retain(|file| file.is_file());
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
        let mut scenes = Vec::new();
        for step in steps {
            if matches!(step, Step::Scene(_)) || scenes.is_empty() {
                scenes.push(Vec::new());
            }
            scenes.last_mut().unwrap().push(step);
        }
        for steps in scenes.iter().filter_map(|scene| pipelined(scene)) {
            run(&format!("{name}, pipelined"), &steps, usize::MAX, false);
        }
        let steps = scenes.concat();
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
