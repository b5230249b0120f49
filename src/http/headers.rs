//! Header fields, read once and strictly.

use axum::http::{HeaderMap, header};

use crate::domain::Refusal;

/// The value of a header field that may be there once, as text.
///
/// # Errors
/// `InvalidField` when it is there twice or is not visible ASCII.
pub fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let invalid = |why: &str| Refusal::InvalidField {
        field: name.to_owned(),
        why: why.to_owned(),
    };
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid("the header is given twice; give it once"));
    }
    let value = value
        .to_str()
        .map_err(|_| invalid("the header has characters outside visible ASCII"))?;
    Ok(Some(value.trim()))
}

/// A content type, split and folded (RFC 9110 §8.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaType {
    /// Type and subtype in lower case, without parameters.
    pub essence: String,
    /// As it was given.
    pub given: String,
    charset: Option<String>,
}

impl MediaType {
    /// The content type of a request. `None`: it names none.
    ///
    /// # Errors
    /// `InvalidField` when the header is there twice or is no text.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        Ok(single(headers, header::CONTENT_TYPE.as_str())?
            .filter(|value| !value.is_empty())
            .map(Self::parse))
    }

    /// Splits a content type.
    pub fn parse(given: &str) -> Self {
        let mut parts = given.split(';');
        let essence = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
        let charset = parts
            .filter_map(|parameter| parameter.split_once('='))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
            .map(|(_, value)| value.trim().trim_matches('"').to_ascii_lowercase());
        Self {
            essence,
            given: given.to_owned(),
            charset,
        }
    }

    /// Whether its data is JSON: `application/json`, `text/json`, or any `+json` (RFC 6839 §3.1).
    pub fn is_json(&self) -> bool {
        matches!(self.essence.as_str(), "application/json" | "text/json") || self.essence.ends_with("+json")
    }

    /// Whether its charset is one in which JSON may be sent (RFC 8259 §8.1).
    pub fn is_utf8(&self) -> bool {
        self.charset
            .as_deref()
            .is_none_or(|charset| matches!(charset, "utf-8" | "utf8" | "us-ascii"))
    }
}

/// JSON or a merge patch, in UTF-8; a request that names no type is taken at its word.
///
/// # Errors
/// `UnsupportedMediaType` for anything else; `InvalidField` when the header is there twice or is no text.
pub fn require_json(headers: &HeaderMap) -> Result<(), Refusal> {
    match MediaType::of(headers)? {
        Some(given) if !given.is_json() || !given.is_utf8() => Err(Refusal::UnsupportedMediaType(given.given)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_type_is_split_and_folded() {
        let check = |given: &str, essence: &str, json, utf8| {
            let found = MediaType::parse(given);
            assert_eq!(
                (found.essence.as_str(), found.is_json(), found.is_utf8()),
                (essence, json, utf8),
                "{given}"
            );
        };
        check("application/json", "application/json", true, true);
        check(
            "Application/CloudEvents+JSON; charset=\"UTF-8\"",
            "application/cloudevents+json",
            true,
            true,
        );
        check("application/json;charset=utf-16", "application/json", true, false);
        check("image/png", "image/png", false, true);
    }

    #[test]
    fn a_header_is_given_once() {
        let mut headers = HeaderMap::new();
        assert_eq!(single(&headers, "ttl"), Ok(None));
        headers.append("ttl", " 5 ".parse().unwrap());
        assert_eq!(single(&headers, "TTL"), Ok(Some("5")));
        headers.append("ttl", "5".parse().unwrap());
        assert!(single(&headers, "ttl").is_err());
    }
}
