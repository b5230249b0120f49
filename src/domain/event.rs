//! The event: what a backend posts, parsed and checked.

use std::{fmt, sync::Arc, time::Duration};

use super::{DeviceId, TenantId, Timestamp};

/// How soon an event matters (RFC 8030 §5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Urgency {
    /// Advertisements.
    VeryLow,
    /// Topic updates.
    Low,
    /// Chat or calendar. The default.
    #[default]
    Normal,
    /// Calls and warnings.
    High,
}

impl Urgency {
    /// All four, from the least urgent.
    pub const ALL: [Self; 4] = [Self::VeryLow, Self::Low, Self::Normal, Self::High];

    /// The word of RFC 8030.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VeryLow => "very-low",
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }

    /// The urgency of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|urgency| urgency.as_str() == word)
    }
}

impl fmt::Display for Urgency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What makes a delivery `delivered`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Require {
    /// The device's XMPP library has it: XEP-0198 `<a/>`, or a ping answered after it.
    #[default]
    Acknowledged,
    /// The application has seen it: XEP-0184 `<received/>`.
    Received,
    /// The device has done it: its own outcome.
    Processed,
}

impl Require {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::Received => "received",
            Self::Processed => "processed",
        }
    }
}

/// At which level an accepted event is durable; the value of the `Push-Durability` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// On this machine's disk, synced.
    Disk,
    /// In Redis and one replica.
    Replicated,
    /// In Redis alone.
    Primary,
    /// Nowhere: a TTL of 0, now or never.
    None,
}

impl Durability {
    /// The word in the header and the body.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Replicated => "replicated",
            Self::Primary => "primary",
            Self::None => "none",
        }
    }
}

/// The CloudEvents JSON of an event (structured mode, CloudEvents 1.0), as the device will read it.
/// Valid JSON and free of characters that XML 1.0 cannot carry; not yet escaped for XML.
#[derive(Clone, PartialEq, Eq)]
pub struct Data(pub Arc<str>);

impl fmt::Debug for Data {
    /// Length only: payloads never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data({} bytes)", self.0.len())
    }
}

/// An event that passed every check of the ingress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whose it is.
    pub tenant: TenantId,
    /// To which device.
    pub device: DeviceId,
    /// When the ingress accepted it.
    pub accepted_at: Timestamp,
    /// Not to be delivered before that: it is scheduled until then. Means nothing with a TTL of zero.
    pub deliver_at: Option<Timestamp>,
    /// How long it is worth delivering, from the moment at which it can be. Zero: now or never.
    pub ttl: Duration,
    /// How soon it matters.
    pub urgency: Urgency,
    /// A newer event of the same key replaces it while it is not delivered. At most 64 bytes, and of a copy a few more
    /// ([`super::CopyOf::scoped`]).
    pub collapse_key: Option<Arc<str>>,
    /// What makes it delivered.
    pub require: Require,
    /// What the device reads.
    pub json: Data,
}

impl Event {
    /// From this moment on it can be delivered: the TTL and every latency count from here.
    pub fn deliverable_from(&self) -> Timestamp {
        self.deliver_at.unwrap_or(self.accepted_at)
    }

    /// From this moment on it is not delivered any more.
    pub fn expires_at(&self) -> Timestamp {
        self.deliverable_from().plus(self.ttl)
    }
}
