//! `/v1/keys`: who may call.

use aws_lc_rs::{error::Unspecified, rand};
use axum::{Extension, Json, body::Body, extract::State, http::HeaderMap, http::StatusCode, response::IntoResponse};
use data_encoding::BASE32_NOPAD;
use serde_json::{Value, json};

use super::{RegistryState, devices::require_json, rates};
use crate::{
    domain::{Caller, Refusal, Scope, TenantId},
    http::{
        Paged, Parameters, Segment,
        json::{Field, Fields},
        key_hash, read, text,
    },
    store::{ApiKey, StoreError},
};

/// Keys of one tenant at once.
pub(super) const KEYS_MAX: usize = 1_000;
/// The largest body of a request for a key, in bytes.
const BODY_MAX: usize = 4 * 1024;

/// A new key: `upk_` and 200 random bits.
///
/// # Errors
/// When the system gives no random bytes.
pub fn new_key() -> Result<String, Unspecified> {
    Ok(format!("upk_{}", random::<25>()?))
}

/// A new id of a key, for listing and revoking.
///
/// # Errors
/// When the system gives no random bytes.
pub fn new_key_id() -> Result<String, Unspecified> {
    random::<10>()
}

fn random<const N: usize>() -> Result<String, Unspecified> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes)?;
    Ok(BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
}

/// `POST /v1/keys`: the answer is the only place where the key is ever shown.
pub(super) async fn create(
    State(state): State<RegistryState>,
    Extension(caller): Extension<Caller>,
    parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<impl IntoResponse, Refusal> {
    caller.require(Scope::Admin)?;
    parameters.finish()?;
    require_json(&headers)?;
    let body = read(body, BODY_MAX).await?;
    let mut fields = Fields::parse(&body)?;
    let name = name(&fields.need("name")?)?;
    let scope = scope(&fields.need("scope")?)?;
    let tenant = match fields.take("tenant") {
        Some(field) => state.tenant_of_key(&caller, &field, scope)?,
        None => caller.tenant,
    };
    let limits = rates::take(&mut fields)?;
    fields.finish()?;
    // Nobody gives away more than he has.
    caller.require(scope)?;
    let parts = &*state.0;
    if parts.store.keys(tenant).await.map_err(StoreError::refusal_of_all)?.len() >= KEYS_MAX {
        return Err(Refusal::Conflict(format!("the tenant has {KEYS_MAX} keys; revoke some first")));
    }
    let no_random = |_| Refusal::Internal("no random bytes".into());
    let (id, key) = (new_key_id().map_err(no_random)?, new_key().map_err(no_random)?);
    let row = ApiKey {
        id,
        name,
        tenant: tenant.0,
        scope,
        created_at: parts.clock.now(),
        limits,
    };
    let mut answer = shown(&row);
    parts.store.put_key(key_hash(&key), row).await.map_err(StoreError::refusal_of_all)?;
    tracing::info!(key.name = %caller.key_name, "the key {} made a key of scope {scope}", caller.key_name);
    if let Some(members) = answer.as_object_mut() {
        members.insert("key".into(), key.into());
    }
    Ok((StatusCode::CREATED, Json(answer)))
}

/// `GET /v1/keys`: without the keys themselves.
pub(super) async fn list(
    State(state): State<RegistryState>,
    Extension(caller): Extension<Caller>,
    mut parameters: Parameters,
) -> Result<Json<Paged<Value>>, Refusal> {
    caller.require(Scope::Admin)?;
    let page = parameters.take_page(&state.0.limits)?;
    let after: Option<String> = page.after()?;
    parameters.finish()?;
    let mut keys = state.0.store.keys(caller.tenant).await.map_err(StoreError::refusal_of_all)?;
    keys.sort_by(|one, other| one.id.cmp(&other.id));
    keys.retain(|key| after.as_ref().is_none_or(|after| key.id > *after));
    Ok(Json(page.page(keys, |key| key.id.clone()).map(|key| shown(&key))))
}

/// `DELETE /v1/keys/{id}`: 204. The key is worthless from now on.
pub(super) async fn revoke(
    State(state): State<RegistryState>,
    Extension(caller): Extension<Caller>,
    id: Segment,
    parameters: Parameters,
) -> Result<StatusCode, Refusal> {
    caller.require(Scope::Admin)?;
    parameters.finish()?;
    let parts = &*state.0;
    let keys = parts.store.keys(caller.tenant).await.map_err(StoreError::refusal_of_all)?;
    // Nor takes away what is above him.
    match keys.iter().find(|key| key.id == id.0) {
        Some(key) => caller.require(key.scope)?,
        None => return Err(Refusal::UnknownKey(id.0)),
    }
    match parts.store.revoke_key(caller.tenant, &id.0).await {
        Ok(true) => {
            tracing::info!(key.name = %caller.key_name, "the key {} revoked the key with the id {}", caller.key_name, id.0);
            Ok(StatusCode::NO_CONTENT)
        }
        Ok(false) => Err(Refusal::UnknownKey(id.0)),
        Err(error) => Err(error.refusal_of_all()),
    }
}

impl RegistryState {
    /// The tenant that a new key is to be of. An operator's key makes keys for others, above all their first; the scope operator is
    /// of the default tenant alone.
    fn tenant_of_key(&self, caller: &Caller, field: &Field<'_>, scope: Scope) -> Result<TenantId, Refusal> {
        caller.require(Scope::Operator)?;
        let tenant = TenantId(self.named(&field.text()?)?.id);
        if scope == Scope::Operator && tenant != TenantId::default() {
            return Err(Refusal::Conflict("a key of scope operator is of the default tenant alone".into()));
        }
        Ok(tenant)
    }
}

fn shown(key: &ApiKey) -> Value {
    let mut shown = json!({"id": key.id, "name": key.name, "scope": key.scope, "created_at": key.created_at});
    if let (Some(limits), Some(members)) = (key.limits, shown.as_object_mut()) {
        members.insert("limits".into(), json!(limits));
    }
    shown
}

fn name(field: &Field<'_>) -> Result<String, Refusal> {
    let name = field.text()?;
    text::check_plain(&field.path, &name)?;
    match name.chars().count() {
        1..=64 => Ok(name.into_owned()),
        length => Err(field.invalid(format!("it has {length} characters; 1 to 64 are allowed"))),
    }
}

fn scope(field: &Field<'_>) -> Result<Scope, Refusal> {
    let word = field.text()?;
    match word.as_ref() {
        "push" => Ok(Scope::Push),
        "read" => Ok(Scope::Read),
        "admin" => Ok(Scope::Admin),
        "operator" => Ok(Scope::Operator),
        _ => Err(field.invalid(format!("{word:?} is none of push, read, admin, operator"))),
    }
}
