//! The feed of presence: rows that the scripts of the seat write into an outbox of the bucket of their own, in the step that changes
//! the seat, and that the mover takes into a log of the tenant.
//!
//! A row: at 6, kind 1, reason 1, epoch 6, node 2, transport 1, and the device: in the outbox by its name within the bucket, in the log of its
//! tenant by its id.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    RedisStore, losses,
    mover::Log,
    reply::{p48, u48},
};
use crate::{
    domain::{Departure, Epoch, TenantId, Timestamp},
    store::{
        ChangeKind, Ended, Feed, FeedBounds, PresenceChange, StoreError,
        codec::damaged,
        codes::{change, change_code, departure, departure_code, transport},
    },
};

/// Bytes of a row before its device.
const FIXED: usize = 17;

/// What the row of a `disconnected` begins with; epoch, node, transport and device follow.
pub(super) fn left(at: Timestamp, why: Departure) -> Vec<u8> {
    let kind = [change_code(ChangeKind::Disconnected), departure_code(Some(why))];
    [&p48(at.0)[..], &kind].concat()
}

/// The row of a lost node, as the log has it.
pub(super) fn node_lost(node: u16, at: Timestamp) -> Vec<u8> {
    let kind = [change_code(ChangeKind::NodeLost), 0];
    [&p48(at.0)[..], &kind, &[0; 6], &node.to_be_bytes(), &[0]].concat()
}

/// A row of an outbox: the tenant, and the row as the log keeps it.
pub(super) fn read_outbox(row: &[u8]) -> Result<(TenantId, Vec<u8>), StoreError> {
    let read = || -> Option<(TenantId, Vec<u8>)> {
        let (fixed, member) = row.split_at_checked(FIXED)?;
        let (tenant, device) = std::str::from_utf8(member).ok()?.split_once(':')?;
        Some((TenantId(tenant.parse().ok()?), [fixed, device.as_bytes()].concat()))
    };
    read().ok_or_else(|| damaged("a row of the feed of presence"))
}

fn read(position: u64, row: &[u8]) -> Result<PresenceChange, StoreError> {
    let read = || -> Option<PresenceChange> {
        let at = Timestamp(u48(row)?);
        let kind = change(*row.get(6)?)?;
        let of_device = kind != ChangeKind::NodeLost;
        let node = u16::from_be_bytes(row.get(14..16)?.try_into().ok()?);
        let transport = transport(*row.get(16)?)?;
        let device = std::str::from_utf8(row.get(FIXED..)?).ok()?;
        Some(PresenceChange {
            position,
            kind,
            device: if of_device { Some(device.parse().ok()?) } else { None },
            session_epoch: of_device.then_some(Epoch(u48(row.get(8..14)?)?)),
            node: Arc::from(format!("n{node}")),
            transport: of_device.then_some(transport),
            at,
            reason: departure(*row.get(7)?)?,
        })
    };
    read().ok_or_else(|| damaged("a row of the feed of presence"))
}

#[async_trait]
impl Feed for RedisStore {
    async fn changes(&self, tenant: TenantId, after: u64, limit: usize) -> Result<Vec<PresenceChange>, StoreError> {
        let rows = self.shared.lasting(tenant, Log::Feed, after, limit).await?;
        rows.into_iter().map(|(position, row)| read(position, &row)).collect()
    }

    async fn change_bounds(&self, tenant: TenantId) -> Result<FeedBounds, StoreError> {
        self.shared.bounds_of(tenant, Log::Feed).await
    }

    async fn end_lost_seats(&self, limit: usize) -> Result<Ended, StoreError> {
        losses::round(self, limit).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Transport;

    #[test]
    fn rows_read_back() {
        let tail = [&p48(77)[..], &[0, 3, 1], b"5:box"].concat();
        let row = [left(Timestamp(1_800_000_000_000), Departure::Silent), tail].concat();
        let (tenant, kept) = read_outbox(&row).unwrap();
        assert_eq!(tenant, TenantId(5));
        let found = read(9, &kept).unwrap();
        let expected = PresenceChange {
            position: 9,
            kind: ChangeKind::Disconnected,
            device: Some("box".parse().unwrap()),
            session_epoch: Some(Epoch(77)),
            node: "n3".into(),
            transport: Some(Transport::Xmpps),
            at: Timestamp(1_800_000_000_000),
            reason: Some(Departure::Silent),
        };
        assert_eq!(found, expected);
        let lost = read(10, &node_lost(3, Timestamp(4))).unwrap();
        assert_eq!(
            (lost.kind, &*lost.node, lost.device, lost.session_epoch),
            (ChangeKind::NodeLost, "n3", None, None)
        );
        assert!(read(1, &kept[..12]).is_err());
    }
}
