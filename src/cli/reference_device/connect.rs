//! How a device connects: TCP and TLS.

use std::{io, path::Path, sync::Arc};

use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{io::BufStream, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Backoff, cutter::Cutter, flight::FirstFlight};

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

/// Where a device connects to.
#[derive(Clone)]
pub struct Endpoint {
    /// Host and port of XMPP over TLS.
    pub address: String,
    /// Where it goes, by turns, when that cannot be reached: other nodes of the same service.
    pub others: Vec<String>,
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

/// A connection before its stream begins.
pub type Connected = FirstFlight<BufStream<TlsStream<TcpStream>>>;

impl Endpoint {
    /// The address of that turn.
    pub fn address(&self, turn: usize) -> &str {
        match turn % (self.others.len() + 1) {
            0 => &self.address,
            other => self.others.get(other - 1).unwrap_or(&self.address),
        }
    }

    /// Connects, by TCP and TLS. `address` is where to: the endpoint's own, or where the server sent the device.
    pub async fn connect(&self, address: &str, domain: &str, cutter: &Cutter) -> io::Result<(Connected, Option<Vec<u8>>)> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let handle = socket2::SockRef::from(&socket).try_clone()?;
        let name = ServerName::try_from(domain.to_owned()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, socket).await?;
        cutter.holds(handle);
        let binding = exported_key(&stream);
        Ok((FirstFlight::new(BufStream::new(stream)), binding))
    }
}

/// What binds a login to its connection (RFC 9266 §4.2). Below TLS 1.3 it would not be safe without more.
fn exported_key(stream: &TlsStream<TcpStream>) -> Option<Vec<u8>> {
    let (_, session) = stream.get_ref();
    let is_safe = session.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
    let key = session.export_keying_material(vec![0; 32], b"EXPORTER-Channel-Binding", None);
    key.ok().filter(|_| is_safe)
}
