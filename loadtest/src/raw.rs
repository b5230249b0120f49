//! A bare connection for protocol tests: bytes out, bytes in, nothing interpreted.

use std::{net::SocketAddr, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    Error,
    error::in_time,
    session::Session,
    transport::{Transport, Trust},
};

/// Most bytes kept from one connection.
const READ_MAX: usize = 4 * 1024 * 1024;

/// A connection whose bytes the test writes and reads itself.
pub struct Raw {
    io: Transport,
    read: Vec<u8>,
}

impl Raw {
    /// Connects over TCP; with `tls`, shakes hands for that domain first.
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    pub async fn connect(server: SocketAddr, tls: Option<(&Trust, &str)>) -> Result<Self, Error> {
        in_time("connect", Duration::from_secs(10), async {
            let io = Transport::tcp(server, None).await?;
            let io = match tls {
                Some((trust, domain)) => io.encrypt(trust, domain).await?,
                None => io,
            };
            Ok(Self { io, read: Vec::new() })
        })
        .await
    }

    /// Shakes hands now, after a STARTTLS spoken by hand.
    ///
    /// # Errors
    /// Those of TLS.
    pub async fn encrypt(self, trust: &Trust, domain: &str) -> Result<Self, Error> {
        Ok(Self {
            io: self.io.encrypt(trust, domain).await?,
            read: Vec::new(),
        })
    }

    /// Sends the bytes.
    ///
    /// # Errors
    /// Those of the socket; a write that stalls for 30 s.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        in_time("a write", Duration::from_secs(30), async {
            self.io.write_all(bytes.as_ref()).await?;
            Ok(self.io.flush().await?)
        })
        .await
    }

    /// Reads until `wanted` has come; returns everything up to and with it, and keeps the rest for the next call.
    ///
    /// # Errors
    /// [`Error::Unexpected`] with what came, when the connection ends first; [`Error::Timeout`].
    pub async fn read_until(&mut self, wanted: &str, within: Duration) -> Result<String, Error> {
        in_time("the bytes waited for", within, async {
            loop {
                if let Some(at) = find(&self.read, wanted.as_bytes()) {
                    let rest = self.read.split_off(at + wanted.len());
                    return Ok(text(&std::mem::replace(&mut self.read, rest)));
                }
                if !self.read_more().await? {
                    return Err(Error::Unexpected {
                        wanted: "the bytes waited for",
                        got: text(&self.read),
                    });
                }
            }
        })
        .await
    }

    /// Reads until the peer closes; returns everything not yet taken. A reset counts as an end: use [`Raw::read_until`] where the
    /// bytes before it must have come.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it does not close in time.
    pub async fn read_to_end(&mut self, within: Duration) -> Result<String, Error> {
        in_time("the end of the connection", within, async {
            while self.read_more().await? {}
            Ok(text(&std::mem::take(&mut self.read)))
        })
        .await
    }

    /// What has been read and not been taken.
    pub fn held(&self) -> String {
        text(&self.read)
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        self.io.reset();
    }

    async fn read_more(&mut self) -> Result<bool, Error> {
        if self.read.len() > READ_MAX {
            return Err(Error::Xml(format!("more than {READ_MAX} bytes")));
        }
        match self.io.read_buf(&mut self.read).await {
            Ok(read) => Ok(read > 0),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl From<Session> for Raw {
    /// Goes on by hand on a stream that was negotiated.
    fn from(session: Session) -> Self {
        Self {
            io: session.part().0,
            read: Vec::new(),
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len().max(1)).position(|window| window == wanted)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
