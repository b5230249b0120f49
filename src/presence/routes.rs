//! `GET /v1/devices/{id}/presence`.

use std::time::Duration;

use axum::{
    Extension, Json, Router,
    extract::{Path, State},
    routing::get,
};

use super::{DevicePresence, Found, Presence};
use crate::{
    domain::{Caller, DeviceId, Refusal, Scope},
    store::{DeviceKey, StoreError},
};

/// The routes of presence. The layer around them provides [`Caller`].
pub fn routes(presence: Presence) -> Router {
    Router::new()
        .route("/v1/devices/{id}/presence", get(of_device))
        .with_state(presence)
}

async fn of_device(
    State(presence): State<Presence>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<DevicePresence>, Refusal> {
    if !caller.scope.covers(Scope::Read) {
        return Err(Refusal::Forbidden {
            key: caller.key_name.to_string(),
            needed: Scope::Read,
        });
    }
    let device: DeviceId = match id.parse() {
        Ok(device) => device,
        Err(why) => return Err(Refusal::InvalidDeviceId { text: id, why }),
    };
    let key = DeviceKey {
        tenant: caller.tenant,
        device,
    };
    match presence.of(&key).await {
        Ok(Found::Device(presence)) => Ok(Json(presence)),
        Ok(Found::Removed) => Err(Refusal::RemovedDevice(key.device)),
        Ok(Found::Unknown) => Err(Refusal::UnknownDevice(key.device)),
        Err(error) => Err(refusal(&error)),
    }
}

fn refusal(error: &StoreError) -> Refusal {
    match error {
        StoreError::Unavailable(_) | StoreError::Busy | StoreError::NoSpace => Refusal::Unavailable {
            retry_after: Duration::from_secs(1),
        },
        other => {
            tracing::error!(error = %other, "the presence of a device cannot be read: {other}");
            Refusal::Internal("the presence cannot be read".into())
        }
    }
}
