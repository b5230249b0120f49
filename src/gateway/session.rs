//! Sessions as the dispatcher sees them ([`Link`]), and those that wait to be resumed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    buffers,
    connection::{Closing, Connection, State, Written},
    link::{Behind, Link, Offer},
    metrics::{Reason, SessionEvent},
    sessions::Entry,
    shared::{Over, Shared},
    timers::{Tick, Timed},
};
use crate::{
    domain::{Account, DeviceSignal, Epoch, EventId, SessionId, Timestamp},
    presence::{Phase, SessionView},
    store::{Arrival, DeviceKey, QueuedEvent, Transport},
    xmpp::{Pushed, Session, SessionEnd, StreamError},
};

/// Output that a refill lets grow before it is written.
const BURST_MAX_BYTES: usize = 16 * 1024;
/// An end so soon after writing an event may be that event's doing.
const AT_ONCE: Duration = Duration::from_secs(5);

/// What goes with a session from one connection to the next.
pub(super) struct Carried {
    pub(super) session: Box<Session>,
    pub(super) connected_at: Timestamp,
    pub(super) account: Account,
    pub(super) written: Vec<Written>,
    /// Signals that the old connection could not send yet.
    pub(super) signals: Vec<DeviceSignal>,
}

/// A session without a connection, until it is resumed or its time is over.
pub(super) struct Hibernated {
    pub(super) shared: Arc<Shared>,
    pub(super) key: DeviceKey,
    pub(super) epoch: Epoch,
    pub(super) transport: Transport,
    pub(super) connected_at: Timestamp,
    pub(super) last_heard: Timestamp,
    pub(super) phase: Phase,
    pub(super) keepalive: Option<Duration>,
    pub(super) until: Instant,
    pub(super) carried: Mutex<Option<Carried>>,
}

/// How an event comes to a session.
#[derive(Clone, Copy)]
enum Given {
    /// It has just arrived; the device's last event before it got the number `after`. `more` follow that arrived with it.
    Arrived { after: Option<u64>, more: bool },
    /// It was read from the store, in order.
    Read,
}

impl Connection {
    /// Where a refused event left the session.
    fn refuse(state: &mut State, stored: bool) -> Offer {
        if stored {
            state.refused = state.refused.wrapping_add(1);
            state.lagging = true;
        }
        Offer::Later
    }

    /// Writes an event if the session can take it. While more may follow the writing is left to `end_burst`.
    fn give(&self, state: &mut State, event: &Arc<QueuedEvent>, time: Timestamp, given: Given) -> Offer {
        let read = matches!(given, Given::Read);
        match state.closing {
            Some(Closing { end: SessionEnd::Over, .. }) => return Offer::Gone,
            Some(_) => return Offer::Later,
            None => {}
        }
        let stored = event.located.queue.is_some();
        let Some(session) = state.stream.session() else {
            return Self::refuse(state, stored);
        };
        let owes = session.owes();
        if session.covers(event) && !owes {
            return Offer::Taken;
        }
        if !state.available || (!read && stored && (state.lagging || owes)) {
            return Self::refuse(state, stored);
        }
        if let Given::Arrived { after: Some(after), .. } = given
            && session.reached() < after
        {
            Self::refuse(state, stored);
            return Offer::Gap;
        }
        if owes && state.stream.pass(event) {
            return Offer::Taken;
        }
        if !state.queue.is_empty() {
            state.blocked = true;
            return Self::refuse(state, stored);
        }
        let now = Instant::now();
        buffers::lend(&mut state.stream);
        let pushed = state.stream.push(event, read, now, time);
        if pushed == Pushed::Held {
            buffers::give_back(&mut state.stream);
            return Offer::Held;
        }
        if pushed == Pushed::Full {
            buffers::give_back(&mut state.stream);
            if stored {
                state.stream.refused();
            }
            if state.burst {
                self.end_burst(state, now);
            }
            return Self::refuse(state, stored);
        }
        if state.stream.session().is_some_and(|session| session.holds(event.id)) {
            state.written.push(Written {
                id: event.id,
                urgency: event.event.urgency,
                accepted_at: event.event.deliverable_from(),
                expires_at: event.event.expires_at(),
            });
            state.last_written = Some(now);
        }
        if matches!(given, Given::Arrived { more: false, .. }) || state.stream.output().len() >= BURST_MAX_BYTES || state.stream.room() == 0
        {
            self.end_burst(state, now);
        } else if !std::mem::replace(&mut state.burst, true) && read {
            self.waker.wake();
        }
        Offer::Taken
    }

