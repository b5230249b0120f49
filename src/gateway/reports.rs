//! What devices report of themselves, on its way into the store: a device that reports each second is written down once a
//! minute, with what it said last.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Connection, State},
    metrics::Reporting,
    shared::Shared,
};
use crate::{
    domain::Report,
    store::{DeviceKey, StoreError},
};

/// Devices whose report may wait for the store. While it takes none, more are dropped and counted.
const WAITING_MAX: usize = 65_536;
/// Reports that share a commit.
const TOGETHER: usize = 512;
const LOOK: Duration = Duration::from_millis(500);

struct Waiting {
    report: Report,
    due: Instant,
}

/// Reports that are not stored yet.
#[derive(Default)]
pub(super) struct Reports(Mutex<HashMap<DeviceKey, Waiting>>);

impl Reports {
    /// Adds a report, to be stored at `due`, with an earlier one of the device that still waits. False: there is no room.
    fn add(&self, key: &DeviceKey, report: Report, due: Instant) -> bool {
        let mut waiting = self.0.lock();
        if let Some(earlier) = waiting.get_mut(key) {
            earlier.report.then(report);
            earlier.due = earlier.due.min(due);
            return true;
        }
        let room = waiting.len() < WAITING_MAX;
        if room {
            waiting.insert(key.clone(), Waiting { report, due });
        }
        room
    }

    /// Puts back what could not be stored; what was reported meanwhile goes before it.
    fn put_back(&self, key: DeviceKey, mut report: Report, due: Instant) {
        let mut waiting = self.0.lock();
        if let Some(later) = waiting.remove(&key) {
            report.then(later.report);
        }
        waiting.insert(key, Waiting { report, due });
    }

    /// Takes some of what is due at `now`; all of it is due without `now`.
    fn take(&self, now: Option<Instant>) -> Vec<(DeviceKey, Report)> {
        let mut waiting = self.0.lock();
        let due = |waiting: &Waiting| now.is_none_or(|now| waiting.due <= now);
        waiting
            .extract_if(|_, waiting| due(waiting))
            .take(TOGETHER)
            .map(|(key, waiting)| (key, waiting.report))
            .collect()
    }
}

impl Connection {
    /// The device reports something.
    pub(super) fn take_report(&self, state: &mut State, report: Report, now: Instant) {
        let Some(seated) = &mut state.seated else { return };
        let every = Duration::from_secs(self.shared.config.reported_every_secs);
        let due = match seated.reported {
            // Who does not want to be found any more need not wait.
            Some(before) if report.location != Some(None) => (before + every).max(now),
            _ => now,
        };
        seated.reported = Some(due);
        if !self.shared.reports.add(&seated.key, report, due) {
            self.shared.metrics.reported(Reporting::Dropped);
        }
    }
}

/// Stores what is due until `stop`.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        while store(&shared, Some(Instant::now())).await {}
    }
}

/// Stores everything that waits, once, at the end.
pub(super) async fn finish(shared: &Shared) {
    let left = shared.reports.0.lock().len();
    for _ in 0..=left / TOGETHER {
        store(shared, None).await;
    }
}

/// Stores some of what is due. False: nothing is left, or the store takes none.
async fn store(shared: &Shared, now: Option<Instant>) -> bool {
    let reports = shared.reports.take(now);
    let time = shared.clock.now();
    let stored = join_all(reports.iter().map(|(key, report)| shared.store.report(key, report.clone(), time))).await;
    let again = Instant::now() + Duration::from_secs(shared.config.reported_every_secs.max(1));
    let mut goes_on = reports.len() == TOGETHER;
    for ((key, report), result) in reports.into_iter().zip(stored) {
        match result {
            Ok(new) => shared.metrics.reported(if new { Reporting::Stored } else { Reporting::Unchanged }),
            // What it reported goes with it.
            Err(StoreError::UnknownDevice | StoreError::RemovedDevice) => shared.metrics.reported(Reporting::Dropped),
            Err(error) => {
                if goes_on || now.is_none() {
                    tracing::warn!(error = %error, "what devices report is not stored: {error}");
                }
                goes_on = false;
                shared.reports.put_back(key, report, again);
            }
        }
    }
    goes_on
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::TenantId;

    fn key(n: usize) -> DeviceKey {
        DeviceKey {
            tenant: TenantId(0),
            device: format!("stb-{n}").parse().unwrap(),
        }
    }

    fn report(n: u64) -> Report {
        Report {
            attributes: Some([("n".to_owned(), n.into())].into_iter().collect()),
            location: None,
        }
    }

    #[test]
    fn of_several_reports_the_last_is_stored_when_the_first_is_due() {
        let (reports, now) = (Reports::default(), Instant::now());
        let later = now + Duration::from_secs(60);
        assert!(reports.add(&key(1), report(1), later));
        assert!(reports.add(&key(1), report(2), later + Duration::from_secs(60)));
        assert!(reports.take(Some(now)).is_empty());
        assert_eq!(reports.take(Some(later)), [(key(1), report(2))]);
        assert!(reports.take(None).is_empty());
        assert!(reports.add(&key(1), report(3), later) && reports.add(&key(1), report(4), now));
        assert_eq!(reports.take(Some(now)), [(key(1), report(4))]);
    }

    #[test]
    fn what_could_not_be_stored_waits_behind_nothing_newer() {
        let (reports, now) = (Reports::default(), Instant::now());
        assert!(reports.add(&key(1), report(2), now));
        reports.put_back(key(1), report(1), now);
        assert_eq!(reports.take(None), [(key(1), report(2))]);
    }

    #[test]
    fn there_is_room_for_so_many_devices() {
        let (reports, now) = (Reports::default(), Instant::now());
        assert!((0..WAITING_MAX).all(|n| reports.add(&key(n), report(0), now)));
        assert!(!reports.add(&key(WAITING_MAX), report(0), now));
        assert!(reports.add(&key(0), report(1), now), "it has its place");
    }
}
