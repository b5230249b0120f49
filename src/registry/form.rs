//! A device as requests bring it and as answers show it.

use serde_json::{Map, Value, json};

use super::{Parts, RegistryState, credentials};
use crate::{
    domain::{Caller, Cohort, DeviceId, Limits, Refusal, Reported, UserId},
    http::json::{Field, Fields},
    store::{Device, DeviceChange, DeviceKey, Registered, StoreError},
};

/// What a request wants of a device; passwords are not yet derived.
#[derive(Debug, Default)]
pub(super) struct Form {
    user: Option<Option<UserId>>,
    attributes: Option<Map<String, Value>>,
    /// `Some(None)`: the one that it is drawn into.
    cohort: Option<Option<Cohort>>,
    credentials: Option<Vec<credentials::Given>>,
}

impl Form {
    /// Reads the fields of a device body. In a PATCH (RFC 7396) `null` takes a field back to its default; in a PUT that is left out.
    pub fn parse(fields: &mut Fields<'_>, limits: &Limits, patch: bool) -> Result<Self, Refusal> {
        let short = fields.take("password");
        let mut form = Self::default();
        if let Some(field) = fields.take("user") {
            form.user = Some(if field.is_null() { None } else { Some(user(&field)?) });
        }
        if let Some(field) = fields.take("attributes") {
            form.attributes = Some(attributes(field, limits, patch)?);
        }
        if let Some(field) = fields.take("cohort") {
            form.cohort = Some(if field.is_null() { None } else { Some(cohort(&field)?) });
        }
        form.credentials = match (fields.take("credentials"), short) {
            (Some(_), Some(short)) => return Err(short.invalid("credentials is there, too; send one of them")),
            (Some(field), None) if field.is_null() => Some(Vec::new()),
            (Some(field), None) => Some(credentials::parse(&field, limits)?),
            (None, Some(short)) => Some(vec![credentials::password(&short)?]),
            (None, None) => None,
        };
        Ok(form)
    }
}

fn user(field: &Field<'_>) -> Result<UserId, Refusal> {
    field.text()?.parse().map_err(|error: crate::domain::InvalidName| {
        let why = match error {
            crate::domain::InvalidName::Length(length) => format!("it has {length} characters; 1 to 128 are allowed"),
            crate::domain::InvalidName::Character { character, offset } => {
                format!("character {character:?} at offset {offset} is a space or a control character")
            }
        };
        field.invalid(why)
    })
}

fn cohort(field: &Field<'_>) -> Result<Cohort, Refusal> {
    let word = field.text()?;
    match word.as_ref() {
        "push" => Ok(Cohort::Push),
        "poll" => Ok(Cohort::Poll),
        "control" => Ok(Cohort::Control),
        _ => Err(field.invalid(format!("{word:?} is none of push, poll, control"))),
    }
}

fn attributes(field: Field<'_>, limits: &Limits, patch: bool) -> Result<Map<String, Value>, Refusal> {
    if field.raw.len() > limits.attributes_max_bytes {
        return Err(field.invalid(format!(
            "it has {} bytes; at most {} are allowed",
            field.raw.len(),
            limits.attributes_max_bytes
        )));
    }
    let value = field.value()?;
    // Names given twice would be lost silently in the map.
    field.clone().object()?;
    match value {
        Value::Object(mut map) => {
            if !patch {
                map.retain(|_, value| !value.is_null());
            }
            Ok(map)
        }
        _ => Err(field.invalid("it must be an object")),
    }
}

impl Parts {
    /// Applies the form. Answers the device and whether it is new.
    pub async fn apply(&self, key: &DeviceKey, form: Form, replace: bool, create: bool) -> Result<(Device, bool), Refusal> {
        let refuse = |error: StoreError| error.refusal(&key.device);
        let merges = !replace && form.attributes.is_some();
        let existing = if merges || form.credentials.is_some() {
            match self.store.device(key).await.map_err(refuse)? {
                Registered::Present(device) => Some(device),
                Registered::Removed(_) if !create => return Err(Refusal::RemovedDevice(key.device.clone())),
                Registered::Unknown if !create => return Err(Refusal::UnknownDevice(key.device.clone())),
                Registered::Removed(_) | Registered::Unknown => None,
            }
        } else {
            None
        };
        if let (true, Some(device), Some(added)) = (merges, &existing, &form.attributes) {
            let size = json_size(&device.attributes) + json_size(added);
            if size > 2 * self.limits.attributes_max_bytes {
                return Err(Refusal::InvalidField {
                    field: "attributes".into(),
                    why: format!("with those that are there they have {size} bytes; take some away with null first"),
                });
            }
        }
        let credentials = match form.credentials {
            Some(given) => {
                let known = existing.map(|device| device.credentials).unwrap_or_default();
                Some(credentials::derive(given, known, self.config.scram_iterations, &self.derivations).await?)
            }
            None => None,
        };
        let cohort = match form.cohort {
            None if !replace => None,
            Some(Some(cohort)) => Some(cohort),
            None | Some(None) => Some(self.config.cohort(key.tenant, &key.device)),
        };
        let change = DeviceChange {
            user: form.user,
            attributes: form.attributes,
            cohort,
            credentials,
            replace,
        };
        self.store.put_device(key, change, create, self.clock.now()).await.map_err(refuse)
    }
}

impl RegistryState {
    /// Devices as answers show them.
    pub async fn shown(&self, devices: &[Device], caller: &Caller) -> Result<Vec<Value>, StoreError> {
        let reported = self.0.store.reported(caller.tenant, devices).await?;
        let both = devices.iter().zip(&reported);
        Ok(both.map(|(device, reported)| show(device, reported.as_ref(), caller)).collect())
    }

    /// One device as answers show it.
    pub async fn shown_alone(&self, device: &Device, caller: &Caller) -> Result<Value, Refusal> {
        let shown = self.shown(std::slice::from_ref(device), caller).await;
        let shown = shown.map_err(|error| error.refusal(&device.id))?;
        Ok(shown.into_iter().next().unwrap_or_default())
    }
}

fn json_size(map: &Map<String, Value>) -> usize {
    serde_json::to_vec(map).map_or(0, |json| json.len())
}

/// A device as answers show it: of its credentials only their types; beside the backend's facts what it reports itself.
pub(super) fn show(device: &Device, reported: Option<&Reported>, caller: &Caller) -> Value {
    let credentials: Vec<Value> = device.credentials.iter().map(|one| json!({"type": one.kind()})).collect();
    json!({
        "id": device.id.as_str(),
        "jid": format!("{}@{}", device.id, caller.domain),
        "user": device.user.as_ref().map(UserId::as_str),
        "attributes": device.attributes,
        "reported": reported.map(Reported::object).unwrap_or_default(),
        "reported_at": reported.map(|reported| reported.at),
        "cohort": device.cohort,
        "credentials": credentials,
        "created_at": device.created_at,
        "updated_at": device.updated_at,
    })
}

/// The key of a caller's device.
pub(super) fn key(caller: &Caller, device: DeviceId) -> DeviceKey {
    DeviceKey {
        tenant: caller.tenant,
        device,
    }
}
