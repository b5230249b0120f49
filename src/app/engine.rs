//! Which engine keeps everything: the embedded one, or Redis.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    admin::Check,
    domain::Clock,
    store::{Mailbox, Store, StoreError, Webhooks, embedded::EmbeddedStore, redis::RedisStore, transfer::Transfer},
};

use super::tickets::Tickets;

/// The name of the only node of the embedded shape.
const ONLY_NODE: &str = "n1";

/// The engine of this service.
#[derive(Clone)]
pub(super) enum Engine {
    /// One node, local disk.
    Embedded(Arc<EmbeddedStore>),
    /// Many nodes on Redis.
    Redis(Arc<RedisStore>),
}

impl Engine {
    pub(super) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Embedded(store) => store.clone(),
            Self::Redis(store) => store.clone(),
        }
    }

    /// The way out and in for everything that is kept.
    pub(super) fn transfer(&self) -> Arc<dyn Transfer> {
        match self {
            Self::Embedded(store) => store.clone(),
            Self::Redis(store) => store.clone(),
        }
    }

    /// The same, as webhooks stand on it.
    pub(super) fn webhooks(&self) -> Arc<dyn Webhooks> {
        match self {
            Self::Embedded(store) => store.clone(),
            Self::Redis(store) => store.clone(),
        }
    }

    /// The name of this node.
    pub(super) fn node(&self) -> Arc<str> {
        match self {
            Self::Embedded(_) => ONLY_NODE.into(),
            Self::Redis(store) => store.node(),
        }
    }

    /// The secrets of TLS tickets, where several nodes share them.
    pub(super) async fn tickets(&self, clock: Arc<dyn Clock>) -> Result<Option<Tickets>, StoreError> {
        match self {
            Self::Embedded(_) => Ok(None),
            Self::Redis(store) => Tickets::open(store.clone(), clock).await.map(Some),
        }
    }

    /// Ends when this process must not go on under its name.
    pub(super) async fn lost_its_name(&self) {
        match self {
            Self::Embedded(_) => std::future::pending().await,
            Self::Redis(store) => store.lost_its_name().await,
        }
    }

    /// Writes what is queued, and says goodbye to the other nodes.
    pub(super) async fn close(self) {
        match self {
            Self::Embedded(store) => {
                if tokio::task::spawn_blocking(move || store.close()).await.is_err() {
                    tracing::warn!("the store did not close cleanly; the next start reads its journal");
                }
            }
            Self::Redis(store) => store.close().await,
        }
    }

    /// What the service needs to take traffic.
    pub(super) fn readiness(&self, leaving: Arc<AtomicBool>) -> Arc<dyn Fn() -> Vec<Check> + Send + Sync> {
        let engine = self.clone();
        Arc::new(move || {
            let said = |name, ok, good, bad: &'static str| Check::new(name, ok, if ok { good } else { bad });
            let mut checks = match &engine {
                Self::Embedded(store) => {
                    let writable = store.stats().writable;
                    vec![said("store", writable, "takes events", "takes no events: look at its disk")]
                }
                Self::Redis(store) => {
                    let health = store.health();
                    vec![
                        said(
                            "redis",
                            health.serving,
                            "answers",
                            "a shard has failed for a second: the circuit breaker is open",
                        ),
                        said(
                            "durability",
                            health.replicating,
                            "events are as durable as promised",
                            "not every replica takes what is written: the circuit breaker is open",
                        ),
                        said(
                            "node",
                            health.joined,
                            "counted as live",
                            "the heartbeat is not taken: the others count this node as lost",
                        ),
                    ]
                }
            };
            let stays = !leaving.load(Ordering::Relaxed);
            checks.push(said("drain", stays, "not stopping", "stopping"));
            checks
        })
    }
}
