//! `GET /v1/limits`: the bounds, so that nobody has to find them by hitting them.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde::Serialize;

use super::RegistryState;
use crate::{
    domain::{Allowance, Caller, DeviceLimits, Limits, Refusal},
    http::Parameters,
};

/// Tells what limits a caller in deliveries, and what is left of it now.
type Left = dyn Fn(&Caller) -> Vec<Allowance> + Send + Sync;

/// What limits a caller: the part that counts its deliveries knows.
#[derive(Clone)]
pub struct CallersLimits(pub Arc<Left>);

/// The limits that backends meet, those of the caller alone, and those of devices where the door for them is known.
#[derive(Serialize)]
pub(super) struct Published {
    #[serde(flatten)]
    limits: Limits,
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<DeviceLimits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limits: Option<Vec<Allowance>>,
}

/// Any key may read them.
pub(super) async fn limits(
    State(state): State<RegistryState>,
    Extension(caller): Extension<Caller>,
    devices: Option<Extension<DeviceLimits>>,
    of_callers: Option<Extension<CallersLimits>>,
    parameters: Parameters,
) -> Result<Json<Published>, Refusal> {
    parameters.finish()?;
    Ok(Json(Published {
        limits: state.0.limits.clone(),
        devices: devices.map(|Extension(devices)| devices),
        rate_limits: of_callers.map(|Extension(limits)| (limits.0)(&caller)),
    }))
}