    /// Whether the end at `now` may be the doing of the last event.
    pub(super) fn at_once(state: &State, reason: Reason, now: Instant) -> bool {
        matches!(reason, Reason::Stream | Reason::Lost) && state.last_written.is_some_and(|written| now.duration_since(written) < AT_ONCE)
    }

    /// Ends the connection because a newer one has the seat. Its task ends the session.
    pub(super) fn displace(&self) {
        self.guarded(|connection, state| {
            connection.shared.metrics.session(SessionEvent::TakenOver);
            connection.fail(state, &StreamError::Conflict, Reason::Conflict, Instant::now());
        });
    }

    /// Takes the session `id` away, for resumption on another connection: from here on nothing is written to this one and
    /// nothing that it sends is counted (XEP-0198 §5).
    pub(super) fn hand_over(&self, id: SessionId) -> Option<Carried> {
        self.guarded(|connection, state| {
            if state.stream.session()?.id() != id {
                return None;
            }
            if let Some(Closing { end: SessionEnd::Over, .. }) = state.closing {
                return None;
            }
            connection.report(state, connection.shared.clock.now(), Duration::ZERO);
            let mut seated = state.seated.take()?;
            let session = state.stream.take_session()?;
            // The device is back before its old connection was seen to break.
            let at_once = Self::at_once(state, Reason::Lost, Instant::now());
            state.signals.extend(broke(&session, at_once));
            connection.shared.close_account(&mut seated);
            connection.shared.metrics.sessions(connection.transport).dec();
            connection.shared.metrics.session(SessionEvent::Closed(Reason::Conflict));
            state.available = false;
            connection.fail(state, &StreamError::Conflict, Reason::Conflict, Instant::now());
            // A connection that was on its way to hibernate has no session for that any more.
            state.closing = Some(Closing {
                end: SessionEnd::Over,
                reason: Reason::Conflict,
            });
            Some(Carried {
                session,
                connected_at: seated.connected_at,
                account: seated.account,
                written: std::mem::take(&mut state.written),
                signals: std::mem::take(&mut state.signals),
            })
        })
        .flatten()
    }

    /// For presence.
    pub(super) fn view(&self) -> Option<SessionView> {
        let state = self.state.lock();
        let seated = state.seated.as_ref()?;
        Some(SessionView {
            epoch: seated.epoch,
            connected_at: seated.connected_at,
            last_heard: self.shared.time_of(state.stream.last_heard()),
            transport: self.transport,
            phase: Phase::Connected,
            keepalive: state.stream.session().and_then(Session::keepalive),
        })
    }
}

impl Link for Connection {
    fn epoch(&self) -> Epoch {
        self.state.lock().seated.as_ref().map_or(Epoch(0), |seated| seated.epoch)
    }

    fn offer_all(&self, arrivals: &[Arrival], now: Timestamp, offers: &mut Vec<Offer>) {
        let all = offers.len() + arrivals.len();
        let _ = self.guarded(|connection, state| {
            for (at, arrival) in arrivals.iter().enumerate() {
                let (after, more) = (arrival.after, at + 1 < arrivals.len());
                offers.push(connection.give(state, &arrival.event, now, Given::Arrived { after, more }));
            }
            // The last was not taken.
            if state.burst {
                connection.end_burst(state, Instant::now());
            }
        });
        offers.resize(all, Offer::Gone);
    }

    fn behind(&self) -> Option<Behind> {
        self.guarded(|_, state| {
            if state.closing.is_some() || !state.available {
                return None;
            }
            let cursor = state.stream.session_mut()?.read_on();
            let mut room = state.stream.room();
            if room == 0 {
                state.stream.refused();
            }
            if !state.queue.is_empty() {
                state.blocked = true;
                room = 0;
            }
            Some(Behind {
                cursor,
                room,
                refused: state.refused,
            })
        })
        .flatten()
    }

    fn refill(&self, event: &Arc<QueuedEvent>, now: Timestamp) -> Offer {
        self.guarded(|connection, state| connection.give(state, event, now, Given::Read))
            .unwrap_or(Offer::Gone)
    }

