//! `/v1/devices` and `/v1/devices/{id}`.

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::{
    RegistryState,
    form::{Form, key},
};
use crate::{
    domain::{Caller, DeviceId, Refusal, Scope},
    http::{MediaType, Paged, Parameters, Segment, json::Fields, read},
    store::{Registered, StoreError},
};

/// `GET /v1/devices`
pub(super) async fn list(
    State(state): State<RegistryState>,
    Extension(caller): Extension<Caller>,
    mut parameters: Parameters,
) -> Result<Json<Paged<Value>>, Refusal> {
    caller.require(Scope::Read)?;
    let page = parameters.take_page(&state.0.limits)?;
    let after: Option<DeviceId> = page.after()?;
    if parameters.take("filter")?.is_some() {
        return Err(Refusal::InvalidParameter {
            name: "filter".into(),
            why: "it is not available in this version".into(),
        });
    }
    parameters.finish()?;
    let found = state.0.store.devices(caller.tenant, after.as_ref(), page.limit + 1).await;
    let page = page.page(found.map_err(StoreError::refusal_of_all)?, |device| device.id.to_string());
    let items = state.shown(&page.items, &caller).await.map_err(StoreError::refusal_of_all)?;
    Ok(Json(Paged { items, next: page.next }))
}

/// `GET /v1/devices/{id}`
pub(super) async fn show(
    State(state): State<RegistryState>,
    Extension(caller): Extension<Caller>,
    id: Segment,
    parameters: Parameters,
) -> Result<Json<Value>, Refusal> {
    caller.require(Scope::Read)?;
    parameters.finish()?;
    let key = key(&caller, id.device()?);
    match state.0.store.device(&key).await {
        Ok(Registered::Present(device)) => state.shown_alone(&device, &caller).await.map(Json),
        Ok(Registered::Removed(_)) => Err(Refusal::RemovedDevice(key.device)),
        Ok(Registered::Unknown) => Err(Refusal::UnknownDevice(key.device)),
        Err(error) => Err(error.refusal(&key.device)),
    }
}

/// `PUT /v1/devices/{id}`: 201 for a new device, 200 for one that was there.
pub(super) async fn put(
    State(state): State<RegistryState>,
    Extension(caller): Extension<Caller>,
    id: Segment,
    parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let (device, is_new) = change(&state, &caller, id, parameters, &headers, body, false).await?;
    if !is_new {
        return Ok(Json(device).into_response());
    }
    let location = device.get("id").and_then(Value::as_str).map(|id| format!("/v1/devices/{id}"));
    let mut response = (StatusCode::CREATED, Json(device)).into_response();
    if let Some(location) = location.and_then(|location| HeaderValue::try_from(location).ok()) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `PATCH /v1/devices/{id}`: JSON merge patch (RFC 7396) of a device that is there.
pub(super) async fn patch(
    State(state): State<RegistryState>,
    Extension(caller): Extension<Caller>,
    id: Segment,
    parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    change(&state, &caller, id, parameters, &headers, body, true)
        .await
        .map(|(device, _)| Json(device))
}

async fn change(
    state: &RegistryState,
    caller: &Caller,
    id: Segment,
    parameters: Parameters,
    headers: &HeaderMap,
    body: Body,
    patch: bool,
) -> Result<(Value, bool), Refusal> {
    caller.require(Scope::Admin)?;
    parameters.finish()?;
    require_json(headers)?;
    let device = id.device()?;
    let body = read(body, state.0.limits.request_max_bytes).await?;
    let mut fields = Fields::parse(&body)?;
    if let Some(field) = fields.take("id")
        && field.text()?.parse::<DeviceId>().ok().as_ref() != Some(&device)
    {
        return Err(field.invalid(format!("it is not {device}, the id in the path; leave it out")));
    }
    let form = Form::parse(&mut fields, &state.0.limits, patch)?;
    fields.finish()?;
    let (device, is_new) = state.0.apply(&key(caller, device), form, !patch, !patch).await?;
    Ok((state.shown_alone(&device, caller).await?, is_new))
}

/// `DELETE /v1/devices/{id}`: 204. What waits for it fails, its session ends, and from now on it is answered with 410.
pub(super) async fn remove(
    State(state): State<RegistryState>,
    Extension(caller): Extension<Caller>,
    id: Segment,
    parameters: Parameters,
) -> Result<StatusCode, Refusal> {
    caller.require(Scope::Admin)?;
    parameters.finish()?;
    let key = key(&caller, id.device()?);
    let parts = &*state.0;
    let seat = parts.store.remove_device(&key, parts.clock.now()).await;
    if let Some(seat) = seat.map_err(|error| error.refusal(&key.device))? {
        (parts.end_session)(key.tenant, &key.device, seat.epoch);
    }
    tracing::info!(device.id = %key.device, key.name = %caller.key_name, "the device {} was removed by the key {}", key.device, caller.key_name);
    Ok(StatusCode::NO_CONTENT)
}

/// JSON or a merge patch, in UTF-8; a request that names no type is taken at its word.
pub(super) fn require_json(headers: &HeaderMap) -> Result<(), Refusal> {
    match MediaType::of(headers)? {
        Some(given) if !given.is_json() || !given.is_utf8() => Err(Refusal::UnsupportedMediaType(given.given)),
        _ => Ok(()),
    }
}
