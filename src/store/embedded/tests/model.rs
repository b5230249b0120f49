//! The store against a small reference model: random steps, some of them a reopening; after each the two must agree.

use std::{collections::HashMap, time::Duration};

use proptest::prelude::*;

use super::Embedded;
use crate::{
    domain::{Clock, DeliveryState, Event, EventId, Outcome, Timestamp, Urgency},
    store::{
        EnqueuedKind, Idempotency, Mailbox, Records, Registry, Settled, StoreError,
        contract::{self, Bench, add, claim_at, end, event, key, push_with, sweep, waiting},
    },
};

const DEVICES: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Step {
    Push {
        device: usize,
        high: bool,
        ttl_secs: u64,
        collapse: Option<u8>,
        idempotency: Option<(u8, u8)>,
        bytes: usize,
    },
    /// The nth event ever accepted.
    End(usize, Outcome),
    Claim(usize),
    /// With the current epoch, or with the one before.
    Release(usize, bool),
    Wait(u64),
    Sweep,
    RemoveAndAdd(usize),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let device = 0..DEVICES.len();
    let push = (
        device.clone(),
        any::<bool>(),
        1_u64..90,
        proptest::option::weighted(0.4, 0_u8..2),
        proptest::option::weighted(0.4, (0_u8..3, 0_u8..2)),
        2_usize..300,
    )
        .prop_map(|(device, high, ttl_secs, collapse, idempotency, bytes)| Step::Push {
            device,
            high,
            ttl_secs,
            collapse,
            idempotency,
            bytes,
        });
    let outcome = prop_oneof![Just(Outcome::Delivered), Just(Outcome::Cancelled), Just(Outcome::Expired)];
    prop_oneof![
        10 => push,
        6 => (any::<prop::sample::Index>(), outcome).prop_map(|(n, outcome)| Step::End(n.index(1 << 16), outcome)),
        2 => device.clone().prop_map(Step::Claim),
        2 => (device.clone(), any::<bool>()).prop_map(|(device, current)| Step::Release(device, current)),
        3 => (0_u64..40).prop_map(Step::Wait),
        2 => Just(Step::Sweep),
        1 => device.prop_map(Step::RemoveAndAdd),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Debug, Clone)]
struct Known {
    device: usize,
    high: bool,
    expires_at: Timestamp,
    collapse: Option<u8>,
    bytes: u64,
    state: DeliveryState,
    late_ack: bool,
    replaced_by: Option<EventId>,
}

/// What the store should know.
#[derive(Default)]
struct Model {
    /// In order of acceptance.
    events: Vec<(EventId, Known)>,
    idempotency: HashMap<(usize, u8), (EventId, u8)>,
    seats: HashMap<usize, u64>,
    generations: [u32; 3],
    last_epoch: u64,
    receipts: usize,
}

impl Model {
    fn waiting(&self, device: usize) -> impl Iterator<Item = &(EventId, Known)> {
        self.events
            .iter()
            .filter(move |(_, known)| known.device == device && known.state == DeliveryState::Queued)
    }

    fn get(&mut self, id: EventId) -> &mut Known {
        &mut self.events.iter_mut().find(|(known, _)| *known == id).unwrap().1
    }

    fn finish(&mut self, id: EventId, state: DeliveryState) {
        self.get(id).state = state;
        self.receipts += 1;
    }

    /// Events in the order in which a session writes them.
    fn deliverable(&self, device: usize, now: Timestamp) -> Vec<EventId> {
        let mut found: Vec<_> = self.waiting(device).filter(|(_, known)| known.expires_at > now).collect();
        found.sort_by_key(|(_, known)| !known.high);
        found.into_iter().map(|(id, _)| *id).collect()
    }
}

struct Run {
    bench: Embedded,
    model: Model,
}

impl Run {
    async fn new() -> Self {
        let bench = Embedded::new();
        for device in DEVICES {
            add(&*bench.store, device).await;
        }
        Self {
            bench,
            model: Model::default(),
        }
    }

    fn now(&self) -> Timestamp {
        self.bench.clock.now()
    }

