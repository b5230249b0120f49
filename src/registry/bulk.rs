//! `POST /v1/devices`: many devices as NDJSON. Each line stands alone: one that is refused spoils no other.

use std::collections::HashSet;

use axum::{Extension, Json, body::Body, extract::State, http::HeaderMap};
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde_json::{Value, json};

use super::{
    Parts, RegistryState,
    form::{Form, key},
};
use crate::{
    domain::{Caller, DeviceId, Refusal, Scope},
    http::{AuditDetail, Line, Lines, MediaType, Parameters, json::Fields, problem},
};

/// The longest line, in bytes: attributes and credentials at their largest.
const LINE_MAX: usize = 16 * 1024;
/// Lines that are being stored at once: the store commits them together.
const TOGETHER: usize = 64;

/// Answers when all lines are done: `{"items":[{"line","id","status","problem"?}],"accepted","rejected"}`.
pub(super) async fn post(
    State(state): State<RegistryState>,
    Extension(caller): Extension<Caller>,
    parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<(Extension<AuditDetail>, Json<Value>), Refusal> {
    caller.require(Scope::Admin)?;
    parameters.finish()?;
    match MediaType::of(&headers)? {
        Some(given) if matches!(given.essence.as_str(), "application/x-ndjson" | "application/jsonl") && given.is_utf8() => {}
        given => return Err(Refusal::UnsupportedMediaType(given.map(|given| given.given).unwrap_or_default())),
    }
    let parts = &*state.0;
    let Ok(_room) = parts.bulks.try_acquire() else {
        return Err(Refusal::Overloaded {
            retry_after: std::time::Duration::from_secs(5),
        });
    };
    let (mut lines, mut results) = (Lines::new(body, LINE_MAX), Vec::new());
    let (mut storing, mut seen, mut count) = (FuturesUnordered::new(), HashSet::new(), 0);
    loop {
        let line = match lines.next().await {
            Ok(Some(line)) => line,
            Ok(None) => break,
            // What came before stands, and its results are the answer; what did not arrive is named by its line.
            Err(refusal) => {
                results.push(Done::refused(count + 1, None, &refusal));
                break;
            }
        };
        count = line.number;
        if seen.len() + results.iter().filter(|done: &&Done| done.device.is_none()).count() >= parts.limits.bulk_max_devices {
            let limit = parts.limits.bulk_max_devices;
            results.push(Done::refused(
                count,
                None,
                &Refusal::Conflict(format!("a request takes {limit} lines; send the rest in another")),
            ));
            break;
        }
        match parse(&line, parts, &mut seen) {
            Ok((device, form)) => storing.push(store(parts, &caller, line.number, device, form)),
            Err((device, refusal)) => results.push(Done::refused(line.number, device, &refusal)),
        }
        if storing.len() >= TOGETHER {
            results.extend(storing.next().await);
        }
    }
    while let Some(done) = storing.next().await {
        results.push(done);
    }
    results.sort_by_key(|done| done.line);
    let accepted = results.iter().filter(|done| done.problem.is_none()).count();
    let rejected = results.len() - accepted;
    let items: Vec<Value> = results.into_iter().map(Done::shown).collect();
    let detail = AuditDetail(format!("{accepted} lines were taken, {rejected} refused"));
    Ok((
        Extension(detail),
        Json(json!({"items": items, "accepted": accepted, "rejected": rejected})),
    ))
}

/// What became of one line.
struct Done {
    line: usize,
    device: Option<DeviceId>,
    status: u16,
    problem: Option<Value>,
}

impl Done {
    fn refused(line: usize, device: Option<DeviceId>, refusal: &Refusal) -> Self {
        Self {
            line,
            device,
            status: refusal.face().status,
            problem: Some(Value::Object(problem(refusal))),
        }
    }

    fn shown(self) -> Value {
        let mut shown = json!({"line": self.line, "id": self.device.as_ref().map(DeviceId::as_str), "status": self.status});
        if let (Some(problem), Some(members)) = (self.problem, shown.as_object_mut()) {
            members.insert("problem".into(), problem);
        }
        shown
    }
}

type Parsed = Result<(DeviceId, Form), (Option<DeviceId>, Refusal)>;

fn parse(line: &Line, parts: &Parts, seen: &mut HashSet<DeviceId>) -> Parsed {
    let bytes = line.bytes.as_ref().ok_or((None, Refusal::BodyTooLarge { limit: LINE_MAX }))?;
    let mut fields = Fields::parse(bytes).map_err(|refusal| (None, refusal))?;
    let device = id(&mut fields).map_err(|refusal| (None, refusal))?;
    let refuse = |refusal| (Some(device.clone()), refusal);
    // Lines are stored together, so two of one device would have no order.
    if !seen.insert(device.clone()) {
        return Err(refuse(Refusal::Conflict(format!("an earlier line has the device {device}"))));
    }
    let form = Form::parse(&mut fields, &parts.limits, false).map_err(refuse)?;
    fields.finish().map_err(refuse)?;
    Ok((device, form))
}

fn id(fields: &mut Fields<'_>) -> Result<DeviceId, Refusal> {
    let text = fields.need("id")?.text()?.into_owned();
    text.parse().map_err(|why| Refusal::InvalidDeviceId { text, why })
}

async fn store(parts: &Parts, caller: &Caller, line: usize, device: DeviceId, form: Form) -> Done {
    match parts.apply(&key(caller, device.clone()), form, true, true).await {
        Ok((_, is_new)) => Done {
            line,
            device: Some(device),
            status: if is_new { 201 } else { 200 },
            problem: None,
        },
        Err(refusal) => Done::refused(line, Some(device), &refusal),
    }
}
