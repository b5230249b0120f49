//! A command that is run for each event: its exit status is the outcome.

use std::{io, os::fd::AsFd, os::unix::process::ExitStatusExt, process::ExitStatus, process::Stdio, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

use crate::cli::reference_device::{Delivered, Outcome};

/// sysexits.h: try again later.
const EX_TEMPFAIL: i32 = 75;

/// What to run, and how long it may take.
#[derive(Debug, Clone)]
pub struct Exec {
    /// For `sh -c`.
    pub command: String,
    /// After this it is killed, and the event has failed.
    pub timeout: Duration,
    /// When the command asks to try again later: after how many seconds.
    pub retry_seconds: u32,
}

impl Exec {
    /// Runs the command with the event's line on its stdin, and waits for its end. What it prints goes to stderr.
    ///
    /// # Errors
    /// When it cannot be run at all, which says nothing about the event.
    pub async fn run(&self, event: &Delivered, line: &str) -> io::Result<Outcome> {
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        let child = Command::new("/bin/sh")
            .args(["-c", &self.command])
            .env_remove("UNPOLL_PASSWORD")
            .env_remove("UNPOLL_KEY")
            .env("UNPOLL_EVENT_ID", &event.id)
            .env("UNPOLL_EVENT_LANE", &event.lane)
            .env("UNPOLL_EVENT_SEQ", event.seq.to_string())
            .env("UNPOLL_EVENT_ATTEMPT", event.attempt.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::from(stderr))
            .process_group(0) // what it starts is killed with it
            .spawn()?;
        let mut group = Group(child);
        let mut stdin = group.0.stdin.take();
        let fed = async {
            if let Some(stdin) = &mut stdin {
                // A command that does not read its stdin is none the worse for it.
                let _ = stdin.write_all(format!("{line}\n").as_bytes()).await;
            }
            drop(stdin);
        };
        let ended = async { tokio::join!(fed, group.0.wait()).1 };
        match tokio::time::timeout(self.timeout, ended).await {
            Ok(status) => Ok(self.outcome(status?)),
            Err(_) => Ok(Outcome::Failed {
                code: "timeout".into(),
                retry_seconds: None,
            }),
        }
    }

    fn outcome(&self, status: ExitStatus) -> Outcome {
        let failed = |code: String, retry_seconds| Outcome::Failed { code, retry_seconds };
        match (status.code(), status.signal()) {
            (Some(0), _) => Outcome::Done,
            (Some(EX_TEMPFAIL), _) => failed(EX_TEMPFAIL.to_string(), Some(self.retry_seconds)),
            (Some(code), _) => failed(code.to_string(), None),
            (None, Some(signal)) => failed(format!("signal-{signal}"), None),
            (None, None) => failed("unknown".into(), None),
        }
    }
}

/// A command and all that it started, which end with it: by themselves, at the timeout, or with this process's wish to end.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let group = self.0.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(group) = group {
            // It may end just now.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Delivered {
        let xml = "<message xmlns='jabber:client' from='localhost'><event xmlns='urn:unpoll:event:1' id='e1' lane='normal.1' seq='7'>\
                   <json xmlns='urn:xmpp:json:0'>{\"type\":\"t\"}</json></event></message>";
        let message = xml.parse::<xmpp_parsers::minidom::Element>().unwrap();
        Delivered::read(&message.try_into().unwrap()).unwrap()
    }

    async fn run(command: &str, timeout: Duration) -> Outcome {
        let exec = Exec {
            command: command.into(),
            timeout,
            retry_seconds: 60,
        };
        exec.run(&event(), r#"{"id":"e1"}"#).await.unwrap()
    }

    fn failed(code: &str, retry_seconds: Option<u32>) -> Outcome {
        Outcome::Failed {
            code: code.into(),
            retry_seconds,
        }
    }

    #[tokio::test]
    async fn the_exit_status_is_the_outcome() {
        let long = Duration::from_secs(30);
        assert_eq!(run("exit 0", long).await, Outcome::Done);
        assert_eq!(run("exit 75", long).await, failed("75", Some(60)));
        assert_eq!(run("exit 3", long).await, failed("3", None));
        assert_eq!(run("kill -9 $$", long).await, failed("signal-9", None));
    }

    #[tokio::test]
    async fn the_event_is_on_its_stdin_and_in_its_environment() {
        let command = r#"read -r line && [ "$line" = '{"id":"e1"}' ] && [ "$UNPOLL_EVENT_ID/$UNPOLL_EVENT_LANE/$UNPOLL_EVENT_SEQ/$UNPOLL_EVENT_ATTEMPT" = e1/normal.1/7/1 ]"#;
        assert_eq!(run(command, Duration::from_secs(30)).await, Outcome::Done);
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed_with_all_that_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let command = format!("sleep 600 & echo $! > {}; wait", pid.display());
        assert_eq!(run(&command, Duration::from_secs(1)).await, failed("timeout", None));
        let child: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        let started = rustix::process::Pid::from_raw(child).unwrap();
        let gone = async {
            // Dead, or a zombie that nobody buries in a container without an init.
            let dead = || {
                let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
                rustix::process::test_kill_process(started).is_err() || stat.contains(") Z")
            };
            while !dead() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone)
            .await
            .expect("the grandchild is killed");
    }
}
