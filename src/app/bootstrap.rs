//! What a start needs before anything serves: the store, the first key, the certificate.

use std::{fs, io, io::Write, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc, time::Duration};

use prometheus::Registry;
use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tracing::info;

use super::{StartError, engine::Engine};
use crate::{
    cluster,
    config::Config,
    domain::{Clock, CorrectedClock, DeviceId, Scope, TenantId, Timestamp},
    gateway, http, ingress, registry,
    store::{
        Addressed, ApiKey, Arrival, Peer, Store, StoreError,
        embedded::{self, EmbeddedStore},
        redis::{Door, RedisMetrics, RedisStore},
    },
    tls, tokens,
};

/// The file in the data directory with the first key.
const KEY_FILE: &str = "admin.key";
/// How long the first key is tried to be stored, where no replica takes it at once, and the pause between.
const FIRST_KEY_PATIENCE: Duration = Duration::from_secs(10);
const FIRST_KEY_PAUSE: Duration = Duration::from_millis(200);
/// The file in the data directory with the ready line of the running service.
const READY_FILE: &str = "ready.json";

/// What an engine that was opened hands out.
pub(super) struct Opened {
    pub(super) engine: Engine,
    pub(super) arrivals: mpsc::Receiver<Arrival>,
    /// With other nodes: how they are told.
    pub(super) others: Option<Others>,
}

/// The way to other nodes.
pub(super) struct Others {
    pub(super) store: Arc<RedisStore>,
    pub(super) bound: cluster::Bound,
    pub(super) arrived: mpsc::Sender<Arrival>,
    pub(super) hints: mpsc::Receiver<Addressed>,
    pub(super) peers: watch::Receiver<Arc<[Peer]>>,
    pub(super) published: mpsc::Receiver<Vec<u8>>,
}

pub(super) async fn store(config: &Config, clock: Arc<CorrectedClock>, registry: &Registry) -> Result<Opened, StartError> {
    if config.redis.is_used() {
        let metrics = RedisMetrics::register(registry)?;
        let bound = cluster::Bound::bind(config.cluster.clone()).await?;
        let door = Door {
            address: bound.address(),
            fingerprint: bound.fingerprint(),
        };
        let opened = RedisStore::open(
            config.redis.clone(),
            config.limits.clone(),
            clock,
            &config.domain,
            Some(door),
            metrics,
        )
        .await?;
        fs::create_dir_all(&config.data_dir).map_err(|source| StartError::File {
            path: config.data_dir.clone(),
            source,
        })?;
        return Ok(Opened {
            engine: Engine::Redis(opened.store.clone()),
            arrivals: opened.arrivals,
            others: Some(Others {
                store: opened.store,
                bound,
                arrived: opened.arrived,
                hints: opened.hints,
                peers: opened.peers,
                published: opened.published,
            }),
        });
    }
    let (dir, limits) = (config.data_dir.clone(), config.limits.clone());
    let settings = embedded::Config {
        data_dir: dir.clone(),
        default_domain: config.domain.clone(),
        ..config.store.clone()
    };
    match tokio::task::spawn_blocking(move || EmbeddedStore::open(settings, limits, clock)).await {
        Ok(Ok((store, arrivals))) => Ok(Opened {
            engine: Engine::Embedded(store),
            arrivals,
            others: None,
        }),
        Ok(Err(source)) => Err(StartError::Store { dir, source }),
        Err(_) => Err(StoreError::Unavailable("opening it failed".into()).into()),
    }
}

/// Checks that the domain of the default tenant, a setting, is not that of another one.
pub(super) fn check_domain(config: &Config, store: &dyn Store) -> Result<(), StartError> {
    let mut others = store
        .tenants()
        .into_iter()
        .filter(|tenant| TenantId(tenant.id) != TenantId::default());
    match others.find(|tenant| tenant.domain == config.domain) {
        Some(tenant) => Err(StartError::Domain {
            domain: config.domain.clone(),
            tenant: tenant.name.clone(),
        }),
        None => Ok(()),
    }
}

