//! CloudEvents 1.0: structured mode (JSON event format, also an event of a batch) and binary mode (HTTP protocol binding).

use axum::http::HeaderMap;

use super::{
    draft::{Draft, Payload},
    options::{self, Options, not_available},
};
use crate::{
    domain::{DeviceId, Limits, Refusal, Target},
    http::{
        MediaType,
        json::{Field, Fields, utf8},
    },
};

/// The prefix of attributes in the headers of binary mode.
const PREFIX: &str = "ce-";

/// Whether the headers carry a CloudEvent in binary mode.
pub(super) fn is_binary(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with(PREFIX))
}

/// Structured mode: the object is the event.
pub(super) fn structured<'a>(mut fields: Fields<'a>, limits: &Limits) -> Result<Draft<'a>, Refusal> {
    let payload = Payload::of(fields.take("data"), fields.take("data_base64"), limits)?;
    let members = fields.rest().map(|(path, raw)| Field { path, raw });
    // A member that is null is an attribute that is not set (JSON event format §2.2).
    event(members.filter(|field| !field.is_null()).collect(), payload, limits)
}

/// The attributes in the headers, each with its value as JSON text.
pub(super) fn attributes(headers: &HeaderMap) -> Result<Vec<(String, String)>, Refusal> {
    let mut found: Vec<(String, String)> = Vec::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(PREFIX) else { continue };
        let invalid = |why: &str| Refusal::InvalidField {
            field: name.to_owned(),
            why: why.to_owned(),
        };
        if matches!(name, "datacontenttype" | "data" | "data_base64") {
            return Err(invalid("in binary mode the body is the data and Content-Type its type"));
        }
        if found.iter().any(|(known, _)| known == name) {
            return Err(invalid("the header is given twice"));
        }
        let value = decode(value.as_bytes()).ok_or_else(|| invalid("it is not UTF-8 after percent-decoding"))?;
        found.push((name.to_owned(), serde_json::Value::String(value).to_string()));
    }
    Ok(found)
}

/// Binary mode: the headers carry the attributes, the body is the data. `json` is the body where the content type says so.
pub(super) fn binary<'a>(
    attributes: &'a [(String, String)],
    media_type: Option<&MediaType>,
    json: Option<&'a str>,
    body: &[u8],
    limits: &Limits,
) -> Result<Draft<'a>, Refusal> {
    let fields = attributes.iter().map(|(name, raw)| Field {
        path: name.as_str().into(),
        raw,
    });
    let payload = match json {
        Some(raw) => Payload::of(Some(Field { path: "data".into(), raw }), None, limits)?,
        None if body.is_empty() => None,
        None => Some(Payload::bytes(body, limits)?),
    };
    let draft = event(fields.collect(), payload, limits)?;
    match media_type {
        Some(media_type) => draft.with_datacontenttype(&media_type.given),
        None => Ok(draft),
    }
}

/// The value of a header: unquoted, then percent-decoded once (HTTP protocol binding §3.1.3.2).
fn decode(value: &[u8]) -> Option<String> {
    let value = value.trim_ascii();
    let mut unquoted = Vec::with_capacity(value.len());
    match value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) {
        Some(inner) => {
            let mut escaped = false;
            for byte in inner {
                if *byte == b'\\' && !escaped {
                    escaped = true;
                } else {
                    unquoted.push(*byte);
                    escaped = false;
                }
            }
        }
        None => unquoted.extend_from_slice(value),
    }
    let mut decoded = Vec::with_capacity(unquoted.len());
    let mut rest = unquoted.as_slice();
    while let Some((first, behind)) = rest.split_first() {
        let hex = (*first == b'%').then(|| behind.get(..2)).flatten();
        let byte = hex
            .filter(|hex| hex.iter().all(u8::is_ascii_hexdigit))
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match byte {
            Some(byte) => {
                decoded.push(byte);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(*first);
                rest = behind;
            }
        }
    }
    utf8(&decoded).ok().map(str::to_owned)
}

/// The event of these attributes, checked (CloudEvents §3.1).
fn event<'a>(fields: Vec<Field<'a>>, payload: Option<Payload<'a>>, limits: &Limits) -> Result<Draft<'a>, Refusal> {
    let (mut options, mut targets, mut kept) = (Options::default(), Vec::new(), Vec::with_capacity(fields.len()));
    let mut version = None;
    for field in fields {
        match field.path.as_ref() {
            "specversion" => version = Some(field),
            "pushttl" => options.ttl = Some(ttl(&field, limits)?),
            "pushurgency" => options.urgency = Some(options::urgency(&field)?),
            "pushcollapsekey" => options.collapse_key = Some(options::collapse_key(&field, limits)?),
            "pushrequire" => options.require = Some(options::require(&field)?),
            "pushdevice" | "pushuser" | "pushtopic" | "pushfilter" | "pushall" => targets.push(field),
            "pushdeliverat" => options.deliver_at = Some(options::deliver_at(&field, "pushdeliverat")?),
            "pushspread" => return Err(not_available(&field.path)),
            name if name.starts_with("push") => return Err(Refusal::UnknownField(name.to_owned())),
            _ => kept.push(checked(field)?),
        }
    }
    let version = version.ok_or_else(|| Refusal::MissingField("specversion".into()))?;
    if version.text()? != "1.0" {
        return Err(version.invalid("it must be \"1.0\""));
    }
    for name in ["id", "source", "type"] {
        if !kept.iter().any(|field| field.path == name) {
            return Err(Refusal::MissingField(name.into()));
        }
    }
    let target = match subject(&kept)? {
        Some(device) if targets.is_empty() => Target::Device(device),
        _ => options::target(&targets)?,
    };
    Draft::new(target, options, kept, payload)
}

/// The subject, where it is a valid device id.
fn subject(fields: &[Field<'_>]) -> Result<Option<DeviceId>, Refusal> {
    match fields.iter().find(|field| field.path == "subject") {
        Some(subject) => Ok(subject.text()?.parse().ok()),
        None => Ok(None),
    }
}

/// In JSON a number or, as binary mode has it, a text of digits.
fn ttl(field: &Field<'_>, limits: &Limits) -> Result<std::time::Duration, Refusal> {
    if field.raw.starts_with('"') {
        return options::ttl_of_text(&field.path, &field.text()?, limits);
    }
    options::ttl(field, limits)
}

/// An attribute that reaches the device unchanged: its name and its type are as CloudEvents §3.1 allows.
fn checked(field: Field<'_>) -> Result<Field<'_>, Refusal> {
    if field.path.is_empty() || !field.path.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return Err(field.invalid("the names of CloudEvents attributes are made of a-z and 0-9"));
    }
    match field.raw.bytes().next() {
        Some(b'"' | b't' | b'f') => {}
        Some(b'{' | b'[') => return Err(field.invalid("an attribute is a string, a whole number or a boolean; put the rest into data")),
        _ => {
            field.integer()?;
        }
    }
    Ok(field)
}
