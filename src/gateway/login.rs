//! From an accepted connection to a session: answers what the stream asks.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::sync::SemaphorePermit;

use super::{
    buffers, certificate,
    connection::{Connection, Next, Seated, State},
    entrance::{enter, step},
    metrics::{Login, Reason, Refused, SessionEvent},
    session::Carried,
    sessions::Entry,
    shared::Over,
    wire::Wire,
};
use crate::{
    domain::{Cohort, Credential, FastChange, FastTokens, Overhead, Password, Polling, ScramSecret, SessionId},
    store::{Device, DeviceKey, NewSeat, Registered, Store, StoreError, Transport},
    tokens::{TokenError, Valid},
    xmpp::{Action, Credentials, Pinned, StreamError},
};

/// The longest time that a login is slowed when two connections fight for a seat.
const SLOWED_MAX: Duration = Duration::from_secs(5);

/// Devices looked at for one with a secret.
const NEIGHBOURS: usize = 8;

/// The next thing to do for a connection. Small, because every idle session has one.
pub(super) struct Step<'a>(pub(super) &'a Connection);

impl Future for Step<'_> {
    type Output = Next;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        self.0.step(cx)
    }
}

/// What the registry said about the device, for the ledger.
struct Facts {
    poll_interval_secs: Option<u32>,
    polling: Polling,
}

impl Facts {
    fn of(device: &Device) -> Self {
        Self {
            poll_interval_secs: poll_interval_secs(device),
            polling: match device.cohort {
                Cohort::Push => Polling::Off,
                Cohort::Poll | Cohort::Control => Polling::On,
            },
        }
    }
}

/// 32 bytes for ids and nonces.
pub(super) fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(bytes)
}

/// Leads a connection to its session. False: it is to be closed.
pub(super) async fn login(connection: &Arc<Connection>) -> bool {
    let mut login = Progress {
        connection,
        facts: Facts {
            poll_interval_secs: None,
            polling: Polling::Unknown,
        },
        handshake: None,
        tries: None,
        seated: None,
    };
    let seated = login.run().await;
    login.count_failures(seated);
    let kind = match login.seated {
        Some(Login::Resumed) => Overhead::Resume,
        _ => Overhead::Connect,
    };
    let shared = &connection.shared;
    let result = match login.seated {
        Some(result) => result,
        None if connection
            .state
            .lock()
            .closing
            .is_some_and(|closing| closing.reason == Reason::Silent) =>
        {
            Login::TimedOut
        }
        None => Login::Failed,
    };
    shared.metrics.login(result);
    connection.guarded(|connection, state| {
        // What was sent ahead of the session was read just now, with a parser that an idle session does not need.
        connection.rest(state);
        state.tally.report_login(&*shared.meter, kind);
        if seated {
            // What the stream counted as login is in the socket's count.
            let _ = state.stream.traffic();
        }
    });
    seated
}

struct Progress<'a> {
    connection: &'a Arc<Connection>,
    facts: Facts,
    handshake: Option<SemaphorePermit<'a>>,
    /// Whose credentials were looked up, and how many times.
    tries: Option<(DeviceKey, u32)>,
    seated: Option<Login>,
}

impl<'a> Progress<'a> {
    async fn run(&mut self) -> bool {
        let connection = self.connection;
        let mut turn = None;
        match self.within(enter(connection)).await {
            Some(Ok(entered)) => {
                self.handshake = entered.handshake;
                turn = Some(entered.turn);
            }
            Some(Err(refused)) => {
                connection.shared.metrics.refused(refused);
                let retry_after = connection.shared.retry_after();
                self.fail(&StreamError::ResourceConstraint { retry_after }, Reason::Full);
            }
            None => {}
        }
        loop {
            match self.within(step(connection, turn.take())).await {
                None | Some(Next::Close) => return false,
                Some(Next::Deliver) => deliver(connection).await,
                Some(Next::Ask) => {
                    let asked = connection.state.lock().asked.take();
                    if let Some(asked) = asked {
                        self.answer(*asked).await;
                    }
                }
            }
            let state = connection.state.lock();
            if state.wire.established() && state.starting_tls.is_none() {
                self.handshake = None;
            }
            if state.seated.is_some() && state.closing.is_none() {
                return true;
            }
        }
    }

