//! Administrative changes are written down: before they are made, so that none is made in silence, and before they are answered.
//!
//! What is one is told by the request alone, so a part that adds a route need not think of it: whatever a caller asks for that may change
//! things and needs scope `admin`. Events are no administration. Of a body only the names of its members are kept.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use aws_lc_rs::rand;
use axum::{
    body::Body,
    extract::MatchedPath,
    http::{Method, Request, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use data_encoding::BASE32_NOPAD;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use serde::de::IgnoredAny;

use super::{HttpMetrics, MediaType, Peer, problem::Slug};
use crate::domain::{Actor, AuditEntry, AuditOutcome, Caller, Refusal, Scope, TenantId, Timestamp};

/// Paths below which nothing is administration.
const EVENTS: &str = "/v1/events";
/// What only reads and is written down all the same: it hands out everything.
const EXPORT: &str = "/v1/export";
/// Bytes of a path that are kept.
const RESOURCE_MAX: usize = 512;
/// Names of members that are kept, and characters of each.
const FIELDS_MAX: usize = 32;
const FIELD_MAX: usize = 64;
/// Bytes of a body whose members are named; those of a larger one are not.
const BODY_MAX: usize = 512 * 1024;

/// Where changes are written down, durably.
#[async_trait]
pub trait Audit: Send + Sync + 'static {
    /// The time.
    fn now(&self) -> Timestamp;

    /// A change begins. Answers its position in the log.
    ///
    /// # Errors
    /// Why it cannot be written down: then the change is not made.
    async fn begin(&self, tenant: TenantId, entry: &AuditEntry) -> Result<u64, Refusal>;

    /// What came of it: `ended` takes the place of `begun`.
    ///
    /// # Errors
    /// Why it cannot be written down: then the change may have been made.
    async fn end(&self, tenant: TenantId, position: u64, begun: &AuditEntry, ended: &AuditEntry) -> Result<(), Refusal>;
}

/// How much of a change was done: an extension of the answer.
#[derive(Clone, Debug)]
pub struct AuditDetail(pub String);

/// Whether a request asks for an administrative change, and its caller could make one.
pub(super) fn is_change(caller: &Caller, request: &Request<Body>, route: Option<&MatchedPath>) -> bool {
    let path = route.map_or(request.uri().path(), MatchedPath::as_str);
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let of_events = path
        .strip_prefix(EVENTS)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    caller.scope.covers(Scope::Admin) && !of_events && (!reads || path == EXPORT)
}

/// Answers a request whose change is written down.
pub(super) async fn watched(audit: &dyn Audit, metrics: &HttpMetrics, caller: Caller, request: Request<Body>, next: Next) -> Response {
    let begun = match begun(audit.now(), &caller, &request) {
        Ok(begun) => begun,
        Err(refusal) => return refusal.into_response(),
    };
    let position = match audit.begin(caller.tenant, &begun).await {
        Ok(position) => position,
        Err(refusal) => {
            metrics.audited(false);
            tracing::error!(key.name = %caller.key_name, "a change of the key {} is refused, because it cannot be written into the audit log", caller.key_name);
            return refusal.into_response();
        }
    };
    let seen = Seen::default();
    let is_json = MediaType::of(request.headers()).is_ok_and(|given| given.is_none_or(|given| given.is_json()));
    let request = if is_json { request.map(|body| seen.watch(body)) } else { request };
    let response = next.run(request).await;
    let ended = AuditEntry {
        fields: seen.fields(),
        outcome: Some(outcome(audit.now(), &response)),
        ..begun.clone()
    };
    match audit.end(caller.tenant, position, &begun, &ended).await {
        Ok(()) => {
            metrics.audited(true);
            response
        }
        Err(refusal) => {
            metrics.audited(false);
            tracing::error!(
                key.name = %caller.key_name,
                "what came of the change {} of the key {} (status {}) could not be written into the audit log",
                begun.id, caller.key_name, response.status().as_u16()
            );
            refusal.into_response()
        }
    }
}

fn begun(at: Timestamp, caller: &Caller, request: &Request<Body>) -> Result<AuditEntry, Refusal> {
    let mut id = [0; 10];
    rand::fill(&mut id).map_err(|_| Refusal::Internal("no random bytes".into()))?;
    let path = request.uri().path();
    Ok(AuditEntry {
        id: BASE32_NOPAD.encode(&id).to_ascii_lowercase(),
        at,
        actor: Actor::of(caller),
        scope: caller.scope,
        from: request.extensions().get::<Peer>().map(|peer| peer.client.ip().to_canonical()),
        method: request.method().as_str().chars().take(FIELD_MAX).collect(),
        // A path is ASCII (RFC 3986 §2).
        resource: path.chars().take(RESOURCE_MAX).collect(),
        fields: Vec::new(),
        outcome: None,
    })
}

fn outcome(at: Timestamp, response: &Response) -> AuditOutcome {
    let created = response.headers().get(header::LOCATION);
    AuditOutcome {
        at,
        status: response.status().as_u16(),
        problem: response.extensions().get::<Slug>().map(|slug| slug.0.to_owned()),
        created: created
            .and_then(|created| created.to_str().ok())
            .map(|created| created.chars().take(RESOURCE_MAX).collect()),
        detail: response.extensions().get::<AuditDetail>().map(|detail| detail.0.clone()),
    }
}

/// What was read of a body, piece by piece as it came: no copy.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Bytes>>>);

impl Seen {
    fn watch(&self, body: Body) -> Body {
        Body::new(Watched {
            body,
            seen: self.clone(),
            bytes: 0,
        })
    }

    /// The names of the members of the object that it was.
    fn fields(&self) -> Vec<String> {
        let pieces = std::mem::take(&mut *self.0.lock());
        let Ok(members) = serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(&pieces.concat()) else {
            return Vec::new();
        };
        let names = members.into_keys().take(FIELDS_MAX);
        names
            .map(|name| name.chars().filter(|c| !c.is_control()).take(FIELD_MAX).collect())
            .collect()
    }
}

struct Watched {
    body: Body,
    seen: Seen,
    bytes: usize,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.bytes = self.bytes.saturating_add(data.len());
            let mut pieces = self.seen.0.lock();
            if self.bytes <= BODY_MAX {
                pieces.push(data.clone());
            } else {
                pieces.clear();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::{Extension, Router, http::StatusCode, routing::post};
    use serde_json::json;
    use tower::ServiceExt;

    use super::*;
    use crate::{
        domain::Refusal,
        http::{Access, mount, read},
    };

    /// A log that can be told to fail.
    #[derive(Default)]
    struct Log {
        entries: Mutex<Vec<AuditEntry>>,
        fails_at: Mutex<&'static str>,
    }

    #[async_trait]
    impl Audit for Log {
        fn now(&self) -> Timestamp {
            Timestamp(7)
        }

        async fn begin(&self, _: TenantId, entry: &AuditEntry) -> Result<u64, Refusal> {
            let mut entries = self.entries.lock();
            if *self.fails_at.lock() == "begin" {
                return Err(Refusal::Draining {
                    retry_after: std::time::Duration::from_secs(1),
                });
            }
            entries.push(entry.clone());
            Ok(entries.len() as u64 - 1)
        }

        async fn end(&self, _: TenantId, position: u64, begun: &AuditEntry, ended: &AuditEntry) -> Result<(), Refusal> {
            let mut entries = self.entries.lock();
            if *self.fails_at.lock() == "end" {
                return Err(Refusal::Draining {
                    retry_after: std::time::Duration::from_secs(1),
                });
            }
            let place = &mut entries[usize::try_from(position).unwrap()];
            assert_eq!(place, begun);
            *place = ended.clone();
            Ok(())
        }
    }

    struct Scene {
        log: Arc<Log>,
        changes: Arc<Mutex<u32>>,
        router: Router,
    }

    impl Scene {
        fn new() -> Self {
            let (log, changes) = (Arc::new(Log::default()), Arc::new(Mutex::new(0)));
            let counted = changes.clone();
            let change = move |body: Body| {
                *counted.lock() += 1;
                async move {
                    if read(body, 100).await?.is_empty() {
                        return Err(Refusal::NoTarget);
                    }
                    let detail = Extension(AuditDetail("2 parts".into()));
                    Ok::<_, Refusal>((StatusCode::CREATED, [("location", "/v1/things/7")], detail))
                }
            };
            let parts = Router::new()
                .route("/v1/things", post(change.clone()).get(async || "read"))
                .route("/v1/events", post(change.clone()))
                .route("/v1/export", axum::routing::get(async || "all"))
                .route("/v1/eventsource", post(change));
            let caller = |hash: &[u8; 32]| {
                let of = |scope: Scope| {
                    (*hash == crate::http::key_hash(scope.as_str())).then(|| Caller {
                        tenant: TenantId(3),
                        domain: "localhost".into(),
                        key_id: Some("id".into()),
                        key_name: scope.as_str().into(),
                        scope,
                        also_push: false,
                        limits: crate::domain::CallerLimits::default(),
                    })
                };
                of(Scope::Admin).or_else(|| of(Scope::Push))
            };
            let metrics = HttpMetrics::register(&prometheus::Registry::new()).unwrap();
            let router = mount(parts, Access::of_keys(caller).audited(log.clone()), metrics);
            Self { log, changes, router }
        }

        async fn ask(&self, key: &str, method: &str, path: &str, body: &str) -> u16 {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("authorization", format!("Bearer {key}"));
            let response = self
                .router
                .clone()
                .oneshot(request.body(Body::from(body.to_owned())).unwrap())
                .await
                .unwrap();
            response.status().as_u16()
        }
    }

    #[tokio::test]
    async fn a_change_is_written_down_with_the_names_of_its_fields_and_no_value() {
        let scene = Scene::new();
        let body = json!({"password": "secret", "user": "ann"}).to_string();
        assert_eq!(scene.ask("admin", "POST", "/v1/things?x=hush", &body).await, 201);
        assert_eq!(scene.ask("admin", "POST", "/v1/things", "").await, 400);
        assert_eq!(scene.ask("admin", "POST", "/v1/eventsource", "{").await, 201);
        assert_eq!(scene.ask("admin", "GET", "/v1/export", "").await, 200);
        let entries = scene.log.entries.lock().clone();
        let told = serde_json::to_value(&entries[0]).unwrap();
        assert_eq!(told["actor"], json!({"key": {"id": "id", "name": "admin"}}));
        assert_eq!(
            (&told["method"], &told["resource"], &told["fields"]),
            (&json!("POST"), &json!("/v1/things"), &json!(["password", "user"]))
        );
        let made = json!({"at": Timestamp(7), "status": 201, "created": "/v1/things/7", "detail": "2 parts"});
        assert_eq!(told["outcome"], made);
        assert!(!told.to_string().contains("secret") && !told.to_string().contains("hush"), "{told}");
        let refused = entries[1].outcome.clone().unwrap();
        assert_eq!((refused.status, refused.problem.as_deref()), (400, Some("no-target")));
        assert!(entries[2].fields.is_empty() && entries[3].resource == "/v1/export");
        assert_eq!(entries.len(), 4);
    }

    #[tokio::test]
    async fn what_is_no_administration_is_not() {
        let scene = Scene::new();
        assert_eq!(scene.ask("admin", "GET", "/v1/things", "").await, 200);
        assert_eq!(scene.ask("admin", "POST", "/v1/events", "{}").await, 201);
        assert_eq!(scene.ask("push", "POST", "/v1/things", "{}").await, 201);
        assert_eq!(scene.ask("nobody", "POST", "/v1/things", "{}").await, 401);
        assert!(scene.log.entries.lock().is_empty());
    }

    #[tokio::test]
    async fn no_change_passes_in_silence() {
        let scene = Scene::new();
        *scene.log.fails_at.lock() = "begin";
        assert_eq!(scene.ask("admin", "POST", "/v1/things", "{}").await, 503);
        assert_eq!(*scene.changes.lock(), 0, "what cannot be written down is not made");
        *scene.log.fails_at.lock() = "end";
        assert_eq!(scene.ask("admin", "POST", "/v1/things", "{}").await, 503);
        assert_eq!(*scene.changes.lock(), 1);
        let entries = scene.log.entries.lock();
        assert!(
            entries.len() == 1 && entries[0].outcome.is_none(),
            "that it was tried is known: {entries:?}"
        );
    }
}
