//! The feed of each tenant that somebody listens to, followed once for all of this node's streams.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{Departure, Epoch, TenantId, Timestamp},
    http::{Positioned, Tail, Tails},
    store::{ChangeKind, PresenceChange, Store, StoreError, Transport},
};

/// How often the store is asked for news.
const EVERY: Duration = Duration::from_millis(200);
/// Rows of one look.
const ROWS: usize = 1_000;
/// Rows that are kept for all streams of a tenant, about 250 bytes each.
const KEPT: usize = 4_096;

/// A row, rendered as a server-sent event.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) position: u64,
    pub(super) kind: ChangeKind,
    pub(super) text: Bytes,
}

/// What `data` of an event holds.
#[derive(Serialize)]
struct Data<'a> {
    device: Option<&'a str>,
    session_epoch: Option<Epoch>,
    node: &'a str,
    transport: Option<Transport>,
    at: Timestamp,
    reason: Option<Departure>,
}

impl Row {
    pub(super) fn of(change: &PresenceChange) -> Result<Self, StoreError> {
        let data = Data {
            device: change.device.as_ref().map(|device| device.as_str()),
            session_epoch: change.session_epoch,
            node: &change.node,
            transport: change.transport,
            at: change.at,
            reason: change.reason,
        };
        let data = serde_json::to_string(&data).map_err(|error| StoreError::Corrupt(error.to_string().into()))?;
        let (position, kind) = (change.position, change.kind);
        Ok(Self {
            position,
            kind,
            text: format!("id: {position}\nevent: {}\ndata: {data}\n\n", kind.as_str()).into(),
        })
    }
}

impl Positioned for Row {
    fn position(&self) -> u64 {
        self.position
    }
}

/// Follows feeds. Clones share everything.
#[derive(Clone)]
pub(super) struct Follower {
    store: Arc<dyn Store>,
    tails: Tails<Row>,
}

impl Follower {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            tails: Tails::new(KEPT),
        }
    }

    /// The end of a tenant's feed, followed as long as somebody has it.
    pub(super) async fn tail(&self, tenant: TenantId) -> Result<Arc<Tail<Row>>, StoreError> {
        let end = async { Ok(self.store.change_bounds(tenant).await?.newest) };
        self.tails.tail(tenant, end).await
    }

    /// Asks the store for news until the stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            for (tenant, tail) in self.tails.followed() {
                // What cannot be read now is read at the next look.
                if let Err(error) = self.look(tenant, &tail).await {
                    match error {
                        StoreError::Unavailable(why) => tracing::debug!("streams of presence wait: {why}"),
                        other => tracing::error!(error = %other, "the feed of presence cannot be read: {other}"),
                    }
                }
            }
        }
    }

    async fn look(&self, tenant: TenantId, tail: &Tail<Row>) -> Result<(), StoreError> {
        loop {
            let changes = self.store.changes(tenant, tail.end(), ROWS).await?;
            if changes.is_empty() {
                return Ok(());
            }
            let behind_all = self.store.change_bounds(tenant).await?.behind_all();
            let rows = changes.iter().map(Row::of).collect::<Result<_, _>>()?;
            if !tail.take(rows, ROWS, behind_all) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{Limits, ManualClock, SessionId},
        store::{
            DeviceChange, DeviceKey, NewSeat,
            embedded::{self, EmbeddedStore},
        },
    };

    fn row(position: u64) -> Row {
        Row::of(&PresenceChange {
            position,
            kind: ChangeKind::Connected,
            device: Some("box".parse().unwrap()),
            session_epoch: Some(Epoch(7)),
            node: "n1".into(),
            transport: Some(Transport::Xmpps),
            at: Timestamp(0),
            reason: None,
        })
        .unwrap()
    }

    #[test]
    fn a_row_is_one_event_of_one_line() {
        let expected = "id: 5\nevent: connected\ndata: {\"device\":\"box\",\"session_epoch\":7,\"node\":\"n1\",\"transport\":\"xmpps\",\
                        \"at\":\"1970-01-01T00:00:00.000Z\",\"reason\":null}\n\n";
        assert_eq!(row(5).text, expected);
    }

    #[tokio::test]
    async fn rows_that_go_before_they_are_read_are_not_skipped_without_a_word() {
        const NOW: Timestamp = Timestamp(1_800_000_000_000);
        const TENANT: TenantId = TenantId(0);
        let folder = tempfile::tempdir().unwrap();
        let config = embedded::Config {
            data_dir: folder.path().to_path_buf(),
            free_space_min_percent: 0,
            ballast_bytes: 1024 * 1024,
            ..embedded::Config::default()
        };
        let limits = Limits {
            presence_changes_max: 5,
            ..Limits::default()
        };
        let (store, _arrivals) = EmbeddedStore::open(config, limits, ManualClock::at(NOW)).unwrap();
        let store: Arc<dyn Store> = store;
        let device = DeviceKey {
            tenant: TENANT,
            device: "box".parse().unwrap(),
        };
        store.put_device(&device, DeviceChange::default(), true, NOW).await.unwrap();
        let follower = Follower::new(store.clone());
        let tail = follower.tail(TENANT).await.unwrap();
        let begins = tail.end();
        for session in 0..20 {
            let seat = NewSeat {
                session: SessionId(session),
                node: "n1".into(),
                transport: Transport::Xmpps,
                at: NOW,
                credential_generation: 0,
                fast: None,
            };
            store.claim(&device, seat).await.unwrap();
        }
        while !store.sweep(NOW).await.unwrap().complete {}
        follower.look(TENANT, &tail).await.unwrap();
        // Whoever is still where the follower was reads by itself, and sees what is missing.
        assert!(tail.behind(begins, 9).is_none());
        let bounds = store.change_bounds(TENANT).await.unwrap();
        let kept = tail.behind(bounds.behind_all(), 9).unwrap();
        assert_eq!((kept.len(), kept[0].position, tail.end()), (5, bounds.oldest, bounds.newest));
    }
}
