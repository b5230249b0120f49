//! `unpoll listen` as a process: what a script that uses it may rely on.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
};

use serde_json::{Value, json};
use support::{Backend, SOON, Service, terminate, wait_for, wait_for_presence};

/// A running `unpoll listen` as the device `box`; killed at the end.
struct Listening {
    child: Child,
    lines: Receiver<String>,
    said: Receiver<String>,
}

impl Listening {
    fn start(service: &Service, more: &[&str]) -> Self {
        let mut child = command(service, more).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"secret\n").unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let said = lines_of(child.stderr.take().unwrap());
        Self { child, lines, said }
    }

    #[track_caller]
    fn event(&self) -> Value {
        let line = self.lines.recv_timeout(SOON).expect("a line");
        serde_json::from_str(&line).unwrap()
    }

    #[track_caller]
    fn ended(&mut self) -> ExitStatus {
        wait_for("listen ends", SOON, || self.child.try_wait().unwrap())
    }

    fn all_said(&self) -> String {
        self.said.iter().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(service: &Service, more: &[&str]) -> Command {
    let mut command = service.command();
    command
        .args(["listen", "--device", "box", "--password-stdin", "--server"])
        .arg(service.xmpps.to_string())
        .arg("--ca")
        .arg(service.ca())
        .args(more)
        .current_dir(service.dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn lines_of(from: impl Read + Send + 'static) -> Receiver<String> {
    let (lines, next) = mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(from)
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| lines.send(line))
    });
    next
}

fn service() -> (Service, Backend) {
    let service = Service::start();
    let backend = service.backend();
    backend.add_device("box", "secret");
    (service, backend)
}

#[track_caller]
fn delivered(backend: &Backend, id: &str) {
    wait_for("it is delivered", SOON, || (backend.state(id) == "delivered").then_some(()));
}

#[test]
fn once_is_one_line_with_the_names_that_are_documented_and_zero() {
    let (service, backend) = service();
    let id = backend.push("box", &json!({ "title": "a\nb 電視" }));
    let mut listening = Listening::start(&service, &["--once"]);
    let event = listening.event();
    let names: Vec<&String> = event.as_object().unwrap().keys().collect();
    assert_eq!(names, ["id", "lane", "seq", "attempt", "event", "delayed"]);
    assert_eq!((&event["id"], &event["event"]["data"]["title"]), (&json!(id), &json!("a\nb 電視")));
    assert_eq!(listening.ended().code(), Some(0));
    assert_eq!(listening.lines.iter().count(), 0, "one line and no more");
    delivered(&backend, &id);
}

#[test]
fn an_event_is_acknowledged_when_its_command_has_ended() {
    let (service, backend) = service();
    let exec = "cat > seen && while [ ! -e go ]; do sleep 0.02; done; echo a command speaks";
    let mut listening = Listening::start(&service, &["--exec", exec]);
    wait_for_presence(&backend, "box", "online");
    let id = backend.push("box", &json!(1));
    let line = listening.event();
    let seen = service.dir().join("seen");
    let read = || fs::read_to_string(&seen).ok().filter(|text| text.ends_with('\n'));
    let seen = wait_for("the command has the event", SOON, read);
    assert_eq!(serde_json::from_str::<Value>(&seen).unwrap(), line);
    assert_ne!(backend.state(&id), "delivered");
    fs::write(service.dir().join("go"), "").unwrap();
    wait_for("it is settled", SOON, || {
        ["delivered", "processed"].contains(&backend.state(&id).as_str()).then_some(())
    });
    terminate(&listening.child);
    assert_eq!(listening.ended().code(), Some(0));
    assert_eq!(listening.lines.iter().count(), 0, "what the command says is no event");
    assert!(listening.all_said().contains("a command speaks"));
}

#[test]
fn a_reader_that_went_away_ends_it_and_leaves_the_event_in_the_queue() {
    let (service, backend) = service();
    let mut child = command(&service, &[]).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"secret\n").unwrap();
    drop(child.stdout.take());
    wait_for_presence(&backend, "box", "online");
    let id = backend.push("box", &json!(1));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("stdout"), "{output:?}");
    wait_for_presence(&backend, "box", "offline");
    assert_ne!(backend.state(&id), "delivered");
    let listening = Listening::start(&service, &["--once"]);
    assert_eq!(listening.event()["id"], json!(id));
    delivered(&backend, &id);
}

