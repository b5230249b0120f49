//! The gate before all parts: who calls, what callers change, how long it took, what was refused.

use std::{borrow::Cow, sync::Arc, time::Instant};

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, State},
    handler::Handler,
    http::{HeaderValue, Method, Request, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};

use super::{HttpMetrics, audit, audit::Audit, problem::Slug};
use crate::domain::{Caller, Refusal, sha256};

/// Finds the caller behind what stands in `Authorization`: a key or a token. Called for every request, so it answers from memory, or
/// says what is to be computed.
pub type Callers = Arc<dyn Fn(&str) -> Found + Send + Sync>;

/// What is known of a key or a token.
pub enum Found {
    /// Whose it is, or why it is not taken.
    Known(Result<Caller, Refusal>),
    /// It takes up to a millisecond of CPU to know: for a thread on which nobody waits.
    Computed(Box<dyn FnOnce() -> Result<Caller, Refusal> + Send>),
}

/// Who may come in, and who writes down what they change. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    callers: Callers,
    audit: Option<Arc<dyn Audit>>,
}

impl Access {
    /// Without an audit log.
    pub fn new(callers: Callers) -> Self {
        Self { callers, audit: None }
    }

    /// By the SHA-256 of keys alone.
    pub fn of_keys(find: impl Fn(&[u8; 32]) -> Option<Caller> + Send + Sync + 'static) -> Self {
        Self::new(Arc::new(move |key| {
            Found::Known(find(&key_hash(key)).ok_or(Refusal::Unauthenticated))
        }))
    }

    /// The same, with every administrative change written down before it is made and before it is answered.
    #[must_use]
    pub fn audited(self, audit: Arc<dyn Audit>) -> Self {
        Self {
            audit: Some(audit),
            ..self
        }
    }
}

/// The longest key or token that is looked at, in bytes. Of a token a smaller bound is told by who checks it.
const KEY_MAX: usize = 16 * 1024;
/// The longest user name and key of HTTP Basic that are looked at, in bytes of Base64.
const BASIC_MAX: usize = 1_024;

/// What is stored of a key: its SHA-256. Keys are random and long, so it needs neither salt nor rounds, and a look-up by the
/// hash tells nothing by its timing.
pub fn key_hash(key: &str) -> [u8; 32] {
    sha256(key.as_bytes())
}

/// Puts the parts behind the gate: a request of a path that a part serves needs a key, whose [`Caller`] the handlers find in
/// the request's extensions. Paths and methods that nobody serves get their problem.
pub fn mount(parts: Router, access: Access, metrics: HttpMetrics) -> Router {
    finish(gated(parts, Door::Key(access), &metrics), metrics)
}

/// As [`mount`], for parts that a person opens in a browser: it asks for the key as the password of HTTP Basic (RFC 7617), with
/// any user name, because a browser cannot be told a Bearer token. `open` is for everybody.
pub fn mount_for_browsers(parts: Router, open: Router, access: Access, metrics: HttpMetrics) -> Router {
    let routes = gated(parts, Door::KeyOrPassword(access), &metrics).merge(gated(open, Door::Open, &metrics));
    finish(routes, metrics)
}

/// The same with paths beside the gate: `own` finds out by itself who calls. They are measured and counted as the others.
pub fn mount_beside(parts: Router, own: Router, access: Access, metrics: HttpMetrics) -> Router {
    let routes = gated(parts, Door::Key(access), &metrics).merge(gated(own, Door::Open, &metrics));
    finish(routes, metrics)
}

fn gated(routes: Router, door: Door, metrics: &HttpMetrics) -> Router {
    let gate = Gate {
        door,
        metrics: metrics.clone(),
    };
    routes
        .method_not_allowed_fallback(async |method: Method| Refusal::MethodNotAllowed(method.to_string()))
        .route_layer(middleware::from_fn_with_state(gate, pass))
}

fn finish(routes: Router, metrics: HttpMetrics) -> Router {
    let unknown = async |uri: Uri| Refusal::UnknownPath(uri.path().to_owned());
    let gate = Gate { door: Door::Open, metrics };
    routes.fallback(unknown.layer(middleware::from_fn_with_state(gate, pass)))
}

#[derive(Clone)]
struct Gate {
    door: Door,
    metrics: HttpMetrics,
}

/// Whom a gate lets pass.
#[derive(Clone)]
enum Door {
    /// Everybody.
    Open,
    /// Who gives a key or a token as Bearer token.
    Key(Access),
    /// Who gives it as Bearer token, or as the password of HTTP Basic.
    KeyOrPassword(Access),
}

/// What a browser is asked for.
const BASIC: HeaderValue =
    HeaderValue::from_static("Basic realm=\"unpoll: any name, and an admin key as the password\", charset=\"UTF-8\"");

