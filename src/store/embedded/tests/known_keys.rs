//! That a key is known again, whatever is in RAM of it.

use super::Embedded;
use crate::{
    domain::{Clock, Event, Timestamp},
    store::{
        EnqueuedKind, Idempotency, Mailbox, NewEvent,
        contract::{Bench, add, event, limits},
    },
};

/// More than a device's state remembers.
const KEYS: u16 = 1_100;

fn new(number: u16, at: Timestamp) -> NewEvent {
    let mut key = [0; 16];
    // Spread over what is remembered of a key, and alike in its last bytes now and then.
    key[..2].copy_from_slice(&number.to_be_bytes());
    key[11..13].copy_from_slice(&(number % 700).to_be_bytes());
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
    bench.clock.advance(std::time::Duration::from_secs(limits().idempotency_kept_secs));
    let forgotten = kinds(&bench, 0..20).await;
    assert!(forgotten.iter().all(|kind| *kind == EnqueuedKind::New), "{forgotten:?}");
    let again = kinds(&bench, (0..20).rev()).await;
    assert!(again.iter().all(|kind| *kind == EnqueuedKind::Repeat), "{again:?}");
}
