//! Seats: who is a device now.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::{Cohort, Epoch, FastChange, SessionId, Timestamp};

/// The right to be the device: who holds it, since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Which holder.
    pub epoch: Epoch,
    /// The session that holds it.
    pub session: SessionId,
    /// The node where that session is.
    pub node: Arc<str>,
    /// How it is connected.
    pub transport: Transport,
    /// When it was claimed.
    pub connected_at: Timestamp,
}

/// How a device is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// XMPP over TCP with STARTTLS (or, where the operator allows it, without TLS).
    Xmpp,
    /// XMPP over direct TLS.
    Xmpps,
    /// XMPP over WebSocket (RFC 7395).
    WebSocket,
}

impl Transport {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Xmpp, Self::Xmpps, Self::WebSocket];

    /// The word in API and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Xmpp => "xmpp",
            Self::Xmpps => "xmpps",
            Self::WebSocket => "websocket",
        }
    }
}

/// A session that asks for the seat.
#[derive(Debug, Clone)]
pub struct NewSeat {
    /// The session.
    pub session: SessionId,
    /// The node it is on.
    pub node: Arc<str>,
    /// How it is connected.
    pub transport: Transport,
    /// When.
    pub at: Timestamp,
    /// The credential generation at which the device was authenticated: a changed one refuses the claim.
    pub credential_generation: u32,
    /// What the login changes among the device's FAST tokens, in the same step; it is synced when a token is given out.
    pub fast: Option<Box<FastChange>>,
}

/// What is still to be judged of a device that proved without its row who it is, because the store did not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unread {
    /// Add the device, in this cohort, if it never was there: its token says that it may.
    pub register: Option<Cohort>,
    /// SHA-256 of the certificate that it showed: a device whose credentials name certificates takes no other.
    pub certificate: Option<[u8; 32]>,
}

/// The answer to a claim.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The new epoch of the seat.
    pub epoch: Epoch,
    /// The seat it displaced, if somebody held it.
    pub displaced: Option<Seat>,
    /// How many events wait.
    pub waiting: u32,
}

/// The device as presence sees it in the store: the seat, and what is left of the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeatView {
    /// Who holds it now.
    pub seat: Option<Seat>,
    /// The last epoch that was given out.
    pub last_epoch: Epoch,
    /// The last proof of life that was stored: at the latest when the last seat was released.
    pub last_seen_at: Option<Timestamp>,
    /// Events that wait.
    pub waiting: u32,
}
