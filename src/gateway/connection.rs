//! One connection: its socket, its stream, and what waits to be written.
//!
//! A connection is an `Arc` that its task, the table of sessions (for the dispatcher) and the timer wheel share. All of its
//! state is under one lock that is never held across an `await`. Whoever holds it does his own reading or writing at once;
//! the task is woken only for what the socket did not take, for the end, and for signals that found their channel full.

use std::{
    io::{self, Read as _},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::{
    buffers,
    metrics::{Reason, Refused},
    shared::Shared,
    tally::Tally,
    timers::{Tick, Timed},
    wire::{Wire, WireError},
};
use crate::{
    domain::{Account, DeviceSignal, Epoch, EventId, Outcome, Timestamp},
    store::{DeviceKey, Transport},
    xmpp::{Action, ServerStream, SessionEnd, StreamError},
};

/// Reads of one connection before others get their turn.
const READS_A_TURN: usize = 8;
/// A reading device that does not take its answers is not read from above this.
const ANSWERS_MAX: usize = 64 * 1024;
/// Proofs of life and traffic go to the ledger at most this often.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// One TCP connection of a device.
pub(super) struct Connection {
    pub(super) socket: TcpStream,
    pub(super) transport: Transport,
    pub(super) shared: Arc<Shared>,
    pub(super) waker: AtomicWaker,
    pub(super) state: Mutex<State>,
    /// Itself, for the timer wheel.
    me: Weak<Self>,
}

/// The seat that a connection holds.
pub(super) struct Seated {
    pub(super) key: DeviceKey,
    pub(super) epoch: Epoch,
    pub(super) connected_at: Timestamp,
    pub(super) account: Account,
}

/// How the connection ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing {
    pub(super) end: SessionEnd,
    pub(super) reason: Reason,
}

/// What the lock guards.
pub(super) struct State {
    pub(super) stream: ServerStream,
    pub(super) wire: Wire,
    /// Bytes as they go to the socket, which it did not take yet.
    pub(super) queue: Vec<u8>,
    pub(super) stalled_since: Option<Instant>,
    /// Signals that found their channel full, oldest first.
    pub(super) signals: Vec<DeviceSignal>,
    /// Events in the window with the time of their acceptance, for the ledger.
    pub(super) written: Vec<(EventId, Timestamp)>,
    pub(super) last_written: Option<Instant>,
    pub(super) seated: Option<Box<Seated>>,
    /// What the stream asked, for the task to answer.
    pub(super) asked: Option<Box<Action>>,
    pub(super) closing: Option<Closing>,
    /// Our last words were said.
    pub(super) farewell: bool,
    /// STARTTLS is under way: random bytes for the stream inside.
    pub(super) starting_tls: Option<Box<[u8; 32]>>,
    /// Events may be written: presence is available.
    pub(super) available: bool,
    /// Older events may wait in the store.
    pub(super) lagging: bool,
    /// Something was refused because of `queue`.
    pub(super) blocked: bool,
    /// Events are in the stream's output that nobody wrote yet: more follow.
    pub(super) burst: bool,
    /// Arrivals refused so far.
    pub(super) refused: u64,
    pub(super) tally: Tally,
    armed: Option<(Instant, Tick)>,
}

/// What the task has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Answer what the stream asked.
    Ask,
    /// Hand on signals: their channel was full.
    Deliver,
    /// Close the connection.
    Close,
}

