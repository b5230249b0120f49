//! Keeps the issuer's keys: reads them again now and then, and when a token names one that is not known.

use std::{fs, io, path::PathBuf, time::Duration};

use prometheus::Registry;
use reqwest::{Client, Url, redirect};
use tokio::time::{Instant, MissedTickBehavior, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Config, Tokens, keys::Keys};

/// The largest JWKS, in bytes.
const BYTES_MAX: usize = 256 * 1024;
/// How long an issuer may take for his JWKS.
const FETCH_WITHIN: Duration = Duration::from_secs(10);
/// Unknown keys do not make the keys be read more often than this: whoever likes can name keys.
const FILE_GAP: Duration = Duration::from_secs(1);
const URL_GAP: Duration = Duration::from_secs(30);

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("tokens.keys_file = {path} cannot be read: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The issuer did not answer.
    #[error("tokens.keys_url does not answer with keys: {0}")]
    Fetch(#[from] reqwest::Error),
    /// What came cannot be used.
    #[error("the keys at {place} cannot be used: {why}")]
    Keys {
        /// The file or the address.
        place: String,
        /// Why.
        why: String,
    },
    /// A metric of one name twice: a bug.
    #[error("the metrics do not register: {0}")]
    Metrics(#[from] prometheus::Error),
}

enum Source {
    Nothing,
    File(PathBuf),
    Url(Url, Client),
}

/// The task behind [`Tokens`].
pub struct Keeper {
    tokens: Tokens,
    source: Source,
    every: Duration,
    /// What was read last.
    seen: Vec<u8>,
}

impl Keeper {
    /// Reads the file, if the keys are in one. An address is asked once the task runs: an issuer that is away does not keep the
    /// service from starting.
    ///
    /// # Errors
    /// When the file has no keys.
    pub fn open(config: &Config, domain: &str, registry: &Registry) -> Result<Self, KeysError> {
        let source = if !config.keys_file.as_os_str().is_empty() {
            Source::File(config.keys_file.clone())
        } else if config.keys_url.is_empty() {
            Source::Nothing
        } else {
            let url = Url::parse(&config.keys_url).map_err(|why| KeysError::Keys {
                place: config.keys_url.clone(),
                why: why.to_string(),
            })?;
            let client = Client::builder()
                .timeout(FETCH_WITHIN)
                // The address is the operator's choice; another one would be somebody else's.
                .redirect(redirect::Policy::none())
                .build()?;
            Source::Url(url, client)
        };
        let mut keeper = Self {
            tokens: Tokens::new(config, domain, registry)?,
            source,
            every: config.refresh_every(),
            seen: Vec::new(),
        };
        if let Source::File(path) = &keeper.source {
            let read = read(path)?;
            keeper.take(read)?;
        }
        Ok(keeper)
    }

    /// What checks tokens, now and later.
    pub fn tokens(&self) -> Tokens {
        self.tokens.clone()
    }

    /// Keeps the keys until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let gap = match &self.source {
            Source::Nothing => return,
            Source::File(_) => FILE_GAP,
            Source::Url(..) => URL_GAP,
        };
        let Some(inner) = self.tokens.0.clone() else { return };
        let mut due = tokio::time::interval(self.every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rested = Instant::now();
        loop {
            let wanted = async {
                sleep_until(rested).await;
                inner.wanted.notified().await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = wanted => {}
                _ = due.tick() => {}
            }
            let loaded = tokio::select! {
                () = stop.cancelled() => return,
                loaded = self.load() => loaded,
            };
            inner.metrics.loaded(loaded.is_ok());
            if let Err(error) = loaded {
                warn!("the keys of device tokens stay as they are: {error}");
            }
            rested = Instant::now() + gap;
        }
    }

    async fn load(&mut self) -> Result<(), KeysError> {
        let read = match &self.source {
            Source::Nothing => return Ok(()),
            Source::File(path) => {
                let (path, failed) = (path.clone(), path.clone());
                let task = tokio::task::spawn_blocking(move || read(&path)).await;
                task.map_err(|error| KeysError::File {
                    path: failed,
                    error: io::Error::other(error),
                })??
            }
            Source::Url(url, client) => fetch(client, url).await?,
        };
        self.take(read)
    }

    fn take(&mut self, read: Vec<u8>) -> Result<(), KeysError> {
        let Some(inner) = &self.tokens.0 else { return Ok(()) };
        if read == self.seen {
            return Ok(());
        }
        let keys = Keys::read(&read, &inner.algorithms).map_err(|why| KeysError::Keys { place: self.place(), why })?;
        info!("device tokens are checked with {} keys from {}", keys.len(), self.place());
        self.tokens.replace(keys);
        self.seen = read;
        Ok(())
    }

    fn place(&self) -> String {
        match &self.source {
            Source::Nothing => String::new(),
            Source::File(path) => path.display().to_string(),
            Source::Url(url, _) => url.to_string(),
        }
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, KeysError> {
    let failed = |error| KeysError::File { path: path.clone(), error };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > BYTES_MAX as u64 {
        return Err(too_large(path.display().to_string()));
    }
    fs::read(path).map_err(failed)
}

/// Asks for the JWKS, and reads no more than the bound.
async fn fetch(client: &Client, url: &Url) -> Result<Vec<u8>, KeysError> {
    let mut answer = client.get(url.clone()).send().await?.error_for_status()?;
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        if body.len() + piece.len() > BYTES_MAX {
            return Err(too_large(url.to_string()));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

fn too_large(place: String) -> KeysError {
    KeysError::Keys {
        place,
        why: format!("they have more than {BYTES_MAX} bytes"),
    }
}
