//! From an accepted connection to a session: answers what the stream asks. What is shown is judged in `proof`, the seat is
//! taken in `claim`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::sync::SemaphorePermit;

use super::{
    buffers,
    connection::{Connection, Next, State},
    entrance::{enter, step},
    metrics::{Login, Reason},
    proof::poll_interval_secs,
    wire::Wire,
};
use crate::{
    domain::{Cohort, Overhead, Polling},
    store::{Device, DeviceKey, StoreError, Transport, Unread},
    xmpp::{Action, StreamError},
};

/// The longest time that a login is slowed when two connections fight for a seat.
pub(super) const SLOWED_MAX: Duration = Duration::from_secs(5);

/// The next thing to do for a connection. Small, because every idle session has one.
pub(super) struct Step<'a>(pub(super) &'a Connection);

impl Future for Step<'_> {
    type Output = Next;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        self.0.step(cx)
    }
}

/// What the registry said about the device, for the ledger.
pub(super) struct Facts {
    pub(super) poll_interval_secs: Option<u32>,
    pub(super) polling: Polling,
}

impl Facts {
    pub(super) fn of(device: &Device) -> Self {
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
        unavailable: None,
        unread: None,
        mechanism: None,
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
    if let Some(mechanism) = login.mechanism.filter(|_| seated) {
        shared.metrics.proved(mechanism);
    }
    connection.guarded(|connection, state| {
        // What was sent ahead of the session was read just now, with a parser that an idle session does not need.
        connection.rest(state);
        if seated {
            state.wire.allow(shared.config.stanza_max_bytes);
        }
        state.tally.report_login(&*shared.meter, kind);
        if seated {
            // What the stream counted as login is in the socket's count.
            let _ = state.stream.traffic();
        }
    });
    seated
}

pub(super) struct Progress<'a> {
    pub(super) connection: &'a Arc<Connection>,
    pub(super) facts: Facts,
    pub(super) handshake: Option<SemaphorePermit<'a>>,
    /// Whose credentials were looked up, and how many times.
    pub(super) tries: Option<(DeviceKey, u32)>,
    /// Why the row of the device of a login by PLAIN could not be read: only a token is taken then.
    pub(super) unavailable: Option<StoreError>,
    /// What is to be judged later of a device that proved without its row who it is.
    pub(super) unread: Option<Unread>,
    /// The SASL mechanism that was tried last.
    pub(super) mechanism: Option<&'static str>,
    pub(super) seated: Option<Login>,
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
                    let (asked, mechanism) = {
                        let mut state = connection.state.lock();
                        (state.asked.take(), state.stream.mechanism())
                    };
                    self.mechanism = mechanism.or(self.mechanism);
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
    pub(super) async fn within<T>(&self, task: impl Future<Output = T>) -> Option<T> {
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

    pub(super) fn work(&self, work: impl FnOnce(&Connection, &mut State, Instant)) {
        self.connection.guarded(|connection, state| work(connection, state, Instant::now()));
    }

    /// Lets the stream have an answer, and does what it wants done then.
    pub(super) fn tell(&self, answer: impl FnOnce(&mut State, Instant)) {
        self.work(|connection, state, now| {
            if state.closing.is_none() {
                buffers::lend(&mut state.stream);
                answer(state, now);
                connection.pump(state, Reason::Stream, now);
                connection.arm(state, now);
            }
        });
    }

    pub(super) fn fail(&self, error: &StreamError, reason: Reason) {
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
            Action::CheckPassword {
                device: Some((_, device)), ..
            } if self.unavailable.is_some() => {
                if let Some(error) = self.unavailable.take() {
                    self.put_off(&device, &error);
                }
                self.tell(|state, now| state.stream.password_checked(None, now));
            }
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
            Action::Ended(_)
            | Action::Told(_)
            | Action::Ready
            | Action::Reported(_)
            | Action::Polls(_)
            | Action::Keepalive(_)
            | Action::Unavailable
            | Action::Close(_) => {}
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
