//! Many events in one request: a CloudEvents batch, or NDJSON. Each stands alone: one that is refused spoils no other.
//!
//! A batch is read whole and refused whole when it is no batch. NDJSON is read line by line and never held whole. Both go through
//! [`flow`], which stores rounds of events and keeps the order of each device; what became of each leaves it in the order of the
//! request, and goes into a [`summary`], or line by line into an [`answer`] that is sent while the rest is still read.

mod answer;
mod flow;
mod outcome;
mod round;
mod source;
mod summary;

use axum::{
    Json,
    body::Body,
    http::HeaderMap,
    response::{IntoResponse, Response},
};

use self::{
    answer::{Results, response},
    flow::{Flow, run},
    source::Source,
    summary::Summary,
};
use super::{IngressState, options::Common};
use crate::{
    domain::{Caller, Refusal},
    http::{Lines, Parameters, json, read_counted},
};

/// Bytes that a request of NDJSON holds at most: the piece of the body that is being read, with a line that began before it, and
/// the events that are under way.
const STREAM_BYTES: usize = flow::WINDOW_BYTES + 1024 * 1024;

/// In which form many events come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `application/cloudevents-batch+json`: an array of CloudEvents.
    Batch,
    /// `application/x-ndjson`: an event a line, native or, where it has `specversion`, a CloudEvent.
    Lines,
}

/// What the answer tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Counts, and the first that were refused, once all is done.
    Summary,
    /// Each that was refused, as soon as it is known.
    Errors,
    /// Each event, as soon as it is stored.
    All,
}

impl Told {
    pub fn take(parameters: &mut Parameters) -> Result<Option<Self>, Refusal> {
        match parameters.take("results")?.as_deref() {
            None => Ok(None),
            Some("summary") => Ok(Some(Self::Summary)),
            Some("errors") => Ok(Some(Self::Errors)),
            Some("all") => Ok(Some(Self::All)),
            Some(other) => Err(Refusal::InvalidParameter {
                name: "results".into(),
                why: format!("{other:?} is none of summary, errors, all"),
            }),
        }
    }
}

/// One request with many events, as far as its head tells.
pub(super) struct Request {
    pub state: IngressState,
    pub caller: Caller,
    pub form: Form,
    pub told: Told,
    pub validate_only: bool,
}

impl Request {
    /// Reads, stores and answers.
    ///
    /// # Errors
    /// What refuses the whole request: nothing of it was stored.
    pub async fn answer(self, headers: &HeaderMap, body: Body) -> Result<Response, Refusal> {
        let limits = &self.state.0.limits;
        let common = Common::of(headers, limits)?;
        let (source, room) = match self.form {
            Form::Lines => {
                let room = self.state.0.admission.bytes(STREAM_BYTES)?;
                (Source::Lines(Lines::new(body, limits.request_max_bytes)), vec![room])
            }
            Form::Batch => {
                let mut rooms = Vec::new();
                let body = read_counted(body, limits.batch_max_bytes, |bytes| {
                    rooms.push(self.state.0.admission.bytes(bytes)?);
                    Ok(())
                })
                .await?;
                let items = json::items(json::utf8(&body)?, limits.batch_max_events)?;
                let items: Vec<_> = items.into_iter().map(|item| body.slice_ref(item.as_bytes())).collect();
                (Source::Batch(items.into_iter()), rooms)
            }
        };
        let (told, metrics) = (self.told, self.state.0.metrics.clone());
        let summary = Summary::new(self.validate_only);
        let flow = Flow::new(self.state, self.caller, self.form, common, self.validate_only);
        if told == Told::Summary {
            let mut results = Results::kept(summary, metrics);
            let end = run(source, flow, &mut results).await;
            drop(room);
            return match end {
                // It broke before anything came of it.
                Some(refusal) if results.summary.total() == 0 => Err(refusal),
                end => Ok(Json(results.summary.whole(end.as_ref())).into_response()),
            };
        }
        let (mut results, pieces) = Results::told(summary, metrics, told == Told::All)?;
        Ok(response(pieces, async move {
            let end = run(source, flow, &mut results).await;
            results.finish(end.as_ref());
            drop(room);
        }))
    }
}
