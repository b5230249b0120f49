//! The way to one other node: a buffer that hints are written into, and a connection that takes it away.
//!
//! While one write is under way, and for a moment after it, the next gathers: a busy node writes many hints at once, and an idle one
//! does not wait.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, ReadHalf, WriteHalf},
    net::TcpStream,
    sync::{Notify, oneshot},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tracing::{debug, info};

use super::{
    Shared,
    door::{set_up, write_all},
    message::{self, Question, Received},
    metrics::Dropped,
    pace::Pauses,
};
use crate::store::{Hint, Peer};

/// Questions to one node that wait for their answer.
const QUESTIONS_MAX: usize = 1024;
/// A buffer that grew above this is given back.
const KEPT_BYTES: usize = 256 * 1024;

/// What waits for the node.
#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Hints were dropped since the last write: the node is to compare its sessions with the store.
    lost: bool,
}

/// Another node.
pub(super) struct Way {
    pub(super) peer: Peer,
    waiting: Mutex<Waiting>,
    news: Notify,
    /// There has been no connection for a while: hints go through Redis.
    cut_off: AtomicBool,
    asked: Mutex<HashMap<u32, oneshot::Sender<Option<Vec<u8>>>>>,
    next_question: AtomicU32,
}

impl Way {
    pub(super) fn new(peer: Peer) -> Self {
        Self {
            peer,
            waiting: Mutex::default(),
            news: Notify::new(),
            cut_off: AtomicBool::new(false),
            asked: Mutex::default(),
            next_question: AtomicU32::new(0),
        }
    }

    /// Tells the node, or lets Redis.
    pub(super) fn tell(&self, shared: &Shared, hint: &Hint) {
        shared.metrics.sent(hint);
        let mut waiting = self.waiting.lock();
        // Asked under the lock: what is put in before the way is given up is taken out then.
        if self.cut_off.load(Ordering::Relaxed) {
            drop(waiting);
            shared.hint_through_redis(&self.peer.node, hint);
            return;
        }
        if waiting.bytes.len() >= shared.config.queued_max_bytes {
            waiting.lost = true;
            drop(waiting);
            shared.metrics.dropped(Dropped::Full);
            return;
        }
        let was_empty = waiting.bytes.is_empty();
        message::put_hint(&mut waiting.bytes, hint);
        drop(waiting);
        if was_empty {
            self.news.notify_one();
        }
    }

    /// Asks the node. `None`: no answer in time.
    pub(super) async fn ask(&self, question: &Question, within: Duration) -> Option<Vec<u8>> {
        if self.cut_off.load(Ordering::Relaxed) {
            return None;
        }
        let number = self.next_question.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut asked = self.asked.lock();
            if asked.len() >= QUESTIONS_MAX {
                return None;
            }
            asked.insert(number, answer);
        }
        message::put_question(&mut self.waiting.lock().bytes, number, question);
        self.news.notify_one();
        let answer = timeout(within, answered).await;
        self.asked.lock().remove(&number);
        answer.ok()?.ok()?
    }

    /// What is to be written now.
    fn take(&self) -> Vec<u8> {
        let mut waiting = self.waiting.lock();
        if std::mem::take(&mut waiting.lost) {
            message::put_lost(&mut waiting.bytes);
        }
        std::mem::take(&mut waiting.bytes)
    }

    /// Whatever waits goes through Redis, and so does what comes.
    fn give_up(&self, shared: &Shared) {
        if self.cut_off.swap(true, Ordering::Relaxed) {
            return;
        }
        info!(
            "node {} is not reached at {}: what it is to know goes through Redis",
            self.peer.node, self.peer.address
        );
        self.asked.lock().clear();
        let waiting = self.take();
        let mut rest = &waiting[..];
        while let Ok(Some(length)) = message::length(rest)
            && let Some((one, more)) = rest.split_at_checked(length)
        {
            shared.through_redis(&self.peer.node, one.to_vec());
            rest = more;
        }
    }
}

/// Keeps a connection to the node, until its way is given up.
pub(super) async fn run(way: Arc<Way>, shared: Arc<Shared>) {
    let mut pauses = Pauses::default();
    let mut alone_since = Instant::now();
    loop {
        match timeout(shared.config.connect_within(), connect(&way, &shared)).await {
            Ok(Ok(stream)) => {
                if way.cut_off.swap(false, Ordering::Relaxed) {
                    info!("node {} is reached again", way.peer.node);
                }
                pauses = Pauses::default();
                shared.metrics.connected.inc();
                let (reader, writer) = tokio::io::split(stream);
                let ended = tokio::select! {
                    ended = write(&way, &shared, writer) => ended,
                    ended = read(&way, reader) => ended,
                };
                shared.metrics.connected.dec();
                debug!("the connection to node {} ended: {ended}", way.peer.node);
                alone_since = Instant::now();
                // What was under way may be lost.
                way.waiting.lock().lost = true;
                way.news.notify_one();
            }
            failed => {
                shared.metrics.failures.inc();
                let why = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => "no answer in time".into(),
                };
                debug!("node {} cannot be reached at {}: {why}", way.peer.node, way.peer.address);
            }
        }
        if alone_since.elapsed() >= shared.config.fallback_after() {
            way.give_up(&shared);
        }
        sleep(pauses.next()).await;
    }
}

async fn connect(way: &Way, shared: &Shared) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(way.peer.address).await?;
    set_up(&stream, shared.config.write_within())?;
    let config = shared.identity.client(way.peer.fingerprint).map_err(std::io::Error::other)?;
    let name = way.peer.address.ip().into();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

async fn write(way: &Way, shared: &Shared, mut writer: WriteHalf<TlsStream<TcpStream>>) -> std::io::Error {
    let gather = shared.config.gather();
    let mut written_at: Option<Instant> = None;
    loop {
        way.news.notified().await;
        if let Some(at) = written_at.filter(|at| at.elapsed() < gather) {
            tokio::time::sleep_until(at + gather).await;
        }
        let batch = way.take();
        if batch.is_empty() {
            continue;
        }
        if let Err(error) = write_all(&mut writer, &batch, shared.config.write_within()).await {
            return error;
        }
        shared.metrics.batches.inc();
        written_at = Some(Instant::now());
        way.give_back(batch);
    }
}

impl Way {
    /// The next batch is written where this one was.
    fn give_back(&self, mut batch: Vec<u8>) {
        batch.clear();
        let mut waiting = self.waiting.lock();
        if waiting.bytes.is_empty() && batch.capacity() <= KEPT_BYTES {
            waiting.bytes = batch;
        }
    }
}

async fn read(way: &Way, mut reader: ReadHalf<TlsStream<TcpStream>>) -> std::io::Error {
    let mut bytes = Vec::new();
    loop {
        match reader.read_buf(&mut bytes).await {
            Ok(0) => return std::io::Error::other("closed by it"),
            Ok(_) => {}
            Err(error) => return error,
        }
        let taken = message::each(&bytes, |received| {
            if let Received::Answer(number, answer) = received
                && let Some(waits) = way.asked.lock().remove(&number)
            {
                // An error: the one who asked has gone.
                let _ = waits.send(answer);
            }
        });
        match taken {
            Ok(taken) => {
                bytes.drain(..taken);
            }
            Err(error) => return std::io::Error::other(error),
        }
    }
}

#[cfg(test)]
impl Way {
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting.lock().bytes.len()
    }
}