    /// Waits for `task`, at most until the stream's deadline, or until the node stops. `None`: the connection is closing.
    async fn within<T>(&self, task: impl Future<Output = T>) -> Option<T> {
        let connection = self.connection;
        let stop = connection.shared.crew.get().map(crate::crew::Crew::stop_token).unwrap_or_default();
        tokio::pin!(task);
        loop {
            let deadline = connection.state.lock().stream.wake_at();
            tokio::select! {
                result = &mut task => return Some(result),
                () = tokio::time::sleep_until(deadline.into()) => {
                    self.work(|connection, state, now| connection.elapse(state, now));
                }
                () = stop.cancelled() => {
                    self.work(|connection, state, now| connection.fail(state, &StreamError::SystemShutdown, Reason::Shutdown, now));
                }
            }
            if connection.state.lock().closing.is_some() {
                return None;
            }
        }
    }

    fn work(&self, work: impl FnOnce(&Connection, &mut State, Instant)) {
        self.connection.guarded(|connection, state| work(connection, state, Instant::now()));
    }

    /// Lets the stream have an answer, and does what it wants done then.
    fn tell(&self, answer: impl FnOnce(&mut State, Instant)) {
        self.work(|connection, state, now| {
            if state.closing.is_none() {
                buffers::lend(&mut state.stream);
                answer(state, now);
                connection.pump(state, Reason::Stream, now);
                connection.arm(state, now);
            }
        });
    }

    fn fail(&self, error: &StreamError, reason: Reason) {
        self.work(|connection, state, now| connection.fail(state, error, reason, now));
    }

    async fn answer(&mut self, asked: Action) {
        match asked {
            Action::StartTls => self.start_tls().await,
            Action::FindCredentials { tenant, device, tokens } => {
                let found = self.find(DeviceKey { tenant, device }, tokens).await;
                if let Some(found) = found {
                    self.tell(|state, now| state.stream.credentials_found(found, now));
                }
            }
            Action::CheckPassword {
                password,
                device: Some((tenant, device)),
                ..
            } if self.connection.shared.tokens.takes(&password) => self.check_token(DeviceKey { tenant, device }, password).await,
            Action::CheckPassword { password, secrets, .. } => {
                if let Some(right) = self.within(self.check(password, secrets)).await {
                    self.tell(|state, now| state.stream.password_checked(right, now));
                }
            }
            Action::CheckCertificate { tenant, device, sha256 } => self.check_certificate(DeviceKey { tenant, device }, sha256).await,
            Action::Claim {
                tenant,
                device,
                generation,
                fast,
            } => self.claim(DeviceKey { tenant, device }, generation, fast).await,
            Action::ChangeTokens {
                tenant,
                device,
                generation,
                change,
            } => self.change_tokens(&DeviceKey { tenant, device }, generation, *change).await,
            Action::Resume { tenant, device, previous } => self.resume(&DeviceKey { tenant, device }, previous).await,
            // `pump` does all others.
            Action::Ended(_) | Action::Ready | Action::Polls(_) | Action::Keepalive(_) | Action::Unavailable | Action::Close(_) => {}
        }
    }

    async fn start_tls(&mut self) {
        let shared = &self.connection.shared;
        self.handshake = self.within(shared.handshakes.acquire()).await.and_then(Result::ok);
        match (Wire::tls(shared.tls.get()), random()) {
            (Ok(wire), Some(random)) => self.work(|_, state, _| {
                state.wire = wire;
                state.starting_tls = Some(Box::new(random));
            }),
            _ => self.fail(&StreamError::InternalServerError, Reason::Bug),
        }
    }

