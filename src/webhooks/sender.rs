//! One request to a receiver, and what came of it.

use std::{error::Error, fs, io, path::PathBuf, sync::Arc, time::Duration};

use reqwest::{Client, Response, StatusCode, Url, header, redirect};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::sync::Semaphore;

use super::{
    Config,
    address::{Guard, Lookup, Reach, is_blocked},
    backoff,
    message::Message,
    signature,
};
use crate::{domain::Clock, store::Webhook};

/// Bytes of an answer that are read, so that the connection can be used again; nothing is made of them.
const ANSWER_MAX: usize = 4 * 1024;

/// Why webhooks cannot be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum SenderError {
    /// The file of authorities.
    #[error("webhooks.ca_file = {} cannot be used: {why}", .path.display())]
    Authorities {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The HTTP client cannot be set up.
    #[error("the HTTP client of webhooks cannot be set up: {0}")]
    Client(#[from] reqwest::Error),
    /// Nor its TLS.
    #[error("the TLS of webhooks cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Verdict {
    /// 2xx.
    Delivered,
    /// Another status.
    Refused,
    /// A redirect: not followed, because its target was not judged, and a `POST` rarely survives one.
    Redirect,
    /// 410: it wants no more.
    Gone,
    /// No answer in time.
    Timeout,
    /// No connection, or it broke; TLS that proves nothing, too.
    Unreachable,
    /// Its address may not be reached.
    Blocked,
}

impl Verdict {
    pub(super) const ALL: [Self; 7] = [
        Self::Delivered,
        Self::Refused,
        Self::Redirect,
        Self::Gone,
        Self::Timeout,
        Self::Unreachable,
        Self::Blocked,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Refused => "refused",
            Self::Redirect => "redirect",
            Self::Gone => "gone",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Blocked => "blocked",
        }
    }
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) verdict: Verdict,
    /// The status that was answered.
    pub(super) status: Option<u16>,
    /// The pause that a receiver asks for that takes no more for now (429, 503).
    pub(super) retry_after: Option<Duration>,
    /// What was wrong, in words. Empty when it was delivered.
    pub(super) error: String,
}

impl Attempt {
    fn failed(verdict: Verdict, error: impl Into<String>) -> Self {
        Self {
            verdict,
            status: None,
            retry_after: None,
            error: error.into(),
        }
    }
}

/// Sends messages. Clones share everything.
#[derive(Clone)]
pub(super) struct Sender {
    reach: Reach,
    encrypted: (Guard, Client),
    /// To the networks that the operator names, and nowhere else.
    in_clear: (Guard, Client),
    rooms: Arc<Semaphore>,
    within: Duration,
    clock: Arc<dyn Clock>,
}

impl Sender {
    pub(super) fn new(config: &Config, lookup: Lookup, clock: Arc<dyn Clock>) -> Result<Self, SenderError> {
        let reach = Reach::new(&config.allow_networks);
        let tls = tls(config)?;
        let client = |reach: Reach| {
            let guard = Guard::new(reach, Arc::clone(&lookup));
            let client = Client::builder()
                .user_agent(concat!("unpoll/", env!("CARGO_PKG_VERSION")))
                .tls_backend_preconfigured(tls.clone())
                .dns_resolver(guard.clone())
                .redirect(redirect::Policy::none())
                // A proxy of the environment would connect where nothing is judged.
                .no_proxy()
                .referer(false)
                .retry(reqwest::retry::never())
                .pool_max_idle_per_host(config.requests_max)
                .pool_idle_timeout(Duration::from_secs(30))
                // For all of it: the name, the connection, and the answer to its end.
                .timeout(config.answer_within())
                .build()?;
            Ok::<_, SenderError>((guard, client))
        };
        Ok(Self {
            encrypted: client(reach.clone())?,
            in_clear: client(reach.only_named())?,
            reach,
            rooms: Arc::new(Semaphore::new(config.requests_max_in_all.clamp(1, Semaphore::MAX_PERMITS))),
            within: config.answer_within(),
            clock,
        })
    }

    pub(super) fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Signs a message and sends it once, when there is room.
    pub(super) async fn send(&self, webhook: &Webhook, message: &Message) -> Attempt {
        // The semaphore is never closed.
        let _room = self.rooms.acquire().await;
        let url = match Url::parse(&webhook.url) {
            Ok(url) => url,
            Err(error) => return Attempt::failed(Verdict::Unreachable, error.to_string()),
        };
        let (guard, client) = if url.scheme() == "https" { &self.encrypted } else { &self.in_clear };
        if let Err(blocked) = guard.judge(&url) {
            return Attempt::failed(Verdict::Blocked, blocked.to_string());
        }
        let now = self.clock.now();
        let sent = client
            .post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", signature::seconds(now))
            .header(
                "webhook-signature",
                signature::sign(&webhook.secrets, &message.id, now, &message.body),
            )
            .body(message.body.clone())
            .send()
            .await;
        match sent {
            Ok(answer) => self.judge(answer).await,
            Err(error) => self.why(&error.without_url()),
        }
    }

    async fn judge(&self, mut answer: Response) -> Attempt {
        let status = answer.status();
        let asked = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = asked
            .filter(|_| matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE))
            .and_then(|value| backoff::retry_after(value, self.clock.now()));
        let mut read = 0;
        // What does not come is not missed: the status has said it.
        while let Ok(Some(piece)) = answer.chunk().await {
            read += piece.len();
            if read > ANSWER_MAX {
                break;
            }
        }
        let verdict = match status {
            status if status.is_success() => Verdict::Delivered,
            StatusCode::GONE => Verdict::Gone,
            status if status.is_redirection() => Verdict::Redirect,
            _ => Verdict::Refused,
        };
        Attempt {
            verdict,
            status: Some(status.as_u16()),
            retry_after,
            error: match verdict {
                Verdict::Delivered => String::new(),
                Verdict::Redirect => format!("it answered {}; redirects are not followed", status.as_u16()),
                _ => format!("it answered {}", status.as_u16()),
            },
        }
    }

    /// Why no answer came.
    fn why(&self, error: &reqwest::Error) -> Attempt {
        if is_blocked(error) {
            return Attempt::failed(Verdict::Blocked, super::address::Blocked.to_string());
        }
        if error.is_timeout() {
            return Attempt::failed(Verdict::Timeout, format!("it did not answer within {} ms", self.within.as_millis()));
        }
        // The last cause says it; those before it say that something failed.
        let mut cause: &dyn Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Attempt::failed(Verdict::Unreachable, cause.to_string())
    }
}

/// TLS that trusts the authorities of the system, and those of the operator's file.
fn tls(config: &Config) -> Result<ClientConfig, SenderError> {
    let mut roots = RootCertStore::empty();
    // One certificate among many that cannot be used does not keep the others from being trusted.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let path = &config.ca_file;
    if !path.as_os_str().is_empty() {
        let unusable = |why: String| SenderError::Authorities { path: path.clone(), why };
        let pem = fs::read(path).map_err(|error: io::Error| unusable(error.to_string()))?;
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
            found += 1;
        }
        if found == 0 {
            return Err(unusable("it holds no certificate in PEM".into()));
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests;
