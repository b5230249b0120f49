//! Ending deliveries in the store: what devices acknowledged is never forgotten while this process lives.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::Shared;
use crate::store::{Settle, Settled, StoreError};

/// First pause before trying again; doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Settles `ends`, trying again while the store does not answer. Gives up only when the crew stops: the events are then
/// delivered again, and the device drops the repeat.
pub(super) async fn settle(shared: &Arc<Shared>, mut ends: Vec<Settle>, stop: &CancellationToken) {
    let mut pause = PAUSE;
    loop {
        let answers = shared.store.settle(ends.clone()).await;
        let mut again = Vec::new();
        for (end, answer) in ends.into_iter().zip(answers) {
            match answer {
                Ok(Settled::Now { waited, urgency, .. }) => shared.metrics.ended(end.outcome, urgency, waited),
                Ok(Settled::Before(_) | Settled::Unknown) | Err(StoreError::UnknownDevice | StoreError::RemovedDevice) => {}
                Err(StoreError::Corrupt(what)) => {
                    error!(event.id = %end.id, "the end of {} could not be stored, its record is damaged: {what}", end.id);
                }
                Err(_) => again.push(end),
            }
        }
        if again.is_empty() {
            return;
        }
        shared.metrics.settle_retries.inc();
        warn!(
            "the store did not take {} ends of deliveries, trying again in {} ms",
            again.len(),
            pause.as_millis()
        );
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            warn!(
                "{} ends of deliveries could not be stored before the stop; those events will be delivered again",
                again.len()
            );
            return;
        }
        pause = (pause * 2).min(PAUSE_MAX);
        ends = again;
    }
}
