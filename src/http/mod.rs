//! What every HTTP part stands on: problems, keys, bodies, JSON with names and places, pages, and the server loop.
//!
//! A part exports `routes() -> Router`; [`mount`] puts the parts behind one gate that authenticates, counts, and answers for
//! paths and methods nobody serves ([`mount_beside`] puts beside them what authenticates by itself); [`serve()`] serves the result on a listener. Handlers take [`crate::domain::Caller`] from
//! the request's extensions and refuse with [`crate::domain::Refusal`], which becomes an RFC 9457 problem here and nowhere else.
//!
//! What is deliberately absent: HTTP/2 (a backend behind a proxy speaks it there), and any knowledge of the store.

mod asset;
mod audit;
mod body;
mod connection;
mod gate;
mod headers;
pub mod json;
mod lines;
mod metrics;
pub mod openapi;
mod page;
mod patience;
mod problem;
mod segment;
mod serve;
mod shed;
pub mod sse;
mod tail;
pub mod text;
mod upgrade;
mod wire;

use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use asset::Asset;
pub use audit::{Audit, AuditDetail};
pub use body::{read, read_counted};
pub use gate::{Access, Callers, Found, key_hash, mount, mount_beside, mount_for_browsers};
pub use headers::{MediaType, require_json, single};
pub use lines::{Line, Lines};
pub use metrics::HttpMetrics;
pub use page::{PageRequest, Paged, Parameters};
pub use problem::problem;
pub use segment::Segment;
pub use serve::{Tls, serve, serve_shedding};
pub use shed::{Config as ShedConfig, Shed, Shedding, Waiting};
pub use tail::{Positioned, Tail, Tails};
pub use upgrade::{Peer, Raw, Upgrade};
pub use wire::Wire;

/// The HTTP listeners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address for HTTP without TLS; port 0 takes a free one. Default: "127.0.0.1:8080". HTTPS has a section of its own for its
    /// address, and shares the settings below.
    pub listen: SocketAddr,
    /// Balancers before HTTP and HTTPS, as networks (`"10.0.0.0/8"`, `"192.0.2.1/32"`), that begin each connection with a PROXY header,
    /// version 2; from everybody else a header is an error. Default: [].
    pub proxy_from: Vec<IpNet>,
    /// Connections that a listener serves at once; one more is answered 429 and closed; far more are answered 503
    /// unheard, without TLS at least, and closed. Default: 1024.
    pub connections_max: usize,
    /// How long the TLS handshake, and then the head of a request, may take, in seconds. Default: 10.
    pub head_secs: u64,
    /// How long a connection may idle between requests, in seconds. Default: 75.
    pub idle_secs: u64,
    /// How long a body may take, in seconds; it gets one more second for every KiB that came. Default: 20.
    pub body_secs: u64,
    /// How long a client may leave an answer unread before its connection is closed, in seconds. Default: 30.
    pub write_secs: u64,
    /// The largest head of a request (request line and header fields), in bytes; more is answered 431. Default: 32768.
    pub head_max_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            proxy_from: Vec::new(),
            connections_max: 1_024,
            head_secs: 10,
            idle_secs: 75,
            body_secs: 20,
            write_secs: 30,
            head_max_bytes: 32 * 1024,
        }
    }
}
