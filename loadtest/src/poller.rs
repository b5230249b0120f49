//! A box that still polls: `GET /v1/devices/{id}/events` with HTTP Basic, over TLS, counting what its socket carries.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::{
    ClientConfig, HandshakeKind,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    Error, Traffic,
    answer::{Answer, push_line, read_answer},
    counted::{Counted, Counter},
    error::in_time,
    transport::roots,
};

/// Longest wait for a connection, an answer, or the end of a connection.
const WITHIN: Duration = Duration::from_secs(30);

/// Where boxes poll.
#[derive(Clone, Debug)]
pub struct Door {
    server: SocketAddr,
    domain: String,
    tls: ClientConfig,
    pad: usize,
}

impl Door {
    /// HTTPS at `server`, whose certificate for `domain` comes from the authority in `ca`. Keys are agreed by X25519, as boxes do;
    /// tickets are not kept.
    ///
    /// # Errors
    /// A file that cannot be read or holds no certificate.
    pub fn new(server: SocketAddr, domain: &str, ca: &Path) -> Result<Self, Error> {
        let provider = CryptoProvider {
            kx_groups: vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
            ..aws_lc_rs::default_provider()
        };
        let mut tls = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::Tls(e.to_string()))?
            .with_root_certificates(roots(ca)?)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        tls.resumption = Resumption::disabled();
        Ok(Self {
            server,
            domain: domain.into(),
            tls,
            pad: 0,
        })
    }

    /// Each request has a cookie of so many bytes. Default 0, which means none.
    pub fn with_cookie(mut self, bytes: usize) -> Self {
        self.pad = bytes;
        self
    }
}

/// One box.
pub struct Poller {
    server: SocketAddr,
    name: ServerName<'static>,
    connector: TlsConnector,
    path: String,
    head: Vec<u8>,
    connection: Option<Connection>,
    traffic: Traffic,
    handshake: Option<HandshakeKind>,
}

struct Connection {
    stream: TlsStream<Counted<TcpStream>>,
    counter: Counter,
    read: Vec<u8>,
}

impl Poller {
    /// A box that is not connected yet; it connects with its first poll. With `resumes` it keeps the tickets that it gets, and every
    /// connection after its first resumes a TLS session.
    ///
    /// # Errors
    /// A domain that no certificate can have.
    pub fn new(door: &Door, device: &str, password: &str, resumes: bool) -> Result<Self, Error> {
        let mut tls = door.tls.clone();
        if resumes {
            tls.resumption = Resumption::in_memory_sessions(4);
        }
        let authorization = BASE64_STANDARD.encode(format!("{device}@{}:{password}", door.domain));
        let mut head = Vec::new();
        push_line(&mut head, &["host: ", &door.domain]);
        push_line(&mut head, &["authorization: Basic ", &authorization]);
        if door.pad > 0 {
            push_line(&mut head, &["cookie: ", &"x".repeat(door.pad)]);
        }
        Ok(Self {
            server: door.server,
            name: ServerName::try_from(door.domain.clone()).map_err(|e| Error::Tls(e.to_string()))?,
            connector: TlsConnector::from(Arc::new(tls)),
            path: format!("/v1/devices/{device}"),
            head,
            connection: None,
            traffic: Traffic::default(),
            handshake: None,
        })
    }

    /// Asks what waits. With an entity tag of an earlier answer, 304 says that nothing changed.
    ///
    /// # Errors
    /// The connection, or none in time. The next poll opens a new one.
    pub async fn poll(&mut self, etag: Option<&str>) -> Result<Answer, Error> {
        let condition = etag.map(|etag| ("if-none-match", etag));
        self.request("GET", "/events", condition, b"").await
    }

    /// Acknowledges events by their ids.
    ///
    /// # Errors
    /// As [`Poller::poll`].
    pub async fn acknowledge(&mut self, ids: &[&str]) -> Result<Answer, Error> {
        let body = serde_json::json!({ "ids": ids }).to_string();
        let kind = Some(("content-type", "application/json"));
        self.request("POST", "/acks", kind, body.as_bytes()).await
    }

