//! Events that their devices wanted once more: when their pause is over they are at the tail of their lanes again.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Shared;

/// How exact a pause is.
const EVERY: Duration = Duration::from_millis(500);
/// Events of one step of the store.
const TOGETHER: usize = 256;

pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        loop {
            match shared.store.requeue_due(shared.clock.now(), TOGETHER).await {
                Ok(looked) if looked >= TOGETHER => {}
                Ok(_) => break,
                Err(error) => {
                    warn!("events that are due again wait until the store answers: {error}");
                    break;
                }
            }
        }
    }
}
