//! Contract suites: what every engine owes, whichever it is.
//!
//! Each suite is an async function over a [`Bench`], an engine that is new and empty with a clock that the test moves.
//! An engine runs them all through [`run_contract!`].

#![allow(missing_docs, reason = "the name of a suite tells what it checks")]

use std::{future::Future, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{
    ApiKey, Arrival, Claimed, Cursor, DeviceChange, DeviceKey, Enqueued, EnqueuedKind, Idempotency, NewEvent, NewSeat, Registered, Settle,
    Settled, Store, StoreError, Tenant, Transport,
};
use crate::domain::{
    CertificatePin, Clock, Cohort, Credential, Data, DeliveryState, Durability, Epoch, Event, EventId, FastAgent, FastChange,
    FastMechanism, FastProof, FastToken, Lane, ManualClock, Outcome, Password, Queue, Reason, Require, ScramSecret, SessionId, TenantId,
    Timestamp, Urgency,
};

/// The moment at which a bench's clock starts.
pub const START: Timestamp = Timestamp(1_800_000_000_000);
/// The tenant that most suites use.
pub const TENANT: TenantId = TenantId(0);

/// An engine under test. Its limits are those of [`limits`].
pub trait Bench: Send + Sync {
    /// The engine.
    fn store(&self) -> Arc<dyn Store>;
    /// The clock that it was opened with.
    fn clock(&self) -> Arc<ManualClock>;
    /// What it has announced and nobody has taken yet.
    fn arrivals(&mut self) -> &mut mpsc::Receiver<Arrival>;
    /// Closes the engine and opens it again.
    fn reopen(self) -> impl Future<Output = Self> + Send
    where
        Self: Sized;
}

/// Limits small enough to be reached.
pub fn limits() -> crate::domain::Limits {
    crate::domain::Limits {
        queue_max_events: 5,
        queue_max_bytes: 1_000,
        receipts_max: 4,
        ..crate::domain::Limits::default()
    }
}

/// The address of a device of [`TENANT`].
pub fn key(id: &str) -> DeviceKey {
    DeviceKey {
        tenant: TENANT,
        device: id.parse().unwrap(),
    }
}

/// An event of 60 s for a device of [`TENANT`].
pub fn event(device: &str, json: &str, now: Timestamp) -> Event {
    Event {
        tenant: TENANT,
        device: device.parse().unwrap(),
        accepted_at: now,
        ttl: Duration::from_secs(60),
        urgency: Urgency::Normal,
        collapse_key: None,
        require: Require::Acknowledged,
        json: Data(json.into()),
    }
}

/// Adds a device.
pub async fn add(store: &dyn Store, id: &str) {
    store.put_device(&key(id), DeviceChange::default(), true, START).await.unwrap();
}

/// Enqueues one event.
pub async fn push(store: &dyn Store, event: Event) -> Result<Enqueued, StoreError> {
    push_with(store, event, None).await
}

/// Enqueues one event with an idempotency key.
pub async fn push_with(store: &dyn Store, event: Event, idempotency: Option<Idempotency>) -> Result<Enqueued, StoreError> {
    let mut results = store.enqueue(vec![NewEvent { event, idempotency }]).await;
    assert_eq!(results.len(), 1);
    results.remove(0)
}

/// Claims a device's seat.
pub async fn claim(store: &dyn Store, device: &str, session: u128) -> Result<Claimed, StoreError> {
    claim_at(store, device, session, 0).await
}

/// Claims a device's seat for a login that read these credentials.
pub async fn claim_at(store: &dyn Store, device: &str, session: u128, credential_generation: u32) -> Result<Claimed, StoreError> {
    let session = NewSeat {
        session: SessionId(session),
        node: "n1".into(),
        transport: Transport::Xmpps,
        at: START,
        credential_generation,
        fast: None,
    };
    store.claim(&key(device), session).await
}

/// Ends one delivery of a device of [`TENANT`].
pub async fn end(store: &dyn Store, device: &str, id: EventId, outcome: Outcome, at: Timestamp) -> Settled {
    let settle = Settle {
        device: key(device),
        id,
        located: store.locate(TENANT, id).unwrap(),
        outcome,
        at,
        epoch: Some(Epoch(9)),
    };
    store.settle(vec![settle]).await.remove(0).unwrap()
}

/// Ids of all that waits for a device, in the order in which it is written.
pub async fn waiting(store: &dyn Store, device: &str) -> Vec<EventId> {
    let page = store.pending(&key(device), Cursor::default(), 1_000).await.unwrap();
    assert!(!page.more);
    page.events.iter().map(|event| event.id).collect()
}

async fn state(store: &dyn Store, id: EventId) -> Option<DeliveryState> {
    store.delivery(TENANT, id).await.unwrap().map(|delivery| delivery.state)
}

/// Sweeps until a pass is complete; sums up.
pub async fn sweep(store: &dyn Store, now: Timestamp) -> (u64, u64) {
    let (mut expired, mut dropped) = (0, 0);
    loop {
        let swept = store.sweep(now).await.unwrap();
        expired += swept.expired;
        dropped += swept.dropped;
        if swept.complete {
            return (expired, dropped);
        }
    }
}

/// Runs every suite on an engine: `$new` is an expression that makes a [`Bench`].
macro_rules! run_contract {
    ($new:expr) => {
        $crate::store::contract::run_contract!($new;
            an_event_waits_until_it_is_acknowledged,
            events_keep_their_order_and_high_goes_first,
            pages_follow_the_cursor,
            lanes_count_from_one_without_holes,
            a_repeat_returns_the_first_id_and_its_state,
            an_idempotency_key_is_free_again_when_its_time_is_over,
            a_newer_event_replaces_what_waits,
            a_full_queue_refuses_and_stores_nothing,
            an_unknown_or_removed_device_takes_nothing,
            an_event_of_ttl_zero_is_stored_nowhere,
            arrivals_name_the_holder_of_the_seat,
            a_watch_is_woken_by_what_is_stored_for_its_device,
            the_newest_session_takes_the_seat,
            a_late_goodbye_leaves_the_newer_seat,
            changed_credentials_refuse_a_claim,
            a_final_state_is_never_changed,
            a_late_acknowledgement_is_kept_as_an_outcome,
            expired_events_are_not_delivered_and_are_swept,
            records_are_dropped_when_their_time_is_over,
            deliveries_are_listed_newest_first,
            a_foreign_tenant_sees_nothing,
            a_batch_is_answered_in_order,
            a_device_is_put_patched_and_listed,
            a_removed_device_fails_what_waits,
            a_device_that_returns_is_a_new_one,
            credentials_have_a_bound_and_a_generation,
            keys_and_tenants_answer_from_memory,
            fast_tokens_ride_the_claim_and_go_with_credentials_and_device,
            receipts_tell_every_end_in_order,
            ledger_minutes_add_up,
            everything_durable_survives_a_reopening,
            epochs_and_numbers_rise_over_a_reopening,
        );
    };
    ($new:expr; $($suite:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $suite() {
                $crate::store::contract::$suite($new).await;
            }
        )*
    };
}
pub(crate) use run_contract;

pub async fn an_event_waits_until_it_is_acknowledged(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let mut new = event("box", r#"{"n":"жук"}"#, START);
    new.collapse_key = Some("todo".into());
    new.require = Require::Received;
    let done = push(&*store, new.clone()).await.unwrap();
    assert_eq!((done.kind, done.durability), (EnqueuedKind::New, Durability::Disk));
    assert_eq!((done.state, done.seat), (DeliveryState::Queued, None));
    let page = store.pending(&key("box"), Cursor::default(), 10).await.unwrap();
    assert_eq!(page.events.len(), 1);
    let queued = &page.events[0];
    assert_eq!((queued.id, queued.attempt, &queued.event), (done.id, 1, &new));
    assert_eq!(store.locate(TENANT, done.id), Some(queued.located));
    assert_eq!(store.stats().queued, Some(1));
    assert_eq!(store.seat(&key("box")).await.unwrap().waiting, 1);

    let at = START.plus(Duration::from_millis(250));
    let now = Settled::Now {
        waited: Duration::from_millis(250),
        urgency: Urgency::Normal,
        expires_at: new.expires_at(),
    };
    assert_eq!(end(&*store, "box", done.id, Outcome::Delivered, at).await, now);
    assert!(waiting(&*store, "box").await.is_empty());
    let delivery = store.delivery(TENANT, done.id).await.unwrap().unwrap();
    assert_eq!((delivery.state, delivery.ended_at), (DeliveryState::Delivered, Some(at)));
    assert_eq!((delivery.accepted_at, delivery.expires_at), (START, new.expires_at()));
    assert_eq!((delivery.session_epoch, delivery.require), (Some(Epoch(9)), Require::Received));
    assert_eq!(delivery.collapse_key.as_deref(), Some("todo"));
    assert_eq!(store.stats().queued, Some(0));
}

pub async fn events_keep_their_order_and_high_goes_first(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let mut ids = Vec::new();
    for urgency in [Urgency::Low, Urgency::High, Urgency::Normal, Urgency::High, Urgency::VeryLow] {
        let mut new = event("box", "{}", START);
        new.urgency = urgency;
        ids.push(push(&*store, new).await.unwrap().id);
    }
    assert_eq!(waiting(&*store, "box").await, [ids[1], ids[3], ids[0], ids[2], ids[4]]);
}

pub async fn pages_follow_the_cursor(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let mut new = event("box", "{}", START);
        new.urgency = if n < 2 { Urgency::High } else { Urgency::Low };
        ids.push(push(&*store, new).await.unwrap().id);
    }
    let (mut cursor, mut read) = (Cursor::default(), Vec::new());
    for expected_more in [true, true, false, false] {
        let page = store.pending(&key("box"), cursor, 2).await.unwrap();
        assert_eq!(page.more, expected_more);
        for event in &page.events {
            read.push(event.id);
            cursor.advance(event.located.queue.unwrap(), event.located.number);
        }
    }
    assert_eq!(read, ids);
}

pub async fn lanes_count_from_one_without_holes(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    add(&*store, "other").await;
    let generation = store.generation();
    let mut expected = std::collections::HashMap::new();
    for (n, urgency) in [Urgency::Low, Urgency::High, Urgency::Low, Urgency::Normal, Urgency::High]
        .into_iter()
        .enumerate()
    {
        let mut new = event("box", "{}", START);
        new.urgency = urgency;
        let id = push(&*store, new).await.unwrap().id;
        push(&*store, event("other", "{}", START)).await.unwrap();
        let delivery = store.delivery(TENANT, id).await.unwrap().unwrap();
        let seq = expected.entry(urgency).or_insert(0);
        *seq += 1;
        assert_eq!(
            (delivery.lane, delivery.seq.0),
            (Lane::Queue(urgency, generation), *seq),
            "event {n}"
        );
        if n == 0 {
            end(&*store, "box", id, Outcome::Delivered, START).await;
        }
    }
}

fn idempotency(key: u8, body: u8) -> Option<Idempotency> {
    Some(Idempotency {
        key: [key; 16],
        body: [body; 16],
    })
}

pub async fn a_repeat_returns_the_first_id_and_its_state(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    add(&*store, "other").await;
    let first = push_with(&*store, event("box", "{}", START), idempotency(1, 1)).await.unwrap();
    let again = push_with(&*store, event("box", "{}", START), idempotency(1, 1)).await.unwrap();
    assert_eq!(
        (again.id, again.kind, again.state),
        (first.id, EnqueuedKind::Repeat, DeliveryState::Queued)
    );
    let reused = push_with(&*store, event("box", "{}", START), idempotency(1, 2)).await;
    assert!(matches!(reused, Err(StoreError::KeyReused(id)) if id == first.id));
    // The key is the target's own.
    let other = push_with(&*store, event("other", "{}", START), idempotency(1, 2)).await.unwrap();
    assert_eq!(other.kind, EnqueuedKind::New);
    end(&*store, "box", first.id, Outcome::Delivered, START).await;
    let again = push_with(&*store, event("box", "{}", START), idempotency(1, 1)).await.unwrap();
    assert_eq!((again.id, again.state), (first.id, DeliveryState::Delivered));
    assert!(waiting(&*store, "box").await.is_empty());
    // Two in one call are no different.
    let twice = ["a", "b"].map(|_| NewEvent {
        event: event("box", "{}", START),
        idempotency: idempotency(7, 7),
    });
    let results = store.enqueue(twice.to_vec()).await;
    assert_eq!(results[0].as_ref().unwrap().kind, EnqueuedKind::New);
    assert_eq!(results[1].as_ref().unwrap().kind, EnqueuedKind::Repeat);
}

pub async fn an_idempotency_key_is_free_again_when_its_time_is_over(bench: impl Bench) {
    let (store, clock) = (bench.store(), bench.clock());
    add(&*store, "box").await;
    let mut new = event("box", "{}", START);
    new.ttl = Duration::from_secs(100_000);
    let first = push_with(&*store, new.clone(), idempotency(1, 1)).await.unwrap();
    clock.advance(Duration::from_secs(limits().idempotency_kept_secs + 1));
    sweep(&*store, clock.now()).await;
    // It waits still: the key is kept.
    let again = push_with(&*store, new.clone(), idempotency(1, 1)).await.unwrap();
    assert_eq!(again.id, first.id);
    end(&*store, "box", first.id, Outcome::Delivered, clock.now()).await;
    let anew = push_with(&*store, new, idempotency(1, 2)).await.unwrap();
    assert_eq!(anew.kind, EnqueuedKind::New);
    assert_ne!(anew.id, first.id);
}

pub async fn a_newer_event_replaces_what_waits(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let with = |key: &str, urgency| Event {
        collapse_key: Some(key.into()),
        urgency,
        ..event("box", "{}", START)
    };
    let old = push(&*store, with("todo", Urgency::High)).await.unwrap();
    let kept = push(&*store, with("else", Urgency::Normal)).await.unwrap();
    let new = push(&*store, with("todo", Urgency::Normal)).await.unwrap();
    assert_eq!(new.replaced, [old.id]);
    assert!(old.replaced.is_empty() && kept.replaced.is_empty());
    assert_eq!(waiting(&*store, "box").await, [kept.id, new.id]);
    let delivery = store.delivery(TENANT, old.id).await.unwrap().unwrap();
    assert_eq!((delivery.state, delivery.replaced_by), (DeliveryState::Replaced, Some(new.id)));
    // What was delivered is not replaced.
    end(&*store, "box", new.id, Outcome::Delivered, START).await;
    let newest = push(&*store, with("todo", Urgency::Normal)).await.unwrap();
    assert!(newest.replaced.is_empty());
    assert_eq!(state(&*store, new.id).await, Some(DeliveryState::Delivered));
}

pub async fn a_full_queue_refuses_and_stores_nothing(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let mut collapsing = event("box", "{}", START);
    collapsing.collapse_key = Some("todo".into());
    push(&*store, collapsing.clone()).await.unwrap();
    for _ in 0..4 {
        push(&*store, event("box", "{}", START)).await.unwrap();
    }
    let full = push(&*store, event("box", "{}", START)).await;
    assert!(matches!(full, Err(StoreError::QueueFull { events: 5, bytes: 10 })), "{full:?}");
    assert_eq!(waiting(&*store, "box").await.len(), 5);
    // What it replaces makes its own room.
    assert_eq!(push(&*store, collapsing).await.unwrap().replaced.len(), 1);
    add(&*store, "other").await;
    push(&*store, event("other", &"x".repeat(999), START)).await.unwrap();
    let full = push(&*store, event("other", "{}", START)).await;
    assert!(matches!(full, Err(StoreError::QueueFull { events: 1, bytes: 999 })), "{full:?}");
    let id = waiting(&*store, "other").await[0];
    end(&*store, "other", id, Outcome::Delivered, START).await;
    push(&*store, event("other", "{}", START)).await.unwrap();
}

pub async fn an_unknown_or_removed_device_takes_nothing(bench: impl Bench) {
    let store = bench.store();
    let unknown = push(&*store, event("box", "{}", START)).await;
    assert!(matches!(unknown, Err(StoreError::UnknownDevice)));
    assert!(matches!(claim(&*store, "box", 1).await, Err(StoreError::UnknownDevice)));
    add(&*store, "box").await;
    store.remove_device(&key("box"), START).await.unwrap();
    let removed = push(&*store, event("box", "{}", START)).await;
    assert!(matches!(removed, Err(StoreError::RemovedDevice)));
    assert!(matches!(claim(&*store, "box", 1).await, Err(StoreError::RemovedDevice)));
    let again = store.remove_device(&key("box"), START).await;
    assert!(matches!(again, Err(StoreError::RemovedDevice)));
}

pub async fn an_event_of_ttl_zero_is_stored_nowhere(mut bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let new = Event {
        ttl: Duration::ZERO,
        ..event("box", "{}", START)
    };
    let nobody = push(&*store, new.clone()).await.unwrap();
    assert_eq!((nobody.state, nobody.durability), (DeliveryState::NoTarget, Durability::None));
    let epoch = claim(&*store, "box", 1).await.unwrap().epoch;
    let somebody = push(&*store, new.clone()).await.unwrap();
    assert_eq!((somebody.state, somebody.durability), (DeliveryState::Accepted, Durability::None));
    let third = push(&*store, new).await.unwrap();
    assert_ne!(somebody.id, third.id);
    assert!(waiting(&*store, "box").await.is_empty());
    assert_eq!(state(&*store, somebody.id).await, None);
    assert_eq!(store.locate(TENANT, somebody.id).unwrap().queue, None);
    assert_eq!(end(&*store, "box", somebody.id, Outcome::Delivered, START).await, Settled::Unknown);
    let (one, two) = (bench.arrivals().recv().await.unwrap(), bench.arrivals().recv().await.unwrap());
    assert_eq!((one.epoch, one.event.id, two.event.id), (epoch, somebody.id, third.id));
    assert_eq!(one.event.lane, Lane::Now(store.generation()));
    assert!(one.event.seq.0 >= START.0 && two.event.seq > one.event.seq);
}

pub async fn arrivals_name_the_holder_of_the_seat(mut bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    push(&*store, event("box", "{}", START)).await.unwrap();
    let claimed = claim(&*store, "box", 7).await.unwrap();
    assert_eq!(claimed.waiting, 1);
    let done = push(&*store, event("box", r#"{"a":1}"#, START)).await.unwrap();
    let seat = done.seat.unwrap();
    assert_eq!((seat.epoch, seat.session, &*seat.node), (claimed.epoch, SessionId(7), "n1"));
    let arrival = bench.arrivals().recv().await.unwrap();
    assert_eq!((arrival.epoch, arrival.event.id), (claimed.epoch, done.id));
    let page = store.pending(&key("box"), Cursor::default(), 10).await.unwrap();
    let (read, told) = (&page.events[1], &arrival.event);
    assert_eq!(
        (read.located, read.lane, read.seq, &read.event),
        (told.located, told.lane, told.seq, &told.event)
    );
    assert!(bench.arrivals().try_recv().is_err());
}

pub async fn a_watch_is_woken_by_what_is_stored_for_its_device(bench: impl Bench) {
    let store = bench.store();
    for device in ["box", "other"] {
        add(&*store, device).await;
    }
    let mut watch = store.watch(&key("box"));
    assert!(
        tokio::time::timeout(Duration::from_millis(20), watch.woken()).await.is_err(),
        "nothing was stored since"
    );
    push(&*store, event("other", "{}", START)).await.unwrap();
    let done = push(&*store, event("box", "{}", START)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), watch.woken())
        .await
        .expect("woken by the event");
    let page = store.pending(&key("box"), Cursor::default(), 10).await.unwrap();
    assert_eq!(page.events.len(), 1, "what woke can be read");
    assert_eq!(page.events[0].id, done.id);
    // Also while a session holds the seat.
    claim(&*store, "box", 1).await.unwrap();
    push(&*store, event("box", "{}", START)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), watch.woken())
        .await
        .expect("woken beside the session");
    store.remove_device(&key("box"), START).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), watch.woken())
        .await
        .expect("woken by the removal");
}

