//! The page and its files, as they lie in `page/`: part of the binary, and all that the page ever loads.

use aws_lc_rs::digest;
use axum::{
    Router,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

/// Nothing from outside, nothing inline, and no text that becomes markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// A file: where it is served, its type, and what is in it.
type Asset = (&'static str, &'static str, &'static str);

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

const ASSETS: [Asset; 10] = [
    ("/", HTML, include_str!("page/index.html")),
    ("/assets/style.css", STYLE, include_str!("page/style.css")),
    ("/assets/panels.css", STYLE, include_str!("page/panels.css")),
    ("/assets/page.js", SCRIPT, include_str!("page/page.js")),
    ("/assets/feed.js", SCRIPT, include_str!("page/feed.js")),
    ("/assets/plot.js", SCRIPT, include_str!("page/plot.js")),
    ("/assets/proof.js", SCRIPT, include_str!("page/proof.js")),
    ("/assets/service.js", SCRIPT, include_str!("page/service.js")),
    ("/assets/text.js", SCRIPT, include_str!("page/text.js")),
    ("/assets/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

/// A route for each file.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    ASSETS.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        let tag = tag(text);
        router.route(
            path,
            get(move |headers: HeaderMap| async move { answer(&headers, &tag, kind, text) }),
        )
    })
}

/// The file, or 304 when the browser has it. It asks each time, so that an upgrade shows at once.
fn answer(headers: &HeaderMap, tag: &HeaderValue, kind: &'static str, text: &'static str) -> Response {
    let known = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|tags| {
            tags.split(',')
                .any(|one| one.trim().trim_start_matches("W/").as_bytes() == tag.as_bytes())
        });
    let common = [
        (header::ETAG, tag.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    if known {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    (common, [(header::CONTENT_TYPE, kind)], text).into_response()
}

/// A strong entity tag (RFC 9110 §8.8.3).
fn tag(text: &str) -> HeaderValue {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let hex: String = hash.as_ref().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&format!("\"{hex}\"")).unwrap_or(HeaderValue::from_static("\"page\""))
}
