//! What a change makes of a device, whichever engine keeps it.

use serde_json::{Map, Value};

use super::{Device, DeviceChange, StoreError};
use crate::domain::Credential;

/// Refuses more live credentials of a type than there may be.
pub(in crate::store) fn check_credentials(change: &DeviceChange, most: usize) -> Result<(), StoreError> {
    let all: Vec<&Credential> = change.credentials.iter().flatten().collect();
    for one in &all {
        let (kind, count) = (one.kind(), all.iter().filter(|other| other.kind() == one.kind()).count());
        if count > most {
            return Err(StoreError::Conflict(
                format!("the device would have {count} live credentials of type {kind}; at most {most} are allowed").into(),
            ));
        }
    }
    Ok(())
}

/// Makes the change.
pub(in crate::store) fn apply(device: &mut Device, change: &DeviceChange) {
    if change.replace {
        device.user = None;
        device.attributes = Map::new();
        device.cohort = crate::domain::Cohort::default();
    }
    if let Some(user) = &change.user {
        device.user.clone_from(user);
    }
    if let Some(patch) = &change.attributes {
        merge(&mut device.attributes, patch);
    }
    if let Some(cohort) = change.cohort {
        device.cohort = cohort;
    }
    if let Some(credentials) = &change.credentials
        && *credentials != device.credentials
    {
        device.credentials.clone_from(credentials);
        device.credential_generation += 1;
    }
}

/// JSON merge patch (RFC 7396 §2) of one object onto another.
fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                target.shift_remove(name);
            }
            Value::Object(inner) => {
                let place = target.entry(name).or_insert_with(|| Value::Object(Map::new()));
                if !place.is_object() {
                    *place = Value::Object(Map::new());
                }
                if let Value::Object(place) = place {
                    merge(place, inner);
                }
            }
            other => {
                target.insert(name.clone(), other.clone());
            }
        }
    }
}
