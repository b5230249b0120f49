//! Every way in which the service says no to a backend.

use std::time::Duration;

use super::{DeviceId, EventId, InvalidFilter, InvalidName, Scope, Timestamp, UserId};

/// A refusal. Nothing was stored, unless it is `Unavailable`: then it may have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The body is not JSON.
    #[error("the body is not JSON: {detail} at line {line}, column {column}")]
    BadJson {
        /// What the parser met.
        detail: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// The body is not UTF-8.
    #[error("the body is not UTF-8: the bytes at offset {offset} are no character")]
    BadUtf8 {
        /// Offset of the first bad byte.
        offset: usize,
    },
    /// A character that XML 1.0 cannot carry.
    #[error(
        "{field} has the character U+{code:04X} at offset {offset}, which XML 1.0 cannot carry; remove it or send the data as data_base64"
    )]
    UnprintableText {
        /// Which field.
        field: String,
        /// The code point.
        code: u32,
        /// Its byte offset within the field, or within the body when the field is `the body`.
        offset: usize,
    },
    /// A field the service does not know.
    #[error("the field {0} is not known here; remove it or correct its name")]
    UnknownField(String),
    /// A field that must be there is not.
    #[error("the field {0} is missing")]
    MissingField(String),
    /// A field of the wrong type or form.
    #[error("the field {field} is not valid: {why}")]
    InvalidField {
        /// Its name, as the sender wrote it.
        field: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// A query parameter that is not known or not valid.
    #[error("the query parameter {name} is not valid: {why}")]
    InvalidParameter {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A filter that cannot be read.
    #[error("the filter is not valid {0}")]
    InvalidFilter(InvalidFilter),
    /// No target.
    #[error("the event has no target; name one with target.device, or in CloudEvents with pushdevice or a subject that is a device id")]
    NoTarget,
    /// More than one target.
    #[error("the event has {count} targets ({names}); name exactly one")]
    TwoTargets {
        /// How many.
        count: usize,
        /// Which.
        names: String,
    },
    /// A TTL outside the limits.
    #[error("ttl is {ttl} s; 0 to {max} are allowed")]
    TtlOutOfRange {
        /// What was asked.
        ttl: String,
        /// The longest.
        max: u64,
    },
    /// The body is too large.
    #[error("the body has more than {limit} bytes; send less, or a link to the data")]
    BodyTooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The body did not arrive in time.
    #[error("the body did not arrive in time: {received} bytes came; send it at once, or with at least {least} bytes a second")]
    BodyTooSlow {
        /// What came.
        received: u64,
        /// The slowest rate that is taken, in bytes a second.
        least: u64,
    },
    /// The body ended before its end, or its framing is broken (RFC 9112 §6).
    #[error("the body did not arrive whole: {0}")]
    BodyBroken(String),
    /// The `data` of an event is too large.
    #[error("data has {size} bytes; at most {limit} are allowed, so send a link to it instead")]
    DataTooLarge {
        /// Its size, in bytes.
        size: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// One of many events in a request is too large.
    #[error("the event has more than {limit} bytes; send less, or a link to the data")]
    ItemTooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A batch has too many events.
    #[error("the batch has more than {limit} events; send several, or all of them as application/x-ndjson, which has no such limit")]
    TooManyEvents {
        /// How many may be in it.
        limit: usize,
    },
    /// The client does not read the answer that is sent while its request is still read.
    #[error(
        "the answer was not read for {} s, so the request is not read on; read while you send, or ask for results=summary", .within.as_secs()
    )]
    AnswerUnread {
        /// How long it was left unread.
        within: Duration,
    },
    /// A content type that the path does not take.
    #[error(
        "the content type {0:?} is not taken here; use application/json, application/cloudevents+json, a binary CloudEvent with ce- headers, or for many events application/cloudevents-batch+json or application/x-ndjson"
    )]
    UnsupportedMediaType(String),
    /// A device that was never added.
    #[error("no device has the id {0}; add it with PUT /v1/devices/{0}")]
    UnknownDevice(DeviceId),
    /// A device that was removed.
    #[error("the device {0} was removed; stop sending to it")]
    RemovedDevice(DeviceId),
    /// A user without devices.
    #[error("no device has the user {0}; give it one with PUT /v1/devices/{{id}}")]
    UnknownUser(UserId),
    /// An event to more devices than one event may have.
    #[error("the event has more than {limit} devices; send it in several events")]
    TooManyTargets {
        /// How many it may have.
        limit: usize,
    },
    /// A device id that cannot be one.
    #[error("{text:?} is no device id: {why}")]
    InvalidDeviceId {
        /// What was given.
        text: String,
        /// Which rule it breaks.
        why: InvalidName,
    },
    /// An event that is not here (any more).
    #[error("no event has the id {0}; the state of a delivery is kept for a day after its end")]
    UnknownEvent(String),
    /// One idempotency key, two bodies.
    #[error("the key was used for another event, {original}; use a new key for a new event")]
    KeyReused {
        /// The event that the key belongs to.
        original: EventId,
    },
    /// The device's queue is full.
    #[error("the queue of {device} is full: it holds {events} events and {bytes} bytes; retry when the device has been online")]
    QueueFull {
        /// Whose queue.
        device: DeviceId,
        /// Events in it.
        events: u32,
        /// Bytes in it.
        bytes: u64,
    },
    /// No key, or one that is not known.
    #[error("the request needs a valid key: Authorization: Bearer <key>")]
    Unauthenticated,
    /// A key, or a secret of it, whose time is over.
    #[error("the key {key} has ended at {at}: make another one, or use its newer secret if it was rotated")]
    ExpiredKey {
        /// Its name.
        key: String,
        /// When it ended.
        at: Timestamp,
    },
    /// A token that is not taken.
    #[error("the token is not taken: {0}")]
    InvalidToken(&'static str),
    /// The keys that tokens are checked with are not known yet.
    #[error("tokens cannot be checked, because the keys of their issuer are not there yet; retry in {} s", .retry_after.as_secs().max(1))]
    NoIssuerKeys {
        /// When to try again.
        retry_after: Duration,
    },
    /// A request of a device without its password, or with a wrong one.
    #[error("the request needs the device's password: HTTP Basic with its bare JID, such as tsn-746@example.org, and the password")]
    WrongCredentials,
    /// Too many wrong passwords for one device.
    #[error("too many passwords were wrong; no more is tried for {} s", .retry_after.as_secs().max(1))]
    TooManyWrong {
        /// When to try again.
        retry_after: Duration,
    },
    /// A device that asks about another one.
    #[error("the path names another device than the credentials, which are those of {0}")]
    OtherDevice(DeviceId),
    /// A key without the scope.
    #[error("the key {key} has not the scope {needed}")]
    Forbidden {
        /// Name of the key.
        key: String,
        /// What is needed.
        needed: Scope,
    },
    /// A key that is not here.
    #[error("no key has the id {0}")]
    UnknownKey(String),
    /// A tenant that is not here.
    #[error("no tenant has the name {0}; make it with PUT /v1/tenants/{0}")]
    UnknownTenant(String),
    /// A webhook that is not here.
    #[error("no webhook has the id {0}")]
    UnknownWebhook(String),
    /// Nothing is served at that path.
    #[error("nothing is served at {0}; see GET /docs")]
    UnknownPath(String),
    /// The path takes other methods.
    #[error("{0} is not a method of this path")]
    MethodNotAllowed(String),
    /// A precondition of a change does not hold, such as a third live credential.
    #[error("{0}")]
    Conflict(String),
    /// More deliveries than a limit allows.
    #[error("the limit of the {policy} is reached: {per_second} deliveries a second, {burst} at once; retry in {} s", .retry_after.as_secs_f64().ceil())]
    RateLimited {
        /// Whose limit: `tenant` or `key`.
        policy: &'static str,
        /// Deliveries a second.
        per_second: u32,
        /// Deliveries at once.
        burst: u32,
        /// When there is room again.
        retry_after: Duration,
    },
    /// Too many requests wait to be stored.
    #[error("more requests wait than the service takes; retry in {} s", .retry_after.as_secs())]
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
    /// The store cannot take events: no space.
    #[error("the disk has no room for events; retry in {} s", .retry_after.as_secs())]
    NoSpace {
        /// When to try again.
        retry_after: Duration,
    },
    /// The store does not answer, or did not in time: the event may have been stored.
    #[error("the store does not answer; the event may have been stored, so retry with the same key in {} s", .retry_after.as_secs())]
    Unavailable {
        /// When to try again.
        retry_after: Duration,
    },
    /// As many pages are open on the admin listener as may be.
    #[error("{limit} viewers watch the page already; retry in {} s", .retry_after.as_secs())]
    TooManyViewers {
        /// How many may.
        limit: usize,
        /// When to try again.
        retry_after: Duration,
    },
    /// As many streams are open at this node as may be.
    #[error("{limit} streams are open at this node already; retry in {} s, or at another node", .retry_after.as_secs())]
    TooManyStreams {
        /// How many may.
        limit: usize,
        /// When to try again.
        retry_after: Duration,
    },
    /// As many streams of receipts are open as may be.
    #[error("{limit} streams of receipts are open {of} already; retry in {} s, or at another node", .retry_after.as_secs())]
    TooManyConsumers {
        /// How many may.
        limit: usize,
        /// Which bound it is.
        of: &'static str,
        /// When to try again.
        retry_after: Duration,
    },
    /// The service stops.
    #[error("the service is stopping; retry in {} s", .retry_after.as_secs())]
    Draining {
        /// When to try again.
        retry_after: Duration,
    },
    /// A WebSocket was asked for as if it were a page.
    #[error("this is a WebSocket for XMPP (RFC 7395): connect to it with `Upgrade: websocket`, version 13, and the subprotocol xmpp")]
    UpgradeRequired,
    /// The handshake of a WebSocket is not valid.
    #[error("the WebSocket handshake is not valid: {0}")]
    BadHandshake(String),
    /// A device came without TLS.
    #[error("devices must use TLS: connect with wss:// to the HTTPS listener")]
    TlsRequired,
    /// A page of an origin that is not allowed.
    #[error("pages of the origin {0} may not connect; the setting xmpp.websocket_origins names those that may")]
    ForeignOrigin(String),
    /// A bug.
    #[error("the service failed at this request; it is logged under {0}")]
    Internal(String),
}

