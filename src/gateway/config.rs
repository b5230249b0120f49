//! Settings of the XMPP doors: addresses, times, bounds.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    certificate::{CertificateIdentity, is_pattern},
    websocket,
};
use crate::{
    domain::{DeviceLimits, TenantId},
    xmpp::{FloodLimits, StreamConfig},
};

/// Which tenant a domain belongs to.
pub type Hosts = Arc<dyn Fn(&str) -> Option<TenantId> + Send + Sync>;

/// The settings of `[xmpp]`. Times in seconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where devices connect with STARTTLS. Default: 127.0.0.1:5222. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where devices connect with direct TLS (XEP-0368). Default: 127.0.0.1:5223. Port 0 takes a free one.
    pub listen_tls: SocketAddr,
    /// Balancers, as networks (`"10.0.0.0/8"`, `"192.0.2.1/32"`), that begin each connection with a PROXY header, version 2; from
    /// everybody else a header is an error. Default: [].
    pub proxy_from: Vec<IpNet>,
    /// Devices must use TLS on `listen`. Default: true. With false, passwords may cross the network in clear: only for a
    /// TLS-terminating proxy on the same host, or a bench on loopback.
    pub require_tls: bool,
    /// Origins of pages in browsers that may connect to `/xmpp-websocket`, such as `"https://ui.example.com"`. Default: [], which means
    /// all of them: a page has no more than the password that it shows. Who is no browser sends no origin and is not asked for one.
    pub websocket_origins: Vec<String>,
    /// What `/.well-known/host-meta` tells of the WebSocket door, such as "wss://push.example.com/xmpp-websocket". Default: "", which
    /// means the host that was asked.
    pub websocket_url: String,
    /// Where a client certificate without an XMPP address (`id-on-xmppAddr`) names its device: "san-uri", "cn", or "xmpp-addr", which
    /// means nowhere else. Default: "xmpp-addr".
    pub certificate_identity: CertificateIdentity,
    /// How that name is written, with `{device}` for the device's id: "urn:example:box:{device}". With `{domain}` in it, too, for the domain
    /// of the device's tenant: "{device}@{domain}"; something must be between the two that no id and no domain can have. Without it
    /// such devices are of the default tenant. Default: "{device}".
    pub certificate_pattern: String,
    /// Silence after which a device is asked for a sign of life. Default: 300.
    pub keepalive_secs: u64,
    /// An acknowledgement or an answer to a probe is overdue after this, and the connection is dead. Default: 30.
    pub overdue_secs: u64,
    /// Time to finish TLS and login. Default: 10.
    pub login_within_secs: u64,
    /// How long a lost session waits for its device to resume it, at most. Default: 300.
    pub resume_within_secs: u64,
    /// Largest stanza before login. Default: 16384.
    pub stanza_max_bytes_before_login: usize,
    /// Largest stanza after login. Default: 262144.
    pub stanza_max_bytes: usize,
    /// Deepest nesting of elements. Default: 32.
    pub depth_max: usize,
    /// Most attributes of one element. Default: 64.
    pub attributes_max: usize,
    /// Events written to a session and not acknowledged. Default: 32.
    pub window_max_events: usize,
    /// Bytes of events written to a session and not acknowledged. Default: 65536. One event always fits.
    pub window_max_bytes: usize,
    /// What XEP-0478 tells devices about silence after login. Default: 600.
    pub idle_secs: u32,
    /// What a device may report of itself in its presence, in bytes of JSON. Default: 8192.
    pub reported_max_bytes: usize,
    /// A device that reports something new is written down at most this often. Default: 60.
    pub reported_every_secs: u64,
    /// Where a device is (XEP-0080) is written down when it says so. Default: false: it is read over, and nobody learns it.
    pub location: bool,
    /// Tries to log in on one connection. Default: 3.
    pub login_tries_max: u8,
    /// Days for which a FAST token (XEP-0484) lets a device log in without its password. It gets a new one every day that it
    /// logs in. Default: 14. With 0, none is given out or taken.
    pub fast_token_days: u32,
    /// Programs of one device (XEP-0388 user agents) that may have FAST tokens; the oldest goes. Default: 4.
    pub fast_agents_max: u32,
    /// A connection that takes none of the bytes that wait for it is dead after this. Default: 30.
    pub write_stalled_secs: u64,
    /// TCP_USER_TIMEOUT: sent data that is not acknowledged by the peer's TCP ends the connection after this. Default: 60.
    pub tcp_user_timeout_secs: u64,
    /// Connections that wait to be accepted, in the kernel. Default: 4096. `net.core.somaxconn` bounds it, too.
    pub backlog: u32,
    /// Sessions of this node. Default: 1000000. About 8 KiB of memory each with TLS, kernel not counted.
    pub sessions_max: usize,
    /// Connections that have not logged in. Default: 10000. More are refused.
    pub unauthenticated_max: usize,
    /// TLS handshakes that are under way at once. Default: 1024. More wait their turn.
    pub handshakes_max: usize,
    /// Passwords that are checked at once (PLAIN only: each costs about a millisecond of CPU). Default: 0, which means two a core.
    pub password_checks_max: usize,
    /// Changes of seat a minute and device, after which its logins are slowed. Default: 5.
    pub seat_changes_max: u32,
    /// What a device that is refused for lack of room is told to wait. Default: 30.
    pub retry_after_secs: u32,
    /// At a stop, sessions that are ended a second. Default: 5000.
    pub drain_per_second: u32,
    /// The shortest keepalive that a session may ask for. Default: 30.
    pub keepalive_min_secs: u64,
    /// The longest keepalive that a session may ask for. Default: 1800.
    pub keepalive_max_secs: u64,
    /// Stanzas a second that one session may send. Default: 100. Who sends more is read more slowly. 0: no limit. What a device
    /// says of events that end is not counted.
    pub flood_stanzas_per_second: u32,
    /// Stanzas that one session may send at once. Default: 2000.
    pub flood_stanzas_burst: u32,
    /// Bytes a second that one session may send. Default: 131072. 0: no limit.
    pub flood_bytes_per_second: u32,
    /// Bytes that one session may send at once. Default: 1048576. Keep it above `stanza_max_bytes`.
    pub flood_bytes_burst: u32,
    /// A session that sends too much for this long without a pause is ended with `policy-violation`. Default: 60.
    pub flood_patience_secs: u64,
    /// Connections are ended at a random age around this (half as much to half as much again), in a quiet moment and with
    /// `<reset/>`, so that their devices resume on another; then a drain looks like any other day. Default: 0, which means never.
    pub session_lifetime_secs: u64,
    /// Logins that begin a second. Default: 0, which means as many as the CPU can do beside the sessions that are up. Devices that
    /// come back with a TLS ticket go first. More wait, and are refused after `login_wait_secs`.
    pub logins_per_second: u32,
    /// Steps of logins that use the CPU at once. Default: 0, which means two a core. The fewer, the less a crowd that logs in is
    /// felt by sessions that are up.
    pub login_turns_max: usize,
    /// A connection that waits this long for its turn to log in is refused, and told when to come again. Default: 5. Keep it
    /// below `login_within_secs`.
    pub login_wait_secs: u64,
    /// Failed logins a minute and account, after which the account's logins are slowed. Default: 10.
    pub login_failures_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5222),
            listen_tls: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5223),
            proxy_from: Vec::new(),
            require_tls: true,
            websocket_origins: Vec::new(),
            websocket_url: String::new(),
            certificate_identity: CertificateIdentity::default(),
            certificate_pattern: "{device}".into(),
            keepalive_secs: 300,
            overdue_secs: 30,
            login_within_secs: 10,
            resume_within_secs: 300,
            stanza_max_bytes_before_login: 16 * 1024,
            stanza_max_bytes: 256 * 1024,
            depth_max: 32,
            attributes_max: 64,
            window_max_events: 32,
            window_max_bytes: 64 * 1024,
            idle_secs: 600,
            reported_max_bytes: 8 * 1024,
            reported_every_secs: 60,
            location: false,
            login_tries_max: 3,
            fast_token_days: 14,
            fast_agents_max: 4,
            write_stalled_secs: 30,
            tcp_user_timeout_secs: 60,
            backlog: 4096,
            sessions_max: 1_000_000,
            unauthenticated_max: 10_000,
            handshakes_max: 1024,
            password_checks_max: 0,
            seat_changes_max: 5,
            retry_after_secs: 30,
            drain_per_second: 5_000,
            keepalive_min_secs: 30,
            keepalive_max_secs: 1_800,
            flood_stanzas_per_second: 100,
            flood_stanzas_burst: 2_000,
            flood_bytes_per_second: 128 * 1024,
            flood_bytes_burst: 1024 * 1024,
            flood_patience_secs: 60,
            session_lifetime_secs: 0,
            logins_per_second: 0,
            login_turns_max: 0,
            login_wait_secs: 5,
            login_failures_max: 10,
        }
    }
}

