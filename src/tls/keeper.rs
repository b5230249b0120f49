//! Keeps what is served equal to the files: looks at them again every minute and on demand.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tokio::{sync::Notify, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{ClientFiles, Current, Pair, Served, TicketSecrets, clients::ClientMaterial};
use crate::{
    certificate::{self, CertificateError, Identity},
    domain::Clock,
};

/// How often it is asked whether there is another domain.
const NEWS_EVERY: Duration = Duration::from_secs(1);

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
    /// More of the operator's.
    pub more: Vec<Pair>,
    /// Which other domains want one.
    pub domains: Domains,
    /// Those of clients.
    pub clients: ClientFiles,
    /// The secrets of tickets that other nodes take, too. `None`: tickets are of this process alone.
    pub tickets: Option<TicketSecrets>,
}

/// Asks for the domains that devices log in at, beside the one of [`Files::own`].
#[derive(Clone)]
pub struct Domains(pub Arc<dyn Fn() -> Vec<String> + Send + Sync>);

impl Default for Domains {
    fn default() -> Self {
        Self(Arc::new(Vec::new))
    }
}

impl std::fmt::Debug for Domains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Domains")
    }
}

impl Files {
    fn load(&self, now: SystemTime) -> Result<Loaded, TlsError> {
        let mut identities = vec![self.own.load(now)?];
        for pair in &self.more {
            identities.push(certificate::load(&pair.certificate, &pair.key)?);
        }
        let mut missing = Vec::new();
        let named: HashSet<String> = identities.iter().flat_map(certificate::dns_names).collect();
        for domain in (self.domains.0)() {
            let parent = domain.split_once('.').map(|(_, parent)| format!("*.{parent}"));
            if named.contains(&domain) || parent.is_some_and(|parent| named.contains(&parent)) {
                continue;
            }
            match self.own.load_for(&domain, now) {
                Some(Ok(identity)) => identities.push(identity),
                // It must not keep the others from being served.
                Some(Err(error)) => missing.push(format!("{domain} ({error})")),
                None => missing.push(domain),
            }
        }
        let material = self.clients.load()?;
        let (fingerprint, clients) = (fingerprint(&identities, &material), self.clients.clients(&material)?);
        let served = match &self.tickets {
            Some(secrets) => Served::sharing(&identities, clients, secrets, fingerprint)?,
            None => Served::of(&identities, clients)?,
        };
        Ok(Loaded {
            fingerprint,
            expires_at: identities.iter().filter_map(certificate::expires_at).min().unwrap_or_default(),
            served,
            missing,
        })
    }
}

struct Loaded {
    served: Served,
    /// SHA-256 of what was read.
    fingerprint: [u8; 32],
    /// When the first of the certificates expires, in seconds since 1970.
    expires_at: i64,
    /// The domains that no certificate is good for.
    missing: Vec<String>,
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

