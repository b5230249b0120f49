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

use super::{
    IngressState, Parts,
    accept::{Accepted, New, RequestOf},
    cloudevents,
    draft::{Draft, Ids},
    many::{Form, Request, Told},
    native,
    options::Common,
};
use crate::{
    domain::{Caller, Refusal, Scope},
    http::{
        MediaType, Parameters,
        json::{self, Fields},
        read,
    },
};

pub(super) async fn post(
    State(state): State<IngressState>,
    Extension(caller): Extension<Caller>,
    mut parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    caller.require(Scope::Push)?;
    if let Some(refusal) = state.0.draining() {
        return Err(refusal);
    }
    let validate_only = parameters.take_flag("validate_only")?;
    let told = Told::take(&mut parameters)?;
    parameters.finish()?;
    match Kind::of(&headers)? {
        Kind::Many(form) => {
            let told = told.unwrap_or(Told::Summary);
            let request = Request {
                state,
                caller,
                form,
                told,
                validate_only,
            };
            request.answer(&headers, body).await
        }
        _ if told.is_some() => Err(Refusal::InvalidParameter {
            name: "results".into(),
            why: "it is for batches and NDJSON; one event has one answer".into(),
        }),
        kind => one(&state.0, &caller, &kind, validate_only, &headers, body).await,
    }
}

async fn one(
    parts: &Parts,
    caller: &Caller,
    kind: &Kind,
    validate_only: bool,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let body = read(body, parts.limits.request_max_bytes).await?;
    let new = parts.parse(kind, headers, &body, caller)?;
    if validate_only {
        let targets = parts.look(&new).await?;
        return Ok(([(header::CONTENT_TYPE, "application/json")], format!(r#"{{"targets":{targets}}}"#)).into_response());
    }
    if matches!(new, New::One(_)) {
        parts.throttle.rates.take(caller, 1, Instant::now())?;
    }
    let _room = parts.admission.one(new.deliveries(), body.len())?;
    match parts.accept(caller, vec![new], RequestOf::One).await.pop() {
        Some(accepted) => answer(&accepted?),
        None => Err(Refusal::Internal("the store gave no answer".into())),
    }
}

/// The form in which the event came, or the events.
enum Kind {
    Native,
    Structured,
    Binary(Option<MediaType>),
    Many(Form),
}

impl Kind {
    fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let given = MediaType::of(headers)?;
        let unsupported = |given: &Option<MediaType>| {
            let given = given.as_ref().map(|given| given.given.clone()).unwrap_or_default();
            Err(Refusal::UnsupportedMediaType(given))
        };
        let essence = given.as_ref().map_or("", |given| given.essence.as_str());
        let is_lines = matches!(essence, "application/x-ndjson" | "application/jsonl");
        let is_json = is_lines || given.as_ref().is_none_or(MediaType::is_json);
        if is_json && given.as_ref().is_some_and(|given| !given.is_utf8()) {
            return unsupported(&given);
        }
        match essence {
            "application/cloudevents+json" => Ok(Self::Structured),
            "application/cloudevents-batch+json" => Ok(Self::Many(Form::Batch)),
            _ if is_lines => Ok(Self::Many(Form::Lines)),
            other if other.starts_with("application/cloudevents") => unsupported(&given),
            _ if cloudevents::is_binary(headers) => Ok(Self::Binary(given)),
            "application/json" => Ok(Self::Native),
            _ => unsupported(&given),
        }
    }
}

impl Parts {
    /// Why nothing is taken any more, when the service stops.
    pub(super) fn draining(&self) -> Option<Refusal> {
        self.draining.load(Ordering::Relaxed).then_some(Refusal::Draining {
            retry_after: Duration::from_secs(5),
        })
    }

    fn parse(&self, kind: &Kind, headers: &HeaderMap, body: &[u8], caller: &Caller) -> Result<New, Refusal> {
        let attributes;
        let mut draft: Draft<'_> = match kind {
            Kind::Native | Kind::Many(_) => native::event(Fields::parse(body)?, &self.limits)?,
            Kind::Structured => cloudevents::structured(Fields::parse(body)?, &self.limits)?,
            Kind::Binary(media_type) => {
                attributes = cloudevents::attributes(headers)?;
                let is_json = media_type.as_ref().is_none_or(MediaType::is_json);
                let data = if is_json && !body.is_empty() {
                    Some(json::json(json::utf8(body)?)?.get())
                } else {
                    None
                };
                cloudevents::binary(&attributes, media_type.as_ref(), data, body, &self.limits)?
            }
        };
        let common = Common::of(headers, &self.limits)?;
        draft.options.merge(&common)?;
        draft.into_new(common.key(), &mut Ids::default(), caller, self.clock.now(), &self.limits)
    }
}

fn answer(accepted: &Accepted) -> Result<Response, Refusal> {
    let (id, state, durability) = (accepted.id, accepted.state, accepted.durability.as_str());
    let status = if accepted.is_repeat { StatusCode::OK } else { StatusCode::ACCEPTED };
    let body = format!(r#"{{"id":"{id}","state":"{state}","durability":"{durability}"}}"#);
    let mut response = (status, body).into_response();
    let location = HeaderValue::try_from(format!("/v1/events/{id}")).map_err(|error| Refusal::Internal(error.to_string()))?;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::LOCATION, location);
    headers.insert("push-durability", HeaderValue::from_static(durability));
    Ok(response)
}
