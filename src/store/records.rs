//! What happened: receipts, and minutes of the ledger.

use std::borrow::Cow;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{FeedBounds, StoreError};
use crate::domain::{DeliveryState, Epoch, EventId, Reason, TenantId, Timestamp, Told};

/// A change of a delivery's state, as backends will read it. Written in the step that made the change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Position in the tenant's log of receipts; rises.
    pub position: u64,
    /// The event, or its copy for this device.
    pub event: String,
    /// The event to several devices that it is a copy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<EventId>,
    /// The device.
    pub device: String,
    /// The new state.
    pub state: DeliveryState,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// When.
    pub at: Timestamp,
    /// The seat that reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_epoch: Option<Epoch>,
    /// From acceptance, or from its `deliver_at`, to that state, in milliseconds. 0 when it ended before.
    pub latency_ms: u64,
    /// Which delivery of the event it tells of, from 1.
    #[serde(default = "first")]
    pub attempt: u32,
    /// The event that replaced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<EventId>,
    /// What the device says of it, without its JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
}

impl Receipt {
    /// The event as its backend knows it: of a copy the group.
    pub fn posted(&self) -> Cow<'_, str> {
        self.group.map_or(Cow::Borrowed(&*self.event), |group| group.to_string().into())
    }
}

/// The number of the first delivery.
fn first() -> u32 {
    1
}

/// What happened: receipts, and minutes of the ledger.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// Receipts of a tenant behind `after`, oldest first. What a step wrote is here within two seconds of it. What was answered once stays
    /// as it is, at its position, and nothing comes before it later: whoever reads on behind the last position misses none.
    async fn receipts(&self, tenant: TenantId, after: u64, limit: usize) -> Result<Vec<Receipt>, StoreError>;

    /// The oldest and the newest receipt that is kept. The oldest is 1, or 0, as long as none was dropped.
    async fn receipt_bounds(&self, tenant: TenantId) -> Result<FeedBounds, StoreError>;

    /// Waits until this process may have written receipts. An engine that does not know waits for ever.
    async fn receipts_written(&self) {
        std::future::pending().await
    }

    /// Adds to the ledger's row of (minute, node): every named figure is added to what is there. Minutes since 1970.
    async fn add_ledger_minute(&self, minute: u64, node: &str, figures: &[(String, f64)]) -> Result<(), StoreError>;

    /// The sum of every figure over the minutes `from..to` and all nodes.
    async fn ledger(&self, from: u64, to: u64) -> Result<std::collections::BTreeMap<String, f64>, StoreError>;
}
