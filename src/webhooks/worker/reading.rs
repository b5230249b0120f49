//! How a webhook follows the receipts of its tenant, and finds that some are missing.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::{AGAIN_AFTER, PAGE, Worker};
use crate::{
    domain::{Gap, Missing, ReceiptCursor},
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
        let (generation, read) = (self.shared.store.generation(), self.queue.read());
        let at = |position| ReceiptCursor { position, generation };
        if self.progress.generation != Some(generation) {
            // An import brings webhooks before receipts: until those have come that were sent, nothing is known of the others.
            if bounds.newest < read {
                return false;
            }
            if let Some(before) = self.progress.generation.replace(generation) {
                let after = ReceiptCursor {
                    position: read,
                    generation: before,
                };
                let (from, to, reason) = (None, None, Missing::OtherStore);
                self.miss(Gap { after, from, to, reason });
            }
        }
        let Some((reason, from, to)) = bounds.missing_behind(read) else {
            return false;
        };
        self.miss(Gap {
            after: at(read),
            from: Some(at(from)),
            to: Some(at(to)),
            reason,
        });
        self.queue.go_on_behind(bounds.nearest(read));
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
