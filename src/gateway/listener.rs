//! Accepting connections: socket options, admission, and the task of each connection.

use std::{
    fs::File,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Closing, Connection, Next},
    linger::close,
    login::{Step, deliver, login, random, secured},
    metrics::{Reason, Refused},
    shared::Shared,
    wire::Wire,
};
use crate::{
    proxy::Balancers,
    store::Transport,
    xmpp::{ServerStream, SessionEnd, StreamError},
};

/// Connections that are accepted in a row before others get their turn.
const ACCEPTS_A_TURN: u64 = 16;
/// After a failed accept that no descriptor helps.
const PAUSE: Duration = Duration::from_millis(100);

/// What a client reads that finds no file descriptor left, on the port where it can read it before TLS.
const NO_FILES: &[u8] =
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>\
<stream:error><resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>";

/// Binds a listening socket.
pub(super) fn bind(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

/// One listener, and who may stand before it.
pub(super) struct Listening {
    pub(super) listener: TcpListener,
    pub(super) transport: Transport,
    pub(super) balancers: Balancers,
}

/// Accepts until `stop`.
pub(super) async fn serve(listening: Listening, shared: Arc<Shared>, stop: CancellationToken) {
    let Listening {
        listener,
        transport,
        balancers,
    } = listening;
    let mut reserve = File::open("/dev/null").ok();
    for number in 0_u64.. {
        if number.is_multiple_of(ACCEPTS_A_TURN) {
            // Sessions that are up go before a crowd that comes.
            tokio::task::yield_now().await;
        }
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                let incoming = Incoming {
                    socket,
                    peer,
                    transport,
                    balancers: balancers.clone(),
                };
                admit(incoming, &shared);
            }
            Err(error) if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => {
                tracing::warn!(error = %error, "no file descriptor is left for a connection: {error}");
                // Without this the listener would stay readable, and the loop would spin. Linux says so with nobody there, too:
                // then there is nobody to tell, and the next one may find room.
                drop(reserve.take());
                if let Some(Ok((socket, _))) = listener.accept().now_or_never() {
                    shared.metrics.refused(Refused::Files);
                    if transport == Transport::Xmpp {
                        // Best effort: the socket is closed at once in any case.
                        let _ = SockRef::from(&socket).send(NO_FILES);
                    }
                }
                reserve = File::open("/dev/null").ok();
                if reserve.is_none() {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            // The peer gave up between its connect and our accept.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::warn!(error = %error, "a connection was not accepted: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// A connection that was accepted.
struct Incoming {
    socket: TcpStream,
    /// Who is at its other end: a balancer, or the client itself.
    peer: SocketAddr,
    transport: Transport,
    balancers: Balancers,
}

/// Takes a connection, or tells it why not.
fn admit(incoming: Incoming, shared: &Arc<Shared>) {
    if let Err(error) = configure(&incoming.socket, shared) {
        tracing::debug!(error = %error, "a connection was gone before it was served: {error}");
        return;
    }
    let refused = match place(shared) {
        Ok(place) => return shared.spawn(run(incoming, shared.clone(), place)),
        Err(refused) => refused,
    };
    shared.metrics.refused(refused);
    if incoming.transport == Transport::Xmpp
        && let Ok(permit) = shared.refusals.clone().try_acquire_owned()
    {
        shared.spawn(refuse(incoming, shared.clone(), permit));
    }
}

/// A place among the connections that have not logged in.
pub(super) enum Place {
    /// It is free.
    Free(OwnedSemaphorePermit),
    /// It is that of a silent connection which is on its way out.
    InTurn,
}

impl Place {
    async fn taken(self, shared: &Shared) -> Option<OwnedSemaphorePermit> {
        match self {
            Self::Free(permit) => Some(permit),
            // Never closed, so there is always a place in the end.
            Self::InTurn => shared.unauthenticated.clone().acquire_owned().await.ok(),
        }
    }
}

/// Finds a place for one more connection.
pub(super) fn place(shared: &Shared) -> Result<Place, Refused> {
    match shared.unauthenticated.clone().try_acquire_owned() {
        Ok(permit) if !shared.full() => Ok(Place::Free(permit)),
        Ok(_) => Err(Refused::Sessions),
        // Who says nothing goes first.
        Err(_) if shared.entrance.evict() => Ok(Place::InTurn),
        Err(_) => Err(Refused::Unauthenticated),
    }
}

pub(super) fn configure(socket: &TcpStream, shared: &Shared) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let config = &shared.config;
    let socket = SockRef::from(socket);
    socket.set_tcp_user_timeout(Some(Duration::from_secs(config.tcp_user_timeout_secs)))?;
    // A backstop only: the stream asks for signs of life itself, and a device should not wake up twice.
    let keepalive = TcpKeepalive::new()
        .with_time(config.keepalive() * 2)
        .with_interval(config.overdue());
    socket.set_tcp_keepalive(&keepalive)
}

fn open(incoming: Incoming, client: SocketAddr, shared: &Arc<Shared>) -> Option<Arc<Connection>> {
    let Incoming { socket, transport, .. } = incoming;
    let secured = secured(transport);
    let wire = if secured { Wire::tls(shared.tls.get()).ok()? } else { Wire::Plain };
    let stream = stream(shared, secured)?;
    Some(Connection::new(socket, client, transport, shared.clone(), stream, wire))
}

/// The stream of a new connection. `None`: the system gives no random bytes.
pub(super) fn stream(shared: &Shared, secured: bool) -> Option<ServerStream> {
    let now = Instant::now();
    let mut stream = ServerStream::new(shared.stream.clone(), secured, random()?, now);
    if let Some(lifetime) = shared.config.session_lifetime(u32::from_le_bytes(random()?)) {
        stream.retire_at(now + lifetime);
    }
    Some(stream)
}

/// Whose connection it is, or `None` when it is to be closed: a balancer did not say, or the node stops.
async fn client(incoming: &Incoming, shared: &Shared) -> Option<SocketAddr> {
    let stop = shared.crew.get().map(crate::crew::Crew::stop_token).unwrap_or_default();
    tokio::select! {
        client = incoming.balancers.client(&incoming.socket, incoming.peer, shared.config.login_within()) => client,
        () = stop.cancelled() => None,
    }
}

/// The task of one connection. Its future stays small: what is large is boxed, and gone when the session is idle.
async fn run(incoming: Incoming, shared: Arc<Shared>, place: Place) {
    let Some(permit) = place.taken(&shared).await else { return };
    let Some(client) = Box::pin(client(&incoming, &shared)).await else {
        return;
    };
    let Some(connection) = open(incoming, client, &shared) else {
        tracing::error!("a connection was dropped: TLS or the random generator failed to start");
        return;
    };
    attend(connection, shared, permit).await;
}

/// The same for a connection that came in by another listener, once it is `opened`.
pub(super) async fn run_opened(opened: impl Future<Output = Option<Arc<Connection>>>, shared: Arc<Shared>, place: Place) {
    let Some(permit) = place.taken(&shared).await else { return };
    if let Some(connection) = Box::pin(opened).await {
        attend(connection, shared, permit).await;
    }
}

/// Serves a connection from its login to its end.
async fn attend(connection: Arc<Connection>, shared: Arc<Shared>, permit: OwnedSemaphorePermit) {
    let guard = Guard(Some(connection));
    if let Some(connection) = &guard.0 {
        shared.metrics.unauthenticated.inc();
        let counted = Counted(&shared);
        let logged_in = Box::pin(login(connection)).await;
        drop((counted, permit));
        if logged_in {
            live(connection).await;
        }
    }
    if let Some(connection) = guard.finished() {
        Box::pin(close(connection)).await;
    }
}

/// Serves a session until it ends.
async fn live(connection: &Arc<Connection>) {
    loop {
        match Step(connection).await {
            Next::Close => return,
            Next::Deliver => Box::pin(deliver(connection)).await,
            Next::Ask => {
                connection.guarded(|connection, state| {
                    state.asked = None;
                    tracing::error!("a session asked for what belongs to its login, and was ended");
                    connection.fail(state, &StreamError::InternalServerError, Reason::Bug, Instant::now());
                });
            }
        }
    }
}

/// Tells a client that there is no room.
async fn refuse(incoming: Incoming, shared: Arc<Shared>, _permit: OwnedSemaphorePermit) {
    let Some(client) = client(&incoming, &shared).await else {
        return;
    };
    let Some(connection) = open(incoming, client, &shared) else {
        return;
    };
    let retry_after = shared.retry_after();
    connection.guarded(|connection, state| {
        connection.fail(
            state,
            &StreamError::ResourceConstraint { retry_after },
            Reason::Full,
            Instant::now(),
        );
    });
    close(connection).await;
}

/// Gives the count of unauthenticated connections back.
struct Counted<'a>(&'a Shared);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.metrics.unauthenticated.dec();
    }
}

/// Closes the connection when its task fails by a bug: its session must not stay behind as a ghost.
struct Guard(Option<Arc<Connection>>);

impl Guard {
    fn finished(mut self) -> Option<Arc<Connection>> {
        self.0.take()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            tracing::error!("the task of a connection failed by a bug; its session is over");
            connection.state.lock().closing = Some(Closing {
                end: SessionEnd::Over,
                reason: Reason::Bug,
            });
            let shared = connection.shared.clone();
            shared.spawn(close(connection));
        }
    }
}
