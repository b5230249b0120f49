//! Bounds and times of a stream.

use std::{fmt, sync::Arc, time::Duration};

use crate::domain::TenantId;

use super::{flood::FloodLimits, framer::Bounds};

/// Finds the tenant that a domain, in lower case, belongs to.
pub type Hosts = Arc<dyn Fn(&str) -> Option<TenantId> + Send + Sync>;

/// Bounds and times of a stream (design §4.5). [`StreamConfig::new`] fills in the defaults.
#[derive(Clone)]
pub struct StreamConfig {
    /// Which tenant a `to` of the stream header names, in lower case; `None`: `host-unknown`.
    pub hosts: Hosts,
    /// A login without TLS is allowed (`[xmpp] require_tls = false`).
    pub allow_plaintext: bool,
    /// Keepalive: silence after which we ask for a sign of life. Default 300 s.
    pub keepalive: Duration,
    /// The shortest keepalive that a session may ask for. Default 30 s.
    pub keepalive_min: Duration,
    /// The longest. Default 1800 s.
    pub keepalive_max: Duration,
    /// An acknowledgement or an answer is overdue after this: the connection is dead. Default 30 s.
    pub overdue: Duration,
    /// Login must be finished within this. Default 10 s.
    pub login_within: Duration,
    /// How long a lost session waits for resumption, at most. Default 300 s.
    pub resume_within: Duration,
    /// Largest stanza before and after login, in bytes. Default 16 KiB and 256 KiB.
    pub stanza_max_bytes_before_login: usize,
    /// After login.
    pub stanza_max_bytes: usize,
    /// Deepest nesting. Default 32.
    pub depth_max: usize,
    /// Most attributes of one element. Default 64.
    pub attributes_max: usize,
    /// Unacknowledged events a session. Default 32.
    pub window_max_events: usize,
    /// Unacknowledged bytes a session. Default 64 KiB. One event always fits.
    pub window_max_bytes: usize,
    /// XEP-0478 idle-seconds after login. Default 600.
    pub idle_secs: u32,
    /// What a device may report of itself, in bytes of JSON. Default 8 KiB.
    pub reported_max_bytes: usize,
    /// A device may report where it is (XEP-0080). Default: it may not.
    pub location: bool,
    /// Tries to log in on one stream. Default 3.
    pub login_tries_max: u8,
    /// What one session may send.
    pub flood: FloodLimits,
    /// How long a FAST token is good (XEP-0484). Default 14 days. Zero: none is given out or taken.
    pub fast_token: Duration,
    /// User agents of one device that may have FAST tokens. Default 4.
    pub fast_agents_max: u32,
}

impl StreamConfig {
    /// The defaults, for the tenants that `hosts` knows.
    pub fn new(hosts: Hosts) -> Self {
        Self {
            hosts,
            allow_plaintext: false,
            keepalive: Duration::from_secs(300),
            keepalive_min: Duration::from_secs(30),
            keepalive_max: Duration::from_secs(1800),
            overdue: Duration::from_secs(30),
            login_within: Duration::from_secs(10),
            resume_within: Duration::from_secs(300),
            stanza_max_bytes_before_login: 16 * 1024,
            stanza_max_bytes: 256 * 1024,
            depth_max: 32,
            attributes_max: 64,
            window_max_events: 32,
            window_max_bytes: 64 * 1024,
            idle_secs: 600,
            reported_max_bytes: 8 * 1024,
            location: false,
            login_tries_max: 3,
            flood: FloodLimits::default(),
            fast_token: Duration::from_secs(14 * 24 * 3600),
            fast_agents_max: 4,
        }
    }

    /// The limits of one stanza.
    pub(super) fn bounds(&self, logged_in: bool) -> Bounds {
        Bounds {
            bytes: if logged_in {
                self.stanza_max_bytes
            } else {
                self.stanza_max_bytes_before_login
            },
            depth: self.depth_max,
            attributes: self.attributes_max,
        }
    }
}

impl fmt::Debug for StreamConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamConfig")
            .field("keepalive", &self.keepalive)
            .finish_non_exhaustive()
    }
}
