//! The settings of webhooks.

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// `[webhooks]`: receipts sent to backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Webhooks a tenant. Default: 10.
    pub webhooks_max: usize,
    /// Networks that webhooks may reach although they are not public (`"10.1.0.0/16"`), by http as well as https. Whoever may make a webhook
    /// can send requests there, so name no more than the receivers. Default: []: https to public addresses only.
    pub allow_networks: Vec<IpNet>,
    /// A file with certificates in PEM of authorities that are trusted beside those of the system. Default: "".
    pub ca_file: PathBuf,
    /// How long a receiver may take for its whole answer, in milliseconds. Default: 15000.
    pub answer_ms: u64,
    /// Requests at once to one webhook; those of one device never overlap. Default: 8.
    pub requests_max: usize,
    /// Requests at once to all webhooks that this node serves. Default: 64.
    pub requests_max_in_all: usize,
    /// Receipts of one webhook that are held in memory for sending. Default: 256.
    pub window_max: usize,
    /// Receipts of one webhook that may wait to be sent again, about 300 bytes each, those behind them of the same device among them.
    /// When it is reached, the webhook as a whole waits; what is in `window_max` may come on top. Default: 1000.
    pub waiting_max: usize,
    /// Devices of one webhook whose receipts may wait to be sent again, before the webhook as a whole waits. Default: 100.
    pub stuck_devices_max: usize,
    /// The pause after the first attempt that failed, in milliseconds; it doubles with each, and a random half of it is left out. Default: 1000.
    pub retry_first_ms: u64,
    /// The longest pause, and the longest that a receiver may ask for by `Retry-After`, in seconds. Default: 3600.
    pub retry_pause_max_secs: u64,
    /// How long a receipt is sent again before it becomes a dead letter, in seconds. Default: 86400 (a day).
    pub retry_for_secs: u64,
    /// Dead letters that a webhook keeps; the oldest goes for one more. Default: 10000.
    pub dead_letters_max: u64,
    /// A webhook of which every attempt failed for so long is disabled, in seconds. Default: 432000 (5 days).
    pub disable_after_secs: u64,
    /// How long an old secret signs beside the new one, in seconds. Default: 86400.
    pub secret_grace_secs: u64,
    /// A node that says nothing for so long has lost its webhooks to the others, in milliseconds. Default: 6000.
    pub lease_ms: u64,
    /// How often news are looked for: receipts, and webhooks that nobody serves, in milliseconds. Default: 500.
    pub look_every_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            webhooks_max: 10,
            allow_networks: Vec::new(),
            ca_file: PathBuf::new(),
            answer_ms: 15_000,
            requests_max: 8,
            requests_max_in_all: 64,
            window_max: 256,
            waiting_max: 1_000,
            stuck_devices_max: 100,
            retry_first_ms: 1_000,
            retry_pause_max_secs: 3_600,
            retry_for_secs: 86_400,
            dead_letters_max: 10_000,
            disable_after_secs: 5 * 86_400,
            secret_grace_secs: 86_400,
            lease_ms: 6_000,
            look_every_ms: 500,
        }
    }
}

impl Config {
    pub(super) fn answer_within(&self) -> Duration {
        Duration::from_millis(self.answer_ms.max(1))
    }

    pub(super) fn retry_pause_max(&self) -> Duration {
        Duration::from_secs(self.retry_pause_max_secs.max(1))
    }

    pub(super) fn retry_for(&self) -> Duration {
        Duration::from_secs(self.retry_for_secs)
    }

    pub(super) fn disable_after(&self) -> Duration {
        Duration::from_secs(self.disable_after_secs)
    }

    pub(super) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms.max(500))
    }

    pub(super) fn look_every(&self) -> Duration {
        Duration::from_millis(self.look_every_ms.max(10))
    }
}