pub async fn the_newest_session_takes_the_seat(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let first = claim(&*store, "box", 1).await.unwrap();
    assert!(first.displaced.is_none());
    let second = claim(&*store, "box", 2).await.unwrap();
    assert!(second.epoch > first.epoch);
    let displaced = second.displaced.unwrap();
    assert_eq!((displaced.epoch, displaced.session), (first.epoch, SessionId(1)));
    let view = store.seat(&key("box")).await.unwrap();
    assert_eq!(view.seat.unwrap().session, SessionId(2));
    assert_eq!(view.last_epoch, second.epoch);
}

pub async fn a_late_goodbye_leaves_the_newer_seat(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let first = claim(&*store, "box", 1).await.unwrap();
    let second = claim(&*store, "box", 2).await.unwrap();
    assert!(!store.release(&key("box"), first.epoch, Timestamp(50)).await.unwrap());
    assert!(store.seat(&key("box")).await.unwrap().seat.is_some());
    assert!(store.release(&key("box"), second.epoch, Timestamp(60)).await.unwrap());
    let view = store.seat(&key("box")).await.unwrap();
    assert_eq!((view.seat, view.last_epoch), (None, second.epoch));
    assert_eq!(view.last_seen_at, Some(Timestamp(60)));
    assert!(!store.release(&key("box"), second.epoch, Timestamp(70)).await.unwrap());
}

