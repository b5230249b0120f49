//! The settings of the way between nodes.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

/// `[cluster]`: how the nodes of one service reach one another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where this node takes hints of the others: TLS 1.3 with certificates that the nodes make and publish in Redis themselves.
    /// Default: "127.0.0.1:0", any free port of this machine.
    pub listen: SocketAddr,
    /// The address and port at which the others reach it, where that is not the address it listens at. Default: "".
    pub advertise: String,
    /// Hints that may wait for one node, in bytes; more are dropped, and that node compares its sessions with the store. Default: 16777216.
    pub queued_max_bytes: usize,
    /// How long a connection to another node may take to open, in milliseconds. Default: 1000.
    pub connect_ms: u64,
    /// How long a node may leave hints unread before its connection is given up, in milliseconds. Default: 5000.
    pub write_ms: u64,
    /// How long the answer of another node is awaited, in milliseconds. Default: 1000.
    pub answer_ms: u64,
    /// After so long without a connection, hints for a node go through Redis, in milliseconds. Default: 2000.
    pub fallback_after_ms: u64,
    /// Hints for a node are gathered for so long while others were just sent, in microseconds. Default: 1000.
    pub gather_us: u64,
    /// Connections of other nodes at once. Default: 256.
    pub connections_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: String::new(),
            queued_max_bytes: 16 << 20,
            connect_ms: 1_000,
            write_ms: 5_000,
            answer_ms: 1_000,
            fallback_after_ms: 2_000,
            gather_us: 1_000,
            connections_max: 256,
        }
    }
}

impl Config {
    /// Checks what can be checked without a socket.
    ///
    /// # Errors
    /// Which setting is wrong, and what to do.
    pub fn check(&self) -> Result<(), String> {
        if self.advertise.is_empty() {
            if self.listen.ip().is_unspecified() {
                return Err(format!(
                    "cluster.advertise is empty and cluster.listen = {} is every address: say at which address the other nodes reach this one",
                    self.listen
                ));
            }
        } else if self.advertise.parse::<SocketAddr>().is_err() {
            return Err(format!(
                "cluster.advertise = {:?} is no address with a port, such as 192.0.2.7:7400",
                self.advertise
            ));
        }
        Ok(())
    }

    pub(super) fn connect_within(&self) -> Duration {
        Duration::from_millis(self.connect_ms.max(1))
    }

    pub(super) fn write_within(&self) -> Duration {
        Duration::from_millis(self.write_ms.max(1))
    }

    pub(super) fn answer_within(&self) -> Duration {
        Duration::from_millis(self.answer_ms.max(1))
    }

    pub(super) fn fallback_after(&self) -> Duration {
        Duration::from_millis(self.fallback_after_ms)
    }

    pub(super) fn gather(&self) -> Duration {
        Duration::from_micros(self.gather_us)
    }
}
