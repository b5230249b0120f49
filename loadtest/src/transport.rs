//! The socket under a stream: TCP from a chosen source address, plain or TLS.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::Error;

/// Which certificates a device trusts.
#[derive(Clone, Debug)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Trusts the certificates of a PEM file and nothing else; offers ALPN `xmpp-client` (XEP-0368). Tickets are not kept, so
    /// every connection is a full handshake, as after a power cut.
    ///
    /// # Errors
    /// A file that cannot be read or holds no certificate.
    pub fn ca_file(path: &Path) -> Result<Self, Error> {
        Self::new(path, rustls::client::Resumption::disabled())
    }

    /// The same, with tickets kept: after the first connections, handshakes are short ones.
    ///
    /// # Errors
    /// As [`Trust::ca_file`].
    pub fn ca_file_with_tickets(path: &Path) -> Result<Self, Error> {
        Self::new(path, rustls::client::Resumption::default())
    }

    fn new(path: &Path, resumption: rustls::client::Resumption) -> Result<Self, Error> {
        let roots = roots(path)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::Tls(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"xmpp-client".to_vec()];
        config.resumption = resumption;
        Ok(Self(Arc::new(config)))
    }
}

/// The certificates of a PEM file.
///
/// # Errors
/// A file that cannot be read or holds no certificate.
pub(crate) fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let unusable = |reason: &dyn std::fmt::Display| Error::Tls(format!("{}: {reason}", path.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| unusable(&e))? {
        roots.add(certificate.map_err(|e| unusable(&e))?).map_err(|e| unusable(&e))?;
    }
    if roots.is_empty() {
        return Err(unusable(&"no certificate"));
    }
    Ok(roots)
}

/// How the connection is protected.
#[derive(Clone, Debug)]
pub enum Security {
    /// TLS from the first byte (XEP-0368).
    Tls(Trust),
    /// STARTTLS (RFC 6120 §5).
    StartTls(Trust),
    /// None. For loopback, and behind a proxy that ends TLS.
    Plain,
}

/// A connected socket.
pub enum Transport {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Connects over TCP with Nagle off, from `source` when given (many sources keep ports from running out).
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn tcp(server: SocketAddr, source: Option<IpAddr>) -> Result<Self, Error> {
        let socket = if server.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let stream = socket.connect(server).await?;
        stream.set_nodelay(true)?;
        Ok(Self::Plain(stream))
    }

    /// Shakes hands over the plain connection, for the certificate of `domain`.
    ///
    /// # Errors
    /// A certificate that is not trusted or not for `domain`, or a connection that is encrypted already.
    pub async fn encrypt(self, trust: &Trust, domain: &str) -> Result<Self, Error> {
        let Self::Plain(stream) = self else {
            return Err(Error::Tls("encrypted already".into()));
        };
        let name = ServerName::try_from(domain.to_owned()).map_err(|e| Error::Tls(e.to_string()))?;
        let encrypted = TlsConnector::from(trust.0.clone())
            .connect(name, stream)
            .await
            .map_err(|e| Error::Tls(e.to_string()))?;
        Ok(Self::Tls(Box::new(encrypted)))
    }

    /// Whether TLS is on.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// What binds a login to this connection: `tls-exporter` (RFC 9266). `None` before TLS 1.3, where it would need more.
    pub(crate) fn exporter(&self) -> Option<[u8; 32]> {
        let Self::Tls(stream) = self else { return None };
        let tls = stream.get_ref().1;
        if tls.protocol_version() != Some(rustls::ProtocolVersion::TLSv1_3) {
            return None;
        }
        tls.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", None).ok()
    }

    /// Our own address.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn local(&self) -> Result<SocketAddr, Error> {
        Ok(self.socket().local_addr()?)
    }

    /// Ends the connection with a TCP reset, as a box does that lost its power and came back.
    pub fn reset(self) {
        // If the option cannot be set the close below is an ordinary one, which is as dead to the peer.
        let _ = self.socket().set_zero_linger();
    }

    /// Closes both directions properly.
    pub async fn close(mut self) {
        // The peer may have gone first.
        let _ = self.shutdown().await;
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
