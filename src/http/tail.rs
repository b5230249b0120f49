//! The end of a log, kept for all streams that follow it at this node.
//!
//! A stream that is further behind than what is kept reads the log by itself until it has caught up. Nothing waits for a stream: one
//! that reads slowly falls behind.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::domain::TenantId;

/// A row of a log. Positions rise, and may leap.
pub trait Positioned: Clone {
    /// Where it is in its log.
    fn position(&self) -> u64;
}

/// The newest rows: all behind a position.
#[derive(Debug)]
struct Newest<R> {
    behind: u64,
    rows: VecDeque<R>,
}

/// The end of a log.
#[derive(Debug)]
pub struct Tail<R> {
    newest: Mutex<Newest<R>>,
    kept: usize,
    end: watch::Sender<u64>,
}

impl<R: Positioned> Tail<R> {
    /// A log that ends at `end`, of which the newest `kept` rows are to be kept.
    pub fn new(end: u64, kept: usize) -> Self {
        Self {
            newest: Mutex::new(Newest {
                behind: end,
                rows: VecDeque::new(),
            }),
            kept,
            end: watch::channel(end).0,
        }
    }

    /// Learns of news.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    /// The position of the last row that came.
    pub fn end(&self) -> u64 {
        *self.end.borrow()
    }

    /// At most `limit` rows behind a position. `None`: it is further back than what is kept here.
    pub fn behind(&self, position: u64, limit: usize) -> Option<Vec<R>> {
        let newest = self.newest.lock();
        if position < newest.behind {
            return None;
        }
        let from = newest.rows.partition_point(|row| row.position() <= position);
        Some(newest.rows.iter().skip(from).take(limit).cloned().collect())
    }

    /// The position behind which rows are kept.
    pub fn begins_behind(&self) -> u64 {
        self.newest.lock().behind
    }

    /// The log has lost rows behind its end: what is kept goes, and a stream that is not at `position` yet reads by itself, and sees it.
    pub fn skip_to(&self, position: u64) {
        *self.newest.lock() = Newest {
            behind: position,
            rows: VecDeque::new(),
        };
        self.end.send_replace(position);
    }

    /// Takes in what a look for `most` rows behind the end found. `behind_all`, asked after them: the position behind which the log has all that
    /// it keeps. What was dropped before it was read is skipped, and streams that want it see that. Answers whether to look again at once.
    pub fn take(&self, rows: Vec<R>, most: usize, behind_all: u64) -> bool {
        // If the oldest is right behind the end or before it, none is missing.
        if self.end() < behind_all {
            self.skip_to(behind_all);
            return true;
        }
        let more = rows.len() >= most;
        self.push(rows);
        more
    }

    /// Adds rows, in order.
    pub fn push(&self, rows: Vec<R>) {
        let Some(end) = rows.last().map(R::position) else { return };
        {
            let mut newest = self.newest.lock();
            newest.rows.extend(rows);
            while newest.rows.len() > self.kept
                && let Some(oldest) = newest.rows.pop_front()
            {
                newest.behind = oldest.position();
            }
        }
        self.end.send_replace(end);
    }
}

/// The ends of the logs of those tenants that somebody follows. Clones share them.
#[derive(Debug)]
pub struct Tails<R> {
    kept: usize,
    of: Arc<Mutex<HashMap<TenantId, Arc<Tail<R>>>>>,
}

impl<R> Clone for Tails<R> {
    fn clone(&self) -> Self {
        Self {
            kept: self.kept,
            of: Arc::clone(&self.of),
        }
    }
}

impl<R: Positioned> Tails<R> {
    /// Of each log the newest `kept` rows are to be kept.
    pub fn new(kept: usize) -> Self {
        Self { kept, of: Arc::default() }
    }

    /// The end of a tenant's log, followed as long as somebody has it; `end` tells where that is when nobody had it.
    ///
    /// # Errors
    /// Those of `end`.
    pub async fn tail<E>(&self, tenant: TenantId, end: impl Future<Output = Result<u64, E>>) -> Result<Arc<Tail<R>>, E> {
        if let Some(tail) = self.of.lock().get(&tenant) {
            return Ok(tail.clone());
        }
        let end = end.await?;
        // Another stream may have come first.
        Ok(self
            .of
            .lock()
            .entry(tenant)
            .or_insert_with(|| Arc::new(Tail::new(end, self.kept)))
            .clone())
    }

    /// Those that somebody has now; the others are forgotten.
    pub fn followed(&self) -> Vec<(TenantId, Arc<Tail<R>>)> {
        let mut of = self.of.lock();
        of.retain(|_, tail| Arc::strong_count(tail) > 1);
        of.iter().map(|(tenant, tail)| (*tenant, tail.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Row(u64);

    impl Positioned for Row {
        fn position(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn the_newest_rows_are_kept_and_who_is_further_behind_is_told_so() {
        let kept = 100;
        let tail = Tail::new(10, kept as usize);
        let positions = |after, limit| {
            let rows: Vec<Row> = tail.behind(after, limit)?;
            Some(rows.iter().map(|row| row.0).collect::<Vec<_>>())
        };
        assert_eq!(positions(9, 5), None);
        assert_eq!(positions(10, 5), Some(vec![]));
        // Positions may leap.
        tail.push(vec![Row(11), Row(12), Row(1 << 32)]);
        assert_eq!(positions(10, 2), Some(vec![11, 12]));
        assert_eq!(positions(12, 5), Some(vec![1 << 32]));
        assert_eq!(positions(1 << 40, 5), Some(vec![]), "it came from another node that was ahead");
        tail.push((1..=kept).map(|n| Row((1 << 32) + n)).collect());
        assert_eq!(positions(12, 5), None);
        assert_eq!(positions(1 << 32, 1), Some(vec![(1 << 32) + 1]));
        assert_eq!(tail.end(), (1 << 32) + kept);
        let far = 1 << 33;
        tail.skip_to(far);
        assert_eq!((positions((1 << 32) + kept, 5), positions(far, 5)), (None, Some(vec![])));
    }
}
