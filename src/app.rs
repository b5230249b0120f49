//! Composition root: bind, run, drain. It knows every part; no part knows it.

mod audit;
mod bootstrap;
mod callers;
mod documents;
mod engine;
mod error;
mod node;
mod tickets;

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Extension, Router};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use documents::document;
use engine::Engine;
pub use error::StartError;
use tickets::Tickets;

use crate::{
    admin::{self, AdminState, DayReport, Live, StoreGauges},
    cluster::{self, Cluster, ClusterMetrics},
    config::Config,
    crew::Crew,
    dispatch::{DispatchMetrics, Dispatcher, Inputs},
    domain::{Clock, CorrectedClock, DeliveryState, DeviceId, Epoch, Reason, SystemClock, TenantId, Timestamp},
    gateway::{self, Gateway, GatewayMetrics, poll},
    http::{self, Access, HttpMetrics, Shed},
    ingress, ledger,
    ledger::Ledger,
    presence::{self, Presence, Rules},
    proxy::{self, Balancers, ProxyMetrics},
    receipts, registry,
    store::{Store, redis::RedisStore},
    telemetry::Metrics,
    tls, tokens, transfer,
    webhooks::{self, Webhooks},
};

/// How long the last acknowledgements may take at a stop, out of the whole drain.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The whole service, bound and not yet serving.
pub struct App {
    engine: Engine,
    gateway: Gateway,
    dispatcher: Dispatcher,
    inputs: Inputs,
    others: Option<Joined>,
    presence: presence::Routes,
    receipt_stream: receipts::Stream,
    webhooks: Webhooks,
    ledger: Arc<Ledger>,
    metrics: Metrics,
    keeper: tls::Keeper,
    key_uses: registry::KeyUses,
    tickets: Option<Tickets>,
    token_keys: [tokens::Keeper; 2],
    doors: Vec<Door>,
    admin: Door,
    page: Live,
    leaving: Arc<AtomicBool>,
    draining: Arc<AtomicBool>,
    end_waits: CancellationToken,
    drain_notice: Duration,
    drain_within: Duration,
    ready: Value,
}

/// The way to the other nodes, not yet started.
struct Joined {
    store: Arc<RedisStore>,
    cluster: Cluster,
    tasks: cluster::Tasks,
    indirect: mpsc::Receiver<cluster::Indirect>,
    published: mpsc::Receiver<Vec<u8>>,
}

/// One HTTP listener and what it serves.
struct Door {
    listener: TcpListener,
    balancers: Balancers,
    tls: Option<http::Tls>,
    router: Router,
    shedding: Option<http::Shedding>,
    config: http::Config,
}

impl Door {
    async fn bind(section: &'static str, address: SocketAddr, config: http::Config) -> Result<Self, StartError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| StartError::Listen { section, address, source })?;
        Ok(Self {
            listener,
            balancers: Balancers::default(),
            tls: None,
            router: Router::new(),
            shedding: None,
            config,
        })
    }

    fn address(&self) -> Result<SocketAddr, StartError> {
        self.listener.local_addr().map_err(|source| StartError::Listen {
            section: "http",
            address: SocketAddr::from(([0; 4], 0)),
            source,
        })
    }

    fn open(self, crew: &Crew) {
        http::serve_shedding(
            self.listener,
            self.tls,
            self.balancers,
            self.router,
            self.config,
            self.shedding,
            crew,
        );
    }
}

impl App {
    /// Opens the store and binds every listener. On return all addresses are known and nothing serves yet.
    ///
    /// # Errors
    /// Each says which setting, file or address is at fault.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let corrected = CorrectedClock::over(SystemClock::shared());
        let clock: Arc<dyn Clock> = corrected.clone();
        let metrics = Metrics::new()?;
        let prometheus = metrics.registry();
        let bootstrap::Opened { engine, arrivals, others } = bootstrap::store(&config, corrected, prometheus).await?;
        let (parts, node) = (engine.store(), engine.node());
        bootstrap::check_domain(&config, &*parts)?;
        bootstrap::first_key(&config, &*parts, clock.now()).await?;

