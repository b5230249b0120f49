//! Whose a key is: for the gate before all parts.

use crate::{
    domain::{Caller, CallerLimits, Refusal, Scope, TenantId, Timestamp},
    store::Store,
};

/// The caller behind the SHA-256 of a key, from memory.
///
/// # Errors
/// `Unauthenticated` for one that is not known, `ExpiredKey`.
pub fn caller(store: &dyn Store, hash: &[u8; 32], now: Timestamp) -> Result<Caller, Refusal> {
    let key = store.key(hash).ok_or(Refusal::Unauthenticated)?;
    if let Some(at) = key.ends_at().filter(|at| now >= *at) {
        return Err(Refusal::ExpiredKey { key: key.name.clone(), at });
    }
    let id = TenantId(key.tenant);
    let tenant = store.tenant(id).ok_or(Refusal::Unauthenticated)?;
    Ok(Caller {
        tenant: id,
        domain: tenant.domain.as_str().into(),
        key_id: Some(key.id.as_str().into()),
        key_name: key.name.as_str().into(),
        scope: within(id, key.scope),
        also_push: false,
        limits: CallerLimits {
            tenant: tenant.limits,
            key: key.limits,
        },
    })
}

/// What a scope is worth in a tenant: whoever may see all tenants is of the default one.
pub fn within(tenant: TenantId, scope: Scope) -> Scope {
    if tenant == TenantId::default() {
        scope
    } else {
        scope.min(Scope::Admin)
    }
}
