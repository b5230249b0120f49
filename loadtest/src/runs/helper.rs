//! Child processes that hold a share of a run's devices: a process may have 20,000 files open. Each is this program again, told
//! by a line of JSON on stdin what to do, and answers by a line on stdout.

use std::process::Stdio;

use loadtest::Error;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc,
};

use super::target::Recipe;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer<R> {
    Done(R),
    Failed(String),
}

/// A child process. Dropping it kills it.
pub struct Helper {
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    process: Child,
}

impl Helper {
    /// Starts this program with a hidden subcommand, and tells it how devices connect.
    pub async fn start(subcommand: &str, recipe: &Recipe) -> Result<Self, Error> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(subcommand)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(Error::Machine("a child without pipes".into()));
        };
        let mut helper = Self {
            input,
            output: BufReader::new(output).lines(),
            process,
        };
        helper.order(recipe).await?;
        Ok(helper)
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Tells it what to do.
    pub async fn order(&mut self, order: &impl Serialize) -> Result<(), Error> {
        let line = serde_json::to_string(order).map_err(json)? + "\n";
        self.input.write_all(line.as_bytes()).await?;
        Ok(self.input.flush().await?)
    }

    /// What it answers to the oldest order that was not answered.
    pub async fn reply<R: DeserializeOwned>(&mut self) -> Result<R, Error> {
        let line = self
            .output
            .next_line()
            .await?
            .ok_or_else(|| Error::Machine("a child process ended".into()))?;
        match serde_json::from_str(&line).map_err(json)? {
            Answer::Failed(reason) => Err(Error::Machine(format!("in a child process: {reason}"))),
            Answer::Done(reply) => Ok(reply),
        }
    }
}

/// The process that started this one.
pub struct Parent(mpsc::Receiver<String>);

impl Parent {
    /// Reads stdin on a thread of its own.
    pub fn new() -> Self {
        let (sender, lines) = mpsc::channel(1);
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Self(lines)
    }

    /// How devices connect; raises the limit of open files for them.
    pub async fn recipe(&mut self) -> Result<Recipe, Error> {
        loadtest::process::allow_files(0)?;
        self.order().await?.ok_or_else(|| Error::Machine("no recipe".into()))
    }

    /// The next order; `None` when the parent is gone.
    pub async fn order<O: DeserializeOwned>(&mut self) -> Result<Option<O>, Error> {
        match self.0.recv().await {
            Some(line) => serde_json::from_str(&line).map(Some).map_err(json),
            None => Ok(None),
        }
    }

    /// Answers an order. Short, and the parent reads: it does not block the devices.
    pub fn reply<R: Serialize>(&self, done: Result<R, Error>) -> Result<(), Error> {
        let answer = match done {
            Ok(reply) => Answer::Done(reply),
            Err(error) => Answer::Failed(error.to_string()),
        };
        println!("{}", serde_json::to_string(&answer).map_err(json)?);
        Ok(())
    }
}

fn json(error: serde_json::Error) -> Error {
    Error::Machine(error.to_string())
}