/// How a refusal looks at the edge (RFC 9457 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Face {
    /// HTTP status.
    pub status: u16,
    /// The end of the problem's type URI, the metric label, and the heading in docs/reference/errors.md.
    pub slug: &'static str,
    /// The title: the same for every occurrence.
    pub title: &'static str,
}

impl Refusal {
    /// Every slug: the label set of the metric, and the headings of docs/reference/errors.md.
    pub const SLUGS: [&'static str; 54] = [
        "bad-json",
        "bad-utf8",
        "unprintable-text",
        "unknown-field",
        "missing-field",
        "invalid-field",
        "invalid-parameter",
        "invalid-filter",
        "no-target",
        "two-targets",
        "ttl-out-of-range",
        "body-too-large",
        "body-too-slow",
        "body-broken",
        "data-too-large",
        "item-too-large",
        "too-many-events",
        "answer-unread",
        "unsupported-media-type",
        "unknown-device",
        "removed-device",
        "unknown-user",
        "too-many-targets",
        "invalid-device-id",
        "unknown-event",
        "key-reused",
        "queue-full",
        "unauthenticated",
        "expired-key",
        "invalid-token",
        "no-issuer-keys",
        "wrong-credentials",
        "too-many-wrong",
        "other-device",
        "forbidden",
        "unknown-key",
        "unknown-tenant",
        "unknown-webhook",
        "unknown-path",
        "method-not-allowed",
        "conflict",
        "rate-limited",
        "overloaded",
        "no-space",
        "unavailable",
        "too-many-viewers",
        "too-many-streams",
        "too-many-consumers",
        "draining",
        "upgrade-required",
        "bad-handshake",
        "tls-required",
        "foreign-origin",
        "internal",
    ];

