//! A lane: one connection to one server, whose commands are gathered while the last batch is under way (natural batching) and
//! written as one pipeline: what comes one by one costs a server several times as much. A durable lane ends each pipeline with one `WAIT`, which covers all its commands.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{AsyncConnectionConfig, Cmd, Pipeline, ServerError, Value};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Config,
    connection::{Connection, Server},
    metrics::RedisMetrics,
    script,
};

/// Commands of one pipeline.
const TOGETHER: usize = 256;
/// How long a server that could not be reached is left alone.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Why a command has no result.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// It was never sent.
    NotSent(Arc<str>),
    /// It was sent, and what became of it is not known.
    Unknown(Arc<str>),
    /// It was done, and too few replicas have it.
    NotReplicated,
    /// The server refused it.
    Refused(ServerError),
    /// It was made before the server was found to be another run, and not sent: numbers start higher now.
    Stale,
}

/// What a durable lane waits for at the end of each pipeline.
#[derive(Debug, Clone)]
pub(super) struct Wait {
    /// Whether it waits at all. It may begin to while the lane runs.
    pub(super) replicated: Arc<AtomicBool>,
    /// For so many replicas; changes as they come and go.
    pub(super) replicas: Arc<AtomicU32>,
    pub(super) within: Duration,
}

impl Wait {
    fn now(&self) -> Option<(u32, Duration)> {
        let replicated = self.replicated.load(Ordering::Acquire);
        replicated.then(|| (self.replicas.load(Ordering::Acquire).max(1), self.within))
    }
}

/// How a lane reaches its server.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) server: Server,
    pub(super) connect_within: Duration,
    pub(super) answer_within: Duration,
    /// Whether and how its pipelines wait for replicas.
    pub(super) wait: Option<Wait>,
    /// Where the floor of numbers of this shard is kept, if it has buckets.
    pub(super) floor_key: Option<String>,
    /// Commands that may wait for the lane.
    pub(super) waiting_max: usize,
}

impl Settings {
    /// For one connection that nobody waits behind.
    pub(super) fn single(server: Server, config: &Config) -> Self {
        Self {
            server,
            connect_within: config.answer_within(),
            answer_within: config.answer_within(),
            wait: None,
            floor_key: None,
            waiting_max: 1,
        }
    }

    fn limits(&self) -> AsyncConnectionConfig {
        let waits = self.wait.as_ref().and_then(Wait::now).map_or(Duration::ZERO, |(_, within)| within);
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_within))
            .set_response_timeout(Some(self.answer_within + waits))
    }
}

struct Op {
    cmd: Cmd,
    /// Whether `ASKING` goes before it.
    asking: bool,
    /// The floor that it was made with.
    floor: u64,
    answer: oneshot::Sender<Result<Value, Failure>>,
}

/// The way into a lane. It ends when all handles are gone.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    ops: mpsc::Sender<Op>,
}

impl Lane {
    pub(super) fn start(settings: Settings, floor: Arc<AtomicU64>, metrics: RedisMetrics) -> Self {
        let (ops, waiting) = mpsc::channel(settings.waiting_max.max(1));
        tokio::spawn(run(settings, waiting, floor, metrics));
        Self { ops }
    }

    /// Runs a command. Commands keep the order in which this is first polled.
    pub(super) async fn run(&self, cmd: Cmd, asking: bool, floor: u64) -> Result<Value, Failure> {
        let (answer, answered) = oneshot::channel();
        let full = |_| Failure::NotSent("too many commands wait".into());
        self.ops
            .try_send(Op {
                cmd,
                asking,
                floor,
                answer,
            })
            .map_err(full)?;
        answered
            .await
            .unwrap_or_else(|_| Err(Failure::Unknown("the connection was given up".into())))
    }
}

/// One connection to a server.
pub(super) async fn connect(settings: &Settings) -> Result<Connection, redis::RedisError> {
    settings.server.connect(settings.limits(), settings.connect_within, false).await
}

/// A connection that is pushed messages (RESP 3), with no scripts.
pub(super) async fn connect_for_pushes(
    settings: &Settings,
    taken: impl redis::aio::AsyncPushSender,
) -> Result<Connection, redis::RedisError> {
    let limits = settings.limits().set_push_sender(taken);
    settings.server.connect(limits, settings.connect_within, true).await
}

