//! Keeps what is served equal to the files: looks at them again every minute and on demand.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tokio::{sync::Notify, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{ClientFiles, Current, Served, TicketSecrets, clients::ClientMaterial};
use crate::{
    certificate::{self, CertificateError, Identity},
    domain::Clock,
};

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of the certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A file about the certificates of clients.
    #[error("{} cannot be used: {why}", .path.display())]
    ClientFile {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The certificate and its key do not fit TLS.
    #[error("the certificate and its key cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    /// A metric of one name twice: a bug.
    #[error("the metrics do not register: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// All that is served, as its files say.
#[derive(Clone, Debug)]
pub struct Files {
    /// The service's own certificate.
    pub own: Source,
    /// Those of clients.
    pub clients: ClientFiles,
    /// The secrets of tickets that other nodes take, too. `None`: tickets are of this process alone.
    pub tickets: Option<TicketSecrets>,
}

impl Files {
    fn load(&self, now: SystemTime) -> Result<Loaded, TlsError> {
        let identity = self.own.load(now)?;
        let material = self.clients.load()?;
        let (fingerprint, clients) = (fingerprint(&identity, &material), self.clients.clients(&material)?);
        let served = match &self.tickets {
            Some(secrets) => Served::sharing(&identity, clients, secrets, fingerprint)?,
            None => Served::new(&identity, clients)?,
        };
        Ok(Loaded {
            fingerprint,
            expires_at: certificate::expires_at(&identity).unwrap_or_default(),
            served,
        })
    }
}

struct Loaded {
    served: Served,
    /// SHA-256 of what was read.
    fingerprint: [u8; 32],
    /// When the certificate expires, in seconds since 1970.
    expires_at: i64,
}

/// Where the certificate comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The operator's files.
    Given {
        /// The chain, in PEM.
        certificate: PathBuf,
        /// The private key, in PEM.
        key: PathBuf,
    },
    /// The service's own, in that directory, renewed as its end comes near.
    Generated {
        /// The data directory.
        directory: PathBuf,
        /// What it is for.
        domain: String,
    },
}

impl Source {
    fn load(&self, now: SystemTime) -> Result<Identity, CertificateError> {
        match self {
            Self::Given { certificate, key } => certificate::load(certificate, key),
            Self::Generated { directory, domain } => certificate::generated(directory, domain, now),
        }
    }
}

/// Asks for a look at the files, as SIGHUP does. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Reload(Arc<Notify>);

impl Reload {
    /// Has the files looked at now.
    pub fn now(&self) {
        self.0.notify_one();
    }
}

/// The task behind [`Current`].
pub struct Keeper {
    files: Files,
    every: Duration,
    clock: Arc<dyn Clock>,
    current: Current,
    reload: Reload,
    /// SHA-256 of what is served now.
    served: [u8; 32],
    /// What was wrong at the last look: it is logged once.
    wrong: Option<String>,
    metrics: TlsMetrics,
}

impl Keeper {
    /// Loads the certificate for the first time. Reads files: call it before anything serves.
    ///
    /// # Errors
    /// When there is no certificate to serve with.
    pub fn open(files: Files, every: Duration, clock: Arc<dyn Clock>, registry: &Registry) -> Result<Self, TlsError> {
        let metrics = TlsMetrics::register(registry)?;
        let loaded = files.load(time(&*clock))?;
        metrics.expiry.set(loaded.expires_at);
        Ok(Self {
            served: loaded.fingerprint,
            current: Current::new(loaded.served),
            files,
            every,
            clock,
            reload: Reload::default(),
            wrong: None,
            metrics,
        })
    }

    /// What is served, now and later.
    pub fn current(&self) -> Current {
        self.current.clone()
    }

    /// To ask for a look before the next one is due.
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Looks at the files until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut due = tokio::time::interval_at(tokio::time::Instant::now() + self.every, self.every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                () = self.reload.0.notified() => true,
                _ = due.tick() => false,
            };
            self.look(asked).await;
        }
    }

    /// Looks once. A pair that cannot be used leaves the old one in place. `asked`: somebody waits to read what became of it.
    async fn look(&mut self, asked: bool) {
        let (files, now) = (self.files.clone(), time(&*self.clock));
        match tokio::task::spawn_blocking(move || files.load(now)).await {
            Ok(Ok(loaded)) if loaded.fingerprint == self.served => {
                if asked || self.wrong.is_some() {
                    info!("the certificate is the one that is served already");
                }
                self.wrong = None;
            }
            Ok(Ok(loaded)) => {
                self.current.replace(loaded.served);
                self.served = loaded.fingerprint;
                self.wrong = None;
                self.metrics.expiry.set(loaded.expires_at);
                self.metrics.replaced.inc();
                info!(
                    certificate.expires = loaded.expires_at,
                    "a new certificate is served; connections that are up stay up"
                );
            }
            Ok(Err(error)) => self.failed(error.to_string(), asked),
            Err(error) => self.failed(format!("looking at the certificate failed: {error}"), asked),
        }
    }

    fn failed(&mut self, why: String, asked: bool) {
        self.metrics.failed.inc();
        if asked || self.wrong.as_ref() != Some(&why) {
            error!("the new certificate is not taken, the old one is served on: {why}");
        }
        self.wrong = Some(why);
    }
}

