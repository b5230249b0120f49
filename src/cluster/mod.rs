//! From node to node: who has the session of a device is told at once what concerns it.
//!
//! Hints go straight to the owner over TLS, in which both sides show certificates whose fingerprints are in the table of live nodes.
//! Nothing depends on them: the store is the truth, a session that was not told reads on there, and a node that cannot be reached is
//! told through Redis.
//!
//! What is deliberately absent: membership, elections, and any state that two nodes would have to agree on.

mod config;
mod door;
mod identity;
mod message;
mod metrics;
mod pace;
mod peer;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use parking_lot::RwLock;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

pub use config::Config;
pub use message::Question;
pub use metrics::ClusterMetrics;

use crate::{
    crew::Crew,
    domain::Epoch,
    store::{Addressed, Arrival, DeviceKey, Hint, Peer},
};
use identity::{Identity, Known};
use metrics::Dropped;
use peer::Way;

/// Hints taken from the channel at once.
const BURST: usize = 256;

/// Why nodes cannot reach this one.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, or not of this machine.
    #[error("cluster.listen = {address} cannot be listened at: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate could not be made or used.
    #[error("no certificate can be made for the other nodes: {0}")]
    Identity(String),
}

/// What this node does with what others tell and ask.
pub trait Node: Send + Sync + 'static {
    /// An event was stored for a device whose session is here. False: too much waits, and it is to be found by reading the store.
    fn arrived(&self, arrival: Arrival) -> bool;

    /// A newer session holds the seat: the one of that epoch or an older one is over.
    fn displaced(&self, device: &DeviceKey, epoch: Epoch);

    /// The device was removed.
    fn removed(&self, device: &DeviceKey, epoch: Epoch);

    /// Hints were lost: every session is to be compared with the store.
    fn lost(&self);

    /// Answers another node. `None`: nothing is known of it here.
    fn answer(&self, question: &Question) -> Option<Vec<u8>>;
}

/// A message that goes to a node through Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Indirect {
    /// For which node.
    pub node: Arc<str>,
    /// What [`Cluster::received`] takes there.
    pub message: Vec<u8>,
}

/// A way that is kept open until this is dropped.
struct Kept {
    way: Arc<Way>,
    _open: DropGuard,
}

struct Shared {
    config: Config,
    identity: Identity,
    known: Known,
    node: Arc<dyn Node>,
    metrics: ClusterMetrics,
    ways: RwLock<HashMap<Arc<str>, Kept>>,
    indirect: mpsc::Sender<Indirect>,
    name: Arc<str>,
}

/// The door is open to be found by others, and serves nobody yet.
pub struct Bound {
    config: Config,
    identity: Identity,
    listener: TcpListener,
    address: SocketAddr,
}

/// What runs once the store knows the others.
pub struct Inputs {
    /// The name of this node.
    pub name: Arc<str>,
    /// The other nodes that live.
    pub peers: watch::Receiver<Arc<[Peer]>>,
    /// What they, or this node, are to be told.
    pub hints: mpsc::Receiver<Addressed>,
    /// Takes what can only go through Redis.
    pub indirect: mpsc::Sender<Indirect>,
    /// What hints do here.
    pub node: Arc<dyn Node>,
}

impl Bound {
    /// Listens, and makes the certificate by which this node is known.
    ///
    /// # Errors
    /// See [`BindError`].
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let address = config.listen;
        let failed = |source| BindError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            identity: Identity::make()?,
            listener,
            address,
            config,
        })
    }

    /// Where others reach this node.
    pub fn address(&self) -> String {
        if self.config.advertise.is_empty() {
            self.address.to_string()
        } else {
            self.config.advertise.clone()
        }
    }

    /// SHA-256 of the certificate that it shows and asks to be known by.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.identity.fingerprint()
    }

    /// The cluster, with what starts it.
    ///
    /// # Errors
    /// When TLS cannot use the certificate.
    pub fn join(self, inputs: Inputs, metrics: ClusterMetrics) -> Result<(Cluster, Tasks), BindError> {
        let known: Known = Arc::new(RwLock::new(inputs.peers.borrow().clone()));
        let server = self
            .identity
            .server(known.clone())
            .map_err(|error| BindError::Identity(error.to_string()))?;
        let shared = Arc::new(Shared {
            config: self.config,
            identity: self.identity,
            known,
            node: inputs.node,
            metrics,
            ways: RwLock::default(),
            indirect: inputs.indirect,
            name: inputs.name,
        });
        let tasks = Tasks {
            shared: shared.clone(),
            listener: self.listener,
            acceptor: TlsAcceptor::from(Arc::new(server)),
            peers: inputs.peers,
            hints: inputs.hints,
        };
        Ok((Cluster(shared), tasks))
    }
}