        let (token_keys, device_tokens) = bootstrap::tokens(&config, parts.clone(), prometheus)?;
        let (jwt_keys, backend_tokens) = tokens::Keeper::of_backends(&config.jwt, prometheus)?;
        let key_uses = registry::KeyUses::default();
        let callers = callers::callers(parts.clone(), backend_tokens, clock.clone(), key_uses.clone());
        let tickets = engine.tickets(clock.clone()).await?;
        let secrets = tickets.as_ref().map(Tickets::secrets);
        let keeper = bootstrap::tls(&config, parts.clone(), clock.clone(), secrets, prometheus)?;
        let proxy_metrics = ProxyMetrics::register(prometheus)?;
        let dispatch_metrics = DispatchMetrics::register(prometheus)?;
        let ledger = Ledger::new(
            config.ledger.clone(),
            parts.clone(),
            clock.clone(),
            prometheus,
            node.to_string(),
            cohort_devices(parts.clone()),
        )?;
        let rules = Rules {
            keepalive: config.xmpp.keepalive(),
            resume_within: config.xmpp.resume_within(),
        };
        let nodes = others.is_some().then(node::Others::default);
        let elsewhere = nodes.clone().map(|nodes| Arc::new(nodes) as Arc<dyn presence::Elsewhere>);
        let presence = Presence::new(parts.clone(), clock.clone(), node.clone(), rules, elsewhere);
        let (signals, from_devices) = mpsc::channel(config.dispatch.signals_max.max(1));
        let gateway = Gateway::bind(
            config.xmpp.clone(),
            keeper.current(),
            gateway::Parts {
                store: parts.clone(),
                presence: presence.clone(),
                signals: signals.clone(),
                meter: ledger.clone(),
                clock: clock.clone(),
                metrics: GatewayMetrics::register(prometheus, &node)?,
                tokens: device_tokens.clone(),
                balancers: gateway::Balanced {
                    xmpp: Balancers::new(&config.xmpp.proxy_from, proxy::Listener::Xmpp, &proxy_metrics)?,
                    xmpps: Balancers::new(&config.xmpp.proxy_from, proxy::Listener::Xmpps, &proxy_metrics)?,
                },
                node: node.clone(),
                hosts: hosts(parts.clone()),
            },
        )
        .await?;
        let dispatcher = Dispatcher::new(
            config.dispatch.clone(),
            parts.clone(),
            gateway.links(),
            clock.clone(),
            dispatch_metrics.clone(),
        );