    async fn step(mut self, step: Step) -> Self {
        match step {
            Step::Push { .. } => self.push(step).await,
            Step::End(n, outcome) => self.end(n, outcome).await,
            Step::Claim(device) => {
                let claimed = claim_at(&*self.bench.store, DEVICES[device], 1, self.model.generations[device])
                    .await
                    .unwrap();
                assert_eq!(
                    claimed.displaced.map(|seat| seat.epoch.0),
                    self.model.seats.insert(device, claimed.epoch.0)
                );
                assert!(claimed.epoch.0 > self.model.last_epoch, "an epoch never comes twice");
                self.model.last_epoch = claimed.epoch.0;
                assert_eq!(claimed.waiting as usize, self.model.waiting(device).count());
            }
            Step::Release(device, current) => {
                let held = self.model.seats.get(&device).copied();
                let epoch = held.unwrap_or(1) - u64::from(!current);
                let released = self
                    .bench
                    .store
                    .release(
                        &key(DEVICES[device]),
                        crate::domain::Epoch(epoch),
                        self.now(),
                        crate::domain::Departure::Lost,
                    )
                    .await;
                assert_eq!(released.unwrap(), held == Some(epoch));
                if held == Some(epoch) {
                    self.model.seats.remove(&device);
                }
            }
            Step::Wait(secs) => self.bench.clock.advance(Duration::from_secs(secs)),
            Step::Sweep => self.sweep().await,
            Step::RemoveAndAdd(device) => {
                let store = &self.bench.store;
                let seat = store.remove_device(&key(DEVICES[device]), self.now()).await.unwrap();
                assert_eq!(seat.map(|seat| seat.epoch.0), self.model.seats.remove(&device));
                let failed: Vec<_> = self.model.waiting(device).map(|(id, _)| *id).collect();
                for id in failed {
                    self.model.finish(id, DeliveryState::Failed);
                }
                self.model.idempotency.retain(|(owner, _), _| *owner != device);
                add(&**store, DEVICES[device]).await;
                // Who logged in as the old one is not seated as the new one.
                let refused = claim_at(&**store, DEVICES[device], 1, self.model.generations[device]).await;
                assert!(matches!(refused, Err(StoreError::Conflict(_))));
                self.model.generations[device] += 1;
            }
            Step::Reopen => {
                self.bench = self.bench.reopen().await;
                self.model.seats.clear();
            }
        }
        self
    }

    async fn push(&mut self, step: Step) {
        let Step::Push {
            device,
            high,
            ttl_secs,
            collapse,
            idempotency,
            bytes,
        } = step
        else {
            return;
        };
        let now = self.now();
        let new = Event {
            ttl: Duration::from_secs(ttl_secs),
            urgency: if high { Urgency::High } else { Urgency::Low },
            collapse_key: collapse.map(|n| format!("k{n}").into()),
            ..event(DEVICES[device], &"x".repeat(bytes), now)
        };
        let expires_at = new.expires_at();
        let header = idempotency.map(|(key, body)| Idempotency {
            key: [key; 16],
            body: [body; 16],
        });
        let done = push_with(&*self.bench.store, new, header).await;

        if let Some((id, body)) = idempotency.and_then(|(key, _)| self.model.idempotency.get(&(device, key))).copied() {
            if idempotency.is_some_and(|(_, wanted)| wanted != body) {
                assert!(matches!(done, Err(StoreError::KeyReused(first)) if first == id), "{done:?}");
            } else {
                let done = done.unwrap();
                assert_eq!(
                    (done.id, done.kind, done.state),
                    (id, EnqueuedKind::Repeat, self.model.get(id).state)
                );
            }
            return;
        }
        let old = collapse.and_then(|key| self.model.waiting(device).find(|(_, known)| known.collapse == Some(key)).cloned());
        let freed = old.as_ref().map_or(0, |(_, known)| known.bytes);
        let (count, size) = self
            .model
            .waiting(device)
            .fold((0, 0), |(n, bytes), (_, known)| (n + 1, bytes + known.bytes));
        let limits = contract::limits();
        let full = count - u32::from(old.is_some()) >= limits.queue_max_events || size - freed + bytes as u64 > limits.queue_max_bytes;
        if full {
            assert!(
                matches!(done, Err(StoreError::QueueFull { events, bytes }) if (events, bytes) == (count, size)),
                "{done:?}"
            );
            return;
        }
        let done = done.unwrap();
        assert_eq!((done.kind, done.state), (EnqueuedKind::New, DeliveryState::Queued));
        assert_eq!(done.seat.map(|seat| seat.epoch.0), self.model.seats.get(&device).copied());
        assert!(self.model.events.iter().all(|(id, _)| *id != done.id), "an id never comes twice");
        let mut replaced = Vec::new();
        if let Some((id, known)) = old {
            if known.expires_at <= now {
                self.model.finish(id, DeliveryState::Expired);
            } else {
                self.model.finish(id, DeliveryState::Replaced);
                self.model.get(id).replaced_by = Some(done.id);
                replaced.push(id);
            }
        }
        assert_eq!(done.replaced, replaced);
        if let Some((key, body)) = idempotency {
            self.model.idempotency.insert((device, key), (done.id, body));
        }
        let known = Known {
            device,
            high,
            expires_at,
            collapse,
            bytes: bytes as u64,
            state: DeliveryState::Queued,
            late_ack: false,
            replaced_by: None,
        };
        self.model.events.push((done.id, known));
    }

