//! The handlers.

use std::collections::HashMap;

use axum::{Extension, Json, extract::State};
use serde_json::{Value, json};

use super::{
    ReceiptsState,
    fate::waits,
    view::{DeliveryView, EventView},
};
use crate::{
    domain::{Caller, DeliveryState, DeviceId, EventId, Outcome, Refusal, Scope},
    http::{Paged, Parameters, Segment},
    store::{Delivery, DeviceKey, Registered, Settle, Settled, StoreError, group},
};

/// Who posts events may learn what became of them.
pub(super) const READERS: [Scope; 2] = [Scope::Read, Scope::Push];

/// `GET /v1/events/{id}`
pub(super) async fn event(
    State(state): State<ReceiptsState>,
    Extension(caller): Extension<Caller>,
    id: Segment,
    parameters: Parameters,
) -> Result<Json<EventView>, Refusal> {
    caller.require_any(&READERS)?;
    parameters.finish()?;
    let fate = state.0.fate(&caller, &id.0).await?;
    EventView::new(&fate).map(Json).ok_or(Refusal::UnknownEvent(id.0))
}

/// `DELETE /v1/events/{id}`: takes back what is not delivered. Idempotent.
pub(super) async fn cancel(
    State(state): State<ReceiptsState>,
    Extension(caller): Extension<Caller>,
    id: Segment,
    parameters: Parameters,
) -> Result<Json<Value>, Refusal> {
    caller.require(Scope::Push)?;
    parameters.finish()?;
    let parts = &*state.0;
    let mut fate = parts.fate(&caller, &id.0).await?;
    if let Some(place) = fate.group.as_ref().filter(|group| !group.is_finished()).map(|group| group.place) {
        // What is not there yet cannot be taken back, and would come later.
        let completed = group::complete(&*parts.store, place, parts.clock.now()).await;
        completed.map_err(StoreError::refusal_of_all)?;
        fate = parts.fate(&caller, &id.0).await?;
    }
    let under_way = fate
        .deliveries
        .iter()
        .filter(|(delivery, now_in)| waits(delivery) && *now_in != DeliveryState::Expired);
    let now = parts.clock.now();
    let end = |(delivery, _): &(Delivery, DeliveryState)| {
        Some(Settle {
            device: DeviceKey {
                tenant: caller.tenant,
                device: delivery.device.clone(),
            },
            id: delivery.id,
            located: parts.store.locate(caller.tenant, delivery.id)?,
            outcome: Outcome::Cancelled,
            at: now,
            epoch: None,
            told: None,
        })
    };
    let ends: Vec<Settle> = under_way.filter_map(end).collect();
    let devices: Vec<DeviceId> = ends.iter().map(|end| end.device.device.clone()).collect();
    let settled = if ends.is_empty() {
        Vec::new()
    } else {
        parts.store.settle(ends).await
    };
    let mut ended: HashMap<&DeviceId, DeliveryState> = HashMap::new();
    for (device, settled) in devices.iter().zip(settled) {
        let state = match settled.map_err(|error| error.refusal(device))? {
            Settled::Now { .. } => {
                (parts.cancelled)(1);
                DeliveryState::Cancelled
            }
            Settled::Before(state) => state,
            // A cancel asks for neither; and what is not there any more has ended some time ago.
            Settled::Again | Settled::OutcomeWanted | Settled::Unknown => continue,
        };
        ended.insert(device, state);
    }
    let states = fate
        .deliveries
        .iter()
        .map(|(delivery, now_in)| ended.get(&delivery.device).unwrap_or(now_in));
    let (mut cancelled, mut delivered) = (0, 0);
    for state in states {
        cancelled += u32::from(*state == DeliveryState::Cancelled);
        delivered += u32::from(matches!(state, DeliveryState::Delivered | DeliveryState::Processed));
    }
    Ok(Json(json!({"cancelled": cancelled, "delivered": delivered})))
}

/// `GET /v1/events/{id}/deliveries?state=&device=`
pub(super) async fn deliveries(
    State(state): State<ReceiptsState>,
    Extension(caller): Extension<Caller>,
    id: Segment,
    mut parameters: Parameters,
) -> Result<Json<Paged<DeliveryView>>, Refusal> {
    caller.require_any(&READERS)?;
    let page = parameters.take_page(&state.0.limits)?;
    let after: Option<DeviceId> = page.after()?;
    let wanted = take_state(&mut parameters)?;
    let device = take_device(&mut parameters)?;
    parameters.finish()?;
    let fate = state.0.fate(&caller, &id.0).await?;
    let fits = |(delivery, now_in): &(Delivery, DeliveryState)| {
        wanted.is_none_or(|wanted| wanted == *now_in)
            && device.as_ref().is_none_or(|device| *device == delivery.device)
            && after.as_ref().is_none_or(|after| *after < delivery.device)
    };
    let found: Vec<_> = fate.deliveries.into_iter().filter(fits).take(page.limit + 1).collect();
    let page = page.page(found, |(delivery, _)| delivery.device.to_string());
    let seats = state.0.seats_of(&caller, page.items.iter().map(|(delivery, _)| delivery)).await?;
    Ok(Json(page.map(|(delivery, now_in)| {
        let seat = seats.get(&delivery.device);
        DeliveryView::new(&delivery, now_in).waiting(seat)
    })))
}

/// `GET /v1/devices/{id}/deliveries`: why did it not get it? Newest first.
pub(super) async fn timeline(
    State(state): State<ReceiptsState>,
    Extension(caller): Extension<Caller>,
    id: Segment,
    mut parameters: Parameters,
) -> Result<Json<Paged<DeliveryView>>, Refusal> {
    caller.require(Scope::Read)?;
    let parts = &*state.0;
    let page = parameters.take_page(&parts.limits)?;
    let before: Option<EventId> = page.after()?;
    parameters.finish()?;
    let key = DeviceKey {
        tenant: caller.tenant,
        device: id.device()?,
    };
    let refuse = |error: crate::store::StoreError| error.refusal(&key.device);
    match parts.store.device(&key).await.map_err(refuse)? {
        Registered::Present(_) => {}
        Registered::Removed(_) => return Err(Refusal::RemovedDevice(key.device)),
        Registered::Unknown => return Err(Refusal::UnknownDevice(key.device)),
    }
    let found = parts.store.deliveries(&key, before, page.limit + 1).await.map_err(refuse)?;
    let dispatched = parts.dispatched(key, &found).await;
    let page = page.page(found, |delivery| delivery.id.to_string());
    let seats = parts.seats_of(&caller, page.items.iter()).await?;
    Ok(Json(page.map(|delivery| {
        let now_in = parts.state(&delivery, &dispatched);
        DeliveryView::new(&delivery, now_in).waiting(seats.get(&delivery.device))
    })))
}

fn take_state(parameters: &mut Parameters) -> Result<Option<DeliveryState>, Refusal> {
    let Some(word) = parameters.take("state")? else { return Ok(None) };
    match DeliveryState::ALL.into_iter().find(|state| state.as_str() == word) {
        Some(state) => Ok(Some(state)),
        None => Err(Refusal::InvalidParameter {
            name: "state".into(),
            why: format!("{word:?} is none of {}", DeliveryState::ALL.map(DeliveryState::as_str).join(", ")),
        }),
    }
}

fn take_device(parameters: &mut Parameters) -> Result<Option<DeviceId>, Refusal> {
    let Some(text) = parameters.take("device")? else { return Ok(None) };
    text.parse().map(Some).map_err(|why| Refusal::InvalidDeviceId { text, why })
}
