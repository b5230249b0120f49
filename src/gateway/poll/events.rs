//! `GET /v1/devices/{id}/events`: what waits, at once or as soon as it comes.

use std::time::Duration;

use axum::{Extension, extract::State, http::HeaderMap, response::Response};
use prometheus::IntGauge;
use tokio::time::{Instant, sleep_until};

use super::{
    Door, Shared,
    credentials::Claim,
    cursor::Vector,
    page::{Shown, known},
    tab::Tab,
};
use crate::{
    domain::{Exchange, PollResult, Poller, Refusal},
    gateway::proof::{neighbour, poll_interval_secs},
    http::{Parameters, Segment, Wire},
    store::{Device, DeviceKey, Registered, StoreError, Watch},
};

/// A wait looks again at least that often, should a hint be lost.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// When to come back after a wait that found no room.
const FULL_FOR: Duration = Duration::from_secs(10);
/// When to come back, in seconds, after a wait that the stop of the service ended.
const STOPPED_FOR_SECS: u32 = 5;

/// A device that proved who it is.
pub(super) struct Known {
    pub(super) key: DeviceKey,
    pub(super) device: Device,
}

/// The handler.
pub(super) async fn poll(
    State(door): State<Door>,
    wire: Option<Extension<Wire>>,
    id: Segment,
    parameters: Result<Parameters, Refusal>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let door = &*door.0;
    let mut tab = Tab::open(door, wire.map(|wire| wire.0), Exchange::Poll(PollResult::Error));
    let known_device = door.log_in(&headers, &id, &mut tab).await?;
    let mut parameters = parameters?;
    let after = door.after(&mut parameters, &known_device)?;
    let wait = door.wait(&mut parameters)?;
    parameters.finish()?;
    tab.long = !wait.is_zero();
    let etags = known(&headers)?;
    let shown = match door.show(&known_device, &after).await? {
        shown if shown.events.is_empty() && tab.long => door.show_later(&known_device, &after, wait).await?,
        shown => shown,
    };
    let response = shown.answer(etags, door.poll_after_secs(&known_device.device, &shown, tab.long));
    tab.payload = shown.payload() as u64;
    tab.polled(match response.status() {
        axum::http::StatusCode::NOT_MODIFIED => PollResult::NotModified,
        _ if shown.events.is_empty() => PollResult::Empty,
        _ => PollResult::Events,
    });
    Ok(response)
}

/// A device whose claim is true, when it asks about itself.
fn known_device(claim: Claim, device: Option<Device>, id: &Segment) -> Result<Known, Refusal> {
    let (Some(key), Some(device)) = (claim.key, device) else {
        return Err(Refusal::WrongCredentials);
    };
    if id.0.parse().ok().as_ref() != Some(&key.device) {
        return Err(Refusal::OtherDevice(key.device));
    }
    Ok(Known { key, device })
}

impl Shared {
    /// Finds out which device asks, and that it asks about itself. A device that was removed is as good as unknown: whoever cannot
    /// log in learns nothing about it.
    ///
    /// # Errors
    /// `WrongCredentials`, `TooManyWrong`, `Overloaded`, `OtherDevice`, or what the store says.
    pub(super) async fn log_in(&self, headers: &HeaderMap, id: &Segment, tab: &mut Tab) -> Result<Known, Refusal> {
        let store = &*self.parts.store;
        let tokens = &self.parts.tokens;
        let claim = Claim::of(headers, &self.parts.hosts, tokens)?;
        let device = match &claim.key {
            Some(key) => self.registered(key).await?,
            None => None,
        };
        if let (Some(key), Some(device)) = (&claim.key, &device) {
            tab.poller = Some(Poller {
                tenant: key.tenant,
                device: key.device.clone(),
                cohort: device.cohort,
                poll_interval_secs: poll_interval_secs(device),
            });
        }
        if let (Some(key), true) = (&claim.key, tokens.takes(&claim.password)) {
            let now = self.parts.clock.now();
            self.logins.check_token(&claim, key, device.as_ref(), tokens, now).await?;
            let device = match device {
                Some(device) => Some(device),
                None => tokens.device(store, key, now).await.map_err(refusal)?,
            };
            return known_device(claim, device, id);
        }
        let like = match (&device, &claim.key) {
            (Some(device), _) if device.credentials.iter().any(|one| one.scram().is_some()) => None,
            (_, Some(key)) => neighbour(store, key).await,
            (_, None) => None,
        };
        self.logins.check(&claim, device.as_ref(), like, self.parts.clock.now()).await?;
        known_device(claim, device, id)
    }

