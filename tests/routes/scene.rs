//! A router with everything behind it but sockets and devices.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use axum::{
    Extension, Router,
    body::Body,
    http::{HeaderMap, Request},
    response::Response,
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use unpoll::{
    domain::{AuditEntry, Caller, CallerLimits, Clock, DeviceId, Epoch, EventId, Limits, ManualClock, Refusal, Scope, TenantId, Timestamp},
    http::{self, Access, Audit, Found, HttpMetrics},
    ingress::{self, IngressMetrics, IngressState},
    receipts::{self, ReceiptsState},
    registry::{self, KeyUses, RegistryState},
    store::{
        Arrival, AuditLog, Cursor, DeviceKey, QueuedEvent, Store, StoreError,
        embedded::{Config, EmbeddedStore},
    },
};

pub const START: Timestamp = Timestamp(1_800_000_000_000);

pub struct Scene {
    pub store: Arc<EmbeddedStore>,
    pub clock: Arc<ManualClock>,
    pub draining: Arc<AtomicBool>,
    pub metrics: prometheus::Registry,
    pub replaced: Arc<AtomicU64>,
    pub cancelled: Arc<AtomicU64>,
    pub written: Arc<Mutex<HashSet<EventId>>>,
    pub ended: Arc<Mutex<Vec<(DeviceId, Epoch)>>>,
    pub uses: KeyUses,
    router: Router,
    _arrivals: tokio::sync::mpsc::Receiver<Arrival>,
    _folder: tempfile::TempDir,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// Whether it is that problem; gives its body.
    #[track_caller]
    pub fn refused(self, status: u16, slug: &str, detail: &str) -> Value {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        let body = self.json();
        assert_eq!(
            (self.status, &body["type"]),
            (status, &json!(format!("/problems/{slug}"))),
            "{self:?}"
        );
        assert!(body["detail"].as_str().unwrap().contains(detail), "no {detail:?} in {body}");
        body
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// An answer that is still being sent.
pub struct Open(Body);

impl Open {
    /// The next piece; `None`: that was all.
    pub async fn piece(&mut self) -> Option<String> {
        let frame = self.0.frame().await?.unwrap();
        Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
    }
}

impl Scene {
    pub async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    /// A scene with these limits and the devices `box` and `other`.
    pub async fn with(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(START);
        let time: Arc<dyn Clock> = clock.clone();
        let config = Config {
            data_dir: folder.path().into(),
            ..Config::default()
        };
        let (opened, limits_of_store) = (time.clone(), limits.clone());
        let (store, arrivals) = tokio::task::spawn_blocking(move || EmbeddedStore::open(config, limits_of_store, opened).unwrap())
            .await
            .unwrap();
        let parts: Arc<dyn Store> = store.clone();
        let metrics = prometheus::Registry::new();
        let draining = Arc::new(AtomicBool::new(false));
        let (replaced, cancelled) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let count = |counter: &Arc<AtomicU64>| -> Arc<dyn Fn(u64) + Send + Sync> {
            let counter = counter.clone();
            Arc::new(move |by| {
                counter.fetch_add(by, Ordering::Relaxed);
            })
        };
        let written: Arc<Mutex<HashSet<EventId>>> = Arc::default();
        let ended: Arc<Mutex<Vec<(DeviceId, Epoch)>>> = Arc::default();
        let (is_written, ends) = (written.clone(), ended.clone());
        let registry_config = registry::Config {
            scram_iterations: 4_096,
            ..registry::Config::default()
        };
        let uses = KeyUses::default();
        let rates = ingress::Rates::new(&ingress::RatesConfig::default(), Arc::new(|| 1));
        let of_callers = {
            let rates = rates.clone();
            registry::CallersLimits(Arc::new(move |caller| rates.left(caller, std::time::Instant::now())))
        };
        let router = Router::new()
            .merge(ingress::routes(IngressState::new(
                parts.clone(),
                time.clone(),
                limits.clone(),
                ingress::Config::default(),
                IngressMetrics::register(&metrics).unwrap(),
                Arc::new({
                    let replaced = replaced.clone();
                    move |_, _, by| {
                        replaced.fetch_add(by, Ordering::Relaxed);
                    }
                }),
                ingress::Throttle {
                    draining: draining.clone(),
                    rates,
                    shed: http::Shed::new(&http::ShedConfig::default(), 1_024, &metrics).unwrap(),
                },
            )))
            .merge(receipts::routes(ReceiptsState::new(
                parts.clone(),
                time.clone(),
                limits.clone(),
                Arc::new(move |_, events| {
                    let written = is_written.lock().unwrap();
                    let dispatched = events.into_iter().filter(|event| written.contains(event)).collect();
                    Box::pin(std::future::ready(dispatched))
                }),
                count(&cancelled),
            )))
            .merge(
                registry::routes(RegistryState::new(
                    parts.clone(),
                    time,
                    limits,
                    registry_config,
                    Arc::new(move |_, device, epoch| ends.lock().unwrap().push((device.clone(), epoch))),
                    uses.clone(),
                ))
                .layer(Extension(of_callers)),
            );
        let access = access(parts, clock.clone(), uses.clone()).audited(Arc::new(Log(store.clone(), clock.clone())));
        let router = http::mount(router, access, HttpMetrics::register(&metrics).unwrap());
        let scene = Self {
            store,
            clock,
            draining,
            metrics,
            replaced,
            cancelled,
            written,
            ended,
            uses,
            router,
            _arrivals: arrivals,
            _folder: folder,
        };
        for device in ["box", "other"] {
            scene.send("PUT", &format!("/v1/devices/{device}"), &json!({})).await.expect(201);
        }
        scene
    }

    /// One request with the key of that scope (`none`: without a key), or a made key.
    pub async fn request(&self, key: &str, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let (head, body) = self.respond(key, method, path, headers, body.into()).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    async fn respond(&self, key: &str, method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        if key != "none" {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap()
    }

    /// A POST whose answer is read piece by piece.
    pub async fn open(&self, path: &str, headers: &[(&str, &str)], body: Body) -> Open {
        let response = self.respond("push", "POST", path, headers, body).await;
        assert_eq!(response.status(), 200);
        Open(response.into_body())
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request("operator", "GET", path, &[], "").await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.request("operator", "DELETE", path, &[], "").await
    }

    pub async fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.request("operator", method, path, &headers, body.to_string()).await
    }

    pub async fn post(&self, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        self.request("push", "POST", "/v1/events", headers, body).await
    }

    pub async fn native(&self, event: &Value) -> Answer {
        self.post(&[("content-type", "application/json")], event.to_string()).await
    }

    /// Posts a native event for `box`; gives its id.
    pub async fn push(&self, fields: Value) -> String {
        let mut event = json!({"target": {"device": "box"}, "type": "t"});
        event.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let answer = self.native(&event).await.expect(202);
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// What waits for a device.
    pub async fn waiting(&self, device: &str) -> Vec<Arc<QueuedEvent>> {
        use unpoll::store::Mailbox;
        self.store.pending(&key(device), Cursor::default(), 1000).await.unwrap().events
    }

    /// The text of the only event that waits for `box`.
    pub async fn only(&self) -> String {
        let waiting = self.waiting("box").await;
        assert_eq!(waiting.len(), 1);
        waiting[0].event.json.0.to_string()
    }

    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let families = self.metrics.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let metric = family
            .get_metric()
            .iter()
            .find(|metric| metric.get_label().iter().any(|pair| pair.value() == label));
        metric.unwrap_or_else(|| panic!("no {label} in {name}")).get_counter().get_value()
    }
}

pub fn key(device: &str) -> DeviceKey {
    DeviceKey {
        tenant: TenantId(0),
        device: device.parse().unwrap(),
    }
}

/// The words of the scopes are keys; the rest is asked of the store.
fn access(store: Arc<dyn Store>, clock: Arc<dyn Clock>, uses: KeyUses) -> Access {
    let scopes = [Scope::Push, Scope::Read, Scope::Admin, Scope::Operator];
    let known = scopes.map(|scope| (http::key_hash(scope.as_str()), scope));
    Access::new(Arc::new(move |key| {
        let hash = http::key_hash(key);
        let fixed = known.iter().find(|(known, _)| *known == hash).map(|(_, scope)| Caller {
            tenant: TenantId(0),
            domain: "localhost".into(),
            key_id: Some(scope.as_str().into()),
            key_name: scope.as_str().into(),
            scope: *scope,
            also_push: false,
            limits: CallerLimits::default(),
        });
        let found = fixed.map_or_else(|| registry::caller(&*store, &hash, clock.now()), Ok);
        Found::Known(found.inspect(|caller| uses.note(caller, clock.now())))
    }))
}

/// The audit log, in the store.
struct Log(Arc<EmbeddedStore>, Arc<ManualClock>);

#[async_trait::async_trait]
impl Audit for Log {
    fn now(&self) -> Timestamp {
        self.1.now()
    }

    async fn begin(&self, tenant: TenantId, entry: &AuditEntry) -> Result<u64, Refusal> {
        self.0.begin_audit(tenant, entry).await.map_err(StoreError::refusal_of_all)
    }

    async fn end(&self, tenant: TenantId, position: u64, begun: &AuditEntry, ended: &AuditEntry) -> Result<(), Refusal> {
        self.0
            .end_audit(tenant, position, begun, ended)
            .await
            .map_err(StoreError::refusal_of_all)
    }
}