    async fn find(&mut self, key: DeviceKey, tokens: bool) -> Option<Credentials> {
        self.tries = Some((key.clone(), self.tries.take().map_or(0, |(_, tries)| tries) + 1));
        if let Some(wait) = self.connection.shared.wait_for_guesses(&key, SLOWED_MAX) {
            self.within(tokio::time::sleep(wait)).await?;
        }
        let store = self.connection.shared.store.clone();
        let found = self.look_up(&key, tokens, &*store).await?;
        if tokens {
            return Some(found);
        }
        let secretless =
            matches!(&found, Credentials::Unknown { .. }) || matches!(&found, Credentials::Found { secrets, .. } if secrets.is_empty());
        if !secretless {
            return Some(found);
        }
        let like = self.within(neighbour(&*store, &key)).await?;
        Some(Credentials::Unknown { like })
    }

    async fn look_up(&mut self, key: &DeviceKey, tokens: bool, store: &dyn Store) -> Option<Credentials> {
        let read = async {
            let registered = store.device(key).await?;
            let tokens = match &registered {
                Registered::Present(device) if tokens => store.fast_tokens(key, device.credential_generation).await?,
                _ => FastTokens::default(),
            };
            Ok::<_, StoreError>((registered, tokens))
        };
        Some(match self.within(read).await? {
            Ok((Registered::Present(device), tokens)) => {
                self.facts = Facts::of(&device);
                Credentials::Found {
                    secrets: device.credentials.iter().filter_map(Credential::scram).cloned().collect(),
                    generation: device.credential_generation,
                    tokens,
                }
            }
            Ok((Registered::Removed(_) | Registered::Unknown, _)) => Credentials::Unknown { like: None },
            Err(error) => {
                tracing::warn!(device.id = %key.device, error = %error, "{} cannot log in, the store does not answer: {error}", key.device);
                self.connection.shared.metrics.login(Login::Unavailable);
                Credentials::Unavailable
            }
        })
    }

    /// Checks a password off the event loop. `None`: the check failed by a bug.
    async fn check(&self, password: Password, secrets: Vec<ScramSecret>) -> Option<bool> {
        let _permit = self.connection.shared.password_checks.acquire().await.ok()?;
        let check = tokio::task::spawn_blocking(move || secrets.iter().any(|secret| secret.matches(&password)));
        let checked = check.await;
        if let Err(error) = &checked {
            tracing::error!(%error, "the check of a password failed: {error}");
        }
        checked.ok()
    }

    /// Looks up which certificates the device may show.
    async fn check_certificate(&mut self, key: DeviceKey, sha256: [u8; 32]) {
        let shared = &self.connection.shared;
        let Some(found) = self.within(shared.store.device(&key)).await else {
            return;
        };
        let pinned = match found {
            Ok(Registered::Present(device)) => {
                self.facts = Facts::of(&device);
                certificate::pinned(&device, sha256)
            }
            Ok(Registered::Removed(_) | Registered::Unknown) => Pinned::Unknown,
            Err(error) => {
                tracing::warn!(device.id = %key.device, error = %error, "{} cannot log in, the store does not answer: {error}", key.device);
                shared.metrics.login(Login::Unavailable);
                Pinned::Unavailable
            }
        };
        self.tell(|state, now| state.stream.certificate_checked(pinned, now));
    }

    /// A token instead of a password: checked by the issuer's keys, then the device is looked up, or added.
    async fn check_token(&mut self, key: DeviceKey, token: Password) {
        let shared = &self.connection.shared;
        let Some(checked) = self.within(self.valid(key.clone(), token)).await else {
            return;
        };
        let answer = match checked {
            Some(Ok(_)) => {
                let found = shared.tokens.device(&*shared.store, &key, shared.clock.now());
                let Some(found) = self.within(found).await else { return };
                found.map_err(|error| {
                    tracing::warn!(device.id = %key.device, error = %error, "{} cannot log in, the store does not answer: {error}", key.device);
                    shared.metrics.login(Login::Unavailable);
                })
            }
            Some(Err(TokenError::NoKeys)) | None => Err(()),
            Some(Err(error)) => {
                tracing::debug!(device.id = %key.device, client.address = %self.connection.client, "a token of {} was refused: {error}", key.device);
                Ok(None)
            }
        };
        match answer {
            Ok(Some(device)) => {
                self.facts = Facts::of(&device);
                self.tell(|state, now| state.stream.token_accepted(device.credential_generation, now));
            }
            Ok(None) => self.tell(|state, now| state.stream.password_checked(Some(false), now)),
            Err(()) => self.tell(|state, now| state.stream.password_checked(None, now)),
        }
    }

