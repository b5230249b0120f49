//! What can go wrong for a fake device or a poster.

use std::{io, time::Duration};

/// Why a device, a raw stream or a poster could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    /// TLS could not be set up, or the CA file is unusable.
    #[error("tls: {0}")]
    Tls(String),
    /// The peer closed the connection without a stream end.
    #[error("the connection was closed without </stream:stream>")]
    Closed,
    /// The peer ended the stream cleanly.
    #[error("the peer ended the stream")]
    Ended,
    /// `<stream:error/>` (RFC 6120 §4.9).
    #[error("stream error {condition}: {text}")]
    Stream {
        /// The defined condition, such as `conflict`.
        condition: String,
        /// The text beside it, or empty.
        text: String,
        /// Names of application-specific conditions beside it, such as `handled-count-too-high`.
        specific: Vec<String>,
    },
    /// SASL `<failure/>` (RFC 6120 §6.5).
    #[error("login refused: {condition} {text}")]
    Refused {
        /// The condition, such as `not-authorized`.
        condition: String,
        /// The text beside it, or empty.
        text: String,
    },
    /// The peer's SCRAM messages are wrong: nonce, iterations or server signature.
    #[error("sasl: {0}")]
    Sasl(&'static str),
    /// What arrived is not well-formed, or beyond a bound of this client.
    #[error("xml: {0}")]
    Xml(String),
    /// The peer sent something this step of the protocol does not allow.
    #[error("waiting for {wanted}, got {got}")]
    Unexpected {
        /// What the step allows.
        wanted: &'static str,
        /// What came, shortened.
        got: String,
    },
    /// The peer does not offer what the options ask for.
    #[error("the peer does not offer {0}")]
    NotOffered(&'static str),
    /// Nothing came in time.
    #[error("{what}: nothing within {within:?}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        within: Duration,
    },
    /// An HTTP answer that cannot be read.
    #[error("http: {0}")]
    Http(String),
    /// The device has no session now.
    #[error("the device is not connected")]
    NotConnected,
    /// There is nothing to resume: the last session had no stream management, or ended cleanly.
    #[error("no session to resume")]
    NothingToResume,
    /// The server process could not be started, or never said that it is ready.
    #[error("server: {0}")]
    Server(String),
    /// A Redis server of our own.
    #[error(transparent)]
    Redis(#[from] crate::redis::RedisError),
    /// The machine does not allow what was asked for.
    #[error("{0}")]
    Machine(String),
}

impl Error {
    /// The condition, when the peer ended it with a stream error.
    pub fn stream_condition(&self) -> Option<&str> {
        match self {
            Self::Stream { condition, .. } => Some(condition),
            _ => None,
        }
    }

    /// The condition, when the peer refused the login.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { condition, .. } => Some(condition),
            _ => None,
        }
    }
}

/// Waits for `step` at most `within`.
pub(crate) async fn in_time<T>(what: &'static str, within: Duration, step: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(within, step).await {
        Ok(done) => done,
        Err(_) => Err(Error::Timeout { what, within }),
    }
}
