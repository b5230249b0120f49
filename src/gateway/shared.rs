//! What all connections of the gateway share.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use tokio::sync::{Semaphore, mpsc};

use super::{
    config::Config,
    connection::Seated,
    entrance::Entrance,
    metrics::{GatewayMetrics, Reason},
    recent::Recent,
    reports::Reports,
    sessions::Table,
    timers::Timers,
    tokens::DeviceTokens,
};
use crate::{
    crew::Crew,
    domain::{Clock, DeviceSignal, Epoch, Meter, Timestamp},
    presence::LastClose,
    store::{DeviceKey, Store, Transport},
    tls,
    xmpp::{Session, StreamConfig},
};

/// One for each gateway.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) stream: Arc<StreamConfig>,
    pub(super) tls: tls::Current,
    pub(super) store: Arc<dyn Store>,
    pub(super) signals: mpsc::Sender<DeviceSignal>,
    pub(super) meter: Arc<dyn Meter>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: GatewayMetrics,
    pub(super) node: Arc<str>,
    pub(super) tokens: DeviceTokens,
    pub(super) sessions: Table,
    /// Who may begin to log in.
    pub(super) entrance: Entrance,
    /// Failed logins by account, since when.
    pub(super) failures: Recent<DeviceKey, (Instant, u32)>,
    /// Why the last connection of a device ended.
    pub(super) closes: Recent<DeviceKey, LastClose>,
    /// What devices report, on its way into the store.
    pub(super) reports: Reports,
    pub(super) timers: Timers,
    /// Where tasks are spawned, once started.
    pub(super) crew: OnceLock<Crew>,
    /// One permit for each connection that has not logged in.
    pub(super) unauthenticated: Arc<Semaphore>,
    pub(super) handshakes: Semaphore,
    pub(super) password_checks: Semaphore,
    /// Connections that are told why they are not served.
    pub(super) refusals: Arc<Semaphore>,
}

/// A session that is over, on its way out.
pub(super) struct Over {
    pub(super) key: DeviceKey,
    pub(super) session: Box<Session>,
    pub(super) last_seen_at: Timestamp,
    /// It ended within 5 s of writing its last event, by the device's doing. `None`: its connection broke before, and that was told.
    pub(super) at_once: Option<bool>,
    /// Why it ended.
    pub(super) reason: Reason,
    /// Another session has the seat: there is nothing to release.
    pub(super) displaced: bool,
}

impl Shared {
    /// Starts a task, unless the gateway was never started.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(crew) = self.crew.get() {
            crew.spawn(task);
        }
    }

    /// Ends a session for good: the one place that does. What was not acknowledged is still in the store; the dispatcher is
    /// told, and the seat is given up.
    pub(super) async fn finish(&self, over: Over) {
        let Over {
            key,
            session,
            last_seen_at,
            at_once,
            reason,
            displaced,
        } = over;
        let epoch = session.epoch();
        self.sessions.remember(key.clone(), session.id(), session.handled(), Instant::now());
        let returned = DeviceSignal::Returned {
            tenant: key.tenant,
            device: key.device.clone(),
            epoch,
            events: session.unacknowledged(),
            at_once,
        };
        drop(session);
        // An error means that the dispatcher has ended: what it would do is done at the next start, from the store.
        let _ = self.signals.send(returned).await;
        if !displaced {
            self.release(&key, epoch, last_seen_at, reason).await;
        }
    }

    /// Gives the seat up, if it is still held by `epoch`.
    pub(super) async fn release(&self, key: &DeviceKey, epoch: Epoch, last_seen_at: Timestamp, reason: Reason) {
        if let Err(error) = self.store.release(key, epoch, last_seen_at, reason.departure()).await {
            tracing::warn!(device.id = %key.device, error = %error, "the seat of {} was not given up: {error}", key.device);
        }
    }

    /// Whether there are as many sessions as there may be.
    pub(super) fn full(&self) -> bool {
        let live: i64 = Transport::ALL.map(|transport| self.metrics.sessions(transport).get()).iter().sum();
        usize::try_from(live).unwrap_or(0) >= self.config.sessions_max
    }

    /// The time of day at `instant`, which is not in the future.
    pub(super) fn time_of(&self, instant: Instant) -> Timestamp {
        let ago = u64::try_from(instant.elapsed().as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.clock.now().0.saturating_sub(ago))
    }

    /// Closes a session's account with the ledger.
    pub(super) fn close_account(&self, seated: &mut Seated) {
        self.meter.close(&mut seated.account, self.clock.now());
    }
}
