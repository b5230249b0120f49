//! The feed of presence.

use super::*;
use crate::store::PresenceChange;

/// A row as the suites compare it: kind, device, epoch, reason.
type Seen = (ChangeKind, Option<String>, Option<Epoch>, Option<Departure>);

fn seen(change: &PresenceChange) -> Seen {
    let device = change.device.as_ref().map(ToString::to_string);
    (change.kind, device, change.session_epoch, change.reason)
}

fn connected(device: &str, epoch: Epoch) -> Seen {
    (ChangeKind::Connected, Some(device.to_owned()), Some(epoch), None)
}

fn disconnected(device: &str, epoch: Epoch, why: Departure) -> Seen {
    (ChangeKind::Disconnected, Some(device.to_owned()), Some(epoch), Some(why))
}

/// The feed behind a position, once it has so many rows.
async fn feed(store: &dyn Store, after: u64, count: usize) -> Vec<PresenceChange> {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let changes = store.changes(TENANT, after, 1_000).await.unwrap();
        if changes.len() >= count {
            assert!(changes.is_sorted_by(|a, b| a.position < b.position));
            return changes;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "{} of {count} rows: {changes:?}",
            changes.len()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn seats_of_many_are_answered_in_order(bench: impl Bench) {
    let store = bench.store();
    let devices: Vec<String> = (0..300).map(|n| format!("box{n}")).collect();
    for device in devices.iter().step_by(2) {
        add(&*store, device).await;
    }
    let epoch = claim(&*store, "box8", 1).await.unwrap().epoch;
    push(&*store, event("box10", "{}", START)).await.unwrap();
    let keys: Vec<DeviceKey> = devices.iter().map(|device| key(device)).collect();
    let views = store.seats(&keys).await;
    assert_eq!(views.len(), 300);
    for (number, view) in views.iter().enumerate() {
        match view {
            Err(error) => assert!(number % 2 == 1 && matches!(error, StoreError::UnknownDevice), "{number}: {error}"),
            Ok(view) => {
                assert_eq!(number % 2, 0);
                assert_eq!(view.seat.as_ref().map(|seat| seat.epoch), (number == 8).then_some(epoch));
                assert_eq!(view.waiting, u32::from(number == 10));
            }
        }
    }
    assert!(store.seats(&[]).await.is_empty());
}

pub async fn the_feed_tells_every_step_of_a_seat_once_and_in_order(bench: impl Bench) {
    let store = bench.store();
    assert_eq!(store.change_bounds(TENANT).await.unwrap(), crate::store::FeedBounds::default());
    add(&*store, "box").await;
    let first = claim(&*store, "box", 1).await.unwrap().epoch;
    let second = claim(&*store, "box", 2).await.unwrap().epoch;
    let release = async |epoch, why| store.release(&key("box"), epoch, START, why).await.unwrap();
    assert!(!release(first, Departure::Lost).await, "it lost the seat before");
    assert!(release(second, Departure::Silent).await);
    assert!(!release(second, Departure::Shutdown).await, "it has given it up");
    let third = claim(&*store, "box", 3).await.unwrap().epoch;
    store.remove_device(&key("box"), Timestamp(START.0 + 5)).await.unwrap();
    // A device of the same id is another one, and its epochs go on.
    let (device, _) = store.put_device(&key("box"), DeviceChange::default(), true, START).await.unwrap();
    let fourth = claim_at(&*store, "box", 4, device.credential_generation).await.unwrap().epoch;
    assert!(release(fourth, Departure::Expired).await);
    let changes = feed(&*store, 0, 8).await;
    let expected = [
        connected("box", first),
        disconnected("box", first, Departure::Conflict),
        connected("box", second),
        disconnected("box", second, Departure::Silent),
        connected("box", third),
        disconnected("box", third, Departure::Removed),
        connected("box", fourth),
        disconnected("box", fourth, Departure::Expired),
    ];
    assert_eq!(changes.iter().map(seen).collect::<Vec<_>>(), expected);
    let details = &changes[0];
    assert_eq!(
        (&*details.node, details.transport, details.at),
        ("n1", Some(Transport::Xmpps), START)
    );
    assert_eq!(changes[5].at, Timestamp(START.0 + 5));
    assert!(changes.is_sorted_by_key(|change| change.session_epoch));
    // Pages, and the ends.
    let page = store.changes(TENANT, changes[1].position, 3).await.unwrap();
    assert_eq!(page, changes[2..5]);
    let bounds = store.change_bounds(TENANT).await.unwrap();
    assert_eq!((bounds.oldest, bounds.newest), (1, changes[7].position), "none was dropped");
    assert!(store.changes(TENANT, bounds.newest, 10).await.unwrap().is_empty());
    assert!(store.changes(TENANT, u64::MAX, 10).await.unwrap().is_empty());
    assert!(store.changes(TenantId(1), 0, 10).await.unwrap().is_empty(), "it is nobody else's");
}

pub async fn seats_that_a_dead_node_left_are_told_at_a_pace_and_once(bench: impl Bench) {
    let store = bench.store();
    let mut epochs = Vec::new();
    for number in 0..7 {
        let device = format!("box{number}");
        add(&*store, &device).await;
        epochs.push(claim(&*store, &device, number).await.unwrap().epoch);
    }
    assert!(store.release(&key("box0"), epochs[0], START, Departure::Lost).await.unwrap());
    assert_eq!(store.end_lost_seats(100).await.unwrap().seats, 0, "its node lives");
    let before = feed(&*store, 0, 8).await.last().unwrap().position;
    drop(store);

    let bench = bench.reopen().await;
    let store = bench.store();
    // One is back before it is its turn, and one is removed.
    let back = claim(&*store, "box1", 11).await.unwrap();
    assert!(back.displaced.is_none(), "nobody sat there any more");
    store.remove_device(&key("box2"), START).await.unwrap();
    let mut ended = Vec::new();
    loop {
        let round = store.end_lost_seats(2).await.unwrap();
        assert!(round.seats <= 2, "{round:?}");
        ended.push(round.seats);
        if !round.more {
            break;
        }
    }
    assert_eq!(ended.iter().sum::<u64>(), 4, "box3 to box6");
    assert_eq!(store.end_lost_seats(100).await.unwrap().seats, 0);
    let view = store.seat(&key("box3")).await.unwrap();
    assert_eq!((view.seat, view.last_epoch), (None, epochs[3]));
    assert!(view.last_seen_at >= Some(START));
    let again = claim(&*store, "box3", 13).await.unwrap().epoch;
    assert!(again > epochs[3]);

    let changes = feed(&*store, before, 9).await;
    assert_eq!(changes.iter().filter(|change| change.kind == ChangeKind::NodeLost).count(), 1);
    let lost = changes.iter().find(|change| change.kind == ChangeKind::NodeLost).unwrap();
    assert_eq!(
        (&*lost.node, &lost.device, lost.session_epoch, lost.transport),
        ("n1", &None, None, None)
    );
    let of = |device: &str| -> Vec<Seen> {
        let ours = |change: &&PresenceChange| change.device.as_ref().is_some_and(|id| id.as_str() == device);
        changes.iter().filter(ours).map(seen).collect()
    };
    assert_eq!(of("box0"), []);
    let conflict = disconnected("box1", epochs[1], Departure::Conflict);
    assert_eq!(of("box1"), [conflict, connected("box1", back.epoch)]);
    assert_eq!(of("box2"), [disconnected("box2", epochs[2], Departure::Removed)]);
    let lost_seat = |number: usize| disconnected(&format!("box{number}"), epochs[number], Departure::NodeLost);
    assert_eq!(of("box3"), [lost_seat(3), connected("box3", again)]);
    for number in 4..7 {
        assert_eq!(of(&format!("box{number}")), [lost_seat(number)]);
        let row = changes.iter().find(|change| seen(change) == lost_seat(number)).unwrap();
        assert!(row.position > lost.position, "first the node, then its devices");
    }
}

pub async fn the_feed_is_kept_so_long_and_so_much_of_it(bench: impl Bench) {
    let (store, clock) = (bench.store(), bench.clock());
    add(&*store, "box").await;
    let mut session = 0;
    let hop = async |session: u128| claim(&*store, "box", session).await.unwrap();
    hop(0).await;
    for _ in 0..12 {
        session += 1;
        hop(session).await;
    }
    let all = feed(&*store, 0, 25).await;
    sweep(&*store, clock.now()).await;
    let bounds = store.change_bounds(TENANT).await.unwrap();
    assert_eq!(
        (bounds.oldest, bounds.newest),
        (all[5].position, all[24].position),
        "twenty are kept"
    );
    drop(store);
    // Another life of the store begins its positions where it likes, and forgets nothing by that.
    let bench = bench.reopen().await;
    let (store, clock) = (bench.store(), bench.clock());
    let next = claim(&*store, "box", 100).await.unwrap().epoch;
    let changes = feed(&*store, all[24].position, 2).await;
    assert_eq!(seen(changes.last().unwrap()), connected("box", next));
    sweep(&*store, clock.now()).await;
    let kept = store.changes(TENANT, 0, 100).await.unwrap();
    assert_eq!(kept.len(), 20);
    clock.advance(Duration::from_secs(limits().presence_changes_kept_secs));
    sweep(&*store, clock.now()).await;
    let bounds = store.change_bounds(TENANT).await.unwrap();
    assert_eq!(
        (bounds.oldest, bounds.newest),
        (kept[19].position, kept[19].position),
        "the last one stays"
    );
}
