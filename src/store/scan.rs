//! Devices that fit a filter, in bounded steps: however many there are, one request looks at so many of them and says where to go on.

use super::{Device, Store, StoreError};
use crate::domain::{DeviceId, Facts, Filter, Reported, TenantId, UserId};

/// Devices read at once.
const STEP: usize = 1_000;

/// What is looked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only devices that fit. `None`: all.
    pub filter: Option<Filter>,
    /// Only devices of this user, by the index.
    pub user: Option<UserId>,
}

/// A look through the devices of a tenant in order of their ids.
pub struct Scan<'a> {
    store: &'a dyn Store,
    tenant: TenantId,
    wanted: &'a Wanted,
    user: Option<UserId>,
    after: Option<DeviceId>,
    left: usize,
    at_end: bool,
}

/// A device that fits, or of which presence must decide.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The device.
    pub device: Device,
    /// What it reported, when the filter looked at that.
    pub reported: Option<Reported>,
    /// Whether it fits for sure. If not, the filter asks for its state.
    pub fits: bool,
}

impl Wanted {
    /// Whether anything is wanted but all.
    pub fn is_all(&self) -> bool {
        self.filter.is_none() && self.user.is_none()
    }
}

impl Candidate {
    /// Whether it fits, now that its state is known.
    pub fn fits_in(&self, wanted: &Wanted, state: &str) -> bool {
        self.fits
            || wanted
                .filter
                .as_ref()
                .is_none_or(|filter| judge(filter, &self.device, self.reported.as_ref(), Some(state)) == Some(true))
    }
}

impl<'a> Scan<'a> {
    /// Begins behind `after`, and looks at `max` devices at most, but at one at least.
    pub fn new(store: &'a dyn Store, tenant: TenantId, wanted: &'a Wanted, after: Option<DeviceId>, max: usize) -> Self {
        Self {
            store,
            tenant,
            wanted,
            user: wanted.user.clone().or_else(|| wanted.filter.as_ref()?.user()),
            after,
            left: max.max(1),
            at_end: false,
        }
    }

    /// Looks at some more, and answers those that may fit. `None`: there are no more devices, or as many were looked at as may be.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn next(&mut self) -> Result<Option<Vec<Candidate>>, StoreError> {
        if self.at_end || self.left == 0 {
            return Ok(None);
        }
        let step = self.left.min(STEP);
        let devices = match &self.user {
            Some(user) => self.store.devices_of(self.tenant, user, self.after.as_ref(), step).await?,
            None => self.store.devices(self.tenant, self.after.as_ref(), step).await?,
        };
        // Fewer than were asked for may also be because some were removed meanwhile.
        let Some(last) = devices.last() else {
            self.at_end = true;
            return Ok(None);
        };
        self.after = Some(last.id.clone());
        self.left = self.left.saturating_sub(devices.len());
        let found = self.sift(devices).await?;
        // Reading and judging a thousand rows takes milliseconds: others have their turn.
        tokio::task::yield_now().await;
        Ok(Some(found))
    }

    async fn sift(&self, mut devices: Vec<Device>) -> Result<Vec<Candidate>, StoreError> {
        if let Some(user) = &self.wanted.user {
            devices.retain(|device| device.user.as_ref() == Some(user));
        }
        let candidate = |device, reported, fits| Candidate { device, reported, fits };
        let Some(filter) = &self.wanted.filter else {
            return Ok(devices.into_iter().map(|device| candidate(device, None, true)).collect());
        };
        let reported = if filter.reads_reported() {
            self.store.reported(self.tenant, &devices).await?
        } else {
            vec![None; devices.len()]
        };
        let judged = devices.into_iter().zip(reported).filter_map(|(device, reported)| {
            let judged = judge(filter, &device, reported.as_ref(), None);
            (judged != Some(false)).then(|| candidate(device, reported, judged == Some(true)))
        });
        Ok(judged.collect())
    }

    /// The last device that was looked at, when there may be more behind it.
    pub fn stopped_at(&self) -> Option<&DeviceId> {
        self.after.as_ref().filter(|_| !self.at_end)
    }
}

fn judge(filter: &Filter, device: &Device, reported: Option<&Reported>, state: Option<&str>) -> Option<bool> {
    let reported = reported.map(Reported::object);
    filter.judge(&Facts {
        id: &device.id,
        user: device.user.as_ref(),
        cohort: device.cohort,
        attributes: &device.attributes,
        reported: reported.as_ref(),
        state,
    })
}
