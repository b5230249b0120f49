//! How an event is to be delivered: the same options in native fields, CloudEvents extensions and headers.

use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::http::HeaderMap;

use crate::{
    domain::{DeviceId, GROUP_DEVICES_MAX, InvalidName, Limits, Refusal, Require, Target, Timestamp, Urgency},
    http::{json::Field, single, text},
};

/// The options that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub ttl: Option<Duration>,
    pub urgency: Option<Urgency>,
    pub collapse_key: Option<Arc<str>>,
    pub deliver_at: Option<DeliverAt>,
    pub require: Option<Require>,
}

/// When it is to be delivered at the earliest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeliverAt {
    /// The time as it was given: it may be over.
    pub at: Timestamp,
    /// The name of the field.
    pub field: &'static str,
}

impl DeliverAt {
    /// The time from which an event of that TTL, accepted at `now`, is to be delivered. `None`: at once, because it is over.
    pub fn ahead(self, ttl: Duration, now: Timestamp, limits: &Limits) -> Result<Option<Timestamp>, Refusal> {
        let invalid = |why: String| Refusal::InvalidField {
            field: self.field.to_owned(),
            why,
        };
        if ttl.is_zero() {
            return Err(invalid("a TTL of 0 means now or never; give the event time to live".into()));
        }
        let max = limits.deliver_at_max_secs;
        if self.at.since(now) > Duration::from_secs(max) {
            return Err(invalid(format!("{} is more than {max} seconds ahead", self.at)));
        }
        Ok(Some(self.at).filter(|at| *at > now))
    }
}

/// A field of a later version: refused by its name, so that nobody believes it worked.
pub(super) fn not_available(field: &str) -> Refusal {
    Refusal::InvalidField {
        field: field.to_owned(),
        why: "it is not available in this version".into(),
    }
}

/// What the headers say of all events of a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Common {
    ttl: Option<(Duration, String)>,
    urgency: Option<(Urgency, String)>,
    key: Option<String>,
}

impl Common {
    /// `TTL` and `Urgency` (RFC 8030 §5.2, §5.3), and `Idempotency-Key`.
    pub fn of(headers: &HeaderMap, limits: &Limits) -> Result<Self, Refusal> {
        let ttl = |text: &str| Ok((ttl_of_text("TTL", text, limits)?, text.to_owned()));
        let urgency = |text: &str| Ok((urgency_of("Urgency", text)?, text.to_owned()));
        let key = single(headers, "Idempotency-Key")?;
        if let Some(key) = key
            && (key.is_empty() || key.len() > limits.idempotency_key_max_bytes)
        {
            return Err(Refusal::InvalidField {
                field: "Idempotency-Key".into(),
                why: format!("it has {} bytes; 1 to {} are allowed", key.len(), limits.idempotency_key_max_bytes),
            });
        }
        Ok(Self {
            ttl: single(headers, "TTL")?.map(ttl).transpose()?,
            urgency: single(headers, "Urgency")?.map(urgency).transpose()?,
            key: key.map(str::to_owned),
        })
    }

    /// The key of a request with one event.
    pub fn key(&self) -> Option<Cow<'_, str>> {
        self.key.as_deref().map(Cow::Borrowed)
    }

    /// The key of one of many: that event posted alone with this key is the same event.
    pub fn key_of(&self, index: usize) -> Option<Cow<'_, str>> {
        self.key.as_deref().map(|key| format!("{key}#{index}").into())
    }
}

impl Options {
    /// Takes from the headers what the event does not say.
    pub fn merge(&mut self, common: &Common) -> Result<(), Refusal> {
        if let Some((ttl, text)) = &common.ttl {
            let in_body = self.ttl.map(|ttl| ttl.as_secs().to_string());
            merge("TTL", text, &mut self.ttl, *ttl, in_body)?;
        }
        if let Some((urgency, text)) = &common.urgency {
            let in_body = self.urgency.map(|urgency| urgency.to_string());
            merge("Urgency", text, &mut self.urgency, *urgency, in_body)?;
        }
        Ok(())
    }
}

fn merge<T: PartialEq>(header: &str, text: &str, place: &mut Option<T>, value: T, in_body: Option<String>) -> Result<(), Refusal> {
    match place {
        Some(known) if *known != value => Err(Refusal::InvalidField {
            field: header.to_owned(),
            why: format!(
                "the header says {text} and the event says {}; say it once",
                in_body.unwrap_or_default()
            ),
        }),
        _ => {
            *place = Some(value);
            Ok(())
        }
    }
}