    async fn end(&mut self, n: usize, outcome: Outcome) {
        if self.model.events.is_empty() {
            return;
        }
        let (id, known) = self.model.events[n % self.model.events.len()].clone();
        let settled = end(&*self.bench.store, DEVICES[known.device], id, outcome, self.now()).await;
        if known.state == DeliveryState::Queued {
            assert!(matches!(settled, Settled::Now { .. }), "{settled:?}");
            self.model.finish(id, outcome.state());
        } else {
            assert_eq!(settled, Settled::Before(known.state));
            let overtaken = matches!(
                known.state,
                DeliveryState::Replaced | DeliveryState::Cancelled | DeliveryState::Expired
            );
            self.model.get(id).late_ack |= overtaken && outcome == Outcome::Delivered;
        }
    }

    async fn sweep(&mut self) {
        let now = self.now();
        let overdue: Vec<_> = self
            .model
            .events
            .iter()
            .filter(|(_, known)| known.state == DeliveryState::Queued && known.expires_at <= now)
            .map(|(id, _)| *id)
            .collect();
        let (expired, _) = sweep(&*self.bench.store, now).await;
        assert_eq!(expired as usize, overdue.len());
        for id in overdue {
            self.model.finish(id, DeliveryState::Expired);
        }
    }

    async fn agree(&self) {
        let store = &self.bench.store;
        let mut queued = 0;
        // The contract's limits keep four receipts; a sweep may have dropped the others.
        let last = store
            .receipts(contract::TENANT, 0, usize::MAX)
            .await
            .unwrap()
            .last()
            .map_or(0, |receipt| receipt.position);
        assert_eq!(last as usize, self.model.receipts, "a receipt for every end, and none twice");
        for (n, device) in DEVICES.into_iter().enumerate() {
            assert_eq!(waiting(&**store, device).await, self.model.deliverable(n, self.now()));
            let view = store.seat(&key(device)).await.unwrap();
            assert_eq!(view.seat.map(|seat| seat.epoch.0), self.model.seats.get(&n).copied());
            let count = self.model.waiting(n).count();
            assert_eq!(view.waiting as usize, count);
            queued += count;
        }
        assert_eq!(store.stats().queued, Some(queued as u64));
        for (id, known) in &self.model.events {
            let delivery = store.delivery(contract::TENANT, *id).await.unwrap().unwrap();
            assert_eq!(delivery.state, known.state);
            assert_eq!(delivery.late_ack, known.late_ack);
            assert_eq!(delivery.replaced_by, known.replaced_by);
        }
    }
}

/// Few by default, since every step waits for the disk; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(16)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn the_store_agrees_with_its_model(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new().await;
            for step in steps {
                run = run.step(step).await;
                run.agree().await;
            }
            let last = run.bench.store.stats();
            assert!(last.writable);
        });
    }
}