pub async fn changed_credentials_refuse_a_claim(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    claim(&*store, "box", 1).await.unwrap();
    let change = DeviceChange {
        credentials: Some(vec![secret("one")]),
        ..DeviceChange::default()
    };
    let (device, _) = store.put_device(&key("box"), change, false, START).await.unwrap();
    assert!(matches!(claim(&*store, "box", 2).await, Err(StoreError::Conflict(_))));
    claim_at(&*store, "box", 2, device.credential_generation).await.unwrap();
}

pub async fn a_final_state_is_never_changed(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let outcomes = [
        Outcome::Delivered,
        Outcome::Expired,
        Outcome::Cancelled,
        Outcome::Rejected(Reason::DeviceError),
        Outcome::Failed(Reason::Poison),
    ];
    for first in outcomes {
        let id = push(&*store, event("box", "{}", START)).await.unwrap().id;
        assert!(matches!(end(&*store, "box", id, first, START).await, Settled::Now { .. }));
        for second in outcomes {
            assert_eq!(end(&*store, "box", id, second, START).await, Settled::Before(first.state()));
        }
        let delivery = store.delivery(TENANT, id).await.unwrap().unwrap();
        assert_eq!((delivery.state, delivery.reason), (first.state(), first.reason()));
    }
}

pub async fn a_late_acknowledgement_is_kept_as_an_outcome(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let check = |first, expected| {
        let store = Arc::clone(&store);
        async move {
            let id = push(&*store, event("box", "{}", START)).await.unwrap().id;
            end(&*store, "box", id, first, START).await;
            end(&*store, "box", id, Outcome::Delivered, START).await;
            assert_eq!(store.delivery(TENANT, id).await.unwrap().unwrap().outcome, expected, "{first:?}");
        }
    };
    check(Outcome::Delivered, None).await;
    check(Outcome::Cancelled, Some("late-ack")).await;
    check(Outcome::Expired, Some("late-ack")).await;
    check(Outcome::Failed(Reason::Poison), None).await;
}

