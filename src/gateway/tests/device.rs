//! A device that speaks in bytes, and waits for words.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{SOON, Service, web_client, websocket};

const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='localhost' version='1.0'>";

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

pub(super) struct Device {
    io: Option<Box<dyn Io>>,
    /// What was received and not waited for yet.
    received: String,
}

/// Asks for new keys before every write.
struct KeyUpdates(tokio_rustls::client::TlsStream<TcpStream>);

impl AsyncRead for KeyUpdates {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for KeyUpdates {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.get_mut().1.refresh_traffic_keys().unwrap();
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

pub(super) fn connector(service: &Service, alpn: &[&str]) -> TlsConnector {
    connector_of(service, alpn, rustls::ALL_VERSIONS)
}

fn connector_of(service: &Service, alpn: &[&str], versions: &[&'static rustls::SupportedProtocolVersion]) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(service.roots.clone())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

impl Device {
    fn over(io: impl Io + 'static) -> Self {
        Self {
            io: Some(Box::new(io)),
            received: String::new(),
        }
    }

    /// In clear, or before STARTTLS.
    pub(super) async fn plain(service: &Service) -> Self {
        Self::over(TcpStream::connect(service.gateway.addresses().xmpp).await.unwrap())
    }

    /// Direct TLS, or WebSocket where a test is run once more over it.
    pub(super) async fn tls(service: &Service) -> Self {
        if websocket::over_websocket() {
            return Self::over(web_client::as_stream(service).await);
        }
        Self::tls_as(service, &["xmpp-client"]).await.unwrap()
    }

    /// Direct TLS with those protocols offered.
    pub(super) async fn tls_as(service: &Service, alpn: &[&str]) -> io::Result<Self> {
        let socket = TcpStream::connect(service.gateway.addresses().xmpps).await.unwrap();
        let tls = connector(service, alpn).connect("localhost".try_into().unwrap(), socket).await?;
        Ok(Self::over(tls))
    }

    /// Direct TLS 1.2.
    pub(super) async fn tls12(service: &Service) -> Self {
        let socket = TcpStream::connect(service.gateway.addresses().xmpps).await.unwrap();
        let tls = connector_of(service, &[], &[&rustls::version::TLS12]).connect("localhost".try_into().unwrap(), socket);
        Self::over(tls.await.unwrap())
    }

    /// Direct TLS that changes its key with every write (RFC 8446 §4.6.3).
    pub(super) async fn tls_with_key_updates(service: &Service) -> Self {
        let socket = TcpStream::connect(service.gateway.addresses().xmpps).await.unwrap();
        let tls = connector(service, &[]).connect("localhost".try_into().unwrap(), socket);
        Self::over(KeyUpdates(tls.await.unwrap()))
    }

    /// Direct TLS over a path that delivers every byte on its own.
    pub(super) async fn tls_in_bytes(service: &Service) -> Self {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let server = TcpStream::connect(service.gateway.addresses().xmpps).await.unwrap();
        server.set_nodelay(true).unwrap();
        let (mut from_device, mut to_device) = tokio::io::split(far);
        let (mut from_server, mut to_server) = server.into_split();
        tokio::spawn(async move {
            while let Ok(byte) = from_device.read_u8().await {
                to_server.write_u8(byte).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_device).await });
        let tls = connector(service, &[]).connect("localhost".try_into().unwrap(), near);
        Self::over(tls.await.unwrap())
    }

    /// Goes on inside TLS.
    pub(super) async fn starttls(mut self, service: &Service) -> Self {
        self.send(HEADER).await;
        self.hear("<required/>").await;
        self.hear("</stream:features>").await;
        self.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
        self.hear("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
        let tls = connector(service, &[]).connect("localhost".try_into().unwrap(), self.io.take().unwrap());
        Self::over(tls.await.unwrap())
    }

    pub(super) async fn send(&mut self, text: &str) {
        let io = self.io.as_mut().unwrap();
        io.write_all(text.as_bytes()).await.unwrap();
        io.flush().await.unwrap();
    }

    /// Sends, if the peer still takes it.
    pub(super) async fn try_send(&mut self, text: &str) -> bool {
        let (mut reading, mut writing) = tokio::io::split(self.io.as_mut().unwrap());
        let mut sent = 0;
        while sent < text.len() {
            let mut answer = [0; 4096];
            tokio::select! {
                written = writing.write(&text.as_bytes()[sent..]) => match written {
                    Ok(written @ 1..) => sent += written,
                    _ => return false,
                },
                read = reading.read(&mut answer) => match read {
                    Ok(read @ 1..) => self.received.push_str(std::str::from_utf8(&answer[..read]).unwrap()),
                    _ => return false,
                },
            }
            if self.received.ends_with("</stream:stream>") {
                return false;
            }
        }
        writing.flush().await.is_ok()
    }

    /// Sends byte by byte.
    pub(super) async fn trickle(&mut self, text: &str) {
        for byte in text.as_bytes() {
            let io = self.io.as_mut().unwrap();
            io.write_all(&[*byte]).await.unwrap();
            io.flush().await.unwrap();
        }
    }

    async fn read(&mut self) -> usize {
        let mut buffer = [0; 4096];
        let read = tokio::time::timeout(SOON, self.io.as_mut().unwrap().read(&mut buffer)).await;
        let read = read.unwrap_or_else(|_| panic!("nothing came behind {:?}", self.received));
        let read = read.unwrap_or(0);
        self.received.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        read
    }

    /// Waits for `word`; returns everything up to its end.
    pub(super) async fn hear(&mut self, word: &str) -> String {
        loop {
            if let Some(at) = self.received.find(word) {
                let rest = self.received.split_off(at + word.len());
                return std::mem::replace(&mut self.received, rest);
            }
            assert!(self.read().await > 0, "closed instead of {word:?}, behind {:?}", self.received);
        }
    }

    /// Everything until the peer closes.
    pub(super) async fn hear_the_end(&mut self) -> String {
        while self.read().await > 0 {}
        std::mem::take(&mut self.received)
    }

    /// PLAIN, up to the features behind it.
    /// Opens a stream and shows the password, whatever the answer.
    pub(super) async fn show_password(&mut self, device: &str) {
        self.send(HEADER).await;
        self.hear("</stream:features>").await;
        let initial = BASE64_STANDARD.encode(format!("\0{device}\0secret"));
        self.send(&format!(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{initial}</auth>"
        ))
        .await;
    }

    pub(super) async fn login(&mut self, device: &str) {
        self.show_password(device).await;
        self.hear("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>").await;
        self.send(HEADER).await;
        self.hear("</stream:features>").await;
    }

    pub(super) async fn bind(&mut self) {
        self.send("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
            .await;
        self.hear("</iq>").await;
    }

    /// Stream management; returns the id for resumption.
    pub(super) async fn enable(&mut self) -> String {
        self.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>").await;
        let enabled = self.hear("/>").await;
        let (_, id) = enabled.split_once("id='").unwrap();
        id.split_once('\'').unwrap().0.to_owned()
    }

    /// Available; waits for the echo.
    pub(super) async fn present(&mut self) {
        self.send("<presence/>").await;
        self.hear("<presence").await;
        self.hear(">").await;
    }

    pub(super) async fn acknowledge(&mut self, handled: u32) {
        self.send(&format!("<a xmlns='urn:xmpp:sm:3' h='{handled}'/>")).await;
    }

    pub(super) async fn resume(&mut self, id: &str, handled: u32) {
        self.send(&format!("<resume xmlns='urn:xmpp:sm:3' previd='{id}' h='{handled}'/>"))
            .await;
    }
}
