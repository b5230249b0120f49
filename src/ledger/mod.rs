//! The ledger: how much polling was avoided, and what push cost instead.
//!
//! It counts only connected time that a proof of life vouches for, charges push for everything that it does on the wire,
//! never clamps (net bytes may be negative), and names the baseline it compares with. [`Ledger`] is the [`Meter`] that the
//! doors report to; the figures are on `/metrics`, per minute in the store, and in `GET /v1/reports/polling-avoided`.
//!
//! What is deliberately absent: credit for a poll at start-up (although the connect is charged), clamps, and money.

mod clock;
mod collector;
mod credit;
mod figures;
mod flush;
mod report;
mod routes;
mod tally;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use report::{BaselineReport, Bytes, Latency, Report, words};
pub use routes::routes;

use self::{
    collector::Collector,
    credit::Credit,
    figures::Baseline,
    flush::Book,
    tally::{Cell, Policy, Tally},
};
use crate::{
    domain::{Account, Clock, DeviceId, Direction, Meter, Overhead, Polling, TenantId, Timestamp},
    store::Records,
};

/// What polling would look like without push.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How often a device would poll, in seconds. Default: 900. A device's own interval, where it has one, comes first.
    pub poll_interval_secs: u32,
    /// Bytes of one empty poll that reach the service, TCP/IP headers included. Default: 1598, of a poll over a new
    /// connection with a full TLS 1.3 handshake (4,213 bytes and 16 packets both ways).
    pub poll_bytes_in: u64,
    /// Bytes of one empty poll that leave the service. Default: 2615.
    pub poll_bytes_out: u64,
    /// Bytes in of one empty poll done efficiently. Default: 657, of a request on a kept connection answered by 304 (833
    /// bytes and 3 packets both ways).
    pub efficient_poll_bytes_in: u64,
    /// Bytes out of one empty poll done efficiently. Default: 176.
    pub efficient_poll_bytes_out: u64,
    /// Bytes of TCP/IP headers of one packet, charged to push. Default: 52 (IPv4, TCP with timestamps), as in the sizes of polls.
    pub packet_header_bytes: u32,
    /// How long the polled server takes to answer, in milliseconds; added to the latency that polling would have had.
    /// Default: 0, which claims nothing.
    pub poll_service_ms: u32,
    /// How long a proof of life vouches for beyond the keepalive interval, in seconds. Default: 30.
    pub grace_secs: u32,
    /// How often figures go to the store, in seconds. Default: 10. A crash loses at most this much, and never adds.
    pub flush_secs: u32,
    /// The longest period of one report, in days. Default: 400.
    pub report_max_days: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            poll_interval_secs: 900,
            poll_bytes_in: 1_598,
            poll_bytes_out: 2_615,
            efficient_poll_bytes_in: 657,
            efficient_poll_bytes_out: 176,
            packet_header_bytes: 52,
            poll_service_ms: 0,
            grace_secs: 30,
            flush_secs: 10,
            report_max_days: 400,
        }
    }
}

impl Config {
    /// Bytes of one empty poll under a baseline. Measured is nothing until a control cohort polls.
    fn poll_bytes(&self, baseline: Baseline, direction: Direction) -> u64 {
        match (baseline, direction) {
            (Baseline::Measured, _) => 0,
            (Baseline::Declared, Direction::In) => self.poll_bytes_in,
            (Baseline::Declared, Direction::Out) => self.poll_bytes_out,
            (Baseline::Efficient, Direction::In) => self.efficient_poll_bytes_in,
            (Baseline::Efficient, Direction::Out) => self.efficient_poll_bytes_out,
        }
    }

    /// The default interval; zero counts as one second.
    fn interval_secs(&self) -> u32 {
        self.poll_interval_secs.max(1)
    }
}

