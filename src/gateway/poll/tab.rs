//! What one exchange with a device is, for the ledger.

use std::{sync::Arc, time::Instant};

use super::Shared;
use crate::{
    domain::{Exchange, PollMeter, PollResult, Polled, Poller, Timestamp},
    http::Wire,
};

/// One exchange, reported however it ends: also when the device goes away half way. Nothing is reported before it is known
/// which device it is.
pub(super) struct Tab {
    meter: Arc<dyn PollMeter>,
    wire: Option<Wire>,
    at: Timestamp,
    began: Instant,
    /// Whose it is.
    pub(super) poller: Option<Poller>,
    /// What it is for, and how it went so far.
    pub(super) exchange: Exchange,
    /// Whether it may wait for events.
    pub(super) long: bool,
    /// Bytes of events in its answer.
    pub(super) payload: u64,
}

impl Tab {
    /// Opens the tab of a request whose head has come. A poll is an error until it is answered.
    pub(super) fn open(door: &Shared, wire: Option<Wire>, exchange: Exchange) -> Self {
        Self {
            meter: door.parts.meter.clone(),
            wire,
            at: door.parts.clock.now(),
            began: Instant::now(),
            poller: None,
            exchange,
            long: false,
            payload: 0,
        }
    }

    /// The poll was answered.
    pub(super) fn polled(&mut self, result: PollResult) {
        self.exchange = Exchange::Poll(result);
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        let Some(poller) = self.poller.take() else { return };
        if let Exchange::Poll(result) = self.exchange {
            let poll = Polled {
                result,
                long: self.long,
                at: self.at,
                took: self.began.elapsed(),
            };
            self.meter.polled(&poller, poll);
        }
        if let Some(wire) = self.wire.take() {
            let (meter, exchange, payload) = (self.meter.clone(), self.exchange, self.payload);
            wire.bill(move |inward, outward| meter.poll_traffic(&poller, exchange, inward, outward, payload));
        }
    }
}