        let (leaving, draining) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let http_metrics = HttpMetrics::register(prometheus)?;
        let shed = Shed::new(&config.shed, config.ingress.in_flight_max, prometheus)?;
        let live_nodes = bootstrap::live_nodes(others.as_ref());
        let written = node::dispatched(gateway.links(), parts.clone(), nodes.clone());
        let ended = ends_session(&gateway);
        let others = match others.zip(nodes) {
            Some((others, nodes)) => {
                let here = node::Here {
                    links: gateway.links(),
                    presence: presence.clone(),
                    store: others.store.clone(),
                    arrived: others.arrived,
                };
                let (indirect, to_publish) = mpsc::channel(config.redis.hints_max.max(1));
                let inputs = cluster::Inputs {
                    name: node.clone(),
                    peers: others.peers,
                    hints: others.hints,
                    indirect,
                    node: Arc::new(here),
                };
                let (cluster, tasks) = others.bound.join(inputs, ClusterMetrics::register(prometheus)?)?;
                nodes.joined(cluster.clone());
                Some(Joined {
                    store: others.store,
                    cluster,
                    tasks,
                    indirect: to_publish,
                    published: others.published,
                })
            }
            None => None,
        };
        let end_waits = CancellationToken::new();
        let presence = presence::Routes::new(
            config.presence.clone(),
            presence,
            presence::Parts {
                store: parts.clone(),
                limits: config.limits.clone(),
                metrics: presence::PresenceMetrics::register(prometheus)?,
                stop: end_waits.clone(),
            },
        );
        let receipt_stream = receipts::Stream::new(
            config.receipts.clone(),
            parts.clone(),
            receipts::ReceiptMetrics::register(prometheus)?,
            end_waits.clone(),
        );
        let webhooks = Webhooks::new(
            config.webhooks.clone(),
            webhooks::Parts {
                store: engine.webhooks(),
                clock: clock.clone(),
                limits: config.limits.clone(),
                metrics: webhooks::WebhookMetrics::register(prometheus)?,
                node: node.clone(),
            },
        )?;
        let rates = ingress::Rates::new(&config.rates, live_nodes);
        let routes = Router::new()
            .merge(ingress::routes(ingress::IngressState::new(
                parts.clone(),
                clock.clone(),
                config.limits.clone(),
                config.ingress.clone(),
                ingress::IngressMetrics::register(prometheus)?,
                counts_at_acceptance(&dispatch_metrics),
                ingress::Throttle {
                    draining: draining.clone(),
                    rates: rates.clone(),
                    shed: shed.clone(),
                },
            )))
            .merge(receipts::routes(receipts::ReceiptsState::new(
                parts.clone(),
                clock.clone(),
                config.limits.clone(),
                written,
                counts(&dispatch_metrics, DeliveryState::Cancelled),
            )))
            .merge(
                registry::routes(registry::RegistryState::new(
                    parts.clone(),
                    clock.clone(),
                    config.limits.clone(),
                    config.registry.clone(),
                    ended,
                    key_uses.clone(),
                ))
                .layer(Extension(config.xmpp.limits()))
                .layer(Extension(callers_limits(rates)))
                .layer(Extension(registry::Certified(Arc::new(keeper.covers())))),
            )
            .merge(transfer::routes(transfer::TransferState::new(engine.transfer())))
            .merge(presence.router())
            .merge(receipt_stream.router())
            .merge(webhooks.router())
            .merge(ledger::routes(ledger.clone()));
        let door = poll::Door::new(
            config.poll.clone(),
            poll::Parts {
                store: parts.clone(),
                links: gateway.links(),
                signals,
                meter: ledger.clone(),
                clock: clock.clone(),
                metrics: poll::PollMetrics::register(prometheus)?,
                tokens: device_tokens,
                hosts: hosts(parts.clone()),
                interval_secs: config.ledger.poll_interval_secs.max(1),
                ended: counts_ended(&dispatch_metrics),
                stop: end_waits.clone(),
            },
        )?;
        let routes = http::mount_beside(
            routes,
            poll::routes(door)
                .merge(gateway.routes())
                .merge(http::openapi::routes(&document(&config))),
            Access::new(callers.clone()).audited(Arc::new(audit::StoredAudit {
                store: parts.clone(),
                clock: clock.clone(),
            })),
            http_metrics.clone(),
        );
        let shedding = Some(http::Shedding::new(shed.clone(), http_metrics.clone()));

        let mut http_door = Door::bind("http", config.http.listen, config.http.clone()).await?;
        http_door.router = routes.clone();
        http_door.shedding = shedding.clone();
        http_door.balancers = Balancers::new(&config.http.proxy_from, proxy::Listener::Http, &proxy_metrics)?;
        let mut https_door = Door::bind("https", config.https.listen, config.http.clone()).await?;
        https_door.router = routes;
        https_door.shedding = shedding;
        https_door.balancers = Balancers::new(&config.http.proxy_from, proxy::Listener::Https, &proxy_metrics)?;
        let served = keeper.current();
        https_door.tls = Some(Arc::new(move || served.get().web.clone()));

