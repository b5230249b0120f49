//! The end of a connection: what becomes of its session, and a close that lets the device read why.

use std::{
    io::Read as _,
    net::Shutdown,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    buffers,
    connection::{Closing, Connection, Seated, State},
    metrics::{Reason, SessionEvent},
    session::{Carried, Hibernated, broke},
    sessions::Entry,
    shared::Over,
    turns::Who,
    wire::Wire,
};
use crate::{
    domain::{DeviceSignal, Direction, Overhead, Timestamp},
    presence::Phase,
    xmpp::{Session, SessionEnd},
};

/// How long and how much is read from a peer that is to read our last words: a close with unread input would make TCP send
/// RST, and the peer would never see them (RFC 6120 §4.4).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_MAX_BYTES: usize = 64 * 1024;

/// Ends a connection: settles what becomes of its session, then closes the socket.
pub(super) async fn close(connection: Arc<Connection>) {
    let reason = connection.state.lock().closing.map_or(Reason::Bug, |closing| closing.reason);
    if reason == Reason::Shutdown {
        // The device hears first, and what it acknowledges then still counts.
        // Past its time it is not waited for.
        let _ = tokio::time::timeout(LINGER, last_acknowledgements(&connection)).await;
    }
    let lost = matches!(reason, Reason::Lost | Reason::Stalled);
    let (signals, over) = {
        // When a network breaks thousands are lost at once: those that are still up do not wait for that.
        let _turn = match lost && connection.state.lock().seated.is_some() {
            true => Some(connection.shared.entrance.turn(Who::Known).await),
            false => None,
        };
        settle(&connection, reason)
    };
    for signal in signals {
        // An error means that the dispatcher has ended: what it would do is done at the next start, from the store.
        let _ = connection.shared.signals.send(signal).await;
    }
    if let Some(over) = over {
        connection.shared.finish(over).await;
    }
    // Before TLS is up there is no word that a refused device could read.
    let mute = reason == Reason::Full && !connection.state.lock().wire.established();
    let gone = mute || lost;
    let within = if gone { Duration::ZERO } else { LINGER };
    // Past its time it is closed as it is.
    let _ = tokio::time::timeout(within, async {
        if goodbye(&connection).await {
            discard(&connection).await;
        }
    })
    .await;
}

/// Says goodbye and lets the stream have what still comes, until nothing is unacknowledged or the device is gone.
async fn last_acknowledgements(connection: &Connection) {
    // Behind the close of a WebSocket neither side may say anything (RFC 6455 §5.5.1): that comes last.
    let both_end = matches!(connection.state.lock().wire, Wire::WebSocket(_));
    let told = if both_end {
        flush(connection).await
    } else {
        goodbye(connection).await
    };
    if !told {
        return;
    }
    loop {
        {
            let mut state = connection.state.lock();
            let state = &mut *state;
            if state.written.is_empty() || state.closing.is_none_or(|closing| closing.reason != Reason::Shutdown) {
                return;
            }
        }
        if connection.socket.readable().await.is_err() {
            return;
        }
        let open = connection.guarded(|connection, state| connection.read(state, Instant::now()));
        if open != Some(true) {
            return;
        }
    }
}

/// Decides in one step what becomes of the session.
fn settle(connection: &Arc<Connection>, reason: Reason) -> (Vec<DeviceSignal>, Option<Over>) {
    let shared = &connection.shared;
    let now = Instant::now();
    let mut state = connection.state.lock();
    let state = &mut *state;
    let end = state
        .closing
        .get_or_insert(Closing {
            end: SessionEnd::Over,
            reason,
        })
        .end;
    let last_heard = shared.time_of(state.stream.last_heard());
    let ended = catch_unwind(AssertUnwindSafe(|| {
        connection.report(state, shared.clock.now(), Duration::ZERO);
        state.stream.take_session()
    }));
    let session = ended.ok().flatten();
    let mut signals = std::mem::take(&mut state.signals);
    let Some(mut seated) = state.seated.take() else {
        return (signals, None);
    };
    shared.close_account(&mut seated);
    shared.metrics.sessions(connection.transport).dec();
    shared.metrics.session(SessionEvent::Closed(reason));
    shared.closed(&seated.key, reason);
    tracing::debug!(
        device.id = %seated.key.device,
        reason = reason.as_str(),
        "the connection of {} ended: {}",
        seated.key.device,
        reason.as_str()
    );
    let me = Entry::Live(connection.clone());
    let Some(session) = session else {
        shared.sessions.remove(&seated.key, &me);
        return (signals, None);
    };
    let at_once = Connection::at_once(state, reason, now);
    let over = match end {
        SessionEnd::Hibernate(within) if !within.is_zero() => {
            signals.extend(broke(&session, at_once));
            hibernate(connection, state, *seated, session, last_heard, (reason, now, within))
        }
        _ => {
            let displaced = !shared.sessions.remove(&seated.key, &me);
            Some(Over {
                key: seated.key,
                session,
                last_seen_at: last_heard,
                at_once: Some(at_once),
                reason,
                displaced,
            })
        }
    };
    (signals, over)
}

