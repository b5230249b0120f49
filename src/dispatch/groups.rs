//! Events to several devices whose node died between their record and their last copy: they are completed here.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Shared;
use crate::{
    domain::{Reason, Timestamp},
    store::group::complete,
};

/// Groups of one look.
const TOGETHER: usize = 256;

/// Completes what has been unfinished for so long that its node can be taken for dead. Twice made, a copy is the same.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let patience = Duration::from_secs(shared.config.group_patience_secs.max(1));
    loop {
        let begun_before = Timestamp(shared.clock.now().0.saturating_sub(patience.as_millis() as u64));
        if let Err(error) = round(&shared, begun_before).await {
            warn!("events to several devices wait for their copies until the store answers: {error}");
        }
        if stop.run_until_cancelled(tokio::time::sleep(patience / 2)).await.is_none() {
            return;
        }
    }
}

async fn round(shared: &Shared, begun_before: Timestamp) -> Result<(), crate::store::StoreError> {
    for place in shared.store.unfinished_groups(begun_before, TOGETHER).await? {
        if let Some(made) = complete(&*shared.store, place, shared.clock.now()).await? {
            shared.metrics.completed.inc();
            for (state, reason, by) in made.ended() {
                shared.metrics.count(state.as_str(), reason.map_or("none", Reason::as_str), by);
            }
            info!(event.id = %shared.store.group_id(place), "an event to several devices is completed: {} copies", made.states.len());
        }
    }
    Ok(())
}
