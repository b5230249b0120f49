//! The settings of receipts.

use serde::{Deserialize, Serialize};

/// `[receipts]`: who is told what became of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Streams of receipts that this node serves at once; one more is answered 429. Each holds a connection of `[http]`. Default: 256.
    pub streams_max: usize,
    /// Of those, the ones of one tenant. Default: 64. All of a tenant's streams share one reading of its receipts, of which the newest
    /// 4,096 are kept in RAM, about 400 bytes each.
    pub streams_max_per_tenant: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            streams_max: 256,
            streams_max_per_tenant: 64,
        }
    }
}