/// Puts the session in the place of its connection, to wait. `Some`: a newer one has the seat, so it is over.
fn hibernate(
    connection: &Arc<Connection>,
    state: &mut State,
    seated: Seated,
    session: Box<Session>,
    last_heard: Timestamp,
    (reason, now, within): (Reason, Instant, Duration),
) -> Option<Over> {
    let shared = &connection.shared;
    let at = shared.clock.now();
    let lost = matches!(reason, Reason::Lost | Reason::Stream);
    let hibernated = Arc::new(Hibernated {
        shared: shared.clone(),
        key: seated.key.clone(),
        epoch: session.epoch(),
        transport: connection.transport,
        connected_at: seated.connected_at,
        last_heard,
        keepalive: session.keepalive(),
        phase: if lost { Phase::Lost { at } } else { Phase::Silent { at } },
        until: now + within,
        carried: Mutex::new(Some(Carried {
            session,
            connected_at: seated.connected_at,
            account: seated.account,
            written: std::mem::take(&mut state.written),
            signals: Vec::new(),
        })),
    });
    shared.metrics.hibernating.inc();
    let (live, away) = (Entry::Live(connection.clone()), Entry::Away(hibernated.clone()));
    if shared.sessions.exchange(&seated.key, &live, away) {
        let weak = Arc::downgrade(&hibernated);
        shared.timers.arm(weak, now + within, now);
        return None;
    }
    let carried = hibernated.take(None)?;
    Some(Over {
        key: seated.key,
        session: carried.session,
        last_seen_at: last_heard,
        at_once: None,
        reason,
        displaced: true,
    })
}

/// Writes what waits, says goodbye in TLS, and closes our side of the connection. False: the peer is gone.
async fn goodbye(connection: &Connection) -> bool {
    {
        let mut state = connection.state.lock();
        let state = &mut *state;
        if std::mem::replace(&mut state.farewell, true) {
            return state.queue.is_empty();
        }
        if state.wire.established() {
            connection.write_output(state, Instant::now());
            let mut goodbye = buffers::take();
            state.wire.goodbye(&mut goodbye);
            if !goodbye.is_empty() {
                // The end of a connection is charged where its beginning was.
                let bytes = goodbye.len() as u64;
                connection.shared.meter.overhead(Overhead::Connect, Direction::Out, bytes, 1);
            }
            state.queue.extend_from_slice(&goodbye);
            buffers::keep(goodbye);
        }
    }
    flush(connection).await && socket2::SockRef::from(&connection.socket).shutdown(Shutdown::Write).is_ok()
}

/// Writes what waits. False: the peer is gone.
async fn flush(connection: &Connection) -> bool {
    loop {
        {
            let mut state = connection.state.lock();
            if state.queue.is_empty() {
                return true;
            }
            match connection.socket.try_write(&state.queue) {
                Ok(written) => {
                    state.queue.drain(..written);
                    continue;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        if connection.socket.writable().await.is_err() {
            return false;
        }
    }
}

/// Reads until the peer closes, too.
async fn discard(connection: &Connection) {
    let socket = socket2::SockRef::from(&connection.socket);
    let mut left = LINGER_MAX_BYTES;
    while left > 0 && connection.socket.readable().await.is_ok() {
        let read = buffers::reading(|buffer| connection.socket.try_io(tokio::io::Interest::READABLE, || (&*socket).read(buffer)));
        match read {
            Ok(0) => return,
            Ok(read) => left = left.saturating_sub(read),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
