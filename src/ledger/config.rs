//! Settings of the ledger.

use serde::{Deserialize, Serialize};

use super::figures::Baseline;
use crate::domain::Direction;

/// What polling would look like without push.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How often a device would poll, in seconds. Default: 900. A device's own interval, where it has one, comes first.
    pub poll_interval_secs: u32,
    /// Bytes of one empty poll that reach the service, TCP/IP headers included. Default: 1598, of a poll over a new
    /// connection with a full TLS 1.3 handshake (4,213 bytes and 16 packets both ways).
    pub poll_bytes_in: u64,
    /// Bytes of one empty poll that leave the service. Default: 2615.
    pub poll_bytes_out: u64,
    /// Bytes in of one empty poll done efficiently. Default: 657, of a request on a kept connection answered by 304 (833
    /// bytes and 3 packets both ways).
    pub efficient_poll_bytes_in: u64,
    /// Bytes out of one empty poll done efficiently. Default: 176.
    pub efficient_poll_bytes_out: u64,
    /// Bytes of TCP/IP headers of one packet, charged to push. Default: 52 (IPv4, TCP with timestamps), as in the sizes of polls.
    pub packet_header_bytes: u32,
    /// How long the polled server takes to answer, in milliseconds; added to the latency that polling would have had.
    /// Default: 0, which claims nothing.
    pub poll_service_ms: u32,
    /// How long a proof of life vouches for beyond the keepalive interval, in seconds. Default: 30.
    pub grace_secs: u32,
    /// How often figures go to the store, in seconds. Default: 10. A crash loses at most this much, and never adds.
    pub flush_secs: u32,
    /// The longest period of one report, in days. Default: 400.
    pub report_max_days: u32,
    /// CPU that the polled server spends on one poll, in microseconds. Default: 150.
    pub poll_cpu_micros: u32,
    /// A device of cohort control that does not poll for longer than this many poll intervals was away: that time is on neither
    /// side of the calibration. Default: 3.
    pub absence_factor: f64,
    /// Polling devices that are followed at once: each takes 100 bytes of memory, one of cohort control 250. Polls of more are
    /// counted, but do not keep their sessions from earning, and take no part in the calibration. Default: 200000.
    pub polling_devices_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            poll_interval_secs: 900,
            poll_bytes_in: 1_598,
            poll_bytes_out: 2_615,
            efficient_poll_bytes_in: 657,
            efficient_poll_bytes_out: 176,
            packet_header_bytes: 52,
            poll_service_ms: 0,
            grace_secs: 30,
            flush_secs: 10,
            report_max_days: 400,
            poll_cpu_micros: 150,
            absence_factor: 3.0,
            polling_devices_max: 200_000,
        }
    }
}

impl Config {
    /// Bytes of one empty poll under a baseline. Measured is nothing until a control cohort polls.
    pub(super) fn poll_bytes(&self, baseline: Baseline, direction: Direction) -> u64 {
        match (baseline, direction) {
            (Baseline::Measured, _) => 0,
            (Baseline::Declared, Direction::In) => self.poll_bytes_in,
            (Baseline::Declared, Direction::Out) => self.poll_bytes_out,
            (Baseline::Efficient, Direction::In) => self.efficient_poll_bytes_in,
            (Baseline::Efficient, Direction::Out) => self.efficient_poll_bytes_out,
        }
    }

    /// The default interval; zero counts as one second.
    pub(super) fn interval_secs(&self) -> u32 {
        self.poll_interval_secs.max(1)
    }
}