    /// Status, slug and title.
    pub fn face(&self) -> Face {
        let (status, slug, title) = match self {
            Self::BadJson { .. } => (400, "bad-json", "The body is not JSON"),
            Self::BadUtf8 { .. } => (400, "bad-utf8", "The body is not UTF-8"),
            Self::UnprintableText { .. } => (400, "unprintable-text", "The text has a character that XML cannot carry"),
            Self::UnknownField(_) => (400, "unknown-field", "A field is not known"),
            Self::MissingField(_) => (400, "missing-field", "A field is missing"),
            Self::InvalidField { .. } => (400, "invalid-field", "A field is not valid"),
            Self::InvalidParameter { .. } => (400, "invalid-parameter", "A query parameter is not valid"),
            Self::InvalidFilter(_) => (400, "invalid-filter", "The filter is not valid"),
            Self::NoTarget => (400, "no-target", "The event has no target"),
            Self::TwoTargets { .. } => (400, "two-targets", "The event has more than one target"),
            Self::TtlOutOfRange { .. } => (400, "ttl-out-of-range", "The TTL is out of range"),
            Self::BodyTooLarge { .. } => (413, "body-too-large", "The body is too large"),
            Self::BodyTooSlow { .. } => (408, "body-too-slow", "The body did not arrive in time"),
            Self::BodyBroken(_) => (400, "body-broken", "The body did not arrive whole"),
            Self::DataTooLarge { .. } => (413, "data-too-large", "The data is too large"),
            Self::ItemTooLarge { .. } => (413, "item-too-large", "One of the events is too large"),
            Self::TooManyEvents { .. } => (413, "too-many-events", "The batch has too many events"),
            Self::AnswerUnread { .. } => (408, "answer-unread", "The answer was not read"),
            Self::UnsupportedMediaType(_) => (415, "unsupported-media-type", "The content type is not taken"),
            Self::UnknownDevice(_) => (404, "unknown-device", "The device is not known"),
            Self::RemovedDevice(_) => (410, "removed-device", "The device was removed"),
            Self::UnknownUser(_) => (404, "unknown-user", "The user has no device"),
            Self::TooManyTargets { .. } => (413, "too-many-targets", "The event has too many devices"),
            Self::InvalidDeviceId { .. } => (400, "invalid-device-id", "The device id is not valid"),
            Self::UnknownEvent(_) => (404, "unknown-event", "The event is not known"),
            Self::KeyReused { .. } => (409, "key-reused", "One key was used for two events"),
            Self::QueueFull { .. } => (429, "queue-full", "The queue of the device is full"),
            Self::Unauthenticated => (401, "unauthenticated", "The key is missing or not known"),
            Self::ExpiredKey { .. } => (401, "expired-key", "The key has ended"),
            Self::InvalidToken(_) => (401, "invalid-token", "The token is not taken"),
            Self::NoIssuerKeys { .. } => (503, "no-issuer-keys", "Tokens cannot be checked"),
            Self::WrongCredentials => (401, "wrong-credentials", "The password is missing or wrong"),
            Self::TooManyWrong { .. } => (429, "too-many-wrong", "Too many passwords were wrong"),
            Self::OtherDevice(_) => (403, "other-device", "The path names another device"),
            Self::Forbidden { .. } => (403, "forbidden", "The key may not do this"),
            Self::UnknownKey(_) => (404, "unknown-key", "The key is not known"),
            Self::UnknownTenant(_) => (404, "unknown-tenant", "The tenant is not known"),
            Self::UnknownWebhook(_) => (404, "unknown-webhook", "The webhook is not known"),
            Self::UnknownPath(_) => (404, "unknown-path", "Nothing is served here"),
            Self::MethodNotAllowed(_) => (405, "method-not-allowed", "The method is not allowed here"),
            Self::Conflict(_) => (409, "conflict", "The change does not fit what is there"),
            Self::RateLimited { .. } => (429, "rate-limited", "A limit in deliveries is reached"),
            Self::Overloaded { .. } => (429, "overloaded", "Too many requests wait"),
            Self::NoSpace { .. } => (503, "no-space", "The disk is full"),
            Self::Unavailable { .. } => (503, "unavailable", "The store does not answer"),
            Self::TooManyViewers { .. } => (503, "too-many-viewers", "Too many viewers watch the page"),
            Self::TooManyStreams { .. } => (503, "too-many-streams", "Too many streams are open"),
            Self::TooManyConsumers { .. } => (429, "too-many-consumers", "Too many streams of receipts are open"),
            Self::Draining { .. } => (503, "draining", "The service is stopping"),
            Self::UpgradeRequired => (426, "upgrade-required", "This is a WebSocket"),
            Self::BadHandshake(_) => (400, "bad-handshake", "The WebSocket handshake is not valid"),
            Self::TlsRequired => (403, "tls-required", "Devices must use TLS"),
            Self::ForeignOrigin(_) => (403, "foreign-origin", "Pages of that origin may not connect"),
            Self::Internal(_) => (500, "internal", "The service failed"),
        };
        Face { status, slug, title }
    }

