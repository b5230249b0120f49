//! What the ledger is charged.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    crew::Crew,
    http::{self, HttpMetrics},
    proxy::Balancers,
};

/// Over a real socket: what the ledger is charged is what the client saw.
#[tokio::test]
async fn each_exchange_is_charged_what_its_socket_carried() {
    let scene = Scene::new(Config::default()).await;
    let id = scene.push("box", Urgency::Normal, r#"{"specversion":"1.0"}"#).await;
    let (address, _crew) = serve(&scene, None).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    let credentials = basic("box@localhost", "secret");
    let head = |line: &str| format!("{line} HTTP/1.1\r\nhost: x\r\nauthorization: {credentials}\r\n");
    let body = json!({ "ids": [id] }).to_string();
    let requests = [
        head("GET /v1/devices/box/events") + "\r\n",
        head("GET /gated") + "\r\n",
        head("POST /v1/devices/box/acks") + &format!("content-length: {}\r\n\r\n{body}", body.len()),
        head("GET /v1/devices/box/events") + "\r\n",
    ];
    let mut answers = Vec::new();
    for request in &requests {
        socket.write_all(request.as_bytes()).await.unwrap();
        answers.push(read_answer(&mut socket).await);
    }
    assert_eq!(scene.notes.traffic.lock().len(), 2, "the last is not over yet");
    drop(socket);
    until(|| scene.notes.traffic.lock().len() == 3).await;
    let traffic = scene.notes.traffic.lock().clone();
    let expected = [
        (Exchange::Poll(PollResult::Events), 0, r#"{"specversion":"1.0"}"#.len()),
        (Exchange::Acks, 2, 0),
        (Exchange::Poll(PollResult::Empty), 3, 0),
    ];
    for ((exchange, inward, outward, payload), (expected, at, events)) in traffic.iter().zip(expected) {
        assert_eq!((*exchange, *payload), (expected, events as u64));
        assert_eq!(
            (inward.bytes, outward.bytes),
            (requests[at].len() as u64, answers[at] as u64),
            "{exchange:?}"
        );
        assert!(inward.packets >= 1 && outward.packets >= 1);
    }
    assert_eq!((traffic[0].1.packets, traffic[0].2.packets), (3, 2), "with the handshake of TCP");
    assert!(scene.logins("checked") == 1 && scene.results() == [PollResult::Events, PollResult::Empty]);
}

/// Reads one answer with a length; gives its size.
async fn read_answer(socket: &mut (impl AsyncRead + Unpin)) -> usize {
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = socket.read(&mut piece).await.unwrap();
        assert!(read > 0, "the connection is kept");
        answer.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&answer).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1).unwrap();
            if body.len() >= length.split("\r\n").next().unwrap().parse().unwrap() {
                return answer.len();
            }
        }
    }
}

/// Serves the door on a socket.
async fn serve(scene: &Scene, tls: Option<Arc<rustls::ServerConfig>>) -> (SocketAddr, Crew) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, crew) = (listener.local_addr().unwrap(), Crew::default());
    let metrics = HttpMetrics::register(&prometheus::Registry::new()).unwrap();
    let gated = Router::new().route("/gated", axum::routing::get(async || ""));
    let router = http::mount_beside(gated, scene.router.clone(), http::Access::of_keys(|_| None), metrics);
    let tls = tls.map(|tls| -> http::Tls { Arc::new(move || tls.clone()) });
    http::serve(listener, tls, Balancers::default(), router, http::Config::default(), &crew);
    (address, crew)
}

/// A client's socket below its TLS.
struct Tap {
    socket: TcpStream,
    read: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
}

impl AsyncRead for Tap {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(cx, buffer);
        self.read.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        result
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &result {
            self.written.fetch_add(*written as u64, Ordering::Relaxed);
        }
        result
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn with_tls_the_exchanges_of_a_connection_are_charged_all_that_it_carried() {
    let scene = Scene::new(Config::default()).await;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let private = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let server = rustls::ServerConfig::builder().with_no_client_auth();
    let server = server.with_single_cert(vec![certificate.clone()], private).unwrap();
    let (address, _crew) = serve(&scene, Some(Arc::new(server))).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let (read, written) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let tap = Tap {
        socket: TcpStream::connect(address).await.unwrap(),
        read: read.clone(),
        written: written.clone(),
    };
    let name = "localhost".try_into().unwrap();
    let mut socket = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, tap).await.unwrap();
    let credentials = basic("box", "secret");
    let request = format!("GET /v1/devices/box/events HTTP/1.1\r\nhost: x\r\nauthorization: {credentials}\r\n\r\n");
    let mut clear = 0;
    for _ in 0..3 {
        socket.write_all(request.as_bytes()).await.unwrap();
        clear += read_answer(&mut socket).await;
    }
    socket.shutdown().await.unwrap();
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).await.unwrap();
    until(|| scene.notes.traffic.lock().len() == 3).await;
    let traffic = scene.notes.traffic.lock().clone();
    let sum = |pick: fn(&(Exchange, Carried, Carried, u64)) -> u64| traffic.iter().map(pick).sum::<u64>();
    let (inward, outward) = (sum(|one| one.1.bytes), sum(|one| one.2.bytes));
    assert_eq!((inward, outward), (written.load(Ordering::Relaxed), read.load(Ordering::Relaxed)));
    assert!(
        outward > clear as u64 + 500 && traffic[0].2.bytes > traffic[1].2.bytes + 500,
        "the handshake is in the first: {traffic:?}"
    );
}
