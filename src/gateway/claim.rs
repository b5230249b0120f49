//! From a device that is known to its seat: claimed anew, or taken on with a session that is resumed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    connection::Seated,
    login::{Progress, SLOWED_MAX, random},
    metrics::{Login, Reason, Refused, SessionEvent},
    session::Carried,
    sessions::Entry,
    shared::Over,
};
use crate::{
    domain::{FastChange, SessionId},
    store::{Claimed, DeviceKey, NewSeat, StoreError},
    xmpp::StreamError,
};

impl Progress<'_> {
    pub(super) async fn claim(&mut self, key: DeviceKey, generation: u32, fast: Option<Box<FastChange>>) {
        let shared = &self.connection.shared;
        if shared.full() && shared.sessions.get(&key).is_none() {
            shared.metrics.refused(Refused::Sessions);
            let retry_after = shared.retry_after();
            self.fail(&StreamError::ResourceConstraint { retry_after }, Reason::Full);
            return;
        }
        if self.slow_down(&key).await.is_none() {
            return;
        }
        let Some(id) = random().map(|bytes| SessionId(u128::from_le_bytes(bytes))) else {
            self.fail(&StreamError::InternalServerError, Reason::Bug);
            return;
        };
        let at = shared.clock.now();
        let seat = NewSeat {
            session: id,
            node: shared.node.clone(),
            transport: self.connection.transport,
            at,
            credential_generation: generation,
            fast,
        };
        // Not cut short: a claim that was made must be known.
        let claimed = match self.unread.take() {
            Some(unread) => {
                self.withhold_tokens();
                shared.store.claim_unread(&key, NewSeat { fast: None, ..seat }, unread).await
            }
            None => self.claim_as_read(&key, seat).await,
        };
        let epoch = match claimed {
            Ok(claimed) => claimed.epoch,
            Err(StoreError::UnknownDevice | StoreError::RemovedDevice | StoreError::Conflict(_)) => {
                shared.metrics.login(Login::Refused);
                self.tell(|state, now| state.stream.claim_failed(false, now));
                return;
            }
            Err(error) => {
                tracing::warn!(device.id = %key.device, error = %error, "{} cannot be seated: {error}", key.device);
                shared.metrics.login(Login::Unavailable);
                self.tell(|state, now| state.stream.claim_failed(true, now));
                return;
            }
        };
        let seated = Seated {
            account: self.open_account(&key),
            connected_at: at,
            epoch,
            key: key.clone(),
            reported: None,
        };
        if !self.take_seat(seated, true) {
            let closing = self.connection.state.lock().closing;
            let reason = closing.map_or(Reason::Conflict, |closing| closing.reason);
            shared.release(&key, epoch, at, reason).await;
            return;
        }
        self.tell(|state, now| state.stream.claimed(epoch, id, now));
        shared.metrics.session(SessionEvent::Connected);
        self.seated = Some(Login::Bound);
    }

    /// A token that cannot be stored now is not given out, and keeps nobody out.
    async fn claim_as_read(&self, key: &DeviceKey, seat: NewSeat) -> Result<Claimed, StoreError> {
        let store = &self.connection.shared.store;
        let only_gives = seat.fast.as_ref().is_some_and(|change| !change.promote && !change.invalidate);
        if !only_gives || !store.seats_unread() {
            return store.claim(key, seat).await;
        }
        let bare = NewSeat {
            fast: None,
            ..seat.clone()
        };
        match store.claim(key, seat).await {
            Err(StoreError::Unavailable(_)) => {
                self.withhold_tokens();
                store.claim(key, bare).await
            }
            claimed => claimed,
        }
    }

    fn withhold_tokens(&self) {
        self.connection.state.lock().stream.tokens_withheld();
    }

    /// Two connections with one identity throw each other out for ever: the more often they do, the longer they wait.
    async fn slow_down(&self, key: &DeviceKey) -> Option<()> {
        let shared = &self.connection.shared;
        let changes = shared.sessions.changes(key, Instant::now());
        let Some(beyond) = changes.checked_sub(shared.config.seat_changes_max) else {
            return Some(());
        };
        shared.metrics.slowed.inc();
        tracing::warn!(
            device.id = %key.device,
            client.address = %self.connection.client,
            changes,
            "the seat of {} changed hands {changes} times within a minute, now to {}: probably two devices have one identity",
            key.device,
            self.connection.client
        );
        let wait = Duration::from_secs(u64::from(beyond) + 1).min(SLOWED_MAX);
        self.within(tokio::time::sleep(wait)).await
    }

    fn open_account(&self, key: &DeviceKey) -> crate::domain::Account {
        let shared = &self.connection.shared;
        shared.meter.open(
            key.tenant,
            &key.device,
            self.facts.poll_interval_secs,
            self.facts.polling,
            shared.config.keepalive(),
            shared.clock.now(),
        )
    }

    /// Puts the connection into the table as the device's session. False: a newer one is there, or the connection is closing.
    /// `anew`: not by a resumption, whose old place is empty already.
    fn take_seat(&self, seated: Seated, anew: bool) -> bool {
        let connection = self.connection;
        let shared = &connection.shared;
        let (key, epoch) = (seated.key.clone(), seated.epoch);
        {
            let mut state = connection.state.lock();
            if state.closing.is_some() {
                return false;
            }
            state.seated = Some(Box::new(seated));
        }
        shared.metrics.sessions(connection.transport).inc();
        match shared.sessions.seat(&key, epoch, Entry::Live(connection.clone())) {
            Ok(Some(displaced)) if anew => {
                shared.sessions.changed(&key, Instant::now());
                match displaced {
                    Entry::Live(older) => {
                        if !Arc::ptr_eq(&older, connection) {
                            older.displace();
                        }
                    }
                    Entry::Away(older) => shared.spawn(older.end(Reason::Conflict, true)),
                }
                true
            }
            Ok(_) => true,
            Err(()) => {
                connection.state.lock().seated = None;
                shared.metrics.sessions(connection.transport).dec();
                self.fail(&StreamError::Conflict, Reason::Conflict);
                false
            }
        }
    }

    pub(super) async fn resume(&mut self, key: &DeviceKey, previous: Option<SessionId>) {
        let shared = &self.connection.shared;
        let taken = previous.and_then(|id| match shared.sessions.get(key)? {
            Entry::Live(older) if Arc::ptr_eq(&older, self.connection) => None,
            Entry::Live(older) => Some((older.hand_over(id)?, SessionEvent::ResumedElsewhere)),
            Entry::Away(older) => Some((older.take(Some(id))?, SessionEvent::Resumed)),
        });
        let Some((carried, event)) = taken else {
            let handled = previous.and_then(|id| shared.sessions.handled(key, id, Instant::now()));
            self.tell(|state, now| state.stream.not_resumed(handled, now));
            return;
        };
        let Carried {
            session,
            connected_at,
            account,
            written,
            signals,
        } = carried;
        let mut seated = Seated {
            account: self.open_account(key),
            connected_at,
            epoch: session.epoch(),
            key: key.clone(),
            reported: None,
        };
        if let Some(keepalive) = session.keepalive() {
            shared.meter.keepalive(&mut seated.account, keepalive);
            self.connection.backstop(keepalive);
        }
        seated.account.last_tick = account.last_tick;
        seated.account.polling = account.polling;
        if !self.take_seat(seated, false) {
            let over = Over {
                key: key.clone(),
                session,
                last_seen_at: shared.clock.now(),
                at_once: None,
                reason: self
                    .connection
                    .state
                    .lock()
                    .closing
                    .map_or(Reason::Conflict, |closing| closing.reason),
                displaced: false,
            };
            for signal in signals {
                // An error means that the dispatcher has ended.
                let _ = shared.signals.send(signal).await;
            }
            shared.finish(over).await;
            return;
        }
        let time = shared.clock.now();
        self.tell(|state, now| {
            state.written = written;
            state.signals = signals;
            // What is written again counts from now, as what is written anew does.
            state.last_written = (!session.unacknowledged().is_empty()).then_some(now);
            state.stream.resume(session, now, time);
        });
        shared.metrics.session(event);
        self.seated = Some(Login::Resumed);
    }
}
