//! `GET /v1/limits`: the bounds, so that nobody has to find them by hitting them.

use axum::{Json, extract::State};

use super::RegistryState;
use crate::domain::Limits;

/// Any key may read them.
pub(super) async fn limits(State(state): State<RegistryState>) -> Json<Limits> {
    Json(state.0.limits.clone())
}
