//! Refusals as the world sees them: RFC 9457 `application/problem+json`.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value};

use crate::domain::Refusal;

/// The slug of the refusal that an answer is: the gate counts it.
#[derive(Clone, Copy)]
pub(super) struct Slug(pub &'static str);

/// The members of the problem: `type`, `title`, `status`, `detail`, and where the refusal has them `field`, `offset`, `line`,
/// `column`, `limit`, `event`, `violated-policies`. `type` is a relative reference whose end is the slug.
pub fn problem(refusal: &Refusal) -> Map<String, Value> {
    let face = refusal.face();
    let mut members = Map::new();
    members.insert("type".into(), format!("/problems/{}", face.slug).into());
    members.insert("title".into(), face.title.into());
    members.insert("status".into(), face.status.into());
    members.insert("detail".into(), refusal.to_string().into());
    for (name, value) in extensions(refusal) {
        members.insert(name.into(), value);
    }
    members
}

fn extensions(refusal: &Refusal) -> Vec<(&'static str, Value)> {
    match refusal {
        Refusal::BadJson { line, column, .. } => vec![("line", (*line).into()), ("column", (*column).into())],
        Refusal::BadUtf8 { offset } => vec![("offset", (*offset).into())],
        Refusal::UnprintableText { field, offset, .. } => vec![("field", field.as_str().into()), ("offset", (*offset).into())],
        Refusal::UnknownField(field) | Refusal::MissingField(field) | Refusal::InvalidField { field, .. } => {
            vec![("field", field.as_str().into())]
        }
        Refusal::InvalidParameter { name, .. } => vec![("parameter", name.as_str().into())],
        Refusal::InvalidFilter(wrong) => vec![("field", "filter".into()), ("offset", wrong.offset.into())],
        Refusal::BodyTooLarge { limit }
        | Refusal::DataTooLarge { limit, .. }
        | Refusal::ItemTooLarge { limit }
        | Refusal::TooManyEvents { limit }
        | Refusal::TooManyStreams { limit, .. } => {
            vec![("limit", (*limit).into())]
        }
        Refusal::TtlOutOfRange { max, .. } => vec![("field", "ttl".into()), ("limit", (*max).into())],
        // The name that draft-ietf-httpapi-ratelimit-headers gives it (section 5.1).
        Refusal::RateLimited { policy, .. } => vec![("violated-policies", Value::from(vec![*policy]))],
        Refusal::KeyReused { original } => vec![("event", original.to_string().into())],
        _ => Vec::new(),
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let face = self.face();
        let status = StatusCode::from_u16(face.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = Value::Object(problem(&self)).to_string();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(wait) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        let challenge = match self {
            Self::Unauthenticated => Some(HeaderValue::from_static("Bearer")),
            // RFC 6750 §3.1.
            Self::ExpiredKey { .. } => Some(HeaderValue::from_static(
                "Bearer error=\"invalid_token\", error_description=\"the key has ended\"",
            )),
            Self::InvalidToken(why) => HeaderValue::try_from(format!("Bearer error=\"invalid_token\", error_description=\"{why}\"")).ok(),
            Self::WrongCredentials => Some(HeaderValue::from_static("Basic realm=\"unpoll\", charset=\"UTF-8\"")),
            _ => None,
        };
        if let Some(challenge) = challenge {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response.extensions_mut().insert(Slug(face.slug));
        response
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::*;

    async fn shown(refusal: Refusal) -> (u16, axum::http::HeaderMap, Value) {
        let response = refusal.into_response();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status.as_u16(), head.headers, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_refusal_becomes_a_problem_with_its_field_and_offset() {
        let (status, headers, body) = shown(Refusal::UnprintableText {
            field: "data".into(),
            code: 0xfffe,
            offset: 7,
        })
        .await;
        assert_eq!(
            (status, headers["content-type"].as_bytes()),
            (400, &b"application/problem+json"[..])
        );
        assert_eq!(body["type"], "/problems/unprintable-text");
        assert_eq!(
            (&body["status"], &body["field"], &body["offset"]),
            (&400.into(), &"data".into(), &7.into())
        );
        assert!(body["detail"].as_str().unwrap().contains("U+FFFE"), "{body}");
    }

    #[tokio::test]
    async fn what_to_do_next_is_in_the_headers() {
        let (status, headers, _) = shown(Refusal::Overloaded {
            retry_after: Duration::from_millis(1),
        })
        .await;
        assert_eq!((status, headers["retry-after"].as_bytes()), (429, &b"1"[..]));
        let (status, headers, _) = shown(Refusal::Unauthenticated).await;
        assert_eq!((status, headers["www-authenticate"].as_bytes()), (401, &b"Bearer"[..]));
    }
}
