//! PROXY protocol, version 2: from balancers that the operator names, the address of the client behind them.
//!
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt> §2.2. The header is read off the socket byte for byte, so
//! that nothing of what follows (TLS, XMPP, HTTP) is taken with it. From everybody else a header is garbage, as it would
//! let them choose their address; from a balancer without one it is a fault of its settings, and closed.

mod header;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use tokio::{net::TcpStream, time::timeout};
use tracing::warn;

pub use header::HeaderError;
use header::{PREFIX_BYTES, Prefix};

/// Why a balancer's connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// What came is no header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The connection ended, or broke.
    #[error("the connection ended before its header: {0}")]
    Socket(#[from] io::Error),
    /// Nothing, or not all of it, came.
    #[error("no header came in time")]
    Late,
}

/// A listener that balancers may stand before; the label `listener` of `unpoll_proxy_headers_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// `[xmpp] listen`.
    Xmpp,
    /// `[xmpp] listen_tls`.
    Xmpps,
    /// `[http] listen`.
    Http,
    /// `[https] listen`.
    Https,
}

impl Listener {
    const ALL: [Self; 4] = [Self::Xmpp, Self::Xmpps, Self::Http, Self::Https];

    fn as_str(self) -> &'static str {
        match self {
            Self::Xmpp => "xmpp",
            Self::Xmpps => "xmpps",
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Counts headers, for all listeners.
#[derive(Clone, Debug)]
pub struct ProxyMetrics(IntCounterVec);

impl ProxyMetrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When a metric of the same name is there.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let headers = IntCounterVec::new(
            Opts::new(
                "unpoll_proxy_headers_total",
                "Connections from balancers: their PROXY header was taken (ok), or was missing or wrong, and they were closed (bad).",
            ),
            &["listener", "result"],
        )?;
        for listener in Listener::ALL {
            for result in ["ok", "bad"] {
                headers.get_metric_with_label_values(&[listener.as_str(), result])?;
            }
        }
        registry.register(Box::new(headers.clone()))?;
        Ok(Self(headers))
    }
}

/// The balancers before one listener. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Balancers(Option<Arc<Known>>);

#[derive(Debug)]
struct Known {
    networks: Vec<IpNet>,
    listener: Listener,
    ok: IntCounter,
    bad: IntCounter,
}

impl Balancers {
    /// Whoever connects from `networks`; nobody when there are none.
    ///
    /// # Errors
    /// Never, unless the metrics are of another kind: a bug.
    pub fn new(networks: &[IpNet], listener: Listener, metrics: &ProxyMetrics) -> prometheus::Result<Self> {
        if networks.is_empty() {
            return Ok(Self(None));
        }
        let count = |result| metrics.0.get_metric_with_label_values(&[listener.as_str(), result]);
        Ok(Self(Some(Arc::new(Known {
            networks: networks.to_vec(),
            listener,
            ok: count("ok")?,
            bad: count("bad")?,
        }))))
    }

    /// What is known of `peer` if it is a balancer.
    fn known(&self, peer: SocketAddr) -> Option<&Known> {
        let address = peer.ip().to_canonical();
        let known = self.0.as_deref()?;
        known.networks.iter().any(|network| network.contains(&address)).then_some(known)
    }

    /// Whose connection it is: `peer`, or the client that a balancer names within that time. `None`: it is to be closed, which
    /// is logged and counted here.
    pub async fn client(&self, socket: &TcpStream, peer: SocketAddr, within: Duration) -> Option<SocketAddr> {
        let Some(known) = self.known(peer) else {
            return Some(peer);
        };
        let read = match timeout(within, read(socket)).await {
            Ok(read) => read,
            Err(_) => Err(ProxyError::Late),
        };
        match read {
            Ok(client) => {
                known.ok.inc();
                Some(client.unwrap_or(peer))
            }
            Err(error) => {
                known.bad.inc();
                let listener = known.listener.as_str();
                warn!(client.address = %peer, "the balancer {peer} sent no PROXY header to {listener}, and its connection is closed: {error}");
                None
            }
        }
    }
}

