//! The page and its files, as they lie in `page/`: part of the binary, and all that the page ever loads.

use axum::{Router, http::HeaderMap, routing::get};

use crate::http;

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
        let asset = http::Asset::new(kind, POLICY, text);
        router.route(path, get(move |headers: HeaderMap| async move { asset.answer(&headers) }))
    })
}