async fn run(settings: Settings, mut waiting: mpsc::Receiver<Op>, floor: Arc<AtomicU64>, metrics: RedisMetrics) {
    let mut connection: Option<Connection> = None;
    let mut down: Option<(Instant, Arc<str>)> = None;
    let mut burst = Vec::with_capacity(TOGETHER);
    while waiting.recv_many(&mut burst, TOGETHER).await > 0 {
        if connection.is_none() && down.as_ref().is_none_or(|(until, _)| Instant::now() >= *until) {
            match open(&settings, &floor).await {
                Ok(opened) => {
                    connection = Some(opened);
                    down = None;
                }
                Err(error) => down = Some((Instant::now() + AGAIN_AFTER, error.to_string().into())),
            }
        }
        refuse_stale(&mut burst, floor.load(Ordering::Acquire));
        match &mut connection {
            _ if burst.is_empty() => {}
            Some(open) => {
                if !send(open, burst.drain(..), settings.wait.as_ref().and_then(Wait::now), &metrics).await {
                    connection = None;
                }
            }
            None => {
                let why = down.as_ref().map_or_else(|| "it is not reached".into(), |(_, why)| Arc::clone(why));
                for op in burst.drain(..) {
                    let _ = op.answer.send(Err(Failure::NotSent(Arc::clone(&why))));
                }
            }
        }
    }
}

/// What was made with a floor that holds no more goes back.
fn refuse_stale(burst: &mut Vec<Op>, floor: u64) {
    if burst.iter().any(|op| op.floor < floor) {
        let (stale, good): (Vec<Op>, Vec<Op>) = burst.drain(..).partition(|op| op.floor < floor);
        for op in stale {
            let _ = op.answer.send(Err(Failure::Stale));
        }
        *burst = good;
    }
}

/// A connection on which everything is known that commands rely on: the scripts, and from which number on nothing was given out
/// that this server may have lost.
async fn open(settings: &Settings, floor: &AtomicU64) -> Result<Connection, redis::RedisError> {
    let mut connection = connect(settings).await?;
    script::make_known(&mut connection).await?;
    if let Some(key) = &settings.floor_key {
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
        let run = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default();
        let mut cmd = script::FLOOR.call(std::slice::from_ref(key));
        let found: u64 = cmd.arg(run).query_async(&mut connection).await?;
        floor.fetch_max(found, Ordering::AcqRel);
    }
    Ok(connection)
}

/// Sends one batch and answers each of its commands. False: the connection is of no use any more.
async fn send(
    connection: &mut Connection,
    batch: impl ExactSizeIterator<Item = Op>,
    wait: Option<(u32, Duration)>,
    metrics: &RedisMetrics,
) -> bool {
    let started = Instant::now();
    let mut pipeline = Pipeline::with_capacity(batch.len() + 1);
    let mut count = 0;
    let mut answers = Vec::with_capacity(batch.len());
    for op in batch {
        if op.asking {
            pipeline.add_command(redis::cmd("ASKING"));
            count += 1;
        }
        pipeline.add_command(op.cmd);
        answers.push((count, op.answer));
        count += 1;
    }
    if let Some((replicas, within)) = wait {
        let mut cmd = redis::cmd("WAIT");
        cmd.arg(replicas).arg(u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
        pipeline.add_command(cmd);
        count += 1;
    }
    let result = connection.send(&pipeline, count).await;
    metrics.batch(answers.len(), started.elapsed());
    match result {
        Ok(mut values) => {
            let replicated = match wait {
                Some((replicas, _)) => matches!(values.pop(), Some(Value::Int(found)) if found >= i64::from(replicas)),
                None => true,
            };
            let mut unknown_script = false;
            let mut values: Vec<Option<Value>> = values.into_iter().map(Some).collect();
            for (at, answer) in answers {
                let value = values.get_mut(at).and_then(Option::take);
                let answered = match value {
                    Some(Value::ServerError(error)) => {
                        unknown_script |= script::is_unknown(&error);
                        Err(Failure::Refused(error))
                    }
                    Some(value) if replicated => Ok(value),
                    Some(_) => Err(Failure::NotReplicated),
                    None => Err(Failure::Unknown("an answer is missing".into())),
                };
                let _ = answer.send(answered);
            }
            // A new connection brings the scripts along.
            !unknown_script
        }
        Err(error) => {
            let why: Arc<str> = error.to_string().into();
            for (_, answer) in answers {
                let _ = answer.send(Err(Failure::Unknown(Arc::clone(&why))));
            }
            false
        }
    }
}
