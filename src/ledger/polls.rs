//! The polls that devices really make: counted by cohort, held against the credit of the same device, and, of cohort
//! control, compared with what the virtual clock predicts.

use super::{
    Ledger,
    cell::{Cell, Control, ControlSum, DURATION_BUCKETS, GROUPS, INTERVAL_BUCKETS, bucket},
    clock, credit,
    stretch::Stretch,
    tracker::{Tracked, Watch, held_until},
};
use crate::domain::{
    Carried, Cohort, DeviceId, Direction, Exchange, PollMeter, PollResult, Polled, Poller, TenantId, Timestamp, stable_hash,
};

/// A device of cohort control is noted as seen once in so many milliseconds.
const NOTED_EVERY_MS: u64 = 600_000;

/// Which device, for everything that the ledger remembers of it.
pub(super) fn device_hash(tenant: TenantId, device: &DeviceId) -> u64 {
    stable_hash("device", "", tenant, device)
}

/// The group of the control cohort that a device is in.
fn group(device: u64) -> usize {
    (device % GROUPS as u64) as usize
}

impl PollMeter for Ledger {
    fn polled(&self, poller: &Poller, poll: Polled) {
        self.tally.add(Cell::Polls(poller.cohort, poll.result), 1);
        if !poll.long {
            let took = poll.took;
            self.tally
                .add(Cell::DurationBucket(bucket(&DURATION_BUCKETS, took.as_secs_f64())), 1);
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.tally.add(Cell::DurationSumMicros, micros);
        }
        let device = device_hash(poller.tenant, &poller.device);
        let interval = poller.poll_interval_secs.unwrap_or(self.config.poll_interval_secs).max(1);
        let followed = self.tracker.with(device, poll.at, |tracked| {
            let before = Some(tracked.last).filter(|last| *last < poll.at);
            tracked.held_until = tracked.held_until.max(held_until(poll.at, before, interval));
            tracked.last = tracked.last.max(poll.at);
            if !poll.long {
                self.book_interval(tracked, poll.at);
            }
            if poller.cohort == Cohort::Control {
                let watch = tracked.control.get_or_insert_default();
                self.compare(watch, device, poller, poll, interval);
            } else {
                tracked.control = None;
            }
        });
        if followed.is_none() {
            self.tally.add(Cell::Untracked, 1);
        }
    }

    fn poll_delivered(&self, poller: &Poller, accepted_at: Timestamp, _expires_at: Timestamp, now: Timestamp) {
        if poller.cohort != Cohort::Control {
            return;
        }
        let device = device_hash(poller.tenant, &poller.device);
        let told = self
            .tracker
            .known(device, |tracked| tracked.control.as_mut()?.stretch.as_mut()?.event(accepted_at));
        let Some(told) = told.flatten() else { return };
        let group = group(device);
        let predicted = told.wait_ms.saturating_add(self.config.poll_service_ms.into());
        self.tally.add(Cell::Control(group, Control::VirtualLatency), predicted);
        self.tally
            .add(Cell::Control(group, Control::Latency), now.0.saturating_sub(accepted_at.0));
        self.tally.add(Cell::ControlSum(ControlSum::Events), 1);
        if told.tick_found {
            self.tally.add(Cell::Control(group, Control::TicksFound), 1);
        }
    }

    fn poll_traffic(&self, poller: &Poller, exchange: Exchange, inward: Carried, outward: Carried, payload: u64) {
        let headers = (inward.packets.saturating_add(outward.packets)).saturating_mul(self.config.packet_header_bytes.into());
        let inward = inward.bytes.saturating_add(headers);
        let outward = outward.bytes.saturating_add(headers).saturating_sub(payload);
        self.tally.add(Cell::PollBytes(poller.cohort, Direction::In), inward);
        self.tally.add(Cell::PollBytes(poller.cohort, Direction::Out), outward);
        let Exchange::Poll(result) = exchange else { return };
        if poller.cohort != Cohort::Control {
            return;
        }
        let device = device_hash(poller.tenant, &poller.device);
        let predicted = self.tracker.known(device, |tracked| tracked.control.as_mut()?.bytes_came(result));
        let Some(predicted) = predicted.flatten() else { return };
        let (group, bytes) = (group(device), inward.saturating_add(outward));
        let add = |figure, amount| self.tally.add(Cell::Control(group, figure), amount);
        add(Control::Weighed, predicted);
        add(Control::Bytes, bytes);
        if matches!(result, PollResult::Empty | PollResult::NotModified) {
            add(Control::Empty, 1);
            add(Control::EmptyBytes, bytes);
            self.tally.add(Cell::ControlSum(ControlSum::EmptyBytesIn), inward);
        }
    }
}

impl Ledger {
    fn book_interval(&self, tracked: &mut Tracked, at: Timestamp) {
        if let Some(before) = tracked.last_plain {
            let ms = at.0.saturating_sub(before.0);
            self.tally.add(Cell::IntervalBucket(bucket(&INTERVAL_BUCKETS, ms as f64 / 1e3)), 1);
            self.tally.add(Cell::IntervalSumMs, ms);
        }
        tracked.last_plain = tracked.last_plain.max(Some(at));
    }

    /// Compares a poll of cohort control with the virtual clock. A refusal, and a poll that waits for events, are no model of
    /// polling at intervals: the time around them is on neither side.
    fn compare(&self, watch: &mut Watch, device: u64, poller: &Poller, poll: Polled, interval: u32) {
        if poll.long || poll.result == PollResult::Error {
            watch.stretch = None;
            watch.await_bytes(poll.result, None);
            return;
        }
        let longest_ms = (clock::interval_ms(interval) as f64 * self.config.absence_factor) as u64;
        let gap = watch
            .stretch
            .as_mut()
            .filter(|stretch| stretch.interval_secs() == interval)
            .and_then(|stretch| stretch.poll(poll.at, longest_ms));
        let Some(gap) = gap else {
            let phase = clock::phase_ms(poller.tenant, &poller.device, poll.at, interval);
            watch.stretch = Some(Stretch::begin(poll.at, interval, phase));
            watch.await_bytes(poll.result, None);
            return;
        };
        let predicted = credit::micro_polls(gap.ms, interval);
        watch.await_bytes(poll.result, Some(predicted));
        let group = group(device);
        let add = |figure, amount| self.tally.add(Cell::Control(group, figure), amount);
        add(Control::Predicted, predicted);
        add(Control::Observed, 1);
        add(Control::Found, u64::from(poll.result == PollResult::Events));
        add(Control::Ticks, gap.ticks);
        add(Control::TicksFound, gap.ticks_found);
        let intervals = predicted as f64 / 1e6;
        self.tally.add(Cell::ControlSum(ControlSum::GapMs), gap.ms);
        self.tally
            .add(Cell::ControlSum(ControlSum::GapSquares), (intervals * intervals * 1e6) as u64);
        let part = poll.at.0 / NOTED_EVERY_MS;
        if watch.noted != part {
            watch.noted = part;
            self.tracker.note(device);
        }
    }
}