/// Makes the first key when there is none, and writes it where only its owner reads it: of several nodes, the first one does. The
/// file comes first: a key that nobody knows would lock everybody out.
pub(super) async fn first_key(config: &Config, store: &dyn Store, now: Timestamp) -> Result<(), StartError> {
    let default_tenant = TenantId::default();
    if !store.keys(default_tenant).await?.is_empty() {
        return Ok(());
    }
    let key = registry::new_key()?;
    let path = config.data_dir.join(KEY_FILE);
    write(&path, format!("{key}\n").as_bytes())?;
    let id = registry::new_key_id()?;
    let row = ApiKey {
        id: id.clone(),
        name: "admin".into(),
        tenant: default_tenant.0,
        scope: Scope::Operator,
        created_at: now,
        limits: None,
        expires_at: None,
        retires_at: None,
    };
    let until = Instant::now() + FIRST_KEY_PATIENCE;
    let first = loop {
        match store.put_first_key(http::key_hash(&key), row.clone()).await {
            Err(StoreError::Unavailable(_)) if Instant::now() < until => tokio::time::sleep(FIRST_KEY_PAUSE).await,
            done => break done?,
        }
    };
    // Of a try whose answer was no success, the key may be there all the same.
    if !first && !store.keys(default_tenant).await?.iter().any(|key| key.id == id) {
        // Another node was first.
        return fs::remove_file(&path).map_err(|source| StartError::File { path, source });
    }
    info!("the first key, of scope operator, is in {}", path.display());
    Ok(())
}

/// How many nodes there are now.
pub(super) fn live_nodes(others: Option<&Others>) -> ingress::LiveNodes {
    match others.map(|others| others.peers.clone()) {
        Some(peers) => Arc::new(move || peers.borrow().len() + 1),
        None => Arc::new(|| 1),
    }
}

/// The certificate, and who looks after it. `tickets`: the secrets that nodes share.
pub(super) fn tls(
    config: &Config,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    tickets: Option<tls::TicketSecrets>,
    registry: &Registry,
) -> Result<tls::Keeper, StartError> {
    let others = move || {
        let tenants = store.tenants();
        let others = tenants.iter().filter(|tenant| TenantId(tenant.id) != TenantId::default());
        others.map(|tenant| tenant.domain.clone()).collect()
    };
    let own = if config.tls.generates_certificate() {
        tls::Source::Generated {
            directory: config.data_dir.clone(),
            domain: config.domain.clone(),
        }
    } else {
        tls::Source::Given {
            certificate: config.tls.certificate.clone(),
            key: config.tls.key.clone(),
        }
    };
    let files = tls::Files {
        own,
        more: config.tls.certificates.clone(),
        domains: tls::Domains(Arc::new(others)),
        clients: config.tls.client_files(),
        tickets,
    };
    Ok(tls::Keeper::open(files, config.tls.reload_every(), clock, registry)?)
}

/// What checks device tokens, and who keeps the keys for it.
pub(super) fn tokens(
    config: &Config,
    store: Arc<dyn Store>,
    registry: &Registry,
) -> Result<(tokens::Keeper, gateway::DeviceTokens), StartError> {
    let tenants = Arc::new(move |word: &str| {
        let tenant = registry::tenant_named(&*store, word)?;
        Some((TenantId(tenant.id), tenant.domain.clone()))
    });
    let (keeper, tokens) = tokens::Keeper::of_devices(&config.tokens, &config.domain, tenants, registry)?;
    let cohorts = config.registry.clone();
    let cohort = Arc::new(move |tenant, device: &DeviceId| cohorts.cohort(tenant, device));
    let doors = gateway::DeviceTokens::new(tokens, cohort);
    Ok((keeper, doors))
}

/// Leaves the ready line for the commands that run on this machine.
pub(super) fn write_ready(config: &Config, ready: &Value) -> Result<(), StartError> {
    write(&config.data_dir.join(READY_FILE), ready.to_string().as_bytes())
}

/// Writes a file whole or not at all, readable by its owner alone.
fn write(path: &Path, bytes: &[u8]) -> Result<(), StartError> {
    let attempt = || -> io::Result<()> {
        let new = path.with_extension("new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    attempt().map_err(|source| StartError::File {
        path: path.to_owned(),
        source,
    })
}
