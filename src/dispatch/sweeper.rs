//! The sweeper: ends what expired while nobody looked, and drops what was kept long enough.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Shared;

pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let every = Duration::from_secs(shared.config.sweep_secs.max(1));
    let pause = Duration::from_millis(shared.config.sweep_pause_ms.max(1));
    loop {
        let complete = match shared.store.sweep(shared.clock.now()).await {
            Ok(swept) => {
                shared.metrics.count("expired", "none", swept.expired);
                swept.complete
            }
            Err(error) => {
                warn!("a round of the sweeper failed, the next one goes on: {error}");
                true
            }
        };
        let rest = if complete { every } else { pause };
        if stop.run_until_cancelled(tokio::time::sleep(rest)).await.is_none() {
            return;
        }
    }
}
