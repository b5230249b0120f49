//! The feed of each tenant that somebody listens to, followed once for all of this node's streams.
//!
//! The newest rows are kept, rendered, for all; a stream that is further behind reads the store by itself until it has caught up. Nothing
//! waits for a stream: one that reads slowly falls behind.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{Departure, Epoch, TenantId, Timestamp},
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

/// The newest rows: all behind a position.
#[derive(Debug)]
struct Newest {
    behind: u64,
    rows: VecDeque<Row>,
}

/// The end of a tenant's feed.
#[derive(Debug)]
pub(super) struct Tail {
    newest: Mutex<Newest>,
    end: watch::Sender<u64>,
}

impl Tail {
    fn new(end: u64) -> Self {
        Self {
            newest: Mutex::new(Newest {
                behind: end,
                rows: VecDeque::new(),
            }),
            end: watch::channel(end).0,
        }
    }

    /// Learns of news.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    /// At most `limit` rows behind a position. `None`: it is further back than what is kept here.
    pub(super) fn behind(&self, position: u64, limit: usize) -> Option<Vec<Row>> {
        let newest = self.newest.lock();
        if position < newest.behind {
            return None;
        }
        let from = newest.rows.partition_point(|row| row.position <= position);
        Some(newest.rows.iter().skip(from).take(limit).cloned().collect())
    }

    /// The position behind which rows are kept.
    pub(super) fn begins_behind(&self) -> u64 {
        self.newest.lock().behind
    }

    fn push(&self, rows: Vec<Row>) {
        let Some(end) = rows.last().map(|row| row.position) else { return };
        {
            let mut newest = self.newest.lock();
            newest.rows.extend(rows);
            while newest.rows.len() > KEPT
                && let Some(oldest) = newest.rows.pop_front()
            {
                newest.behind = oldest.position;
            }
        }
        self.end.send_replace(end);
    }
}

/// Follows feeds. Clones share everything.
#[derive(Clone)]
pub(super) struct Follower {
    store: Arc<dyn Store>,
    tails: Arc<Mutex<HashMap<TenantId, Arc<Tail>>>>,
}

impl Follower {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            tails: Arc::default(),
        }
    }

    /// The end of a tenant's feed, followed as long as somebody has it.
    pub(super) async fn tail(&self, tenant: TenantId) -> Result<Arc<Tail>, StoreError> {
        if let Some(tail) = self.tails.lock().get(&tenant) {
            return Ok(tail.clone());
        }
        let end = self.store.change_bounds(tenant).await?.newest;
        // Another stream may have come first.
        Ok(self.tails.lock().entry(tenant).or_insert_with(|| Arc::new(Tail::new(end))).clone())
    }

    /// Asks the store for news until the stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            let tails: Vec<(TenantId, Arc<Tail>)> = {
                let mut tails = self.tails.lock();
                tails.retain(|_, tail| Arc::strong_count(tail) > 1);
                tails.iter().map(|(tenant, tail)| (*tenant, tail.clone())).collect()
            };
            for (tenant, tail) in tails {
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

    async fn look(&self, tenant: TenantId, tail: &Tail) -> Result<(), StoreError> {
        loop {
            let after = *tail.end.borrow();
            let changes = self.store.changes(tenant, after, ROWS).await?;
            let more = changes.len() >= ROWS;
            tail.push(changes.iter().map(Row::of).collect::<Result<_, _>>()?);
            if !more {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn the_newest_rows_are_kept_and_who_is_further_behind_is_told_so() {
        let tail = Tail::new(10);
        let positions = |after, limit| {
            let rows = tail.behind(after, limit)?;
            Some(rows.iter().map(|row| row.position).collect::<Vec<_>>())
        };
        assert_eq!(positions(9, 5), None);
        assert_eq!(positions(10, 5), Some(vec![]));
        // Positions may leap.
        tail.push(vec![row(11), row(12), row(1 << 32)]);
        assert_eq!(positions(10, 2), Some(vec![11, 12]));
        assert_eq!(positions(12, 5), Some(vec![1 << 32]));
        assert_eq!(positions(1 << 40, 5), Some(vec![]), "it came from another node that was ahead");
        tail.push((1..=KEPT as u64).map(|n| row((1 << 32) + n)).collect());
        assert_eq!(positions(12, 5), None);
        assert_eq!(positions(1 << 32, 1), Some(vec![(1 << 32) + 1]));
        assert_eq!(*tail.end.borrow(), (1 << 32) + KEPT as u64);
    }
}
