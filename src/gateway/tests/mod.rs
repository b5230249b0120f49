//! The gateway over real sockets, with the real stream, a store in memory and a client that reads bytes.

mod admission;
mod conversations;
mod device;
mod life;
mod sessions;
mod store;
mod transport;
mod web_client;
mod websocket;
mod wire;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, routing::get};
use tokio::{net::TcpListener, sync::mpsc};

use super::{Balanced, Config, DeviceTokens, Gateway, GatewayMetrics, Link, Offer, Parts};
use crate::{
    certificate::Identity,
    crew::Crew,
    domain::{
        Account, Clock, Data, DeviceId, DeviceSignal, Direction, Event, EventId, Generation, Lane, Located, Meter, Overhead, Polling,
        Queue, Require, Seq, SystemClock, TenantId, Timestamp, Urgency,
    },
    http::{self, HttpMetrics},
    presence::{Presence, Rules},
    proxy::Balancers,
    store::{Arrival, DeviceKey, QueuedEvent},
    tls,
};
use device::Device;
use store::MemoryStore;

const TENANT: TenantId = TenantId(0);

/// One event at a time.
trait OfferOne {
    fn offer(&self, event: &Arc<QueuedEvent>, now: Timestamp) -> Offer {
        self.offer_after(None, event, now)
    }

    fn offer_after(&self, after: Option<u64>, event: &Arc<QueuedEvent>, now: Timestamp) -> Offer;
}

impl OfferOne for dyn Link + '_ {
    fn offer_after(&self, after: Option<u64>, event: &Arc<QueuedEvent>, now: Timestamp) -> Offer {
        let arrival = Arrival {
            epoch: self.epoch(),
            event: Arc::clone(event),
            after,
        };
        let mut offers = Vec::new();
        self.offer_all(&[arrival], now, &mut offers);
        offers.pop().unwrap()
    }
}

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(10);

struct NoMeter;

impl Meter for NoMeter {
    fn open(&self, _: TenantId, _: &DeviceId, interval: Option<u32>, polling: Polling, keepalive: Duration, now: Timestamp) -> Account {
        Account {
            device: 0,
            poll_interval_secs: interval.unwrap_or(900),
            polling,
            phase_ms: 0,
            opened_at: now,
            proven_until: now,
            last_tick: 0,
            vouches_for: keepalive,
        }
    }
    fn proof(&self, account: &mut Account, now: Timestamp) {
        account.proven_until = account.proven_until.max(now);
    }
    fn delivered(&self, _: &mut Account, _: Urgency, _: Timestamp, _: Timestamp) {}
    fn overhead(&self, _: Overhead, _: Direction, _: u64, _: u64) {}
    fn close(&self, _: &mut Account, _: Timestamp) {}
}

/// A gateway that runs, with what is around it.
struct Service {
    gateway: Gateway,
    store: Arc<MemoryStore>,
    presence: Presence,
    signals: mpsc::Receiver<DeviceSignal>,
    links: Crew,
    roots: Arc<rustls::RootCertStore>,
    /// The door for WebSocket, without TLS and with it.
    http: SocketAddr,
    https: SocketAddr,
    registry: prometheus::Registry,
}

impl Service {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// The HTTP side of presence.
    fn presence_routes(&self) -> Router {
        let parts = crate::presence::Parts {
            store: self.store.clone(),
            limits: crate::domain::Limits::default(),
            metrics: crate::presence::PresenceMetrics::register(&prometheus::Registry::new()).unwrap(),
            stop: tokio_util::sync::CancellationToken::new(),
        };
        crate::presence::Routes::new(crate::presence::Config::default(), self.presence.clone(), parts).router()
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::with_channel(1024, change).await
    }

    async fn with_channel(signals_max: usize, change: impl FnOnce(&mut Config)) -> Self {
        Self::with_all(signals_max, http::Config::default(), change).await
    }

    async fn with_http(limits: http::Config, change: impl FnOnce(&mut Config)) -> Self {
        Self::with_all(1024, limits, change).await
    }

