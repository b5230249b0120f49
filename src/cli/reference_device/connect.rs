//! How a device connects: TCP, TLS, stream, SASL; again after a pause that is never the same, unless it makes no sense.

use std::{borrow::Cow, io, path::Path, sync::Arc, time::Duration};

use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use sasl::common::{ChannelBinding, Credentials};
use tokio::{
    io::BufStream,
    net::TcpStream,
    sync::{mpsc, oneshot},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_xmpp::{
    Error,
    error::AuthError,
    stanzastream::Connection,
    xmlstream::{StreamHeader, Timeouts, initiate_stream},
};
use xmpp_parsers::{jid::Jid, ns, sasl::DefinedCondition, stream_error};

use super::{
    DeviceError,
    wire::{Cutter, Wire},
};
use crate::{cli::secret::random_below, crew::Crew};

/// How long one attempt may take from the first packet to the end of the login.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// Without a byte for this long the device asks for a sign of life: a little more than the server's keepalive, which then does it.
const SILENCE: Duration = Duration::from_secs(330);
/// Without an answer for this long after that the connection is dead.
const ANSWER: Duration = Duration::from_secs(30);

/// Who a device is.
#[derive(Clone)]
pub struct Account {
    /// Its id.
    pub device: String,
    /// The XMPP domain of its tenant.
    pub domain: String,
    /// Its password.
    pub password: String,
}

impl Account {
    /// Its bare JID.
    pub fn jid(&self) -> String {
        format!("{}@{}", self.device, self.domain)
    }
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Account({}, ***)", self.jid())
    }
}

/// Pauses between attempts: anything from nothing to a limit that doubles (full jitter), so that devices do not come in step.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The limit of the first pause.
    pub first: Duration,
    /// The limit of all pauses.
    pub longest: Duration,
}

impl Default for Backoff {
    /// A second, then up to a minute.
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(60),
        }
    }
}

impl Backoff {
    /// The longest pause before attempt number `attempt`, from 0.
    fn limit(self, attempt: u32) -> Duration {
        self.first.saturating_mul(2_u32.saturating_pow(attempt)).min(self.longest)
    }

