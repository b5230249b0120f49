//! An event that passed the checks of its form, and what it becomes.

use std::{borrow::Cow, fmt::Write as _, sync::Arc, time::Duration};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use data_encoding::HEXLOWER;

use super::{
    accept::{New, Several},
    options::Options,
};
use crate::{
    domain::{Caller, Data, Event, Limits, Refusal, Target, Timestamp},
    http::{json::Field, text},
    store::{GroupRecord, Idempotency, NewEvent},
};

/// The type of a native event that names none.
const DEFAULT_TYPE: &str = "com.unpoll.event";
/// The most bytes that names and values of attributes may have together: with `data` they bound the stanza.
const ATTRIBUTES_MAX: usize = 16 * 1024;

/// The data of an event.
#[derive(Clone, Debug)]
pub(super) enum Payload<'a> {
    /// JSON, byte for byte.
    Json(&'a str),
    /// Anything else, as a JSON string in base64.
    Base64(Cow<'a, str>),
}

impl<'a> Payload<'a> {
    pub fn of(data: Option<Field<'a>>, base64: Option<Field<'a>>, limits: &Limits) -> Result<Option<Self>, Refusal> {
        match (data, base64) {
            (None, None) => Ok(None),
            (Some(_), Some(base64)) => Err(base64.invalid("data is there, too; send one of them")),
            (Some(data), None) => {
                fits(data.raw.len(), limits)?;
                text::check_json(&data.path, data.raw)?;
                Ok(Some(Self::Json(data.raw)))
            }
            (None, Some(base64)) => {
                let decoded = BASE64_STANDARD
                    .decode(base64.text()?.as_bytes())
                    .map_err(|error| base64.invalid(format!("it is not base64 (RFC 4648 §4): {error}")))?;
                fits(decoded.len(), limits)?;
                Ok(Some(Self::Base64(base64.raw.into())))
            }
        }
    }

    pub fn bytes(bytes: &[u8], limits: &Limits) -> Result<Self, Refusal> {
        fits(bytes.len(), limits)?;
        Ok(Self::Base64(format!("\"{}\"", BASE64_STANDARD.encode(bytes)).into()))
    }

    fn member(&self) -> (&'static str, &str) {
        match self {
            Self::Json(raw) => ("data", raw),
            Self::Base64(raw) => ("data_base64", raw),
        }
    }
}

fn fits(size: usize, limits: &Limits) -> Result<(), Refusal> {
    let limit = limits.event_data_max_bytes;
    if size > limit {
        Err(Refusal::DataTooLarge { size, limit })
    } else {
        Ok(())
    }
}

/// A checked event: to whom, how, and what the device will read.
#[derive(Clone, Debug)]
pub(super) struct Draft<'a> {
    target: Target,
    pub options: Options,
    /// The CloudEvents attributes that were given, without `specversion`; values as JSON text.
    attributes: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    payload: Option<Payload<'a>>,
    /// `source` and `id`, when both were given: they name the event.
    identity: Option<(String, String)>,
    /// Whether the device shall read when it was accepted, where no `time` was given.
    stamped: bool,
}

impl<'a> Draft<'a> {
    /// Checks the attributes that mean something to everybody (CloudEvents §3.1).
    pub fn new(target: Target, options: Options, fields: Vec<Field<'a>>, payload: Option<Payload<'a>>) -> Result<Self, Refusal> {
        let (mut id, mut source, mut size) = (None, None, 0);
        let mut attributes = Vec::with_capacity(fields.len() + 4);
        for field in fields {
            let name = field.path.clone();
            match name.as_ref() {
                "id" => id = Some(non_empty(&field)?),
                "source" => source = Some(non_empty(&field)?),
                "type" | "subject" | "dataschema" | "datacontenttype" => drop(non_empty(&field)?),
                "time" => {
                    let time = field.text()?.parse::<Timestamp>();
                    time.map_err(|error| field.invalid(format!("it is not an RFC 3339 time such as 2026-11-22T01:30:00Z: {error}")))?;
                }
                _ => text::check_json(&name, field.raw)?,
            }
            size += name.len() + field.raw.len();
            if size > ATTRIBUTES_MAX {
                return Err(field.invalid(format!(
                    "the attributes have more than {ATTRIBUTES_MAX} bytes together; put the rest into data"
                )));
            }
            attributes.push((name, Cow::Borrowed(field.raw)));
        }
        Ok(Self {
            target,
            options,
            attributes,
            payload,
            identity: source.zip(id),
            stamped: false,
        })
    }

    /// Gives it the time of its acceptance as `time`, unless it has one.
    pub fn stamped(self) -> Self {
        Self { stamped: true, ..self }
    }

    /// Names the type of the data.
    pub fn with_datacontenttype(mut self, given: &str) -> Result<Self, Refusal> {
        text::check_plain("content-type", given)?;
        let raw = serde_json::Value::from(given).to_string();
        self.attributes.push(("datacontenttype".into(), raw.into()));
        Ok(self)
    }

