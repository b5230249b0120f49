//! The settings file: one field for each part's own `Config`.
//!
//! Precedence: flag > environment > file > default. `[http] listen` is `UNPOLL_HTTP_LISTEN` in the environment; a key at the
//! top, such as `data_dir`, is `UNPOLL_DATA_DIR`. A name that is not known, in the file or after `UNPOLL_`, is an error.

mod layers;
mod sample;
mod validate;

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use layers::{ConfigError, Layers};

/// All settings of the service.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The XMPP domain of the default tenant: a device is `id@domain`. Default: "localhost".
    pub domain: String,
    /// Where the embedded store, the generated certificate and the first key live. Default: "unpoll-data".
    pub data_dir: PathBuf,
    /// How long a stop may take before it is forced, in seconds. Default: 120.
    pub drain_secs: u64,
    /// How long the service goes on at a stop, only saying that it is not ready, before it drains, in seconds: time for balancers to
    /// see it, so that none leads anybody here any more. It comes on top of `drain_secs`. Default: 0.
    pub drain_notice_secs: u64,
    /// `[http]`: HTTP without TLS, and how all HTTP listeners treat their connections.
    pub http: crate::http::Config,
    /// `[https]`: HTTP over TLS.
    pub https: Listen,
    /// `[admin]`: metrics, health and readiness.
    pub admin: Listen,
    /// `[xmpp]`: the door for devices.
    pub xmpp: crate::gateway::Config,
    /// `[poll]`: the door for devices that still poll, at the HTTP listeners.
    pub poll: crate::gateway::poll::Config,
    /// `[store]`: the embedded store.
    pub store: crate::store::embedded::Config,
    /// `[redis]`: many nodes on one Redis, instead of the embedded store.
    pub redis: crate::store::redis::Config,
    /// `[cluster]`: how the nodes on one Redis reach one another.
    pub cluster: crate::cluster::Config,
    /// `[tls]`: the certificate, and what may go without a trusted one.
    pub tls: crate::tls::Config,
    /// `[tokens]`: JWTs of devices.
    pub tokens: crate::tokens::Config,
    /// `[jwt]`: JWTs of backends, instead of API keys.
    pub jwt: crate::tokens::BackendConfig,
    /// `[limits]`: the bounds that `GET /v1/limits` publishes.
    pub limits: crate::domain::Limits,
    /// `[ingress]`: how many requests are admitted.
    pub ingress: crate::ingress::Config,
    /// `[rates]`: how much may be posted.
    pub rates: crate::ingress::RatesConfig,
    /// `[shed]`: when posts are refused early, so that the others stay fast.
    pub shed: crate::http::ShedConfig,
    /// `[presence]`: who is told of connects and disconnects.
    pub presence: crate::presence::Config,
    /// `[receipts]`: who is told what became of events.
    pub receipts: crate::receipts::Config,
    /// `[webhooks]`: receipts sent to backends.
    pub webhooks: crate::webhooks::Config,
    /// `[registry]`: how devices are added.
    pub registry: crate::registry::Config,
    /// `[dispatch]`: the way from the store to the sessions.
    pub dispatch: crate::dispatch::Config,
    /// `[ledger]`: what polling would have cost.
    pub ledger: crate::ledger::Config,
    /// `[log]`: the log on stderr.
    pub log: crate::telemetry::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            domain: "localhost".into(),
            data_dir: "unpoll-data".into(),
            drain_secs: 120,
            drain_notice_secs: 0,
            http: crate::http::Config::default(),
            https: Listen::loopback(8443),
            admin: Listen::loopback(9090),
            xmpp: crate::gateway::Config::default(),
            poll: crate::gateway::poll::Config::default(),
            store: crate::store::embedded::Config::default(),
            redis: crate::store::redis::Config::default(),
            cluster: crate::cluster::Config::default(),
            tls: crate::tls::Config::default(),
            tokens: crate::tokens::Config::default(),
            jwt: crate::tokens::BackendConfig::default(),
            limits: crate::domain::Limits::default(),
            ingress: crate::ingress::Config::default(),
            rates: crate::ingress::RatesConfig::default(),
            shed: crate::http::ShedConfig::default(),
            presence: crate::presence::Config::default(),
            receipts: crate::receipts::Config::default(),
            webhooks: crate::webhooks::Config::default(),
            registry: crate::registry::Config::default(),
            dispatch: crate::dispatch::Config::default(),
            ledger: crate::ledger::Config::default(),
            log: crate::telemetry::Config::default(),
        }
    }
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// The address to listen at; port 0 takes a free one. Default: as below, loopback only.
    pub listen: SocketAddr,
}

impl Listen {
    fn loopback(port: u16) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], port)),
        }
    }
}

#[cfg(test)]
mod tests;
