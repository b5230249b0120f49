//! The ledger: how much polling was avoided, and what push cost instead.
//!
//! It counts only connected time that a proof of life vouches for, charges push for everything that it does on the wire,
//! never clamps (net bytes may be negative), and names the baseline it compares with. [`Ledger`] is the [`Meter`] that the
//! doors report to; the figures are on `/metrics`, per minute in the store, and in `GET /v1/reports/polling-avoided`.
//!
//! What is deliberately absent: credit for a poll at start-up (although the connect is charged), clamps, and money.

mod calibration;
mod cell;
mod clock;
mod collector;
mod config;
mod credit;
mod figures;
mod flush;
mod measured;
mod metric;
mod openapi;
mod poll_collector;
mod polls;
mod report;
mod routes;
mod stretch;
mod tally;
#[cfg(test)]
mod tests;
mod tracker;
mod usage;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

pub use config::Config;
pub use openapi::operations;
pub use report::{BaselineReport, Bytes, Calibration, CohortReport, ControlReport, Interval, Latency, Ratio, Report, Saved, words};
pub use routes::routes;

use self::{
    cell::{Cell, Policy, SAVED_BUCKETS, WAIT_BUCKETS, bucket},
    collector::Collector,
    credit::Credit,
    flush::Book,
    measured::Measured,
    poll_collector::PollCollector,
    tally::Tally,
    tracker::Tracker,
    usage::Charge,
};
use crate::{
    domain::{Account, Clock, DeviceId, Direction, Meter, Overhead, Polling, TenantId, Timestamp, Urgency},
    store::Records,
};

/// How many devices there are of the cohorts push, poll and control. Called often; it must not block.
pub type CohortDevices = Arc<dyn Fn() -> [u64; 3] + Send + Sync>;

/// Takes the figures of sessions, keeps them by the minute, and reports them.
pub struct Ledger {
    config: Config,
    tally: Arc<Tally>,
    tracker: Arc<Tracker>,
    records: Arc<dyn Records>,
    clock: Arc<dyn Clock>,
    node: String,
    measured: Arc<Measured>,
    charge: Arc<Charge>,
    cohort_devices: CohortDevices,
    /// Names this life of the process, so that a flush of doubtful end is never stored twice.
    marker: String,
    book: Mutex<Book>,
    flushing: tokio::sync::Mutex<()>,
}

impl Ledger {
    /// A ledger with its metrics registered. Figures reach the store once [`Ledger::start`] runs.
    ///
    /// # Errors
    /// A metric of the same name is registered already.
    pub fn new(
        config: Config,
        records: Arc<dyn Records>,
        clock: Arc<dyn Clock>,
        registry: &prometheus::Registry,
        node: String,
        cohort_devices: CohortDevices,
    ) -> prometheus::Result<Arc<Self>> {
        let tally = Arc::new(Tally::default());
        let tracker = Arc::new(Tracker::new(config.polling_devices_max));
        let measured = Arc::new(Measured::default());
        let charge = Arc::new(Charge::begin());
        registry.register(Box::new(Collector::new(config.clone(), tally.clone(), charge.clone())?))?;
        registry.register(Box::new(PollCollector::new(
            tally.clone(),
            tracker.clone(),
            measured.clone(),
            clock.clone(),
            cohort_devices.clone(),
        )?))?;
        let marker = format!("flushes.{node}.{}", clock.now().0);
        Ok(Arc::new(Self {
            config,
            tally,
            tracker,
            records,
            clock,
            node,
            measured,
            charge,
            cohort_devices,
            marker,
            book: Mutex::default(),
            flushing: tokio::sync::Mutex::default(),
        }))
    }

    fn policy(&self, account: &Account) -> Policy {
        if account.poll_interval_secs == self.config.interval_secs() {
            Policy::Default
        } else {
            Policy::Attribute
        }
    }

    fn book_credit(&self, account: &Account, credit: Credit) {
        if credit.credited_ms > 0 {
            let policy = self.policy(account);
            self.tally.add(Cell::CreditedMs(policy), credit.credited_ms);
            let polls = credit::micro_polls(credit.credited_ms, account.poll_interval_secs);
            self.tally.add(Cell::MicroPolls(policy), polls);
            if let Some(measured) = self.measured.parameters() {
                let polls = polls as f64 * measured.polls;
                self.tally.add(Cell::MeasuredMs, credit.credited_ms);
                self.tally.add(Cell::MeasuredMicroPolls(policy), polls as u64);
                for (direction, bytes) in [(Direction::In, measured.bytes_in), (Direction::Out, measured.bytes_out)] {
                    self.tally
                        .add(Cell::MeasuredMilliBytes(policy, direction), (polls * bytes / 1e3) as u64);
                }
            }
        }
        if let Some((why, ms)) = credit.uncredited {
            self.tally.add(Cell::UncreditedMs(why), ms);
        }
    }

    /// The virtual tick that would have carried an event, if this account claims anything for it: not when the device polls,
    /// and not when the event was there before the session, for then a poll at start-up would have brought it.
    fn claimed_tick(&self, account: &Account, accepted_at: Timestamp) -> Option<clock::Tick> {
        (account.polling == Polling::Off && accepted_at >= account.opened_at && self.held(account).is_none_or(|held| accepted_at >= held))
            .then(|| clock::tick(accepted_at, account.phase_ms, account.poll_interval_secs))
    }

