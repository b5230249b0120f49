//! The answer to a poll.

use std::{fmt::Write, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::cursor::Vector;
use crate::{
    domain::Refusal,
    http::single,
    store::{Page, QueuedEvent},
};

/// What a device is shown, and where that leaves it.
pub(super) struct Shown {
    pub(super) events: Vec<Arc<QueuedEvent>>,
    /// Whether more waits behind them.
    pub(super) more: bool,
    pub(super) next: Vector,
}

impl Shown {
    /// As many events of the page as fit into `max_bytes`, at least one. They come behind `after`.
    pub(super) fn of(page: Page, after: &Vector, max_bytes: usize) -> Self {
        let Page { mut events, mut more } = page;
        let mut bytes = 0;
        let fitting = events.iter().take_while(|event| {
            bytes += event.event.json.0.len();
            bytes <= max_bytes
        });
        let fitting = fitting.count().max(1);
        more |= events.len() > fitting;
        events.truncate(fitting);
        let mut next = after.clone();
        events.iter().for_each(|event| next.pass(event));
        Self { events, more, next }
    }

    /// Bytes of the events' JSON.
    pub(super) fn payload(&self) -> usize {
        self.events.iter().map(|event| event.event.json.0.len()).sum()
    }

    /// The body. The events are JSON already; ids, lanes and vectors have no character that JSON escapes.
    fn body(&self, poll_after_secs: u32) -> String {
        let mut body = String::with_capacity(self.payload() + 128 * (self.events.len() + 1));
        body.push_str("{\"events\":[");
        for (at, event) in self.events.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let (id, lane, seq, json) = (event.id, event.lane, event.seq.0, &event.event.json.0);
            // Writing to a String cannot fail.
            let _ = write!(body, r#"{comma}{{"id":"{id}","lane":"{lane}","seq":{seq},"event":{json}}}"#);
        }
        let next = self.next.text();
        let _ = write!(body, r#"],"next":"{next}","poll_after_seconds":{poll_after_secs}}}"#);
        body
    }

    /// 304 when there is nothing and the device has that already, else 200.
    pub(super) fn answer(&self, known: Option<&str>, poll_after_secs: u32) -> Response {
        let etag = self.next.etag();
        let mut response = if self.events.is_empty() && known.is_some_and(|known| names(known, &etag)) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let json = HeaderValue::from_static("application/json");
            ([(header::CONTENT_TYPE, json)], Body::from(self.body(poll_after_secs))).into_response()
        };
        let headers = response.headers_mut();
        if let Ok(etag) = HeaderValue::try_from(etag) {
            headers.insert(header::ETAG, etag);
        }
        headers.insert(header::RETRY_AFTER, HeaderValue::from(poll_after_secs));
        response
    }
}

/// What the device has already, as it says (RFC 9110 §13.1.2).
///
/// # Errors
/// `InvalidField` when the header is there twice or is no text.
pub(super) fn known(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    single(headers, header::IF_NONE_MATCH.as_str())
}

/// Whether a list of entity tags has this one, by the weak comparison that `If-None-Match` asks for.
fn names(list: &str, etag: &str) -> bool {
    list == "*" || list.split(',').any(|one| one.trim().trim_start_matches("W/") == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_tag_is_found_in_a_list() {
        let check = |list, expected| assert_eq!(names(list, "\"b\""), expected, "{list}");
        check("\"b\"", true);
        check("\"a\", W/\"b\"", true);
        check("*", true);
        check("\"a\"", false);
        check("b", false);
        check("", false);
    }
}
