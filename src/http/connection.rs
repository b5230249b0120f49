//! One HTTP/1.1 connection: its clock, its requests, its end.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, Response, header},
    response::IntoResponse,
};
use bytes::Bytes;
use futures_util::FutureExt;
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::{debug, error};

use super::{Config, Peer, Wire, patience::patient, serve::Served};
use crate::domain::Refusal;

/// What a connection is doing, and since when. The low two bits of the word are the phase, the rest milliseconds.
struct Watch {
    began: Instant,
    word: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Between requests.
    Idle = 0,
    /// A part of a request's head came.
    Head = 1,
    /// A handler works, or its answer is being written.
    Serving = 2,
}

impl Watch {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            word: AtomicU64::new(Phase::Head as u64),
        }
    }

    fn enter(&self, phase: Phase) {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX >> 2);
        self.word.store(since << 2 | phase as u64, Ordering::Relaxed);
    }

    fn phase(&self) -> (Phase, Instant) {
        let word = self.word.load(Ordering::Relaxed);
        let phase = match word & 3 {
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Serving,
        };
        (phase, self.began + Duration::from_millis(word >> 2))
    }

    /// When to look again; `None`: the connection has had its time.
    fn next_look(&self, config: &Config, now: Instant) -> Option<Instant> {
        let (phase, since) = self.phase();
        let due = match phase {
            Phase::Head => since + Duration::from_secs(config.head_secs),
            Phase::Idle => since + Duration::from_secs(config.idle_secs),
            // A body has its own clock, and an unread answer the socket's. An idle connection must be noticed in time.
            Phase::Serving => return Some(now + Duration::from_secs(config.head_secs.max(1))),
        };
        // The head of a request may begin at any moment, so look at least that often.
        (due > now).then(|| due.min(now + Duration::from_secs(config.head_secs.max(1))))
    }
}

/// Serves the requests of one connection until it ends, leaves HTTP, has had its time, or `stop` is called and the request at hand
/// answered. With `full` every request is answered with 429. `wire` counts what `io` costs, which `peer` has at its other end.
pub(super) async fn run<I>(io: I, (wire, peer): (Wire, Peer), served: Served, config: &Config, stop: CancellationToken, full: bool)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let watch = Arc::new(Watch::new());
    // Dropped behind the connection: the last exchange is charged with its end.
    let _ends = Ends(wire.clone());
    let body_allowed = Duration::from_secs(config.body_secs);
    let service = service_fn(|mut request: Request<Incoming>| {
        watch.enter(Phase::Serving);
        wire.began();
        request.extensions_mut().insert(wire.clone());
        request.extensions_mut().insert(peer);
        let (service, answered) = (served.clone(), Answered(Arc::clone(&watch), wire.clone()));
        async move {
            let early = match &service.shedding {
                _ if full => Some(no_room()),
                Some(shedding) => shedding.refuse(&request).await,
                None => None,
            };
            let response = match early {
                Some(refusal) => refusal,
                None => answer(service.router, request, body_allowed).await,
            };
            Ok::<_, Infallible>(response.map(|body| Answer { body, _answered: answered }))
        }
    });
    let io = TokioIo::new(Watched {
        io,
        watch: Arc::clone(&watch),
    });
    let mut connection = pin!(
        http1::Builder::new()
            .header_read_timeout(None)
            .max_header_size(config.head_max_bytes)
            .serve_connection(io, service)
            .with_upgrades()
    );
    let mut stopping = false;
    let mut timer = pin!(sleep_until(Instant::now() + Duration::from_secs(config.head_secs.max(1))));
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "an HTTP connection ended: {error}");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = timer.as_mut() => match watch.next_look(config, Instant::now()) {
                Some(look) => timer.as_mut().reset(look),
                None => {
                    debug!(phase = ?watch.phase().0, "an HTTP connection has had its time");
                    return;
                }
            },
        }
    }
}

async fn answer(mut router: Router, request: Request<Incoming>, body_allowed: Duration) -> Response<Body> {
    let call = router.call(request.map(|body| patient(body, body_allowed)));
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(panic) => {
            let message = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            let mut reference = [0; 4];
            // Without random bytes the reference is 0: the log line is still there.
            let _ = aws_lc_rs::rand::fill(&mut reference);
            let reference = format!("{:08x}", u32::from_be_bytes(reference));
            error!(reference, panic = message, "a request made its handler panic: {message}");
            Refusal::Internal(reference).into_response()
        }
    }
}

fn no_room() -> Response<Body> {
    let mut response = Refusal::Overloaded {
        retry_after: Duration::from_secs(5),
    }
    .into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Marks the end of an answer, or of the attempt to give one.
struct Answered(Arc<Watch>, Wire);

impl Drop for Answered {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
        self.1.answered();
    }
}

/// Marks the end of a connection.
struct Ends(Wire);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.ended();
    }
}

/// The body of an answer; the connection is idle once it is gone.
struct Answer {
    body: Body,
    _answered: Answered,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that notes when the first bytes of a request come.
pub(super) struct Watched<I> {
    io: I,
    watch: Arc<Watch>,
}

impl<I> Watched<I> {
    /// The stream, watched no more.
    pub(super) fn into_inner(self) -> I {
        self.io
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if buffer.filled().len() > before && self.watch.phase().0 == Phase::Idle {
            self.watch.enter(Phase::Head);
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[std::io::IoSlice<'_>]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
