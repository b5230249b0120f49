//! What a device says became of an event: ends, pauses, and another place in the lane.

use super::*;

fn told(status: &str, retry: Option<&str>) -> Arc<Told> {
    let fields = OutcomeFields {
        status: Some(status),
        retry,
        code: Some("code-1"),
        text: Some("in words"),
        data: Some(r#"{"n":1}"#),
    };
    Arc::new(Told::new(fields).unwrap())
}

async fn tell(store: &dyn Store, id: EventId, told: &Arc<Told>, at: Timestamp) -> Settled {
    let settle = Settle {
        device: key("box"),
        id,
        located: store.locate(TENANT, id).unwrap(),
        outcome: told.outcome(),
        at,
        epoch: Some(Epoch(9)),
        told: Some(told.clone()),
    };
    store.settle(vec![settle]).await.remove(0).unwrap()
}

fn processed(json: &str) -> Event {
    Event {
        require: Require::Processed,
        ..event("box", json, START)
    }
}

async fn view(store: &dyn Store, id: EventId) -> Delivery {
    store.delivery(TENANT, id).await.unwrap().unwrap()
}

async fn page(store: &dyn Store) -> Vec<Arc<QueuedEvent>> {
    store.pending(&key("box"), Cursor::default(), 100).await.unwrap().events
}

fn seconds(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

pub async fn an_outcome_ends_what_requires_one_and_nothing_less_does(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let check = async |told: Arc<Told>, state, reason| {
        let id = push(&*store, processed("{}")).await.unwrap().id;
        assert_eq!(end(&*store, "box", id, Outcome::Delivered, START).await, Settled::OutcomeWanted);
        assert_eq!(self::state(&*store, id).await, Some(DeliveryState::Queued));
        assert!(matches!(tell(&*store, id, &told, START).await, Settled::Now { .. }));
        let delivery = view(&*store, id).await;
        assert_eq!((delivery.state, delivery.reason), (state, reason));
        assert_eq!(delivery.told, Some(told));
        // The first word stays.
        assert_eq!(
            tell(&*store, id, &self::told("rejected", None), START).await,
            Settled::Before(state)
        );
        assert_eq!(view(&*store, id).await, delivery);
    };
    check(told("done", None), DeliveryState::Processed, None).await;
    check(told("failed", None), DeliveryState::Failed, Some(Reason::DeviceFailed)).await;
    check(told("rejected", None), DeliveryState::Rejected, Some(Reason::DeviceRejected)).await;
    let receipts = receipts(&*store, 3).await;
    let states: Vec<_> = receipts.iter().map(|receipt| receipt.state).collect();
    assert_eq!(states, [DeliveryState::Processed, DeliveryState::Failed, DeliveryState::Rejected]);
    let words: Vec<_> = receipts
        .iter()
        .map(|receipt| receipt.told.as_ref().map(|told| told.status))
        .collect();
    assert_eq!(words, [Some(Status::Done), Some(Status::Failed), Some(Status::Rejected)]);
}

pub async fn delivered_becomes_processed_once_and_a_refusal_after_it_is_kept(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let delivered = async || {
        let id = push(&*store, event("box", "{}", START)).await.unwrap().id;
        end(&*store, "box", id, Outcome::Delivered, START).await;
        id
    };
    let (one, two, three) = (delivered().await, delivered().await, delivered().await);
    let before = Settled::Before(DeliveryState::Delivered);
    assert_eq!(tell(&*store, one, &told("done", None), seconds(1)).await, before);
    assert_eq!(tell(&*store, two, &told("failed", None), seconds(1)).await, before);
    assert_eq!(tell(&*store, two, &told("done", None), seconds(2)).await, before);
    assert_eq!(tell(&*store, three, &told("failed", Some("5")), seconds(1)).await, before);
    let state = async |id| {
        let delivery = view(&*store, id).await;
        (delivery.state, delivery.told.unwrap().status, delivery.ended_at.unwrap())
    };
    assert_eq!(state(one).await, (DeliveryState::Processed, Status::Done, seconds(1)));
    assert_eq!(state(two).await, (DeliveryState::Delivered, Status::Failed, START));
    assert_eq!(state(three).await, (DeliveryState::Delivered, Status::Failed, START));
    assert_eq!(store.requeue_due(seconds(100), 10).await.unwrap(), 0, "its queue's duty was done");
    let receipts = receipts(&*store, 4).await;
    assert_eq!(
        receipts.last().map(|last| (last.state, last.at)),
        Some((DeliveryState::Processed, seconds(1)))
    );
    // A late one of what was taken back says so.
    let id = push(&*store, event("box", "{}", START)).await.unwrap().id;
    end(&*store, "box", id, Outcome::Cancelled, START).await;
    tell(&*store, id, &told("done", None), START).await;
    let late = view(&*store, id).await;
    assert_eq!((late.state, late.late_ack), (DeliveryState::Cancelled, true));
}

pub async fn an_event_wanted_again_waits_out_its_pause_and_goes_to_the_tail(mut bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let epoch = claim(&*store, "box", 1).await.unwrap().epoch;
    let first = push(&*store, processed(r#"{"n":1}"#)).await.unwrap().id;
    let second = push(&*store, processed(r#"{"n":2}"#)).await.unwrap().id;
    assert_eq!(tell(&*store, first, &told("failed", Some("30")), START).await, Settled::Again);
    assert_eq!(
        tell(&*store, first, &told("failed", Some("30")), START).await,
        Settled::Before(DeliveryState::Queued)
    );
    assert_eq!(waiting(&*store, "box").await, [second]);
    let delivery = view(&*store, first).await;
    assert_eq!(
        (delivery.state, delivery.attempt, delivery.ended_at),
        (DeliveryState::Queued, 1, None)
    );
    assert_eq!(delivery.told, Some(told("failed", Some("30"))));
    assert_eq!(store.seat(&key("box")).await.unwrap().waiting, 2, "it has its place in the quota");

    assert_eq!(store.requeue_due(seconds(29), 10).await.unwrap(), 0);
    // It survives whatever comes between.
    let mut bench = {
        while bench.arrivals().try_recv().is_ok() {}
        bench.reopen().await
    };
    let store = bench.store();
    assert_eq!(waiting(&*store, "box").await, [second]);
    let epoch_now = claim(&*store, "box", 2).await.unwrap().epoch;
    assert!(epoch_now > epoch);
    assert_eq!(store.requeue_due(seconds(30), 10).await.unwrap(), 1);
    assert_eq!(store.requeue_due(seconds(30), 10).await.unwrap(), 0);
    let events = page(&*store).await;
    let facts: Vec<_> = events.iter().map(|event| (event.id, event.seq.0, event.attempt)).collect();
    assert_eq!(facts, [(second, 2, 1), (first, 3, 2)], "the same id, a new number, an attempt more");
    assert_eq!(&*events[1].event.json.0, r#"{"n":1}"#);
    assert_eq!((events[1].event.accepted_at, events[1].event.require), (START, Require::Processed));
    let arrival = bench.arrivals().recv().await.unwrap();
    assert_eq!((arrival.epoch, arrival.event.id, arrival.event.seq.0), (epoch_now, first, 3));
    // The API knows it by its id, a session by its place.
    let delivery = view(&*store, first).await;
    assert_eq!((delivery.state, delivery.attempt, delivery.seq.0), (DeliveryState::Queued, 2, 3));
    let listed: Vec<_> = store
        .deliveries(&key("box"), None, 10)
        .await
        .unwrap()
        .iter()
        .map(|one| one.id)
        .collect();
    assert_eq!(listed, [first, second]);
    let rest = store.deliveries(&key("box"), Some(first), 10).await.unwrap();
    assert_eq!(rest.iter().map(|one| one.id).collect::<Vec<_>>(), [second]);
    let by_place = Settle {
        device: key("box"),
        id: first,
        located: events[1].located,
        outcome: Outcome::Processed,
        at: seconds(31),
        epoch: None,
        told: Some(told("done", None)),
    };
    assert!(matches!(
        store.settle(vec![by_place.clone()]).await.remove(0).unwrap(),
        Settled::Now { .. }
    ));
    assert_eq!(
        store.settle(vec![by_place]).await.remove(0).unwrap(),
        Settled::Before(DeliveryState::Processed)
    );
    let delivery = view(&*store, first).await;
    assert_eq!((delivery.state, delivery.attempt), (DeliveryState::Processed, 2));
    assert_eq!(waiting(&*store, "box").await, [second]);
    assert_eq!(store.stats().queued, Some(1));
    let receipts = receipts(&*store, 2).await;
    let told: Vec<_> = receipts.iter().map(|receipt| (receipt.state, receipt.attempt)).collect();
    assert_eq!(told, [(DeliveryState::Queued, 1), (DeliveryState::Processed, 2)]);
}

pub async fn what_is_put_off_again_and_again_fails_or_expires(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let id = push(&*store, processed("{}")).await.unwrap().id;
    let again = told("failed", Some("0"));
    for attempt in 1..u64::from(limits().attempts_max) {
        assert_eq!(tell(&*store, id, &again, START).await, Settled::Again, "{attempt}");
        assert_eq!(store.requeue_due(START, 10).await.unwrap(), 1);
        assert_eq!(u64::from(view(&*store, id).await.attempt), attempt + 1);
    }
    let given_up = tell(&*store, id, &again, START).await;
    let outcome = Outcome::Failed(Reason::TooManyAttempts);
    assert!(
        matches!(given_up, Settled::Now { outcome: found, .. } if found == outcome),
        "{given_up:?}"
    );
    let failed = view(&*store, id).await;
    assert_eq!(
        (failed.state, failed.reason),
        (DeliveryState::Failed, Some(Reason::TooManyAttempts))
    );
    assert_eq!(failed.told, Some(again));

    // The TTL goes on meanwhile.
    let id = push(&*store, processed("{}")).await.unwrap().id;
    assert_eq!(tell(&*store, id, &told("failed", Some("120")), START).await, Settled::Again);
    bench.clock().advance(Duration::from_secs(61));
    assert_eq!(sweep(&*store, seconds(61)).await.0, 1);
    assert_eq!(state(&*store, id).await, Some(DeliveryState::Expired));
    assert_eq!(store.requeue_due(seconds(200), 10).await.unwrap(), 0);
    assert_eq!(store.stats().queued, Some(0));
}

pub async fn what_is_wanted_later_comes_with_the_next_session(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let later = push(&*store, processed(r#"{"n":1}"#)).await.unwrap().id;
    let retry = push(&*store, processed(r#"{"n":2}"#)).await.unwrap().id;
    assert_eq!(tell(&*store, later, &told("later", None), START).await, Settled::Again);
    assert_eq!(tell(&*store, retry, &told("failed", Some("40")), START).await, Settled::Again);
    assert_eq!(store.requeue_due(START, 10).await.unwrap(), 0);
    let bench = bench.reopen().await;
    let store = bench.store();
    claim(&*store, "box", 7).await.unwrap();
    assert_eq!(store.requeue_due(START, 10).await.unwrap(), 1);
    assert_eq!(waiting(&*store, "box").await, [later]);
    // Without one it comes after a minute; the other has its own time.
    assert_eq!(tell(&*store, later, &told("later", None), START).await, Settled::Again);
    assert_eq!(store.requeue_due(seconds(59), 10).await.unwrap(), 1);
    assert_eq!(waiting(&*store, "box").await, [retry]);
}

pub async fn an_event_put_off_can_be_replaced_cancelled_and_repeated(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let keyed = |json: &str| {
        let mut event = processed(json);
        event.collapse_key = Some("todo".into());
        event
    };
    let moved = async |id| {
        assert_eq!(tell(&*store, id, &told("failed", Some("0")), START).await, Settled::Again);
        assert_eq!(store.requeue_due(START, 10).await.unwrap(), 1);
    };
    let old = push_with(&*store, keyed("1"), idempotency(1, 1)).await.unwrap().id;
    moved(old).await;
    let repeat = push_with(&*store, keyed("1"), idempotency(1, 1)).await.unwrap();
    assert_eq!(
        (repeat.id, repeat.kind, repeat.state),
        (old, EnqueuedKind::Repeat, DeliveryState::Queued)
    );
    let new = push(&*store, keyed("2")).await.unwrap();
    assert_eq!(new.replaced, [old]);
    let replaced = view(&*store, old).await;
    assert_eq!((replaced.state, replaced.replaced_by), (DeliveryState::Replaced, Some(new.id)));
    // While it waits out its pause, too.
    assert_eq!(tell(&*store, new.id, &told("failed", Some("30")), START).await, Settled::Again);
    let newest = push(&*store, keyed("3")).await.unwrap();
    assert_eq!(newest.replaced, [new.id]);
    assert_eq!(store.requeue_due(seconds(31), 10).await.unwrap(), 0);
    moved(newest.id).await;
    assert!(matches!(
        end(&*store, "box", newest.id, Outcome::Cancelled, START).await,
        Settled::Now { .. }
    ));
    assert_eq!(state(&*store, newest.id).await, Some(DeliveryState::Cancelled));
    assert!(waiting(&*store, "box").await.is_empty());
    // A device that goes takes it along.
    let last = push(&*store, processed("4")).await.unwrap().id;
    moved(last).await;
    store.remove_device(&key("box"), START).await.unwrap();
    assert_eq!(state(&*store, last).await, Some(DeliveryState::Failed));
    assert_eq!(store.stats().queued, Some(0));
}

pub async fn receipts_of_a_device_come_in_the_order_of_one_step(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let first = push(&*store, event("box", "{}", START)).await.unwrap().id;
    let second = push(&*store, event("box", "{}", START)).await.unwrap().id;
    end(&*store, "box", first, Outcome::Delivered, START).await;
    let settle = |id: EventId, outcome| Settle {
        device: key("box"),
        id,
        located: store.locate(TENANT, id).unwrap(),
        outcome,
        at: START,
        epoch: None,
        told: None,
    };
    // What is said of the first after its end may take a step more.
    let both = vec![settle(first, Outcome::Processed), settle(second, Outcome::Delivered)];
    let settled = store.settle(both).await;
    assert!(matches!(
        settled[..],
        [
            Ok(Settled::Before(DeliveryState::Processed | DeliveryState::Delivered)),
            Ok(Settled::Now { .. })
        ]
    ));
    let told = receipts(&*store, 3).await;
    let told: Vec<_> = told.iter().map(|receipt| (receipt.event.clone(), receipt.state)).collect();
    let (first, second) = (first.to_string(), second.to_string());
    assert_eq!(
        told,
        [
            (first.clone(), DeliveryState::Delivered),
            (first, DeliveryState::Processed),
            (second, DeliveryState::Delivered)
        ]
    );
}
