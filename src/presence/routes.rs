//! `GET /v1/devices/{id}/presence`, `GET /v1/presence` and `GET /v1/presence/stream`.

use std::sync::Arc;

use axum::{Extension, Json, Router, extract::State, routing::get};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Config, DevicePresence, Found, Presence, PresenceMetrics, follow::Follower, lost, stream};
use crate::{
    crew::Crew,
    domain::{Caller, DeviceId, Limits, Refusal, Scope},
    http::{Paged, Parameters, Segment},
    store::{DeviceKey, Store, StoreError},
};

/// What the routes and tasks of presence stand on.
pub struct Parts {
    /// Where the devices and the feed are.
    pub store: Arc<dyn Store>,
    /// Pages of lists.
    pub limits: Limits,
    /// What is counted.
    pub metrics: PresenceMetrics,
    /// Ends every stream.
    pub stop: CancellationToken,
}

/// The HTTP side of presence, and its tasks. Cheap to clone.
#[derive(Clone)]
pub struct Routes {
    pub(super) config: Config,
    pub(super) presence: Presence,
    pub(super) store: Arc<dyn Store>,
    pub(super) limits: Limits,
    pub(super) follower: Follower,
    pub(super) metrics: PresenceMetrics,
    pub(super) rooms: Arc<Semaphore>,
    pub(super) stop: CancellationToken,
}

impl Routes {
    /// Over `presence`; nothing runs yet.
    pub fn new(config: Config, presence: Presence, parts: Parts) -> Self {
        Self {
            rooms: Arc::new(Semaphore::new(config.streams_max.min(Semaphore::MAX_PERMITS))),
            follower: Follower::new(parts.store.clone()),
            store: parts.store,
            limits: parts.limits,
            metrics: parts.metrics,
            stop: parts.stop,
            presence,
            config,
        }
    }

    /// The routes. The layer around them provides [`Caller`].
    pub fn router(&self) -> Router {
        Router::new()
            .route("/v1/devices/{id}/presence", get(of_device))
            .route("/v1/presence", get(list))
            .route("/v1/presence/stream", get(stream::stream_of_tenant))
            .with_state(self.clone())
    }

    /// Follows the feed for the streams, and ends the seats of dead nodes, until the crew stops.
    pub fn start(&self, crew: &Crew) {
        let follower = self.follower.clone();
        crew.spawn_vital(|stop| follower.run(stop));
        let (store, metrics) = (self.store.clone(), self.metrics.clone());
        let per_second = self.config.lost_seats_per_second;
        crew.spawn_vital(move |stop| lost::run(store, metrics, per_second, stop));
    }
}

async fn of_device(
    State(routes): State<Routes>,
    Extension(caller): Extension<Caller>,
    id: Segment,
    parameters: Parameters,
) -> Result<Json<DevicePresence>, Refusal> {
    caller.require(Scope::Read)?;
    parameters.finish()?;
    let key = DeviceKey {
        tenant: caller.tenant,
        device: id.device()?,
    };
    match routes.presence.of(&key).await {
        Ok(Found::Device(presence)) => Ok(Json(presence)),
        Ok(Found::Removed) => Err(Refusal::RemovedDevice(key.device)),
        Ok(Found::Unknown) => Err(Refusal::UnknownDevice(key.device)),
        Err(error) => Err(error.refusal(&key.device)),
    }
}

/// Devices in order of their ids. One that is removed between the two looks is left out.
async fn list(
    State(routes): State<Routes>,
    Extension(caller): Extension<Caller>,
    mut parameters: Parameters,
) -> Result<Json<Paged<DevicePresence>>, Refusal> {
    caller.require(Scope::Read)?;
    let page = parameters.take_page(&routes.limits)?;
    let after: Option<DeviceId> = page.after()?;
    if parameters.take("filter")?.is_some() {
        return Err(Refusal::InvalidParameter {
            name: "filter".into(),
            why: "it is not available in this version".into(),
        });
    }
    parameters.finish()?;
    let found = routes.store.devices(caller.tenant, after.as_ref(), page.limit + 1).await;
    let page = page.page(found.map_err(StoreError::refusal_of_all)?, |device| device.id.to_string());
    let keys: Vec<DeviceKey> = page
        .items
        .into_iter()
        .map(|device| DeviceKey {
            tenant: caller.tenant,
            device: device.id,
        })
        .collect();
    let mut items = Vec::with_capacity(keys.len());
    for answer in routes.presence.of_all(&keys).await {
        match answer {
            Ok(presence) => items.push(presence),
            Err(StoreError::UnknownDevice | StoreError::RemovedDevice) => {}
            Err(error) => return Err(error.refusal_of_all()),
        }
    }
    Ok(Json(Paged { items, next: page.next }))
}
