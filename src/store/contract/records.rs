//! Records, and what a reopening leaves.

use super::*;

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
    let receipts = receipts(&*store, 3).await;
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
    let replaced: Vec<_> = receipts.iter().map(|r| (r.replaced_by, r.attempt, r.told.is_some())).collect();
    assert_eq!(replaced, [(Some(two), 1, false), (None, 1, false), (None, 1, false)]);
    let bounds = store.receipt_bounds(TENANT).await.unwrap();
    assert_eq!((bounds.oldest, bounds.newest), (1, receipts[2].position));
    assert_eq!(
        store.receipt_bounds(TenantId(1)).await.unwrap(),
        crate::store::FeedBounds::default()
    );
    let rest = store.receipts(TENANT, receipts[0].position, 1).await.unwrap();
    assert_eq!(rest, [receipts[1].clone()]);
    assert!(store.receipts(TENANT, receipts[2].position, 10).await.unwrap().is_empty());
    assert!(store.receipts(TENANT, u64::MAX, 10).await.unwrap().is_empty());
}

pub async fn a_receipt_tells_what_the_device_says_however_long(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "box").await;
    let said = |length: usize| {
        let text = "x".repeat(length);
        let fields = OutcomeFields {
            status: Some("failed"),
            code: Some("disk-full"),
            text: Some(&text),
            data: Some(r#"{"free":0}"#),
            ..OutcomeFields::default()
        };
        Told::new(fields).unwrap()
    };
    // Rows around the length that one byte can name, in the midst of short ones.
    let lengths = [0, 100, 120, 124, 125, 126, 127, 128, 129, 130, 140, 180, 1_024];
    let mut told = Vec::new();
    for length in lengths {
        let id = push(&*store, event("box", "{}", START)).await.unwrap().id;
        end(&*store, "box", id, Outcome::Delivered, START).await;
        let id = push(&*store, event("box", "{}", START)).await.unwrap().id;
        let settle = Settle {
            device: key("box"),
            id,
            located: store.locate(TENANT, id).unwrap(),
            outcome: Outcome::Failed(Reason::DeviceFailed),
            at: START,
            epoch: None,
            told: Some(Arc::new(said(length))),
        };
        assert!(matches!(store.settle(vec![settle]).await.remove(0).unwrap(), Settled::Now { .. }));
        told.extend([None, Some(said(length).in_words())]);
    }
    let found = receipts(&*store, told.len()).await;
    assert_eq!(found.iter().map(|receipt| receipt.told.clone()).collect::<Vec<_>>(), told);
    // What is trimmed is measured, too.
    sweep(&*store, bench.clock().now()).await;
    let left = store.receipts(TENANT, 0, 100).await.unwrap();
    assert_eq!(left, found[found.len() - 4..]);
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
    assert_eq!(receipts(&*store, 2).await.len(), 2);
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