    async fn request(&mut self, method: &str, what: &str, header: Option<(&str, &str)>, body: &[u8]) -> Result<Answer, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let mut request = Vec::with_capacity(512);
        push_line(&mut request, &[method, " ", &self.path, what, " HTTP/1.1"]);
        request.extend_from_slice(&self.head);
        if let Some((name, value)) = header {
            push_line(&mut request, &[name, ": ", value]);
        }
        if method != "GET" {
            push_line(&mut request, &["content-length: ", &body.len().to_string()]);
        }
        push_line(&mut request, &[]);
        request.extend_from_slice(body);
        let before = connection.counter.sides();
        let answer = in_time("an HTTP answer", WITHIN, async {
            let Connection { stream, read, .. } = &mut connection;
            stream.write_all(&request).await?;
            stream.flush().await?;
            read_answer(stream, read, method).await
        })
        .await;
        self.take_in(&connection.counter, before);
        let answer = answer?;
        self.traffic.answers += 1;
        if answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.end(connection).await?;
        } else {
            self.connection = Some(connection);
        }
        Ok(answer)
    }

    async fn connect(&mut self) -> Result<Connection, Error> {
        let connect = async {
            let socket = TcpStream::connect(self.server).await?;
            socket.set_nodelay(true)?;
            let (socket, counter) = Counted::new(socket);
            let stream = self.connector.connect(self.name.clone(), socket).await;
            Ok((stream.map_err(|e| Error::Tls(e.to_string()))?, counter))
        };
        let (stream, counter) = in_time("connect", WITHIN, connect).await?;
        self.traffic.connections += 1;
        self.handshake = stream.get_ref().1.handshake_kind();
        self.take_in(&counter, Default::default());
        Ok(Connection {
            stream,
            counter,
            read: Vec::new(),
        })
    }

    /// Ends the connection in good order: close_notify, FIN, and what the service still says is read.
    ///
    /// # Errors
    /// The service does not end its side in time.
    pub async fn close(&mut self) -> Result<(), Error> {
        match self.connection.take() {
            Some(connection) => self.end(connection).await,
            None => Ok(()),
        }
    }

    async fn end(&mut self, mut connection: Connection) -> Result<(), Error> {
        let before = connection.counter.sides();
        let ended = in_time("the end of the connection", WITHIN, async {
            let gone = |error: io::Error| match error.kind() {
                // The service may have ended its side first, without close_notify too.
                io::ErrorKind::NotConnected | io::ErrorKind::UnexpectedEof => Ok(0),
                _ => Err(Error::Io(error)),
            };
            connection.stream.shutdown().await.or_else(|error| gone(error).map(drop))?;
            let mut rest = [0; 256];
            while connection.stream.read(&mut rest).await.or_else(gone)? > 0 {}
            Ok(())
        })
        .await;
        self.take_in(&connection.counter, before);
        self.traffic.closed += 1;
        ended
    }

    fn take_in(&mut self, counter: &Counter, (sent, received): (crate::counted::Side, crate::counted::Side)) {
        let (out, inward) = counter.sides();
        self.traffic.sent.add(out.since(sent));
        self.traffic.received.add(inward.since(received));
    }

    /// What all its connections carried.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Whether its last connection resumed a TLS session. `None` before the first.
    pub fn resumed(&self) -> Option<bool> {
        self.handshake.map(|kind| kind == HandshakeKind::Resumed)
    }

    /// TLS version, cipher and key agreement of the connection that is up.
    pub fn protection(&self) -> Option<String> {
        let tls = self.connection.as_ref()?.stream.get_ref().1;
        Some(format!(
            "{:?}, {:?}, {:?}",
            tls.protocol_version()?,
            tls.negotiated_cipher_suite()?.suite(),
            tls.negotiated_key_exchange_group()?.name()
        ))
    }
}
