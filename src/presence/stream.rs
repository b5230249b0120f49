//! `GET /v1/presence/stream`: the feed as server-sent events.

use std::sync::Arc;

use axum::{Extension, extract::State, http::HeaderMap, response::Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{follow::Row, routes::Routes};
use crate::{
    domain::{Caller, Refusal, Scope, TenantId},
    http::{
        Parameters, Tail, single,
        sse::{self, AGAIN_AFTER, QUIET, RETRY},
    },
    store::StoreError,
};

/// Rows written at once.
const ROWS: usize = 256;

/// One client.
struct Listener {
    routes: Routes,
    tenant: TenantId,
    tail: Arc<Tail<Row>>,
    news: watch::Receiver<u64>,
    /// All up to here was written.
    position: u64,
    first: Option<Bytes>,
    quiet_until: Instant,
    _room: OwnedSemaphorePermit,
}

/// The position behind which a client wants to go on: a header that a client repeats by itself, and is the newer one, before the
/// parameter.
fn cursor(headers: &HeaderMap, mut parameters: Parameters) -> Result<Option<u64>, Refusal> {
    let after = parameters.take("after")?;
    parameters.finish()?;
    let last = single(headers, "last-event-id")?.filter(|last| !last.is_empty());
    let why = || "it is not an id of this stream; leave it out to begin with what happens now".to_owned();
    if let Some(last) = last {
        return last.parse().map(Some).map_err(|_| Refusal::InvalidField {
            field: "Last-Event-ID".to_owned(),
            why: why(),
        });
    }
    after
        .map(|after| {
            after.parse().map_err(|_| Refusal::InvalidParameter {
                name: "after".to_owned(),
                why: why(),
            })
        })
        .transpose()
}

/// The handler.
pub(super) async fn stream_of_tenant(
    State(routes): State<Routes>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    caller.require(Scope::Read)?;
    let cursor = cursor(&headers, parameters)?;
    if routes.stop.is_cancelled() {
        return Err(Refusal::Draining { retry_after: RETRY * 5 });
    }
    let room = routes.rooms.clone().try_acquire_owned();
    let room = room.map_err(|_| Refusal::TooManyStreams {
        limit: routes.config.streams_max,
        retry_after: RETRY * 5,
    })?;
    let listener = Listener::new(routes, caller.tenant, cursor, room)
        .await
        .map_err(StoreError::refusal_of_all)?;
    Ok(sse::event_stream(stream::unfold(listener, |mut listener| async move {
        let text = listener.next().await?;
        Some((text, listener))
    })))
}

/// What is said of a gap: the cursor that was asked for, and the position from which the stream goes on.
fn gap(after: u64, position: u64) -> String {
    let from = position.saturating_add(1);
    format!("id: {position}\nevent: gap\ndata: {{\"after\":{after},\"from\":{from}}}\n\n")
}

impl Listener {
    async fn new(routes: Routes, tenant: TenantId, cursor: Option<u64>, room: OwnedSemaphorePermit) -> Result<Self, StoreError> {
        let tail = routes.follower.tail(tenant).await?;
        let bounds = routes.store.change_bounds(tenant).await?;
        let mut first = format!("retry: {}\n", RETRY.as_millis());
        let position = match cursor {
            None => bounds.newest,
            // All that is kept.
            Some(0) => bounds.behind_all(),
            // One of another life of the store is ahead of all there is.
            Some(after) => bounds.nearest(after),
        };
        match cursor {
            Some(after) if after != position && after != 0 => {
                routes.metrics.gaps.inc();
                first += &gap(after, position);
            }
            // An event without data is no event, and tells a client where it is.
            _ => first += &format!("id: {position}\n\n"),
        }
        routes.metrics.streams.inc();
        Ok(Self {
            news: tail.news(),
            routes,
            tenant,
            tail,
            position,
            first: Some(first.into()),
            quiet_until: Instant::now() + QUIET,
            _room: room,
        })
    }

    /// What to send next. `None`: the service stops.
    async fn next(&mut self) -> Option<Bytes> {
        let stop = self.routes.stop.clone();
        let text = match self.first.take() {
            Some(first) => first,
            None => stop.run_until_cancelled(self.more()).await?,
        };
        self.quiet_until = Instant::now() + QUIET;
        (!stop.is_cancelled()).then_some(text)
    }

    async fn more(&mut self) -> Bytes {
        loop {
            self.news.borrow_and_update();
            match self.tail.behind(self.position, ROWS) {
                Some(rows) if !rows.is_empty() => return self.write(&rows),
                Some(_) => tokio::select! {
                    // An error cannot be: this stream has the tail.
                    _ = self.news.changed() => {}
                    () = sleep_until(self.quiet_until) => return sse::comment(),
                },
                None => match self.read().await {
                    Ok(Some(text)) => return text,
                    Ok(None) => {}
                    Err(error) => {
                        tracing::debug!("a stream of presence waits for the store: {error}");
                        if Instant::now() >= self.quiet_until {
                            return sse::comment();
                        }
                        sleep(AGAIN_AFTER).await;
                    }
                },
            }
        }
    }

    /// Reads what is further back than what the node keeps for all. `None`: there is nothing, up to what is kept.
    async fn read(&mut self) -> Result<Option<Bytes>, StoreError> {
        let changes = self.routes.store.changes(self.tenant, self.position, ROWS).await?;
        let bounds = self.routes.store.change_bounds(self.tenant).await?;
        // Asked after the rows: if the oldest is right behind the cursor or before it, none is missing.
        let oldest = bounds.behind_all();
        if self.position < oldest {
            let text = gap(self.position, oldest);
            self.position = oldest;
            self.routes.metrics.gaps.inc();
            return Ok(Some(text.into()));
        }
        if changes.is_empty() {
            // The store has none that this node does not keep.
            self.position = self.position.max(self.tail.begins_behind());
            return Ok(None);
        }
        let rows = changes.iter().map(Row::of).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(self.write(&rows)))
    }

    fn write(&mut self, rows: &[Row]) -> Bytes {
        if let Some(last) = rows.last() {
            self.position = last.position;
        }
        rows.iter().for_each(|row| self.routes.metrics.sent(row.kind));
        match rows {
            [one] => one.text.clone(),
            many => many.iter().flat_map(|row| row.text.iter().copied()).collect(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.routes.metrics.streams.dec();
    }
}
