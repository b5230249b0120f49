//! Settings of the dispatcher.

use serde::{Deserialize, Serialize};

/// `[dispatch]`: how events find their sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Signals of devices that may wait to be settled. Default: 65536. Behind a full channel sessions hold theirs.
    pub signals_max: usize,
    /// Devices refilled from the store at the same time. Default: 64.
    pub refills_max: usize,
    /// Events read from the store at once for one device. Default: 100.
    pub page: usize,
    /// Every so often each session is compared with the store, so that a lost hint delays an event by no more, in seconds. Default: 60.
    pub resync_secs: u64,
    /// Every so often the sweeper goes through the store, in seconds. Default: 60.
    pub sweep_secs: u64,
    /// Pause between two bounded rounds of one sweep, in milliseconds. Default: 20.
    pub sweep_pause_ms: u64,
    /// After so long an event to several devices is completed whose node did not finish it, in seconds. Default: 30. Shorter costs double work
    /// where a node is merely slow, and never a second copy.
    pub group_patience_secs: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            signals_max: 65_536,
            refills_max: 64,
            page: 100,
            resync_secs: 60,
            sweep_secs: 60,
            sweep_pause_ms: 20,
            group_patience_secs: 30,
        }
    }
}
