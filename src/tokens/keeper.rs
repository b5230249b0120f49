//! Keeps the issuer's keys: reads them again now and then, and when a token names one that is not known. What cannot be read leaves the
//! keys as they are.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use prometheus::Registry;
use reqwest::{Client, Url, redirect};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{BackendConfig, BackendTokens, Config, TenantNamed, Tokens, keys::Keys, verifier::Verifier};

/// The largest JWKS, in bytes.
const BYTES_MAX: usize = 256 * 1024;
/// How long an issuer may take for his JWKS.
const FETCH_WITHIN: Duration = Duration::from_secs(10);
/// Unknown keys do not make the keys be read more often than this: whoever likes can name keys.
const FILE_GAP: Duration = Duration::from_secs(1);
const URL_GAP: Duration = Duration::from_secs(30);
/// The pause after a look that failed; it doubles up to the usual one.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("{section}.keys_file = {path} cannot be read: {error}")]
    File {
        /// Which setting.
        section: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The issuer did not answer.
    #[error("the issuer does not answer with keys: {0}")]
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

/// Where keys are, by the settings of one section.
struct Place<'a> {
    section: &'static str,
    /// Whose tokens are checked with them, for the log.
    whose: &'static str,
    keys_file: &'a PathBuf,
    keys_url: &'a str,
    refresh_secs: u64,
}

/// The task behind [`Tokens`], or behind [`BackendTokens`].
pub struct Keeper {
    section: &'static str,
    whose: &'static str,
    verifier: Option<Arc<Verifier>>,
    source: Source,
    every: Duration,
    /// What was read last.
    seen: Vec<u8>,
}

impl Keeper {
    /// For devices of `domain`, and of the `tenants` that tokens name. Reads the file, if the keys are in one. An address is asked once the task runs: an issuer that is away
    /// does not keep the service from starting.
    ///
    /// # Errors
    /// When the file has no keys.
    pub fn of_devices(config: &Config, domain: &str, tenants: TenantNamed, registry: &Registry) -> Result<(Self, Tokens), KeysError> {
        let tokens = Tokens::new(config, domain, tenants, registry)?;
        let place = Place {
            section: "tokens",
            whose: "device tokens",
            keys_file: &config.keys_file,
            keys_url: &config.keys_url,
            refresh_secs: config.refresh_secs,
        };
        let verifier = tokens.0.as_ref().map(|inner| inner.verifier.clone());
        Ok((Self::open(&place, verifier)?, tokens))
    }

    /// The same for backends.
    ///
    /// # Errors
    /// When the file has no keys.
    pub fn of_backends(config: &BackendConfig, registry: &Registry) -> Result<(Self, BackendTokens), KeysError> {
        let tokens = BackendTokens::new(config, registry)?;
        let place = Place {
            section: "jwt",
            whose: "tokens of backends",
            keys_file: &config.keys_file,
            keys_url: &config.keys_url,
            refresh_secs: config.refresh_secs,
        };
        let verifier = tokens.0.as_ref().map(|inner| inner.verifier.clone());
        Ok((Self::open(&place, verifier)?, tokens))
    }

    fn open(place: &Place<'_>, verifier: Option<Arc<Verifier>>) -> Result<Self, KeysError> {
        let source = if !place.keys_file.as_os_str().is_empty() {
            Source::File(place.keys_file.clone())
        } else if place.keys_url.is_empty() {
            Source::Nothing
        } else {
            let url = Url::parse(place.keys_url).map_err(|why| KeysError::Keys {
                place: place.keys_url.to_owned(),
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
            section: place.section,
            whose: place.whose,
            verifier,
            source,
            every: Duration::from_secs(place.refresh_secs.max(1)),
            seen: Vec::new(),
        };
        if let Source::File(path) = &keeper.source {
            let read = read(keeper.section, path)?;
            keeper.take(read)?;
        }
        Ok(keeper)
    }

    /// Keeps the keys until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let gap = match &self.source {
            Source::Nothing => return,
            Source::File(_) => FILE_GAP,
            Source::Url(..) => URL_GAP,
        };
        let Some(verifier) = self.verifier.clone() else { return };
        let (mut rested, mut due, mut failures) = (Instant::now(), Instant::now(), 0);
        loop {
            let wanted = async {
                sleep_until(rested).await;
                verifier.wanted.notified().await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = wanted => {}
                () = sleep_until(due) => {}
            }
            let loaded = tokio::select! {
                () = stop.cancelled() => return,
                loaded = self.load() => loaded,
            };
            verifier.metrics.loaded(loaded.is_ok());
            failures = if loaded.is_ok() { 0 } else { failures + 1 };
            if let Err(error) = loaded {
                warn!("the keys of {} stay as they are: {error}", self.whose);
            }
            rested = Instant::now() + gap;
            due = Instant::now() + pause(self.every, failures);
        }
    }

    async fn load(&mut self) -> Result<(), KeysError> {
        let read = match &self.source {
            Source::Nothing => return Ok(()),
            Source::File(path) => {
                let (section, path, failed) = (self.section, path.clone(), path.clone());
                let task = tokio::task::spawn_blocking(move || read(section, &path)).await;
                task.map_err(|error| KeysError::File {
                    section,
                    path: failed,
                    error: io::Error::other(error),
                })??
            }
            Source::Url(url, client) => fetch(client, url).await?,
        };
        self.take(read)
    }

    fn take(&mut self, read: Vec<u8>) -> Result<(), KeysError> {
        let Some(verifier) = &self.verifier else { return Ok(()) };
        if read == self.seen {
            return Ok(());
        }
        let keys = Keys::read(&read, &verifier.rules.algorithms).map_err(|why| KeysError::Keys { place: self.place(), why })?;
        info!("{} are checked with {} keys from {}", self.whose, keys.len(), self.place());
        verifier.replace(keys);
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

/// How long until the next look: what failed is tried again soon, and less and less so.
fn pause(every: Duration, failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => every,
        Some(before) => every.min(FIRST_PAUSE.saturating_mul(1 << before.min(10))),
    }
}

fn read(section: &'static str, path: &PathBuf) -> Result<Vec<u8>, KeysError> {
    let failed = |error| KeysError::File {
        section,
        path: path.clone(),
        error,
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_tried_again_soon_and_less_and_less() {
        let pauses: Vec<u64> = [0, 1, 2, 3, 6, 7, 100]
            .map(|failures| pause(Duration::from_secs(300), failures).as_secs())
            .into();
        assert_eq!(pauses, [300, 5, 10, 20, 160, 300, 300]);
        assert_eq!(pause(Duration::from_secs(1), 1), Duration::from_secs(1));
    }
}
