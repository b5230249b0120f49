//! Settings of the poll door.

use serde::{Deserialize, Serialize};

/// `[poll]`: the door for devices that still poll, on the HTTP listeners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The longest `wait` of a long poll, in seconds. Default: 60.
    pub wait_max_secs: u64,
    /// Long polls that wait at once; one more is answered 429. Default: 512. Each holds one of `http.connections_max`.
    pub waits_max: usize,
    /// Long polls of one device that wait at once; one more is answered 429. Default: 4.
    pub waits_per_device_max: usize,
    /// Events in one answer, at most. Default: 100.
    pub page_max_events: usize,
    /// Bytes of events in one answer, at most. Default: 262144. One event always fits.
    pub page_max_bytes: usize,
    /// Ids in one request of acknowledgements, at most. Default: 1000.
    pub acks_max: usize,
    /// When a device is told to come back, in seconds, whatever its own interval. Default: 0, which means the attribute
    /// `poll_interval_secs` of the device, or `ledger.poll_interval_secs` where it has none.
    pub poll_after_secs: u32,
    /// How long a verified password is known by its HMAC, in seconds. Default: 600.
    pub password_known_secs: u64,
    /// Verified passwords that are known at once, about 150 bytes each; the oldest goes first. Default: 100000.
    pub passwords_known_max: usize,
    /// Passwords that are checked at once (each costs about a millisecond of CPU). Default: 0, which means one a core.
    pub password_checks_max: usize,
    /// Requests that may wait for the check of their password; one more is answered 429. Default: 1024.
    pub password_checks_waiting_max: usize,
    /// Wrong passwords of one device within a minute, after which no more are checked in that minute. Default: 10. A password
    /// that is known by its HMAC is taken all the same.
    pub wrong_passwords_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            wait_max_secs: 60,
            waits_max: 512,
            waits_per_device_max: 4,
            page_max_events: 100,
            page_max_bytes: 256 * 1024,
            acks_max: 1_000,
            poll_after_secs: 0,
            password_known_secs: 600,
            passwords_known_max: 100_000,
            password_checks_max: 0,
            password_checks_waiting_max: 1_024,
            wrong_passwords_max: 10,
        }
    }
}

impl Config {
    /// [`Self::password_checks_max`], with one a core for zero.
    pub(super) fn password_checks(&self) -> usize {
        match self.password_checks_max {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            some => some,
        }
    }
}