    /// Checks a token off the event loop. `None`: the check failed by a bug.
    async fn valid(&self, key: DeviceKey, token: Password) -> Option<Result<Valid, TokenError>> {
        let shared = &self.connection.shared;
        let _permit = shared.password_checks.acquire().await.ok()?;
        let (tokens, now) = (shared.tokens.clone(), shared.clock.now());
        let checked = tokio::task::spawn_blocking(move || tokens.check(&key, &token, now)).await;
        if let Err(error) = &checked {
            tracing::error!(%error, "the check of a token failed: {error}");
        }
        checked.ok()
    }

    /// Gives out or takes back FAST tokens where no claim takes it along.
    async fn change_tokens(&self, key: &DeviceKey, generation: u32, change: FastChange) {
        // Not cut short: a token that was stored is to be given out.
        let changed = self.connection.shared.store.change_fast_tokens(key, generation, change).await;
        if let Err(error) = &changed {
            tracing::warn!(device.id = %key.device, error = %error, "{} gets no FAST token: {error}", key.device);
        }
        self.tell(|state, now| state.stream.tokens_changed(changed.is_ok(), now));
    }

    async fn claim(&mut self, key: DeviceKey, generation: u32, fast: Option<Box<FastChange>>) {
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
        let epoch = match shared.store.claim(&key, seat).await {
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
        };
        if !self.take_seat(seated, true) {
            shared.release(&key, epoch, at).await;
            return;
        }
        self.tell(|state, now| state.stream.claimed(epoch, id, now));
        shared.metrics.session(SessionEvent::Connected);
        self.seated = Some(Login::Bound);
    }

    /// Counts tries that did not lead to a session: passwords that are guessed.
    fn count_failures(&mut self, seated: bool) {
        let Some((key, tries)) = self.tries.take() else { return };
        let reason = self.connection.state.lock().closing.map(|closing| closing.reason);
        // What we ended for reasons of our own, in a storm above all, was no guess.
        let ours = !seated && !matches!(reason, Some(Reason::Stream | Reason::Lost));
        let failed = tries.saturating_sub(u32::from(seated || ours));
        if failed > 0 {
            self.connection.shared.guessed(key, failed);
        }
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

    async fn resume(&mut self, key: &DeviceKey, previous: Option<SessionId>) {
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

/// How often the device polls, in seconds, where its backend says so.
pub(super) fn poll_interval_secs(device: &Device) -> Option<u32> {
    let secs = device.attributes.get("poll_interval_secs")?.as_u64()?;
    u32::try_from(secs).ok().filter(|secs| *secs > 0)
}

/// A secret of the device that follows that name in the registry (after the last comes the first): what a name that is no
/// device's pretends to have. It is the same at every try, and as mixed as the secrets of the devices are.
pub(super) async fn neighbour(store: &dyn Store, key: &DeviceKey) -> Option<ScramSecret> {
    for after in [Some(&key.device), None] {
        // A registry that cannot be read shows in the look-up of real devices, too.
        let devices = store.devices(key.tenant, after, NEIGHBOURS).await.unwrap_or_default();
        let secrets: Vec<Credential> = devices.into_iter().flat_map(|device| device.credentials).collect();
        if let Some(secret) = secrets.iter().find_map(Credential::scram) {
            return Some(secret.clone());
        }
    }
    None
}

/// Hands on the signals that found their channel full, oldest first; nothing more is read from the device until then.
pub(super) async fn deliver(connection: &Connection) {
    loop {
        // An error means that the dispatcher has ended: what it would do is done at the next start, from the store.
        let permit = connection.shared.signals.reserve().await.ok();
        let mut state = connection.state.lock();
        if state.signals.is_empty() {
            return;
        }
        let signal = state.signals.remove(0);
        if let Some(permit) = permit {
            permit.send(signal);
        }
    }
}

/// Where a connection came in.
pub(super) fn secured(transport: Transport) -> bool {
    transport == Transport::Xmpps
}