    async fn with_all(signals_max: usize, limits: http::Config, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            listen_tls: "127.0.0.1:0".parse().unwrap(),
            ..Config::default()
        };
        change(&mut config);
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = key.cert.der().clone();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let private = rustls::pki_types::PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into());
        let identity = Identity {
            chain: vec![certificate],
            key: private,
        };
        let tls = tls::Current::new(tls::Served::new(&identity, None).unwrap());
        let store = Arc::new(MemoryStore::default());
        let clock = SystemClock::shared();
        let node: Arc<str> = "n1".into();
        let rules = Rules {
            keepalive: config.keepalive(),
            resume_within: config.resume_within(),
        };
        let presence = Presence::new(store.clone(), clock.clone(), node.clone(), rules, None);
        let registry = prometheus::Registry::new();
        let (sender, signals) = mpsc::channel(signals_max);
        let parts = Parts {
            store: store.clone(),
            presence: presence.clone(),
            signals: sender,
            meter: Arc::new(NoMeter),
            clock,
            metrics: GatewayMetrics::register(&registry, &node).unwrap(),
            tokens: DeviceTokens::default(),
            balancers: Balanced::default(),
            node,
            hosts: Arc::new(|host| (host == "localhost").then_some(TENANT)),
        };
        let gateway = Gateway::bind(config, tls.clone(), parts).await.unwrap();
        let links = Crew::default();
        gateway.start(&links);
        let routes = http::mount_beside(
            Router::new().route("/nothing", get(async || "")),
            gateway.routes(),
            http::Access::of_keys(|_| None),
            HttpMetrics::register(&prometheus::Registry::new()).unwrap(),
        );
        let web: http::Tls = Arc::new(move || tls.get().web.clone());
        let mut doors = Vec::new();
        for tls in [None, Some(web)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            doors.push(listener.local_addr().unwrap());
            http::serve(listener, tls, Balancers::default(), routes.clone(), limits.clone(), &links);
        }
        Self {
            gateway,
            store,
            presence,
            signals,
            links,
            roots: Arc::new(roots),
            http: doors[0],
            https: doors[1],
            registry,
        }
    }

    /// The next signal.
    async fn signal(&mut self) -> DeviceSignal {
        tokio::time::timeout(SOON, self.signals.recv()).await.unwrap().unwrap()
    }

    fn link(&self, device: &str) -> Option<Arc<dyn Link>> {
        self.gateway.links().link(TENANT, &id(device))
    }

    async fn presence(&self, device: &str) -> serde_json::Value {
        let found = self.presence.of(&key(device)).await.unwrap();
        let crate::presence::Found::Device(presence) = found else {
            panic!("{found:?}");
        };
        serde_json::to_value(&presence).unwrap()
    }

    async fn state(&self, device: &str) -> String {
        self.presence(device).await["state"].as_str().unwrap().to_owned()
    }

    /// Waits until `fact` holds.
    async fn until(&self, what: &str, fact: impl AsyncFn(&Self) -> bool) {
        for _ in 0..1000 {
            if fact(self).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never came: {what}");
    }

    fn metric(&self, line: &str) -> Option<String> {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        text.lines()
            .find_map(|found| found.strip_prefix(line).map(|value| value.trim().to_owned()))
    }

    /// How devices come in that say nothing of it.
    fn transport(&self) -> &'static str {
        if websocket::over_websocket() { "websocket" } else { "xmpps" }
    }

    /// Logs in over direct TLS, with stream management and presence, up to `Ready`; the dispatcher has caught up.
    async fn online(&mut self, device: &str) -> Device {
        let mut connected = Device::tls(self).await;
        connected.login(device).await;
        connected.bind().await;
        connected.enable().await;
        connected.present().await;
        self.ready(device).await;
        connected
    }

    /// Waits for `Ready` and catches up with nothing.
    async fn ready(&mut self, device: &str) {
        loop {
            match self.signal().await {
                DeviceSignal::Ready { device: ready, .. } if ready == id(device) => break,
                other => assert!(!matches!(other, DeviceSignal::Ready { .. }), "{other:?}"),
            }
        }
        let link = self.link(device).unwrap();
        let behind = link.behind().unwrap();
        assert!(link.caught_up(behind.refused));
    }
}

fn id(device: &str) -> DeviceId {
    device.parse().unwrap()
}

fn key(device: &str) -> DeviceKey {
    DeviceKey {
        tenant: TENANT,
        device: id(device),
    }
}

/// The event number `number` for a device.
fn event(device: &str, number: u64, json: &str) -> Arc<QueuedEvent> {
    let mut bytes = [7; 20];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    Arc::new(QueuedEvent {
        id: EventId(bytes),
        located: Located {
            tenant: TENANT,
            bucket: 1,
            ordinal: 1,
            queue: Some(Queue::Rest),
            number,
        },
        lane: Lane::Queue(Urgency::Normal, Generation(1)),
        seq: Seq(number),
        attempt: 1,
        event: Event {
            tenant: TENANT,
            device: id(device),
            accepted_at: now(),
            deliver_at: None,
            ttl: Duration::from_secs(3600),
            urgency: Urgency::Normal,
            collapse_key: None,
            require: Require::Acknowledged,
            json: Data(json.into()),
        },
    })
}

fn now() -> Timestamp {
    SystemClock::default().now()
}
