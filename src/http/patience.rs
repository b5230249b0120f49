//! A request's body that must keep coming: a client that sends a byte now and then cannot hold a connection for ever.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::BoxError;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// The slowest rate at which a body may come once its first time is over, in bytes a second.
pub(super) const LEAST_BYTES_A_SECOND: u64 = 1_024;

/// The body did not come in time.
#[derive(Debug, thiserror::Error)]
#[error("the body did not arrive in time")]
pub(super) struct TooSlow {
    /// What had come.
    pub received: u64,
}

/// A body that fails with [`TooSlow`] when it is waited for longer than `allowed` and a second for every KiB. While nobody waits,
/// because what came is worked on, its clock stands still.
pub(super) struct Patient<B> {
    body: B,
    allowed: Duration,
    /// How long it was waited for, up to the last piece that came.
    waited: Duration,
    /// Since when it is waited for now.
    waits_since: Option<Instant>,
    received: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> Patient<B> {
    /// The clock starts when the body is first waited for.
    pub fn new(body: B, allowed: Duration) -> Self {
        Self {
            body,
            allowed,
            waited: Duration::ZERO,
            waits_since: None,
            received: 0,
            timer: None,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Patient<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            if let Some(since) = this.waits_since.take() {
                this.waited += since.elapsed();
            }
            if let Some(Ok(frame)) = &frame {
                this.received += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        // Only a body that is waited for costs a timer: most are there with their head.
        let since = *this.waits_since.get_or_insert_with(Instant::now);
        let allowed = this.allowed + Duration::from_secs(this.received / LEAST_BYTES_A_SECOND);
        let deadline = since + allowed.saturating_sub(this.waited);
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(Box::new(TooSlow { received: this.received })))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The patient body as axum takes it.
pub(super) fn patient(body: hyper::body::Incoming, allowed: Duration) -> axum::body::Body {
    if body.is_end_stream() {
        return axum::body::Body::empty();
    }
    axum::body::Body::new(Patient::new(body, allowed))
}
