//! What goes next, to whom, and when again.
//!
//! The dispatcher follows the store's arrivals and offers each to the device's session at once. A session that cannot take
//! one says so when it can again, and is then refilled from the store, in order. What ends at a device is settled here, and
//! only here. A lost hint delays an event until the next resync, and never loses it: the store is the truth.
//!
//! What is deliberately absent: any queue of events. Events wait in the store.

mod config;
mod groups;
mod metrics;
mod poison;
mod refill;
mod requeue;
mod resync;
mod settle;
mod sweeper;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use metrics::DispatchMetrics;

use crate::{
    crew::Crew,
    domain::{Clock, DeviceSignal, Epoch, TenantId, Timestamp},
    gateway::{Links, Offer},
    store::{Arrival, DeviceKey, Settle, Store},
};
use poison::Poison;
use refill::Refills;
use settle::End;

/// Arrivals taken from a channel at once: about what one commit brings.
const BURST: usize = 1_024;
/// Arrivals that are offered before other tasks have their turn.
const TURN: usize = 256;
/// Signals taken from a channel at once: what they end is one step of the store, and the next is not taken before it holds. Fewer than come
/// in with one commit would lag behind ever more.
const SIGNALS: usize = 2_048;

/// Follows arrivals and devices. Clones share everything.
#[derive(Clone)]
pub struct Dispatcher {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    store: Arc<dyn Store>,
    links: Arc<dyn Links>,
    clock: Arc<dyn Clock>,
    metrics: DispatchMetrics,
    paused: AtomicBool,
    refills: Refills,
}

/// What the dispatcher listens to.
pub struct Inputs {
    /// Events that were just stored for devices whose seat is held.
    pub arrivals: mpsc::Receiver<Arrival>,
    /// What devices say.
    pub signals: mpsc::Receiver<DeviceSignal>,
}

impl Dispatcher {
    /// A dispatcher that is not started.
    pub fn new(config: Config, store: Arc<dyn Store>, links: Arc<dyn Links>, clock: Arc<dyn Clock>, metrics: DispatchMetrics) -> Self {
        let refills = Refills::new(config.refills_max);
        Self {
            shared: Arc::new(Shared {
                config,
                store,
                links,
                clock,
                metrics,
                paused: AtomicBool::new(false),
                refills,
            }),
        }
    }

    /// Starts its tasks. They stop with the crew; signals that are in the channel by then are still settled.
    pub fn start(&self, crew: &Crew, inputs: Inputs) {
        let Inputs { arrivals, signals } = inputs;
        let (shared, refill_crew) = (self.shared.clone(), crew.clone());
        crew.spawn_vital(move |stop| follow_arrivals(shared, arrivals, refill_crew, stop));
        let (shared, refill_crew) = (self.shared.clone(), crew.clone());
        crew.spawn_vital(move |stop| follow_signals(shared, signals, refill_crew, stop));
        let (shared, refill_crew) = (self.shared.clone(), crew.clone());
        crew.spawn_vital(move |stop| resync::run(shared, refill_crew, stop));
        let shared = self.shared.clone();
        crew.spawn_vital(move |stop| sweeper::run(shared, stop));
        let shared = self.shared.clone();
        crew.spawn_vital(move |stop| requeue::run(shared, stop));
        let shared = self.shared.clone();
        crew.spawn_vital(move |stop| groups::run(shared, stop));
    }