    fn pause(self, attempt: u32) -> Duration {
        let limit = u64::try_from(self.limit(attempt).as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(random_below(limit.saturating_add(1)))
    }
}

/// Where a device connects to.
#[derive(Clone)]
pub struct Endpoint {
    /// Host and port of XMPP over TLS.
    pub address: String,
    /// What it trusts.
    pub tls: Arc<rustls::ClientConfig>,
    /// Its pauses.
    pub backoff: Backoff,
}

/// A TLS client that trusts the certificates in a PEM file.
pub fn tls_trusting(ca: &Path) -> Result<Arc<rustls::ClientConfig>, String> {
    let shown = ca.display();
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)
        .map_err(|error| format!("the file {shown} cannot be read: {error}; name the right one with --ca"))?
    {
        certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()))
            .map_err(|error| format!("{shown} holds a certificate that cannot be used: {error}"))?;
    }
    if roots.is_empty() {
        return Err(format!("{shown} holds no certificate in PEM"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"xmpp-client".to_vec()]; // XEP-0368 §5
    Ok(Arc::new(config))
}

/// What the connector tells the device.
pub enum Notice {
    Retrying { why: String, pause: Duration },
    GaveUp(DeviceError),
}

/// Makes connections for one device.
pub struct Connector {
    account: Account,
    endpoint: Endpoint,
    cutter: Arc<Cutter>,
    tell: mpsc::UnboundedSender<Notice>,
}

type Reconnector = Box<dyn FnMut(Option<String>, oneshot::Sender<Connection>) + Send + 'static>;

impl Connector {
    pub fn new(account: Account, endpoint: Endpoint, cutter: Arc<Cutter>, tell: mpsc::UnboundedSender<Notice>) -> Self {
        Self {
            account,
            endpoint,
            cutter,
            tell,
        }
    }

    /// In the form that the library calls: once at the start, and after each loss.
    pub fn into_reconnector(self) -> Reconnector {
        let (this, crew) = (Arc::new(self), Crew::default());
        let mut first = true;
        Box::new(move |_, slot| {
            let (this, at_once) = (this.clone(), std::mem::take(&mut first));
            crew.spawn(async move { this.connect(slot, at_once).await });
        })
    }

    async fn connect(&self, mut slot: oneshot::Sender<Connection>, at_once: bool) {
        let mut pause = if at_once { Duration::ZERO } else { self.endpoint.backoff.pause(0) };
        for attempt in 0.. {
            if self.cutter.is_over() {
                // As in `give_up`.
                return std::mem::forget(slot);
            }
            if self.cutter.lost_the_seat() {
                return self.give_up(slot, DeviceError::Conflict { jid: self.account.jid() });
            }
            tokio::select! {
                () = slot.closed() => return, // the device is gone
                () = self.wait(pause) => {}
            }
            let attempted = tokio::time::timeout(ATTEMPT_TIMEOUT, self.attempt())
                .await
                .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no login within 30 s").into()));
            match attempted {
                Ok(connection) => {
                    // Refused only when the device is gone.
                    let _ = slot.send(connection);
                    return;
                }
                Err(error) => match self.hopeless(&error) {
                    Some(error) => return self.give_up(slot, error),
                    None => {
                        pause = self.endpoint.backoff.pause(attempt);
                        let why = format!("{} cannot be reached: {error}", self.endpoint.address);
                        let _ = self.tell.send(Notice::Retrying { why, pause });
                    }
                },
            }
        }
    }

    fn give_up(&self, slot: oneshot::Sender<Connection>, error: DeviceError) {
        let _ = self.tell.send(Notice::GaveUp(error));
        // The library panics when the slot is dropped, and ends quietly with the device when it is not.
        std::mem::forget(slot);
    }

    async fn wait(&self, pause: Duration) {
        tokio::time::sleep(pause).await;
        if let Some(until) = self.cutter.away_until() {
            tokio::time::sleep_until(until).await;
        }
    }

    async fn attempt(&self) -> Result<Connection, Error> {
        let io = self.tls().await?;
        let header = || StreamHeader {
            to: Some(Cow::Borrowed(self.account.domain.as_str())),
            from: None,
            id: None,
        };
        let timeouts = Timeouts {
            read_timeout: SILENCE,
            response_timeout: ANSWER,
        };
        let pending = initiate_stream(io, ns::JABBER_CLIENT, header(), timeouts).await?;
        let (features, stream) = pending.recv_features().await?;
        let credentials = Credentials::default()
            .with_username(self.account.device.as_str())
            .with_password(self.account.password.as_str())
            .with_channel_binding(ChannelBinding::Unsupported);
        let stream = tokio_xmpp::client_login(stream, features.sasl_mechanisms, credentials).await?;
        let (features, stream) = stream.send_header(header()).await?.recv_features().await?;
        if !features.can_bind() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the server offers no binding after the login").into());
        }
        let identity = Jid::new(&self.account.jid())?;
        Ok(Connection {
            stream: stream.box_stream(),
            features,
            identity,
        })
    }

    async fn tls(&self) -> Result<Wire<BufStream<TlsStream<TcpStream>>>, Error> {
        let socket = TcpStream::connect(&self.endpoint.address).await?;
        socket.set_nodelay(true)?;
        let handle = socket2::SockRef::from(&socket).try_clone()?;
        let name = ServerName::try_from(self.account.domain.clone()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let stream = TlsConnector::from(self.endpoint.tls.clone()).connect(name, socket).await?;
        self.cutter.holds(handle);
        Ok(Wire::new(BufStream::new(stream), self.cutter.clone()))
    }

    /// Whether trying again cannot help, and why.
    fn hopeless(&self, error: &Error) -> Option<DeviceError> {
        let jid = self.account.jid();
        match error {
            Error::Auth(AuthError::Fail(DefinedCondition::TemporaryAuthFailure)) => None,
            Error::Auth(AuthError::Fail(condition)) => Some(DeviceError::Login {
                jid,
                why: condition_name(condition),
            }),
            Error::Auth(error) => Some(DeviceError::Login {
                jid,
                why: error.to_string(),
            }),
            Error::StreamError(received) if received.0.condition == stream_error::DefinedCondition::HostUnknown => {
                Some(DeviceError::UnknownDomain {
                    address: self.endpoint.address.clone(),
                    domain: self.account.domain.clone(),
                })
            }
            Error::Io(error) => {
                let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())?;
                let address = self.endpoint.address.clone();
                match tls {
                    rustls::Error::InvalidCertificate(_) => Some(DeviceError::Untrusted {
                        address,
                        why: tls.to_string(),
                    }),
                    rustls::Error::InvalidMessage(_) => Some(DeviceError::NoTls { address }),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// The name of a SASL condition as it stands on the wire (RFC 6120 §6.5): `not-authorized`.
fn condition_name(condition: &DefinedCondition) -> String {
    let mut name = String::new();
    for character in format!("{condition:?}").chars() {
        if character.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(character.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_never_pass_it() {
        let backoff = Backoff::default();
        let check = |attempt, expected| assert_eq!(backoff.limit(attempt), Duration::from_secs(expected));
        check(0, 1);
        check(3, 8);
        check(6, 60);
        check(u32::MAX, 60);
        assert!((0..100).all(|attempt| backoff.pause(attempt) <= backoff.limit(attempt)));
    }
}
