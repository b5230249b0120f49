//! The native form: one JSON object, every field known.

use super::{
    draft::{Draft, Payload},
    options::{self, Options, not_available},
};
use crate::{
    domain::{Limits, Refusal},
    http::json::{Field, Fields},
};

/// Fields of later versions.
const LATER: [&str; 3] = ["spread_seconds", "receipts", "rollout"];
/// The ways to say to whom.
const TARGETS: [&str; 6] = ["device", "devices", "user", "topic", "filter", "all"];
/// The CloudEvents attributes that a native event may name, in the order in which the device reads them.
const ATTRIBUTES: [&str; 5] = ["id", "source", "type", "time", "datacontenttype"];

pub(super) fn event<'a>(mut fields: Fields<'a>, limits: &Limits) -> Result<Draft<'a>, Refusal> {
    let target = fields.take("target");
    let options = Options {
        ttl: fields.take("ttl").map(|field| options::ttl(&field, limits)).transpose()?,
        urgency: fields.take("urgency").map(|field| options::urgency(&field)).transpose()?,
        collapse_key: fields
            .take("collapse_key")
            .map(|field| options::collapse_key(&field, limits))
            .transpose()?,
        deliver_at: fields
            .take("deliver_at")
            .map(|field| options::deliver_at(&field, "deliver_at"))
            .transpose()?,
        require: fields.take("require").map(|field| options::require(&field)).transpose()?,
    };
    if let Some(field) = LATER.iter().find_map(|name| fields.take(name)) {
        return Err(not_available(&field.path));
    }
    let attributes: Vec<Field<'a>> = ATTRIBUTES.iter().filter_map(|name| fields.take(name)).collect();
    let payload = Payload::of(fields.take("data"), fields.take("data_base64"), limits)?;
    fields.finish()?;
    let target = options::target(&targets(target)?)?;
    if payload.is_none() && !attributes.iter().any(|field| field.path == "type") {
        return Err(Refusal::MissingField("data".into()));
    }
    Ok(Draft::new(target, options, attributes, payload)?.stamped())
}

fn targets(target: Option<Field<'_>>) -> Result<Vec<Field<'_>>, Refusal> {
    let Some(target) = target.filter(|target| !target.is_null()) else {
        return Ok(Vec::new());
    };
    let mut fields = target.object()?;
    let targets = TARGETS.iter().filter_map(|name| fields.take(name)).collect();
    fields.finish()?;
    Ok(targets)
}
