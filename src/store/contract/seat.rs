//! Mailbox: who holds the seat.

use super::*;

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
    assert!(
        !store
            .release(&key("box"), first.epoch, Timestamp(50), Departure::Lost)
            .await
            .unwrap()
    );
    assert!(store.seat(&key("box")).await.unwrap().seat.is_some());
    assert!(
        store
            .release(&key("box"), second.epoch, Timestamp(60), Departure::Lost)
            .await
            .unwrap()
    );
    let view = store.seat(&key("box")).await.unwrap();
    assert_eq!((view.seat, view.last_epoch), (None, second.epoch));
    assert_eq!(view.last_seen_at, Some(Timestamp(60)));
    assert!(
        !store
            .release(&key("box"), second.epoch, Timestamp(70), Departure::Lost)
            .await
            .unwrap()
    );
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
