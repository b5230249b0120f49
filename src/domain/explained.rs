//! Every problem explained: what it means, what to do, and one of its kind.
//!
//! `docs/reference/errors.md`, the pages of the problems and the OpenAPI document are made of it.

use std::time::Duration;

use super::{DeviceId, EventId, GROUP_DEVICES_MAX, InvalidFilter, InvalidName, Refusal, Scope, Timestamp, UserId};

const SOON: Duration = Duration::from_secs(5);
/// The event of the examples.
const EVENT: EventId = EventId(*b"an event of the docs");
const MINUTE: Duration = Duration::from_secs(60);

/// What there is to know about one kind of refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// One of its kind.
    pub refusal: Refusal,
    /// What it means, beyond its title. May be empty.
    pub meaning: &'static str,
    /// What the caller does.
    pub remedy: &'static str,
}

/// One of each kind, in the order of [`Refusal::SLUGS`].
pub fn explained() -> Vec<Explained> {
    let one = |refusal, meaning, remedy| Explained { refusal, meaning, remedy };
    vec![
        one(
            Refusal::BadJson {
                detail: "expected `,` or `}`".into(),
                line: 1,
                column: 17,
            },
            "The parser met something that is no JSON; line and column say where.",
            "Correct the body.",
        ),
        one(
            Refusal::BadUtf8 { offset: 9 },
            "The bytes at the named offset are no UTF-8.",
            "Send UTF-8; send other data as `data_base64`.",
        ),
        one(
            Refusal::UnprintableText {
                field: "data".into(),
                code: 0xfffe,
                offset: 12,
            },
            "A text has a character that XML 1.0 cannot carry (U+FFFE, U+FFFF, most controls outside JSON \
                 escapes), so no XMPP message can.",
            "Remove it, or send the data as `data_base64`.",
        ),
        one(
            Refusal::UnknownField("tll".into()),
            "A field, or an extension attribute that starts with `push`, is not known. Refused so that a \
                 misspelt option is never ignored.",
            "Correct its name.",
        ),
        one(
            Refusal::MissingField("data".into()),
            "A field that must be there is not.",
            "Add it.",
        ),
        one(
            Refusal::InvalidField {
                field: "urgency".into(),
                why: "\"loud\" is none of very-low, low, normal, high".into(),
            },
            "A field has the wrong type or form; the detail says which would be right.",
            "Correct it.",
        ),
        one(
            Refusal::InvalidParameter {
                name: "limit".into(),
                why: "\"0\" is not a number from 1 to 1000".into(),
            },
            "A query parameter is not known or not valid.",
            "Correct it.",
        ),
        one(
            Refusal::InvalidFilter(InvalidFilter {
                offset: 18,
                why: "a value is missing".into(),
            }),
            "`offset` is where, in bytes of the decoded text; the detail says what is expected there.",
            "Correct it there; the backend guide has the whole language.",
        ),
        one(
            Refusal::NoTarget,
            "The event names no device.",
            "Set `target.device`; in CloudEvents `pushdevice`, or a `subject` that is a device id.",
        ),
        one(
            Refusal::TwoTargets {
                count: 2,
                names: "target.device, target.user".into(),
            },
            "The event names more than one target.",
            "Name exactly one.",
        ),
        one(
            Refusal::TtlOutOfRange {
                ttl: "31536000".into(),
                max: 2_419_200,
            },
            "The TTL is negative or above the limit (28 days).",
            "Choose one within `GET /v1/limits`.",
        ),
        one(
            Refusal::BodyTooLarge { limit: 262_144 },
            "The request's body is above the limit (256 KiB).",
            "Send less, or a link to the data.",
        ),
        one(
            Refusal::BodyTooSlow { received: 3, least: 1_024 },
            "The detail names the slowest rate that is taken.",
            "Send it at once; post large batches in parts.",
        ),
        one(
            Refusal::BodyBroken("it ended before its end".into()),
            "It ended before its end, or its framing is broken (RFC 9112 §6).",
            "Correct the client; retry with the same key.",
        ),
        one(
            Refusal::DataTooLarge {
                size: 70_000,
                limit: 65_536,
            },
            "The event's `data` is above the limit (64 KiB).",
            "Send a link to it.",
        ),
        one(
            Refusal::ItemTooLarge { limit: 262_144 },
            "A line of NDJSON, or an event of a batch, is above the limit (256 KiB). Its neighbours are taken.",
            "Send less, or a link to the data.",
        ),
        one(
            Refusal::TooManyEvents { limit: 1_000 },
            "More than 1,000; nothing of it was stored.",
            "Send several batches, or all events as `application/x-ndjson`, which has no such limit.",
        ),
        one(
            Refusal::AnswerUnread {
                within: Duration::from_secs(30),
            },
            "A request with `results=errors` or `all` is answered while it is sent, and nobody read the answer \
                 for 25 s.
It is the end of such an answer: what was read until then is told before it, and nothing \
                 behind that was taken.",
            "Read while you send, or leave `results` out: then the answer comes at the end.",
        ),
        one(
            Refusal::UnsupportedMediaType("text/plain".into()),
            "The path does not take that content type.",
            "Use `application/json`, `application/cloudevents+json`, or `ce-` headers; for many events \
                 `application/cloudevents-batch+json` or
`application/x-ndjson`.",
        ),
        one(
            Refusal::UnknownDevice(device()),
            "No device has that id.",
            "Add it with `PUT /v1/devices/{id}`.",
        ),
        one(
            Refusal::RemovedDevice(device()),
            "The device was removed within the last 90 days.",
            "Stop sending to it.",
        ),
        one(
            Refusal::UnknownUser(UserId::example()),
            "An event to a user goes to the devices that have it as their `user`; none has.",
            "Give the devices their user, or correct the name.",
        ),
        one(
            Refusal::TooManyTargets { limit: GROUP_DEVICES_MAX },
            "`target.devices` names more devices than one event may have, or the user has more.",
            "Send it in several events.",
        ),
        one(
            Refusal::InvalidDeviceId {
                text: "tsn 746".into(),
                why: InvalidName::Character { character: ' ', offset: 3 },
            },
            "An id is 1 to 64 characters of `a-z0-9._-`.",
            "Correct it.",
        ),
        one(
            Refusal::UnknownEvent(EVENT.to_string()),
            "No event has that id, or its state is no longer kept (24 h after its end).",
            "Ask sooner.",
        ),
        one(
            Refusal::KeyReused { original: EVENT },
            "The idempotency key belongs to another event, which the detail names.",
            "Use a new key for a new event.",
        ),
        one(
            Refusal::QueueFull {
                device: device(),
                events: 2_000,
                bytes: 1_048_576,
            },
            "The device has too much waiting (2,000 events or 4 MiB).",
            "Retry after the pause, or use collapse keys and shorter TTLs.",
        ),
        one(
            Refusal::Unauthenticated,
            "There is no key, or it is unknown, revoked or expired.",
            "Send `Authorization: Bearer <key>`.",
        ),
        one(
            Refusal::ExpiredKey {
                key: "nightly".into(),
                at: Timestamp(1_800_000_000_000),
            },
            "Its time is over, or this secret of it was replaced by a newer one and its grace period has ended.",
            "Use the newer secret, or make another key.",
        ),
        one(
            Refusal::InvalidToken("the token has expired"),
            "The detail says why: it has expired, is of another issuer or for another audience, its signature is wrong, and so on. \
                 `WWW-Authenticate` says `error=\"invalid_token\"` (RFC 6750 §3.1).",
            "Ask the issuer for another token.",
        ),
        one(
            Refusal::NoIssuerKeys { retry_after: SOON },
            "The issuer's keys have not been read yet, so no token can be judged. API keys go on working.",
            "Wait as `Retry-After` says; the operator's log says what is wrong with `jwt.keys_url`.",
        ),
        one(
            Refusal::WrongCredentials,
            "A device's own request has no HTTP Basic, or its JID and password are not those of a device. A \
                 device that was removed is answered the same.",
            "Send `Authorization: Basic` with the bare JID and the password; if they are right, the device was removed.",
        ),
        one(
            Refusal::TooManyWrong { retry_after: MINUTE },
            "More than `poll.wrong_passwords_max` for one device within a minute; no more are tried until it is over.",
            "Correct the password of the box, then wait for `Retry-After`.",
        ),
        one(
            Refusal::OtherDevice(device()),
            "A device may ask about itself alone.",
            "Use the id of the device that logs in.",
        ),
        one(
            Refusal::Forbidden {
                key: "scheduler".into(),
                needed: Scope::Admin,
            },
            "The key lacks the scope that the detail names.",
            "Use a key that has it.",
        ),
        one(
            Refusal::UnknownKey("mfrggzdfmztwq2lk".into()),
            "No key has that id.",
            "List them with `GET /v1/keys`.",
        ),
        one(
            Refusal::UnknownTenant("tv".into()),
            "No tenant has that name.",
            "List them with `GET /v1/tenants`.",
        ),
        one(
            Refusal::UnknownWebhook("wh_mfrggzdfmztwq2lk".into()),
            "No webhook of the tenant has that id.",
            "List them with `GET /v1/webhooks`.",
        ),
        one(
            Refusal::UnknownPath("/v1/event".into()),
            "Nothing is served at that path.",
            "Correct it.",
        ),
        one(
            Refusal::MethodNotAllowed("PUT".into()),
            "The path takes other methods.",
            "Correct it; `Allow` names them.",
        ),
        one(
            Refusal::Conflict("the tenant has 1000 keys; revoke some first".into()),
            "The change does not fit what is there, such as a third live credential.",
            "The detail says what stands in the way.",
        ),
        one(
            Refusal::RateLimited {
                policy: "key",
                per_second: 100,
                burst: 200,
                retry_after: SOON,
            },
            "More deliveries were posted than the limit of the key, or of its tenant, allows;
`violated-policies` says which.",
            "Retry after the pause. `RateLimit` on every answer to a post says beforehand what is left.",
        ),
        one(
            Refusal::Overloaded { retry_after: SOON },
            "More events wait than the service takes, or requests hold more bytes than it may.",
            "Retry after the pause.",
        ),
        one(
            Refusal::NoSpace { retry_after: SOON },
            "The disk has no room for events. Deliveries go on.",
            "Retry after the pause, with the same key. Operators: free space; no restart is needed.",
        ),
        one(
            Refusal::Unavailable { retry_after: SOON },
            "The store did not answer in time. The event may have been stored.",
            "Retry after the pause, with the same key.",
        ),
        one(
            Refusal::TooManyViewers {
                limit: 16,
                retry_after: SOON,
            },
            "As many pages are open on the admin listener as it serves at once.",
            "Close one; the page tries again by itself.",
        ),
        one(
            Refusal::TooManyStreams {
                limit: 256,
                retry_after: SOON,
            },
            "As many streams of presence are open at this node as it serves at once (`presence.streams_max`).",
            "Close one, or try again after `Retry-After`; at another node there may be room.",
        ),
        one(
            Refusal::TooManyConsumers {
                limit: 64,
                of: "for this tenant at this node",
                retry_after: SOON,
            },
            "As many streams of receipts are open at this node as it serves at once, of all \
                 tenants
(`receipts.streams_max`) or of yours (`receipts.streams_max_per_tenant`). One stream tells \
                 of everything; filter on your side.",
            "Close one, or try again after `Retry-After`; at another node there may be room.",
        ),
        one(
            Refusal::Draining { retry_after: SOON },
            "The service is stopping.",
            "Retry after the pause, with the same key; a balancer sends you to another node.",
        ),
        one(
            Refusal::UpgradeRequired,
            "The path takes WebSocket connections of devices (RFC 7395), version 13, and no other requests.",
            "Connect with a WebSocket client and the subprotocol `xmpp`.",
        ),
        one(
            Refusal::BadHandshake("Sec-WebSocket-Protocol must offer the subprotocol \"xmpp\"".into()),
            "The detail says which header is missing or wrong; nearly always the subprotocol `xmpp` was not asked for.",
            "Correct it.",
        ),
        one(
            Refusal::TlsRequired,
            "A device came to the HTTP listener without TLS, and `xmpp.require_tls` is on.",
            "Connect with `wss://` to the HTTPS listener.",
        ),
        one(
            Refusal::ForeignOrigin("https://example.com".into()),
            "A browser's page of an origin that `xmpp.websocket_origins` does not name.",
            "Serve the page from an origin that it names, or add it.",
        ),
        one(
            Refusal::Internal("5f3a9c01".into()),
            "A bug. The service logged it under the id in the detail.",
            "Report it with that id.",
        ),
    ]
}

/// The device of the examples.
fn device() -> DeviceId {
    DeviceId::example()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_explained_in_the_order_of_the_table() {
        let slugs: Vec<&str> = explained().iter().map(|one| one.refusal.face().slug).collect();
        assert_eq!(slugs, Refusal::SLUGS);
        assert!(explained().iter().all(|one| !one.remedy.is_empty()));
    }
}
