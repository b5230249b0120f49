//! Sessions as the world sees them: is a device there, since when, last seen when; and the feed of those that come and go.

mod answer;
mod config;
mod follow;
mod lost;
mod metrics;
mod openapi;
mod routes;
mod stream;

use std::{borrow::Cow, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::{
    domain::{Clock, DeviceId, Epoch, TenantId, Timestamp},
    store::{DeviceKey, Store, Transport},
};

pub use config::Config;
pub use metrics::PresenceMetrics;
pub use openapi::operations;
pub use routes::{Parts, Routes};

/// Whether a device can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has a connection that proved to be alive lately.
    Online,
    /// Its connection was lost, and its session waits to be resumed.
    Away,
    /// Neither.
    Offline,
}

impl State {
    /// The word in the API, and in filters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Away => "away",
            Self::Offline => "offline",
        }
    }
}

/// What keeps a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has a connection.
    Connected,
    /// The device's side closed or reset the connection without a goodbye. That was a proof of life.
    Lost {
        /// When.
        at: Timestamp,
    },
    /// The connection was given up: no answer, or no progress.
    Silent {
        /// When.
        at: Timestamp,
    },
}

/// One session, as a door tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// The seat it holds.
    pub epoch: Epoch,
    /// When it was bound.
    pub connected_at: Timestamp,
    /// Its last proof of life.
    pub last_heard: Timestamp,
    /// How it is or was connected.
    pub transport: Transport,
    /// What keeps it.
    pub phase: Phase,
    /// The keepalive that it asked for. `None`: the one that is set.
    pub keepalive: Option<Duration>,
}

/// Why a connection ended, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastClose {
    /// The word of `unpoll_session_events_total`: `lost`, `silent`, `stalled`, `conflict` …
    pub reason: Cow<'static, str>,
    /// When.
    pub at: Timestamp,
}

/// What a door knows of a device's behaviour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Incidents {
    /// Since when it has not taken what was written to it.
    pub slow_since: Option<Timestamp>,
    /// It sends more than it may, and is read more slowly.
    pub flooding: bool,
    /// Why its last connection ended, if that is remembered.
    pub last_close: Option<LastClose>,
    /// How many times its seat changed hands within a minute. Many: two devices have one identity.
    pub seat_changes: u32,
}

/// The sessions of this node. The doors implement it: nothing is kept twice.
pub trait Sessions: Send + Sync + 'static {
    /// The live or hibernating session of a device.
    fn session(&self, tenant: TenantId, device: &DeviceId) -> Option<SessionView>;

    /// What this door knows of a device's behaviour.
    fn incidents(&self, tenant: TenantId, device: &DeviceId) -> Incidents;
}

/// The other nodes of the service.
#[async_trait]
pub trait Elsewhere: Send + Sync + 'static {
    /// What a node says of devices whose seats it has, in order, each `None` when it knows no session of it. `None`: it does not
    /// answer in time.
    async fn presences(&self, node: &str, devices: &[DeviceKey]) -> Option<Vec<Option<DevicePresence>>>;
}

/// How long a proof of life lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Silence after which a device is asked for a sign of life.
    pub keepalive: Duration,
    /// How long a lost session may be resumed, and so reads `away`.
    pub resume_within: Duration,
}

/// A device reads `offline` at the latest this long after keepalive, counted from its last proof of life (design §2, 3).
const GRACE: Duration = Duration::from_secs(30);

impl Rules {
    /// What a session makes of its device at `now`. Pure.
    pub fn state(&self, session: &SessionView, now: Timestamp) -> State {
        let vouched = session.keepalive.unwrap_or(self.keepalive) + GRACE;
        let (proof, kept, state) = match session.phase {
            Phase::Connected => (session.last_heard, vouched, State::Online),
            Phase::Lost { at } => (at.max(session.last_heard), vouched.min(self.resume_within), State::Away),
            Phase::Silent { at } => {
                let resumable = at.plus(self.resume_within).since(session.last_heard);
                (session.last_heard, vouched.min(resumable), State::Away)
            }
        };
        if now < proof.plus(kept) { state } else { State::Offline }
    }
}

/// Presence of one device, as `GET /v1/devices/{id}/presence` answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePresence {
    /// Its id.
    pub device: String,
    /// Whether it can be reached.
    pub state: State,
    /// The session's epoch; offline, the last one there was.
    pub session_epoch: Option<Epoch>,
    /// When the session was bound. `null` while offline.
    pub connected_at: Option<Timestamp>,
    /// Its last proof of life.
    pub last_seen_at: Option<Timestamp>,
    /// The node where the session is. `null` while offline.
    pub node: Option<String>,
    /// How it is connected. `null` while offline.
    pub transport: Option<Transport>,
    /// Since when it has not taken what was written to it. `null`: it reads.
    pub slow_since: Option<Timestamp>,
    /// It sends more than it may, and is read more slowly.
    pub flooding: bool,
    /// Why its last connection to this node ended. `null`: none did, or it is forgotten (the newest 65,536 are kept).
    pub last_close: Option<LastClose>,
    /// How many times its seat changed hands in this minute. Above `seat_changes_max`: two devices have one identity.
    pub seat_changes: u32,
}

