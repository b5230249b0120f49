//! `/v1/keys`: who may call.

use std::{ops::RangeInclusive, time::Duration};

use aws_lc_rs::{error::Unspecified, rand};
use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
};
use data_encoding::BASE32_NOPAD;
use serde_json::{Value, json};

use super::{RegistryState, rates};
use crate::{
    domain::{Caller, Refusal, Scope, TenantId, Timestamp},
    http::{
        Paged, Parameters, Segment,
        json::{Field, Fields},
        key_hash, read, require_json, text,
    },
    store::{ApiKey, Rotation, StoreError},
};

/// Keys of one tenant at once.
pub(super) const KEYS_MAX: usize = 1_000;
/// The largest body of a request for a key, in bytes.
const BODY_MAX: usize = 4 * 1024;
/// The longest life of a key that ends by itself: 10 years.
pub(super) const LIFE_MAX_SECS: u64 = 10 * 365 * 86_400;
/// The longest time that a secret goes on behind a newer one: 30 days.
pub const GRACE_MAX_SECS: u64 = 30 * 86_400;

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
    let parts = &*state.0;
    let now = parts.clock.now();
    let expires_at = expires_at(&mut fields, now)?;
    fields.finish()?;
    // Nobody gives away more than he has.
    caller.require(scope)?;
    let secrets = parts.store.keys(tenant).await.map_err(StoreError::refusal_of_all)?;
    if secrets.iter().filter(|key| key.retires_at.is_none()).count() >= KEYS_MAX {
        return Err(Refusal::Conflict(format!("the tenant has {KEYS_MAX} keys; revoke some first")));
    }
    let no_random = |_| Refusal::Internal("no random bytes".into());
    let (id, key) = (new_key_id().map_err(no_random)?, new_key().map_err(no_random)?);
    let row = ApiKey {
        id,
        name,
        tenant: tenant.0,
        scope,
        created_at: now,
        limits,
        expires_at,
        retires_at: None,
    };
    let (mut answer, location) = (shown(&row, None, None, now), format!("/v1/keys/{}", row.id));
    parts.store.put_key(key_hash(&key), row).await.map_err(StoreError::refusal_of_all)?;
    tracing::info!(key.name = %caller.key_name, "the key {} made a key of scope {scope}", caller.key_name);
    if let Some(members) = answer.as_object_mut() {
        members.insert("key".into(), key.into());
    }
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(answer)))
}

/// `POST /v1/keys/{id}:rotate`: a new secret for the key, shown here alone. The one before it goes on for a while.
pub(super) async fn rotate(
    State(state): State<RegistryState>,
    Extension(caller): Extension<Caller>,
    named: Segment,
    parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    caller.require(Scope::Admin)?;
    parameters.finish()?;
    let Some(id) = named.0.strip_suffix(":rotate") else {
        return Err(Refusal::MethodNotAllowed("POST".into()));
    };
    require_json(&headers)?;
    let body = read(body, BODY_MAX).await?;
    let parts = &*state.0;
    let now = parts.clock.now();
    let grace = grace(&body, parts.config.key_grace_secs)?;
    let secrets = parts.store.keys(caller.tenant).await.map_err(StoreError::refusal_of_all)?;
    let Some(key) = secrets.iter().find(|key| key.id == id && key.retires_at.is_none()) else {
        return Err(Refusal::UnknownKey(id.to_owned()));
    };
    caller.require(key.scope)?;
    if let Some(at) = key.expires_at.filter(|at| now >= *at) {
        return Err(Refusal::Conflict(format!(
            "the key {} has ended at {at}; make another one",
            key.name
        )));
    }
    let secret = new_key().map_err(|_| Refusal::Internal("no random bytes".into()))?;
    let retires_at = now.plus(grace);
    let rotation = Rotation {
        hash: key_hash(&secret),
        now,
        retires_at,
    };
    let rotated = parts.store.rotate_key(caller.tenant, id, rotation).await;
    let Some(key) = rotated.map_err(StoreError::refusal_of_all)? else {
        return Err(Refusal::UnknownKey(id.to_owned()));
    };
    tracing::info!(key.name = %caller.key_name, "the key {} gave the key {} another secret", caller.key_name, key.name);
    let used = state.last_uses(caller.tenant).await?(&key.id);
    let mut answer = shown(&key, (retires_at > now).then_some(retires_at), used, now);
    if let Some(members) = answer.as_object_mut() {
        members.insert("key".into(), secret.into());
    }
    Ok(Json(answer))
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
    let now = state.0.clock.now();
    let secrets = state.0.store.keys(caller.tenant).await.map_err(StoreError::refusal_of_all)?;
    let (mut keys, older): (Vec<ApiKey>, Vec<ApiKey>) = secrets.into_iter().partition(|key| key.retires_at.is_none());
    keys.sort_by(|one, other| one.id.cmp(&other.id));
    keys.retain(|key| after.as_ref().is_none_or(|after| key.id > *after));
    let until = |key: &ApiKey| older.iter().filter(|other| other.id == key.id).find_map(|other| other.retires_at);
    let used = state.last_uses(caller.tenant).await?;
    let page = page.page(keys, |key| key.id.clone());
    Ok(Json(page.map(|key| shown(&key, until(&key), used(&key.id), now))))
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

    /// When each key of a tenant was last used, by its id: as the store knows it, and what it is still to learn.
    async fn last_uses(&self, tenant: TenantId) -> Result<impl Fn(&str) -> Option<Timestamp>, Refusal> {
        let uses = self.0.uses.clone();
        let written = self.0.store.key_uses(tenant).await.map_err(StoreError::refusal_of_all)?;
        Ok(move |id: &str| written.get(id).copied().max(uses.last(tenant, id)))
    }
}

