//! `GET /v1/audit`: who changed what. Written by the gate before all parts (`http::Audit`); here it is read.

use axum::{Extension, Json, extract::State};
use serde_json::Value;

use super::RegistryState;
use crate::{
    domain::{AuditEntry, Caller, Refusal, Scope, Timestamp},
    http::{Paged, Parameters},
    store::{StoreError, audit_position},
};

/// Entries of the tenant, oldest first: those of `from` (included) to `to` (left out).
pub(super) async fn list(
    State(state): State<RegistryState>,
    Extension(caller): Extension<Caller>,
    mut parameters: Parameters,
) -> Result<Json<Paged<Value>>, Refusal> {
    caller.require(Scope::Admin)?;
    let page = parameters.take_page(&state.0.limits)?;
    let after: Option<u64> = page.after()?;
    let (from, to) = (time(&mut parameters, "from")?, time(&mut parameters, "to")?);
    parameters.finish()?;
    let from = from.map_or(0, audit_position).max(after.map_or(0, |after| after.saturating_add(1)));
    let to = to.map_or(u64::MAX, audit_position);
    let entries = state.0.store.audit(caller.tenant, from, to, page.limit + 1).await;
    let entries = entries.map_err(StoreError::refusal_of_all)?;
    let shown = |(_, entry)| serde_json::to_value::<AuditEntry>(entry).unwrap_or_default();
    Ok(Json(page.page(entries, |(position, _)| position.to_string()).map(shown)))
}

fn time(parameters: &mut Parameters, name: &str) -> Result<Option<Timestamp>, Refusal> {
    let Some(text) = parameters.take(name)? else { return Ok(None) };
    let time = text.parse().map_err(|error| Refusal::InvalidParameter {
        name: name.to_owned(),
        why: format!("{text:?} is no time of RFC 3339: {error} (a `+` must be written %2B)"),
    })?;
    Ok(Some(time))
}
