//! Receipts sent to backends: webhooks as Standard Webhooks 1.0.0 has them.
//!
//! The work comes from the tenant's log of receipts. A webhook has a cursor in it, and a row for each receipt that was not taken (or waits
//! behind one of its device), both stored in one step; so a process that is killed has lost nothing, and sends again what it had not yet
//! stored as sent. One node at a time serves a webhook (`keeper`, `worker`), by a lease whose fence keeps an old holder from moving the
//! cursor. What is sent next is decided by `queue`, which is pure, as is `notices`: gaps in the receipts, and other webhooks that were
//! disabled. Who may be connected to is decided by `address`.
//!
//! What is deliberately absent: following redirects, proxies, anything that is made of an answer but its status and `Retry-After`, and
//! the name of any device in a log or a metric.

mod address;
mod backoff;
mod config;
mod form;
mod keeper;
mod message;
mod metrics;
mod notices;
mod openapi;
mod queue;
mod routes;
mod sender;
mod signature;
mod view;
mod worker;

use std::sync::Arc;

use axum::Router;
use reqwest::Url;
use tokio::sync::Notify;

pub use config::Config;
pub use metrics::WebhookMetrics;
pub use openapi::operations;
pub use sender::SenderError;

use crate::{
    crew::Crew,
    domain::{Clock, Limits},
    store,
};
use keeper::Keeper;
use sender::Sender;

/// What webhooks stand on.
pub struct Parts {
    /// Where they, and the receipts, are.
    pub store: Arc<dyn store::Webhooks>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Pages of lists.
    pub limits: Limits,
    /// What is counted.
    pub metrics: WebhookMetrics,
    /// The name of this node.
    pub node: Arc<str>,
}

struct Shared {
    config: Config,
    store: Arc<dyn store::Webhooks>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    metrics: WebhookMetrics,
    node: Arc<str>,
    sender: Sender,
    /// Webhooks were changed.
    nudge: Notify,
}

/// The HTTP side of webhooks, and their tasks. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks(Arc<Shared>);

impl Webhooks {
    /// Nothing runs yet.
    ///
    /// # Errors
    /// When the file of authorities cannot be used, or the HTTP client not be set up.
    pub fn new(config: Config, parts: Parts) -> Result<Self, SenderError> {
        let sender = Sender::new(&config, address::system_lookup(), Arc::clone(&parts.clock))?;
        Ok(Self(Arc::new(Shared {
            config,
            store: parts.store,
            clock: parts.clock,
            limits: parts.limits,
            metrics: parts.metrics,
            node: parts.node,
            sender,
            nudge: Notify::new(),
        })))
    }

    /// `/v1/webhooks`, to be mounted behind the gate.
    pub fn router(&self) -> Router {
        routes::router(self.clone())
    }

    /// Sends receipts until the crew stops.
    pub fn start(&self, crew: &Crew) {
        let keeper = Keeper::new(Arc::clone(&self.0), crew.clone());
        crew.spawn_vital(|stop| keeper.run(stop));
    }
}

/// An URL without what may be a secret in it.
fn url_in_logs(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut url) => {
            url.set_query(None);
            url.set_fragment(None);
            url.into()
        }
        Err(_) => "?".to_owned(),
    }
}
