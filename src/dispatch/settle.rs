//! Ending deliveries in the store: what devices acknowledged is never forgotten while this process lives.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::Shared;
use crate::store::{Settle, Settled, StoreError};

/// First pause before trying again; doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// An end, and who waits to hear that it is kept.
pub(super) struct End {
    pub(super) settle: Settle,
    /// The number under which the session waits for the answer.
    pub(super) ticket: Option<u32>,
}

impl From<Settle> for End {
    fn from(settle: Settle) -> Self {
        Self { settle, ticket: None }
    }
}

impl End {
    /// Tells the session whether the event is known; what became of it is durable now.
    fn answer(&self, shared: &Shared, known: bool) {
        if let (Some(ticket), Some(epoch)) = (self.ticket, self.settle.epoch) {
            shared.answer(&self.settle.device, epoch, ticket, known);
        }
    }
}

/// Settles `ends`, trying again while the store does not answer. Gives up only when the crew stops: the events are then
/// delivered again, and the device drops the repeat.
pub(super) async fn settle(shared: &Arc<Shared>, mut ends: Vec<End>, stop: &CancellationToken) {
    let mut pause = PAUSE;
    loop {
        let answers = shared.store.settle(ends.iter().map(|end| end.settle.clone()).collect()).await;
        let mut again = Vec::new();
        for (end, answer) in ends.into_iter().zip(answers) {
            match answer {
                Ok(Settled::Now {
                    outcome, waited, urgency, ..
                }) => {
                    shared.metrics.ended(outcome, urgency, waited);
                    end.answer(shared, true);
                }
                Ok(Settled::Again) => {
                    shared.metrics.put_off.inc();
                    end.answer(shared, true);
                }
                Ok(Settled::Before(_) | Settled::OutcomeWanted) => end.answer(shared, true),
                Ok(Settled::Unknown) | Err(StoreError::UnknownDevice | StoreError::RemovedDevice) => end.answer(shared, false),
                Err(StoreError::Corrupt(what)) => {
                    let id = end.settle.id;
                    error!(event.id = %id, "the end of {id} could not be stored, its record is damaged: {what}");
                    end.answer(shared, false);
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
