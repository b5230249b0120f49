//! All that a store keeps, as rows that another store takes in, whichever engine either is.
//!
//! An import makes an empty store the one that was exported: the key of the ids, ordinals and storage numbers come with the rows, so
//! an event id goes on naming its record. It also begins a new generation, and counts on behind a gap: what the exported store gave
//! out after the export is never given out again. See docs/decisions/0014.

mod delivery;
mod forms;
mod groups;
mod registry;
mod rows;
mod webhooks;

use async_trait::async_trait;

pub(in crate::store) use delivery::ReplacedBy;
pub use delivery::{DeliveryRow, Ended, IdempotencyRow, Waits};
pub use groups::GroupRow;
pub(in crate::store) use registry::{import_key, import_tenant};
pub use rows::{AuditRow, Counts, DeviceRow, Header, KeyRow, MinuteRow, ReceiptRow, Row, TenantRow};
pub use webhooks::WebhookRow;
pub(in crate::store) use webhooks::{exported as exported_webhooks, imported as import_webhook};

use super::StoreError;

/// The layout of the rows that this program writes and reads.
pub const FORMAT: u32 = 2;
/// Storage numbers of a device that an import leaves out: the exported store may have given them out after the export.
pub(in crate::store) const NUMBERS_LEFT_OUT: u64 = 1 << 32;
/// Ordinals of a tenant that an import leaves out, for the same reason.
pub(in crate::store) const ORDINALS_LEFT_OUT: u32 = 1 << 20;
/// The largest storage number and number of a lane that every engine can keep.
pub(in crate::store) const NUMBER_MAX: u64 = (1 << 48) - 1;

/// What an export consists of, in the order in which it is written. Receipts come before the devices, so that
/// those of the new store, which come with its devices, follow them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Tenants.
    Tenants,
    /// API keys.
    Keys,
    /// Webhooks.
    Webhooks,
    /// Entries of the audit log.
    Audit,
    /// Receipts that are kept.
    Receipts,
    /// Minutes of the ledger.
    Minutes,
    /// Devices, each followed by its deliveries.
    Devices,
    /// Groups: after the devices, so that what is unfinished finds them.
    Groups,
}

impl Part {
    /// All, in order.
    pub const ALL: [Self; 8] = [
        Self::Tenants,
        Self::Keys,
        Self::Webhooks,
        Self::Audit,
        Self::Receipts,
        Self::Minutes,
        Self::Devices,
        Self::Groups,
    ];
}

/// Some rows of a part.
#[derive(Debug, Default)]
pub struct RowPage {
    /// The rows. A device and its deliveries are of one moment, and in one page.
    pub rows: Vec<Row>,
    /// Where the next page begins. `None`: that was the last.
    pub next: Option<Vec<u8>>,
}

/// What is imported in one step.
#[derive(Debug)]
pub enum Piece {
    /// A tenant.
    Tenant(TenantRow),
    /// An API key.
    Key(KeyRow),
    /// A webhook.
    Webhook(Box<WebhookRow>),
    /// Entries of the audit log of one tenant.
    Audit(Vec<AuditRow>),
    /// Receipts of one tenant, in order.
    Receipts(Vec<ReceiptRow>),
    /// Minutes of the ledger.
    Minutes(Vec<MinuteRow>),
    /// A group.
    Group(Box<GroupRow>),
    /// A device with its deliveries.
    Device(Box<DeviceRow>, Vec<DeliveryRow>),
}

/// What became of a [`Piece`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is stored.
    Stored,
    /// It was there, from an earlier try of the same import, and stays as it is now.
    Present,
}

/// Moving everything from one store to another.
#[async_trait]
pub trait Transfer: Send + Sync + 'static {
    /// The first row of an export.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn header(&self) -> Result<Header, StoreError>;

    /// Rows of a part, about a mebibyte of them; `after` is the `next` of the page before. What changes meanwhile is in it or not.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn rows(&self, part: Part, after: Option<Vec<u8>>) -> Result<RowPage, StoreError>;

    /// Becomes the store that was exported, in a new generation. Again with the same export: goes on with it.
    ///
    /// # Errors
    /// `Conflict` when this store ever had a device, is shared by several nodes, or has finished this import.
    async fn begin_import(&self, header: &Header) -> Result<(), StoreError>;

    /// Takes a piece in, durably and in one step. Again with the same piece: nothing changes.
    ///
    /// # Errors
    /// `Conflict` when it is not what an export has, or something else is in its place; `NoSpace`.
    async fn import(&self, piece: Piece) -> Result<Taken, StoreError>;

    /// Everything was taken in: this export cannot be imported once more.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn finish_import(&self, export: &str) -> Result<(), StoreError>;
}

/// The generation that follows both.
pub(in crate::store) fn next_generation(own: u32, exported: u32) -> u32 {
    let next = own.max(exported).wrapping_add(1).max(1);
    // Where the largest has been reached, any that is neither will do.
    (next..).find(|next| *next != own && *next != exported).unwrap_or(next)
}

/// How far an import came, as the store remembers it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(in crate::store) struct Progress {
    pub(in crate::store) export: String,
    pub(in crate::store) finished: bool,
}

/// Whether an import may begin (`true`: anew) or go on.
pub(in crate::store) fn may_begin(before: Option<&Progress>, header: &Header, had_devices: bool) -> Result<bool, StoreError> {
    let conflict = |why: &str| Err(StoreError::Conflict(why.into()));
    match before {
        Some(before) if before.export == header.id && before.finished => conflict("this export was imported already, whole"),
        Some(before) if before.export == header.id => Ok(false),
        _ if had_devices => {
            conflict("the store has devices, or had some: an export is imported into a new store (another data directory, or redis.prefix)")
        }
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_generation_is_neither_of_the_two() {
        for (own, exported) in [(1, 2), (7, 7), (u32::MAX, 5), (u32::MAX, 1), (1, u32::MAX), (u32::MAX, u32::MAX)] {
            let next = next_generation(own, exported);
            assert!(next != 0 && next != own && next != exported, "{own} {exported}: {next}");
        }
        assert_eq!(next_generation(3, 9), 10);
    }
}