impl Connection {
    pub(super) fn new(socket: TcpStream, transport: Transport, shared: Arc<Shared>, stream: ServerStream, wire: Wire) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            socket,
            transport,
            shared,
            waker: AtomicWaker::new(),
            state: Mutex::new(State {
                stream,
                wire,
                queue: Vec::new(),
                stalled_since: None,
                signals: Vec::new(),
                written: Vec::new(),
                last_written: None,
                seated: None,
                asked: None,
                closing: None,
                farewell: false,
                starting_tls: None,
                available: false,
                lagging: true,
                blocked: false,
                burst: false,
                refused: 0,
                tally: Tally::default(),
                armed: None,
            }),
        })
    }

    /// Works on the state, from outside the connection's task. A panic ends this session and no other. `None` then.
    pub(super) fn guarded<R>(&self, work: impl FnOnce(&Self, &mut State) -> R) -> Option<R> {
        let mut state = self.state.lock();
        match catch_unwind(AssertUnwindSafe(|| work(self, &mut state))) {
            Ok(result) => Some(result),
            Err(_) => {
                tracing::error!("a session failed by a bug and was ended");
                state.closing = Some(Closing {
                    end: SessionEnd::Over,
                    reason: Reason::Bug,
                });
                self.waker.wake();
                None
            }
        }
    }

    /// Does what can be done now; `Pending` when the socket, another task or the clock must go first. The task polls it.
    pub(super) fn step(&self, cx: &mut Context<'_>) -> Poll<Next> {
        self.waker.register(cx.waker());
        let mut state = self.state.lock();
        let state = &mut *state;
        for _ in 0..READS_A_TURN {
            let now = Instant::now();
            if state.burst {
                self.end_burst(state, now);
            }
            while !state.queue.is_empty() && state.closing.is_none() {
                match self.socket.poll_write_ready(cx) {
                    Poll::Ready(Ok(())) => self.write_queue(state, now),
                    Poll::Ready(Err(_)) => self.lose(state, Reason::Lost, now),
                    Poll::Pending => break,
                }
            }
            if state.closing.is_some() {
                return Poll::Ready(Next::Close);
            }
            if state.asked.is_some() {
                return Poll::Ready(Next::Ask);
            }
            if !state.signals.is_empty() {
                return Poll::Ready(Next::Deliver);
            }
            if state.queue.len() > ANSWERS_MAX {
                return Poll::Pending;
            }
            match self.socket.poll_read_ready(cx) {
                Poll::Ready(Ok(())) => {
                    self.read(state, now);
                }
                Poll::Ready(Err(_)) => self.lose(state, Reason::Lost, now),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once and lets the stream have it. False: nothing more will come.
    pub(super) fn read(&self, state: &mut State, now: Instant) -> bool {
        let time = self.shared.clock.now();
        let (lost, open) = buffers::reading(|buffer| {
            let kept = state.wire.kept();
            let read = match self.receive(buffer.get_mut(kept..).unwrap_or_default()) {
                Ok(0) => return (Some(Reason::Lost), false),
                Ok(read) => read,
                Err(error) => {
                    return match error.kind() {
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => (None, true),
                        io::ErrorKind::TimedOut => (Some(Reason::Stalled), false),
                        _ => (Some(Reason::Lost), false),
                    };
                }
            };
            self.shared.metrics.bytes_in.inc_by(read as u64);
            state.tally.received(read);
            state.wire.begin(buffer);
            let filled = buffer.get_mut(..kept + read).unwrap_or_default();
            let State {
                stream,
                wire,
                tally,
                starting_tls,
                ..
            } = state;
            buffers::lend(stream);
            let mut answer = buffers::take();
            let opened = wire.open(
                filled,
                &mut |clear| {
                    if let Some(random) = starting_tls.take() {
                        stream.tls_started(*random, now);
                    }
                    tally.clear_in(clear.len());
                    stream.receive(clear, now, time);
                },
                &mut answer,
            );
            if !answer.is_empty() {
                self.send(state, &answer, now);
            }
            buffers::keep(answer);
            if let Err(error) = opened {
                self.tls_failed(state, &error);
                return (None, false);
            }
            self.pump(state, Reason::Stream, now);
            let closed = state.wire.peer_closed();
            (closed.then_some(Reason::Lost), !closed)
        });
        if let Some(reason) = lost {
            self.lose(state, reason, now);
        }
        if state.closing.is_none() {
            self.report(state, time, REPORT_EVERY);
            self.rest(state);
            self.arm(state, now);
        }
        open
    }

    /// One `recv`. A short read tells that the socket is empty, which saves the read that would say so: tokio clears its
    /// readiness when the closure answers `WouldBlock` (epoll, edge-triggered; what arrives meanwhile sets it again).
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        let result = self.socket.try_io(tokio::io::Interest::READABLE, || {
            let socket = socket2::SockRef::from(&self.socket);
            read = (&*socket).read(buffer)?;
            if read == 0 || read == buffer.len() {
                return Ok(());
            }
            Err(io::ErrorKind::WouldBlock.into())
        });
        match result {
            Ok(()) => Ok(read),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && read > 0 => Ok(read),
            Err(error) => Err(error),
        }
    }

    fn tls_failed(&self, state: &mut State, error: &WireError) {
        tracing::debug!(error = %error, "a device's TLS failed: {error}");
        if state.seated.is_none() {
            self.shared.metrics.refused(Refused::Tls);
        }
        self.lose(state, Reason::Tls, Instant::now());
    }

    /// The connection is gone or given up: the stream says what becomes of the session.
    pub(super) fn lose(&self, state: &mut State, reason: Reason, now: Instant) {
        if state.closing.is_some() {
            return;
        }
        buffers::lend(&mut state.stream);
        state.stream.disconnected(now);
        self.pump(state, reason, now);
        if state.closing.is_none() {
            state.closing = Some(Closing {
                end: SessionEnd::Over,
                reason,
            });
        }
        self.waker.wake();
    }

    /// Ends the stream with an error that the device reads.
    pub(super) fn fail(&self, state: &mut State, error: &StreamError, reason: Reason, now: Instant) {
        if state.closing.is_some() {
            return;
        }
        buffers::lend(&mut state.stream);
        state.stream.fail(error, now);
        self.pump(state, reason, now);
        state.closing = Some(Closing {
            end: SessionEnd::Over,
            reason,
        });
        self.waker.wake();
    }

    /// Does what the stream wants done, and writes what it has to say. `reason`: why it ends, if it ends now.
    pub(super) fn pump(&self, state: &mut State, reason: Reason, now: Instant) {
        while state.asked.is_none() {
            match state.stream.next_action() {
                None => break,
                Some(Action::Ended(ended)) => self.ended(state, ended),
                // What a stream that ends says last, but for acknowledgements, concerns nobody.
                Some(_) if state.closing.is_some() => {}
                Some(Action::Ready) => {
                    state.available = true;
                    self.ready(state);
                }
                Some(Action::Unavailable) => {
                    state.available = false;
                    state.lagging = true;
                }
                Some(Action::Close(end)) => {
                    state.closing = Some(Closing { end, reason });
                    self.waker.wake();
                }
                Some(asked) => state.asked = Some(Box::new(asked)),
            }
        }
        self.write_output(state, now);
    }

    fn ended(&self, state: &mut State, ended: Vec<crate::xmpp::Ended>) {
        let Some(seated) = &mut state.seated else {
            return;
        };
        let now = self.shared.clock.now();
        for (id, _, outcome) in &ended {
            let Some(place) = state.written.iter().position(|(written, _)| written == id) else {
                continue;
            };
            let (_, accepted_at) = state.written.remove(place);
            if *outcome == Outcome::Delivered {
                self.shared.meter.delivered(&mut seated.account, accepted_at, now);
            }
        }
        let signal = DeviceSignal::Ended {
            tenant: seated.key.tenant,
            device: seated.key.device.clone(),
            epoch: seated.epoch,
            events: ended,
        };
        self.signal(state, signal);
    }

    /// Tells the dispatcher that events can be taken.
    fn ready(&self, state: &mut State) {
        if let Some(seated) = &state.seated {
            let signal = DeviceSignal::Ready {
                tenant: seated.key.tenant,
                device: seated.key.device.clone(),
                epoch: seated.epoch,
            };
            self.signal(state, signal);
        }
    }

    /// Sends a signal, or leaves it to the task when the channel is full: nobody who calls this may wait.
    fn signal(&self, state: &mut State, signal: DeviceSignal) {
        let signal = if state.signals.is_empty() {
            match self.shared.signals.try_send(signal) {
                Ok(()) => return,
                Err(error) => error.into_inner(),
            }
        } else {
            signal
        };
        state.signals.push(signal);
        self.waker.wake();
    }

    /// Writes what pushes left in the output, and asks for the acknowledgement.
    pub(super) fn end_burst(&self, state: &mut State, now: Instant) {
        state.burst = false;
        if state.closing.is_none() {
            state.stream.flush(now);
            self.pump(state, Reason::Stream, now);
            self.arm(state, now);
        }
    }

    /// Seals the stream's output and writes it.
    pub(super) fn write_output(&self, state: &mut State, now: Instant) {
        if !state.stream.output().is_empty() && state.wire.established() {
            let mut output = std::mem::take(state.stream.output());
            state.tally.clear_out(output.len());
            if matches!(state.wire, Wire::Plain) {
                self.send(state, &output, now);
            } else {
                let mut sealed = buffers::take();
                let result = state.wire.seal(&output, &mut sealed);
                self.send(state, &sealed, now);
                buffers::keep(sealed);
                if let Err(error) = result {
                    self.tls_failed(state, &error);
                }
            }
            output.clear();
            *state.stream.output() = output;
        }
        buffers::give_back(&mut state.stream);
    }

    /// Hands bytes to the socket, and keeps what it does not take.
    pub(super) fn send(&self, state: &mut State, bytes: &[u8], now: Instant) {
        state.tally.sent(bytes.len());
        self.shared.metrics.bytes_out.inc_by(bytes.len() as u64);
        let mut taken = 0;
        if state.queue.is_empty() {
            // An error shows again at the next read or write, by the task.
            taken = self.socket.try_write(bytes).unwrap_or(0);
        }
        if let Some(rest) = bytes.get(taken..)
            && !rest.is_empty()
        {
            state.queue.extend_from_slice(rest);
            state.stalled_since.get_or_insert(now);
            self.arm(state, now);
            self.waker.wake();
        }
    }

    /// Writes what waits.
    fn write_queue(&self, state: &mut State, now: Instant) {
        match self.socket.try_write(&state.queue) {
            Ok(written) => {
                if written > 0 {
                    state.stalled_since = Some(now);
                }
                state.queue.drain(..written);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                let reason = if error.kind() == io::ErrorKind::TimedOut {
                    Reason::Stalled
                } else {
                    Reason::Lost
                };
                state.queue.clear();
                self.lose(state, reason, now);
            }
        }
        if state.queue.is_empty() {
            state.queue = Vec::new();
            state.stalled_since = None;
            if std::mem::take(&mut state.blocked) && state.available {
                self.ready(state);
            }
        }
    }

    /// Gives memory back that a quiet session does not need.
    pub(super) fn rest(&self, state: &mut State) {
        if state.written.is_empty() && !state.burst {
            state.written = Vec::new();
            state.stream.rest();
        }
        if state.signals.is_empty() {
            state.signals = Vec::new();
        }
    }

    /// Tells the ledger what is new, when the last report is older than `every`.
    pub(super) fn report(&self, state: &mut State, now: Timestamp, every: Duration) {
        if let Some(seated) = &mut state.seated
            && now.since(seated.account.proven_until) >= every
        {
            let silence = state.stream.last_heard().elapsed();
            let heard = Timestamp(now.0.saturating_sub(u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)));
            self.shared.meter.proof(&mut seated.account, heard);
            let traffic = state.stream.traffic();
            state.tally.report(&*self.shared.meter, &traffic);
        }
    }

    /// Arms the timer wheel for the next deadline, if that is sooner than what is armed.
    pub(super) fn arm(&self, state: &mut State, now: Instant) {
        if state.seated.is_none() {
            // The login keeps its own time.
            return;
        }
        let mut at = state.stream.wake_at();
        if let Some(since) = state.stalled_since {
            at = at.min(since + self.shared.config.write_stalled());
        }
        if state.armed.is_some_and(|(armed, _)| armed <= at) {
            return;
        }
        state.armed = Some((at, self.shared.timers.arm(self.me.clone(), at, now)));
    }

    /// Time passed.
    pub(super) fn elapse(&self, state: &mut State, now: Instant) {
        if state.closing.is_some() {
            return;
        }
        let stalled = self.shared.config.write_stalled();
        if state.stalled_since.is_some_and(|since| now.duration_since(since) >= stalled) {
            state.queue.clear();
            self.lose(state, Reason::Stalled, now);
            return;
        }
        if now >= state.stream.wake_at() {
            buffers::lend(&mut state.stream);
            state.stream.elapse(now);
            self.pump(state, Reason::Silent, now);
        }
    }
}

impl Timed for Connection {
    fn elapsed(self: Arc<Self>, tick: Tick, now: Instant) {
        self.guarded(|connection, state| {
            if state.armed.is_none_or(|(_, armed)| armed != tick) {
                return;
            }
            state.armed = None;
            connection.elapse(state, now);
            if state.closing.is_none() {
                connection.report(state, connection.shared.clock.now(), REPORT_EVERY);
                connection.rest(state);
                connection.arm(state, now);
            }
        });
    }
}
