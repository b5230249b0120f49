//! Mailbox: how deliveries end, how long that is known, and batches and tenants.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

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
            assert_eq!(store.delivery(TENANT, id).await.unwrap().unwrap().late_ack, expected, "{first:?}");
        }
    };
    check(Outcome::Delivered, false).await;
    check(Outcome::Cancelled, true).await;
    check(Outcome::Expired, true).await;
    check(Outcome::Failed(Reason::Poison), false).await;
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
    assert_eq!(receipts(&*store, 4).await.len(), 4);
    let bounds = store.receipt_bounds(TENANT).await.unwrap();
    assert_eq!((bounds.oldest, bounds.newest), (3, 6));
    clock.advance(Duration::from_secs(limits().idempotency_kept_secs));
    // Whether keys have records of their own is the engine's affair.
    let (expired, keys) = sweep(&*store, clock.now()).await;
    assert!(expired == 0 && [0, 6].contains(&keys), "{expired}, {keys}");
    clock.advance(Duration::from_secs(limits().state_kept_secs));
    assert_eq!(state(&*store, ids[0]).await, None);
    assert_eq!(sweep(&*store, clock.now()).await, (0, 6));
    clock.advance(Duration::from_secs(limits().tombstone_kept_secs));
    assert_eq!(store.device(&key("gone")).await.unwrap(), Registered::Unknown);
    let (_, dropped) = sweep(&*store, clock.now()).await;
    assert!(dropped >= 4, "three receipts and a tombstone: {dropped}");
    // Positions rise even when nearly every receipt is gone.
    let left: Vec<u64> = receipts(&*store, 1).await.iter().map(|receipt| receipt.position).collect();
    assert_eq!(left, [6]);
    let bounds = store.receipt_bounds(TENANT).await.unwrap();
    assert_eq!((bounds.oldest, bounds.newest), (6, 6));
    let id = push(&*store, event("box", "{}", clock.now())).await.unwrap().id;
    end(&*store, "box", id, Outcome::Delivered, clock.now()).await;
    assert_eq!(receipts(&*store, 2).await[1].position, 7);
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
        told: None,
    };
    assert_eq!(store.settle(vec![settle]).await.remove(0).unwrap(), Settled::Unknown);
    assert_eq!(waiting(&*store, "box").await, [id]);
    assert!(store.receipts(other, 0, 10).await.unwrap().is_empty());
    assert!(store.devices(other, None, 10).await.unwrap().is_empty());
}

pub async fn a_device_ends_no_event_of_another(bench: impl Bench) {
    let store = bench.store();
    // They share a bucket, and the first event of each has the same number.
    let (one, other) = ("fz", "dy5");
    assert_eq!(key(one).bucket(), key(other).bucket());
    let mut ids = Vec::new();
    for device in [one, other] {
        add(&*store, device).await;
        ids.push(push(&*store, event(device, "{}", START)).await.unwrap().id);
    }
    let said = |device: &str| Settle {
        device: key(device),
        id: ids[0],
        located: store.locate(TENANT, ids[0]).unwrap(),
        outcome: Outcome::Delivered,
        at: START,
        epoch: None,
        told: None,
    };
    let answers = store.settle(vec![said(other), said(one), said(other)]).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!((answers[0], answers[2]), (Settled::Unknown, Settled::Unknown));
    assert!(matches!(answers[1], Settled::Now { .. }), "{answers:?}");
    assert!(waiting(&*store, one).await.is_empty());
    assert_eq!(waiting(&*store, other).await, [ids[1]]);
    let told = receipts(&*store, 1).await;
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].event.as_str(), told[0].device.as_str()), (&*ids[0].to_string(), one));
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
        told: None,
    });
    let settled: Vec<_> = store.settle(ends.to_vec()).await.into_iter().map(Result::unwrap).collect();
    assert!(matches!(settled[0], Settled::Now { .. }) && matches!(settled[2], Settled::Now { .. }));
    assert_eq!(settled[1], Settled::Before(DeliveryState::Delivered));
    assert!(store.enqueue(Vec::new()).await.is_empty() && store.settle(Vec::new()).await.is_empty());
}

pub async fn an_event_is_known_at_every_moment(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    for _ in 0..200 {
        let id = push(&*store, event("box", "{}", START)).await.unwrap().id;
        let ended = AtomicBool::new(false);
        let ending = async {
            end(&*store, "box", id, Outcome::Delivered, START).await;
            ended.store(true, Ordering::Relaxed);
        };
        let looking = async {
            while !ended.load(Ordering::Relaxed) {
                assert!(state(&*store, id).await.is_some(), "an accepted event is unknown while it ends");
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(ending, looking);
    }
}