/// What is known of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is registered.
    Device(DevicePresence),
    /// It was removed.
    Removed,
    /// It never was.
    Unknown,
}

/// Tells who is there. A view: sessions are asked, and for those who are not there the store.
#[derive(Clone)]
pub struct Presence {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    node: Arc<str>,
    rules: Rules,
    doors: RwLock<Vec<Arc<dyn Sessions>>>,
    elsewhere: Option<Arc<dyn Elsewhere>>,
}

impl Presence {
    /// Presence over `store`; doors attach themselves. `elsewhere`: the other nodes, where there are any.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, node: Arc<str>, rules: Rules, elsewhere: Option<Arc<dyn Elsewhere>>) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                clock,
                node,
                rules,
                doors: RwLock::default(),
                elsewhere,
            }),
        }
    }

    /// Adds a door whose sessions count.
    pub fn attach(&self, door: Arc<dyn Sessions>) {
        self.inner.doors.write().push(door);
    }

    /// The session of a device on this node, with what it makes of the device now. No store, no waiting.
    pub fn here(&self, tenant: TenantId, device: &DeviceId) -> Option<(SessionView, State)> {
        let session = self.inner.doors.read().iter().find_map(|door| door.session(tenant, device))?;
        let state = self.inner.rules.state(&session, self.inner.clock.now());
        Some((session, state))
    }

    /// What the doors know of a device's behaviour.
    fn incidents(&self, key: &DeviceKey) -> Incidents {
        let doors = self.inner.doors.read();
        let told = doors.iter().map(|door| door.incidents(key.tenant, &key.device));
        told.reduce(|one, other| Incidents {
            slow_since: one.slow_since.or(other.slow_since),
            flooding: one.flooding || other.flooding,
            last_close: [one.last_close, other.last_close]
                .into_iter()
                .flatten()
                .max_by_key(|close| close.at),
            seat_changes: one.seat_changes.max(other.seat_changes),
        })
        .unwrap_or_default()
    }

    /// What this node knows of a device that has its session here.
    pub fn told(&self, key: &DeviceKey) -> Option<DevicePresence> {
        let (session, state) = self.here(key.tenant, &key.device)?;
        let incidents = self.incidents(key);
        let is_there = state != State::Offline;
        Some(DevicePresence {
            device: key.device.to_string(),
            state,
            session_epoch: Some(session.epoch),
            connected_at: is_there.then_some(session.connected_at),
            last_seen_at: Some(session.last_heard),
            node: is_there.then(|| self.inner.node.to_string()),
            transport: is_there.then_some(session.transport),
            slow_since: incidents.slow_since.filter(|_| is_there),
            flooding: incidents.flooding && is_there,
            last_close: incidents.last_close,
            seat_changes: incidents.seat_changes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_counts_as_long_as_its_last_proof_of_life() {
        let rules = |keepalive| Rules {
            keepalive: Duration::from_secs(keepalive),
            resume_within: Duration::from_secs(300),
        };
        let secs = |secs: u64| Timestamp(secs * 1000);
        let check = |keepalive, heard, phase, now, expected| {
            let session = SessionView {
                epoch: Epoch(1),
                connected_at: secs(0),
                last_heard: secs(heard),
                transport: Transport::Xmpps,
                phase,
                keepalive: None,
            };
            let found = rules(keepalive).state(&session, secs(now));
            assert_eq!(found, expected, "{keepalive} s, heard {heard}, {phase:?}, now {now}");
        };
        let lost = |at| Phase::Lost { at: secs(at) };
        let silent = |at| Phase::Silent { at: secs(at) };
        // Connected: as long as the last proof vouches.
        check(300, 1000, Phase::Connected, 1000, State::Online);
        check(300, 1000, Phase::Connected, 1329, State::Online);
        check(300, 1000, Phase::Connected, 1330, State::Offline);
        check(5, 1000, Phase::Connected, 1035, State::Offline);
        // Lost by FIN or RST: the device's kernel spoke, so the time counts from there.
        check(300, 1000, lost(1200), 1200, State::Away);
        check(300, 1000, lost(1200), 1499, State::Away);
        check(300, 1000, lost(1200), 1500, State::Offline);
        check(5, 1000, lost(1003), 1037, State::Away);
        check(5, 1000, lost(1003), 1038, State::Offline);
        // Declared dead by a missed probe: its proof is used up.
        check(300, 1000, silent(1330), 1330, State::Offline);
        check(5, 1000, silent(1035), 1035, State::Offline);
        // Declared dead early, by an acknowledgement that did not come: away until the proof is used up.
        check(300, 1000, silent(1040), 1041, State::Away);
        check(300, 1000, silent(1040), 1329, State::Away);
        check(300, 1000, silent(1020), 1319, State::Away);
        check(300, 1000, silent(1020), 1320, State::Offline);
    }
}
