//! A connection to the XMPP endpoint on which a test says exactly what it wants to say.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};

use super::{SOON, xml, xml::Element};

pub const STREAM_HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='localhost' version='1.0'>";

enum Socket {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

pub struct Wire {
    socket: Socket,
    /// Read and not consumed.
    read: Vec<u8>,
    /// The peer has closed.
    ended: bool,
}

impl Wire {
    /// TCP only: for STARTTLS, and for bad input before TLS.
    pub fn plain(address: SocketAddr) -> Self {
        let socket = TcpStream::connect_timeout(&address, SOON).expect("connects");
        socket.set_nodelay(true).unwrap();
        Self {
            socket: Socket::Plain(socket),
            read: Vec::new(),
            ended: false,
        }
    }

    /// Direct TLS (XEP-0368), verified against the certificate authority in `ca`.
    pub fn tls(address: SocketAddr, ca: &Path) -> Self {
        Self::plain(address).secured(ca)
    }

    /// Starts TLS on this connection.
    pub fn secured(self, ca: &Path) -> Self {
        let Socket::Plain(mut tcp) = self.socket else {
            panic!("TLS is up already")
        };
        tcp.set_read_timeout(Some(SOON)).unwrap();
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).expect("ca.pem is there") {
            roots.add(certificate.expect("ca.pem holds certificates")).expect("it is a CA");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"xmpp-client".to_vec()];
        let mut tls = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp).expect("the TLS handshake succeeds");
        }
        Self {
            socket: Socket::Tls(Box::new(StreamOwned::new(tls, tcp))),
            read: Vec::new(),
            ended: false,
        }
    }

    /// Sends, and panics when the peer does not take it.
    pub fn send(&mut self, text: &str) {
        self.try_send(text.as_bytes()).expect("the server takes what is sent");
    }

    /// Sends bytes; an error means that the peer closed.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.socket {
            Socket::Plain(tcp) => tcp.write_all(bytes),
            Socket::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        }
    }

    /// The next element, or `None` when none came within that time or the peer closed.
    pub fn element(&mut self, within: Duration) -> Option<Element> {
        let deadline = Instant::now() + within;
        loop {
            let text = String::from_utf8_lossy(&self.read);
            // A lossy character at the end is one that has arrived in part; what is whole before it is not touched.
            if let Some((element, taken)) = xml::first(&text)
                && !element.raw.contains('\u{fffd}')
            {
                self.read.drain(..taken);
                return Some(element);
            }
            if self.ended || !self.fill(deadline) {
                return None;
            }
        }
    }

    /// The next element, which must come.
    #[track_caller]
    pub fn expect(&mut self, name: &str) -> Element {
        match self.element(SOON) {
            Some(element) if element.name() == name => element,
            other => panic!(
                "expected <{name}>, got {other:?}; ended: {}, unread: {:?}",
                self.ended,
                String::from_utf8_lossy(&self.read)
            ),
        }
    }

    /// Everything until the peer closes. Panics when it does not within that time.
    #[track_caller]
    pub fn to_end(&mut self, within: Duration) -> String {
        let deadline = Instant::now() + within;
        while !self.ended {
            let more = self.fill(deadline);
            assert!(
                more || self.ended,
                "the server did not close within {within:?}; it said {:?}",
                String::from_utf8_lossy(&self.read)
            );
        }
        String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned()
    }

    /// Whether the peer has closed.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Reads once. False: nothing came before the deadline, or the peer closed.
    fn fill(&mut self, deadline: Instant) -> bool {
        let mut buffer = [0; 16 * 1024];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let result = match &mut self.socket {
                Socket::Plain(tcp) => tcp.set_read_timeout(Some(left)).and_then(|()| tcp.read(&mut buffer)),
                Socket::Tls(tls) => tls.sock.set_read_timeout(Some(left)).and_then(|()| tls.read(&mut buffer)),
            };
            match result {
                Ok(0) => {
                    self.ended = true;
                    return false;
                }
                Ok(count) => {
                    self.read.extend_from_slice(&buffer[..count]);
                    return true;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(_) => {
                    self.ended = true;
                    return false;
                }
            }
        }
    }
}