/// A TTL in whole seconds, as a JSON number.
pub(super) fn ttl(field: &Field<'_>, limits: &Limits) -> Result<Duration, Refusal> {
    let seconds = field.integer()?;
    in_range(u64::try_from(seconds).ok(), field.raw, limits)
}

/// A TTL as text: headers and CloudEvents in binary mode know nothing else.
pub(super) fn ttl_of_text(field: &str, text: &str, limits: &Limits) -> Result<Duration, Refusal> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refusal::InvalidField {
            field: field.to_owned(),
            why: format!("{text:?} is not a number of whole seconds"),
        });
    }
    in_range(text.parse().ok(), text, limits)
}

fn in_range(seconds: Option<u64>, given: &str, limits: &Limits) -> Result<Duration, Refusal> {
    match seconds {
        Some(seconds) if seconds <= limits.ttl_max_secs => Ok(Duration::from_secs(seconds)),
        _ => Err(Refusal::TtlOutOfRange {
            ttl: given.chars().take(40).collect(),
            max: limits.ttl_max_secs,
        }),
    }
}

/// A word of RFC 8030.
pub(super) fn urgency_of(field: &str, word: &str) -> Result<Urgency, Refusal> {
    Urgency::parse(word).ok_or_else(|| Refusal::InvalidField {
        field: field.to_owned(),
        why: format!("{word:?} is none of very-low, low, normal, high"),
    })
}

pub(super) fn urgency(field: &Field<'_>) -> Result<Urgency, Refusal> {
    urgency_of(&field.path, &field.text()?)
}

pub(super) fn require(field: &Field<'_>) -> Result<Require, Refusal> {
    let word = field.text()?;
    match word.as_ref() {
        "acknowledged" => Ok(Require::Acknowledged),
        "received" => Ok(Require::Received),
        "processed" => Ok(Require::Processed),
        _ => Err(field.invalid(format!("{word:?} is none of acknowledged, received, processed"))),
    }
}

/// A time (RFC 3339) in the field of that name.
pub(super) fn deliver_at(field: &Field<'_>, name: &'static str) -> Result<DeliverAt, Refusal> {
    let at = field.text()?.parse::<Timestamp>();
    let at = at.map_err(|error| field.invalid(format!("it is not an RFC 3339 time such as 2026-11-22T01:30:00Z: {error}")))?;
    Ok(DeliverAt { at, field: name })
}

/// It becomes an XML attribute, so it has no control characters.
pub(super) fn collapse_key(field: &Field<'_>, limits: &Limits) -> Result<Arc<str>, Refusal> {
    let key = field.text()?;
    if key.is_empty() || key.len() > limits.collapse_key_max_bytes {
        let (size, max) = (key.len(), limits.collapse_key_max_bytes);
        return Err(field.invalid(format!("it has {size} bytes; 1 to {max} are allowed")));
    }
    text::check_plain(&field.path, &key)?;
    Ok(key.into())
}

/// The one target among those that were named.
pub(super) fn target(targets: &[Field<'_>]) -> Result<Target, Refusal> {
    match targets {
        [] => Err(Refusal::NoTarget),
        [target] if matches!(target.path.as_ref(), "target.device" | "pushdevice") => device(&target.text()?).map(Target::Device),
        [target] if target.path == "target.devices" => devices(target),
        [target] if matches!(target.path.as_ref(), "target.user" | "pushuser") => {
            let text = target.text()?;
            let user = text.parse().map_err(|why: InvalidName| target.invalid(why.to_string()))?;
            Ok(Target::User(user))
        }
        [target] => Err(not_available(&target.path)),
        several => Err(Refusal::TwoTargets {
            count: several.len(),
            names: several.iter().map(|target| target.path.as_ref()).collect::<Vec<_>>().join(", "),
        }),
    }
}

fn device(text: &str) -> Result<DeviceId, Refusal> {
    text.parse().map_err(|why| Refusal::InvalidDeviceId {
        text: text.to_owned(),
        why,
    })
}

/// The devices of a list: sorted, each once.
fn devices(target: &Field<'_>) -> Result<Target, Refusal> {
    let ids: Vec<Cow<'_, str>> = serde_json::from_str(target.raw).map_err(|_| target.invalid("it must be a list of device ids"))?;
    if ids.is_empty() {
        return Err(target.invalid("it is empty; name 1 device or more"));
    }
    let mut devices = ids.iter().map(|id| device(id)).collect::<Result<Vec<_>, _>>()?;
    devices.sort_unstable();
    devices.dedup();
    if devices.len() > GROUP_DEVICES_MAX {
        return Err(Refusal::TooManyTargets { limit: GROUP_DEVICES_MAX });
    }
    Ok(Target::Devices(devices))
}
