//! What a connection cost, for the ledger: bytes as they were at the socket, by what they were for.

use crate::{
    domain::{Carried, Direction, Meter, Overhead},
    xmpp::Traffic,
};

/// The order of the kinds in [`Traffic`], with framing and retry behind.
const KINDS: [Overhead; 7] = [
    Overhead::Connect,
    Overhead::Resume,
    Overhead::Keepalive,
    Overhead::Ack,
    Overhead::Presence,
    Overhead::Framing,
    Overhead::Retry,
];

/// Bytes and socket calls of one direction since the last report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    /// At the socket, TLS included.
    socket: u32,
    /// Inside TLS. The same as `socket` without TLS.
    clear: u32,
    /// Reads or writes: a packet each in the packet model.
    calls: u32,
}

/// What one connection cost since the last report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    inbound: Count,
    outbound: Count,
}

impl Tally {
    /// What the connection cost before it was the gateway's, the TCP handshake left out.
    pub(super) fn before(&mut self, inbound: Carried, outbound: Carried) {
        for (count, carried) in [(&mut self.inbound, inbound), (&mut self.outbound, outbound)] {
            add(&mut count.socket, usize::try_from(carried.bytes).unwrap_or(usize::MAX));
            count.calls = count.calls.saturating_add(u32::try_from(carried.packets).unwrap_or(u32::MAX));
        }
    }

    /// Bytes were read from the socket.
    pub(super) fn received(&mut self, bytes: usize) {
        self.inbound.call(bytes);
    }

    /// Bytes were given to the socket.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.outbound.call(bytes);
    }

    /// Clear bytes came out of what was read.
    pub(super) fn clear_in(&mut self, bytes: usize) {
        add(&mut self.inbound.clear, bytes);
    }

    /// Clear bytes went into what was sent.
    pub(super) fn clear_out(&mut self, bytes: usize) {
        add(&mut self.outbound.clear, bytes);
    }

    /// Reports a login: all of it, TLS handshake included, is `kind`. The TCP handshake counts as two packets in and one out.
    pub(super) fn report_login(&mut self, meter: &dyn Meter, kind: Overhead) {
        let Self { inbound, outbound } = std::mem::take(self);
        meter.overhead(kind, Direction::In, inbound.socket.into(), u64::from(inbound.calls) + 2);
        meter.overhead(kind, Direction::Out, outbound.socket.into(), u64::from(outbound.calls) + 1);
    }

    /// Reports what a session cost: the stream's bytes by kind, and what TLS and the socket added in proportion to them.
    /// What was sent as the JSON of events is no overhead; the TLS around it is.
    pub(super) fn report(&mut self, meter: &dyn Meter, traffic: &Traffic) {
        let Self { inbound, outbound } = std::mem::take(self);
        let mut kinds = [0; 7];
        kinds[..5].copy_from_slice(&traffic.received);
        inbound.report(meter, Direction::In, kinds);
        kinds[..5].copy_from_slice(&traffic.sent);
        (kinds[5], kinds[6]) = (traffic.framing, traffic.retry);
        outbound.report(meter, Direction::Out, kinds);
    }
}

impl Count {
    fn call(&mut self, bytes: usize) {
        add(&mut self.socket, bytes);
        self.calls = self.calls.saturating_add(1);
    }

    fn report(&self, meter: &dyn Meter, direction: Direction, kinds: [u32; 7]) {
        let around = spread(self.socket.saturating_sub(self.clear), &kinds);
        let packets = spread(self.calls, &kinds);
        for (((kind, bytes), around), packets) in KINDS.into_iter().zip(kinds).zip(around).zip(packets) {
            let bytes = u64::from(bytes) + u64::from(around);
            if bytes > 0 || packets > 0 {
                meter.overhead(kind, direction, bytes, packets.into());
            }
        }
    }
}

fn add(place: &mut u32, bytes: usize) {
    *place = place.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
}