pub async fn expired_events_are_not_delivered_and_are_swept(bench: impl Bench) {
    let (store, clock) = (bench.store(), bench.clock());
    add(&*store, "box").await;
    let short = push(&*store, event("box", "{}", START)).await.unwrap().id;
    let mut long = event("box", "{}", START);
    long.ttl = Duration::from_secs(600);
    let long = push(&*store, long).await.unwrap().id;
    assert_eq!(sweep(&*store, clock.now()).await, (0, 0));
    assert_eq!(store.stats().oldest_queued_at, Some(START));
    clock.advance(Duration::from_secs(60));
    assert_eq!(waiting(&*store, "box").await, [long]);
    assert_eq!(sweep(&*store, clock.now()).await, (1, 0));
    assert_eq!(state(&*store, short).await, Some(DeliveryState::Expired));
    assert_eq!(state(&*store, long).await, Some(DeliveryState::Queued));
    assert_eq!(store.stats().queued, Some(1));
}

pub async fn records_are_dropped_when_their_time_is_over(bench: impl Bench) {
    let (store, clock) = (bench.store(), bench.clock());
    add(&*store, "box").await;
    add(&*store, "gone").await;
    store.remove_device(&key("gone"), START).await.unwrap();
    let mut ids = Vec::new();
    for n in 0..6 {
        let id = push_with(&*store, event("box", "{}", START), idempotency(n, 1)).await.unwrap().id;
        end(&*store, "box", id, Outcome::Delivered, START).await;
        ids.push(id);
    }
    // Two receipts over the bound of four.
    assert_eq!(sweep(&*store, clock.now()).await, (0, 2));
    assert_eq!(store.receipts(TENANT, 0, 10).await.unwrap().len(), 4);
    clock.advance(Duration::from_secs(limits().idempotency_kept_secs));
    assert_eq!(sweep(&*store, clock.now()).await, (0, 6));
    clock.advance(Duration::from_secs(limits().state_kept_secs));
    assert_eq!(state(&*store, ids[0]).await, None);
    assert_eq!(sweep(&*store, clock.now()).await, (0, 6));
    clock.advance(Duration::from_secs(limits().tombstone_kept_secs));
    assert_eq!(store.device(&key("gone")).await.unwrap(), Registered::Unknown);
    let (_, dropped) = sweep(&*store, clock.now()).await;
    assert!(dropped >= 4, "three receipts and a tombstone: {dropped}");
    // Positions rise even when nearly every receipt is gone.
    let last = store
        .receipts(TENANT, 0, 10)
        .await
        .unwrap()
        .last()
        .map_or(0, |receipt| receipt.position);
    assert_eq!(last, 6);
    let id = push(&*store, event("box", "{}", clock.now())).await.unwrap().id;
    end(&*store, "box", id, Outcome::Delivered, clock.now()).await;
    assert_eq!(store.receipts(TENANT, 6, 10).await.unwrap()[0].position, 7);
}

