//! `GET /v1/export`: everything, line by line. The next page is read when the client has taken the one before.

use std::{io, sync::Arc};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;

use super::{TransferState, busy};
use crate::{
    domain::{Caller, Refusal, Scope},
    http::Parameters,
    store::{
        StoreError,
        transfer::{Counts, Part, Row, Transfer},
    },
};

/// How far the answer has come.
struct Walk {
    store: Arc<dyn Transfer>,
    lines: Vec<u8>,
    parts: std::slice::Iter<'static, Part>,
    part: Option<Part>,
    after: Option<Vec<u8>>,
    counts: Counts,
    key_name: Arc<str>,
    _room: OwnedSemaphorePermit,
}

pub(super) async fn get(
    State(state): State<TransferState>,
    Extension(caller): Extension<Caller>,
    parameters: Parameters,
) -> Result<Response, Refusal> {
    caller.require(Scope::Operator)?;
    parameters.finish()?;
    let Ok(room) = state.0.exports.clone().try_acquire_owned() else {
        return Err(busy());
    };
    let store = state.0.store.clone();
    let head = store.header().await.map_err(StoreError::refusal_of_all)?;
    tracing::info!(key.name = %caller.key_name, "the key {} exports everything", caller.key_name);
    let mut walk = Walk {
        store,
        lines: Vec::new(),
        parts: Part::ALL.iter(),
        part: None,
        after: None,
        counts: Counts::default(),
        key_name: caller.key_name,
        _room: room,
    };
    walk.write(&Row::Export(head))
        .map_err(|error| Refusal::Internal(error.to_string()))?;
    walk.part = walk.parts.next().copied();
    let lines = stream::try_unfold(Some(walk), next);
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    Ok((kind, Body::from_stream(lines)).into_response())
}

/// The next lines, a page of the store or so.
async fn next(walk: Option<Walk>) -> io::Result<Option<(Bytes, Option<Walk>)>> {
    let Some(mut walk) = walk else { return Ok(None) };
    while let Some(part) = walk.part {
        let page = walk.store.rows(part, walk.after.take()).await.map_err(|error| {
            // The answer has begun: an end without the last line is all that the client sees.
            tracing::error!(error = %error, "an export is cut short: {error}");
            io::Error::other(error)
        })?;
        for row in &page.rows {
            walk.counts.count(row);
            walk.write(row)?;
        }
        walk.after = page.next;
        if walk.after.is_none() {
            walk.part = walk.parts.next().copied();
        }
        if !walk.lines.is_empty() {
            return Ok(Some((std::mem::take(&mut walk.lines).into(), Some(walk))));
        }
    }
    let counts = walk.counts;
    walk.write(&Row::End(counts))?;
    tracing::info!(
        key.name = %walk.key_name,
        "the export of the key {} is complete: {} devices, {} deliveries", walk.key_name, counts.devices, counts.deliveries
    );
    Ok(Some((walk.lines.into(), None)))
}

impl Walk {
    fn write(&mut self, row: &Row) -> io::Result<()> {
        serde_json::to_writer(&mut self.lines, row)?;
        self.lines.push(b'\n');
        Ok(())
    }
}
