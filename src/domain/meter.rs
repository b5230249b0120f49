//! What sessions report to the ledger: proven connected time, and what push itself costs.
//!
//! The ledger implements [`Meter`]; `app.rs` hands it to the doors. Calls are cheap (an atomic add each) and never block.

use std::time::Duration;

use super::{DeviceId, TenantId, Timestamp, Urgency};

/// Whether a connected device still polls: only one that does not earns credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Polling {
    /// It said, or its operator declared by its cohort, that it does not poll.
    Off,
    /// It polls as well.
    On,
    /// Nobody knows.
    Unknown,
}

/// Why connected time earns nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Uncredited {
    /// Longer than keepalive and grace without a proof of life.
    NoProof,
    /// The device polls as well.
    PollingOn,
    /// Nobody declared whether it polls.
    ModeUnknown,
}

/// What overhead bytes were spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overhead {
    /// TCP and TLS set-up, stream, login, bind; the end of TLS.
    Connect,
    /// The same, ending in a resumption.
    Resume,
    /// Signs of life.
    Keepalive,
    /// Acknowledgements.
    Ack,
    /// Presence.
    Presence,
    /// What is around the JSON of an event.
    Framing,
    /// Stanzas sent again.
    Retry,
}

impl Overhead {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Connect,
        Self::Resume,
        Self::Keepalive,
        Self::Ack,
        Self::Presence,
        Self::Framing,
        Self::Retry,
    ];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Resume => "resume",
            Self::Keepalive => "keepalive",
            Self::Ack => "ack",
            Self::Presence => "presence",
            Self::Framing => "framing",
            Self::Retry => "retry",
        }
    }
}

/// Seen from the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From devices.
    In,
    /// To devices.
    Out,
}

/// One session's account with the ledger. Kept by the session, 64 bytes.
#[derive(Clone, Debug)]
pub struct Account {
    /// Which device, as a stable hash: the ledger compares it with those that poll.
    pub device: u64,
    /// The poll interval that is declared for this device, in seconds. At least 1.
    pub poll_interval_secs: u32,
    /// Whether it polls.
    pub polling: Polling,
    /// Its phase on the virtual poll clock, in milliseconds below the interval.
    pub phase_ms: u64,
    /// When the session opened it. Events accepted before would have come with a poll at start-up: they claim no latency.
    pub opened_at: Timestamp,
    /// The last proof of life.
    pub proven_until: Timestamp,
    /// The virtual tick of the last event that it got. Zero: none yet.
    pub last_tick: u64,
    /// Longest time that one proof of life vouches for: keepalive and grace.
    pub vouches_for: Duration,
}

/// Takes the figures of sessions.
pub trait Meter: Send + Sync + 'static {
    /// Opens the account of a session that just proved to live, at `now`.
    fn open(
        &self,
        tenant: TenantId,
        device: &DeviceId,
        poll_interval_secs: Option<u32>,
        polling: Polling,
        keepalive: Duration,
        now: Timestamp,
    ) -> Account;

    /// The session's keepalive is another one from now on: a proof vouches for that long.
    fn keepalive(&self, account: &mut Account, keepalive: Duration) {
        account.vouches_for = keepalive;
    }

    /// A proof of life at `now`: credits the time since the last one, at most what it vouches for.
    fn proof(&self, account: &mut Account, now: Timestamp);

    /// An event accepted at `accepted_at` was acknowledged at `now`.
    fn delivered(&self, account: &mut Account, urgency: Urgency, accepted_at: Timestamp, now: Timestamp);

    /// An acknowledged event, accepted at `accepted_at`, could be delivered until `expires_at`: counts it when a poll would
    /// have come too late for it. Called beside [`Meter::delivered`]; a meter that keeps no such count ignores it.
    fn expiring(&self, _account: &Account, _accepted_at: Timestamp, _expires_at: Timestamp) {}

    /// Bytes that push cost: as counted at the socket, TLS records included; packets by the stated packet model.
    fn overhead(&self, kind: Overhead, direction: Direction, bytes: u64, packets: u64);

    /// The session is over, or hibernates: time since the last proof earns nothing, and the account earns no more. A
    /// resumption opens a new one.
    fn close(&self, account: &mut Account, now: Timestamp);
}
