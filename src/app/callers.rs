//! Who calls: keys from the store's memory, and tokens of the operator's issuer.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::{
    domain::{Caller, CallerLimits, Clock, Refusal, Scope, TenantId, Timestamp, sha256},
    http::{Callers, Found, key_hash},
    registry::{self, KeyUses},
    store::Store,
    tokens::{BackendTokens, Bearer, TokenError},
};

/// Tokens that are remembered as valid; one more makes all be forgotten.
const REMEMBERED_MAX: usize = 4_096;
/// How long a token that was valid is not checked again: a tenant that is gone is gone for it after that long.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// When to come back while the issuer's keys are not known.
const KEYS_RETRY: Duration = Duration::from_secs(5);

/// Tokens that were found valid lately, by their SHA-256.
type Remembered = Mutex<HashMap<[u8; 32], Remembrance>>;

struct Remembrance {
    caller: Caller,
    until: Timestamp,
    /// Of the issuer's keys.
    version: u64,
}

/// Finds callers by key or token: which it is, is told by its form.
pub(super) fn callers(store: Arc<dyn Store>, tokens: BackendTokens, clock: Arc<dyn Clock>, uses: KeyUses) -> Callers {
    let remembered: Arc<Remembered> = Arc::default();
    Arc::new(move |given| {
        let now = clock.now();
        if !tokens.takes(given) {
            let found = registry::caller(&*store, &key_hash(given), now);
            return Found::Known(found.inspect(|caller| uses.note(caller, now)));
        }
        let (hash, version) = (sha256(given.as_bytes()), tokens.version());
        let known = remembered
            .lock()
            .get(&hash)
            .filter(|known| known.version == version && now < known.until)
            .map(|known| known.caller.clone());
        if let Some(caller) = known {
            return Found::Known(Ok(caller));
        }
        let (store, tokens, remembered, token) = (store.clone(), tokens.clone(), remembered.clone(), given.to_owned());
        Found::Computed(Box::new(move || {
            let bearer = tokens.check(&token, now).map_err(refusal)?;
            let until = bearer.until.min(now.plus(REMEMBERED_FOR));
            let caller = of_token(&*store, bearer)?;
            let mut remembered = remembered.lock();
            if remembered.len() >= REMEMBERED_MAX {
                remembered.clear();
            }
            let remembrance = Remembrance {
                caller: caller.clone(),
                until,
                version,
            };
            remembered.insert(hash, remembrance);
            Ok(caller)
        }))
    })
}

/// As [`callers`], for the admin listener beyond loopback: who may do everything, of the default tenant, because its figures are of the
/// whole service.
pub(super) fn admins(callers: Callers) -> Callers {
    fn only(found: Result<Caller, Refusal>) -> Result<Caller, Refusal> {
        let caller = found?;
        let may = caller.tenant == TenantId::default() && caller.scope.covers(Scope::Admin);
        if may { Ok(caller) } else { Err(Refusal::Unauthenticated) }
    }
    Arc::new(move |given| match callers(given) {
        Found::Known(found) => Found::Known(only(found)),
        Found::Computed(compute) => Found::Computed(Box::new(move || only(compute()))),
    })
}

fn refusal(error: TokenError) -> Refusal {
    match error {
        TokenError::NoKeys => Refusal::NoIssuerKeys { retry_after: KEYS_RETRY },
        other => Refusal::InvalidToken(other.words()),
    }
}

fn of_token(store: &dyn Store, bearer: Bearer) -> Result<Caller, Refusal> {
    let tenant = match &bearer.tenant {
        None => store.tenant(TenantId::default()),
        Some(word) => registry::tenant_named(store, word),
    };
    let tenant = tenant.ok_or(Refusal::InvalidToken(TokenError::Tenant.words()))?;
    // The strongest contains the others, but for read, which does not contain push.
    let Some(scope) = bearer.scopes.iter().copied().max() else {
        return Err(Refusal::Forbidden {
            key: bearer.subject,
            needed: Scope::Push,
        });
    };
    Ok(Caller {
        tenant: TenantId(tenant.id),
        domain: tenant.domain.as_str().into(),
        key_id: None,
        key_name: bearer.subject.into(),
        scope: registry::within(TenantId(tenant.id), scope),
        also_push: bearer.scopes.contains(&Scope::Push),
        limits: CallerLimits {
            tenant: tenant.limits,
            key: None,
        },
    })
}