/// Takes the figures of sessions, keeps them by the minute, and reports them.
pub struct Ledger {
    config: Config,
    tally: Arc<Tally>,
    records: Arc<dyn Records>,
    clock: Arc<dyn Clock>,
    node: String,
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
    ) -> prometheus::Result<Arc<Self>> {
        let tally = Arc::new(Tally::default());
        registry.register(Box::new(Collector::new(config.clone(), tally.clone())?))?;
        let marker = format!("flushes.{node}.{}", clock.now().0);
        Ok(Arc::new(Self {
            config,
            tally,
            records,
            clock,
            node,
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
        }
        if let Some((why, ms)) = credit.uncredited {
            self.tally.add(Cell::UncreditedMs(why), ms);
        }
    }

    /// The virtual tick that would have carried an event, if this account claims anything for it: not when the device polls,
    /// and not when the event was there before the session, for then a poll at start-up would have brought it.
    fn claimed_tick(account: &Account, accepted_at: Timestamp) -> Option<clock::Tick> {
        (account.polling == Polling::Off && accepted_at >= account.opened_at)
            .then(|| clock::tick(accepted_at, account.phase_ms, account.poll_interval_secs))
    }
}

impl crate::domain::PollMeter for Ledger {
    fn polled(&self, _: &crate::domain::Poller, _: crate::domain::Polled) {}
    fn poll_delivered(&self, _: &crate::domain::Poller, _: Timestamp, _: Timestamp, _: Timestamp) {}
    fn poll_traffic(
        &self,
        _: &crate::domain::Poller,
        _: crate::domain::Exchange,
        _: crate::domain::Carried,
        _: crate::domain::Carried,
        _: u64,
    ) {
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
            poll_interval_secs,
            polling,
            phase_ms: clock::phase_ms(tenant, device, now, poll_interval_secs),
            opened_at: now,
            proven_until: now,
            last_tick: 0,
            vouches_for: keepalive.saturating_add(Duration::from_secs(self.config.grace_secs.into())),
        }
    }

    fn proof(&self, account: &mut Account, now: Timestamp) {
        let elapsed = now.since(account.proven_until);
        self.book_credit(account, credit::of_proof(elapsed, account.vouches_for, account.polling));
        account.proven_until = account.proven_until.max(now);
    }

    fn delivered(&self, account: &mut Account, accepted_at: Timestamp, now: Timestamp) {
        let Some(tick) = Self::claimed_tick(account, accepted_at) else {
            return;
        };
        if tick.index > account.last_tick {
            account.last_tick = tick.index;
            self.tally.add(Cell::EventPolls(self.policy(account)), 1);
        }
        let by_poll = tick.wait_ms.saturating_add(self.config.poll_service_ms.into());
        let by_push = u64::try_from(now.since(accepted_at).as_millis()).unwrap_or(u64::MAX);
        let saved = i64::try_from(by_poll)
            .unwrap_or(i64::MAX)
            .saturating_sub(i64::try_from(by_push).unwrap_or(i64::MAX));
        self.tally.add(Cell::wait_bucket(tick.wait_ms), 1);
        self.tally.add(Cell::WaitSumMs, tick.wait_ms);
        self.tally.add(Cell::saved_bucket(saved), 1);
        self.tally.add_signed(Cell::SavedSumMs, saved);
    }

    fn expiring(&self, account: &Account, accepted_at: Timestamp, expires_at: Timestamp) {
        if Self::claimed_tick(account, accepted_at).is_some_and(|tick| tick.at_ms >= expires_at.0) {
            self.tally.add(Cell::SavedFromExpiry, 1);
        }
    }

    fn overhead(&self, kind: Overhead, direction: Direction, bytes: u64, packets: u64) {
        let headers = packets.saturating_mul(self.config.packet_header_bytes.into());
        self.tally.add(Cell::Bytes(kind, direction), bytes.saturating_add(headers));
        self.tally.add(Cell::Packets(kind, direction), packets);
        // The other side's TCP acknowledgement: counted for every packet, although many ride on an answer.
        let back = match direction {
            Direction::In => Direction::Out,
            Direction::Out => Direction::In,
        };
        self.tally.add(Cell::Bytes(kind, back), headers);
        self.tally.add(Cell::Packets(kind, back), packets);
    }

    fn close(&self, account: &mut Account, now: Timestamp) {
        let elapsed = now.since(account.proven_until);
        self.book_credit(account, credit::of_end(elapsed, account.polling));
        account.proven_until = account.proven_until.max(now);
        account.vouches_for = Duration::ZERO;
    }
}
