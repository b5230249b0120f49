//! Mailbox: what waits, in which order, under which key, and who hears of it.

use super::*;

pub async fn an_event_waits_until_it_is_acknowledged(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let mut new = event("box", r#"{"n":"жук"}"#, START);
    new.collapse_key = Some("todo".into());
    new.require = Require::Received;
    let done = push(&*store, new.clone()).await.unwrap();
    assert_eq!((done.kind, done.durability), (EnqueuedKind::New, bench.durability()));
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
        outcome: Outcome::Delivered,
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
