//! Limits in deliveries: of a key, and of all keys of a tenant together.
//!
//! A limit is of the service: each of several nodes gives its even share. The answers to posts say what is left of it
//! (draft-ietf-httpapi-ratelimit-headers-11). What one node knows is in its memory: after a restart every bucket is full.

use std::{collections::HashMap, fmt::Write as _, hash::Hash, sync::Arc, time::Instant};

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderName, HeaderValue, Request},
    middleware::Next,
    response::Response,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::domain::{Allowance, Bucket, Caller, RateLimit, Refusal, Share, TenantId};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEFT: HeaderName = HeaderName::from_static("ratelimit");
/// Buckets of one kind that are kept before the full ones among them are forgotten.
const BUCKETS_MAX: usize = 10_000;

/// The limits of those that have none of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Deliveries a second that all keys of a tenant together may post, of a tenant without limits of its own; more are answered 429
    /// `rate-limited`. Default: 0, which is no limit.
    pub tenant_per_second: u32,
    /// Deliveries that all keys of such a tenant may post at once after a pause. Default: 0, which is as many as a second has.
    pub tenant_burst: u32,
    /// Deliveries a second that may be posted with a key without limits of its own. Default: 0, which is no limit.
    pub key_per_second: u32,
    /// Deliveries that may be posted with such a key at once after a pause. Default: 0, which is as many as a second has.
    pub key_burst: u32,
}

/// How many nodes share the limits now, this one among them.
pub type LiveNodes = Arc<dyn Fn() -> usize + Send + Sync>;

/// Who has posted how much. Cheap to clone.
#[derive(Clone)]
pub struct Rates(Arc<Inner>);

struct Inner {
    tenant: Option<RateLimit>,
    key: Option<RateLimit>,
    nodes: LiveNodes,
    buckets: Mutex<Buckets>,
}

#[derive(Default)]
struct Buckets {
    tenants: HashMap<TenantId, Bucket>,
    keys: HashMap<(TenantId, Arc<str>), Bucket>,
}

/// One limit of a caller.
struct Policy {
    name: &'static str,
    limit: RateLimit,
    share: Share,
}

impl Policy {
    fn left(&self, bucket: &mut Bucket, now: Instant) -> Allowance {
        Allowance {
            policy: self.name,
            limit: self.limit,
            quota: self.share.quota(),
            window_secs: self.share.window_secs(),
            remaining: bucket.left(self.share, now),
            reset_secs: bucket.full_in_secs(self.share, now),
        }
    }
}

impl Rates {
    /// With those limits, shared by so many nodes.
    pub fn new(config: &Config, nodes: LiveNodes) -> Self {
        let limit = |deliveries_per_second: u32, burst: u32| {
            (deliveries_per_second > 0).then_some(RateLimit {
                deliveries_per_second,
                burst: if burst == 0 { deliveries_per_second } else { burst },
            })
        };
        Self(Arc::new(Inner {
            tenant: limit(config.tenant_per_second, config.tenant_burst),
            key: limit(config.key_per_second, config.key_burst),
            nodes,
            buckets: Mutex::default(),
        }))
    }

    /// Takes that many deliveries from what the caller may post. All of them, or none: a request with more than a limit allows at
    /// once is let through when the bucket is full, and paid off by a longer pause.
    ///
    /// # Errors
    /// `RateLimited`, of the limit that has to be waited for longest.
    pub fn take(&self, caller: &Caller, deliveries: u64, now: Instant) -> Result<(), Refusal> {
        let (tenant, key) = self.policies(caller);
        if tenant.is_none() && key.is_none() {
            return Ok(());
        }
        let mut buckets = self.0.buckets.lock();
        let Buckets { tenants, keys } = &mut *buckets;
        let tenant = tenant.map(|policy| (bucket(tenants, caller.tenant, policy.share, now), policy));
        let key = key.map(|policy| (bucket(keys, who(caller), policy.share, now), policy));
        let mut both = [tenant, key];
        let waits = both.iter_mut().flatten().filter_map(|(bucket, policy)| {
            let wait = bucket.check(policy.share, deliveries, now).err()?;
            Some((wait, policy.name, policy.limit))
        });
        if let Some((retry_after, policy, limit)) = waits.max_by_key(|(wait, ..)| *wait) {
            return Err(Refusal::RateLimited {
                policy,
                per_second: limit.deliveries_per_second,
                burst: limit.burst,
                retry_after,
            });
        }
        for (bucket, _) in both.iter_mut().flatten() {
            bucket.take(deliveries);
        }
        Ok(())
    }

