//! Where the outcomes go: into a summary that is kept until all is done, or into an answer that is sent meanwhile.

use std::{future::Future, time::Duration};

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use tokio::{pin, sync::mpsc, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{flow::Flow, outcome::Outcome, summary::Summary};
use crate::{domain::Refusal, ingress::IngressMetrics};

/// How long a client may leave the answer unread. A little less than the socket's own clock (`[http] write_secs`), so that the
/// last line still finds it open.
const UNREAD: Duration = Duration::from_secs(25);
/// Pieces of an answer that wait for the socket.
const PIECES: usize = 4;

/// Takes what became of each event, in the order of the request.
pub(super) struct Results {
    pub summary: Summary,
    metrics: IngressMetrics,
    answer: Option<Answer>,
}

impl Results {
    /// Counts and keeps.
    pub fn kept(summary: Summary, metrics: IngressMetrics) -> Self {
        Self {
            summary,
            metrics,
            answer: None,
        }
    }

    /// Counts, and tells of each event (`all`), or of each that was refused. The pieces of the answer come out of the receiver.
    pub fn told(summary: Summary, metrics: IngressMetrics, all: bool) -> Result<(Self, mpsc::Receiver<Bytes>), Refusal> {
        let (pieces, told) = mpsc::channel(PIECES + 1);
        let last = pieces.clone().try_reserve_owned();
        let answer = Answer {
            all,
            text: String::new(),
            pieces,
            last: last.map_err(|_| Refusal::Internal("the answer has no room".into()))?,
        };
        let results = Self {
            summary,
            metrics,
            answer: Some(answer),
        };
        Ok((results, told))
    }

    pub fn add(&mut self, index: usize, outcome: &Outcome) {
        if let Outcome::Refused(refusal) = outcome {
            self.metrics.refused(refusal);
        }
        self.summary.add(index, outcome, self.answer.is_none());
        if let Some(answer) = &mut self.answer
            && (answer.all || matches!(outcome, Outcome::Refused(_)))
        {
            outcome.write(index, &mut answer.text);
        }
    }

    /// Hands to the client what there is to tell. What is at the store goes on meanwhile.
    ///
    /// # Errors
    /// `AnswerUnread`.
    pub async fn hand_over(&mut self, flow: &mut Flow) -> Result<(), Refusal> {
        let Some(answer) = self.answer.as_mut().filter(|answer| !answer.text.is_empty()) else {
            return Ok(());
        };
        let room = timeout(UNREAD, answer.pieces.reserve());
        pin!(room);
        let room = loop {
            let at_store = flow.is_at_store();
            tokio::select! {
                biased;
                room = &mut room => break room,
                _ = flow.step(), if at_store => {}
            }
        };
        match room {
            Ok(Ok(room)) => {
                room.send(std::mem::take(&mut answer.text).into());
                Ok(())
            }
            // Whoever asked is gone, or as good as gone.
            Ok(Err(_)) | Err(_) => Err(Refusal::AnswerUnread { within: UNREAD }),
        }
    }

    /// Ends an answer that tells of each event: its last line has a place of its own.
    pub fn finish(self, end: Option<&Refusal>) {
        if let Some(mut answer) = self.answer {
            answer.text.push_str(&self.summary.last_line(end));
            answer.last.send(answer.text.into());
        }
    }
}

/// An answer on its way.
struct Answer {
    all: bool,
    text: String,
    pieces: mpsc::Sender<Bytes>,
    last: mpsc::OwnedPermit<Bytes>,
}

/// The answer whose pieces `work` makes. The work ends with it: when the client is gone, nobody goes on reading.
pub(super) fn response(told: mpsc::Receiver<Bytes>, work: impl Future<Output = ()> + Send + 'static) -> Response {
    let work = AbortOnDropHandle::new(tokio::spawn(work));
    let pieces = stream::unfold(Some((told, work)), |state| async move {
        let (mut told, work) = state?;
        match told.recv().await {
            Some(piece) => Some((Ok(piece), Some((told, work)))),
            // An answer without its last line must not look whole.
            None => work.await.err().map(|error| (Err(error), None)),
        }
    });
    let headers = [
        (header::CONTENT_TYPE.as_str(), "application/x-ndjson"),
        ("x-accel-buffering", "no"), // a proxy before it must not collect
    ];
    (headers, Body::from_stream(pieces)).into_response()
}
