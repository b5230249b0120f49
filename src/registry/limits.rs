//! `GET /v1/limits`: the bounds, so that nobody has to find them by hitting them.

use axum::{Extension, Json, extract::State};
use serde::Serialize;

use super::RegistryState;
use crate::{
    domain::{DeviceLimits, Limits, Refusal},
    http::Parameters,
};

/// The limits that backends meet, and those of devices where the door for them is known.
#[derive(Serialize)]
pub(super) struct Published {
    #[serde(flatten)]
    limits: Limits,
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<DeviceLimits>,
}

/// Any key may read them.
pub(super) async fn limits(
    State(state): State<RegistryState>,
    devices: Option<Extension<DeviceLimits>>,
    parameters: Parameters,
) -> Result<Json<Published>, Refusal> {
    parameters.finish()?;
    Ok(Json(Published {
        limits: state.0.limits.clone(),
        devices: devices.map(|Extension(devices)| devices),
    }))
}