    /// Sends nothing more; acknowledgements still settle.
    pub fn pause(&self) {
        self.shared.paused.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    /// Tells the session that said what became of an event whether that is kept. One that came later knows nothing of it; its device
    /// says it again.
    fn answer(&self, device: &DeviceKey, epoch: Epoch, ticket: u32, known: bool) {
        if let Some(link) = self.links.link(device.tenant, &device.device).filter(|link| link.epoch() == epoch) {
            link.told(ticket, known);
        }
    }

    fn paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Offers events of one device that were just stored to the session that held the seat at that moment. `offers` is empty.
    fn offer(self: &Arc<Self>, arrivals: &[Arrival], now: Timestamp, offers: &mut Vec<Offer>, crew: &Crew) {
        let Some(first) = arrivals.first() else { return };
        let Some(link) = self.links.link(first.event.event.tenant, &first.event.event.device) else {
            return;
        };
        if self.paused() || link.epoch() != first.epoch {
            return;
        }
        let device = DeviceKey {
            tenant: first.event.event.tenant,
            device: first.event.event.device.clone(),
        };
        let is_stored = |arrival: &&Arrival| arrival.event.located.queue.is_some();
        if arrivals.iter().any(|arrival| is_stored(&arrival)) && self.refills.takes_over(&device) {
            self.metrics.deferred.inc_by(arrivals.iter().filter(is_stored).count() as u64);
            for passed in arrivals.iter().filter(|arrival| !is_stored(arrival)) {
                link.offer_all(std::slice::from_ref(passed), now, offers);
            }
        } else {
            link.offer_all(arrivals, now, offers);
        }
        for offer in offers.drain(..) {
            match offer {
                Offer::Taken => self.metrics.written_at_once.inc(),
                // It waits in the store: the session will say that it is ready, or the next one will read it.
                Offer::Held | Offer::Later | Offer::Gone => self.metrics.deferred.inc(),
                Offer::Gap => {
                    self.metrics.deferred.inc();
                    refill::request(self, crew, device.clone());
                }
            }
        }
    }

    /// Whether a signal comes from the session that is there now.
    fn is_current(&self, device: &DeviceKey, epoch: Epoch) -> bool {
        self.links
            .link(device.tenant, &device.device)
            .is_some_and(|link| link.epoch() == epoch)
    }
}

async fn follow_arrivals(shared: Arc<Shared>, mut arrivals: mpsc::Receiver<Arrival>, crew: Crew, stop: CancellationToken) {
    let mut missed = shared.store.missed_arrivals();
    let (mut burst, mut offers) = (Vec::new(), Vec::new());
    loop {
        let taken = tokio::select! {
            () = stop.cancelled() => break,
            taken = arrivals.recv_many(&mut burst, BURST) => taken,
        };
        if taken == 0 {
            break;
        }
        // What came in together for one device goes out in one write, in its order.
        burst.sort_by_key(of_device);
        let (mut now, mut turn) = (shared.clock.now(), 0);
        for together in burst.chunk_by(|one, next| of_device(one) == of_device(next)) {
            // A hint that was lost before these leaves a gap that no session may be given events across: all of them read
            // on from the store first, and what arrives meanwhile is read there, too.
            let missed_now = shared.store.missed_arrivals();
            if missed_now != missed {
                missed = missed_now;
                resync::read_on(&shared, &crew);
            }
            shared.offer(together, now, &mut offers, &crew);
            turn += together.len();
            if turn >= TURN {
                tokio::task::yield_now().await;
                (now, turn) = (shared.clock.now(), 0);
            }
        }
        burst.clear();
    }
}

/// The device of an arrival, and which session was there.
fn of_device(arrival: &Arrival) -> (TenantId, u32, Epoch) {
    let located = arrival.event.located;
    (located.tenant, located.ordinal, arrival.epoch)
}

async fn follow_signals(shared: Arc<Shared>, mut signals: mpsc::Receiver<DeviceSignal>, crew: Crew, stop: CancellationToken) {
    let mut burst = Vec::new();
    let mut poison = Poison::default();
    loop {
        let taken = tokio::select! {
            biased;
            taken = signals.recv_many(&mut burst, SIGNALS) => taken,
            // Only once the channel is empty: what devices acknowledged is settled before the crew goes.
            () = stop.cancelled() => break,
        };
        if taken == 0 {
            break;
        }
        let mut ends = Vec::new();
        let at = shared.clock.now();
        for signal in burst.drain(..) {
            match signal {
                DeviceSignal::Ready { tenant, device, epoch } => {
                    let device = DeviceKey { tenant, device };
                    if shared.is_current(&device, epoch) {
                        refill::request(&shared, &crew, device);
                    }
                }
                DeviceSignal::Ended {
                    tenant,
                    device,
                    epoch,
                    events,
                } => {
                    poison.forget(tenant, &device);
                    ends.extend(events.into_iter().map(|(id, located, outcome)| {
                        End::from(Settle {
                            device: DeviceKey {
                                tenant,
                                device: device.clone(),
                            },
                            id,
                            located,
                            outcome,
                            at,
                            epoch: Some(epoch),
                            told: None,
                        })
                    }));
                }
                DeviceSignal::Told {
                    tenant,
                    device,
                    epoch,
                    event,
                    told,
                    ticket,
                } => {
                    poison.forget(tenant, &device);
                    let device = DeviceKey { tenant, device };
                    match shared.store.locate(tenant, event) {
                        None => shared.answer(&device, epoch, ticket, false),
                        Some(located) => ends.push(End {
                            settle: Settle {
                                device,
                                id: event,
                                located,
                                outcome: told.outcome(),
                                at,
                                epoch: Some(epoch),
                                told: Some(told),
                            },
                            ticket: Some(ticket),
                        }),
                    }
                }
                DeviceSignal::Returned {
                    tenant,
                    device,
                    epoch,
                    events,
                    at_once,
                } => {
                    shared.metrics.returned.inc_by(events.len() as u64);
                    if let Some(at_once) = at_once {
                        ends.extend(
                            shared
                                .suspect(&mut poison, DeviceKey { tenant, device }, epoch, &events, at_once)
                                .map(End::from),
                        );
                    }
                }
                DeviceSignal::Broke {
                    tenant,
                    device,
                    epoch,
                    events,
                    at_once,
                } => ends.extend(
                    shared
                        .suspect(&mut poison, DeviceKey { tenant, device }, epoch, &events, at_once)
                        .map(End::from),
                ),
            }
        }
        if !ends.is_empty() {
            settle::settle(&shared, ends, &stop).await;
        }
    }
}
