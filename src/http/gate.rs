//! The gate before all parts: who calls, how long it took, what was refused.

use std::{sync::Arc, time::Instant};

use aws_lc_rs::digest;
use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, State},
    http::{Method, Request, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};

use super::{HttpMetrics, problem::Slug};
use crate::domain::{Caller, Refusal};

/// Finds the caller behind the SHA-256 of a key. Called for every request, so it answers from memory.
pub type Keys = Arc<dyn Fn(&[u8; 32]) -> Option<Caller> + Send + Sync>;

/// The longest key that is looked up, in bytes.
const KEY_MAX: usize = 256;

/// What is stored of a key: its SHA-256. Keys are random and long, so it needs neither salt nor rounds, and a look-up by the
/// hash tells nothing by its timing.
pub fn key_hash(key: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, key.as_bytes()).as_ref());
    hash
}

/// Puts the parts behind the gate: a request of a path that a part serves needs a key, whose [`Caller`] the handlers find in
/// the request's extensions. Paths and methods that nobody serves get their problem.
pub fn mount(parts: Router, keys: Keys, metrics: HttpMetrics) -> Router {
    parts
        .fallback(async |uri: Uri| Refusal::UnknownPath(uri.path().to_owned()))
        .method_not_allowed_fallback(async |method: Method| Refusal::MethodNotAllowed(method.to_string()))
        .layer(middleware::from_fn_with_state(Gate { keys, metrics }, pass))
}

#[derive(Clone)]
struct Gate {
    keys: Keys,
    metrics: HttpMetrics,
}

async fn pass(State(gate): State<Gate>, mut request: Request<Body>, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = match (&route, caller(&gate.keys, &request)) {
        (Some(_), None) => Refusal::Unauthenticated.into_response(),
        (_, caller) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            next.run(request).await
        }
    };
    let slug = response.extensions().get::<Slug>().map(|slug| slug.0);
    gate.metrics.answered(route.as_ref().map(MatchedPath::as_str), slug, began.elapsed());
    response
}

/// The caller that the request's `Authorization: Bearer` names (RFC 6750 §2.1).
fn caller(keys: &Keys, request: &Request<Body>) -> Option<Caller> {
    let mut values = request.headers().get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, key) = value.split_once(' ')?;
    let key = key.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || key.is_empty() || key.len() > KEY_MAX {
        return None;
    }
    keys(&key_hash(key))
}