async fn pass(State(gate): State<Gate>, mut request: Request<Body>, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = match gate.door.access() {
        None => next.run(request).await,
        Some((access, basic)) => match caller(found(access, &request, basic)).await {
            Err(refusal) => gate.door.refuse(refusal),
            Ok(caller) => {
                let audit = access
                    .audit
                    .as_ref()
                    .filter(|_| audit::is_change(&caller, &request, route.as_ref()));
                request.extensions_mut().insert(caller.clone());
                match audit {
                    None => next.run(request).await,
                    Some(audit) => audit::watched(&**audit, &gate.metrics, caller, request, next).await,
                }
            }
        },
    };
    let slug = response.extensions().get::<Slug>().map(|slug| slug.0);
    gate.metrics
        .answered(route.as_ref().map(MatchedPath::as_str), slug, began.elapsed());
    response
}

impl Door {
    /// Who may come in, where the door asks; and whether HTTP Basic will do.
    fn access(&self) -> Option<(&Access, bool)> {
        match self {
            Self::Open => None,
            Self::Key(access) => Some((access, false)),
            Self::KeyOrPassword(access) => Some((access, true)),
        }
    }

    /// The answer to who is not let in.
    fn refuse(&self, refusal: Refusal) -> Response {
        let asks = refusal.face().status == 401;
        let mut response = refusal.into_response();
        if asks && matches!(self, Self::KeyOrPassword(_)) {
            response.headers_mut().append(header::WWW_AUTHENTICATE, BASIC);
        }
        response
    }
}

/// What is known of who calls.
fn found(access: &Access, request: &Request<Body>, basic: bool) -> Found {
    match key(request, basic) {
        Some(key) => (access.callers)(&key),
        None => Found::Known(Err(Refusal::Unauthenticated)),
    }
}

/// Who calls.
async fn caller(found: Found) -> Result<Caller, Refusal> {
    match found {
        Found::Known(found) => found,
        Found::Computed(compute) => tokio::task::spawn_blocking(compute)
            .await
            .unwrap_or_else(|_| Err(Refusal::Internal("a token".to_owned()))),
    }
}

/// The key in the request's `Authorization`: `Bearer` (RFC 6750 §2.1), and if `basic` the password of HTTP Basic.
fn key(request: &Request<Body>, basic: bool) -> Option<Cow<'_, str>> {
    let mut values = request.headers().get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, given) = value.split_once(' ')?;
    let given = given.trim();
    let key: Cow<str> = if scheme.eq_ignore_ascii_case("bearer") {
        given.into()
    } else if basic && scheme.eq_ignore_ascii_case("basic") && given.len() <= BASIC_MAX {
        let pair = String::from_utf8(BASE64_STANDARD.decode(given).ok()?).ok()?;
        pair.split_once(':')?.1.to_owned().into()
    } else {
        return None;
    };
    (!key.is_empty() && key.len() <= KEY_MAX).then_some(key)
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;
    use crate::domain::{Scope, TenantId};

    fn keys() -> Access {
        Access::of_keys(|hash| {
            (*hash == key_hash("right")).then(|| Caller {
                tenant: TenantId(0),
                domain: "localhost".into(),
                key_id: Some("test".into()),
                key_name: "test".into(),
                scope: Scope::Admin,
                also_push: false,
                limits: crate::domain::CallerLimits::default(),
            })
        })
    }

    async fn status(door: &Router, authorization: &str) -> (u16, Vec<String>) {
        let mut request = Request::get("/");
        if !authorization.is_empty() {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let answer = door.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let asked = answer.headers().get_all(header::WWW_AUTHENTICATE).iter();
        let asked = asked.map(|value| value.to_str().unwrap().to_owned()).collect();
        (answer.status().as_u16(), asked)
    }

    #[tokio::test]
    async fn a_browser_may_give_the_key_as_a_password_where_browsers_come() {
        let metrics = HttpMetrics::register(&prometheus::Registry::new()).unwrap();
        let parts = || Router::new().route("/", get(async || "in"));
        let (backends, browsers) = (
            mount(parts(), keys(), metrics.clone()),
            mount_for_browsers(parts(), Router::new().route("/open", get(async || "in")), keys(), metrics),
        );
        let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
        for (authorization, by_backends, by_browsers) in [
            ("Bearer right".to_owned(), 200, 200),
            ("Bearer wrong".to_owned(), 401, 401),
            (basic("anyone:right"), 401, 200),
            (basic(":right"), 401, 200),
            (basic("right:"), 401, 401),
            (basic("right"), 401, 401),
            (basic("anyone:wrong"), 401, 401),
            (basic(&format!("{}:right", "x".repeat(2_000))), 401, 401),
            ("Basic %%%".to_owned(), 401, 401),
            (String::new(), 401, 401),
        ] {
            assert_eq!(status(&backends, &authorization).await.0, by_backends, "{authorization}");
            assert_eq!(status(&browsers, &authorization).await.0, by_browsers, "{authorization}");
        }
        let open = Request::get("/open").body(Body::empty()).unwrap();
        assert_eq!(browsers.clone().oneshot(open).await.unwrap().status(), 200);
        let (_, asked) = status(&backends, "").await;
        assert_eq!(asked, ["Bearer"]);
        let (_, asked) = status(&browsers, "").await;
        assert!(asked[0] == "Bearer" && asked[1].starts_with("Basic realm="), "{asked:?}");
    }
}