#[test]
fn a_journal_keeps_what_was_applied_from_being_applied_again() {
    let (service, backend) = service();
    let journal = service.dir().join("journal.json");
    let with_journal = ["--journal", journal.to_str().unwrap()];
    let first = backend.push("box", &json!("first"));
    let mut listening = Listening::start(&service, &with_journal);
    assert_eq!(listening.event()["id"], json!(first));
    delivered(&backend, &first);
    assert_eq!(fs::metadata(&journal).unwrap().permissions().mode() & 0o777, 0o600);
    listening.child.kill().unwrap();
    listening.child.wait().unwrap();
    // As if the acknowledgement of the next one had been lost: the journal knows its number.
    let ahead = |seq: u64| {
        let mut kept: Value = serde_json::from_str(&fs::read_to_string(&journal).unwrap()).unwrap();
        kept["lanes"][0][1] = json!(kept["lanes"][0][1].as_u64().unwrap() + seq);
        write(&journal, &kept);
    };
    ahead(1);
    let (repeat, news) = (backend.push("box", &json!("repeat")), backend.push("box", &json!("news")));
    let listening = Listening::start(&service, &with_journal);
    assert_eq!(listening.event()["id"], json!(news));
    delivered(&backend, &repeat);
    delivered(&backend, &news);
    let kept = fs::read_to_string(&journal).unwrap();
    assert!(!kept.contains("secret"), "the password is not in it: {kept}");
}

#[test]
fn a_device_with_a_journal_comes_back_by_its_token_and_by_its_password_when_the_token_is_no_good() {
    let (service, backend) = service();
    let journal = service.dir().join("journal.json");
    let kept = || serde_json::from_str::<Value>(&fs::read_to_string(&journal).unwrap()).unwrap();
    let once = || {
        let id = backend.push("box", &json!("once"));
        let mut listening = Listening::start(&service, &["--once", "--journal", journal.to_str().unwrap()]);
        assert_eq!(listening.event()["id"], json!(id));
        assert_eq!(listening.ended().code(), Some(0), "{}", listening.all_said());
        kept()
    };
    let first = once();
    assert_eq!(first["scram_offered"], json!(true));
    let token = &first["token"];
    assert_eq!((&token["mechanism"], &token["count"]), (&json!("HT-SHA-256-EXPR"), &json!(0)));
    // A refused token would be gone, and one that is a day old be replaced.
    let second = once();
    assert_eq!((&second["token"]["count"], &second["token"]["value"]), (&json!(1), &token["value"]));

    let mut spoilt = second.clone();
    spoilt["token"]["value"] = json!("no token of this service");
    write(&journal, &spoilt);
    let third = once();
    assert_ne!(
        third["token"]["value"], spoilt["token"]["value"],
        "a new one, earned by the password"
    );
    assert_eq!(third["user_agent"], first["user_agent"]);
}

fn write(path: &Path, value: &Value) {
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn the_service_is_killed_while_a_command_runs_and_the_event_is_printed_once() {
    let (mut service, backend) = service();
    let exec = "echo ran >> runs; while [ ! -e go ]; do sleep 0.02; done";
    let listening = Listening::start(&service, &["--exec", exec]);
    wait_for_presence(&backend, "box", "online");
    let first = backend.push("box", &json!("first"));
    assert_eq!(listening.event()["id"], json!(first));
    service.kill();
    service.run();
    wait_for_presence(&backend, "box", "online");
    fs::write(service.dir().join("go"), "").unwrap();
    let second = backend.push("box", &json!("second"));
    assert_eq!(listening.event()["id"], json!(second), "the first is not printed again");
    for id in [&first, &second] {
        wait_for("it is settled", SOON, || {
            ["delivered", "processed"].contains(&backend.state(id).as_str()).then_some(())
        });
    }
    let runs = || fs::read_to_string(service.dir().join("runs")).unwrap();
    assert_eq!(runs().lines().count(), 2);
}

#[test]
fn of_two_with_one_identity_the_older_ends_with_one_and_says_why() {
    let (service, backend) = service();
    let mut older = Listening::start(&service, &[]);
    wait_for_presence(&backend, "box", "online");
    let _newer = Listening::start(&service, &[]);
    assert_eq!(older.ended().code(), Some(1));
    assert!(older.all_said().contains("another connection logged in as box@localhost"));
}

#[test]
fn a_signal_ends_it_with_zero_and_ends_the_session() {
    let (service, backend) = service();
    let mut listening = Listening::start(&service, &[]);
    wait_for_presence(&backend, "box", "online");
    terminate(&listening.child);
    assert_eq!(listening.ended().code(), Some(0));
    // Without a goodbye the session would wait for it, and the device be away.
    wait_for_presence(&backend, "box", "offline");
}

#[test]
fn wrong_usage_ends_with_two_and_a_journal_of_another_with_one() {
    let (service, _) = service();
    let check = |more: &[&str], code: i32| {
        let mut child = command(&service, more).spawn().unwrap();
        // It may end before it reads.
        let _ = child.stdin.take().unwrap().write_all(b"secret\n");
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{more:?}: {output:?}");
    };
    check(&["--once", "--count", "2"], 2);
    check(&["--exec-timeout", "5"], 2);
    check(&["--exec", "true", "--exec-timeout", "0"], 2);
    check(&["--count", "0"], 2);
    let journal = service.dir().join("journal.json");
    write(&journal, &json!({ "jid": "other@localhost", "user_agent": "u" }));
    check(&["--journal", journal.to_str().unwrap()], 1);
}
