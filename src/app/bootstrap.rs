//! What a start needs before anything serves: the store, the first key, the certificate.

use std::{fs, io, io::Write, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc, time::SystemTime};

use serde_json::Value;
use tokio::sync::mpsc;
use tracing::info;

use super::StartError;
use crate::{
    certificate::{self, Identity},
    config::Config,
    domain::{Clock, Scope, TenantId, Timestamp},
    http, registry,
    store::{ApiKey, Arrival, Store, StoreError, embedded::EmbeddedStore},
};

/// The file in the data directory with the first key.
const KEY_FILE: &str = "admin.key";
/// The file in the data directory with the ready line of the running service.
const READY_FILE: &str = "ready.json";

pub(super) async fn store(config: &Config, clock: Arc<dyn Clock>) -> Result<(Arc<EmbeddedStore>, mpsc::Receiver<Arrival>), StartError> {
    let (dir, limits) = (config.data_dir.clone(), config.limits.clone());
    let settings = crate::store::embedded::Config {
        data_dir: dir.clone(),
        default_domain: config.domain.clone(),
        ..config.store.clone()
    };
    let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(settings, limits, clock)).await;
    match opened {
        Ok(opened) => opened.map_err(|source| StartError::Store { dir, source }),
        Err(_) => Err(StoreError::Unavailable("opening it failed".into()).into()),
    }
}

/// Makes the first key when there is none, and writes it where only its owner reads it. The file comes first: a key that
/// nobody knows would lock everybody out.
pub(super) async fn first_key(config: &Config, store: &dyn Store, now: Timestamp) -> Result<(), StartError> {
    let default_tenant = TenantId::default();
    if !store.keys(default_tenant).await?.is_empty() {
        return Ok(());
    }
    let key = registry::new_key()?;
    let path = config.data_dir.join(KEY_FILE);
    write(&path, format!("{key}\n").as_bytes())?;
    let row = ApiKey {
        id: registry::new_key_id()?,
        name: "admin".into(),
        tenant: default_tenant.0,
        scope: Scope::Operator,
        created_at: now,
    };
    store.put_key(http::key_hash(&key), row).await?;
    info!("the first key, of scope operator, is in {}", path.display());
    Ok(())
}

pub(super) fn certificate(config: &Config) -> Result<Identity, StartError> {
    if config.generates_certificate() {
        return Ok(certificate::generated(&config.data_dir, &config.domain, SystemTime::now())?);
    }
    Ok(certificate::load(&config.tls.certificate, &config.tls.key)?)
}

/// TLS for HTTPS: the same certificate, its own protocol.
pub(super) fn https(identity: &Identity) -> Result<rustls::ServerConfig, StartError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A fleet that polls resumes TLS from tickets; a table of sessions would hold a few hundred.
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    tls.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(tls)
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