pub async fn deliveries_are_listed_newest_first(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let mut new = event("box", "{}", START);
        new.urgency = if n % 2 == 0 { Urgency::High } else { Urgency::Low };
        ids.push(push(&*store, new).await.unwrap().id);
    }
    end(&*store, "box", ids[1], Outcome::Delivered, START).await;
    end(&*store, "box", ids[4], Outcome::Cancelled, START).await;
    ids.reverse();
    let (mut listed, mut before) = (Vec::new(), None);
    loop {
        let page = store.deliveries(&key("box"), before, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        listed.extend(page.iter().map(|delivery| delivery.id));
    }
    assert_eq!(listed, ids);
}

pub async fn a_foreign_tenant_sees_nothing(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let id = push(&*store, event("box", "{}", START)).await.unwrap().id;
    let other = TenantId(1);
    assert_eq!(store.locate(other, id), None);
    assert_eq!(store.delivery(other, id).await.unwrap(), None);
    let foreign = DeviceKey {
        tenant: other,
        device: "box".parse().unwrap(),
    };
    assert_eq!(store.device(&foreign).await.unwrap(), Registered::Unknown);
    let settle = Settle {
        device: foreign,
        id,
        located: store.locate(TENANT, id).unwrap(),
        outcome: Outcome::Cancelled,
        at: START,
        epoch: None,
    };
    assert_eq!(store.settle(vec![settle]).await.remove(0).unwrap(), Settled::Unknown);
    assert_eq!(waiting(&*store, "box").await, [id]);
    assert!(store.receipts(other, 0, 10).await.unwrap().is_empty());
    assert!(store.devices(other, None, 10).await.unwrap().is_empty());
}

