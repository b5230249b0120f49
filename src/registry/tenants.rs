//! `/v1/tenants`: XMPP domains of their own on one service, each with its own devices, keys and limits.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{RegistryState, rates};
use crate::{
    domain::{Caller, DeviceId, Refusal, Scope, TenantId, is_domain},
    http::{Paged, Parameters, Segment, json::Fields, read, require_json},
    store::{StoreError, Tenant},
};

/// Tenants at once.
const TENANTS_MAX: usize = 1_000;
/// The largest body of a request for a tenant, in bytes.
const BODY_MAX: usize = 4 * 1024;

/// Whether a certificate of this node names a domain.
#[derive(Clone)]
pub struct Certified(pub Arc<dyn Fn(&str) -> bool + Send + Sync>);

/// `PUT /v1/tenants/{name}`: 201 for a new tenant, 200 for one that was there. Its limits are replaced, its domain stays.
pub(super) async fn put(
    State(state): State<RegistryState>,
    Extension(caller): Extension<Caller>,
    certified: Option<Extension<Certified>>,
    name: Segment,
    parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    caller.require(Scope::Operator)?;
    parameters.finish()?;
    require_json(&headers)?;
    let name = valid(name)?;
    let body = read(body, BODY_MAX).await?;
    let mut fields = Fields::parse(&body)?;
    let domain = match fields.take("domain") {
        Some(field) => {
            let domain = field.text()?.to_ascii_lowercase();
            if !is_domain(&domain) {
                return Err(field.invalid("it is no domain name; use letters, digits and '-', in parts joined by '.'"));
            }
            Some(domain)
        }
        None => None,
    };
    let limits = rates::take(&mut fields)?;
    fields.finish()?;
    let store = &state.0.store;
    let tenants = store.tenants();
    let (tenant, is_new) = match tenants.iter().find(|tenant| tenant.name == name) {
        Some(known) if domain.as_ref().is_some_and(|domain| *domain != known.domain) => {
            return Err(Refusal::Conflict(format!(
                "the tenant {name} has the domain {}, which stays: the addresses of its devices are made of it",
                known.domain
            )));
        }
        Some(known) => {
            let tenant = Tenant {
                limits,
                ..Tenant::clone(known)
            };
            store.put_tenant(tenant.clone()).await.map_err(StoreError::refusal_of_all)?;
            (Arc::new(tenant), false)
        }
        None if tenants.len() >= TENANTS_MAX => {
            return Err(Refusal::Conflict(format!("there are {TENANTS_MAX} tenants; remove some first")));
        }
        None => {
            let domain = domain.ok_or_else(|| Refusal::MissingField("domain".into()))?;
            let added = store.add_tenant(&name, &domain, limits).await;
            (added.map_err(StoreError::refusal_of_all)?, true)
        }
    };
    tracing::info!(key.name = %caller.key_name, "the key {} put the tenant {name}, domain {}", caller.key_name, tenant.domain);
    let shown = shown(&tenant, certified.as_ref());
    if !is_new {
        return Ok(Json(shown).into_response());
    }
    let mut response = (StatusCode::CREATED, Json(shown)).into_response();
    if let Ok(location) = HeaderValue::try_from(format!("/v1/tenants/{name}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `GET /v1/tenants`
pub(super) async fn list(
    State(state): State<RegistryState>,
    Extension(caller): Extension<Caller>,
    certified: Option<Extension<Certified>>,
    mut parameters: Parameters,
) -> Result<Json<Paged<Value>>, Refusal> {
    caller.require(Scope::Operator)?;
    let page = parameters.take_page(&state.0.limits)?;
    let after: Option<String> = page.after()?;
    parameters.finish()?;
    let mut tenants = state.0.store.tenants();
    tenants.sort_by(|one, other| one.name.cmp(&other.name));
    tenants.retain(|tenant| after.as_ref().is_none_or(|after| tenant.name > *after));
    let page = page.page(tenants, |tenant| tenant.name.clone());
    Ok(Json(page.map(|tenant| shown(&tenant, certified.as_ref()))))
}

/// `GET /v1/tenants/{name}`
pub(super) async fn show(
    State(state): State<RegistryState>,
    Extension(caller): Extension<Caller>,
    certified: Option<Extension<Certified>>,
    name: Segment,
    parameters: Parameters,
) -> Result<Json<Value>, Refusal> {
    caller.require(Scope::Operator)?;
    parameters.finish()?;
    let tenant = state.named(&valid(name)?)?;
    Ok(Json(shown(&tenant, certified.as_ref())))
}

/// `DELETE /v1/tenants/{name}`: 204. Only of a tenant without devices; its keys are worthless from now on.
pub(super) async fn remove(
    State(state): State<RegistryState>,
    Extension(caller): Extension<Caller>,
    name: Segment,
    parameters: Parameters,
) -> Result<StatusCode, Refusal> {
    caller.require(Scope::Operator)?;
    parameters.finish()?;
    let tenant = state.named(&valid(name)?)?;
    if TenantId(tenant.id) == TenantId::default() {
        return Err(Refusal::Conflict(
            "the default tenant cannot be removed; its domain is the setting domain".into(),
        ));
    }
    let removed = state.0.store.remove_tenant(TenantId(tenant.id), state.0.clock.now()).await;
    if !removed.map_err(StoreError::refusal_of_all)? {
        return Err(Refusal::UnknownTenant(tenant.name.clone()));
    }
    tracing::info!(key.name = %caller.key_name, "the key {} removed the tenant {}", caller.key_name, tenant.name);
    Ok(StatusCode::NO_CONTENT)
}

impl RegistryState {
    /// The tenant of that name.
    pub(super) fn named(&self, name: &str) -> Result<Arc<Tenant>, Refusal> {
        let found = self.0.store.tenants().into_iter().find(|tenant| tenant.name == name);
        found.ok_or_else(|| Refusal::UnknownTenant(name.to_owned()))
    }
}

/// The name of a tenant follows the rules for the id of a device.
fn valid(name: Segment) -> Result<String, Refusal> {
    match name.0.parse::<DeviceId>() {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(why) => Err(Refusal::InvalidField {
            field: "name".into(),
            why: why.to_string(),
        }),
    }
}

fn shown(tenant: &Tenant, certified: Option<&Extension<Certified>>) -> Value {
    let mut shown = json!({"name": tenant.name, "domain": tenant.domain, "limits": tenant.limits});
    if let (Some(Extension(certified)), Some(members)) = (certified, shown.as_object_mut()) {
        members.insert("certificate".into(), (certified.0)(&tenant.domain).into());
    }
    shown
}
