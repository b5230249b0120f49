//! `/openapi.json`, `/docs` and `/problems/{slug}`: for everybody, and the same for everybody.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, Uri},
    response::Response,
    routing::get,
};

use super::{Access, Answer, Document, Operation, Schema, pages};
use crate::{
    domain::{Refusal, explained},
    http::{Asset, Segment},
};

/// Nothing from outside, no script, nothing inline.
const POLICY: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const HTML: &str = "text/html; charset=utf-8";

struct Served {
    document: Asset,
    docs: Asset,
    style: Asset,
    problems: HashMap<&'static str, Asset>,
}

/// Serves the document and its pages; to be mounted beside the gate.
pub fn routes(document: &Document) -> Router {
    let explained = explained();
    let problems = explained.iter().map(|one| {
        let page = pages::problem_page(one);
        (one.refusal.face().slug, Asset::new(HTML, POLICY, page))
    });
    let served = Served {
        document: Asset::new("application/json", POLICY, document.json().to_string()),
        docs: Asset::new(HTML, POLICY, pages::docs(document.json(), &explained)),
        style: Asset::new("text/css; charset=utf-8", POLICY, include_str!("style.css")),
        problems: problems.collect(),
    };
    Router::new()
        .route("/openapi.json", get(openapi))
        .route("/docs", get(docs))
        .route("/docs/style.css", get(style))
        .route("/problems/{slug}", get(problem))
        .with_state(Arc::new(served))
}

/// What it says of itself.
pub fn operations() -> Vec<Operation> {
    let page = |path, id, summary, kind, schema| {
        Operation::new("get", path, id, "documents", Access::Open)
            .summary(summary)
            .header("If-None-Match", Schema::text(), "The `ETag` of what is there already.")
            .answer(Answer::of(200, "It.", kind, schema).header("ETag", Schema::text()))
            .answer(Answer::empty(304, "What `If-None-Match` names is still so."))
    };
    let html = |path, id, summary| page(path, id, summary, "text/html", Schema::text());
    vec![
        page(
            "/openapi.json",
            "getOpenApi",
            "This document.",
            "application/json",
            Schema::map(Schema::anything()),
        ),
        html("/docs", "getDocs", "This document as a page."),
        page("/docs/style.css", "getStyle", "How the pages look.", "text/css", Schema::text()),
        html(
            "/problems/{slug}",
            "getProblem",
            "What a problem means, and what to do: where its `type` leads.",
        )
        .segment(
            "slug",
            Schema::word(Refusal::SLUGS),
            "The end of the `type` of the problem.",
            "unknown-device",
        ),
    ]
}

async fn openapi(State(served): State<Arc<Served>>, headers: HeaderMap) -> Response {
    served.document.answer(&headers)
}

async fn docs(State(served): State<Arc<Served>>, headers: HeaderMap) -> Response {
    served.docs.answer(&headers)
}

async fn style(State(served): State<Arc<Served>>, headers: HeaderMap) -> Response {
    served.style.answer(&headers)
}

async fn problem(State(served): State<Arc<Served>>, slug: Segment, uri: Uri, headers: HeaderMap) -> Result<Response, Refusal> {
    match served.problems.get(slug.0.as_str()) {
        Some(page) => Ok(page.answer(&headers)),
        None => Err(Refusal::UnknownPath(uri.path().to_owned())),
    }
}
