//! Whether what backends were promised, what devices did, and what the store says agree.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use unpoll::{
    domain::{CorrectedClock, Limits, SystemClock, TenantId},
    store::{
        Receipt, Records,
        redis::{Config, RedisMetrics, RedisStore},
    },
};

use crate::{
    crowd::{Heard, PREFIX},
    posts::{Accepted, Anywhere, Kind, Posted},
    stage::{LATE, Redis, Stage},
    support::{block_on, wait_for},
};

const NOT_ENDED: [&str; 4] = ["accepted", "scheduled", "queued", "dispatched"];
/// Who asks for the states of events at once.
const ASKERS: usize = 6;

/// Events that wait, by the queues themselves, and by the counters of all buckets.
pub fn counted(redis: &impl Redis) -> (u64, u64) {
    let (mut events, mut counters) = (0, 0);
    for url in redis.primaries() {
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        let queues = keys(&mut connection, "unpoll:q{*");
        for some in queues.chunks(200) {
            let mut pipeline = redis::pipe();
            for key in some {
                pipeline.cmd("HKEYS").arg(key);
            }
            let found: Vec<Vec<Vec<u8>>> = pipeline.query(&mut connection).unwrap();
            let is_event = |field: &&Vec<u8>| field.len() == 7 && matches!(field[0], b'f' | b'r');
            events += found.iter().flatten().filter(is_event).count() as u64;
        }
        for key in keys(&mut connection, "unpoll:n{*") {
            let queued: Option<i64> = redis::cmd("GET").arg(key).query(&mut connection).unwrap();
            counters += u64::try_from(queued.unwrap_or(0)).expect("nothing waits less than nothing");
        }
    }
    (events, counters)
}

fn keys(connection: &mut redis::Connection, pattern: &str) -> Vec<Vec<u8>> {
    let (mut cursor, mut all) = (0_u64, BTreeSet::new());
    loop {
        let mut cmd = redis::cmd("SCAN");
        cmd.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1_000);
        let (next, found): (u64, Vec<Vec<u8>>) = cmd.query(connection).unwrap();
        all.extend(found);
        if next == 0 {
            return all.into_iter().collect();
        }
        cursor = next;
    }
}