    /// The event to store, accepted at `now`, with its idempotency key: the header's, else `source` and `id`.
    pub fn into_new(
        self,
        key: Option<Cow<'_, str>>,
        ids: &mut Ids,
        caller: &Caller,
        now: Timestamp,
        limits: &Limits,
    ) -> Result<New, Refusal> {
        let mut key_parts = match (&key, &self.identity) {
            (Some(key), _) => vec!["header", key],
            (None, Some((source, id))) => vec!["identity", source, id],
            (None, None) => Vec::new(),
        };
        if !key_parts.is_empty() && !matches!(self.target, Target::Device(_)) {
            // The queue of a device is the scope of its keys; the keys of several devices have theirs in them.
            key_parts.extend(self.target.parts());
        }
        let key = (!key_parts.is_empty()).then(|| hash(&key_parts));
        let ttl = self.options.ttl.unwrap_or(Duration::from_secs(limits.ttl_default_secs));
        let urgency = self.options.urgency.unwrap_or_default();
        let require = self.options.require.unwrap_or_default();
        let collapse_key = self.options.collapse_key.clone();
        let deliver_at = self
            .options
            .deliver_at
            .map(|given| given.ahead(ttl, now, limits))
            .transpose()?
            .flatten();
        let key = key.map(|key| (key, self.meaning(ttl, urgency.as_str(), require.as_str())));
        let json = self.render(ids, caller, now)?;
        let device = match self.target {
            Target::Device(device) => device,
            target => {
                let record = GroupRecord {
                    target: target.hash(),
                    user: match &target {
                        Target::User(user) => Some(user.clone()),
                        _ => None,
                    },
                    accepted_at: now,
                    deliver_at,
                    ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
                    urgency,
                    require,
                    collapse_key: collapse_key.map(|key| key.as_ref().to_owned()),
                    idempotency: key,
                    durability: None,
                    members: Vec::new(),
                    json: Some(json.as_ref().to_owned()),
                };
                return Ok(New::Several(Box::new(Several {
                    tenant: caller.tenant,
                    target,
                    record,
                })));
            }
        };
        Ok(New::One(NewEvent {
            event: Event {
                tenant: caller.tenant,
                device,
                accepted_at: now,
                deliver_at,
                ttl,
                urgency,
                collapse_key,
                require,
                json: Data(json),
            },
            idempotency: key.map(|(key, body)| Idempotency { key, body, is_copy: false }),
        }))
    }

    /// The hash of what was asked for: without what the service adds, and whatever the order of the attributes.
    fn meaning(&self, ttl: Duration, urgency: &str, require: &str) -> [u8; 16] {
        let ttl = ttl.as_secs().to_string();
        // As it was given: a retry that comes when that time is over asks for the same.
        let deliver_at = self.options.deliver_at.map(|given| given.at.to_string());
        let mut parts = self.target.parts();
        parts.extend([ttl.as_str(), urgency, require]);
        parts.extend(deliver_at.as_deref().into_iter().flat_map(|at| ["deliver_at", at]));
        parts.extend(self.options.collapse_key.as_deref().into_iter().flat_map(|key| ["collapse", key]));
        let mut attributes: Vec<_> = self.attributes.iter().collect();
        attributes.sort();
        parts.extend(attributes.into_iter().flat_map(|(name, raw)| [name.as_ref(), raw.as_ref()]));
        parts.extend(self.payload.as_ref().into_iter().flat_map(|payload| {
            let (name, raw) = payload.member();
            [name, raw]
        }));
        hash(&parts)
    }

    /// The CloudEvent in the JSON event format. A native event gets the attributes that it left out.
    fn render(&self, ids: &mut Ids, caller: &Caller, now: Timestamp) -> Result<Arc<str>, Refusal> {
        let size: usize = self.attributes.iter().map(|(name, raw)| name.len() + raw.len() + 4).sum();
        let data = self.payload.as_ref().map_or(0, |payload| payload.member().1.len() + 16);
        let mut json = String::with_capacity(size + data + 192);
        json.push_str(r#"{"specversion":"1.0""#);
        let member = |json: &mut String, name: &str, raw: &str| json.extend([",\"", name, "\":", raw]);
        let has = |name: &str| self.attributes.iter().any(|(known, _)| known == name);
        if !has("id") {
            let id = ids.next()?.to_be_bytes();
            json.push_str(",\"id\":\"");
            HEXLOWER.encode_append(&id, &mut json);
            json.push('"');
        }
        if !has("source") {
            json.extend([",\"source\":\"/unpoll/", &caller.domain, "\""]);
        }
        if !has("type") {
            json.extend([",\"type\":\"", DEFAULT_TYPE, "\""]);
        }
        for (name, raw) in &self.attributes {
            member(&mut json, name, raw);
        }
        if self.stamped && !has("time") {
            // Writing to a String does not fail.
            let _ = write!(json, ",\"time\":\"{now}\"");
        }
        if let Some(payload) = &self.payload {
            let (name, raw) = payload.member();
            member(&mut json, name, raw);
        }
        json.push('}');
        Ok(json.into())
    }
}

/// Ids for the events of one request that have none: a random number, and those behind it.
#[derive(Debug, Default)]
pub(super) struct Ids(Option<u128>);

impl Ids {
    fn next(&mut self) -> Result<u128, Refusal> {
        let id = match self.0 {
            Some(last) => last.wrapping_add(1),
            None => {
                let mut random = [0; 16];
                rand::fill(&mut random).map_err(|_| Refusal::Internal("no random bytes".into()))?;
                u128::from_be_bytes(random)
            }
        };
        self.0 = Some(id);
        Ok(id)
    }
}

fn non_empty(field: &Field<'_>) -> Result<String, Refusal> {
    let text = field.text()?;
    if text.is_empty() {
        return Err(field.invalid("it is empty"));
    }
    Ok(text.into_owned())
}

/// The first half of a SHA-256 over the parts, each behind its length.
fn hash(parts: &[&str]) -> [u8; 16] {
    let size: usize = parts.iter().map(|part| part.len() + 8).sum();
    // In one piece: to hand over a part costs as much as to hash it.
    let mut all = Vec::with_capacity(size);
    for part in parts {
        all.extend_from_slice(&(part.len() as u64).to_be_bytes());
        all.extend_from_slice(part.as_bytes());
    }
    let mut half = [0; 16];
    for (byte, digested) in half.iter_mut().zip(digest(&SHA256, &all).as_ref()) {
        *byte = *digested;
    }
    half
}
