//! How a webhook follows the receipts of its tenant, and finds that some are missing.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::{AGAIN_AFTER, PAGE, Worker};
use crate::{
    domain::{Gap, Generation, Missing, ReceiptCursor},
    store::{FeedBounds, StoreError},
};

/// Gaps that a receiver is still to be told of; one more makes the last of them longer.
const GAPS_MAX: usize = 16;

impl Worker {
    /// Reads receipts, when it is time and there is room.
    pub(super) async fn look(&mut self) {
        let is_time = Instant::now() >= self.look_at;
        if is_time {
            self.look_at = Instant::now() + self.shared.config.look_every();
        }
        if !(is_time || self.more) || !self.has_room() {
            return;
        }
        if let Err(error) = self.read().await {
            self.more = false;
            self.look_at = Instant::now() + AGAIN_AFTER;
            match error {
                StoreError::Unavailable(why) => debug!("webhooks wait: {why}"),
                other => error!(error = %other, "the receipts of a webhook cannot be read: {other}"),
            }
        }
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        let room = self.queue.room(&self.shared.config).min(PAGE);
        let webhook = Arc::clone(&self.served.borrow().webhook);
        let store = Arc::clone(&self.shared.store);
        let bounds = store.receipt_bounds(webhook.tenant()).await?;
        self.follow(bounds);
        if bounds.newest <= self.queue.read() {
            self.more = false;
            return Ok(());
        }
        let page = store.receipts(webhook.tenant(), self.queue.read(), room).await?;
        // Asked once more behind the rows: what was dropped before they were read is missing.
        if self.follow(store.receipt_bounds(webhook.tenant()).await?) {
            self.more = true;
            return Ok(());
        }
        self.more = page.len() >= room;
        let Some(read) = page.last().map(|last| last.position) else {
            return Ok(());
        };
        let wanted = page
            .into_iter()
            .filter(|receipt| webhook.states.is_empty() || webhook.states.contains(&receipt.state));
        self.queue.take(wanted, read, self.shared.clock.now());
        Ok(())
    }

    /// Compares what was read with what the log has now. True: some are missing, and reading goes on behind them.
    fn follow(&mut self, bounds: FeedBounds) -> bool {
        let (now, read) = (self.shared.store.generation(), self.queue.read());
        let (gaps, position) = missing(&mut self.progress.generation, now, read, bounds);
        gaps.into_iter().for_each(|gap| self.miss(gap));
        if position == read {
            return false;
        }
        self.queue.go_on_behind(position);
        true
    }

    /// The receiver is to be told of it: stored in the step that moves the cursor beyond it.
    fn miss(&mut self, gap: Gap) {
        self.shared.metrics.gap(gap.reason);
        warn!(
            webhook.id = %self.id,
            "the webhook {} misses receipts behind {} ({}); its receiver is told", self.id, gap.after, gap.reason.as_str()
        );
        let gaps = &mut self.progress.gaps;
        let is_full = gaps.len() >= GAPS_MAX;
        match gaps.last_mut() {
            Some((last, _)) if is_full => (last.to, last.reason) = (gap.to, gap.reason),
            _ => gaps.push((gap, self.shared.clock.now())),
        }
    }
}

/// What is missing for a webhook that has read all up to `read`, and where it goes on. `known`: the life of the store that `read` is of.
fn missing(known: &mut Option<Generation>, now: Generation, read: u64, bounds: FeedBounds) -> (Vec<Gap>, u64) {
    let mut gaps = Vec::new();
    if *known != Some(now) {
        // An import brings webhooks before receipts: until those have come that were read, nothing is known of the others.
        if bounds.newest < read {
            return (gaps, read);
        }
        if let Some(generation) = known.replace(now) {
            let after = ReceiptCursor {
                position: read,
                generation,
            };
            let (from, to, reason) = (None, None, Missing::OtherStore);
            gaps.push(Gap { after, from, to, reason });
        }
    }
    if let Some((reason, from, to)) = bounds.missing_behind(read) {
        let at = |position| ReceiptCursor { position, generation: now };
        gaps.push(Gap {
            after: at(read),
            from: Some(at(from)),
            to: Some(at(to)),
            reason,
        });
    }
    (gaps, bounds.nearest(read))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_once_and_an_import_that_goes_on_is_waited_for() {
        let mut known = None;
        let mut check = |generation, read, (oldest, newest), expected: &[&str], position| {
            let bounds = FeedBounds { oldest, newest };
            let (gaps, goes_on) = missing(&mut known, Generation(generation), read, bounds);
            let shown = |cursor: Option<ReceiptCursor>| cursor.map_or("-".to_owned(), |cursor| cursor.to_string());
            let said: Vec<String> = gaps
                .iter()
                .map(|gap| format!("{} {} {} {}", gap.after, shown(gap.from), shown(gap.to), gap.reason.as_str()))
                .collect();
            assert_eq!((said, goes_on), (expected.iter().map(ToString::to_string).collect(), position));
        };
        // A new webhook, one that follows, and one that is late.
        check(1, 0, (0, 0), &[], 0);
        check(1, 4, (1, 9), &[], 4);
        check(1, 4, (7, 9), &["4.1 5.1 6.1 dropped"], 6);
        check(1, 6, (7, 9), &[], 6);
        // A server that was put back to an earlier moment.
        check(1, 9, (7, 8), &["9.1 9.1 9.1 lost"], 8);
        // An import: it has not come to what was read, then it has.
        check(2, 9, (0, 0), &[], 9);
        check(2, 9, (3, 8), &[], 9);
        check(2, 9, (3, 9), &["9.1 - - other-store"], 9);
        check(2, 9, (3, 12), &[], 9);
        // What was dropped before the export, too.
        check(3, 9, (12, 20), &["9.2 - - other-store", "9.3 10.3 11.3 dropped"], 11);
    }
}
