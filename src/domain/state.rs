//! States of a delivery, and the numbers that fence sessions.

use std::fmt;

/// The state of a delivery. The same words in API, metrics, store and audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Taken, not stored (TTL 0).
    Accepted,
    /// Waits for its `deliver_at`.
    Scheduled,
    /// Waits for its device.
    Queued,
    /// Written to a live session. Volatile.
    Dispatched,
    /// Acknowledged as its `require` says.
    Delivered,
    /// The device reported it done.
    Processed,
    /// Its TTL ended first.
    Expired,
    /// A newer event of its collapse key came first.
    Replaced,
    /// Its backend took it back.
    Cancelled,
    /// Its device refused it.
    Rejected,
    /// It could not be delivered; the reason says why.
    Failed,
    /// It reached nobody.
    NoTarget,
}

impl DeliveryState {
    /// All states, in the order of a delivery's life.
    pub const ALL: [Self; 12] = [
        Self::Accepted,
        Self::Scheduled,
        Self::Queued,
        Self::Dispatched,
        Self::Delivered,
        Self::Processed,
        Self::Expired,
        Self::Replaced,
        Self::Cancelled,
        Self::Rejected,
        Self::Failed,
        Self::NoTarget,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Dispatched => "dispatched",
            Self::Delivered => "delivered",
            Self::Processed => "processed",
            Self::Expired => "expired",
            Self::Replaced => "replaced",
            Self::Cancelled => "cancelled",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::NoTarget => "no_target",
        }
    }
}

impl fmt::Display for DeliveryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a delivery ended as it did, where the state alone does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Five sessions in a row ended within 5 s of it being written as their only unacknowledged event.
    Poison,
    /// Its device was removed.
    DeviceRemoved,
    /// The device answered with an error stanza.
    DeviceError,
    /// The device could not do it, and says so.
    DeviceFailed,
    /// The device does not understand it, and says so.
    DeviceRejected,
    /// The device wanted it again too often.
    TooManyAttempts,
    /// The queue of its device was full when the event, one to several devices, was accepted.
    QueueFull,
}

impl Reason {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Poison,
        Self::DeviceRemoved,
        Self::DeviceError,
        Self::DeviceFailed,
        Self::DeviceRejected,
        Self::TooManyAttempts,
        Self::QueueFull,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Poison => "poison",
            Self::DeviceRemoved => "device-removed",
            Self::DeviceError => "device-error",
            Self::DeviceFailed => "device-failed",
            Self::DeviceRejected => "device-rejected",
            Self::TooManyAttempts => "too-many-attempts",
            Self::QueueFull => "queue-full",
        }
    }
}

/// Which holder of the seat: rises with every claim and is never reused, not even after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
