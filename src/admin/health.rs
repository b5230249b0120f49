//! Whether the process lives, and whether it takes traffic.

use std::borrow::Cow;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;

use super::AdminState;

/// One thing that the service needs to take traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name: `store`, `draining`, `listeners`.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What is so, in words.
    pub detail: Cow<'static, str>,
}

impl Check {
    /// A check and what it found.
    pub fn new(name: &'static str, ok: bool, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name,
            ok,
            detail: detail.into(),
        }
    }
}

/// 200: the process answers. Restart it when this does not.
pub async fn healthz() -> Response {
    Json(json!({"status": "ok"})).into_response()
}

/// 200: it takes traffic. 503: send none now; the body says why.
pub async fn readyz(State(state): State<AdminState>) -> Response {
    let checks = (state.readiness)();
    let (code, status) = if checks.iter().all(|check| check.ok) {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not-ready")
    };
    (code, Json(json!({"status": status, "checks": checks}))).into_response()
}
