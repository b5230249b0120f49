//! The audit log: what callers changed, in the order of time.

use async_trait::async_trait;

use super::StoreError;
use crate::domain::{AuditEntry, TenantId, Timestamp};

/// Positions of a millisecond; where there are more, they go on into the next.
const A_MILLISECOND: u64 = 1 << 10;

/// The first position of what is written at that time. Until the year 2248 it is a number of 53 bits.
pub fn audit_position(at: Timestamp) -> u64 {
    at.0.saturating_mul(A_MILLISECOND)
}

/// When what has that position was written, at the latest.
pub(in crate::store) fn written_at(position: u64) -> Timestamp {
    Timestamp(position / A_MILLISECOND)
}

/// Entries of tenants. One is written when its change begins, and once more with what came of it; nothing else ever changes it, and
/// it goes when it was kept long enough ([`Limits::audit_kept_secs`](crate::domain::Limits), `audit_max`).
#[async_trait]
pub trait AuditLog: Send + Sync + 'static {
    /// Writes down that a change begins, durably. Answers its position: they rise with time, each above the last.
    ///
    /// # Errors
    /// `Unavailable`: it may be there all the same.
    async fn begin_audit(&self, tenant: TenantId, entry: &AuditEntry) -> Result<u64, StoreError>;

    /// `ended` takes the place of `begun`, durably. Again with the same: nothing changes.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn end_audit(&self, tenant: TenantId, position: u64, begun: &AuditEntry, ended: &AuditEntry) -> Result<(), StoreError>;

    /// Entries with positions from `from` up to and without `to`, oldest first, each with its own.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn audit(&self, tenant: TenantId, from: u64, to: u64, limit: usize) -> Result<Vec<(u64, AuditEntry)>, StoreError>;
}