/// Reads a header, and not a byte more.
async fn read(socket: &TcpStream) -> Result<Option<SocketAddr>, ProxyError> {
    let mut header = vec![0; PREFIX_BYTES];
    let mut filled = 0;
    let mut prefix: Option<Prefix> = None;
    loop {
        socket.readable().await?;
        match socket.try_read(header.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        }
        if prefix.is_none() {
            // What cannot become a header is refused at its first wrong byte.
            prefix = Prefix::read(header.get(..filled).unwrap_or_default())?;
            if let Some(prefix) = &prefix {
                header.resize(PREFIX_BYTES + prefix.rest(), 0);
            }
        }
        if let Some(prefix) = &prefix
            && filled == header.len()
        {
            return Ok(prefix.client(&header)?);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpListener};

    use super::*;

    fn balancers(network: &str) -> Balancers {
        let metrics = ProxyMetrics::register(&Registry::new()).unwrap();
        Balancers::new(&[network.parse().unwrap()], Listener::Xmpps, &metrics).unwrap()
    }

    /// What becomes of a connection from loopback that sends these pieces, and the next byte after the header.
    async fn sends(balancers: &Balancers, pieces: &[&[u8]]) -> (Option<SocketAddr>, SocketAddr, Option<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut socket, peer) = listener.accept().await.unwrap();
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let writes = tokio::spawn(async move {
            for piece in pieces {
                client.write_all(&piece).await.unwrap();
                client.flush().await.unwrap();
                tokio::task::yield_now().await;
            }
            client
        });
        let found = balancers.client(&socket, peer, Duration::from_secs(10)).await;
        let client = writes.await.unwrap();
        drop(client);
        let mut next = [0];
        let next = socket.read(&mut next).await.ok().filter(|read| *read == 1).map(|_| next[0]);
        (found, peer, next)
    }

    #[tokio::test]
    async fn what_follows_the_header_is_left_on_the_socket() {
        let header = header::tests::header(0x21, 0x11, &[192, 0, 2, 7, 127, 0, 0, 1, 0x30, 0x39, 0x14, 0x66]);
        let all = [header.as_slice(), b"\x16rest"].concat();
        let whole = balancers("127.0.0.0/8");
        let client: SocketAddr = "192.0.2.7:12345".parse().unwrap();
        for at in 0..=all.len() {
            let (found, _, next) = sends(&whole, &[&all[..at], &all[at..]]).await;
            assert_eq!((found, next), (Some(client), Some(0x16)), "split at {at}");
        }
        let known = whole.0.as_ref().unwrap();
        assert_eq!((known.ok.get(), known.bad.get()), (all.len() as u64 + 1, 0));
    }

    #[tokio::test]
    async fn only_balancers_are_believed_and_they_must_say_who_it_is() {
        let header = header::tests::header(0x21, 0x11, &[192, 0, 2, 7, 127, 0, 0, 1, 0x30, 0x39, 0x14, 0x66]);
        for stranger in [balancers("10.0.0.0/8"), Balancers::default()] {
            let (found, peer, next) = sends(&stranger, &[&header]).await;
            assert_eq!((found, next), (Some(peer), Some(b'\r')));
        }
        let whole = balancers("127.0.0.0/8");
        for bad in [b"\x16\x03\x01".as_slice(), b"GET / HTTP/1.1\r\n\r\n", b"\r\n\r\n\0\r\nQUIT", b""] {
            assert_eq!(sends(&whole, &[bad]).await.0, None, "{bad:?}");
        }
        assert_eq!(whole.0.as_ref().unwrap().bad.get(), 4);
        let local = header::tests::header(0x20, 0x00, &[]);
        let (found, peer, _) = sends(&whole, &[&local]).await;
        assert_eq!(found, Some(peer));
    }

    #[tokio::test(start_paused = true)]
    async fn a_balancer_that_says_nothing_is_closed_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, peer) = listener.accept().await.unwrap();
        let found = balancers("127.0.0.1/32").client(&socket, peer, Duration::from_secs(10)).await;
        assert_eq!(found, None);
    }
}