    fn caught_up(&self, refused: u64) -> bool {
        self.guarded(|connection, state| {
            if state.burst {
                connection.end_burst(state, Instant::now());
            }
            if state.closing.is_some() || !state.available || state.refused != refused {
                return false;
            }
            if let Some(session) = state.stream.session_mut() {
                session.caught_up();
            }
            state.lagging = false;
            true
        })
        .unwrap_or(false)
    }

    fn holds(&self, id: EventId) -> bool {
        self.state.lock().stream.session().is_some_and(|session| session.holds(id))
    }

    fn told(&self, ticket: u32, known: bool) {
        let _ = self.guarded(|connection, state| {
            let now = Instant::now();
            buffers::lend(&mut state.stream);
            state.stream.told(ticket, known);
            connection.pump(state, Reason::Stream, now);
        });
    }

    fn give_up(&self, id: EventId) {
        let _ = self.guarded(|_, state| {
            state.written.retain(|written| written.id != id);
            state.stream.session_mut().map(|session| session.give_up(id))
        });
    }
}

/// Tells that the connection of a session broke while events were not acknowledged.
pub(super) fn broke(session: &Session, at_once: bool) -> Option<DeviceSignal> {
    let events = session.unacknowledged();
    (!events.is_empty()).then(|| DeviceSignal::Broke {
        tenant: session.tenant(),
        device: session.device().clone(),
        epoch: session.epoch(),
        events,
        at_once,
    })
}

impl Hibernated {
    /// What becomes of an event that is offered.
    fn away(&self) -> Offer {
        match *self.carried.lock() {
            // The session starts behind its cursor when it is resumed: nothing to remember.
            Some(_) => Offer::Later,
            None => Offer::Gone,
        }
    }

    /// Takes the session, for resumption. Whoever takes it first has it: a resumption or the end of its time.
    pub(super) fn take(&self, id: Option<SessionId>) -> Option<Carried> {
        let mut carried = self.carried.lock();
        if let Some(id) = id
            && carried.as_ref()?.session.id() != id
        {
            return None;
        }
        let taken = carried.take()?;
        self.shared.metrics.hibernating.dec();
        Some(taken)
    }

    /// Ends the session, unless somebody took it. `displaced`: another has the seat.
    pub(super) async fn end(self: Arc<Self>, reason: Reason, displaced: bool) {
        let Some(carried) = self.take(None) else {
            return;
        };
        self.shared.sessions.remove(&self.key, &Entry::Away(self.clone()));
        self.shared.metrics.session(SessionEvent::Closed(reason));
        self.shared
            .finish(Over {
                key: self.key.clone(),
                session: carried.session,
                last_seen_at: self.last_heard,
                at_once: None,
                reason,
                displaced,
            })
            .await;
    }

    /// For presence.
    pub(super) fn view(&self) -> SessionView {
        SessionView {
            epoch: self.epoch,
            connected_at: self.connected_at,
            last_heard: self.last_heard,
            transport: self.transport,
            phase: self.phase,
            keepalive: self.keepalive,
        }
    }
}

impl Timed for Hibernated {
    fn elapsed(self: Arc<Self>, _tick: Tick, now: Instant) {
        if now >= self.until {
            let shared = self.shared.clone();
            shared.spawn(self.end(Reason::Expired, false));
        } else {
            let weak = Arc::downgrade(&self);
            self.shared.timers.arm(weak, self.until, now);
        }
    }
}

impl Link for Hibernated {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn offer_all(&self, arrivals: &[Arrival], _now: Timestamp, offers: &mut Vec<Offer>) {
        let offer = self.away();
        offers.extend(arrivals.iter().map(|_| offer));
    }

    fn behind(&self) -> Option<Behind> {
        None
    }

    fn refill(&self, _event: &Arc<QueuedEvent>, _now: Timestamp) -> Offer {
        self.away()
    }

    fn caught_up(&self, _refused: u64) -> bool {
        false
    }

    fn holds(&self, id: EventId) -> bool {
        self.carried.lock().as_ref().is_some_and(|carried| carried.session.holds(id))
    }

    fn told(&self, ticket: u32, known: bool) {
        if let Some(carried) = &mut *self.carried.lock() {
            carried.session.told(ticket, known);
        }
    }

    fn give_up(&self, id: EventId) {
        if let Some(carried) = &mut *self.carried.lock() {
            carried.written.retain(|written| written.id != id);
            carried.session.give_up(id);
        }
    }
}
