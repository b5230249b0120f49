//! Where the WebSocket door is, for clients that know only the domain (XEP-0156, RFC 6415).

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderName, HeaderValue, Request, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::super::shared::Shared;
use crate::{
    domain::Refusal,
    http::{Peer, single},
};

/// What the link is for.
const REL: &str = "urn:xmpp:alt-connections:websocket";

/// `/.well-known/host-meta`.
pub(super) async fn xml(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Result<Response, Refusal> {
    let url = url(&shared, &request)?;
    let url = url.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;");
    let body = format!(
        "<?xml version='1.0' encoding='utf-8'?>\n<XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'><Link rel='{REL}' href='{url}'/></XRD>\n"
    );
    Ok((headers("application/xrd+xml"), body).into_response())
}

/// `/.well-known/host-meta.json`.
pub(super) async fn json(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Result<Response, Refusal> {
    let url = url(&shared, &request)?;
    let body = json!({"links": [{"rel": REL, "href": url}]}).to_string();
    Ok((headers("application/json"), body).into_response())
}

/// A page of any origin may read it (XEP-0156 §3).
fn headers(kind: &'static str) -> [(HeaderName, HeaderValue); 2] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    ]
}

fn url(shared: &Shared, request: &Request<Body>) -> Result<String, Refusal> {
    let config = &shared.config;
    if !config.websocket_url.is_empty() {
        return Ok(config.websocket_url.clone());
    }
    if config.require_tls && request.extensions().get().is_none_or(|peer: &Peer| !peer.tls) {
        return Err(Refusal::TlsRequired);
    }
    let host = single(request.headers(), header::HOST.as_str())?.unwrap_or_default();
    let plausible = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    if host.is_empty() || !host.bytes().all(plausible) {
        return Err(Refusal::InvalidField {
            field: "host".to_owned(),
            why: "it names no host; send the one that was connected to".to_owned(),
        });
    }
    // Without TLS of our own there is a proxy before us that has it.
    Ok(format!("wss://{host}/xmpp-websocket"))
}
