//! The door for devices whose software is a page in a browser, or whose network lets nothing but HTTPS through: XMPP over WebSocket
//! (RFC 7395), at `/xmpp-websocket` of the HTTPS listener.
//!
//! The handshake is HTTP's business; what is admitted leaves HTTP with its socket and its TLS, and is from there on a connection
//! as every other. [`Carrier`] carries its bytes, `xmpp` its stream. [`host_meta`] tells where the door is.

mod carrier;
mod frames;
mod host_meta;
mod settings;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::digest;
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, prelude::BASE64_STANDARD};

pub(super) use carrier::Carrier;
pub(super) use settings::problems;

use super::{
    connection::Connection,
    listener::{configure, place, run_opened, stream},
    shared::Shared,
    wire::Wire,
};
use crate::{
    domain::Refusal,
    http::{Peer, Upgrade, single},
    store::Transport,
    xmpp::Framing,
};

/// The subprotocol (RFC 7395 §3.1).
const PROTOCOL: &str = "xmpp";
/// What the answer to a key is made with (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The paths of the door, to be mounted beside the gate: devices authenticate inside.
pub(super) fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/xmpp-websocket", get(connect))
        .route("/.well-known/host-meta", get(host_meta::xml))
        .route("/.well-known/host-meta.json", get(host_meta::json))
        .with_state(shared)
}

async fn connect(State(shared): State<Arc<Shared>>, mut request: Request<Body>) -> Response {
    let accept = match handshake(&request, &shared) {
        Ok(accept) => accept,
        Err(refusal) => return refused(refusal),
    };
    if shared.crew.get().is_none_or(|crew| crew.stop_token().is_cancelled()) {
        let retry_after = Duration::from_secs(u64::from(shared.retry_after()));
        return Refusal::Draining { retry_after }.into_response();
    }
    let place = match place(&shared) {
        Ok(place) => place,
        Err(reason) => {
            shared.metrics.refused(reason);
            let retry_after = Duration::from_secs(u64::from(shared.retry_after()));
            return Refusal::Overloaded { retry_after }.into_response();
        }
    };
    let (Some(peer), Some(upgrade)) = (request.extensions().get().copied(), Upgrade::of(&mut request)) else {
        return refused(Refusal::UpgradeRequired);
    };
    shared.spawn(run_opened(opened(upgrade, peer, shared.clone()), shared.clone(), place));
    let headers = [
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL)),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// A problem, with what RFC 6455 §4.4 and RFC 9110 §15.5.22 want beside it.
fn refused(refusal: Refusal) -> Response {
    let upgrade = matches!(refusal, Refusal::UpgradeRequired);
    let mut response = refusal.into_response();
    if upgrade {
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    response
}

/// Checks a handshake (RFC 6455 §4.2.1, RFC 7395 §3.1). Answers the header that accepts it.
fn handshake(request: &Request<Body>, shared: &Shared) -> Result<HeaderValue, Refusal> {
    let headers = request.headers();
    let upgrades = names(headers, header::UPGRADE.as_str(), "websocket") && names(headers, header::CONNECTION.as_str(), "upgrade");
    let version = single(headers, header::SEC_WEBSOCKET_VERSION.as_str())?;
    let old = request.method() != Method::GET || request.version() < Version::HTTP_11;
    if old || !upgrades || version != Some("13") {
        return Err(Refusal::UpgradeRequired);
    }
    if shared.config.require_tls && request.extensions().get().is_none_or(|peer: &Peer| !peer.tls) {
        return Err(Refusal::TlsRequired);
    }
    if let Some(origin) = single(headers, header::ORIGIN.as_str())? {
        let allowed = &shared.config.websocket_origins;
        if !allowed.is_empty() && !allowed.iter().any(|one| one.eq_ignore_ascii_case(origin)) {
            return Err(Refusal::ForeignOrigin(origin.to_owned()));
        }
    }
    if !names(headers, header::SEC_WEBSOCKET_PROTOCOL.as_str(), PROTOCOL) {
        return Err(Refusal::BadHandshake(
            "Sec-WebSocket-Protocol must offer the subprotocol \"xmpp\"".to_owned(),
        ));
    }
    let key = single(headers, header::SEC_WEBSOCKET_KEY.as_str())?.unwrap_or_default();
    if BASE64_STANDARD.decode(key).map_or(0, |key| key.len()) != 16 {
        return Err(Refusal::BadHandshake("Sec-WebSocket-Key must be 16 bytes in base64".to_owned()));
    }
    accept(key)
}

/// Whether one of the comma-separated words of a header is `word`, in any case.
fn names(headers: &HeaderMap, name: &str, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|one| one.trim().eq_ignore_ascii_case(word))
}

/// What proves to the client that its handshake was understood (RFC 6455 §4.2.2).
fn accept(key: &str) -> Result<HeaderValue, Refusal> {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(GUID);
    let accept = BASE64_STANDARD.encode(hash.finish());
    HeaderValue::from_str(&accept).map_err(|_| Refusal::BadHandshake("Sec-WebSocket-Key".to_owned()))
}

/// The connection, once it has left HTTP. `None`: it ended before.
async fn opened(upgrade: Upgrade, peer: Peer, shared: Arc<Shared>) -> Option<Arc<Connection>> {
    let raw = tokio::time::timeout(shared.config.login_within(), upgrade.raw()).await.ok()??;
    configure(&raw.socket, &shared).ok()?;
    let carrier = Carrier::new(raw.tls, Vec::from(raw.early), shared.config.stanza_max_bytes_before_login);
    let mut stream = stream(&shared, carrier.secured())?.framed(Framing::WebSocket);
    stream.bound_to(carrier.bindings());
    let wire = Wire::WebSocket(Box::new(carrier));
    let connection = Connection::new(raw.socket, peer.client, Transport::WebSocket, shared, stream, wire);
    connection.guarded(|connection, state| {
        let (inbound, outbound) = raw.carried;
        connection.shared.metrics.bytes_in.inc_by(inbound.bytes);
        connection.shared.metrics.bytes_out.inc_by(outbound.bytes);
        state.tally.before(inbound, outbound);
        let now = Instant::now();
        if let (Some(reason), _) = connection.hear(state, &mut [], now, connection.shared.clock.now()) {
            connection.lose(state, reason, now);
        }
    });
    Some(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_is_the_one_of_the_rfc() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ==").unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn words_of_headers_are_found_in_any_place_and_case() {
        let mut headers = HeaderMap::new();
        headers.append(header::CONNECTION, HeaderValue::from_static("keep-alive, upgRade"));
        headers.append(header::CONNECTION, HeaderValue::from_static("te"));
        assert!(names(&headers, "connection", "upgrade") && names(&headers, "connection", "te"));
        assert!(!names(&headers, "connection", "up") && !names(&headers, "upgrade", "websocket"));
    }
}
