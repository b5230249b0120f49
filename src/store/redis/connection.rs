//! One connection to one server: by TCP or TLS, as whom the settings say.

use std::{fmt, io, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Cmd, IntoConnectionInfo, Pipeline, ProtocolVersion, RedisConnectionInfo, RedisError, RedisFuture, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use rustls::{CertificateError, pki_types::ServerName};
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::access::Access;

/// What a peer of TLS says when it does not like the certificate that it was shown, or that it was shown none.
const ALERT: &str = "received fatal alert";

/// One server, and how it is greeted.
#[derive(Clone)]
pub(super) struct Server {
    /// `host:port`.
    pub(super) address: String,
    /// `redis://user:password@host:port/db`, also where TLS goes before it. Never logged.
    pub(super) url: String,
    pub(super) tls: bool,
    pub(super) access: Access,
}

/// A connection. Cheap to clone; it is closed with its last clone.
#[derive(Clone)]
pub(super) struct Connection {
    inner: MultiplexedConnection,
    /// What carries bytes, where the crate does not do it.
    _driver: Option<Arc<Driver>>,
}

struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Server {
    /// Connects and says who this is, within that time. `pushes`: as one that is pushed messages (RESP 3).
    pub(super) async fn connect(&self, limits: AsyncConnectionConfig, within: Duration, pushes: bool) -> Result<Connection, RedisError> {
        let info = self.url.as_str().into_connection_info()?;
        let mut redis = info.redis_settings().clone();
        if pushes {
            redis = redis.set_protocol(ProtocolVersion::RESP3);
        }
        if let Some(password) = self.access.password().await.map_err(other)? {
            redis = redis.set_password(password);
        }
        if !self.tls {
            let client = redis::Client::open(info.set_redis_settings(redis))?;
            let inner = client.get_multiplexed_async_connection_with_config(&limits).await?;
            return Ok(Connection { inner, _driver: None });
        }
        match timeout(within, self.connect_tls(&redis, limits)).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "{} does not answer with TLS in time; is it the port that tls-port names?",
                    self.address
                ),
            )
            .into()),
        }
    }

    async fn connect_tls(&self, redis: &RedisConnectionInfo, limits: AsyncConnectionConfig) -> Result<Connection, RedisError> {
        let stream = self.shake_hands().await?;
        let greeted = MultiplexedConnection::new_with_config(redis, stream, limits).await;
        // In TLS 1.3 a server judges the certificate of a client after the client has sent its first words.
        let (inner, driver) = greeted.map_err(|error| {
            if error.to_string().contains(ALERT) {
                self.wants_certificate(&error)
            } else {
                error
            }
        })?;
        Ok(Connection {
            inner,
            _driver: Some(Arc::new(Driver(tokio::spawn(driver)))),
        })
    }

    async fn shake_hands(&self) -> Result<TlsStream<TcpStream>, RedisError> {
        let tls = self.access.tls().await.map_err(other)?;
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        let host = host.trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(other)?;
        let socket = TcpStream::connect(&self.address).await?;
        socket.set_nodelay(true)?;
        let shaken = TlsConnector::from(tls).connect(name, socket).await;
        shaken.map_err(|error| self.refused(host, error))
    }

    /// Says what to do about a handshake that failed.
    fn refused(&self, host: &str, error: io::Error) -> RedisError {
        let address = &self.address;
        match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => other(format!(
                "the certificate of Redis at {address} is not for {host}; use the name that it is for, in redis.url and in what \
                     Sentinels or the servers of a Cluster announce, or have one made for this name"
            )),
            Some(rustls::Error::InvalidCertificate(why)) => other(format!(
                "the certificate of Redis at {address} is not trusted: {why}; name its authority's file in redis.tls_ca"
            )),
            Some(rustls::Error::AlertReceived(_)) => self.wants_certificate(&error),
            Some(rustls::Error::InvalidMessage(_)) => other(format!(
                "Redis at {address} does not answer with TLS; use the port that tls-port names, or a URL without TLS (redis…)"
            )),
            _ => error.into(),
        }
    }

    fn wants_certificate(&self, error: &dyn fmt::Display) -> RedisError {
        other(format!(
            "Redis at {} refused the certificate of this node, or wants one: {error}; set redis.tls_certificate and redis.tls_key to one \
             that its tls-ca-cert-file vouches for",
            self.address
        ))
    }
}

fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> RedisError {
    io::Error::other(error).into()
}

impl fmt::Debug for Server {
    /// Without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            url: _,
            tls,
            access,
        } = self;
        write!(f, "Server({address}, tls: {tls}, {access:?})")
    }
}

impl Connection {
    /// Sends a pipeline; one value for each of `count` commands.
    pub(super) async fn send(&mut self, pipeline: &Pipeline, count: usize) -> Result<Vec<Value>, RedisError> {
        self.inner.send_packed_commands(pipeline, 0, count).await
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.inner.req_packed_command(cmd)
    }

    fn req_packed_commands<'a>(&'a mut self, cmd: &'a Pipeline, offset: usize, count: usize) -> RedisFuture<'a, Vec<Value>> {
        self.inner.req_packed_commands(cmd, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.inner.get_db()
    }
}