/// `before`: until when the secret before the newest is good, if it is; `used`: when the key was last used.
fn shown(key: &ApiKey, before: Option<Timestamp>, used: Option<Timestamp>, now: Timestamp) -> Value {
    let mut shown = json!({
        "id": key.id,
        "name": key.name,
        "scope": key.scope,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "previous_secret_until": before.filter(|until| *until > now),
        "last_used_at": used,
    });
    if let (Some(limits), Some(members)) = (key.limits, shown.as_object_mut()) {
        members.insert("limits".into(), json!(limits));
    }
    shown
}

/// `expires_at`, or `expires_in_secs` from now.
fn expires_at(fields: &mut Fields<'_>, now: Timestamp) -> Result<Option<Timestamp>, Refusal> {
    let (at, within) = (fields.take("expires_at"), fields.take("expires_in_secs"));
    match (at, within) {
        (Some(at), Some(_)) => Err(at.invalid("expires_in_secs is there, too; give one of them")),
        (Some(at), None) => match at.text()?.parse::<Timestamp>() {
            Ok(time) if time > now => Ok(Some(time)),
            Ok(_) => Err(at.invalid("it is not in the future")),
            Err(error) => Err(at.invalid(format!("it is no time of RFC 3339: {error}"))),
        },
        (None, Some(within)) => Ok(Some(now.plus(seconds(&within, 1..=LIFE_MAX_SECS)?))),
        (None, None) => Ok(None),
    }
}

/// `grace_secs` of a body that may be missing.
fn grace(body: &[u8], default_secs: u64) -> Result<Duration, Refusal> {
    if body.is_empty() {
        return Ok(Duration::from_secs(default_secs));
    }
    let mut fields = Fields::parse(body)?;
    let grace = fields
        .take("grace_secs")
        .map(|field| seconds(&field, 0..=GRACE_MAX_SECS))
        .transpose()?;
    fields.finish()?;
    Ok(grace.unwrap_or(Duration::from_secs(default_secs)))
}

fn seconds(field: &Field<'_>, allowed: RangeInclusive<u64>) -> Result<Duration, Refusal> {
    let given = u64::try_from(field.integer()?).ok().filter(|seconds| allowed.contains(seconds));
    let seconds = given.ok_or_else(|| field.invalid(format!("{} to {} seconds are allowed", allowed.start(), allowed.end())))?;
    Ok(Duration::from_secs(seconds))
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
