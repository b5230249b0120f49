//! Server-sent events (WHATWG HTML §9.2): what all streams say in the same way.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::Stream;

/// When a client that lost its stream is to try again.
pub const RETRY: Duration = Duration::from_secs(2);
/// How long a stream says nothing.
pub const QUIET: Duration = Duration::from_secs(15);
/// When a store that did not answer is asked again.
pub const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A comment: it shows that the stream is alive, and changes nothing.
pub fn comment() -> Bytes {
    Bytes::from_static(b":\n\n")
}

/// The answer that is a stream. It is asked for more only when the socket has room; a client that does not read is cut off by the socket's
/// clock (`[http] write_secs`).
pub fn event_stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    use futures_util::StreamExt;
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/event-stream"),
        (header::CACHE_CONTROL.as_str(), "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS.as_str(), "nosniff"),
        ("x-accel-buffering", "no"), // a proxy before it must not collect
    ];
    (headers, Body::from_stream(stream.map(Ok::<_, Infallible>))).into_response()
}
