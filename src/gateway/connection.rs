//! One connection: its socket, its stream, and what waits to be written.
//!
//! A connection is an `Arc` that its task, the table of sessions (for the dispatcher) and the timer wheel share. All of its
//! state is under one lock that is never held across an `await`. Whoever holds it does his own reading or writing at once;
//! the task is woken only for what the socket did not take, for the end, and for signals that found their channel full.

use std::{
    net::SocketAddr,
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
    metrics::Reason,
    shared::Shared,
    socket::REPORT_EVERY,
    tally::Tally,
    timers::{Tick, Timed},
    wire::Wire,
};
use crate::{
    domain::{Account, DeviceSignal, Epoch, EventId, Outcome, Polling, Timestamp, Urgency},
    store::{DeviceKey, Transport},
    xmpp::{Action, ServerStream, Session, SessionEnd, StreamError},
};

/// Reads of one connection before others get their turn.
const READS_A_TURN: usize = 8;
/// A reading device that does not take its answers is not read from above this.
pub(super) const ANSWERS_MAX: usize = 64 * 1024;

/// One TCP connection of a device.
pub(super) struct Connection {
    pub(super) socket: TcpStream,
    /// The device's address, or what a balancer told of it.
    pub(super) client: SocketAddr,
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
    /// When it reported something last, or when that will be stored.
    pub(super) reported: Option<Instant>,
}

/// An event that was written and is not acknowledged, as the ledger needs it.
pub(super) struct Written {
    pub(super) id: EventId,
    pub(super) urgency: Urgency,
    pub(super) accepted_at: Timestamp,
    pub(super) expires_at: Timestamp,
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
    /// It does not read: named, and since when.
    pub(super) slow_since: Option<Timestamp>,
    /// It sends too much: named.
    pub(super) flooding: bool,
    /// Signals that found their channel full, oldest first.
    pub(super) signals: Vec<DeviceSignal>,
    /// Events in the window, for the ledger.
    pub(super) written: Vec<Written>,
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
    pub(super) fn new(
        socket: TcpStream,
        client: SocketAddr,
        transport: Transport,
        shared: Arc<Shared>,
        stream: ServerStream,
        wire: Wire,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            socket,
            client,
            transport,
            shared,
            waker: AtomicWaker::new(),
            state: Mutex::new(State {
                stream,
                wire,
                queue: Vec::new(),
                stalled_since: None,
                slow_since: None,
                flooding: false,
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
            // The timer wheel wakes a session that is read more slowly.
            if state.queue.len() > ANSWERS_MAX || state.stream.slowed_until().is_some() {
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
                Some(Action::Told(telling)) => self.told(state, *telling),
                // What a stream that ends says last, but for acknowledgements, concerns nobody.
                Some(_) if state.closing.is_some() => {}
                Some(Action::Ready) => {
                    state.available = true;
                    if state.stream.session().is_some_and(Session::owes) {
                        // A refill that is under way reads from behind what was held back: it goes round once more.
                        state.refused = state.refused.wrapping_add(1);
                        state.lagging = true;
                    }
                    self.ready(state);
                }
                Some(Action::Unavailable) => {
                    state.available = false;
                    state.lagging = true;
                }
                Some(Action::Reported(report)) => self.take_report(state, *report, now),
                Some(Action::Polls(polling)) => self.polls(state, polling),
                Some(Action::Keepalive(keepalive)) => self.keepalive(state, keepalive),
                Some(Action::Close(end)) => {
                    state.closing = Some(Closing { end, reason });
                    self.waker.wake();
                }
                Some(asked) => state.asked = Some(Box::new(asked)),
            }
        }
        self.write_output(state, now);
    }

    /// The device said whether it polls: that goes before its cohort. Time up to now counts as it was, or not at all.
    fn polls(&self, state: &mut State, polling: Polling) {
        if let Some(seated) = &mut state.seated {
            if polling == Polling::Off {
                self.shared.meter.proof(&mut seated.account, self.shared.clock.now());
            }
            seated.account.polling = polling;
        }
    }

    /// An event leaves the window; one that its device has counts in the ledger.
    fn leaves(&self, state: &mut State, id: EventId, outcome: Outcome) {
        let place = state.written.iter().position(|written| written.id == id);
        let (Some(place), Some(seated)) = (place, &mut state.seated) else {
            return;
        };
        let written = state.written.remove(place);
        if matches!(outcome, Outcome::Delivered | Outcome::Processed) {
            let (meter, now) = (&self.shared.meter, self.shared.clock.now());
            meter.delivered(&mut seated.account, written.urgency, written.accepted_at, now);
            meter.expiring(&seated.account, written.accepted_at, written.expires_at);
        }
    }

    /// The device says what became of an event: the dispatcher keeps that, and answers.
    fn told(&self, state: &mut State, telling: crate::xmpp::Telling) {
        self.leaves(state, telling.event, telling.told.outcome());
        let Some(seated) = &state.seated else { return };
        let signal = DeviceSignal::Told {
            tenant: seated.key.tenant,
            device: seated.key.device.clone(),
            epoch: seated.epoch,
            event: telling.event,
            told: telling.told,
            ticket: telling.ticket,
        };
        self.signal(state, signal);
    }

    fn ended(&self, state: &mut State, ended: Vec<crate::xmpp::Ended>) {
        for (id, _, outcome) in &ended {
            self.leaves(state, *id, *outcome);
        }
        let Some(seated) = &state.seated else { return };
        let signal = DeviceSignal::Ended {
            tenant: seated.key.tenant,
            device: seated.key.device.clone(),
            epoch: seated.epoch,
            events: ended,
        };
        self.signal(state, signal);
    }

    /// Tells the dispatcher that events can be taken.
    pub(super) fn ready(&self, state: &mut State) {
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
            let config = &self.shared.config;
            let looks_at = if state.slow_since.is_none() {
                config.slow_after()
            } else {
                config.write_stalled()
            };
            at = at.min(since + looks_at);
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
        self.watch_reader(state, now);
        if now >= state.stream.wake_at() {
            let slowed = state.stream.slowed_until().is_some();
            let reason = if state.stream.is_old(now) { Reason::Old } else { Reason::Silent };
            buffers::lend(&mut state.stream);
            state.stream.elapse(now);
            self.pump(state, reason, now);
            if slowed && state.stream.slowed_until().is_none() {
                self.waker.wake();
            }
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
