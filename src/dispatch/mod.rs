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
    domain::{Clock, DeviceSignal, Epoch},
    gateway::{Links, Offer},
    store::{Arrival, DeviceKey, Settle, Store},
};
use poison::Poison;
use refill::Refills;
use settle::End;

/// Arrivals taken from a channel at once.
const BURST: usize = 256;
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

    /// Offers an event that was just stored to the session that held the seat at that moment.
    fn offer(self: &Arc<Self>, arrival: &Arrival, crew: &Crew) {
        let Some(link) = self.links.link(arrival.event.event.tenant, &arrival.event.event.device) else {
            return;
        };
        if self.paused() || link.epoch() != arrival.epoch {
            return;
        }
        let event = &arrival.event;
        let device = DeviceKey {
            tenant: event.event.tenant,
            device: event.event.device.clone(),
        };
        if event.located.queue.is_some() && self.refills.takes_over(&device) {
            self.metrics.deferred.inc();
            return;
        }
        match link.offer_after(arrival.after, &arrival.event, self.clock.now()) {
            Offer::Taken => self.metrics.written_at_once.inc(),
            // It waits in the store: the session will say that it is ready, or the next one will read it.
            Offer::Held | Offer::Later | Offer::Gone => self.metrics.deferred.inc(),
            Offer::Gap => {
                self.metrics.deferred.inc();
                refill::request(self, crew, device);
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
    let mut burst = Vec::with_capacity(BURST);
    loop {
        let taken = tokio::select! {
            () = stop.cancelled() => break,
            taken = arrivals.recv_many(&mut burst, BURST) => taken,
        };
        if taken == 0 {
            break;
        }
        for arrival in burst.drain(..) {
            // A hint that was lost before this one leaves a gap that no session may be given events across: all of them read
            // on from the store first, and what arrives meanwhile is read there, too.
            let missed_now = shared.store.missed_arrivals();
            if missed_now != missed {
                missed = missed_now;
                resync::read_on(&shared, &crew);
            }
            shared.offer(&arrival, &crew);
        }
    }
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
                    let at = shared.clock.now();
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
                                at: shared.clock.now(),
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