pub async fn a_batch_is_answered_in_order(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "a").await;
    add(&*store, "b").await;
    let events = ["a", "none", "b", "a"].map(|device| NewEvent {
        event: event(device, "{}", START),
        idempotency: None,
    });
    let results = store.enqueue(events.to_vec()).await;
    assert_eq!(results.len(), 4);
    let id = |n: usize| results[n].as_ref().unwrap().id;
    assert!(matches!(results[1], Err(StoreError::UnknownDevice)));
    assert_eq!(waiting(&*store, "a").await, [id(0), id(3)]);
    assert_eq!(waiting(&*store, "b").await, [id(2)]);
    let ends = [0, 0, 2].map(|n| Settle {
        device: key(if n == 2 { "b" } else { "a" }),
        id: id(n),
        located: store.locate(TENANT, id(n)).unwrap(),
        outcome: Outcome::Delivered,
        at: START,
        epoch: None,
    });
    let settled: Vec<_> = store.settle(ends.to_vec()).await.into_iter().map(Result::unwrap).collect();
    assert!(matches!(settled[0], Settled::Now { .. }) && matches!(settled[2], Settled::Now { .. }));
    assert_eq!(settled[1], Settled::Before(DeliveryState::Delivered));
    assert!(store.enqueue(Vec::new()).await.is_empty() && store.settle(Vec::new()).await.is_empty());
}

fn object(json: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
    Some(serde_json::from_str(json).unwrap())
}

