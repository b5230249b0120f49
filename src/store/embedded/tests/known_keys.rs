//! That a key is known again, whatever is in RAM of it.

use std::time::Duration;

use super::{super::engine::Space, Embedded};
use crate::{
    domain::{Clock, Event, EventId, Outcome, Timestamp},
    store::{
        EnqueuedKind, Idempotency, Mailbox, NewEvent,
        contract::{Bench, add, end, event, limits, sweep},
    },
};

/// More than the packs of a device have.
const KEYS: u16 = 1_100;

fn new(number: u16, at: Timestamp) -> NewEvent {
    let mut key = [0; 16];
    // The four bytes of it that are remembered are alike now and then.
    key[..2].copy_from_slice(&number.to_be_bytes());
    key[4..6].copy_from_slice(&(number ^ (number % 700)).to_be_bytes());
    NewEvent {
        event: Event {
            // One waits at a time: the others are replaced, and known all the same.
            collapse_key: Some("key".into()),
            ..event("box", "{}", at)
        },
        idempotency: Some(Idempotency {
            key,
            body: [1; 16],
            is_copy: false,
        }),
    }
}

async fn kinds(bench: &Embedded, numbers: impl Iterator<Item = u16>) -> Vec<EnqueuedKind> {
    let at = bench.clock.now();
    let answers = bench.store.enqueue(numbers.map(|number| new(number, at)).collect()).await;
    answers.into_iter().map(|answer| answer.unwrap().kind).collect()
}

#[tokio::test]
async fn a_new_key_is_new_and_a_kept_one_is_known_after_few_keys_and_after_many() {
    let mut bench = Embedded::new();
    add(&*bench.store, "box").await;
    for step in 0..KEYS / 11 {
        let (from, last) = (step * 11, step * 11 + 10);
        let first = kinds(&bench, from..last).await;
        assert!(first.iter().all(|kind| *kind == EnqueuedKind::New), "{first:?}");
        // One twice in one commit, those of before, and one of long ago.
        let again = kinds(&bench, [last, last].into_iter().chain(from..last).chain([from / 2])).await;
        let (new, known) = again.split_first().unwrap();
        assert_eq!(*new, EnqueuedKind::New);
        assert!(known.iter().all(|kind| *kind == EnqueuedKind::Repeat), "{known:?}");
        if step % 25 == 24 {
            bench = bench.reopen().await;
            let all = kinds(&bench, 0..=last).await;
            assert!(all.iter().all(|kind| *kind == EnqueuedKind::Repeat));
        }
    }
    // What is known of it is as old as the keys may be, and they are forgotten.
    bench.clock.advance(Duration::from_secs(limits().idempotency_kept_secs));
    let forgotten = kinds(&bench, 0..20).await;
    assert!(forgotten.iter().all(|kind| *kind == EnqueuedKind::New), "{forgotten:?}");
    let again = kinds(&bench, (0..20).rev()).await;
    assert!(again.iter().all(|kind| *kind == EnqueuedKind::Repeat), "{again:?}");
}

fn packs(bench: &Embedded) -> usize {
    bench
        .store
        .shared
        .read(|engine| Ok(engine.prefix(Space::Ends, b"I").count()))
        .unwrap()
}

async fn one(bench: &Embedded, number: u16) -> (EventId, EnqueuedKind) {
    let NewEvent { event, idempotency } = new(number, bench.clock.now());
    let event = Event {
        ttl: Duration::from_secs(1_000_000),
        collapse_key: None,
        ..event
    };
    let answer = bench.store.enqueue(vec![NewEvent { event, idempotency }]).await.remove(0).unwrap();
    (answer.id, answer.kind)
}

#[tokio::test]
async fn a_pack_goes_when_its_time_is_over_and_none_of_its_events_waits() {
    let mut bench = Embedded::new();
    add(&*bench.store, "box").await;
    let mut waits = None;
    for number in 0..33 {
        let (id, _) = one(&bench, number).await;
        if number == 3 {
            waits = Some(id);
        } else {
            end(&*bench.store, "box", id, Outcome::Delivered, bench.clock.now()).await;
        }
    }
    assert_eq!(packs(&bench), 2);
    bench.clock.advance(Duration::from_secs(limits().idempotency_kept_secs));
    sweep(&*bench.store, bench.clock.now()).await;
    assert_eq!(packs(&bench), 1);
    bench = bench.reopen().await;
    assert_eq!(one(&bench, 3).await, (waits.unwrap(), EnqueuedKind::Repeat));
    for number in [2, 20, 32] {
        assert_eq!(one(&bench, number).await.1, EnqueuedKind::New, "{number}");
        assert_eq!(one(&bench, number).await.1, EnqueuedKind::Repeat, "{number}");
    }
    end(&*bench.store, "box", waits.unwrap(), Outcome::Delivered, bench.clock.now()).await;
    sweep(&*bench.store, bench.clock.now()).await;
    assert_eq!(packs(&bench), 0);
    assert_eq!(one(&bench, 3).await.1, EnqueuedKind::New);
}
