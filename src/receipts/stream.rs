//! `GET /v1/receipts`: every change of a delivery's state, as server-sent events.

use std::sync::Arc;

use axum::{Extension, Router, extract::State, http::HeaderMap, response::Response, routing::get};
use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Config, ReceiptMetrics,
    cursor::{Begin, Cursor, Start},
    events::READERS,
    follow::Follower,
    rooms::{Room, Rooms},
    row::{Filter, Row},
};
use crate::{
    crew::Crew,
    domain::{Caller, Gap, Generation, Missing, Refusal, TenantId},
    http::{
        Parameters, Positioned, Tail,
        sse::{self, AGAIN_AFTER, QUIET, RETRY},
    },
    store::{Store, StoreError},
};

/// Rows written at once.
const ROWS: usize = 256;
/// How often a consumer that wants none of what comes is told how far it is.
const SKIPPED_EVERY: Duration = Duration::from_secs(1);

/// The stream of receipts, and its task. Cheap to clone.
#[derive(Clone)]
pub struct Stream {
    store: Arc<dyn Store>,
    follower: Follower,
    metrics: ReceiptMetrics,
    rooms: Rooms,
    stop: CancellationToken,
}

impl Stream {
    /// Over `store`; nothing runs yet. `stop` ends every stream.
    pub fn new(config: Config, store: Arc<dyn Store>, metrics: ReceiptMetrics, stop: CancellationToken) -> Self {
        Self {
            follower: Follower::new(store.clone()),
            rooms: Rooms::new(config),
            store,
            metrics,
            stop,
        }
    }

    /// The route. The layer around it provides [`Caller`].
    pub fn router(&self) -> Router {
        Router::new().route("/v1/receipts", get(of_tenant)).with_state(self.clone())
    }

    /// Follows receipts for the streams until the crew stops.
    pub fn start(&self, crew: &Crew) {
        let follower = self.follower.clone();
        crew.spawn_vital(|stop| follower.run(stop));
    }
}

/// The handler.
async fn of_tenant(
    State(stream): State<Stream>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    mut parameters: Parameters,
) -> Result<Response, Refusal> {
    caller.require_any(&READERS)?;
    let start = Start::take(&headers, &mut parameters)?;
    let filter = Filter::take(&mut parameters)?;
    parameters.finish()?;
    if stream.stop.is_cancelled() {
        return Err(Refusal::Draining { retry_after: RETRY * 5 });
    }
    let room = stream.rooms.enter(caller.tenant)?;
    let consumer = Consumer::new(stream, caller.tenant, start, filter, room)
        .await
        .map_err(StoreError::refusal_of_all)?;
    Ok(sse::event_stream(futures_util::stream::unfold(
        consumer,
        |mut consumer| async move {
            let text = consumer.next().await?;
            Some((text, consumer))
        },
    )))
}

/// One consumer.
struct Consumer {
    stream: Stream,
    tenant: TenantId,
    generation: Generation,
    filter: Filter,
    tail: Arc<Tail<Row>>,
    news: watch::Receiver<u64>,
    /// All up to here was looked at.
    position: u64,
    /// The id that the consumer was given last.
    told: u64,
    told_at: Instant,
    first: Option<Bytes>,
    quiet_until: Instant,
    _room: Room,
}

impl Consumer {
    async fn new(stream: Stream, tenant: TenantId, start: Start, filter: Filter, room: Room) -> Result<Self, StoreError> {
        let generation = stream.store.generation();
        let tail = stream.follower.tail(tenant).await?;
        let bounds = stream.store.receipt_bounds(tenant).await?;
        let Begin { position, missing } = Begin::at(start, generation, bounds);
        let now = Instant::now();
        let mut consumer = Self {
            news: tail.news(),
            stream,
            tenant,
            generation,
            filter,
            tail,
            position,
            told: position,
            told_at: now,
            first: None,
            quiet_until: now + QUIET,
            _room: room,
        };
        consumer.stream.metrics.streams.inc();
        let mut first = format!("retry: {}\n", RETRY.as_millis());
        match (missing, start) {
            (Some((missing, range)), Start::Behind(asked)) => first += &consumer.gap(asked, missing, range)?,
            // An event without data is no event, and tells a client where it is.
            _ => first += &consumer.place(),
        }
        consumer.first = Some(first.into());
        Ok(consumer)
    }