pub async fn a_device_is_put_patched_and_listed(bench: impl Bench) {
    let store = bench.store();
    let unknown = store.put_device(&key("box"), DeviceChange::default(), false, START).await;
    assert!(matches!(unknown, Err(StoreError::UnknownDevice)));
    let change = DeviceChange {
        user: Some(Some("family".parse().unwrap())),
        attributes: object(r#"{"model":"x","place":{"room":1,"floor":2}}"#),
        cohort: Some(Cohort::Control),
        credentials: Some(vec![secret("one")]),
        replace: true,
    };
    let (device, created) = store.put_device(&key("box"), change, true, START).await.unwrap();
    assert!(created);
    assert_eq!(
        (device.created_at, device.updated_at, device.cohort),
        (START, START, Cohort::Control)
    );
    let later = Timestamp(START.0 + 1);
    let patch = DeviceChange {
        attributes: object(r#"{"model":null,"place":{"floor":null,"wall":3}}"#),
        ..DeviceChange::default()
    };
    let (patched, created) = store.put_device(&key("box"), patch, false, later).await.unwrap();
    assert!(!created);
    assert_eq!(Some(&patched.attributes), object(r#"{"place":{"room":1,"wall":3}}"#).as_ref());
    assert_eq!(
        (&patched.user, patched.cohort, &patched.credentials),
        (&device.user, Cohort::Control, &device.credentials)
    );
    assert_eq!((patched.ordinal, patched.updated_at), (device.ordinal, later));
    let put = DeviceChange {
        replace: true,
        ..DeviceChange::default()
    };
    let (plain, _) = store.put_device(&key("box"), put, false, later).await.unwrap();
    assert_eq!((&plain.user, plain.attributes.len(), plain.cohort), (&None, 0, Cohort::Push));
    assert_eq!(plain.credentials, device.credentials, "credentials stay unless given");
    assert_eq!(store.device(&key("box")).await.unwrap(), Registered::Present(Box::new(plain)));

    for id in ["a", "c", "b.2", "b-1"] {
        add(&*store, id).await;
    }
    store.remove_device(&key("c"), START).await.unwrap();
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = store.devices(TENANT, after.as_ref(), 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        listed.extend(page.iter().map(|device| device.id.to_string()));
    }
    assert_eq!(listed, ["a", "b-1", "b.2", "box"]);
    assert_eq!(store.stats().devices, 4);
}

pub async fn a_removed_device_fails_what_waits(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let epoch = claim(&*store, "box", 1).await.unwrap().epoch;
    let id = push(&*store, event("box", "{}", START)).await.unwrap().id;
    let seat = store.remove_device(&key("box"), START).await.unwrap();
    assert_eq!(seat.unwrap().epoch, epoch);
    let delivery = store.delivery(TENANT, id).await.unwrap().unwrap();
    assert_eq!(
        (delivery.state, delivery.reason),
        (DeliveryState::Failed, Some(Reason::DeviceRemoved))
    );
    assert_eq!(store.device(&key("box")).await.unwrap(), Registered::Removed(START));
    assert!(matches!(store.seat(&key("box")).await, Err(StoreError::RemovedDevice)));
    assert_eq!((store.stats().queued, store.stats().devices), (Some(0), 0));
    let patch = store.put_device(&key("box"), DeviceChange::default(), false, START).await;
    assert!(matches!(patch, Err(StoreError::RemovedDevice)));
    assert_eq!(
        end(&*store, "box", id, Outcome::Delivered, START).await,
        Settled::Before(DeliveryState::Failed)
    );
}

pub async fn a_device_that_returns_is_a_new_one(bench: impl Bench) {
    let store = bench.store();
    let put = || store.put_device(&TENANT_BOX, DeviceChange::default(), true, START);
    let (old, _) = put().await.unwrap();
    let id = push(&*store, event("box", "{}", START)).await.unwrap().id;
    store.remove_device(&TENANT_BOX, START).await.unwrap();
    let (new, created) = put().await.unwrap();
    assert!(created && new.ordinal != old.ordinal);
    assert_ne!(new.credential_generation, old.credential_generation);
    assert!(waiting(&*store, "box").await.is_empty());
    assert_eq!(state(&*store, id).await, Some(DeliveryState::Failed));
    let (same, created) = put().await.unwrap();
    assert_eq!((same.ordinal, created), (new.ordinal, false));
    // The numbers of its lanes go on: a device that kept its memory must not take new events for repeats.
    push(&*store, event("box", "{}", START)).await.unwrap();
    let page = store.pending(&TENANT_BOX, Cursor::default(), 10).await.unwrap();
    assert_eq!(page.events[0].seq.0, 2);
}

static TENANT_BOX: std::sync::LazyLock<DeviceKey> = std::sync::LazyLock::new(|| key("box"));

fn secret(password: &str) -> Credential {
    Credential::Scram(ScramSecret::derive(&Password(password.to_owned()), 1).unwrap())
}

pub async fn credentials_have_a_bound_and_a_generation(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let put = |credentials: Vec<Credential>| DeviceChange {
        credentials: Some(credentials),
        ..DeviceChange::default()
    };
    let (one, two) = (secret("one"), secret("two"));
    let mut generations = Vec::new();
    for credentials in [
        vec![one.clone()],
        vec![one.clone(), two.clone()],
        vec![one.clone(), two.clone()],
        vec![],
    ] {
        let (device, _) = store.put_device(&key("box"), put(credentials.clone()), false, START).await.unwrap();
        assert_eq!(device.credentials, credentials);
        generations.push(device.credential_generation);
    }
    assert!(generations[0] < generations[1] && generations[1] == generations[2] && generations[2] < generations[3]);
    let three = store
        .put_device(&key("box"), put(vec![one.clone(), two.clone(), secret("three")]), false, START)
        .await;
    assert!(matches!(three, Err(StoreError::Conflict(_))));
    // Each type has its own bound, and a certificate is kept as it is.
    let pin = |byte| Credential::Certificate(CertificatePin { sha256: [byte; 32] });
    let both = vec![one, two, pin(1), pin(2)];
    let (device, _) = store.put_device(&key("box"), put(both.clone()), false, START).await.unwrap();
    assert_eq!(device.credentials, both);
    let three = store.put_device(&key("box"), put(vec![pin(1), pin(2), pin(3)]), false, START).await;
    assert!(matches!(three, Err(StoreError::Conflict(_))));
    let bench = bench.reopen().await;
    let Registered::Present(device) = bench.store().device(&key("box")).await.unwrap() else {
        panic!("it is there")
    };
    assert_eq!(device.credentials, both);
}

pub async fn fast_tokens_ride_the_claim_and_go_with_credentials_and_device(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let change = |text: &str, promote| FastChange {
        agent: FastAgent::of("agent"),
        mechanism: FastMechanism::None,
        promote,
        invalidate: false,
        fresh: Some((FastMechanism::None, FastToken::new(text.into(), START, Timestamp(START.0 + 1)))),
        agents_max: 4,
    };
    assert!(store.fast_tokens(&key("box"), 0).await.unwrap().is_empty());
    let seat = NewSeat {
        session: SessionId(1),
        node: "n1".into(),
        transport: Transport::Xmpps,
        at: START,
        credential_generation: 0,
        fast: Some(Box::new(change("one", false))),
    };
    store.claim(&key("box"), seat).await.unwrap();
    store.change_fast_tokens(&key("box"), 0, change("two", true)).await.unwrap();
    let bench = bench.reopen().await;
    let store = bench.store();
    let tokens = store.fast_tokens(&key("box"), 0).await.unwrap();
    for (text, first) in [("one", false), ("two", true)] {
        let (_, token) = change(text, false).fresh.unwrap();
        let proof = token.sign("Initiator", b"");
        let found = tokens.verify(&FastAgent::of("agent"), FastMechanism::None, b"", proof.as_ref(), START);
        assert_eq!(found, FastProof::Right { token, first_use: first });
    }
    let credentials = DeviceChange {
        credentials: Some(vec![secret("one")]),
        ..DeviceChange::default()
    };
    let (device, _) = store.put_device(&key("box"), credentials, false, START).await.unwrap();
    let generation = device.credential_generation;
    assert!(store.fast_tokens(&key("box"), generation).await.unwrap().is_empty());
    let late = store.change_fast_tokens(&key("box"), 0, change("three", false)).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))));
    store
        .change_fast_tokens(&key("box"), generation, change("four", false))
        .await
        .unwrap();
    assert!(!store.fast_tokens(&key("box"), generation).await.unwrap().is_empty());
    store.remove_device(&key("box"), START).await.unwrap();
    assert!(store.fast_tokens(&key("box"), generation).await.unwrap().is_empty());
    let gone = store.change_fast_tokens(&key("box"), generation, change("five", false)).await;
    assert!(matches!(gone, Err(StoreError::RemovedDevice)));
}

