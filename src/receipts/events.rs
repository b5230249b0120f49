//! The handlers.

use std::collections::HashSet;

use axum::{Extension, Json, extract::State};
use serde_json::{Value, json};

use super::{
    Parts, ReceiptsState,
    view::{DeliveryView, EventView},
};
use crate::{
    domain::{Caller, DeliveryState, DeviceId, EventId, Outcome, Refusal, Scope},
    http::{Paged, Parameters, Segment},
    store::{Delivery, DeviceKey, Registered, SeatView, Settle, Settled, StoreError},
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
    let delivery = state.0.delivery(&caller, &id.0).await?;
    let now_in = state.0.state_of(&caller, &delivery).await;
    Ok(Json(EventView::new(&delivery, now_in)))
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
    let delivery = parts.delivery(&caller, &id.0).await?;
    if waits(&delivery) && parts.state(&delivery, &HashSet::new()) == DeliveryState::Expired {
        return Ok(Json(json!({"cancelled": 0, "delivered": 0})));
    }
    let located = parts
        .store
        .locate(caller.tenant, delivery.id)
        .ok_or_else(|| Refusal::UnknownEvent(id.0.clone()))?;
    let end = Settle {
        device: DeviceKey {
            tenant: caller.tenant,
            device: delivery.device.clone(),
        },
        id: delivery.id,
        located,
        outcome: Outcome::Cancelled,
        at: parts.clock.now(),
        epoch: None,
        told: None,
    };
    let settled = match parts.store.settle(vec![end]).await.pop() {
        Some(settled) => settled.map_err(|error| error.refusal(&delivery.device))?,
        None => return Err(Refusal::Internal("the store gave no answer".into())),
    };
    let ended = match settled {
        Settled::Now { .. } => {
            (parts.cancelled)(1);
            DeliveryState::Cancelled
        }
        Settled::Before(state) => state,
        // A cancel asks for neither.
        Settled::Again | Settled::OutcomeWanted => delivery.state,
        Settled::Unknown => return Err(Refusal::UnknownEvent(id.0)),
    };
    let delivered = matches!(ended, DeliveryState::Delivered | DeliveryState::Processed);
    Ok(Json(json!({
        "cancelled": u8::from(ended == DeliveryState::Cancelled),
        "delivered": u8::from(delivered),
    })))
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
    let delivery = state.0.delivery(&caller, &id.0).await?;
    let now_in = state.0.state_of(&caller, &delivery).await;
    let fits = wanted.is_none_or(|wanted| wanted == now_in)
        && device.is_none_or(|device| device == delivery.device)
        && after.is_none_or(|after| after < delivery.device);
    let found = fits.then_some(delivery).into_iter().collect();
    let page = page.page(found, |delivery: &Delivery| delivery.device.to_string());
    let seat = state.0.seat_of(&caller, &page.items).await?;
    Ok(Json(
        page.map(|delivery| DeliveryView::new(delivery, now_in).waiting(seat.as_ref())),
    ))
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
    let seat = parts.seat_of(&caller, &page.items).await?;
    Ok(Json(page.map(|delivery| {
        let now_in = parts.state(&delivery, &dispatched);
        DeliveryView::new(delivery, now_in).waiting(seat.as_ref())
    })))
}

impl Parts {
    /// The delivery of an event of the caller's tenant. Ids that are malformed, unknown, or of another tenant look the same.
    async fn delivery(&self, caller: &Caller, id: &str) -> Result<Delivery, Refusal> {
        let unknown = || Refusal::UnknownEvent(id.chars().take(64).collect());
        let event: EventId = id.parse().map_err(|_| unknown())?;
        let found = self.store.delivery(caller.tenant, event).await;
        found.map_err(crate::store::StoreError::refusal_of_all)?.ok_or_else(unknown)
    }

    /// Which of a device's deliveries are with its session now.
    async fn dispatched(&self, key: DeviceKey, deliveries: &[Delivery]) -> HashSet<EventId> {
        let waiting = deliveries.iter().filter(|delivery| delivery.state == DeliveryState::Queued);
        let ids: Vec<EventId> = waiting.map(|delivery| delivery.id).collect();
        if ids.is_empty() {
            HashSet::new()
        } else {
            (self.dispatched)(key, ids).await
        }
    }

    /// The seat of the device whose deliveries those are. `None`: none of them waits.
    async fn seat_of(&self, caller: &Caller, deliveries: &[Delivery]) -> Result<Option<SeatView>, Refusal> {
        let Some(waiting) = deliveries.iter().find(|delivery| delivery.state == DeliveryState::Queued) else {
            return Ok(None);
        };
        let key = DeviceKey {
            tenant: caller.tenant,
            device: waiting.device.clone(),
        };
        match self.store.seat(&key).await {
            Ok(seat) => Ok(Some(seat)),
            // It was removed a moment ago.
            Err(StoreError::UnknownDevice | StoreError::RemovedDevice) => Ok(None),
            Err(error) => Err(error.refusal(&key.device)),
        }
    }

    /// The state of one delivery, with what only the session and the clock know.
    async fn state_of(&self, caller: &Caller, delivery: &Delivery) -> DeliveryState {
        let key = DeviceKey {
            tenant: caller.tenant,
            device: delivery.device.clone(),
        };
        let dispatched = self.dispatched(key, std::slice::from_ref(delivery)).await;
        self.state(delivery, &dispatched)
    }

    fn state(&self, delivery: &Delivery, dispatched: &HashSet<EventId>) -> DeliveryState {
        if delivery.state == DeliveryState::Queued && dispatched.contains(&delivery.id) {
            return DeliveryState::Dispatched;
        }
        // From its expiry on it is not written any more, though the sweeper may not have come by yet.
        if waits(delivery) && self.clock.now() >= delivery.expires_at {
            return DeliveryState::Expired;
        }
        delivery.state
    }
}

/// Whether it may still be delivered, as far as the store knows.
fn waits(delivery: &Delivery) -> bool {
    matches!(delivery.state, DeliveryState::Queued | DeliveryState::Scheduled)
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
