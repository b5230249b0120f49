//! The processes with the boxes, as the demo sees them.

use std::{collections::HashMap, process::Stdio, time::Duration};

use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{
    boxes::{Order, Report, Script, Way},
    stage::{Stage, spawn},
};
use crate::{
    cli::{Failure, secret::random_below},
    crew::Crew,
};

/// Boxes that share a process.
const BOXES_A_PROCESS: usize = 250;
/// How long the boxes may take to say goodbye.
const GOODBYE_WITHIN: Duration = Duration::from_secs(15);
/// How long a box in trouble stays away, at least and at most, in milliseconds.
const AWAY_MS: (u64, u64) = (500, 3_000);

/// What was done to a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Its connection was cut; it resumes its session.
    Cut,
    /// It lost its power; it starts a new session.
    PowerLoss,
}

/// All boxes.
pub struct Fleet {
    processes: Vec<(Child, ChildStdin)>,
    process_of: HashMap<String, usize>,
    readers: Crew,
}

impl Fleet {
    /// No boxes yet.
    pub fn new() -> Self {
        Self {
            processes: Vec::new(),
            process_of: HashMap::new(),
            readers: Crew::default(),
        }
    }

    /// Starts processes with boxes, which connect or poll at once and report.
    pub async fn add(
        &mut self,
        stage: &Stage,
        way: Way,
        boxes: &[(String, String)],
        reports: &mpsc::Sender<Report>,
    ) -> Result<(), Failure> {
        for some in boxes.chunks(BOXES_A_PROCESS) {
            let mut command = this_program()?;
            command
                .arg("demo-boxes")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null());
            let mut child = spawn(&mut command)?;
            let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
                return Err(Failure::Failed("a process of boxes has no pipes".into()));
            };
            let number = self.processes.len();
            self.process_of.extend(some.iter().map(|(id, _)| (id.clone(), number)));
            self.readers.spawn(read(stdout, reports.clone()));
            let script = Script {
                way,
                addresses: match way {
                    Way::Push => stage.xmpps.clone(),
                    Way::Poll => stage.https.clone(),
                },
                domain: stage.domain.clone(),
                ca: stage.ca(),
                boxes: some.to_vec(),
            };
            write(&mut stdin, &script).await?;
            self.processes.push((child, stdin));
        }
        Ok(())
    }

    /// Gives a box trouble: its connection is cut, or it loses its power, by turns.
    pub async fn trouble(&mut self, ids: &[String], turn: u64) -> Result<Option<Trouble>, Failure> {
        let chosen = usize::try_from(random_below(ids.len() as u64)).ok().and_then(|at| ids.get(at));
        let Some((id, process)) = chosen.and_then(|id| Some((id, *self.process_of.get(id)?))) else {
            return Ok(None);
        };
        let away_ms = AWAY_MS.0 + random_below(AWAY_MS.1 - AWAY_MS.0);
        let (trouble, order) = if turn.is_multiple_of(2) {
            (
                Trouble::Cut,
                Order::Cut {
                    device: id.clone(),
                    away_ms,
                },
            )
        } else {
            (
                Trouble::PowerLoss,
                Order::PowerLoss {
                    device: id.clone(),
                    away_ms,
                },
            )
        };
        match self.processes.get_mut(process) {
            Some((_, stdin)) => write(stdin, &order).await.map(|()| Some(trouble)),
            None => Ok(None),
        }
    }

    /// Lets all boxes say goodbye and waits for their processes, and for the last of their reports to be read.
    pub async fn dismiss(self) {
        let by = Instant::now() + GOODBYE_WITHIN;
        let (children, pipes): (Vec<_>, Vec<_>) = self.processes.into_iter().unzip();
        drop(pipes); // the end of their orders
        for mut child in children {
            stop_at(&mut child, by).await;
        }
        self.readers.dismiss(by).await;
    }
}

async fn read(stdout: ChildStdout, reports: mpsc::Sender<Report>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let report = serde_json::from_str(&line).unwrap_or_else(|error| Report::Failed {
            device: "a process of boxes".into(),
            why: format!("it said {line:?}: {error}"),
        });
        if reports.send(report).await.is_err() {
            return;
        }
    }
}

async fn write(stdin: &mut ChildStdin, value: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_vec(value).map_err(Failure::failed)?;
    line.push(b'\n');
    stdin
        .write_all(&line)
        .await
        .map_err(|error| Failure::Failed(format!("a process of boxes ended: {error}")))
}

/// This program, to be started again with settings of its own.
pub fn this_program() -> Result<Command, Failure> {
    let path = std::env::current_exe().map_err(|error| Failure::Failed(format!("this program cannot be found: {error}")))?;
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("UNPOLL_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// Asks a child to stop.
pub fn ask_to_stop(child: &Child) {
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// Waits for a child to end, and kills it when it has not by then.
pub async fn stop_at(child: &mut Child, by: Instant) {
    let left = by.saturating_duration_since(Instant::now());
    if timeout(left, child.wait()).await.is_err() {
        // It may have ended just now.
        let _ = child.kill().await;
    }
}
