//! The gate before all parts: who calls, how long it took, what was refused.

use std::{sync::Arc, time::Instant};

use aws_lc_rs::digest;
use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, State},
    handler::Handler,
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
    finish(gated(parts, Some(keys), &metrics), metrics)
}

/// The same with paths beside the gate: `own` finds out by itself who calls. They are measured and counted as the others.
pub fn mount_beside(parts: Router, own: Router, keys: Keys, metrics: HttpMetrics) -> Router {
    let routes = gated(parts, Some(keys), &metrics).merge(gated(own, None, &metrics));
    finish(routes, metrics)
}

fn gated(routes: Router, keys: Option<Keys>, metrics: &HttpMetrics) -> Router {
    let gate = Gate {
        keys,
        metrics: metrics.clone(),
    };
    routes
        .method_not_allowed_fallback(async |method: Method| Refusal::MethodNotAllowed(method.to_string()))
        .route_layer(middleware::from_fn_with_state(gate, pass))
}

fn finish(routes: Router, metrics: HttpMetrics) -> Router {
    let unknown = async |uri: Uri| Refusal::UnknownPath(uri.path().to_owned());
    let gate = Gate { keys: None, metrics };
    routes.fallback(unknown.layer(middleware::from_fn_with_state(gate, pass)))
}

#[derive(Clone)]
struct Gate {
    /// Without them everybody passes.
    keys: Option<Keys>,
    metrics: HttpMetrics,
}

async fn pass(State(gate): State<Gate>, mut request: Request<Body>, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = match gate.keys.as_ref().map(|keys| caller(keys, &request)) {
        Some(None) => Refusal::Unauthenticated.into_response(),
        Some(Some(caller)) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        None => next.run(request).await,
    };
    let slug = response.extensions().get::<Slug>().map(|slug| slug.0);
    gate.metrics
        .answered(route.as_ref().map(MatchedPath::as_str), slug, began.elapsed());
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
