//! Doors to devices: sockets, TLS, sessions.
//!
//! [`Gateway`] listens for devices that speak XMPP over TCP, with STARTTLS or direct TLS, and takes those over that come to the
//! HTTPS listener with a WebSocket. Each connection is one small task
//! around a pure stream (`xmpp`). The dispatcher writes to a session at once through its [`Link`]; only what the socket does
//! not take waits, in a bounded queue of the session. What must outlive a connection is in the store, or waits in the table
//! of sessions to be resumed. [`poll`] is the door for devices that still poll.

mod buffers;
mod certificate;
mod claim;
mod config;
mod connection;
mod drain;
mod entrance;
mod guesses;
mod hello;
mod incidents;
mod linger;
mod link;
mod listener;
mod login;
mod metrics;
mod openapi;
pub mod poll;
mod proof;
mod recent;
mod reports;
mod session;
mod sessions;
mod shared;
mod socket;
mod tally;
mod timers;
mod tokens;
mod turns;
mod websocket;
mod wire;

#[cfg(test)]
mod tests;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Instant,
};

use axum::Router;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

pub use certificate::CertificateIdentity;
pub use config::{Config, Hosts};
pub use link::{Behind, Link, Links, Offer};
pub use metrics::GatewayMetrics;
pub use openapi::operations;
pub use tokens::{CohortOf, DeviceTokens};

use crate::{
    crew::Crew,
    domain::{Clock, DeviceId, DeviceSignal, Epoch, Meter, TenantId},
    presence::{self, Presence, SessionView},
    proxy::Balancers,
    store::{DeviceKey, Store, Transport},
    tls,
    xmpp::StreamError,
};
use entrance::Entrance;
use listener::Listening;
use metrics::Reason;
use recent::Recent;
use reports::Reports;
use sessions::{Entry, Table};
use shared::Shared;
use timers::Timers;

/// Connections that are told why they are refused, at once; the others are just closed.
const REFUSALS_MAX: usize = 256;
/// Devices of which it is remembered why their last connection ended.
const CLOSES_MAX: usize = 65_536;
/// Accounts whose failed logins are counted.
const FAILURES_MAX: usize = 16_384;

/// What the gateway is made of.
pub struct Parts {
    /// Credentials, seats.
    pub store: Arc<dyn Store>,
    /// Learns of the sessions: the gateway attaches itself.
    pub presence: Presence,
    /// Where the dispatcher listens.
    pub signals: mpsc::Sender<DeviceSignal>,
    /// The ledger.
    pub meter: Arc<dyn Meter>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Made with [`GatewayMetrics::register`].
    pub metrics: GatewayMetrics,
    /// Takes device tokens.
    pub tokens: DeviceTokens,
    /// Who stands before the listeners.
    pub balancers: Balanced,
    /// The name of this node.
    pub node: Arc<str>,
    /// Which tenant a domain belongs to.
    pub hosts: Hosts,
}

/// The balancers before each listener.
#[derive(Clone, Debug, Default)]
pub struct Balanced {
    /// STARTTLS.
    pub xmpp: Balancers,
    /// Direct TLS.
    pub xmpps: Balancers,
}

/// Why the gateway cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("{setting} = \"{address}\" cannot be listened on: {source}")]
pub struct BindError {
    /// The setting that names the address.
    pub setting: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// Where the gateway listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// STARTTLS.
    pub xmpp: SocketAddr,
    /// Direct TLS.
    pub xmpps: SocketAddr,
}

/// The XMPP doors of this node.
pub struct Gateway {
    shared: Arc<Shared>,
    addresses: Addresses,
    listeners: Mutex<Vec<Listening>>,
}