impl Config {
    /// What the protocol needs of these settings.
    pub fn stream_config(&self, hosts: Hosts) -> StreamConfig {
        StreamConfig {
            hosts,
            allow_plaintext: !self.require_tls,
            keepalive: self.keepalive(),
            overdue: self.overdue(),
            login_within: self.login_within(),
            resume_within: self.resume_within(),
            stanza_max_bytes_before_login: self.stanza_max_bytes_before_login,
            stanza_max_bytes: self.stanza_max_bytes,
            depth_max: self.depth_max,
            attributes_max: self.attributes_max,
            window_max_events: self.window_max_events,
            window_max_bytes: self.window_max_bytes,
            idle_secs: self.idle_secs,
            reported_max_bytes: self.reported_max_bytes,
            location: self.location,
            login_tries_max: self.login_tries_max,
            keepalive_min: Duration::from_secs(self.keepalive_min_secs.max(1)),
            keepalive_max: Duration::from_secs(self.keepalive_max_secs.max(1)),
            flood: FloodLimits {
                stanzas_per_second: self.flood_stanzas_per_second,
                stanzas_burst: self.flood_stanzas_burst,
                bytes_per_second: self.flood_bytes_per_second,
                bytes_burst: self.flood_bytes_burst,
                patience: Duration::from_secs(self.flood_patience_secs),
            },
            fast_token: Duration::from_secs(u64::from(self.fast_token_days) * 24 * 3600),
            fast_agents_max: self.fast_agents_max,
        }
    }