        let gauges = parts.clone();
        let missed = parts.clone();
        StoreGauges::register(
            prometheus,
            Arc::new(move || gauges.stats()),
            Arc::new(move || missed.missed_arrivals()),
            clock.clone(),
        )?;
        let mut admin = Door::bind("admin", config.admin.listen, config.http.clone()).await?;
        let state = AdminState {
            metrics: metrics.clone(),
            readiness: engine.readiness(leaving.clone()),
            domain: config.domain.as_str().into(),
            node: node.clone(),
            clock: clock.clone(),
            report: day_report(ledger.clone(), clock.clone()),
        };
        let page = Live::new(state.clone());
        let (routes, probes) = (admin::routes(state.clone(), &page), admin::probes(state));
        admin.router = if config.admin.listen.ip().is_loopback() {
            routes.merge(probes)
        } else {
            http::mount_for_browsers(routes, probes, Access::new(callers::admins(callers)), http_metrics)
        };

        let devices = gateway.addresses();
        let ready = json!({
            "ready": true,
            "http": http_door.address()?.to_string(),
            "https": https_door.address()?.to_string(),
            "admin": admin.address()?.to_string(),
            "xmpp": devices.xmpp.to_string(),
            "xmpps": devices.xmpps.to_string(),
            "domain": config.domain,
            "node": &*node,
        });
        bootstrap::write_ready(&config, &ready)?;
        Ok(Self {
            engine,
            gateway,
            dispatcher,
            inputs: Inputs {
                arrivals,
                signals: from_devices,
            },
            others,
            presence,
            receipt_stream,
            webhooks,
            ledger,
            metrics,
            keeper,
            key_uses,
            tickets,
            token_keys: [token_keys, jwt_keys],
            doors: vec![http_door, https_door],
            admin,
            page,
            leaving,
            draining,
            end_waits,
            drain_notice: Duration::from_secs(config.drain_notice_secs),
            drain_within: Duration::from_secs(config.drain_secs.max(1)),
            ready,
        })
    }

    /// All metrics of the service.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The ready line: where it serves.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// Has the files of the certificate looked at, as every minute, but now.
    pub fn reload(&self) -> tls::Reload {
        self.keeper.reload()
    }

    /// Runs until `shutdown`, or until a vital task ends; then drains in the order in which data flows.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let (watch, intake, delivery, links, books) = (Crew::default(), Crew::default(), Crew::default(), Crew::default(), Crew::default());
        self.ledger.start(&books);
        self.dispatcher.start(&delivery, self.inputs);
        self.presence.start(&watch);
        self.receipt_stream.start(&watch);
        self.webhooks.start(&watch);
        if let Some(others) = self.others {
            node::carry(&watch, &others.store, &others.cluster, others.indirect, others.published);
            others.tasks.start(&watch);
        }
        self.gateway.start(&links);
        if let Some(shedding) = self.doors.iter().find_map(|door| door.shedding.as_ref()) {
            shedding.watch(&intake);
        }
        self.doors.into_iter().for_each(|door| door.open(&intake));
        self.admin.open(&watch);
        self.page.start(&watch);
        watch.spawn(self.keeper.run(watch.stop_token()));
        watch.spawn(self.key_uses.run(self.engine.store(), watch.stop_token()));
        if let Some(tickets) = self.tickets {
            watch.spawn(tickets.run(watch.stop_token()));
        }
        for keeper in self.token_keys {
            watch.spawn(keeper.run(watch.stop_token()));
        }
        tokio::select! {
            () = shutdown => {
                self.leaving.store(true, Ordering::Relaxed);
                if !self.drain_notice.is_zero() {
                    info!("stopping in {} s: until then balancers may see that this node is not ready", self.drain_notice.as_secs());
                    tokio::time::sleep(self.drain_notice).await;
                }
                info!("stopping: no new events, then goodbye to the devices");
            }
            () = self.engine.lost_its_name() => warn!("stopping: another node has the name of this one"),
            () = intake.stopped() => warn!("stopping: a listener of HTTP ended"),
            () = delivery.stopped() => warn!("stopping: a task of the dispatcher ended"),
            () = links.stopped() => warn!("stopping: a task of the gateway ended"),
            () = books.stopped() => warn!("stopping: a task of the ledger ended"),
        }

        self.leaving.store(true, Ordering::Relaxed);
        self.draining.store(true, Ordering::Relaxed);
        self.end_waits.cancel();
        let by = Instant::now() + self.drain_within; // one budget, to match the orchestrator's
        // A client that keeps a connection open without a request does not hold up the stop.
        let mut late = intake.dismiss(by.min(Instant::now() + LAST_WORDS)).await; // 1. no new events; those accepted are in the store
        self.dispatcher.pause(); // 2. nothing more is sent, acknowledgements still settle
        late += links.dismiss(by).await; // 3. devices hear <system-shutdown/>, last acknowledgements are read
        late += delivery.dismiss(by).await; // 4. all that was acknowledged is settled; the rest waits in the store
        late += books.dismiss(by).await;
        late += watch.dismiss(by.min(Instant::now() + LAST_WORDS)).await;
        if late > 0 {
            warn!("{late} tasks did not end in time and are dropped");
        }
        self.engine.close().await;
    }
}