/// Waits until the queues, the counters of the store and the gauge of every node say that so many events wait.
#[track_caller]
pub fn wait_for_queued<R: Redis>(stage: &Stage<R>, expected: u64) {
    let until = Instant::now() + LATE;
    loop {
        let gauges: Vec<Option<f64>> = stage.nodes.iter().map(|node| node.metric("unpoll_queue_depth")).collect();
        let counted = counted(&stage.redis);
        if counted == (expected, expected) && gauges.iter().all(|gauge| *gauge == Some(expected as f64)) {
            return;
        }
        assert!(
            Instant::now() < until,
            "{expected} events should wait; in queues and by counters: {counted:?}; by gauges: {gauges:?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// All receipts of the default tenant, read by a node that joins the others for it.
pub fn receipts(url: &str) -> Vec<Receipt> {
    block_on(async {
        let config = Config {
            url: url.to_owned(),
            ..Config::default()
        };
        let metrics = RedisMetrics::register(&prometheus::Registry::new()).unwrap();
        let clock = CorrectedClock::over(SystemClock::shared());
        let opened = RedisStore::open(config, Limits::default(), clock, "localhost", None, metrics)
            .await
            .unwrap();
        let mut all: Vec<Receipt> = Vec::new();
        loop {
            let after = all.last().map_or(0, |last| last.position);
            let page = opened.store.receipts(TenantId(0), after, 1_000).await.unwrap();
            if page.is_empty() {
                break;
            }
            all.extend(page);
        }
        opened.store.close().await;
        all
    })
}

/// How each event ended, as `GET /v1/events/{id}` says.
fn states<R>(stage: &Stage<R>, accepted: &[Accepted]) -> HashMap<String, String> {
    let share = accepted.len().div_ceil(ASKERS).max(1);
    std::thread::scope(|scope| {
        let askers: Vec<_> = accepted
            .chunks(share)
            .enumerate()
            .map(|(number, some)| {
                let mut backend = Anywhere::new(stage, number);
                scope.spawn(move || -> Vec<(String, String)> {
                    let ask = |event: &Accepted| (event.id.clone(), backend.state(&event.id));
                    some.iter().map(ask).collect()
                })
            })
            .collect();
        askers.into_iter().flat_map(|asker| asker.join().unwrap()).collect()
    })
}

/// Every accepted event has ended, once, as it may, by API, receipts and devices alike; no event that nobody was promised has a receipt;
/// each lane came in order. Answers how many ended how.
pub fn check<R: Redis>(stage: &Stage<R>, url: &str, posted: &Posted, heard: &Heard) -> BTreeMap<String, usize> {
    let accepted: HashMap<&str, &Accepted> = posted.accepted.iter().map(|event| (event.id.as_str(), event)).collect();
    assert_eq!(accepted.len(), posted.accepted.len(), "two keys got one id");
    let states = states(stage, &posted.accepted);
    let mut totals = BTreeMap::new();
    let wrong: Vec<_> = posted
        .accepted
        .iter()
        .map(|event| (&states[&event.id], event))
        .filter(|(state, event)| !event.kind.ends().contains(&state.as_str()))
        .map(|(state, event)| format!("{state}: {event:?}, accepted by node {} at {}", event.node, event.at))
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {} did not end as they must: {wrong:#?}",
        wrong.len(),
        posted.accepted.len()
    );
    for event in &posted.accepted {
        let state = &states[&event.id];
        *totals.entry(state.clone()).or_insert(0) += 1;
    }
    assert_eq!(totals.values().sum::<usize>(), posted.accepted.len());
    check_receipts(url, &accepted, &states, &totals);
    check_devices(&accepted, &states, heard);
    totals
}

fn check_receipts(url: &str, accepted: &HashMap<&str, &Accepted>, states: &HashMap<String, String>, totals: &BTreeMap<String, usize>) {
    // Each node moves what it wrote into the log in its own time.
    let ends_of = |receipts: &[Receipt]| {
        let mut ends: HashMap<String, Vec<&'static str>> = HashMap::new();
        for receipt in receipts.iter().filter(|receipt| !NOT_ENDED.contains(&receipt.state.as_str())) {
            ends.entry(receipt.event.clone()).or_default().push(receipt.state.as_str());
        }
        ends
    };
    let (receipts, ends) = wait_for("the receipts of all events", LATE, || {
        let receipts = receipts(url);
        let ends = ends_of(&receipts);
        accepted.keys().all(|id| ends.contains_key(*id)).then_some((receipts, ends))
    });
    let mut last = 0;
    for receipt in &receipts {
        assert!(receipt.position > last, "positions rise");
        last = receipt.position;
    }
    let unlisted: Vec<_> = ends.keys().filter(|id| !accepted.contains_key(id.as_str())).collect();
    assert!(unlisted.is_empty(), "receipts of events that nobody was promised: {unlisted:?}");
    let mut by_receipts = BTreeMap::new();
    for (id, ends) in &ends {
        // The one move that is allowed.
        let end = match ends.as_slice() {
            [end] => *end,
            ["delivered", "processed"] => "processed",
            others => panic!("{id} ended {} times: {others:?}", others.len()),
        };
        assert_eq!(end, states[id], "{id}: its receipt says otherwise than its state");
        *by_receipts.entry(end.to_owned()).or_insert(0) += 1;
    }
    assert_eq!(&by_receipts, totals);
}

fn check_devices(accepted: &HashMap<&str, &Accepted>, states: &HashMap<String, String>, heard: &Heard) {
    // What an old primary was told that is none any more may come from there, late; nobody was promised any of it.
    let passed: Vec<_> = heard.passed.iter().filter(|(_, id)| accepted.contains_key(id.as_str())).collect();
    assert!(
        passed.is_empty(),
        "accepted, and dropped unseen because their lanes had gone on: {passed:?}"
    );
    let mut lanes: HashMap<(u64, &str), u64> = HashMap::new();
    let mut posters: HashMap<(u64, &str, usize), u64> = HashMap::new();
    let mut attempts: HashMap<&str, u32> = HashMap::new();
    for applied in &heard.applied {
        let last = lanes.insert((applied.device, &applied.lane), applied.seq);
        assert!(
            last.is_none_or(|last| last < applied.seq),
            "out of order: {applied:?} after {last:?}"
        );
        let before = attempts.insert(&applied.id, applied.attempt);
        // An event of which nobody heard that it was accepted was stored all the same, perhaps where it was lost again.
        let Some(event) = accepted.get(applied.id.as_str()) else { continue };
        // One that its device wants again is put at the tail once more when a failover forgets that it was.
        let wanted_again = event.kind == Kind::Processed("again") && applied.attempt > 1;
        assert!(
            wanted_again || before.is_none_or(|before| before < applied.attempt),
            "applied twice, though nobody asked for it again: {applied:?}"
        );
        assert_eq!(
            event.device,
            format!("{PREFIX}{}", applied.device),
            "{applied:?} at the wrong device"
        );
        if applied.attempt == 1 {
            // One poster waits for each answer, so that its events of one lane come in the order of its list.
            let last = posters.insert((applied.device, &applied.lane, event.poster), event.number);
            assert!(last.is_none_or(|last| last < event.number), "{event:?} came after number {last:?}");
        }
    }
    let at_its_device = ["delivered", "processed", "rejected", "failed"];
    let lost: Vec<_> = accepted
        .values()
        .filter(|event| at_its_device.contains(&states[&event.id].as_str()) && !attempts.contains_key(event.id.as_str()))
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {} never came: {:?}",
        lost.len(),
        accepted.len(),
        lost.first()
    );
}
