//! Where other nodes come in: their certificates are checked, and what they say is told to this node.

use std::{io, sync::Arc, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Shared,
    message::{self, Received},
    metrics::Dropped,
};
use crate::{crew::Crew, domain::sha256};

/// How long a connection may say nothing before the kernel asks whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// What is read at once.
const READ_BYTES: usize = 64 * 1024;

/// What a connection between nodes needs: no delay, and an end when the other side is gone.
pub(super) fn set_up(stream: &TcpStream, unacknowledged: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(Duration::from_secs(5))
            .with_retries(2),
    )?;
    socket.set_tcp_user_timeout(Some(unacknowledged))
}

/// Writes all of it, to a node that reads.
pub(super) async fn write_all(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8], within: Duration) -> io::Result<()> {
    let writing = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    match timeout(within, writing).await {
        Ok(written) => written,
        Err(_) => Err(io::Error::other("it does not read")),
    }
}

/// Accepts nodes until the stop.
pub(super) async fn serve(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>, crew: Crew, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(shared.config.connections_max.max(1)));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!("no connection of another node can be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            debug!(
                "a connection of another node is refused: cluster.connections_max = {}",
                shared.config.connections_max
            );
            continue;
        };
        let (shared, acceptor, stop) = (shared.clone(), acceptor.clone(), stop.clone());
        crew.spawn(async move {
            let _place = place;
            let ended = stop.run_until_cancelled(welcome(stream, &acceptor, &shared)).await;
            if let Some(Err(error)) = ended {
                debug!("a connection of another node ended: {error}");
            }
        });
    }
}

async fn welcome(stream: TcpStream, acceptor: &TlsAcceptor, shared: &Shared) -> io::Result<()> {
    set_up(&stream, shared.config.write_within())?;
    let mut stream = match timeout(shared.config.connect_within(), acceptor.accept(stream)).await {
        Ok(accepted) => accepted?,
        Err(_) => return Err(io::Error::other("the handshake took too long")),
    };
    let (_, session) = stream.get_ref();
    let shown = session
        .peer_certificates()
        .and_then(<[_]>::first)
        .map(|certificate| sha256(certificate));
    let name = shared
        .known
        .read()
        .iter()
        .find(|peer| Some(peer.fingerprint) == shown)
        .map(|peer| Arc::clone(&peer.node));
    let name = name.unwrap_or_else(|| "?".into());
    let mut bytes = Vec::with_capacity(READ_BYTES);
    let mut answers = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        let taken = message::each(&bytes, |received| match received {
            Received::Hint(hint) => shared.hear(hint),
            Received::Lost => shared.node.lost(),
            Received::Ask(number, question) => {
                message::put_answer(&mut answers, number, shared.node.answer(&question).as_deref());
            }
            Received::Answer(..) => {}
        });
        match taken {
            Ok(taken) => {
                bytes.drain(..taken);
            }
            Err(error) => {
                warn!("node {name} sent {error}; its connection is closed");
                shared.metrics.dropped(Dropped::Unread);
                shared.node.lost();
                return Err(io::Error::other(error));
            }
        }
        if bytes.is_empty() && bytes.capacity() > 4 * READ_BYTES {
            bytes = Vec::with_capacity(READ_BYTES);
        }
        if !answers.is_empty() {
            write_all(&mut stream, &answers, shared.config.write_within()).await?;
            answers.clear();
        }
    }
}
