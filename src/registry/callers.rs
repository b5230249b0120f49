//! Whose a key is, and which tenant a token names: for the gate before all parts.

use std::sync::Arc;

use crate::{
    domain::{Caller, CallerLimits, Refusal, Scope, TenantId, Timestamp},
    store::{Store, Tenant},
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

/// The tenant that has that word as its name or its domain, from memory. `None`: there is none, or one has it as its name and another
/// as its domain, so that nobody can say which is meant.
pub fn tenant_named(store: &dyn Store, word: &str) -> Option<Arc<Tenant>> {
    let tenants = store.tenants();
    let mut named = tenants.iter().filter(|tenant| tenant.name == word || tenant.domain == word);
    let found = named.next()?;
    named.next().is_none().then(|| found.clone())
}
