//! Lanes: ordered streams of a device.

use std::fmt;

use super::Urgency;

/// Which life of the store this is. A lost or restored store starts a new one, so that numbers start anew
/// in a lane of another name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);

/// The place of an event in its lane; rises by one at each event that becomes deliverable, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

/// One ordered stream of a device: an urgency within a generation. On the wire an opaque word, `normal.3f`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Events of the device's queue.
    Queue(Urgency, Generation),
    /// Events with a TTL of 0: now or never, numbered by the clock.
    Now(Generation),
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(urgency, generation) => write!(f, "{urgency}.{:x}", generation.0),
            Self::Now(generation) => write!(f, "now.{:x}", generation.0),
        }
    }
}
