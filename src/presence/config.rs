//! The settings of presence.

use serde::{Deserialize, Serialize};

/// `[presence]`: who is told of connects and disconnects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Streams of presence that this node serves at once; one more is answered 503. Default: 256.
    pub streams_max: usize,
    /// Seats of a dead node that are ended a second, over all nodes: each is a `disconnected` in the feed. Default: 5000.
    pub lost_seats_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            streams_max: 256,
            lost_seats_per_second: 5_000,
        }
    }
}
