//! What the poll door reports to the ledger: the polls that devices really make, and what they cost.
//!
//! The ledger implements [`PollMeter`]; `app.rs` hands it to the door. Calls never block. Latency and polls are reported when
//! they happen, bytes as soon as the socket has carried them: at the next request on the connection, or at its end.

use std::time::Duration;

use super::{Cohort, DeviceId, TenantId, Timestamp};

/// How a poll was answered. The label `result` in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PollResult {
    /// 200 without events.
    Empty,
    /// 200 with events.
    Events,
    /// A refusal, a wrong password too.
    Error,
    /// 304.
    NotModified,
}

impl PollResult {
    /// All results.
    pub const ALL: [Self; 4] = [Self::Empty, Self::Events, Self::Error, Self::NotModified];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Events => "events",
            Self::Error => "error",
            Self::NotModified => "not_modified",
        }
    }
}

/// What one HTTP exchange with a polling device was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exchange {
    /// A poll, and how it was answered.
    Poll(PollResult),
    /// Acknowledgements.
    Acks,
}

/// A device that polls, as the ledger needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poller {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which one.
    pub device: DeviceId,
    /// How it is meant to learn of events. It counts in this cohort whatever it does.
    pub cohort: Cohort,
    /// Its own poll interval in seconds, if it has one (attribute `poll_interval_secs`).
    pub poll_interval_secs: Option<u32>,
}

/// One poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled {
    /// How it was answered.
    pub result: PollResult,
    /// Whether it waited for events (`wait` over 0): a long poll is no model of interval polling, so it is left out of the
    /// calibration.
    pub long: bool,
    /// When its head had come.
    pub at: Timestamp,
    /// From its head to its answer.
    pub took: Duration,
}

/// Bytes and packets of one direction, at the socket: TLS included, headers of TCP and IP not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes.
    pub bytes: u64,
    /// Packets, by the packet model: one for each read or write at the socket, and those of the TCP handshake.
    pub packets: u64,
}

/// Takes the figures of the poll door.
pub trait PollMeter: Send + Sync + 'static {
    /// A known device polled. (A wrong password is reported for the device it names, if there is one.)
    fn polled(&self, poller: &Poller, poll: Polled);

    /// The device acknowledged, by HTTP at `now`, an event that was accepted at `accepted_at` and could be delivered until
    /// `expires_at`. Reported once for each delivery that this acknowledgement ended.
    fn poll_delivered(&self, poller: &Poller, accepted_at: Timestamp, expires_at: Timestamp, now: Timestamp);

    /// What one exchange cost, the set-up and end of its connection included where they belong to it. `payload` is the size
    /// of the events' JSON in the answer, which is no cost of polling.
    fn poll_traffic(&self, poller: &Poller, exchange: Exchange, inward: Carried, outward: Carried, payload: u64);
}
