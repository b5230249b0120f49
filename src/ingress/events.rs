//! The handler: admit, read, parse, store, answer.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{IngressState, Parts, cloudevents, draft::Draft, native};
use crate::{
    domain::{Caller, Refusal, Scope},
    http::{MediaType, Parameters, json, read, single},
    store::{DeviceKey, Enqueued, EnqueuedKind, NewEvent, Registered},
};

pub(super) async fn post(
    State(state): State<IngressState>,
    Extension(caller): Extension<Caller>,
    mut parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let parts = &*state.0;
    caller.require(Scope::Push)?;
    if parts.draining.load(Ordering::Relaxed) {
        return Err(Refusal::Draining {
            retry_after: Duration::from_secs(5),
        });
    }
    let validate_only = parameters.take_flag("validate_only")?;
    parameters.finish()?;
    let kind = Kind::of(&headers)?;
    let body = read(body, parts.limits.request_max_bytes).await?;
    let new = parts.parse(&kind, &headers, &body, &caller)?;
    if validate_only {
        return parts.look(new).await;
    }
    parts.throttle.rates.take(&caller, 1, Instant::now())?;
    let Ok(_room) = parts.rooms.try_acquire() else {
        return Err(Refusal::Overloaded {
            retry_after: Duration::from_secs(1),
        });
    };
    let device = new.event.device.clone();
    let _waiting = parts.throttle.shed.wait(1);
    let enqueued = match parts.store.enqueue(vec![new]).await.pop() {
        Some(enqueued) => enqueued.map_err(|error| error.refusal(&device))?,
        None => return Err(Refusal::Internal("the store gave no answer".into())),
    };
    if enqueued.kind == EnqueuedKind::New {
        parts.metrics.accepted(enqueued.durability);
        if !enqueued.replaced.is_empty() {
            (parts.replaced)(enqueued.replaced.len() as u64);
        }
    }
    answer(&enqueued)
}

/// The form in which the event came.
enum Kind {
    Native,
    Structured,
    Binary(Option<MediaType>),
}

impl Kind {
    fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let given = MediaType::of(headers)?;
        let unsupported = |given: &Option<MediaType>| {
            let given = given.as_ref().map(|given| given.given.clone()).unwrap_or_default();
            Err(Refusal::UnsupportedMediaType(given))
        };
        let essence = given.as_ref().map_or("", |given| given.essence.as_str());
        let is_json = given.as_ref().is_none_or(MediaType::is_json);
        if is_json && given.as_ref().is_some_and(|given| !given.is_utf8()) {
            return unsupported(&given);
        }
        match essence {
            "application/cloudevents+json" => Ok(Self::Structured),
            // Batches and NDJSON would not be one event.
            "application/x-ndjson" => unsupported(&given),
            other if other.starts_with("application/cloudevents") => unsupported(&given),
            _ if cloudevents::is_binary(headers) => Ok(Self::Binary(given)),
            "application/json" => Ok(Self::Native),
            _ => unsupported(&given),
        }
    }
}

impl Parts {
    fn parse(&self, kind: &Kind, headers: &HeaderMap, body: &[u8], caller: &Caller) -> Result<NewEvent, Refusal> {
        let text = |body| json::utf8(body);
        let attributes;
        let mut draft: Draft<'_> = match kind {
            Kind::Native => native::parse(body, &self.limits)?,
            Kind::Structured => cloudevents::structured(body, &self.limits)?,
            Kind::Binary(media_type) => {
                attributes = cloudevents::attributes(headers)?;
                let is_json = media_type.as_ref().is_none_or(MediaType::is_json);
                let data = if is_json && !body.is_empty() {
                    Some(json::json(text(body)?)?.get())
                } else {
                    None
                };
                cloudevents::binary(&attributes, media_type.as_ref(), data, body, &self.limits)?
            }
        };
        draft.options.merge_headers(headers, &self.limits)?;
        let key = single(headers, "Idempotency-Key")?;
        draft.into_event(key, caller, self.clock.now(), &self.limits)
    }

    /// `validate_only`: everything is checked but the room in the queue, and nothing is stored.
    async fn look(&self, new: NewEvent) -> Result<Response, Refusal> {
        let key = DeviceKey {
            tenant: new.event.tenant,
            device: new.event.device,
        };
        match self.store.device(&key).await {
            Ok(Registered::Present(_)) => Ok(([(header::CONTENT_TYPE, "application/json")], r#"{"targets":1}"#).into_response()),
            Ok(Registered::Removed(_)) => Err(Refusal::RemovedDevice(key.device)),
            Ok(Registered::Unknown) => Err(Refusal::UnknownDevice(key.device)),
            Err(error) => Err(error.refusal(&key.device)),
        }
    }
}

fn answer(enqueued: &Enqueued) -> Result<Response, Refusal> {
    let (id, state, durability) = (enqueued.id, enqueued.state, enqueued.durability.as_str());
    let status = match enqueued.kind {
        EnqueuedKind::New => StatusCode::ACCEPTED,
        EnqueuedKind::Repeat => StatusCode::OK,
    };
    let body = format!(r#"{{"id":"{id}","state":"{state}","durability":"{durability}"}}"#);
    let mut response = (status, body).into_response();
    let location = HeaderValue::try_from(format!("/v1/events/{id}")).map_err(|error| Refusal::Internal(error.to_string()))?;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::LOCATION, location);
    headers.insert("push-durability", HeaderValue::from_static(durability));
    Ok(response)
}
