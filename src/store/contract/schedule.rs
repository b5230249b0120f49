//! Mailbox: what is to be delivered later, and what may become of it before.

use super::*;

fn seconds(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

/// An event of 60 s that is to be delivered so many seconds after the start.
fn scheduled(json: &str, at: u64) -> Event {
    Event {
        deliver_at: Some(seconds(at)),
        ..event("box", json, START)
    }
}

async fn view(store: &dyn Store, id: EventId) -> Delivery {
    store.delivery(TENANT, id).await.unwrap().unwrap()
}

pub async fn a_scheduled_event_comes_when_it_is_due_and_once(mut bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    claim(&*store, "box", 1).await.unwrap();
    let new = scheduled(r#"{"n":1}"#, 30);
    let posted = push(&*store, new.clone()).await.unwrap();
    assert_eq!(
        (posted.kind, posted.state, posted.durability),
        (EnqueuedKind::New, DeliveryState::Scheduled, bench.durability())
    );
    let id = posted.id;
    let before = view(&*store, id).await;
    assert_eq!((before.state, before.attempt, before.seq.0), (DeliveryState::Scheduled, 0, 0));
    assert_eq!((before.accepted_at, before.deliver_at), (START, Some(seconds(30))));
    assert_eq!(before.expires_at, seconds(90), "the TTL counts from then");
    assert!(waiting(&*store, "box").await.is_empty());
    assert_eq!(store.deliveries(&key("box"), None, 10).await.unwrap(), [before]);
    assert_eq!(store.requeue_due(seconds(29), 10).await.unwrap(), 0);
    assert!(bench.arrivals().try_recv().is_err(), "nobody is told of it yet");
    let outcome = Outcome::Again {
        after: Duration::ZERO,
        at_next_session: true,
    };
    let early = end(&*store, "box", id, outcome, START).await;
    assert_eq!(early, Settled::Before(DeliveryState::Scheduled), "nobody was given it");

    // It survives whatever comes between, and a session that begins is none of its business.
    let mut bench = bench.reopen().await;
    let store = bench.store();
    let epoch = claim(&*store, "box", 2).await.unwrap().epoch;
    assert_eq!(store.requeue_due(seconds(29), 10).await.unwrap(), 0);
    assert_eq!(store.requeue_due(seconds(30), 10).await.unwrap(), 1);
    assert_eq!(store.requeue_due(seconds(30), 10).await.unwrap(), 0);
    let arrival = bench.arrivals().recv().await.unwrap();
    assert_eq!((arrival.epoch, arrival.event.id), (epoch, id));
    let page = store.pending(&key("box"), Cursor::default(), 10).await.unwrap();
    let [queued] = &page.events[..] else { panic!("{page:?}") };
    assert_eq!((queued.id, queued.attempt, queued.seq.0, &queued.event), (id, 1, 1, &new));
    assert_eq!(
        (queued.located, queued.seq, queued.attempt),
        (arrival.event.located, arrival.event.seq, arrival.event.attempt)
    );
    let after = view(&*store, id).await;
    assert_eq!(
        (after.state, after.attempt, after.ended_at, after.deliver_at),
        (DeliveryState::Queued, 1, None, Some(seconds(30)))
    );
    // A device may put it off, as any other.
    assert_eq!(end(&*store, "box", id, outcome, seconds(31)).await, Settled::Again);
    assert_eq!(store.requeue_due(seconds(31), 10).await.unwrap(), 1);
    assert_eq!(view(&*store, id).await.attempt, 2);
    let delivered = Settled::Now {
        outcome: Outcome::Delivered,
        waited: Duration::from_secs(2),
        urgency: Urgency::Normal,
        expires_at: seconds(90),
    };
    assert_eq!(end(&*store, "box", id, Outcome::Delivered, seconds(32)).await, delivered);
    assert_eq!(store.stats().queued, Some(0));
    assert_eq!(store.requeue_due(seconds(100), 10).await.unwrap(), 0);
    assert_eq!(view(&*store, id).await.deliver_at, Some(seconds(30)));
}

pub async fn what_is_due_comes_in_order_of_its_time_and_then_of_acceptance(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let late = push(&*store, scheduled("1", 31)).await.unwrap().id;
    let first = push(&*store, scheduled("2", 30)).await.unwrap().id;
    let high = Event {
        urgency: Urgency::High,
        ..scheduled("3", 31)
    };
    let high = push(&*store, high).await.unwrap().id;
    let second = push(&*store, scheduled("4", 30)).await.unwrap().id;
    // What can be delivered at once has the first number of the lane.
    let plain = push(&*store, event("box", "5", START)).await.unwrap().id;
    assert_eq!(view(&*store, plain).await.seq.0, 1);
    let mut moved = 0;
    while moved < 4 {
        // Some at a time: the order is the same.
        moved += store.requeue_due(seconds(40), 3).await.unwrap();
    }
    assert_eq!(waiting(&*store, "box").await, [high, plain, first, second, late]);
    for (id, seq) in [(high, 1), (first, 2), (second, 3), (late, 4)] {
        assert_eq!(view(&*store, id).await.seq.0, seq);
    }
    let listed = store.deliveries(&key("box"), None, 10).await.unwrap();
    let listed: Vec<EventId> = listed.iter().map(|delivery| delivery.id).collect();
    assert!(listed.len() == 5 && listed.last() == Some(&plain), "each once: {listed:?}");
}

pub async fn a_scheduled_event_is_replaced_replaces_and_is_cancelled(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let keyed = |event: Event| Event {
        collapse_key: Some("todo".into()),
        ..event
    };
    let waits = push(&*store, keyed(event("box", "1", START))).await.unwrap();
    let one = push(&*store, keyed(scheduled("2", 30))).await.unwrap();
    assert_eq!(one.replaced, [waits.id], "at acceptance, not when it is due");
    let at = seconds(1);
    let newer = Event {
        accepted_at: at,
        ..keyed(scheduled("3", 30))
    };
    let two = push(&*store, newer).await.unwrap();
    assert_eq!(two.replaced, [one.id]);
    let replaced = view(&*store, one.id).await;
    assert_eq!(
        (replaced.state, replaced.replaced_by, replaced.ended_at, replaced.attempt),
        (DeliveryState::Replaced, Some(two.id), Some(at), 0)
    );
    assert_eq!(store.requeue_due(seconds(30), 10).await.unwrap(), 1);
    assert_eq!(waiting(&*store, "box").await, [two.id]);
    // In its lane it can be replaced still.
    let three = push(&*store, keyed(scheduled("4", 60))).await.unwrap();
    assert_eq!(three.replaced, [two.id]);
    let four = push(&*store, keyed(event("box", "5", START))).await.unwrap();
    assert_eq!(four.replaced, [three.id]);
    assert_eq!(store.requeue_due(seconds(60), 10).await.unwrap(), 0);
    assert_eq!(waiting(&*store, "box").await, [four.id]);

    let last = push(&*store, scheduled("6", 90)).await.unwrap().id;
    assert!(matches!(
        end(&*store, "box", last, Outcome::Cancelled, seconds(61)).await,
        Settled::Now { .. }
    ));
    let again = end(&*store, "box", last, Outcome::Cancelled, seconds(62)).await;
    assert_eq!(again, Settled::Before(DeliveryState::Cancelled));
    assert_eq!(store.requeue_due(seconds(90), 10).await.unwrap(), 0);
    assert_eq!(state(&*store, last).await, Some(DeliveryState::Cancelled));
    assert_eq!(store.stats().queued, Some(1));
    let receipts = receipts(&*store, 5).await;
    let last = receipts.last().unwrap();
    assert_eq!((last.state, last.attempt, last.latency_ms), (DeliveryState::Cancelled, 0, 0));
}

pub async fn a_scheduled_event_has_its_place_in_the_quota_and_keeps_its_key(bench: impl Bench) {
    let (store, clock) = (bench.store(), bench.clock());
    add(&*store, "box").await;
    let days = scheduled("1", 200_000);
    let first = push_with(&*store, days.clone(), idempotency(1, 1)).await.unwrap();
    for _ in 0..4 {
        push(&*store, scheduled("2", 100_000)).await.unwrap();
    }
    for refused in [event("box", "3", START), scheduled("3", 30)] {
        let full = push(&*store, refused).await;
        assert!(matches!(full, Err(StoreError::QueueFull { events: 5, bytes: 5 })), "{full:?}");
    }
    assert_eq!(store.seat(&key("box")).await.unwrap().waiting, 5);
    assert_eq!(store.stats().queued, Some(5));
    // Nothing of it is late.
    clock.advance(Duration::from_secs(limits().idempotency_kept_secs + 1));
    assert_eq!(sweep(&*store, clock.now()).await, (0, 0));
    assert_eq!(store.stats().oldest_queued_at, None);
    let repeat = push_with(&*store, days.clone(), idempotency(1, 1)).await.unwrap();
    assert_eq!(
        (repeat.id, repeat.kind, repeat.state),
        (first.id, EnqueuedKind::Repeat, DeliveryState::Scheduled)
    );
    let reused = push_with(&*store, days.clone(), idempotency(1, 2)).await;
    assert!(matches!(reused, Err(StoreError::KeyReused(id)) if id == first.id));
    end(&*store, "box", first.id, Outcome::Cancelled, clock.now()).await;
    let anew = push_with(&*store, days, idempotency(1, 2)).await.unwrap();
    assert_eq!(anew.kind, EnqueuedKind::New, "the key was kept as long as its event, and an hour");
}

pub async fn a_scheduled_event_expires_behind_its_time_and_goes_with_its_device(bench: impl Bench) {
    let (store, clock) = (bench.store(), bench.clock());
    add(&*store, "box").await;
    let id = push(&*store, scheduled("1", 100)).await.unwrap().id;
    let never = push(&*store, scheduled("2", 101)).await.unwrap().id;
    clock.set(seconds(100));
    assert_eq!(sweep(&*store, clock.now()).await.0, 0, "it is just due");
    assert_eq!(store.requeue_due(clock.now(), 10).await.unwrap(), 1);
    assert_eq!(waiting(&*store, "box").await, [id]);
    clock.set(seconds(160));
    assert!(waiting(&*store, "box").await.is_empty());
    assert_eq!(sweep(&*store, clock.now()).await.0, 1);
    assert_eq!(state(&*store, id).await, Some(DeliveryState::Expired));
    // One that nobody put into its lane in time, too.
    clock.set(seconds(161));
    assert_eq!(sweep(&*store, clock.now()).await.0, 1);
    assert_eq!(state(&*store, never).await, Some(DeliveryState::Expired));
    assert_eq!(store.requeue_due(clock.now(), 10).await.unwrap(), 0);

    let last = push(&*store, scheduled("3", 200)).await.unwrap().id;
    store.remove_device(&key("box"), clock.now()).await.unwrap();
    let failed = view(&*store, last).await;
    assert_eq!((failed.state, failed.reason), (DeliveryState::Failed, Some(Reason::DeviceRemoved)));
    assert_eq!(store.requeue_due(seconds(200), 10).await.unwrap(), 0);
    assert_eq!(store.stats().queued, Some(0));
}
