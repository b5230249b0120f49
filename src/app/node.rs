//! This node and the others: what hints do here, and how the others are asked.

use std::{
    collections::HashSet,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tracing::debug;

use crate::{
    cluster::{self, Cluster, Indirect, Question},
    crew::Crew,
    domain::{Epoch, EventId},
    gateway::Links,
    presence::{DevicePresence, Elsewhere, Presence},
    receipts,
    store::{Arrival, DeviceKey, Store, redis::RedisStore},
};

/// The other nodes, once this one has joined them. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Others(Arc<OnceLock<Cluster>>);

impl Others {
    pub(super) fn joined(&self, cluster: Cluster) {
        // Once: nobody joins twice.
        let _ = self.0.set(cluster);
    }

    async fn ask(&self, node: &str, question: Question) -> Option<Vec<u8>> {
        self.0.get()?.ask(node, question).await
    }
}

#[async_trait]
impl Elsewhere for Others {
    async fn presences(&self, node: &str, devices: &[DeviceKey]) -> Option<Vec<Option<DevicePresence>>> {
        let answer = self.ask(node, Question::Sessions(devices.to_vec())).await?;
        serde_json::from_slice(&answer)
            .inspect_err(|error| debug!("node {node} answers presence that cannot be read: {error}"))
            .ok()
            .filter(|presences: &Vec<_>| presences.len() == devices.len())
    }
}

/// What hints do here.
pub(super) struct Here {
    pub(super) links: Arc<dyn Links>,
    pub(super) presence: Presence,
    pub(super) store: Arc<RedisStore>,
    pub(super) arrived: mpsc::Sender<Arrival>,
}

impl cluster::Node for Here {
    fn arrived(&self, arrival: Arrival) -> bool {
        self.arrived.try_send(arrival).is_ok()
    }

    fn displaced(&self, device: &DeviceKey, epoch: Epoch) {
        self.store.seat_is_lost(device, epoch);
        self.links.displace(device.tenant, &device.device, epoch);
    }

    fn removed(&self, device: &DeviceKey, epoch: Epoch) {
        self.links.dismiss(device.tenant, &device.device, epoch);
    }

    fn lost(&self) {
        self.store.hints_were_lost();
    }

    fn answer(&self, question: &Question) -> Option<Vec<u8>> {
        match question {
            Question::Sessions(devices) => {
                let told: Vec<Option<DevicePresence>> = devices.iter().map(|device| self.presence.told(device)).collect();
                serde_json::to_vec(&told).ok()
            }
            Question::Holds(device, events) => {
                let link = self.links.link(device.tenant, &device.device)?;
                Some(events.iter().map(|event| u8::from(link.holds(*event))).collect())
            }
        }
    }
}

/// Carries messages that can only go through Redis, both ways.
pub(super) fn carry(
    crew: &Crew,
    store: &Arc<RedisStore>,
    cluster: &Cluster,
    mut indirect: mpsc::Receiver<Indirect>,
    mut published: mpsc::Receiver<Vec<u8>>,
) {
    let (store, stop) = (store.clone(), crew.stop_token());
    crew.spawn(async move {
        let publish = async {
            while let Some(Indirect { node, message }) = indirect.recv().await {
                if let Err(error) = store.publish(&node, &message).await {
                    debug!("a hint for {node} is lost: {error}");
                }
            }
        };
        let _ = stop.run_until_cancelled(publish).await;
    });
    let (cluster, stop) = (cluster.clone(), crew.stop_token());
    crew.spawn(async move {
        let hear = async {
            while let Some(message) = published.recv().await {
                cluster.received(&message);
            }
        };
        let _ = stop.run_until_cancelled(hear).await;
    });
}

/// Which events are with the session of their device, here or on another node: the state `dispatched`.
pub(super) fn dispatched(links: Arc<dyn Links>, store: Arc<dyn Store>, others: Option<Others>) -> receipts::Dispatched {
    Arc::new(
        move |device: DeviceKey, events: Vec<EventId>| -> BoxFuture<'static, HashSet<EventId>> {
            let link = links.link(device.tenant, &device.device);
            let (store, others) = (store.clone(), others.clone());
            Box::pin(async move {
                if let Some(link) = link {
                    return events.into_iter().filter(|event| link.holds(*event)).collect();
                }
                let Some(others) = others else { return HashSet::new() };
                // A store that does not answer now tells no more than that the events wait.
                let Ok(Some(seat)) = store.seat(&device).await.map(|view| view.seat) else {
                    return HashSet::new();
                };
                let held = others
                    .ask(&seat.node, Question::Holds(device, events.clone()))
                    .await
                    .unwrap_or_default();
                events
                    .into_iter()
                    .zip(held)
                    .filter(|(_, held)| *held == 1)
                    .map(|(event, _)| event)
                    .collect()
            })
        },
    )
}