impl Gateway {
    /// Binds both listeners; nothing is served yet. Call it within the runtime.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub async fn bind(config: Config, tls: tls::Current, parts: Parts) -> Result<Self, BindError> {
        let bind = |setting, address| {
            let failed = |source| BindError { setting, address, source };
            let listener = listener::bind(address, config.backlog).map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            Ok((listener, address))
        };
        let (xmpp, xmpp_address) = bind("xmpp.listen", config.listen)?;
        let (xmpps, xmpps_address) = bind("xmpp.listen_tls", config.listen_tls)?;
        let shared = Arc::new(Shared {
            stream: Arc::new(config.stream_config(parts.hosts)),
            tls,
            store: parts.store,
            signals: parts.signals,
            meter: parts.meter,
            clock: parts.clock,
            metrics: parts.metrics,
            node: parts.node,
            tokens: parts.tokens,
            entrance: Entrance::new(&config),
            failures: Recent::new(FAILURES_MAX),
            sessions: Table::new(),
            closes: Recent::new(CLOSES_MAX),
            reports: Reports::default(),
            timers: Timers::new(Instant::now()),
            crew: OnceLock::new(),
            unauthenticated: Arc::new(Semaphore::new(config.unauthenticated_max.min(Semaphore::MAX_PERMITS))),
            handshakes: Semaphore::new(config.handshakes_max.clamp(1, Semaphore::MAX_PERMITS)),
            password_checks: Semaphore::new(config.password_checks()),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            config,
        });
        parts.presence.attach(shared.clone());
        Ok(Self {
            shared,
            addresses: Addresses {
                xmpp: xmpp_address,
                xmpps: xmpps_address,
            },
            listeners: Mutex::new(vec![
                Listening {
                    listener: xmpp,
                    transport: Transport::Xmpp,
                    balancers: parts.balancers.xmpp,
                },
                Listening {
                    listener: xmpps,
                    transport: Transport::Xmpps,
                    balancers: parts.balancers.xmpps,
                },
            ]),
        })
    }

    /// Where it listens; the ports are known even if the settings said 0.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The door for WebSocket (RFC 7395), to be mounted beside the gate of HTTP.
    pub fn routes(&self) -> Router {
        websocket::routes(self.shared.clone())
    }

    /// The sessions of this node, for the dispatcher.
    pub fn links(&self) -> Arc<dyn Links> {
        self.shared.clone()
    }

    /// Serves until the crew is dismissed. Then no connection is accepted any more, last acknowledgements are read, and every
    /// session is ended with `<system-shutdown/>`. Starting twice does nothing.
    pub fn start(&self, crew: &Crew) {
        if self.shared.crew.set(crew.clone()).is_err() {
            return;
        }
        for listening in self.listeners.lock().drain(..) {
            let shared = self.shared.clone();
            crew.spawn_vital(|stop| listener::serve(listening, shared, stop));
        }
        let shared = self.shared.clone();
        crew.spawn_vital(|stop| async move { shared.timers.run(stop).await });
        let shared = self.shared.clone();
        crew.spawn_vital(|stop| reports::run(shared, stop));
        let shared = self.shared.clone();
        crew.spawn_vital(|stop| drain::drain(shared, stop));
    }
}

impl Links for Shared {
    fn link(&self, tenant: TenantId, device: &DeviceId) -> Option<Arc<dyn Link>> {
        let device = device.clone();
        self.sessions.get(&DeviceKey { tenant, device }).map(Entry::link)
    }

    fn all(&self) -> Vec<(TenantId, DeviceId, Arc<dyn Link>)> {
        let all = self.sessions.all().into_iter();
        all.map(|(key, entry)| (key.tenant, key.device, entry.link())).collect()
    }

    fn displace(&self, tenant: TenantId, device: &DeviceId, epoch: Epoch) {
        let device = device.clone();
        let key = DeviceKey { tenant, device };
        match self.sessions.lose(&key, epoch, Instant::now()) {
            Some(Entry::Live(connection)) => {
                let is_older = connection.state.lock().seated.as_ref().is_some_and(|seated| seated.epoch <= epoch);
                if is_older {
                    self.sessions.changed(&key, Instant::now());
                    connection.displace();
                }
            }
            Some(Entry::Away(hibernated)) if hibernated.epoch <= epoch => self.spawn(hibernated.end(Reason::Conflict, true)),
            Some(Entry::Away(_)) | None => {}
        }
    }

    fn dismiss(&self, tenant: TenantId, device: &DeviceId, epoch: Epoch) {
        let device = device.clone();
        match self.sessions.lose(&DeviceKey { tenant, device }, epoch, Instant::now()) {
            Some(Entry::Live(connection)) => {
                connection.guarded(|connection, state| {
                    if state.seated.as_ref().is_some_and(|seated| seated.epoch == epoch) {
                        connection.fail(state, &StreamError::NotAuthorized, Reason::Removed, Instant::now());
                    }
                });
            }
            Some(Entry::Away(hibernated)) if hibernated.epoch == epoch => self.spawn(hibernated.end(Reason::Removed, true)),
            Some(Entry::Away(_)) | None => {}
        }
    }
}

impl presence::Sessions for Shared {
    fn session(&self, tenant: TenantId, device: &DeviceId) -> Option<SessionView> {
        let device = device.clone();
        let key = DeviceKey { tenant, device };
        // A session that is on its way from one connection to the next is there at the second look.
        (0..2).find_map(|_| match self.sessions.get(&key)? {
            Entry::Live(connection) => connection.view(),
            Entry::Away(hibernated) => Some(hibernated.view()),
        })
    }

    fn incidents(&self, tenant: TenantId, device: &DeviceId) -> presence::Incidents {
        Self::incidents(self, tenant, device)
    }
}