    /// The limits of the tenant and of the key, where there are any.
    fn policies(&self, caller: &Caller) -> (Option<Policy>, Option<Policy>) {
        let (tenant, key) = (caller.limits.tenant.or(self.0.tenant), caller.limits.key.or(self.0.key));
        if tenant.is_none() && key.is_none() {
            return (None, None);
        }
        let nodes = (self.0.nodes)();
        let policy = |name, limit: RateLimit| Policy {
            name,
            limit,
            share: limit.share(nodes),
        };
        (tenant.map(|limit| policy("tenant", limit)), key.map(|limit| policy("key", limit)))
    }

    /// The limits of the tenant and of the key, where there are any, and what is left of them here.
    pub fn left(&self, caller: &Caller, now: Instant) -> Vec<Allowance> {
        let (tenant, key) = self.policies(caller);
        if tenant.is_none() && key.is_none() {
            return Vec::new();
        }
        let mut buckets = self.0.buckets.lock();
        let Buckets { tenants, keys } = &mut *buckets;
        let tenant = tenant.map(|policy| policy.left(bucket(tenants, caller.tenant, policy.share, now), now));
        let key = key.map(|policy| policy.left(bucket(keys, who(caller), policy.share, now), now));
        tenant.into_iter().chain(key).collect()
    }

    /// The values of `RateLimit-Policy` and `RateLimit` for that caller; `None` when nothing limits it.
    fn fields(&self, caller: &Caller, now: Instant) -> Option<(String, String)> {
        let (mut policies, mut lefts) = (String::new(), String::new());
        for left in self.left(caller, now) {
            let (policy, comma) = (left.policy, if policies.is_empty() { "" } else { ", " });
            // Writing to a String cannot fail. The unit is none of the registered ones, so it has a name of ours.
            _ = write!(
                policies,
                "{comma}\"{policy}\";q={};w={};unpoll-unit=\"deliveries\"",
                left.quota, left.window_secs
            );
            _ = write!(lefts, "{comma}\"{policy}\";r={};t={}", left.remaining, left.reset_secs);
        }
        (!policies.is_empty()).then_some((policies, lefts))
    }
}

/// Whose bucket that of the key is.
fn who(caller: &Caller) -> (TenantId, Arc<str>) {
    (caller.tenant, caller.key_id.as_ref().unwrap_or(&caller.key_name).clone())
}

/// The bucket of `who`. One that is full is as good as none, so those go when there are many.
fn bucket<K: Hash + Eq>(buckets: &mut HashMap<K, Bucket>, who: K, share: Share, now: Instant) -> &mut Bucket {
    if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&who) {
        // Each by its own share would be exact; this one forgets at most what a limit of another size still owed.
        buckets.retain(|_, bucket| bucket.full_in_secs(share, now) > 0);
    }
    buckets.entry(who).or_insert_with(|| Bucket::full(share, now))
}