    /// Until when the device's own polls keep this session from earning.
    fn held(&self, account: &Account) -> Option<Timestamp> {
        self.tracker.known(account.device, |tracked| tracked.held_until)
    }

    /// Books the time since the last proof of life. What lies before the end of a hold earns nothing, and what is behind it
    /// is vouched for by so much less.
    fn book_since(&self, account: &mut Account, vouches_for: Duration, now: Timestamp) {
        let from = account.proven_until;
        let held = match self.held(account) {
            Some(until) if account.polling == Polling::Off => until.min(now).since(from),
            _ => Duration::ZERO,
        };
        self.book_credit(account, credit::of_proof(held, Duration::ZERO, Polling::On));
        let rest = credit::of_proof(now.since(from) - held, vouches_for.saturating_sub(held), account.polling);
        self.book_credit(account, rest);
        account.proven_until = from.max(now);
    }
}

impl Meter for Ledger {
    fn open(
        &self,
        tenant: TenantId,
        device: &DeviceId,
        poll_interval_secs: Option<u32>,
        polling: Polling,
        keepalive: Duration,
        now: Timestamp,
    ) -> Account {
        let poll_interval_secs = poll_interval_secs.unwrap_or(self.config.poll_interval_secs).max(1);
        Account {
            device: polls::device_hash(tenant, device),
            poll_interval_secs,
            polling,
            phase_ms: clock::phase_ms(tenant, device, now, poll_interval_secs),
            opened_at: now,
            proven_until: now,
            last_tick: 0,
            vouches_for: keepalive.saturating_add(Duration::from_secs(self.config.grace_secs.into())),
        }
    }

    fn keepalive(&self, account: &mut Account, keepalive: Duration) {
        account.vouches_for = keepalive.saturating_add(Duration::from_secs(self.config.grace_secs.into()));
    }

    fn proof(&self, account: &mut Account, now: Timestamp) {
        self.book_since(account, account.vouches_for, now);
    }

    fn delivered(&self, account: &mut Account, urgency: Urgency, accepted_at: Timestamp, now: Timestamp) {
        let Some(tick) = self.claimed_tick(account, accepted_at) else {
            return;
        };
        let measured = self.measured.parameters();
        if tick.index > account.last_tick {
            account.last_tick = tick.index;
            self.tally.add(Cell::EventPolls(self.policy(account)), 1);
            if measured.is_some() {
                self.tally.add(Cell::MeasuredEventPolls(self.policy(account)), 1);
            }
        }
        let by_push = i64::try_from(now.since(accepted_at).as_millis()).unwrap_or(i64::MAX);
        let saved_after = |wait_ms: u64| {
            let by_poll = wait_ms.saturating_add(self.config.poll_service_ms.into());
            i64::try_from(by_poll).unwrap_or(i64::MAX).saturating_sub(by_push)
        };
        let saved = saved_after(tick.wait_ms);
        if let Some(measured) = measured {
            let saved = saved_after((tick.wait_ms as f64 * measured.wait) as u64);
            self.tally
                .add(Cell::MeasuredSavedBucket(urgency, bucket(&SAVED_BUCKETS, saved as f64 / 1e3)), 1);
            self.tally.add_signed(Cell::MeasuredSavedSumMs(urgency), saved);
        }
        self.tally
            .add(Cell::WaitBucket(bucket(&WAIT_BUCKETS, tick.wait_ms as f64 / 1e3)), 1);
        self.tally.add(Cell::WaitSumMs, tick.wait_ms);
        self.tally
            .add(Cell::SavedBucket(urgency, bucket(&SAVED_BUCKETS, saved as f64 / 1e3)), 1);
        self.tally.add_signed(Cell::SavedSumMs(urgency), saved);
    }

    fn expiring(&self, account: &Account, accepted_at: Timestamp, expires_at: Timestamp) {
        if self
            .claimed_tick(account, accepted_at)
            .is_some_and(|tick| tick.at_ms >= expires_at.0)
        {
            self.tally.add(Cell::SavedFromExpiry, 1);
        }
    }

    fn overhead(&self, kind: Overhead, direction: Direction, bytes: u64, packets: u64) {
        let headers = packets.saturating_mul(self.config.packet_header_bytes.into());
        self.tally.add(Cell::Bytes(kind, direction), bytes.saturating_add(headers));
        self.tally.add(Cell::Packets(kind, direction), packets);
        if (kind, direction) == (Overhead::Keepalive, Direction::In) {
            self.tally.add(Cell::Keepalives, packets);
        }
        // The other side's TCP acknowledgement: counted for every packet, although many ride on an answer.
        let back = match direction {
            Direction::In => Direction::Out,
            Direction::Out => Direction::In,
        };
        self.tally.add(Cell::Bytes(kind, back), headers);
        self.tally.add(Cell::Packets(kind, back), packets);
    }

    fn close(&self, account: &mut Account, now: Timestamp) {
        self.book_since(account, Duration::ZERO, now);
        account.vouches_for = Duration::ZERO;
    }
}
