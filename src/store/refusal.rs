//! The store's errors as backends meet them.

use std::time::Duration;

use super::StoreError;
use crate::domain::{DeviceId, Refusal};

impl StoreError {
    /// The refusal of a request about `device`. What only an operator can mend is logged here, once.
    pub fn refusal(self, device: &DeviceId) -> Refusal {
        match self {
            Self::UnknownDevice => Refusal::UnknownDevice(device.clone()),
            Self::RemovedDevice => Refusal::RemovedDevice(device.clone()),
            Self::QueueFull { events, bytes } => Refusal::QueueFull {
                device: device.clone(),
                events,
                bytes,
            },
            other => other.refusal_of_all(),
        }
    }

    /// The refusal of a request that is not about one device.
    pub fn refusal_of_all(self) -> Refusal {
        match self {
            Self::KeyReused(original) => Refusal::KeyReused { original },
            Self::NoSpace => Refusal::NoSpace {
                retry_after: Duration::from_secs(30),
            },
            Self::Busy => Refusal::Overloaded {
                retry_after: Duration::from_secs(1),
            },
            Self::Unavailable(why) => {
                tracing::warn!(error = %why, "a request is refused because the store is not available: {why}");
                Refusal::Unavailable {
                    retry_after: Duration::from_secs(2),
                }
            }
            Self::Conflict(why) => Refusal::Conflict(why.to_string()),
            other @ (Self::Corrupt(_) | Self::UnknownDevice | Self::RemovedDevice | Self::QueueFull { .. }) => {
                tracing::error!(error = %other, "a request is refused because of what the store found: {other}");
                Refusal::Internal("store".to_owned())
            }
        }
    }
}