fn time(clock: &dyn Clock) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(clock.now().0)
}

/// SHA-256 of chain, key, and what is said of clients.
fn fingerprint(identity: &Identity, clients: &ClientMaterial) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let others = [identity.key.secret_der(), &clients.ca, &clients.revoked];
    for part in identity.chain.iter().map(AsRef::as_ref).chain(others) {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    }
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}

struct TlsMetrics {
    expiry: IntGauge,
    replaced: IntCounter,
    failed: IntCounter,
}

impl TlsMetrics {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let expiry = IntGauge::new(
            "unpoll_certificate_expiry_seconds",
            "When the certificate that is served expires, in seconds since 1970.",
        )?;
        let reloads = IntCounterVec::new(
            Opts::new(
                "unpoll_certificate_reloads_total",
                "Looks at the certificate's files that found a new one (replaced), or one that cannot be used (failed).",
            ),
            &["result"],
        )?;
        registry.register(Box::new(expiry.clone()))?;
        registry.register(Box::new(reloads.clone()))?;
        Ok(Self {
            expiry,
            replaced: reloads.get_metric_with_label_values(&["replaced"])?,
            failed: reloads.get_metric_with_label_values(&["failed"])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::domain::{ManualClock, Timestamp};

    const DAY: Duration = Duration::from_secs(86_400);

    fn given(directory: &Path) -> Files {
        let own = Source::Given {
            certificate: directory.join("certificate.pem"),
            key: directory.join("key.pem"),
        };
        Files {
            own,
            clients: ClientFiles::default(),
            tickets: None,
        }
    }

    fn clock() -> Arc<ManualClock> {
        ManualClock::at(Timestamp(20_000 * 86_400_000))
    }

    fn made(directory: &Path, domain: &str) {
        certificate::generated(directory, domain, UNIX_EPOCH + DAY * 20_000).unwrap();
    }

    #[tokio::test]
    async fn a_new_pair_is_served_and_a_bad_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        made(directory.path(), "a.example");
        let mut keeper = Keeper::open(given(directory.path()), DAY, clock(), &Registry::new()).unwrap();
        let current = keeper.current();
        let first = current.get();
        keeper.look(true).await;
        assert!(Arc::ptr_eq(&first, &current.get()), "nothing changed");

        made(directory.path(), "b.example");
        keeper.look(false).await;
        let second = current.get();
        assert_ne!(first.leaf, second.leaf);
        assert_eq!((keeper.metrics.replaced.get(), keeper.metrics.failed.get()), (1, 0));

        fs::write(directory.path().join("key.pem"), "-----BEGIN").unwrap();
        keeper.look(false).await;
        assert!(keeper.wrong.as_ref().unwrap().contains("key.pem holds no private key"));
        keeper.look(false).await;
        assert!(Arc::ptr_eq(&second, &current.get()));
        assert_eq!((keeper.metrics.replaced.get(), keeper.metrics.failed.get()), (1, 2));

        made(directory.path(), "c.example");
        keeper.look(false).await;
        assert_eq!((keeper.metrics.replaced.get(), keeper.wrong.is_some()), (2, false));
    }

    #[tokio::test]
    async fn the_generated_one_is_renewed_while_it_is_served() {
        let directory = tempfile::tempdir().unwrap();
        let own = Source::Generated {
            directory: directory.path().to_owned(),
            domain: "push.example".into(),
        };
        let files = Files {
            own,
            clients: ClientFiles::default(),
            tickets: None,
        };
        let clock = clock();
        let mut keeper = Keeper::open(files, DAY, clock.clone(), &Registry::new()).unwrap();
        let (first, until) = (keeper.current().get(), keeper.metrics.expiry.get());
        assert_eq!(until, (20_000 + 397) * 86_400);
        clock.advance(DAY * 366);
        keeper.look(false).await;
        assert!(Arc::ptr_eq(&first, &keeper.current().get()));
        clock.advance(DAY * 2);
        keeper.look(false).await;
        assert_ne!(first.leaf, keeper.current().get().leaf);
        assert_eq!(keeper.metrics.expiry.get(), until + 368 * 86_400);
    }
}