/// Divides `whole` in proportion to `parts`; what rounding leaves goes to the largest. Nothing to go by: all are keepalive
/// (TLS tickets and key updates come on quiet connections).
fn spread(whole: u32, parts: &[u32; 7]) -> [u32; 7] {
    let sum: u64 = parts.iter().copied().map(u64::from).sum();
    let mut shares = [0; 7];
    let mut left = whole;
    for (share, part) in shares.iter_mut().zip(parts) {
        let exact = (u64::from(whole) * u64::from(*part)).checked_div(sum).unwrap_or(0);
        *share = u32::try_from(exact).unwrap_or(whole);
        left = left.saturating_sub(*share);
    }
    let largest = (0..7).rev().max_by_key(|at| parts.get(*at)).filter(|_| sum > 0).unwrap_or(2);
    if let Some(share) = shares.get_mut(largest) {
        *share += left;
    }
    shares
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::domain::{Account, DeviceId, Polling, TenantId, Timestamp, Urgency};

    #[derive(Default)]
    struct Notes(Mutex<Vec<(Overhead, Direction, u64, u64)>>);

    impl Meter for Notes {
        fn open(
            &self,
            _: TenantId,
            _: &DeviceId,
            _: Option<u32>,
            polling: Polling,
            keepalive: std::time::Duration,
            now: Timestamp,
        ) -> Account {
            Account {
                device: 0,
                poll_interval_secs: 1,
                polling,
                phase_ms: 0,
                opened_at: now,
                proven_until: now,
                last_tick: 0,
                vouches_for: keepalive,
            }
        }
        fn proof(&self, _: &mut Account, _: Timestamp) {}
        fn delivered(&self, _: &mut Account, _: Urgency, _: Timestamp, _: Timestamp) {}
        fn overhead(&self, kind: Overhead, direction: Direction, bytes: u64, packets: u64) {
            self.0.lock().push((kind, direction, bytes, packets));
        }
        fn close(&self, _: &mut Account, _: Timestamp) {}
    }

    #[test]
    fn what_a_connection_cost_before_it_came_here_is_part_of_its_login() {
        let meter = Notes::default();
        let mut tally = Tally::default();
        let carried = |bytes, packets| Carried { bytes, packets };
        tally.before(carried(700, 3), carried(2_100, 2));
        tally.received(300);
        tally.sent(900);
        tally.report_login(&meter, Overhead::Connect);
        assert_eq!(
            *meter.0.lock(),
            [
                (Overhead::Connect, Direction::In, 1_000, 3 + 1 + 2),
                (Overhead::Connect, Direction::Out, 3_000, 2 + 1 + 1)
            ]
        );
    }

    #[test]
    fn shares_add_up() {
        let check = |whole, parts, expected| assert_eq!(spread(whole, &parts), expected, "{whole} over {parts:?}");
        check(0, [0, 0, 5, 5, 0, 0, 0], [0; 7]);
        check(10, [0, 0, 5, 5, 0, 0, 0], [0, 0, 5, 5, 0, 0, 0]);
        check(10, [0, 0, 1, 2, 0, 0, 0], [0, 0, 3, 7, 0, 0, 0]);
        check(7, [0; 7], [0, 0, 7, 0, 0, 0, 0]);
        check(u32::MAX, [u32::MAX, 0, 0, 0, 0, 0, 0], [u32::MAX, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn tls_around_an_event_is_framing_and_its_json_is_nothing() {
        let meter = Notes::default();
        let mut tally = Tally::default();
        tally.clear_out(300);
        tally.sent(322);
        tally.clear_in(30);
        tally.received(52);
        let mut traffic = Traffic {
            framing: 180,
            ..Traffic::default()
        };
        traffic.received[3] = 30;
        tally.report(&meter, &traffic);
        assert_eq!(
            *meter.0.lock(),
            [(Overhead::Ack, Direction::In, 52, 1), (Overhead::Framing, Direction::Out, 202, 1)]
        );
        assert_eq!(tally, Tally::default());
    }
}
