//! The end of the gateway: every device hears that the node stops, and nothing that it acknowledged is lost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{metrics::Reason, reports, sessions::Entry, shared::Shared};
use crate::xmpp::StreamError;

/// How long the last acknowledgements are waited for.
const LAST_ACKNOWLEDGEMENTS: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);
const SLICES_A_SECOND: u32 = 10;

/// Waits for `stop`, then ends all sessions: asks for what is not acknowledged, listens for a moment, says
/// `<system-shutdown/>` (RFC 6120 §4.9.3.20) at the configured rate.
pub(super) async fn drain(shared: Arc<Shared>, stop: CancellationToken) {
    stop.cancelled().await;
    let listen_until = Instant::now() + LAST_ACKNOWLEDGEMENTS;
    for (_, entry) in shared.sessions.all() {
        if let Entry::Live(connection) = entry {
            connection.guarded(|connection, state| connection.end_burst(state, Instant::now()));
        }
    }
    while Instant::now() < listen_until && waiting(&shared) {
        tokio::time::sleep(LOOK).await;
    }
    let slice = usize::try_from(shared.config.drain_per_second / SLICES_A_SECOND)
        .unwrap_or(usize::MAX)
        .max(1);
    // A login that was finished meanwhile shows in the next round.
    while shared.sessions.len() > 0 {
        for (n, (_, entry)) in shared.sessions.all().into_iter().enumerate() {
            match entry {
                Entry::Live(connection) => {
                    connection.guarded(|connection, state| {
                        connection.fail(state, &StreamError::SystemShutdown, Reason::Shutdown, Instant::now());
                    });
                }
                Entry::Away(hibernated) => hibernated.end(Reason::Shutdown, false).await,
            }
            if n % slice == slice - 1 {
                tokio::time::sleep(Duration::from_secs(1) / SLICES_A_SECOND).await;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    reports::finish(&shared).await;
}

/// Whether any session has events that are written and not acknowledged.
fn waiting(shared: &Shared) -> bool {
    shared.sessions.all().into_iter().any(|(_, entry)| match entry {
        Entry::Live(connection) => {
            let state = connection.state.lock();
            state.closing.is_none() && !state.written.is_empty()
        }
        Entry::Away(_) => false,
    })
}