    /// Everything that does not fit together, each with the setting and the way out.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = websocket::problems(self);
        if !is_pattern(&self.certificate_pattern) {
            problems.push(format!(
                "xmpp.certificate_pattern = {:?} does not say where the device is: write {{device}} once, and {{domain}} at most once, with something between them that is in neither, such as ':'",
                self.certificate_pattern
            ));
        }
        problems
    }

    /// What devices meet of these settings, for `GET /v1/limits`.
    pub fn limits(&self) -> DeviceLimits {
        DeviceLimits {
            keepalive_secs: self.keepalive_secs,
            keepalive_min_secs: self.keepalive_min_secs,
            keepalive_max_secs: self.keepalive_max_secs,
            overdue_secs: self.overdue_secs,
            idle_secs: self.idle_secs,
            login_within_secs: self.login_within_secs,
            resume_within_secs: self.resume_within_secs,
            write_stalled_secs: self.write_stalled_secs,
            session_lifetime_secs: self.session_lifetime_secs,
            stanza_max_bytes_before_login: self.stanza_max_bytes_before_login,
            stanza_max_bytes: self.stanza_max_bytes,
            depth_max: self.depth_max,
            attributes_max: self.attributes_max,
            window_max_events: self.window_max_events,
            window_max_bytes: self.window_max_bytes,
            flood_stanzas_per_second: self.flood_stanzas_per_second,
            flood_stanzas_burst: self.flood_stanzas_burst,
            flood_bytes_per_second: self.flood_bytes_per_second,
            flood_bytes_burst: self.flood_bytes_burst,
            reported_max_bytes: self.reported_max_bytes,
            reported_every_secs: self.reported_every_secs,
            seat_changes_max: self.seat_changes_max,
            login_tries_max: self.login_tries_max,
            login_failures_max: self.login_failures_max,
        }
    }

    /// [`Self::keepalive_secs`] as a duration.
    pub fn keepalive(&self) -> Duration {
        Duration::from_secs(self.keepalive_secs.max(1))
    }

    /// [`Self::overdue_secs`] as a duration.
    pub fn overdue(&self) -> Duration {
        Duration::from_secs(self.overdue_secs.max(1))
    }

    /// [`Self::login_within_secs`] as a duration.
    pub fn login_within(&self) -> Duration {
        Duration::from_secs(self.login_within_secs.max(1))
    }

    /// [`Self::resume_within_secs`] as a duration.
    pub fn resume_within(&self) -> Duration {
        Duration::from_secs(self.resume_within_secs)
    }

    /// [`Self::write_stalled_secs`] as a duration.
    pub fn write_stalled(&self) -> Duration {
        Duration::from_secs(self.write_stalled_secs.max(1))
    }

    /// How long a connection lives; `random` is any number. `None`: until something ends it.
    pub fn session_lifetime(&self, random: u32) -> Option<Duration> {
        let lifetime = Duration::from_secs(self.session_lifetime_secs);
        let share = 0.5 + f64::from(random) / f64::from(u32::MAX);
        (!lifetime.is_zero()).then(|| lifetime.mul_f64(share))
    }

    /// [`Self::login_turns_max`], with two a core for zero.
    pub fn login_turns(&self) -> usize {
        match self.login_turns_max {
            0 => 2 * std::thread::available_parallelism().map_or(1, usize::from),
            some => some,
        }
    }

    /// [`Self::login_wait_secs`] as a duration.
    pub fn login_wait(&self) -> Duration {
        Duration::from_secs(self.login_wait_secs.max(1))
    }

    /// [`Self::write_stalled_secs`], of which a third makes a slow reader.
    pub fn slow_after(&self) -> Duration {
        self.write_stalled() / 3
    }

    /// [`Self::password_checks_max`], with two a core for zero.
    pub fn password_checks(&self) -> usize {
        match self.password_checks_max {
            0 => 2 * std::thread::available_parallelism().map_or(1, usize::from),
            some => some,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_spread_around_what_is_set() {
        let lifetime = |secs, random| {
            let config = Config {
                session_lifetime_secs: secs,
                ..Config::default()
            };
            config.session_lifetime(random).map(|lifetime| lifetime.as_secs())
        };
        assert_eq!(lifetime(0, 7), None);
        assert_eq!((lifetime(1000, 0), lifetime(1000, u32::MAX)), (Some(500), Some(1500)));
    }

    #[test]
    fn a_file_may_name_some_settings_and_no_unknown_ones() {
        let config: Config = toml::from_str("listen = '0.0.0.0:0'\nkeepalive_secs = 5").unwrap();
        assert_eq!((config.keepalive(), config.overdue_secs), (Duration::from_secs(5), 30));
        assert!(toml::from_str::<Config>("keep_alive = 5").is_err());
    }
}
