//! A page or a file that is part of the service: always the same, until an upgrade.

use std::borrow::Cow;

use aws_lc_rs::digest;
use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

/// A file with its type and the policy of pages (Content-Security-Policy).
#[derive(Clone, Debug)]
pub struct Asset {
    kind: &'static str,
    policy: &'static str,
    tag: HeaderValue,
    text: Bytes,
}

impl Asset {
    /// `kind` is its content type.
    pub fn new(kind: &'static str, policy: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        let text: Bytes = match text.into() {
            Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
            Cow::Owned(text) => text.into(),
        };
        Self {
            kind,
            policy,
            tag: tag(&text),
            text,
        }
    }

    /// The file, or 304 when the client has it. It asks each time, so that an upgrade shows at once.
    pub fn answer(&self, headers: &HeaderMap) -> Response {
        let known = headers
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|tags| {
                tags.split(',')
                    .any(|one| one.trim().trim_start_matches("W/").as_bytes() == self.tag.as_bytes())
            });
        let common = [
            (header::ETAG, self.tag.clone()),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(self.policy)),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        ];
        if known {
            return (StatusCode::NOT_MODIFIED, common).into_response();
        }
        (common, [(header::CONTENT_TYPE, self.kind)], self.text.clone()).into_response()
    }
}

/// A strong entity tag (RFC 9110 §8.8.3).
fn tag(text: &[u8]) -> HeaderValue {
    let hash = digest::digest(&digest::SHA256, text);
    let hex: String = hash.as_ref().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&format!("\"{hex}\"")).unwrap_or(HeaderValue::from_static("\"page\""))
}