/// Says on each answer what is left of the caller's limits.
pub(super) async fn tell(State(rates): State<Rates>, caller: Option<Extension<Caller>>, request: Request<Body>, next: Next) -> Response {
    let mut response = next.run(request).await;
    let fields = caller.and_then(|Extension(caller)| rates.fields(&caller, Instant::now()));
    if let Some((policies, lefts)) = fields {
        let values = [(POLICY, policies), (LEFT, lefts)];
        let values = values
            .into_iter()
            .filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?)));
        response.headers_mut().extend(values);
    }
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{CallerLimits, Scope};

    fn limit(deliveries_per_second: u32, burst: u32) -> Option<RateLimit> {
        Some(RateLimit {
            deliveries_per_second,
            burst,
        })
    }

    fn caller(tenant: u16, key: &str, limits: CallerLimits) -> Caller {
        Caller {
            tenant: TenantId(tenant),
            domain: "localhost".into(),
            key_id: Some(key.into()),
            key_name: key.into(),
            also_push: false,
            scope: Scope::Push,
            limits,
        }
    }

    fn rates(nodes: usize) -> Rates {
        Rates::new(&Config::default(), Arc::new(move || nodes))
    }

    fn given(rates: &Rates, caller: &Caller, now: Instant) -> u64 {
        (0..1_000).take_while(|_| rates.take(caller, 1, now).is_ok()).count() as u64
    }

    #[test]
    fn without_limits_everything_is_taken_and_nothing_told() {
        let (rates, now) = (rates(1), Instant::now());
        let free = caller(0, "k", CallerLimits::default());
        assert_eq!(given(&rates, &free, now), 1_000);
        assert_eq!(rates.fields(&free, now), None);
    }

    #[test]
    fn keys_of_a_tenant_share_its_limit_and_tenants_do_not() {
        let (rates, now) = (rates(1), Instant::now());
        let limits = CallerLimits {
            tenant: limit(10, 20),
            key: None,
        };
        let (a, b, other) = (caller(1, "a", limits), caller(1, "b", limits), caller(2, "a", limits));
        assert_eq!(given(&rates, &a, now), 20);
        assert_eq!((given(&rates, &b, now), given(&rates, &other, now)), (0, 20));
        assert_eq!(given(&rates, &b, now + Duration::from_secs(1)), 10);
    }

    #[test]
    fn what_a_key_is_refused_is_not_taken_from_its_tenant() {
        let (rates, now) = (rates(1), Instant::now());
        let limits = |key| CallerLimits { tenant: limit(1, 10), key };
        let (narrow, wide) = (caller(1, "narrow", limits(limit(1, 2))), caller(1, "wide", limits(None)));
        assert_eq!(given(&rates, &narrow, now), 2);
        let refused = rates.take(&narrow, 1, now).unwrap_err();
        assert!(matches!(refused, Refusal::RateLimited { policy: "key", .. }), "{refused}");
        assert_eq!(refused.retry_after(), Some(Duration::from_secs(1)));
        assert_eq!(given(&rates, &wide, now), 8);
        let refused = rates.take(&wide, 1, now).unwrap_err();
        assert!(matches!(refused, Refusal::RateLimited { policy: "tenant", .. }), "{refused}");
    }

    #[test]
    fn the_fields_say_what_this_node_gives() {
        let (rates, now) = (rates(4), Instant::now());
        let limits = CallerLimits {
            tenant: limit(40, 80),
            key: limit(4, 4),
        };
        let caller = caller(1, "k", limits);
        rates.take(&caller, 1, now).unwrap();
        let (policies, lefts) = rates.fields(&caller, now).unwrap();
        assert_eq!(
            policies,
            "\"tenant\";q=20;w=2;unpoll-unit=\"deliveries\", \"key\";q=1;w=1;unpoll-unit=\"deliveries\""
        );
        assert_eq!(lefts, "\"tenant\";r=19;t=1, \"key\";r=0;t=1");
    }

    #[test]
    fn many_callers_leave_few_buckets() {
        let (rates, now) = (rates(1), Instant::now());
        let limits = CallerLimits {
            tenant: None,
            key: limit(10, 10),
        };
        for number in 0..3 * BUCKETS_MAX {
            let at = now + Duration::from_millis(number as u64);
            rates.take(&caller(1, &number.to_string(), limits), 1, at).unwrap();
        }
        assert!(rates.0.buckets.lock().keys.len() <= BUCKETS_MAX + 1);
    }
}
