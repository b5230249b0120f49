//! Devices in another process: `loadtest wander`.

use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use loadtest::wander::{Plan, Said};

use crate::{
    stage::{LATE, PASSWORD, Stage},
    support::wait_for,
};

pub const PREFIX: &str = "box";

/// An event that a device acted on.
#[derive(Clone, Debug)]
pub struct Applied {
    pub device: u64,
    pub id: String,
    pub lane: String,
    pub seq: u64,
    pub attempt: u32,
}

/// What the devices have said.
#[derive(Debug, Default)]
pub struct Heard {
    pub up: u64,
    pub applied: Vec<Applied>,
    /// Events that were dropped unseen, because their lane had gone on, and where.
    pub passed: Vec<(u64, String)>,
    /// Sessions and repeats, once they have ended.
    pub over: Option<(u64, u64)>,
}

pub struct Crowd {
    child: Child,
    input: Option<ChildStdin>,
    heard: Arc<Mutex<Heard>>,
    reader: Option<JoinHandle<()>>,
    devices: u64,
}

/// The program beside this one. Cargo builds it together with all tests; before `--test faults` alone, `cargo build -p loadtest`.
fn program() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    this.ancestors().nth(2).unwrap().join("loadtest")
}

impl Crowd {
    /// `devices` begin to log in; each stays at a node for a time around `stay`.
    pub fn start<R>(stage: &Stage<R>, devices: u64, stay: Duration, seed: u64) -> Self {
        let mut child = Command::new(program())
            .arg("wander")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("loadtest; before --test faults alone: cargo build -p loadtest");
        let plan = Plan {
            nodes: stage.nodes.iter().map(|node| node.xmpp).collect(),
            domain: "localhost".into(),
            prefix: PREFIX.into(),
            password: PASSWORD.into(),
            devices,
            stay,
            seed,
        };
        let mut input = child.stdin.take().unwrap();
        writeln!(input, "{}", serde_json::to_string(&plan).unwrap()).unwrap();
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let (output, hears) = (BufReader::new(child.stdout.take().unwrap()), heard.clone());
        let reader = std::thread::spawn(move || {
            for line in output.lines() {
                let said = serde_json::from_str(&line.unwrap()).unwrap();
                let mut heard = hears.lock().unwrap();
                match said {
                    Said::Up(up) => heard.up = up,
                    Said::Passed { device, id } => heard.passed.push((device, id)),
                    Said::Over { sessions, repeats } => heard.over = Some((sessions, repeats)),
                    Said::Applied {
                        device,
                        id,
                        lane,
                        seq,
                        attempt,
                    } => heard.applied.push(Applied {
                        device,
                        id,
                        lane,
                        seq,
                        attempt,
                    }),
                }
            }
        });
        Self {
            child,
            input: Some(input),
            heard,
            reader: Some(reader),
            devices,
        }
    }

    /// How many have acted on how many events.
    pub fn applied(&self) -> usize {
        self.heard.lock().unwrap().applied.len()
    }

    /// Waits until they are back: all but those that are just on their way from one node to another.
    #[track_caller]
    pub fn wait_until_up(&self) {
        wait_for("the devices to be back", LATE, || {
            let heard = self.heard.lock().unwrap();
            (heard.up >= self.devices - self.devices / 50).then_some(())
        });
    }

    /// Ends them; all that they ever said.
    pub fn end(mut self) -> Heard {
        drop(self.input.take());
        let status = wait_for("the end of the devices", LATE, || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
        self.reader.take().unwrap().join().unwrap();
        std::mem::take(&mut *self.heard.lock().unwrap())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