/// What the cluster does once it is started.
pub struct Tasks {
    shared: Arc<Shared>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    peers: watch::Receiver<Arc<[Peer]>>,
    hints: mpsc::Receiver<Addressed>,
}

impl Tasks {
    /// Takes and gives hints until the crew stops.
    pub fn start(self, crew: &Crew) {
        let Self {
            shared,
            listener,
            acceptor,
            peers,
            hints,
        } = self;
        let (serving, door_crew) = (shared.clone(), crew.clone());
        crew.spawn_vital(move |stop| door::serve(listener, acceptor, serving, door_crew, stop));
        let (following, peer_crew) = (shared.clone(), crew.clone());
        crew.spawn_vital(move |stop| follow_peers(following, peers, peer_crew, stop));
        crew.spawn_vital(move |stop| tell(shared, hints, stop));
    }
}

/// The other nodes. Cheap to clone.
#[derive(Clone)]
pub struct Cluster(Arc<Shared>);

impl Cluster {
    /// Asks a node; its answer, if it comes within `cluster.answer_ms` and knows anything.
    pub async fn ask(&self, node: &str, question: Question) -> Option<Vec<u8>> {
        let way = self.0.ways.read().get(node).map(|kept| kept.way.clone())?;
        way.ask(&question, self.0.config.answer_within()).await
    }

    /// Takes a message that came through Redis.
    pub fn received(&self, message: &[u8]) {
        match message::read(message) {
            Ok(message::Received::Hint(hint)) => self.0.hear(hint),
            Ok(message::Received::Lost) => self.0.node.lost(),
            // Questions do not go this way.
            Ok(_) => {}
            Err(error) => {
                warn!("through Redis came {error}");
                self.0.metrics.dropped(Dropped::Unread);
            }
        }
    }
}

impl Shared {
    /// Does what a hint says.
    fn hear(&self, hint: Hint) {
        self.metrics.received(&hint);
        self.obey(hint);
    }

    fn obey(&self, hint: Hint) {
        match hint {
            Hint::Arrived(arrival) => {
                if !self.node.arrived(arrival) {
                    self.metrics.dropped(Dropped::Unread);
                    self.node.lost();
                }
            }
            Hint::Displaced { device, epoch } => self.node.displaced(&device, epoch),
            Hint::Removed { device, epoch } => self.node.removed(&device, epoch),
        }
    }

    fn hint_through_redis(&self, node: &Arc<str>, hint: &Hint) {
        let mut message = Vec::new();
        message::put_hint(&mut message, hint);
        self.through_redis(node, message);
    }

    fn through_redis(&self, node: &Arc<str>, message: Vec<u8>) {
        let indirect = Indirect {
            node: Arc::clone(node),
            message,
        };
        if self.indirect.try_send(indirect).is_ok() {
            self.metrics.fallback.inc();
        } else {
            self.metrics.dropped(Dropped::Full);
        }
    }
}

/// Keeps a way to each node that lives.
async fn follow_peers(shared: Arc<Shared>, mut peers: watch::Receiver<Arc<[Peer]>>, crew: Crew, stop: CancellationToken) {
    loop {
        let now = peers.borrow_and_update().clone();
        *shared.known.write() = now.clone();
        {
            let mut ways = shared.ways.write();
            ways.retain(|_, kept| now.contains(&kept.way.peer));
            for peer in now.iter().filter(|peer| peer.node != shared.name) {
                ways.entry(peer.node.clone()).or_insert_with(|| {
                    let way = Arc::new(Way::new(peer.clone()));
                    let given_up = stop.child_token();
                    let (running, shared, until) = (way.clone(), shared.clone(), given_up.clone());
                    crew.spawn(async move {
                        let _ = until.run_until_cancelled(peer::run(running, shared)).await;
                    });
                    Kept {
                        way,
                        _open: given_up.drop_guard(),
                    }
                });
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = peers.changed() => if changed.is_err() {
                // The store is closed, and with it the table of nodes.
                stop.cancelled().await;
                return;
            },
        }
    }
}

async fn tell(shared: Arc<Shared>, mut hints: mpsc::Receiver<Addressed>, stop: CancellationToken) {
    let mut burst = Vec::with_capacity(BURST);
    loop {
        let taken = tokio::select! {
            () = stop.cancelled() => return,
            taken = hints.recv_many(&mut burst, BURST) => taken,
        };
        if taken == 0 {
            stop.cancelled().await;
            return;
        }
        for Addressed { node, hint } in burst.drain(..) {
            if node == shared.name {
                shared.obey(hint);
                continue;
            }
            let way = shared.ways.read().get(&node).map(|kept| kept.way.clone());
            match way {
                Some(way) => way.tell(&shared, &hint),
                // It may have joined a moment ago.
                None => shared.hint_through_redis(&node, &hint),
            }
        }
    }
}
