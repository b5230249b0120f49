//! The listener: accepts within its bound, ends TLS, and hands over to the connection.

use std::{fs::File, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use futures_util::FutureExt as _;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Config, Peer, Shedding, connection, wire::Counted};
use crate::{crew::Crew, proxy::Balancers};

/// How long the listener rests when the system has no descriptor or memory for one more connection.
const REST: Duration = Duration::from_millis(100);

/// The settings of TLS for a connection that begins now.
pub type Tls = Arc<dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync>;
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;
/// What a client reads that finds no file descriptor or no room left, without TLS (RFC 9110 §15.6.4).
const NO_ROOM: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Serves `router` on `listener`, with TLS when its settings are given, until the crew stops: then no connection is accepted any
/// more, idle ones are closed, and those with a request at hand after its answer.
pub fn serve(listener: TcpListener, tls: Option<Tls>, balancers: Balancers, router: Router, config: Config, crew: &Crew) {
    serve_shedding(listener, tls, balancers, router, config, None, crew);
}

/// The same; requests that are not let in are refused before `router` sees them.
pub fn serve_shedding(
    listener: TcpListener,
    tls: Option<Tls>,
    balancers: Balancers,
    router: Router,
    config: Config,
    shedding: Option<Shedding>,
    crew: &Crew,
) {
    let listening = Listening {
        served: Served { router, shedding },
        tls,
        balancers,
        // A few more than the bound are told why before they are closed; beyond them nobody is heard, and told but that.
        spare: Arc::new(Semaphore::new(config.connections_max / 8 + 8)),
        rooms: Arc::new(Semaphore::new(config.connections_max)),
        config: Arc::new(config),
        crew: crew.clone(),
    };
    crew.spawn_vital(|stop| listening.accept(listener, stop));
}

/// What a connection asks.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) router: Router,
    pub(super) shedding: Option<Shedding>,
}

struct Listening {
    served: Served,
    tls: Option<Tls>,
    balancers: Balancers,
    rooms: Arc<Semaphore>,
    spare: Arc<Semaphore>,
    config: Arc<Config>,
    crew: Crew,
}

impl Listening {
    async fn accept(self, listener: TcpListener, stop: CancellationToken) {
        let mut reserve = File::open("/dev/null").ok();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => self.admit(socket, peer, &stop),
                Err(error) if is_of_the_connection(&error) => debug!(%error, "an HTTP connection ended before it was accepted"),
                Err(error) if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => {
                    warn!(%error, "no file descriptor is left for an HTTP connection: {error}");
                    // The reserve lets one be answered instead of left waiting. Linux says so with nobody there, too: then there
                    // is nobody to answer, and the next one may find room.
                    drop(reserve.take());
                    if let Some(Ok((socket, _))) = listener.accept().now_or_never()
                        && self.tls.is_none()
                    {
                        // Best effort: it is closed at once in any case.
                        let _ = SockRef::from(&socket).send(NO_ROOM);
                    }
                    reserve = File::open("/dev/null").ok();
                    if reserve.is_none() {
                        tokio::time::sleep(REST).await;
                    }
                }
                Err(error) => {
                    warn!(%error, "no HTTP connection can be accepted: {error}; trying again in {REST:?}");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    fn admit(&self, socket: TcpStream, peer: SocketAddr, stop: &CancellationToken) {
        let (room, full) = match Arc::clone(&self.rooms).try_acquire_owned() {
            Ok(room) => (room, false),
            Err(_) => match Arc::clone(&self.spare).try_acquire_owned() {
                Ok(room) => (room, true),
                Err(_) => {
                    debug!("an HTTP connection found no room and is closed");
                    if self.tls.is_none() {
                        // Best effort: it is closed at once in any case.
                        let _ = SockRef::from(&socket).send(NO_ROOM);
                    }
                    return;
                }
            },
        };
        if let Err(error) = self.tune(&socket) {
            debug!(%error, "an HTTP connection ended as it was accepted");
            return;
        }
        let (served, tls, config, stop) = (
            self.served.clone(),
            self.tls.as_ref().map(|tls| TlsAcceptor::from(tls())),
            Arc::clone(&self.config),
            stop.clone(),
        );
        let balancers = self.balancers.clone();
        self.crew.spawn(async move {
            let _room = room;
            let client = tokio::select! {
                client = balancers.client(&socket, peer, Duration::from_secs(config.head_secs)) => client,
                () = stop.cancelled() => None,
            };
            let Some(client) = client else { return };
            // A balancer's header is none of the client's traffic.
            let (socket, wire) = Counted::new(socket);
            let Some(tls) = tls else {
                let peer = Peer { client, tls: false };
                return connection::run(socket, (wire, peer), served, &config, stop, full).await;
            };
            match timeout(Duration::from_secs(config.head_secs), tls.accept(socket)).await {
                Ok(Ok(stream)) => {
                    let peer = Peer { client, tls: true };
                    connection::run(stream, (wire, peer), served, &config, stop, full).await;
                }
                Ok(Err(error)) => {
                    debug!(%error, client.address = %client, "a TLS handshake of an HTTP connection from {client} failed: {error}")
                }
                Err(_) => debug!(client.address = %client, "a TLS handshake of an HTTP connection from {client} took too long"),
            }
        });
    }

    fn tune(&self, socket: &TcpStream) -> std::io::Result<()> {
        socket.set_nodelay(true)?;
        // Covers a peer that is gone as well as one whose window stays shut.
        SockRef::from(socket).set_tcp_user_timeout(Some(Duration::from_secs(self.config.write_secs)))
    }
}

/// Errors of `accept` that concern the one connection alone.
fn is_of_the_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests;
