//! Why a device left its seat.

use serde::{Serialize, Serializer};

/// Why a device left its seat: the reason of a `disconnected` in the feed of presence. The words are those of
/// `unpoll_session_events_total`, and `node-lost`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Departure {
    /// `</stream:stream>`, or a stream error about what the device sent.
    Stream,
    /// Its side closed or reset the connection.
    Lost,
    /// No sign of life, or no acknowledgement, in time.
    Silent,
    /// The connection lived as long as connections do.
    Old,
    /// It took no bytes for too long, or TCP gave up.
    Stalled,
    /// A newer session took the seat.
    Conflict,
    /// Its node was stopped in good order.
    Shutdown,
    /// The device was removed.
    Removed,
    /// TLS failed.
    Tls,
    /// No room for the session.
    Full,
    /// Its connection was gone, and the time to resume the session is over.
    Expired,
    /// A bug.
    Bug,
    /// Its node is dead, or was cut off for so long that the others counted it as dead.
    NodeLost,
}

impl Departure {
    /// Every one.
    pub const ALL: [Self; 13] = [
        Self::Stream,
        Self::Lost,
        Self::Silent,
        Self::Old,
        Self::Stalled,
        Self::Conflict,
        Self::Shutdown,
        Self::Removed,
        Self::Tls,
        Self::Full,
        Self::Expired,
        Self::Bug,
        Self::NodeLost,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Lost => "lost",
            Self::Silent => "silent",
            Self::Old => "old",
            Self::Stalled => "stalled",
            Self::Conflict => "conflict",
            Self::Shutdown => "shutdown",
            Self::Removed => "removed",
            Self::Tls => "tls",
            Self::Full => "full",
            Self::Expired => "expired",
            Self::Bug => "bug",
            Self::NodeLost => "node-lost",
        }
    }
}

impl Serialize for Departure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
