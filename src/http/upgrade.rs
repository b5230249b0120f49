//! A connection that leaves HTTP (RFC 9110 §7.8): taken apart into its socket, its TLS, and what was read ahead.

use std::net::SocketAddr;

use axum::{body::Body, http::Request};
use bytes::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use rustls::ServerConnection;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::{Wire, connection::Watched, wire::Counted};
use crate::domain::Carried;

/// Who is at the other end of a connection, as handlers find it in the request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The client's address, or what a balancer told of it.
    pub client: SocketAddr,
    /// The connection has TLS of the service's own.
    pub tls: bool,
}

/// A request that asks for something else than HTTP on its connection.
pub struct Upgrade {
    upgrade: OnUpgrade,
    wire: Wire,
}

/// What is left of a connection once its HTTP is over.
pub struct Raw {
    /// The socket.
    pub socket: TcpStream,
    /// Its TLS, unless it has none.
    pub tls: Option<ServerConnection>,
    /// What came behind the request, TLS taken off.
    pub early: Bytes,
    /// What came in so far, and what went out; the TCP handshake is left out.
    pub carried: (Carried, Carried),
}

impl Upgrade {
    /// Takes the connection of that request. `None`: it is not one of this server's.
    pub fn of(request: &mut Request<Body>) -> Option<Self> {
        let wire = request.extensions().get::<Wire>()?.clone();
        Some(Self {
            upgrade: hyper::upgrade::on(request),
            wire,
        })
    }

    /// Waits until the answer, which must be 101, is written. `None`: the connection ended before.
    pub async fn raw(self) -> Option<Raw> {
        let upgraded = self.upgrade.await.ok()?;
        let carried = self.wire.so_far();
        match plain(upgraded) {
            Ok((socket, early)) => Some(Raw {
                socket,
                tls: None,
                early,
                carried,
            }),
            Err(upgraded) => {
                let parts = upgraded.downcast::<TokioIo<Watched<TlsStream<Counted<TcpStream>>>>>().ok()?;
                let (socket, tls) = parts.io.into_inner().into_inner().into_inner();
                Some(Raw {
                    socket: socket.into_inner(),
                    tls: Some(tls),
                    early: parts.read_buf,
                    carried,
                })
            }
        }
    }
}

fn plain(upgraded: Upgraded) -> Result<(TcpStream, Bytes), Upgraded> {
    let parts = upgraded.downcast::<TokioIo<Watched<Counted<TcpStream>>>>()?;
    Ok((parts.io.into_inner().into_inner().into_inner(), parts.read_buf))
}
