//! `GET /v1/devices/{id}/presence`, `GET /v1/presence` and `GET /v1/presence/stream`.

use std::sync::Arc;

use axum::{Extension, Json, Router, extract::State, routing::get};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Config, DevicePresence, Found, Presence, PresenceMetrics, follow::Follower, lost, stream};
use crate::{
    crew::Crew,
    domain::{Caller, DeviceId, Limits, Refusal, Scope},
    http::{PageRequest, Paged, Parameters, Segment},
    store::{Device, DeviceKey, Scan, Store, StoreError, Wanted},
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
    let wanted = Wanted {
        filter: parameters.take_filter(&routes.limits, true)?,
        user: None,
    };
    parameters.finish()?;
    if !wanted.is_all() {
        let found = routes.find(&caller, &wanted, after, page.limit).await;
        return found.map(Json).map_err(StoreError::refusal_of_all);
    }
    let found = routes.store.devices(caller.tenant, after.as_ref(), page.limit + 1).await;
    let page = page.page(found.map_err(StoreError::refusal_of_all)?, |device| device.id.to_string());
    let told = routes.told(&caller, page.items.iter()).await.map_err(StoreError::refusal_of_all)?;
    Ok(Json(Paged {
        items: told.into_iter().flatten().collect(),
        next: page.next,
    }))
}

impl Routes {
    /// Presence of devices, in order; `None` of one that is gone.
    async fn told(&self, caller: &Caller, devices: impl Iterator<Item = &Device>) -> Result<Vec<Option<DevicePresence>>, StoreError> {
        let keys: Vec<DeviceKey> = devices
            .map(|device| DeviceKey {
                tenant: caller.tenant,
                device: device.id.clone(),
            })
            .collect();
        let told = self.presence.of_all(&keys).await.into_iter().map(|answer| match answer {
            Ok(presence) => Ok(Some(presence)),
            Err(StoreError::UnknownDevice | StoreError::RemovedDevice) => Ok(None),
            Err(error) => Err(error),
        });
        told.collect()
    }

    /// A page of those that are wanted. It may have fewer than the limit, or none, and yet a next one: a request looks at so many
    /// devices and no more. A full page has a next one in any case, which may be empty.
    async fn find(
        &self,
        caller: &Caller,
        wanted: &Wanted,
        after: Option<DeviceId>,
        limit: usize,
    ) -> Result<Paged<DevicePresence>, StoreError> {
        let max = self.limits.filter_scan_max_devices;
        let mut scan = Scan::new(&*self.store, caller.tenant, wanted, after, max);
        let mut items = Vec::new();
        while let Some(found) = scan.next().await? {
            // No more are asked for their presence at once than a page can take.
            for some in found.chunks(limit) {
                let told = self.told(caller, some.iter().map(|candidate| &candidate.device)).await?;
                for (candidate, presence) in some.iter().zip(told) {
                    items.extend(presence.filter(|presence| candidate.fits_in(wanted, presence.state.as_str())));
                    if items.len() == limit {
                        let next = Some(PageRequest::cursor(candidate.device.id.as_str()));
                        return Ok(Paged { items, next });
                    }
                }
            }
        }
        let next = scan.stopped_at().map(|last| PageRequest::cursor(last.as_str()));
        Ok(Paged { items, next })
    }
}