    async fn registered(&self, key: &DeviceKey) -> Result<Option<Device>, Refusal> {
        match self.parts.store.device(key).await {
            Ok(Registered::Present(device)) => Ok(Some(*device)),
            Ok(Registered::Removed(_) | Registered::Unknown) => Ok(None),
            Err(error) => Err(refusal(error)),
        }
    }

    /// Takes `after`. A vector of another life of the store, or of an earlier device of that id, says nothing: everything is shown.
    fn after(&self, parameters: &mut Parameters, known: &Known) -> Result<Vector, Refusal> {
        let start = Vector::start(self.parts.store.generation());
        let text = parameters.take("after")?.unwrap_or_default();
        if text.is_empty() {
            return Ok(start);
        }
        let opened = Vector::open(&text, &*self.parts.store, &known.key, known.device.ordinal);
        let opened = opened.map_err(|_| Refusal::InvalidParameter {
            name: "after".into(),
            why: "it is no \"next\" of an earlier answer; leave it out to read everything".into(),
        })?;
        Ok(opened.unwrap_or(start))
    }

    fn wait(&self, parameters: &mut Parameters) -> Result<Duration, Refusal> {
        let max = self.config.wait_max_secs;
        let Some(text) = parameters.take("wait")? else {
            return Ok(Duration::ZERO);
        };
        match text.parse() {
            Ok(secs) if secs <= max => Ok(Duration::from_secs(secs)),
            _ => Err(Refusal::InvalidParameter {
                name: "wait".into(),
                why: format!("{text:?} is not a number of seconds from 0 to {max}"),
            }),
        }
    }

    async fn show(&self, known: &Known, after: &Vector) -> Result<Shown, Refusal> {
        let limit = self.config.page_max_events.max(1);
        let page = self.parts.store.pending(&known.key, after.cursor(), limit).await.map_err(refusal)?;
        Ok(Shown::of(page, after, self.config.page_max_bytes))
    }

    /// Waits until there is something to show, for `wait` at most, or until the service stops.
    async fn show_later(&self, known: &Known, after: &Vector, wait: Duration) -> Result<Shown, Refusal> {
        let deadline = Instant::now() + wait;
        let mut watch = self.parts.store.watch(&known.key);
        let full = Refusal::Overloaded { retry_after: FULL_FOR };
        if watch.count() > self.config.waits_per_device_max.max(1) {
            return Err(full);
        }
        let _place = self.waits.try_acquire().map_err(|_| full)?;
        let _waiting = Waiting::new(&self.parts.metrics.waiting);
        loop {
            // What came before the watch was made is seen here.
            let shown = self.show(known, after).await?;
            if !shown.events.is_empty() || self.parts.stop.is_cancelled() || Instant::now() >= deadline {
                return Ok(shown);
            }
            self.sleep(&mut watch, deadline).await;
            // Whoever changes or removes the credentials ends the waits that they opened.
            let now = self.registered(&known.key).await?;
            let same =
                |now: &Device| now.ordinal == known.device.ordinal && now.credential_generation == known.device.credential_generation;
            if !now.as_ref().is_some_and(same) {
                return Err(Refusal::WrongCredentials);
            }
        }
    }

    async fn sleep(&self, watch: &mut Watch, deadline: Instant) {
        tokio::select! {
            () = watch.woken() => {}
            () = self.parts.stop.cancelled() => {}
            () = sleep_until(deadline.min(Instant::now() + LOOK_EVERY)) => {}
        }
    }

    /// When the device is to come back, in seconds: at once for what is left, and for a device whose polls wait here.
    fn poll_after_secs(&self, device: &Device, shown: &Shown, long: bool) -> u32 {
        if shown.more {
            return 0;
        }
        match self.config.poll_after_secs {
            0 if long && self.parts.stop.is_cancelled() => STOPPED_FOR_SECS,
            0 if long => 0,
            0 => poll_interval_secs(device).unwrap_or(self.parts.interval_secs),
            secs => secs,
        }
    }
}

/// The refusal of a device that has proved who it is: one that was removed meanwhile cannot any more.
pub(super) fn refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::UnknownDevice | StoreError::RemovedDevice => Refusal::WrongCredentials,
        other => other.refusal_of_all(),
    }
}

/// Counts one long poll that waits.
struct Waiting<'a>(&'a IntGauge);

impl<'a> Waiting<'a> {
    fn new(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