/// Which tenant an XMPP domain belongs to.
fn hosts(store: Arc<dyn Store>) -> gateway::Hosts {
    Arc::new(move |domain| store.tenant_at(domain).map(|tenant| TenantId(tenant.id)))
}

/// What limits callers, and what is left of it now.
fn callers_limits(rates: ingress::Rates) -> registry::CallersLimits {
    registry::CallersLimits(Arc::new(move |caller| rates.left(caller, std::time::Instant::now())))
}

/// How many devices each cohort has.
fn cohort_devices(store: Arc<dyn Store>) -> ledger::CohortDevices {
    Arc::new(move || {
        let stats = store.stats();
        let moved = stats.devices_polling + stats.devices_control;
        [stats.devices.saturating_sub(moved), stats.devices_polling, stats.devices_control]
    })
}

/// Counts deliveries that end in that state elsewhere than at a device.
fn counts(metrics: &DispatchMetrics, state: DeliveryState) -> Arc<dyn Fn(u64) + Send + Sync> {
    let metrics = metrics.clone();
    Arc::new(move |by| metrics.count(state.as_str(), "none", by))
}

/// Counts deliveries that the acceptance of an event ended.
fn counts_at_acceptance(metrics: &DispatchMetrics) -> ingress::CountEnded {
    let metrics = metrics.clone();
    Arc::new(move |state, reason, by| metrics.count(state.as_str(), reason.map_or("none", Reason::as_str), by))
}

/// Counts deliveries that a device ended by HTTP, as those by XMPP.
fn counts_ended(metrics: &DispatchMetrics) -> poll::CountEnded {
    let metrics = metrics.clone();
    Arc::new(move |outcome, urgency, waited| metrics.ended(outcome, urgency, waited))
}

/// Ends the session of a removed device.
fn ends_session(gateway: &Gateway) -> registry::EndSession {
    let links = gateway.links();
    Arc::new(move |tenant: TenantId, device: &DeviceId, epoch: Epoch| links.dismiss(tenant, device, epoch))
}

/// The report of the last 24 hours, for the page.
fn day_report(ledger: Arc<Ledger>, clock: Arc<dyn Clock>) -> DayReport {
    Arc::new(move || {
        let (ledger, to) = (ledger.clone(), clock.now());
        let from = Timestamp(to.0.saturating_sub(24 * 3_600_000));
        Box::pin(async move {
            let report = ledger.report(from, to).await.map_err(|error| error.to_string());
            let report = report.and_then(|report| serde_json::to_value(report).map_err(|error| error.to_string()));
            report.inspect_err(|error| warn!("the page's report cannot be made: {error}")).ok()
        })
    })
}
