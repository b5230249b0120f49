//! Moving everything from one engine to another.

use super::{
    webhooks::{step, unsent, webhook},
    *,
};
use crate::store::{
    group::{complete, deliveries_of},
    transfer::{Header, Part, Piece, Row, Taken, Transfer},
};

/// Those of the tenant and the key that are moved.
const LIMITS: Option<RateLimit> = Some(RateLimit {
    deliveries_per_second: 7,
    burst: 9,
});

/// Everything, through text and back.
async fn exported(store: &dyn Transfer) -> (Header, Vec<Row>) {
    let mut rows = Vec::new();
    for part in Part::ALL {
        let mut after = None;
        loop {
            let page = store.rows(part, after).await.unwrap();
            for row in &page.rows {
                rows.push(Row::read(&serde_json::to_vec(row).unwrap()).unwrap());
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    (store.header().await.unwrap(), rows)
}

/// Imports all; answers what became of each piece.
async fn import(store: &dyn Transfer, header: &Header, rows: Vec<Row>) -> Vec<Taken> {
    store.begin_import(header).await.unwrap();
    let mut pieces = Vec::new();
    for row in rows {
        match row {
            Row::Tenant(tenant) => pieces.push(Piece::Tenant(tenant)),
            Row::Key(key) => pieces.push(Piece::Key(key)),
            Row::Webhook(webhook) => pieces.push(Piece::Webhook(webhook)),
            Row::Audit(entry) => pieces.push(Piece::Audit(vec![entry])),
            Row::Receipt(receipt) => pieces.push(Piece::Receipts(vec![receipt])),
            Row::Minute(minute) => pieces.push(Piece::Minutes(vec![minute])),
            Row::Group(group) => pieces.push(Piece::Group(group)),
            Row::Device(device) => pieces.push(Piece::Device(device, Vec::new())),
            Row::Delivery(delivery) => match pieces.last_mut() {
                Some(Piece::Device(_, deliveries)) => deliveries.push(*delivery),
                other => panic!("a delivery behind {other:?}"),
            },
            Row::Export(_) | Row::End(_) => panic!("the engine writes neither the first line nor the last"),
        }
    }
    let mut taken = Vec::new();
    for piece in pieces {
        taken.push(store.import(piece).await.unwrap());
    }
    taken
}

fn later(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

fn told(status: &str, retry: Option<&str>) -> Arc<Told> {
    let fields = OutcomeFields {
        status: Some(status),
        retry,
        text: Some("in words"),
        ..OutcomeFields::default()
    };
    Arc::new(Told::new(fields).unwrap())
}

async fn tell(store: &dyn Store, id: EventId, told: Arc<Told>) -> Settled {
    let settle = Settle {
        device: key("box"),
        id,
        located: store.locate(TENANT, id).unwrap(),
        outcome: told.outcome(),
        at: START,
        epoch: Some(Epoch(9)),
        told: Some(told),
    };
    store.settle(vec![settle]).await.remove(0).unwrap()
}

/// A year in the life of a box, in short.
struct Scene {
    ids: Vec<EventId>,
    again: EventId,
    off: EventId,
    with_key: EventId,
    newer: EventId,
    of_gone: EventId,
    scheduled: EventId,
}

async fn live(store: &dyn Store) -> Scene {
    let tenant = Tenant {
        id: 3,
        name: "other".into(),
        domain: "other.example".into(),
        limits: LIMITS,
        removed_at: None,
    };
    store.put_tenant(tenant).await.unwrap();
    store.put_key([5; 32], api_key()).await.unwrap();
    let used = KeyUse {
        tenant: TenantId(3),
        id: "k1".into(),
        at: later(1),
    };
    store.note_key_uses(&[used]).await.unwrap();
    for tenant in [TENANT, TenantId(3)] {
        let begun = super::audit::entry("made", 1);
        let position = store.begin_audit(tenant, &begun).await.unwrap();
        store
            .end_audit(tenant, position, &begun, &super::audit::ended(&begun))
            .await
            .unwrap();
        store.begin_audit(tenant, &super::audit::entry("going on", 2)).await.unwrap();
    }
    let change = DeviceChange {
        user: Some(Some("family".parse().unwrap())),
        attributes: Some(serde_json::from_str(r#"{"model":"x","n":1.50}"#).unwrap()),
        cohort: Some(Cohort::Control),
        credentials: Some(vec![secret("one")]),
        replace: true,
    };
    store.put_device(&key("box"), change, true, START).await.unwrap();
    let polls = DeviceChange {
        cohort: Some(Cohort::Poll),
        ..DeviceChange::default()
    };
    store.put_device(&key("poller"), polls, true, START).await.unwrap();
    let report = Report {
        attributes: Some(serde_json::from_str(r#"{"fw":"7.1"}"#).unwrap()),
        location: Some(Some(Location::new(1.0, 2.0, None, None).unwrap())),
    };
    store.report(&key("box"), report, START).await.unwrap();
    let fast = FastChange {
        agent: FastAgent::of("app"),
        mechanism: FastMechanism::None,
        promote: false,
        invalidate: false,
        fresh: Some((FastMechanism::None, FastToken::new("token".into(), START, later(1_000)))),
        agents_max: 2,
    };
    store.change_fast_tokens(&key("box"), 1, fast).await.unwrap();
    let epoch = claim_at(store, "box", 1, 1).await.unwrap().epoch;

    // One of each: delivered, waiting with a key, put off, at the tail again, replaced and what replaced it.
    let delivered = push(store, event("box", "{}", START)).await.unwrap().id;
    assert!(matches!(
        end(store, "box", delivered, Outcome::Delivered, later(1)).await,
        Settled::Now { .. }
    ));
    let high = Event {
        urgency: Urgency::High,
        require: Require::Received,
        ..event("box", r#"{"n" : 1}"#, START)
    };
    let with_key = push_with(store, high, idempotency(1, 1)).await.unwrap().id;
    let again = push(store, event("box", r#"{"n":2}"#, START)).await.unwrap().id;
    let off = push(store, event("box", r#"{"n":3}"#, START)).await.unwrap().id;
    assert_eq!(tell(store, again, told("failed", Some("0"))).await, Settled::Again);
    assert_eq!(store.requeue_due(START, 10).await.unwrap(), 1);
    assert_eq!(tell(store, off, told("failed", Some("30"))).await, Settled::Again);
    let collapsing = Event {
        collapse_key: Some("todo".into()),
        ..event("box", r#"{"n":4}"#, START)
    };
    let older = push(store, collapsing.clone()).await.unwrap().id;
    let newer = push(store, collapsing).await.unwrap().id;
    store
        .release(&key("box"), epoch, later(2), crate::domain::Departure::Lost)
        .await
        .unwrap();

    add(store, "gone").await;
    let of_gone = push(store, event("gone", "{}", START)).await.unwrap().id;
    store.remove_device(&key("gone"), later(3)).await.unwrap();
    let for_later = Event {
        deliver_at: Some(later(40)),
        ..event("poller", r#"{"n":5}"#, START)
    };
    let scheduled = push(store, for_later).await.unwrap().id;
    let figures = [("avoided".to_owned(), 1.5), ("bytes".to_owned(), -2.0)];
    store.add_ledger_minute(START.0 / 60_000, "n1", &figures).await.unwrap();
    Scene {
        ids: vec![delivered, with_key, again, off, older, newer, of_gone, scheduled],
        again,
        off,
        with_key,
        newer,
        of_gone,
        scheduled,
    }
}

fn api_key() -> ApiKey {
    ApiKey {
        id: "k1".into(),
        name: "backend".into(),
        tenant: 3,
        scope: crate::domain::Scope::Push,
        created_at: START,
        limits: LIMITS,
        expires_at: Some(later(9_000)),
        retires_at: Some(later(8_000)),
    }
}

/// What a device would be written, without the name of the lane.
async fn written(store: &dyn Store) -> Vec<(EventId, u64, u64, u32, Event)> {
    let page = store.pending(&key("box"), Cursor::default(), 100).await.unwrap();
    let written = |event: &Arc<QueuedEvent>| (event.id, event.located.number, event.seq.0, event.attempt, event.event.clone());
    page.events.iter().map(written).collect()
}

/// Groups, one of them with a copy that was replaced, move with their deliveries.
pub async fn groups_move(source: impl Bench, target: impl Bench) {
    let store = source.store();
    add(&*store, "box").await;
    let mut groups = Vec::new();
    for number in [1, 2] {
        let group = super::groups::collapsing(super::groups::group(number, &["box"]));
        super::groups::post(&*store, group.clone()).await;
        groups.push(store.group(group.place).await.unwrap().unwrap());
    }
    let unfinished = super::groups::group(3, &["box", "new"]);
    store.begin_group(&unfinished, None).await.unwrap();
    receipts(&*store, 1).await;
    let (header, rows) = exported(&*source.transfer()).await;
    import(&*target.transfer(), &header, rows).await;
    target.transfer().finish_import(&header.id).await.unwrap();
    let moved = target.store();
    for group in &groups {
        assert_eq!(moved.group(group.place).await.unwrap().as_ref(), Some(group));
        assert_eq!(moved.group_id(group.place), store.group_id(group.place));
        let (found, expected) = (
            deliveries_of(&*moved, group).await.unwrap(),
            deliveries_of(&*store, group).await.unwrap(),
        );
        assert_eq!(
            (found[0].id, found[0].group, found[0].replaced_by),
            (expected[0].id, expected[0].group, expected[0].replaced_by)
        );
        assert_eq!(
            (found[0].state, &found[0].collapse_key),
            (expected[0].state, &expected[0].collapse_key)
        );
    }
    assert_eq!(
        moved.receipts(TENANT, 0, 10).await.unwrap(),
        store.receipts(TENANT, 0, 10).await.unwrap()
    );
    assert_eq!(moved.unfinished_groups(later(1), 10).await.unwrap(), [unfinished.place]);
    complete(&*moved, unfinished.place, later(1)).await.unwrap();
    assert_eq!(waiting(&*moved, "box").await.len(), 2);
    // A copy that was moved is replaced as it would have been.
    super::groups::post(&*moved, super::groups::collapsing(super::groups::group(4, &["box"]))).await;
    assert_eq!(waiting(&*moved, "box").await.len(), 2);
}

pub async fn everything_moves(source: impl Bench, target: impl Bench) {
    let store = source.store();
    let scene = live(&*store).await;
    let (header, rows) = exported(&*source.transfer()).await;
    let count = |kind: fn(&Row) -> bool| rows.iter().filter(|row| kind(row)).count();
    assert_eq!(count(|row| matches!(row, Row::Device(_))), 3);
    assert_eq!(count(|row| matches!(row, Row::Delivery(_))), 8);
    let before = target.store().generation();
    let taken = import(&*target.transfer(), &header, rows).await;
    assert!(taken.contains(&Taken::Stored));
    target.transfer().finish_import(&header.id).await.unwrap();

    let target = target.reopen().await;
    let moved = target.store();
    assert!(![before, store.generation()].contains(&moved.generation()));
    for id in &scene.ids {
        let expected = store.delivery(TENANT, *id).await.unwrap().unwrap();
        let found = moved
            .delivery(TENANT, *id)
            .await
            .unwrap()
            .expect("an id goes on naming its delivery");
        assert_ne!(found.lane, expected.lane, "numbers count in new lanes");
        // Of one that waits again, the pause is the same; that it was put off is told either way.
        assert_eq!(
            Delivery {
                lane: expected.lane,
                ..found
            },
            expected
        );
    }
    for device in ["box", "poller", "gone"] {
        assert_eq!(moved.device(&key(device)).await.unwrap(), store.device(&key(device)).await.unwrap());
    }
    let listed = store.devices(TENANT, None, 10).await.unwrap();
    assert_eq!(moved.devices(TENANT, None, 10).await.unwrap(), listed);
    assert_eq!(
        moved.reported(TENANT, &listed).await.unwrap(),
        store.reported(TENANT, &listed).await.unwrap()
    );
    let tokens = store.fast_tokens(&key("box"), 1).await.unwrap();
    assert!(!tokens.is_empty());
    assert_eq!(moved.fast_tokens(&key("box"), 1).await.unwrap(), tokens);
    assert_eq!(moved.seat(&key("box")).await.unwrap(), store.seat(&key("box")).await.unwrap());
    assert_eq!(written(&*moved).await, written(&*store).await);
    assert_eq!(
        moved.receipts(TENANT, 0, 100).await.unwrap(),
        store.receipts(TENANT, 0, 100).await.unwrap()
    );
    let minute = START.0 / 60_000;
    assert_eq!(
        moved.ledger(minute, minute + 1).await.unwrap(),
        store.ledger(minute, minute + 1).await.unwrap()
    );
    for tenant in [TENANT, TenantId(3)] {
        let audit = store.audit(tenant, 0, u64::MAX, 10).await.unwrap();
        assert_eq!(audit.len(), 2);
        assert_eq!(moved.audit(tenant, 0, u64::MAX, 10).await.unwrap(), audit);
    }
    assert_eq!(moved.key(&[5; 32]).as_deref(), Some(&api_key()));
    let uses = moved.key_uses(TenantId(3)).await.unwrap();
    assert_eq!(uses.into_iter().collect::<Vec<_>>(), [("k1".into(), later(1))]);
    let tenant = moved.tenant_at("other.example").unwrap();
    assert_eq!((tenant.id, tenant.limits), (3, LIMITS));
    let counts = |store: &dyn Store| {
        let stats = store.stats();
        (stats.queued, stats.devices, stats.devices_polling, stats.devices_control)
    };
    assert_eq!(counts(&*moved), counts(&*store));
    assert_eq!(counts(&*moved), (Some(5), 2, 1, 1));

    what_was_moved_goes_on(&*store, &*moved, &scene).await;
    // And ends as it would have: what expired, what was kept long enough.
    target.clock().advance(Duration::from_secs(91 * 86_400));
    let (expired, dropped) = sweep(&*moved, later(91 * 86_400)).await;
    assert!(expired >= 1 && dropped >= 6, "{expired} {dropped}");
    assert_eq!(sweep(&*moved, later(92 * 86_400)).await.0, 0);
    assert_eq!(moved.stats().queued, Some(0));
    assert_eq!(moved.device(&key("gone")).await.unwrap(), Registered::Unknown);
}

async fn what_was_moved_goes_on(store: &dyn Store, moved: &dyn Store, scene: &Scene) {
    let high = Event {
        urgency: Urgency::High,
        require: Require::Received,
        ..event("box", r#"{"n" : 1}"#, START)
    };
    let repeat = push_with(moved, high.clone(), idempotency(1, 1)).await.unwrap();
    assert_eq!((repeat.id, repeat.kind), (scene.with_key, EnqueuedKind::Repeat));
    let other = push_with(moved, high, idempotency(1, 2)).await;
    assert!(matches!(other, Err(StoreError::KeyReused(id)) if id == scene.with_key));
    // What the old store gives out from here on, the new one never does.
    let (here, there) = (
        push(moved, event("box", "{}", START)).await.unwrap().id,
        push(store, event("box", "{}", START)).await.unwrap().id,
    );
    assert_ne!(here, there);
    let seq = |delivery: Option<Delivery>| delivery.unwrap().seq;
    assert!(seq(moved.delivery(TENANT, here).await.unwrap()) >= seq(store.delivery(TENANT, there).await.unwrap()));
    assert_eq!(moved.delivery(TENANT, there).await.unwrap(), None);
    for store in [store, moved] {
        add(store, "new").await;
    }
    let ids = (
        push(moved, event("new", "{}", START)).await.unwrap().id,
        push(store, event("new", "{}", START)).await.unwrap().id,
    );
    assert_ne!(ids.0, ids.1);

    assert!(matches!(
        end(moved, "box", here, Outcome::Cancelled, later(4)).await,
        Settled::Now { .. }
    ));
    let collapsing = Event {
        collapse_key: Some("todo".into()),
        ..event("box", "{}", START)
    };
    assert_eq!(push(moved, collapsing).await.unwrap().replaced, [scene.newer]);
    assert_eq!(moved.requeue_due(later(29), 10).await.unwrap(), 0);
    assert_eq!(moved.requeue_due(later(30), 10).await.unwrap(), 1);
    // What was scheduled is scheduled.
    assert_eq!(state(moved, scene.scheduled).await, Some(DeliveryState::Scheduled));
    assert!(waiting(moved, "poller").await.is_empty());
    assert_eq!(moved.requeue_due(later(40), 10).await.unwrap(), 1);
    assert_eq!(waiting(moved, "poller").await, [scene.scheduled]);
    let attempts: Vec<(EventId, u32)> = written(moved).await.iter().map(|(id, _, _, attempt, _)| (*id, *attempt)).collect();
    assert!(
        attempts.contains(&(scene.off, 2)) && attempts.contains(&(scene.again, 2)),
        "{attempts:?}"
    );
    for id in [scene.again, scene.with_key] {
        assert!(matches!(
            end(moved, "box", id, Outcome::Delivered, later(31)).await,
            Settled::Now { .. }
        ));
    }
    let exported = store.receipts(TENANT, 0, 100).await.unwrap().len();
    let receipts = receipts(moved, exported + 4).await;
    assert!(receipts.is_sorted_by(|one, other| one.position < other.position));
    assert_eq!(receipts.last().map(|last| last.event.clone()), Some(scene.with_key.to_string()));
    let before = store.seat(&key("box")).await.unwrap().last_epoch;
    assert!(claim_at(moved, "box", 2, 1).await.unwrap().epoch > before);
    // A device that returns is another one.
    assert!(state(moved, scene.of_gone).await.is_some());
    let (again, created) = moved
        .put_device(&key("gone"), DeviceChange::default(), true, later(32))
        .await
        .unwrap();
    assert!(created && again.credential_generation == 1);
    moved.remove_device(&key("gone"), later(33)).await.unwrap();
}

pub async fn webhooks_move_with_their_secrets_and_what_waits(source: impl Bench, target: impl Bench) {
    let from = source.webhooks();
    let (one, two) = (webhook("wh_1", 0), webhook("wh_2", 3));
    for webhook in [&one, &two] {
        assert!(from.change_webhook(&webhook.id, None, Some(webhook.clone())).await.unwrap());
    }
    let fence = from.lease_webhook("wh_1", "n1", Duration::from_secs(60)).await.unwrap().unwrap();
    let done = step(
        700,
        vec![unsent(3, "box", 2), unsent(9, "box", 0)],
        vec![],
        vec![unsent(1, "tv", 7)],
    );
    from.step_webhook("wh_1", fence, Duration::ZERO, &done, 10).await.unwrap();
    let (header, rows) = exported(&*source.transfer()).await;
    let taken = import(&*target.transfer(), &header, rows).await;
    assert!(taken.iter().filter(|taken| **taken == Taken::Stored).count() >= 2, "{taken:?}");
    let to = target.webhooks();
    assert_eq!(to.webhooks(None).await.unwrap(), [one, two]);
    let work = to.webhook_work("wh_1").await.unwrap();
    assert_eq!((work.progress, work.waiting, work.dead_letters), (done.progress, done.waiting, 0));
    // Again: what has happened since stays.
    let fence = to.lease_webhook("wh_1", "n1", Duration::from_secs(60)).await.unwrap().unwrap();
    let later = step(800, vec![], vec![3, 9], vec![]);
    to.step_webhook("wh_1", fence, Duration::from_secs(60), &later, 10).await.unwrap();
    let (_, rows) = exported(&*source.transfer()).await;
    let taken = import(&*target.transfer(), &header, rows).await;
    assert!(taken.iter().all(|taken| *taken == Taken::Present), "{taken:?}");
    let work = to.webhook_work("wh_1").await.unwrap();
    assert_eq!((work.progress.cursor, work.waiting.len()), (Some(800), 0));
}

pub async fn an_import_goes_on_where_it_was_cut(source: impl Bench, target: impl Bench) {
    let scene = live(&*source.store()).await;
    let (header, rows) = exported(&*source.transfer()).await;
    import(&*target.transfer(), &header, rows).await;
    let moved = target.store();
    let generation = moved.generation();
    end(&*moved, "box", scene.with_key, Outcome::Delivered, later(1)).await;
    let new = push(&*moved, event("box", "{}", START)).await.unwrap().id;

    // All of it once more: what has changed meanwhile stays as it is.
    let (again, rows) = exported(&*source.transfer()).await;
    assert_ne!(again.id, header.id);
    let taken = import(&*target.transfer(), &header, rows).await;
    assert!(taken.iter().all(|taken| *taken == Taken::Present), "{taken:?}");
    assert_eq!(moved.generation(), generation);
    assert_eq!(state(&*moved, scene.with_key).await, Some(DeliveryState::Delivered));
    assert!(waiting(&*moved, "box").await.contains(&new));
    assert_eq!(moved.stats().queued, Some(5));

    let other = target.transfer().begin_import(&again).await;
    assert!(matches!(other, Err(StoreError::Conflict(_))), "another export: {other:?}");
    target.transfer().finish_import(&header.id).await.unwrap();
    let finished = target.transfer().begin_import(&header).await;
    assert!(matches!(finished, Err(StoreError::Conflict(_))), "{finished:?}");
}

pub async fn an_import_needs_a_new_store(source: impl Bench, target: impl Bench) {
    live(&*source.store()).await;
    let (header, _) = exported(&*source.transfer()).await;
    let store = target.store();
    add(&*store, "box").await;
    let id = push(&*store, event("box", "{}", START)).await.unwrap().id;
    let generation = store.generation();
    store.remove_device(&key("box"), START).await.unwrap();
    let refused = target.transfer().begin_import(&header).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    assert_eq!(store.generation(), generation);
    assert!(store.locate(TENANT, id).is_some(), "its own ids stay");
}

/// Runs the suites on a pair of engines: two expressions that make a [`Bench`].
macro_rules! run_transfer {
    ($source:expr, $target:expr) => {
        $crate::store::contract::run_transfer!($source, $target;
            everything_moves,
            groups_move,
            webhooks_move_with_their_secrets_and_what_waits,
            an_import_goes_on_where_it_was_cut,
            an_import_needs_a_new_store,
        );
    };
    ($source:expr, $target:expr; $($suite:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $suite() {
                $crate::store::contract::$suite($source, $target).await;
            }
        )*
    };
}
pub(crate) use run_transfer;
