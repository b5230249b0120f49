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
    domain::{Caller, DeviceId, Refusal, Scope, UserId},
    http::{PageRequest, Paged, Parameters, Segment, json::Fields, read, require_json},
    store::{Device, Registered, Scan, StoreError, Wanted},
};

/// `GET /v1/devices?filter=&user=`
pub(super) async fn list(
    State(state): State<RegistryState>,
    Extension(caller): Extension<Caller>,
    mut parameters: Parameters,
) -> Result<Json<Paged<Value>>, Refusal> {
    caller.require(Scope::Read)?;
    let page = parameters.take_page(&state.0.limits)?;
    let after: Option<DeviceId> = page.after()?;
    let wanted = Wanted {
        filter: parameters.take_filter(&state.0.limits, false)?,
        user: take_user(&mut parameters)?,
    };
    parameters.finish()?;
    let page = if wanted.is_all() {
        let found = state.0.store.devices(caller.tenant, after.as_ref(), page.limit + 1).await;
        page.page(found.map_err(StoreError::refusal_of_all)?, |device| device.id.to_string())
    } else {
        let found = state.find(&caller, &wanted, after, page.limit).await;
        found.map_err(StoreError::refusal_of_all)?
    };
    let items = state.shown(&page.items, &caller).await.map_err(StoreError::refusal_of_all)?;
    Ok(Json(Paged { items, next: page.next }))
}

fn take_user(parameters: &mut Parameters) -> Result<Option<UserId>, Refusal> {
    let Some(text) = parameters.take("user")? else { return Ok(None) };
    text.parse().map(Some).map_err(|_| Refusal::InvalidParameter {
        name: "user".into(),
        why: "a user has 1 to 128 characters, none of them a space or a control character".into(),
    })
}

impl RegistryState {
    /// A page of those that are wanted. It may have fewer than the limit, or none, and yet a next one: a request looks at so many
    /// devices and no more. A full page has a next one in any case, which may be empty.
    async fn find(&self, caller: &Caller, wanted: &Wanted, after: Option<DeviceId>, limit: usize) -> Result<Paged<Device>, StoreError> {
        let max = self.0.limits.filter_scan_max_devices;
        let mut scan = Scan::new(&*self.0.store, caller.tenant, wanted, after, max);
        let mut items: Vec<Device> = Vec::new();
        while let Some(found) = scan.next().await? {
            items.extend(found.into_iter().take(limit - items.len()).map(|candidate| candidate.device));
            if items.len() == limit {
                let next = items.last().map(|last| PageRequest::cursor(last.id.as_str()));
                return Ok(Paged { items, next });
            }
        }
        let next = scan.stopped_at().map(|last| PageRequest::cursor(last.as_str()));
        Ok(Paged { items, next })
    }
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
