//! The pace at which the devices of a dead node are told of.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::PresenceMetrics;
use crate::store::{Store, StoreError};

/// How often a part of them is told.
const EVERY: Duration = Duration::from_millis(100);

/// Ends seats of dead nodes, `per_second` of them, until the stop.
pub(super) async fn run(store: Arc<dyn Store>, metrics: PresenceMetrics, per_second: u32, stop: CancellationToken) {
    let (mut owed, a_round) = (0.0, f64::from(per_second.max(1)) * EVERY.as_secs_f64());
    let mut failing = false;
    while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        // A pace below one a round is kept, too; what was not used is not saved up.
        owed = (owed + a_round).min(a_round.max(1.0));
        if owed < 1.0 {
            continue;
        }
        match store.end_lost_seats(owed as usize).await {
            Ok(ended) => {
                owed -= ended.seats as f64;
                metrics.lost_seats.inc_by(ended.seats);
                failing = false;
            }
            // Said once: other parts say it of every request.
            Err(StoreError::Unavailable(why)) => tracing::debug!("the seats of dead nodes wait: {why}"),
            Err(error) => {
                if !failing {
                    warn!(error = %error, "the seats of dead nodes cannot be ended; it is tried again: {error}");
                }
                failing = true;
            }
        }
    }
}