    /// One for another domain. `None`: the operator has to give it.
    fn load_for(&self, domain: &str, now: SystemTime) -> Option<Result<Identity, CertificateError>> {
        match self {
            Self::Given { .. } => None,
            Self::Generated { directory, .. } => Some(certificate::generated_for(directory, domain, now)),
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
    /// The domains without a certificate at the last look.
    missing: Vec<String>,
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
        let mut keeper = Self {
            served: loaded.fingerprint,
            current: Current::new(loaded.served),
            files,
            every,
            clock,
            reload: Reload::default(),
            wrong: None,
            missing: Vec::new(),
            metrics,
        };
        keeper.tell_missing(loaded.missing);
        Ok(keeper)
    }

    /// What is served, now and later.
    pub fn current(&self) -> Current {
        self.current.clone()
    }

    /// To ask for a look before the next one is due.
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Says whether a domain has a certificate, or is about to get one.
    pub fn covers(&self) -> impl Fn(&str) -> bool + Send + Sync + use<> {
        let (current, generates) = (self.current(), matches!(self.files.own, Source::Generated { .. }));
        move |domain| generates || current.get().covers(domain)
    }

    /// Looks at the files until `stop`, and at once when there is another domain.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut domains = (self.files.domains.0)();
        let mut news = tokio::time::interval(NEWS_EVERY);
        news.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut due = tokio::time::interval_at(tokio::time::Instant::now() + self.every, self.every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                () = self.reload.0.notified() => true,
                _ = due.tick() => false,
                _ = news.tick() => {
                    let now = (self.files.domains.0)();
                    if now == domains {
                        continue;
                    }
                    domains = now;
                    false
                }
            };
            self.look(asked).await;
        }
    }

    /// Looks once. A pair that cannot be used leaves the old one in place. `asked`: somebody waits to read what became of it.
    async fn look(&mut self, asked: bool) {
        let (files, now) = (self.files.clone(), time(&*self.clock));
        let mut found = tokio::task::spawn_blocking(move || files.load(now)).await;
        if let Ok(Ok(loaded)) = &mut found {
            self.tell_missing(std::mem::take(&mut loaded.missing));
        }
        match found {
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

    fn tell_missing(&mut self, missing: Vec<String>) {
        self.metrics.missing.set(i64::try_from(missing.len()).unwrap_or(i64::MAX));
        if missing != self.missing && !missing.is_empty() {
            warn!(
                "no certificate is good for {}: devices that check it do not connect there; give one in tls.certificates",
                missing.join(", ")
            );
        }
        self.missing = missing;
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

/// SHA-256 of chains, keys, and what is said of clients.
fn fingerprint(identities: &[Identity], clients: &ClientMaterial) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut add = |part: &[u8]| {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    };
    for identity in identities {
        identity.chain.iter().for_each(|certificate| add(certificate));
        add(identity.key.secret_der());
    }
    add(&clients.ca);
    add(&clients.revoked);
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}

struct TlsMetrics {
    expiry: IntGauge,
    replaced: IntCounter,
    failed: IntCounter,
    missing: IntGauge,
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
        let missing = IntGauge::new(
            "unpoll_certificate_domains_missing",
            "Domains of tenants that no certificate is good for.",
        )?;
        registry.register(Box::new(missing.clone()))?;
        registry.register(Box::new(expiry.clone()))?;
        registry.register(Box::new(reloads.clone()))?;
        Ok(Self {
            expiry,
            replaced: reloads.get_metric_with_label_values(&["replaced"])?,
            failed: reloads.get_metric_with_label_values(&["failed"])?,
            missing,
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
        files(own)
    }

    fn files(own: Source) -> Files {
        Files {
            own,
            more: Vec::new(),
            domains: Domains::default(),
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
        let files = files(own);
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

    #[tokio::test]
    async fn a_new_domain_gets_a_certificate_or_is_told_to_have_none() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = Arc::new(parking_lot::Mutex::new(vec!["tv.example".to_owned()]));
        let ask = wanted.clone();
        let domains = Domains(Arc::new(move || ask.lock().clone()));
        let own = Source::Generated {
            directory: directory.path().to_owned(),
            domain: "push.example".into(),
        };
        let generating = Files {
            domains: domains.clone(),
            ..files(own)
        };
        let mut keeper = Keeper::open(generating, DAY, clock(), &Registry::new()).unwrap();
        let leaf = keeper.current().get().leaf.clone();
        wanted.lock().push("cars.example".into());
        assert!(!keeper.current().get().covers("cars.example"));
        keeper.look(false).await;
        let served = keeper.current().get();
        for domain in ["push.example", "tv.example", "cars.example"] {
            assert!(served.covers(domain), "{domain}");
        }
        assert!(served.leaf == leaf && !served.covers("other.example"));
        assert_ne!(served.end_point(0), served.end_point(1));

        let more = vec![Pair {
            certificate: directory.path().join("domains/tv.example/certificate.pem"),
            key: directory.path().join("domains/tv.example/key.pem"),
        }];
        let files = Files {
            domains,
            more,
            ..given(directory.path())
        };
        let keeper = Keeper::open(files, DAY, clock(), &Registry::new()).unwrap();
        assert_eq!(
            (keeper.metrics.missing.get(), &keeper.missing[..]),
            (1, &["cars.example".to_owned()][..])
        );
        let covers = keeper.covers();
        assert!(covers("tv.example") && !covers("cars.example"));
    }
}