    /// When to try again, for 429 and 503.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::QueueFull { .. } => Some(Duration::from_secs(60)),
            // Whole seconds go over the wire: never too early.
            Self::RateLimited { retry_after, .. } => Some(Duration::from_secs(retry_after.as_secs_f64().ceil() as u64)),
            Self::Overloaded { retry_after }
            | Self::TooManyWrong { retry_after }
            | Self::NoIssuerKeys { retry_after }
            | Self::NoSpace { retry_after }
            | Self::Unavailable { retry_after }
            | Self::TooManyViewers { retry_after, .. }
            | Self::TooManyStreams { retry_after, .. }
            | Self::TooManyConsumers { retry_after, .. }
            | Self::Draining { retry_after } => Some(*retry_after),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slug_is_in_the_list_once() {
        let code = include_str!("refusal.rs");
        let face = code
            .split("pub fn face")
            .nth(1)
            .and_then(|rest| rest.split("Face { status, slug, title }").next());
        let used: Vec<&str> = face.unwrap().lines().filter_map(|line| line.split('"').nth(1)).collect();
        assert_eq!(used.len(), Refusal::SLUGS.len());
        for slug in used {
            assert_eq!(Refusal::SLUGS.iter().filter(|known| **known == slug).count(), 1, "{slug}");
        }
    }
}
