//! Groups: one event to several devices.

use super::*;
use crate::{
    domain::GroupPlace,
    store::{
        Begun, Copied, Group, GroupRecord, Member,
        group::{complete, deliveries_of},
    },
};

const TARGET: [u8; 6] = [1, 2, 3, 4, 5, 6];

/// A group of 60 s for devices of [`TENANT`].
pub(super) fn group(number: u64, devices: &[&str]) -> Group {
    let member = |device: &&str| Member {
        device: device.parse().unwrap(),
        copy: Copied::Not,
    };
    Group {
        place: GroupPlace {
            tenant: TENANT,
            bucket: 77,
            number,
        },
        record: GroupRecord {
            target: TARGET,
            user: None,
            accepted_at: START,
            deliver_at: None,
            ttl_ms: 60_000,
            urgency: Urgency::Normal,
            require: Require::Acknowledged,
            collapse_key: None,
            idempotency: None,
            durability: None,
            members: devices.iter().map(member).collect(),
            json: Some(r#"{"n":1}"#.into()),
        },
    }
}

fn with_key(group: Group, key: u8, body: u8) -> Group {
    let record = GroupRecord {
        idempotency: Some(([key; 16], [body; 16])),
        ..group.record
    };
    Group { record, ..group }
}

/// Takes a group in, as the ingress does. Answers the ids of its copies.
pub(super) async fn post(store: &dyn Store, mut group: Group) -> Vec<EventId> {
    assert_eq!(store.begin_group(&group, None).await.unwrap(), Begun::New);
    let answers = store.enqueue(group.copies()).await;
    let copies = answers.iter().flatten().map(|enqueued| enqueued.id).collect();
    group.copied(answers).unwrap();
    store.finish_group(&group, START).await.unwrap();
    copies
}

/// The same with a collapse key.
pub(super) fn collapsing(group: Group) -> Group {
    let record = GroupRecord {
        collapse_key: Some("todo".into()),
        ..group.record
    };
    Group { record, ..group }
}

/// Groups that are unfinished nine seconds after the start.
async fn unfinished(store: &dyn Store) -> Vec<GroupPlace> {
    store.unfinished_groups(START.plus(Duration::from_secs(9)), 10).await.unwrap()
}

async fn view(store: &dyn Store, id: EventId) -> Delivery {
    store.delivery(TENANT, id).await.unwrap().unwrap()
}

pub async fn a_group_has_one_copy_in_each_queue(mut bench: impl Bench) {
    let store = bench.store();
    for device in ["a", "b"] {
        add(&*store, device).await;
    }
    let epoch = claim(&*store, "b", 1).await.unwrap().epoch;
    let new = group(1 << 63, &["a", "b"]);
    let id = store.group_id(new.place);
    assert_eq!(store.locate_group(TENANT, id), Some(new.place));
    assert_eq!(store.locate_group(TenantId(5), id), None);
    assert_eq!(store.locate(TENANT, id), None, "no queue has it");
    assert_eq!(store.begin_group(&new, None).await.unwrap(), Begun::New);
    assert_eq!(store.group(new.place).await.unwrap().as_ref(), Some(&new));
    assert_eq!(store.unfinished_groups(START, 10).await.unwrap(), []);
    assert_eq!(
        store.unfinished_groups(START.plus(Duration::from_millis(1)), 10).await.unwrap(),
        [new.place]
    );
    let begun = deliveries_of(&*store, &new).await.unwrap();
    assert!(
        begun
            .iter()
            .all(|delivery| delivery.state == DeliveryState::Accepted && delivery.group == Some(id))
    );

    let copies = new.copies();
    let first = store.enqueue(copies.clone()).await;
    let mut ids = Vec::new();
    for enqueued in first.iter().flatten() {
        assert_eq!((enqueued.kind, enqueued.state), (EnqueuedKind::New, DeliveryState::Queued));
        ids.push(enqueued.id);
    }
    // Whoever makes them again makes no other.
    for (enqueued, id) in store.enqueue(copies).await.iter().flatten().zip(&ids) {
        assert_eq!((enqueued.kind, enqueued.id), (EnqueuedKind::Repeat, *id));
    }
    let arrival = bench.arrivals().recv().await.unwrap();
    assert_eq!(
        (arrival.epoch, arrival.event.id, &*arrival.event.event.json.0),
        (epoch, ids[1], r#"{"n":1}"#)
    );
    let mut finished = new.clone();
    // A replica that lags for a moment lowers the level of one of them.
    let levels: Vec<Durability> = first.iter().flatten().map(|enqueued| enqueued.durability).collect();
    let weakest = levels.iter().copied().find(|level| *level != bench.durability());
    let made = finished.copied(first).unwrap();
    assert_eq!(
        (made.states.len(), made.durability, made.failed.len()),
        (2, Some(weakest.unwrap_or(bench.durability())), 0)
    );
    store.finish_group(&finished, START).await.unwrap();
    store.finish_group(&new, START).await.unwrap();
    assert_eq!(unfinished(&*store).await, []);

    let bench = bench.reopen().await;
    let store = bench.store();
    let kept = store.group(new.place).await.unwrap().unwrap();
    assert_eq!(kept, finished, "the first end stands");
    end(&*store, "b", ids[1], Outcome::Delivered, START).await;
    let deliveries = deliveries_of(&*store, &kept).await.unwrap();
    let states: Vec<_> = deliveries
        .iter()
        .map(|delivery| (delivery.device.as_str(), delivery.id, delivery.state))
        .collect();
    assert_eq!(
        states,
        [("a", ids[0], DeliveryState::Queued), ("b", ids[1], DeliveryState::Delivered)]
    );
    assert!(deliveries.iter().all(|delivery| delivery.group == Some(id)));
    assert_eq!(store.deliveries(&key("a"), None, 10).await.unwrap()[0].group, Some(id));
    let receipt = &receipts(&*store, 1).await[0];
    assert_eq!((receipt.group, &receipt.event), (Some(id), &ids[1].to_string()));

    // The record goes a day after the last of its deliveries could have waited.
    bench.clock().advance(Duration::from_secs(60 + 86_399));
    assert!(store.group(new.place).await.unwrap().is_some());
    bench.clock().advance(Duration::from_secs(1));
    assert_eq!(store.group(new.place).await.unwrap(), None);
    sweep(&*store, bench.clock().now()).await;
    assert_eq!(store.group(new.place).await.unwrap(), None);
}

pub async fn a_group_left_unfinished_is_completed_once(bench: impl Bench) {
    let store = bench.store();
    for device in ["a", "b", "c"] {
        add(&*store, device).await;
    }
    let new = group(7, &["a", "b", "c", "gone"]);
    store.begin_group(&new, None).await.unwrap();
    // Its node makes two of four, one of which ends, and dies.
    let two: Vec<NewEvent> = new.copies().into_iter().take(2).collect();
    let made: Vec<EventId> = store.enqueue(two).await.into_iter().flatten().map(|enqueued| enqueued.id).collect();
    end(&*store, "a", made[0], Outcome::Delivered, START).await;
    drop(store);
    let bench = bench.reopen().await;
    let store = bench.store();
    // So much later that the idempotency key of the copy that ended is free.
    let now = START.plus(Duration::from_secs(7_200));
    bench.clock().set(now);
    sweep(&*store, now).await;
    assert_eq!(store.unfinished_groups(now, 10).await.unwrap(), [new.place]);
    let completed = complete(&*store, new.place, now).await.unwrap().unwrap();
    assert_eq!(completed.failed, [Reason::DeviceRemoved], "there is no such device");
    assert!(complete(&*store, new.place, now).await.unwrap().is_none());
    let kept = store.group(new.place).await.unwrap().unwrap();
    let copies: Vec<Copied> = kept.record.members.iter().map(|member| member.copy).collect();
    let [Copied::To(a), Copied::To(b), Copied::To(c), Copied::Failed(Reason::DeviceRemoved)] = copies[..] else {
        panic!("{copies:?}")
    };
    assert_eq!([a, b], made[..]);
    assert_eq!(view(&*store, a).await.state, DeliveryState::Delivered);
    assert_eq!(view(&*store, c).await.device.as_str(), "c");
    for device in ["a", "b", "c"] {
        assert_eq!(store.deliveries(&key(device), None, 10).await.unwrap().len(), 1, "{device}");
    }
    let failed = deliveries_of(&*store, &kept).await.unwrap().pop().unwrap();
    assert_eq!((failed.state, failed.reason), (DeliveryState::Failed, Some(Reason::DeviceRemoved)));
    let all = receipts(&*store, 3).await;
    let of_gone = all.iter().find(|receipt| receipt.device == "gone").unwrap();
    let id = store.group_id(new.place).to_string();
    assert_eq!((&of_gone.event, of_gone.state, of_gone.group), (&id, DeliveryState::Failed, None));
}

pub async fn an_idempotency_key_stands_for_one_group(bench: impl Bench) {
    let store = bench.store();
    add(&*store, "a").await;
    let first = with_key(group(1, &["a"]), 9, 1);
    post(&*store, first.clone()).await;
    let kept = |body| Begun::Kept {
        place: first.place,
        body: [body; 16],
    };
    assert_eq!(store.begin_group(&with_key(group(2, &["a"]), 9, 1), None).await.unwrap(), kept(1));
    assert_eq!(store.begin_group(&with_key(group(2, &["a"]), 9, 2), None).await.unwrap(), kept(1));
    assert_eq!(store.group(group(2, &["a"]).place).await.unwrap(), None, "nothing was stored");
    assert_eq!(
        store.group_of_key(first.place, &[9; 16]).await.unwrap(),
        Some((first.place, [1; 16]))
    );
    assert_eq!(store.group_of_key(first.place, &[8; 16]).await.unwrap(), None);
    let foreign = GroupPlace {
        tenant: TenantId(5),
        ..first.place
    };
    assert_eq!(store.group_of_key(foreign, &[9; 16]).await.unwrap(), None);
    // Whoever knows that it has ended takes it over.
    let second = with_key(group(2, &["a"]), 9, 2);
    assert_eq!(store.begin_group(&second, Some(first.place.number)).await.unwrap(), Begun::New);
    assert_eq!(
        store.group_of_key(first.place, &[9; 16]).await.unwrap(),
        Some((second.place, [2; 16]))
    );
    assert!(store.group(first.place).await.unwrap().is_some());
    // One that is taken back leaves neither.
    store.drop_group(&second).await.unwrap();
    assert_eq!(store.group(second.place).await.unwrap(), None);
    assert_eq!(store.group_of_key(first.place, &[9; 16]).await.unwrap(), None);
    assert_eq!(unfinished(&*store).await, []);
    store.drop_group(&first).await.unwrap();
    assert!(store.group(first.place).await.unwrap().is_some(), "one that is finished stays");
    // A place has one record; the same record twice is the same step.
    assert_eq!(store.begin_group(&group(5, &["a"]), None).await.unwrap(), Begun::New);
    assert_eq!(store.begin_group(&group(5, &["a"]), None).await.unwrap(), Begun::New);
    let again = store.begin_group(&group(1, &["a"]), None).await;
    assert!(matches!(again, Err(StoreError::Conflict(_))), "{again:?}");
}

pub async fn a_copy_is_replaced_by_a_copy_of_its_target_alone(bench: impl Bench) {
    let store = bench.store();
    for device in ["a", "b"] {
        add(&*store, device).await;
    }
    let alone = Event {
        collapse_key: Some("todo".into()),
        ..event("a", "{}", START)
    };
    let alone_id = push(&*store, alone.clone()).await.unwrap().id;
    let old = collapsing(group(1, &["a", "b"]));
    let olds = post(&*store, old.clone()).await;
    let mut other = collapsing(group(2, &["a"]));
    other.record.target = [9; 6];
    let others = post(&*store, other).await;
    assert_eq!(waiting(&*store, "a").await, [alone_id, olds[0], others[0]]);
    assert_eq!(
        view(&*store, olds[0]).await.collapse_key.as_deref(),
        Some("todo"),
        "as it was given"
    );
    let new = collapsing(group(3, &["a"]));
    let news = post(&*store, new.clone()).await;
    assert_eq!(waiting(&*store, "a").await, [alone_id, others[0], news[0]]);
    let replaced = view(&*store, olds[0]).await;
    let by = store.group_id(new.place);
    assert_eq!((replaced.state, replaced.replaced_by), (DeliveryState::Replaced, Some(by)));
    assert_eq!(
        view(&*store, olds[1]).await.state,
        DeliveryState::Queued,
        "the new one has no such device"
    );
    assert_eq!(push(&*store, alone).await.unwrap().replaced, [alone_id]);
    let all = receipts(&*store, 2).await;
    assert_eq!(
        (all[0].replaced_by, all[0].group, &all[0].event),
        (Some(by), Some(store.group_id(old.place)), &olds[0].to_string())
    );
    assert!(all[1].group.is_none() && all[1].replaced_by.is_some());
    // What an acknowledgement says afterwards finds it all the same.
    end(&*store, "a", olds[0], Outcome::Delivered, START).await;
    assert!(view(&*store, olds[0]).await.late_ack);
    assert_eq!(view(&*store, olds[0]).await.replaced_by, Some(by));
}

pub async fn a_copy_that_no_queue_takes_is_told_of(bench: impl Bench) {
    let store = bench.store();
    for device in ["free", "full"] {
        add(&*store, device).await;
    }
    for _ in 0..limits().queue_max_events {
        push(&*store, event("full", "{}", START)).await.unwrap();
    }
    let new = group(1, &["free", "full"]);
    post(&*store, new.clone()).await;
    let kept = store.group(new.place).await.unwrap().unwrap();
    let deliveries = deliveries_of(&*store, &kept).await.unwrap();
    let ends: Vec<_> = deliveries.iter().map(|delivery| (delivery.state, delivery.reason)).collect();
    assert_eq!(
        ends,
        [(DeliveryState::Queued, None), (DeliveryState::Failed, Some(Reason::QueueFull))]
    );
    let receipt = &receipts(&*store, 1).await[0];
    let id = store.group_id(new.place).to_string();
    assert_eq!(
        (&*receipt.device, receipt.state, receipt.reason, receipt.at),
        ("full", DeliveryState::Failed, Some(Reason::QueueFull), START)
    );
    assert_eq!((&receipt.event, receipt.group), (&id, None), "it has no id of its own");
}

pub async fn a_copy_is_put_off_scheduled_and_expires_as_others_do(bench: impl Bench) {
    let store = bench.store();
    for device in ["a", "b"] {
        add(&*store, device).await;
    }
    let later = START.plus(Duration::from_secs(30));
    let mut new = group(1, &["a", "b"]);
    new.record.deliver_at = Some(later);
    let ids = post(&*store, new.clone()).await;
    let id = store.group_id(new.place);
    for copy in &ids {
        assert_eq!(
            (view(&*store, *copy).await.state, view(&*store, *copy).await.group),
            (DeliveryState::Scheduled, Some(id))
        );
    }
    assert_eq!(store.requeue_due(later, 10).await.unwrap(), 2);
    let again = Outcome::Again {
        after: Duration::ZERO,
        at_next_session: false,
    };
    assert_eq!(end(&*store, "a", ids[0], again, later).await, Settled::Again);
    store.requeue_due(later, 10).await.unwrap();
    let put_off = view(&*store, ids[0]).await;
    assert_eq!(
        (put_off.attempt, put_off.group, put_off.state),
        (2, Some(id), DeliveryState::Queued)
    );
    bench.clock().set(START.plus(Duration::from_secs(91)));
    assert_eq!(sweep(&*store, bench.clock().now()).await.0, 2);
    let all = receipts(&*store, 3).await;
    assert!(all.iter().all(|receipt| receipt.group == Some(id)), "{all:?}");
    assert_eq!(all.iter().map(|receipt| receipt.attempt).max(), Some(2));
}