pub async fn keys_and_tenants_answer_from_memory(bench: impl Bench) {
    let store = bench.store();
    let key = |id: &str, tenant| ApiKey {
        id: id.to_owned(),
        name: format!("name of {id}"),
        tenant,
        scope: crate::domain::Scope::Push,
        created_at: START,
    };
    store.put_key([1; 32], key("k1", 0)).await.unwrap();
    store.put_key([2; 32], key("k2", 5)).await.unwrap();
    assert_eq!(store.key(&[1; 32]).as_deref(), Some(&key("k1", 0)));
    assert_eq!(store.key(&[3; 32]), None);
    assert_eq!(store.keys(TenantId(5)).await.unwrap(), [key("k2", 5)]);
    assert!(!store.revoke_key(TenantId(5), "k1").await.unwrap());
    assert!(store.revoke_key(TENANT, "k1").await.unwrap());
    assert_eq!(store.key(&[1; 32]), None);
    let tenant = |id, name: &str, domain: &str| Tenant {
        id,
        name: name.to_owned(),
        domain: domain.to_owned(),
    };
    store.put_tenant(tenant(5, "tv", "tv.example")).await.unwrap();
    let taken = store.put_tenant(tenant(6, "other", "tv.example")).await;
    assert!(matches!(taken, Err(StoreError::Conflict(_))));
    let bench = bench.reopen().await;
    let store = bench.store();
    assert_eq!(store.key(&[1; 32]), None);
    assert_eq!(store.key(&[2; 32]).as_deref(), Some(&key("k2", 5)));
    let names: Vec<_> = store.tenants().iter().map(|tenant| tenant.name.clone()).collect();
    assert_eq!(names, ["default", "tv"]);
}

pub async fn receipts_tell_every_end_in_order(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let with_key = Event {
        collapse_key: Some("todo".into()),
        ..event("box", "{}", START)
    };
    let one = push(&*store, with_key.clone()).await.unwrap().id;
    let two = push(&*store, with_key).await.unwrap().id;
    let three = push(&*store, event("box", "{}", START)).await.unwrap().id;
    end(&*store, "box", two, Outcome::Delivered, Timestamp(START.0 + 40)).await;
    store.remove_device(&key("box"), Timestamp(START.0 + 50)).await.unwrap();
    let receipts = store.receipts(TENANT, 0, 10).await.unwrap();
    let seen: Vec<_> = receipts
        .iter()
        .map(|r| (r.event.clone(), r.state, r.reason, r.latency_ms, r.session_epoch))
        .collect();
    let expected = [
        (one.to_string(), DeliveryState::Replaced, None, 0, None),
        (two.to_string(), DeliveryState::Delivered, None, 40, Some(Epoch(9))),
        (three.to_string(), DeliveryState::Failed, Some(Reason::DeviceRemoved), 50, None),
    ];
    assert_eq!(seen, expected);
    assert!(receipts.is_sorted_by(|a, b| a.position < b.position));
    let rest = store.receipts(TENANT, receipts[0].position, 1).await.unwrap();
    assert_eq!(rest, [receipts[1].clone()]);
}

pub async fn ledger_minutes_add_up(bench: impl Bench) {
    let store = bench.store();
    let figures = |a, b| [("avoided".to_owned(), a), ("bytes".to_owned(), b)];
    store.add_ledger_minute(10, "n1", &figures(1.5, 2.0)).await.unwrap();
    store.add_ledger_minute(10, "n1", &figures(1.0, -5.0)).await.unwrap();
    store.add_ledger_minute(10, "n2", &figures(1.0, 0.0)).await.unwrap();
    store.add_ledger_minute(11, "n1", &[("new".to_owned(), 7.0)]).await.unwrap();
    store.add_ledger_minute(12, "n1", &figures(100.0, 100.0)).await.unwrap();
    let sum = store.ledger(10, 12).await.unwrap();
    assert_eq!((sum["avoided"], sum["bytes"], sum["new"]), (3.5, -3.0, 7.0));
    assert!(store.ledger(12, 12).await.unwrap().is_empty());
    assert!(store.ledger(9, 10).await.unwrap().is_empty());
}

pub async fn everything_durable_survives_a_reopening(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let collapsing = Event {
        collapse_key: Some("todo".into()),
        ..event("box", "{}", START)
    };
    let one = push_with(&*store, collapsing.clone(), idempotency(1, 1)).await.unwrap().id;
    let two = push(&*store, event("box", "{}", START)).await.unwrap().id;
    end(&*store, "box", two, Outcome::Delivered, START).await;
    let (generation, device) = (store.generation(), store.device(&key("box")).await.unwrap());
    drop(store);
    let bench = bench.reopen().await;
    let store = bench.store();
    assert_eq!(store.generation(), generation);
    assert_eq!(store.device(&key("box")).await.unwrap(), device);
    assert_eq!(waiting(&*store, "box").await, [one]);
    assert_eq!(state(&*store, two).await, Some(DeliveryState::Delivered));
    assert_eq!((store.stats().queued, store.stats().devices), (Some(1), 1));
    let again = push_with(&*store, collapsing.clone(), idempotency(1, 1)).await.unwrap();
    assert_eq!((again.id, again.kind), (one, EnqueuedKind::Repeat));
    assert_eq!(push(&*store, collapsing).await.unwrap().replaced, [one]);
    assert_eq!(store.receipts(TENANT, 0, 10).await.unwrap().len(), 2);
}

pub async fn epochs_and_numbers_rise_over_a_reopening(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let epoch = claim(&*store, "box", 1).await.unwrap().epoch;
    let id = push(&*store, event("box", "{}", START)).await.unwrap().id;
    end(&*store, "box", id, Outcome::Delivered, START).await;
    drop(store);
    let bench = bench.reopen().await;
    let store = bench.store();
    let view = store.seat(&key("box")).await.unwrap();
    assert_eq!((view.last_epoch, view.waiting), (epoch, 0));
    let next = push(&*store, event("box", "{}", START)).await.unwrap().id;
    assert_ne!(next, id);
    let (first, second) = (store.locate(TENANT, id).unwrap(), store.locate(TENANT, next).unwrap());
    assert!(second.number > first.number && second.queue == Some(Queue::Rest));
    assert_eq!(store.delivery(TENANT, next).await.unwrap().unwrap().seq.0, 2);
    assert!(claim(&*store, "box", 2).await.unwrap().epoch > epoch);
}
