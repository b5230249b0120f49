//! The feed of presence: every connect and disconnect of a tenant's devices, in order, written in the step that changed the seat.

use std::sync::Arc;

use async_trait::async_trait;

use super::{StoreError, Transport};
use crate::domain::{Departure, DeviceId, Epoch, Missing, TenantId, Timestamp};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// A session took the seat of a device.
    Connected,
    /// It gave the seat up, or lost it.
    Disconnected,
    /// A node is dead. The devices that had their sessions there are `disconnected` one after another behind this, unless they
    /// have connected elsewhere.
    NodeLost,
}

impl ChangeKind {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Connected, Self::Disconnected, Self::NodeLost];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::NodeLost => "node-lost",
        }
    }
}

/// One row of the feed. Of one device, the epochs in the order of the feed never fall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceChange {
    /// Its position in the feed of the tenant; rises, not always by one.
    pub position: u64,
    /// What happened.
    pub kind: ChangeKind,
    /// To which device. `None`: to a node.
    pub device: Option<DeviceId>,
    /// The session's epoch.
    pub session_epoch: Option<Epoch>,
    /// The node where the session is or was, or the one that is lost.
    pub node: Arc<str>,
    /// How the session is or was connected.
    pub transport: Option<Transport>,
    /// When.
    pub at: Timestamp,
    /// Why a device left.
    pub reason: Option<Departure>,
}

/// How far a log of a tenant goes. Both 0: nothing happened yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FeedBounds {
    /// The oldest position that is kept.
    pub oldest: u64,
    /// The newest.
    pub newest: u64,
}

impl FeedBounds {
    /// The position behind which all that is kept begins.
    pub fn behind_all(self) -> u64 {
        self.oldest.saturating_sub(1)
    }

    /// Where somebody goes on who has seen all up to `position` of this log.
    pub fn nearest(self, position: u64) -> u64 {
        position.max(self.behind_all()).min(self.newest)
    }

    /// What is missing then: what became of it, and the first and the last position.
    pub fn missing_behind(self, position: u64) -> Option<(Missing, u64, u64)> {
        let to = self.nearest(position);
        match position {
            ahead if ahead > to => Some((Missing::Lost, to + 1, ahead)),
            behind if behind < to => Some((Missing::Dropped, behind + 1, to)),
            _ => None,
        }
    }
}

/// What one round of [`Feed::end_lost_seats`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// Seats that were ended.
    pub seats: u64,
    /// Whether there may be more.
    pub more: bool,
}

/// Connects and disconnects of devices.
#[async_trait]
pub trait Feed: Send + Sync + 'static {
    /// Changes of a tenant behind `after`, oldest first. What a claim or a release wrote is here within two seconds of it. Kept for
    /// `presence_changes_kept_secs`, at most `presence_changes_max`.
    async fn changes(&self, tenant: TenantId, after: u64, limit: usize) -> Result<Vec<PresenceChange>, StoreError>;

    /// The oldest and the newest change that is kept. The oldest is 1 where it is known that none was dropped.
    async fn change_bounds(&self, tenant: TenantId) -> Result<FeedBounds, StoreError>;

    /// Ends at most `limit` seats of nodes that are dead: first each of these nodes is told as lost, once in the feed of every
    /// tenant, then each of its devices is `disconnected` whose seat it has still. Of several nodes one does it, the others answer
    /// at once; another goes on where it stopped. Call it several times a second.
    async fn end_lost_seats(&self, limit: usize) -> Result<Ended, StoreError>;
}
