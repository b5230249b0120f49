//! The engine's keyspaces, and its errors as the store's.

use crate::store::StoreError;

/// One of the engine's keyspaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store::embedded) enum Space {
    /// Events that wait.
    Events,
    /// How events ended, and idempotency keys.
    Ends,
    /// Receipts and the ledger.
    Log,
    /// Devices, keys, tenants, and the store itself.
    Rows,
}

impl Space {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Ends => "ends",
            Self::Log => "log",
            Self::Rows => "rows",
        }
    }

    /// What belongs to the keyspace.
    pub(in crate::store::embedded) fn of<T>(self, spaces: &[T; 4]) -> &T {
        match (self, spaces) {
            (Self::Events, [events, ..]) => events,
            (Self::Ends, [_, ends, ..]) => ends,
            (Self::Log, [_, _, log, _]) => log,
            (Self::Rows, [.., rows]) => rows,
        }
    }
}

pub(in crate::store::embedded) fn unavailable(error: fjall::Error) -> StoreError {
    StoreError::Unavailable(error.to_string().into())
}
