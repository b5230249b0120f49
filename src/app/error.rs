//! Why the service does not start.

use std::{io, net::SocketAddr, path::PathBuf};

use crate::{cluster, gateway, store, tls, tokens, webhooks};

/// Why the service could not start. Each message names what is at fault.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The keys of device tokens.
    #[error(transparent)]
    Tokens(#[from] tokens::KeysError),
    /// What sends to webhooks.
    #[error(transparent)]
    Webhooks(#[from] webhooks::SenderError),
    /// The store does not open.
    #[error("the store in {} does not open: {source}", .dir.display())]
    Store {
        /// The data directory.
        dir: PathBuf,
        /// Why.
        source: store::embedded::OpenError,
    },
    /// Redis is not fit, or not there.
    #[error(transparent)]
    Redis(#[from] store::redis::OpenError),
    /// Other nodes cannot reach this one.
    #[error(transparent)]
    Cluster(#[from] cluster::BindError),
    /// The domain is taken.
    #[error("domain = \"{domain}\" is the domain of the tenant {tenant}: choose another, or remove that tenant first")]
    Domain {
        /// The setting.
        domain: String,
        /// Whose it is.
        tenant: String,
    },
    /// The store opened and does not answer.
    #[error("the store does not answer: {0}")]
    Registry(#[from] store::StoreError),
    /// An HTTP listener.
    #[error("{section}.listen = \"{address}\" cannot be listened on: {source}")]
    Listen {
        /// The section of the setting.
        section: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A listener for devices.
    #[error(transparent)]
    Gateway(#[from] gateway::BindError),
    /// A file in the data directory.
    #[error("{} cannot be written: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random(#[from] aws_lc_rs::error::Unspecified),
    /// A metric of one name twice: a bug.
    #[error("the metrics do not register: {0}")]
    Metrics(#[from] prometheus::Error),
}