    fn cursor(&self, position: u64) -> Cursor {
        Cursor {
            position,
            generation: self.generation,
        }
    }

    /// Where the consumer is.
    fn place(&self) -> String {
        format!("id: {}\n\n", self.cursor(self.position))
    }

    /// What is said of a gap: the cursor behind which receipts are missing, and the first and the last of them where they are known. The
    /// stream goes on behind the position of the consumer.
    fn gap(&self, after: Cursor, reason: Missing, range: Option<(u64, u64)>) -> Result<String, StoreError> {
        self.stream.metrics.gap(reason);
        let id = self.cursor(self.position);
        let (from, to) = range.map(|(from, to)| (self.cursor(from), self.cursor(to))).unzip();
        let gap = Gap { after, from, to, reason };
        let data = serde_json::to_string(&gap).map_err(|error| StoreError::Corrupt(error.to_string().into()))?;
        Ok(format!("id: {id}\nevent: gap\ndata: {data}\n\n"))
    }

    /// What to send next. `None`: the service stops, or the store became another one.
    async fn next(&mut self) -> Option<Bytes> {
        let stop = self.stream.stop.clone();
        let text = match self.first.take() {
            Some(first) => first,
            None => stop.run_until_cancelled(self.more()).await??,
        };
        let now = Instant::now();
        (self.told, self.told_at, self.quiet_until) = (self.position, now, now + QUIET);
        (!stop.is_cancelled()).then_some(text)
    }

    async fn more(&mut self) -> Option<Bytes> {
        loop {
            // An import took place: its cursors are others.
            if self.stream.store.generation() != self.generation {
                return None;
            }
            self.news.borrow_and_update();
            match self.tail.behind(self.position, ROWS) {
                Some(rows) if !rows.is_empty() => {
                    if let Some(text) = self.write(&rows) {
                        return Some(text);
                    }
                }
                Some(_) => {
                    let skipped = self.position > self.told;
                    let until = if skipped { self.told_at + SKIPPED_EVERY } else { self.quiet_until };
                    tokio::select! {
                        // An error cannot be: this stream has the tail.
                        _ = self.news.changed() => {}
                        () = sleep_until(until.min(self.quiet_until)) => {
                            return Some(if skipped { self.place().into() } else { sse::comment() });
                        }
                    }
                }
                None => match self.read().await {
                    Ok(Some(text)) => return Some(text),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::debug!("a stream of receipts waits for the store: {error}");
                        if Instant::now() >= self.quiet_until {
                            return Some(sse::comment());
                        }
                        sleep(AGAIN_AFTER).await;
                    }
                },
            }
        }
    }

    /// Reads what is further back than what the node keeps for all. `None`: there was nothing to write.
    async fn read(&mut self) -> Result<Option<Bytes>, StoreError> {
        let receipts = self.stream.store.receipts(self.tenant, self.position, ROWS).await?;
        let bounds = self.stream.store.receipt_bounds(self.tenant).await?;
        // Asked after the rows: if the oldest is right behind the cursor or before it, none is missing.
        let behind_all = bounds.behind_all();
        if self.position < behind_all {
            let (after, from) = (self.cursor(self.position), self.position + 1);
            self.position = behind_all;
            return Ok(Some(self.gap(after, Missing::Dropped, Some((from, behind_all)))?.into()));
        }
        if receipts.is_empty() {
            // The store has none that this node does not keep.
            self.position = self.position.max(self.tail.begins_behind());
            return Ok(None);
        }
        let rows = receipts.into_iter().map(|receipt| Row::of(receipt, self.generation));
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        Ok(self.write(&rows))
    }

    /// What the consumer wants of those rows, or from time to time how far it is. `None`: nothing is to be written.
    fn write(&mut self, rows: &[Row]) -> Option<Bytes> {
        if let Some(last) = rows.last() {
            self.position = last.position();
        }
        let wanted: Vec<&Row> = rows.iter().filter(|row| self.filter.wants(row)).collect();
        self.stream.metrics.sent.inc_by(wanted.len() as u64);
        match wanted.as_slice() {
            [] if self.told_at.elapsed() < SKIPPED_EVERY => None,
            [] => Some(self.place().into()),
            [one] => Some(one.text.clone()),
            many => Some(many.iter().flat_map(|row| row.text.iter().copied()).collect()),
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stream.metrics.streams.dec();
    }
}
