//! From the accumulators to the store: minute by minute, each amount once.
//!
//! What was counted since the last round belongs to the minute of the round. A round that failed is tried again by the next
//! one. When the store cannot say whether it took a row, a marker figure in that row tells: it counts this process's
//! flushes to the minute.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::{
    Ledger,
    calibration::Observed,
    cell::Cell,
    figures::{self, Figures},
    measured::WINDOW_HOURS,
    tally::Sums,
};
use crate::{crew::Crew, store::StoreError};

/// Minutes that wait for the store at most. When it is away for longer, what comes is booked on the last of them.
const WAITING_MAX: usize = 1_440;

/// What is on its way to the store.
#[derive(Debug, Default)]
pub struct Book {
    /// The sums up to which figures are in `waiting` or stored.
    taken: Sums,
    waiting: VecDeque<Row>,
    /// The last minute written to, and how many flushes to it are known to be stored.
    stored: (u64, u64),
    failing: bool,
}

/// Figures of one minute.
#[derive(Clone, Debug)]
struct Row {
    minute: u64,
    figures: Figures,
    /// An attempt failed in a way that leaves open whether it was stored.
    in_doubt: bool,
}

impl Ledger {
    /// Flushes on and on, and once more when the crew stops.
    pub fn start(self: &Arc<Self>, crew: &Crew) {
        let ledger = self.clone();
        crew.spawn_vital(move |stop| async move {
            ledger.restore().await;
            let mut rounds = tokio::time::interval(Duration::from_secs(ledger.config.flush_secs.max(1).into()));
            rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = rounds.tick() => ledger.flush().await,
                    () = stop.cancelled() => break,
                }
            }
            ledger.flush().await;
        });
    }

    /// Brings everything that was counted so far into the store. What the store does not take waits for the next call.
    pub async fn flush(&self) {
        let _alone = self.flushing.lock().await;
        self.take_counts();
        while let Some(row) = self.next_row() {
            let result = self.store_row(&row).await;
            let mut book = self.book.lock();
            match result {
                Ok(()) => {
                    book.waiting.pop_front();
                    book.stored = (row.minute, book.stored_in(row.minute) + 1);
                    if std::mem::take(&mut book.failing) {
                        info!("the store takes the ledger's minutes again");
                    }
                }
                Err(error) => {
                    if let Some(front) = book.waiting.front_mut() {
                        front.in_doubt |= !matches!(error, StoreError::NoSpace | StoreError::Busy);
                    }
                    if !std::mem::replace(&mut book.failing, true) {
                        warn!(%error, "the store does not take the ledger's minutes; they wait in memory");
                    }
                    return;
                }
            }
        }
    }

    /// The figures of the minutes `from..to`: those in the store, and those on their way there.
    pub(super) async fn figures(&self, from: u64, to: u64) -> Result<Figures, StoreError> {
        let _alone = self.flushing.lock().await;
        let mut sum = self.records.ledger(from, to).await?;
        self.take_counts();
        let mut doubtful = None;
        {
            let book = self.book.lock();
            for row in book.waiting.iter().filter(|row| (from..to).contains(&row.minute)) {
                if row.in_doubt {
                    doubtful = Some(row.clone());
                } else {
                    figures::add(&mut sum, &row.figures);
                }
            }
        }
        if let Some(row) = doubtful
            && !self.is_stored(&row).await?
        {
            figures::add(&mut sum, &row.figures);
        }
        Ok(sum)
    }

    /// Takes up what the control cohort taught earlier lives of the service. Without it the baseline `measured` waits for new polls.
    async fn restore(&self) {
        let now = self.clock.now();
        let from = now.0 / 60_000 - (WINDOW_HOURS * 60).min(now.0 / 60_000);
        match self.records.ledger(from, now.0 / 60_000 + 1).await {
            Ok(figures) => self.measured.restore(now.0 / 3_600_000, Observed::from(&figures)),
            Err(error) => warn!(%error, "the control cohort of the last day cannot be read; it is measured anew"),
        }
        self.measured.update(now, &self.tally);
    }

    /// Moves what was counted since the last time into the row of this minute.
    fn take_counts(&self) {
        let now = self.clock.now();
        let minute = now.0 / 60_000;
        self.charge.charge(&self.tally);
        self.tracker.sweep(now);
        let mut book = self.book.lock();
        self.measured.update(now, &self.tally);
        let sums = self.tally.sums();
        let new = sums.since(&book.taken);
        // CPU time alone waits for a row: an idle service writes nothing.
        if new.is_zero_but(Cell::CpuMicros) {
            return;
        }
        book.taken = sums;
        let mut new = figures::named(&new, &self.config);
        new.extend(self.tracker.take_seen().map(|device| (figures::seen(device), 1.0)));
        let sampling = self.tracker.sampling();
        if sampling > 0 {
            new.insert(figures::sampled(sampling), 1.0);
        }
        let full = book.waiting.len() >= WAITING_MAX;
        match book.waiting.back_mut() {
            Some(last) if (last.minute == minute || full) && !last.in_doubt => figures::add(&mut last.figures, &new),
            _ => book.waiting.push_back(Row {
                minute,
                figures: new,
                in_doubt: false,
            }),
        }
    }

    fn next_row(&self) -> Option<Row> {
        self.book.lock().waiting.front().cloned()
    }

    async fn store_row(&self, row: &Row) -> Result<(), StoreError> {
        if row.in_doubt && self.is_stored(row).await? {
            return Ok(());
        }
        let mut figures: Vec<(String, f64)> = row.figures.iter().map(|(name, amount)| (name.clone(), *amount)).collect();
        figures.push((self.marker.clone(), 1.0));
        self.records.add_ledger_minute(row.minute, &self.node, &figures).await
    }

    /// Whether an attempt of doubtful end reached the store: its marker is then one ahead of what we know.
    async fn is_stored(&self, row: &Row) -> Result<bool, StoreError> {
        let known = self.book.lock().stored_in(row.minute);
        let found = self.records.ledger(row.minute, row.minute + 1).await?;
        Ok(found.get(&self.marker).copied().unwrap_or(0.0) > known as f64)
    }
}

impl Book {
    fn stored_in(&self, minute: u64) -> u64 {
        if self.stored.0 == minute { self.stored.1 } else { 0 }
    }
}
