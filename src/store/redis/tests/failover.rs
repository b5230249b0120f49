//! Shards that fail over while they work.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use loadtest::redis;

use super::faults::{Node, settle_of, until};
use crate::{
    domain::{DeliveryState, Epoch, EventId},
    store::{
        Feed, Mailbox, Records,
        contract::{TENANT, add, claim, key},
        redis::mover,
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_fails_over_by_order_or_by_death_loses_nothing_and_tells_every_end_once() {
    let mut cluster = redis::Cluster::start().unwrap();
    let node = Node::open(cluster.url(), |_| {}).await;
    let devices: Vec<String> = (0..12).map(|number| format!("box{number}")).collect();
    for device in &devices {
        add(node.store(), device).await;
    }
    let slot = crate::store::redis::keys::Slot::of_bucket(key("box7").bucket()).0;
    let mut accepted: Vec<(EventId, bool)> = Vec::new();
    for by_death in [false, true] {
        let failing = tokio::task::spawn_blocking(move || {
            if by_death {
                let dead = cluster.kill_primary_of(slot).unwrap();
                cluster.wait_for_failover(slot, dead).unwrap();
                cluster.restart_dead().unwrap();
            } else {
                cluster.fail_over(slot).unwrap();
            }
            cluster.wait_until_healthy().unwrap();
            cluster
        });
        while !failing.is_finished() {
            for device in &devices {
                // What is refused may be there all the same; nobody relies on it.
                let Ok(pushed) = node.push(device).await else { continue };
                let settle = settle_of(node.store(), device, pushed.id, Epoch(1));
                let settled = node.store().settle(vec![settle]).await.remove(0);
                accepted.push((pushed.id, settled.is_ok()));
            }
        }
        cluster = failing.await.unwrap();
    }
    assert!(accepted.iter().any(|(_, ended)| *ended));
    // Six servers and what else runs on the machine: more time than a fact needs elsewhere.
    let until_answered = Instant::now() + Duration::from_secs(90);
    loop {
        let seats = join_all(devices.iter().map(async |device| node.store().seat(&key(device)).await.err())).await;
        let receipts = mover::round(node.store()).await.err();
        let refused: Vec<_> = seats.into_iter().chain([receipts]).flatten().collect();
        if refused.is_empty() {
            break;
        }
        let primary = cluster.primary_of(slot);
        assert!(
            Instant::now() < until_answered,
            "{refused:?}, {:?}, primary {primary:?}",
            node.store().health()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    mover::round(node.store()).await.unwrap();
    let mut told = std::collections::HashMap::new();
    for receipt in node.store().receipts(TENANT, 0, usize::MAX >> 1).await.unwrap() {
        *told.entry(receipt.event).or_insert(0) += 1;
    }
    for (id, ended) in accepted {
        let state = node.state(id).await;
        assert!(
            state == DeliveryState::Delivered || (!ended && state == DeliveryState::Queued),
            "{id}: {state:?}"
        );
        let owed = u32::from(state == DeliveryState::Delivered);
        assert_eq!(told.get(&id.to_string()).copied().unwrap_or(0), owed, "receipts of {id}, {state:?}");
    }
}

#[tokio::test]
async fn nothing_is_told_of_presence_that_a_failover_may_take_back() {
    // A machine that runs many tests at once holds a primary up for a second now and then; none is to be replaced here.
    let mut servers = redis::Sentinels::start_with(1, &redis::Settings::default(), Duration::from_secs(60)).unwrap();
    let node = Node::open(servers.url(), |config| config.wait_ms = 300).await;
    let store = node.store();
    add(store, "box").await;
    claim(store, "box", 1).await.unwrap();
    until("the claim is told", async || {
        store.changes(TENANT, 0, 9).await.is_ok_and(|told| told.len() == 1)
    })
    .await;
    let first = store.changes(TENANT, 0, 9).await.unwrap()[0].position;
    let primary = servers.primary().unwrap();
    let data = servers.data();
    data[1 - primary].pause();
    // As a mover leaves it that is cut off behind its step: the row is in the log, and on no replica.
    let keys = ["feed", "feed-moved"].map(|name| store.shared.keys.tenant(TENANT, name));
    let second = (first + 1).to_string();
    let row = data[primary]
        .query::<Vec<(String, Vec<Vec<u8>>)>>(&["XRANGE", &keys[0], "-", "+"])
        .unwrap()[0]
        .1[1]
        .clone();
    let mut connection = ::redis::Client::open(data[primary].url()).unwrap().get_connection().unwrap();
    let entry = format!("{second}-0");
    let mut add = ::redis::cmd("XADD");
    add.arg(&keys[0])
        .arg(entry)
        .arg("r")
        .arg(row)
        .query::<String>(&mut connection)
        .unwrap();
    data[primary].query::<i64>(&["HSET", &keys[1], "last", &second]).unwrap();
    assert!(store.changes(TENANT, first, 9).await.is_err());
    assert!(store.change_bounds(TENANT).await.is_err());
    assert_eq!(store.changes(TENANT, 0, 9).await.map_or(1, |told| told.len()), 1);
    data[1 - primary].go_on();
    until("it is told", async || {
        store.changes(TENANT, first, 9).await.is_ok_and(|told| told.len() == 1)
    })
    .await;
}

#[tokio::test]
async fn what_was_moved_before_a_server_died_is_not_moved_again() {
    let settings = redis::Settings {
        lines: vec!["appendonly yes".into(), "appendfsync always".into(), "save \"\"".into()],
        ..redis::Settings::default()
    };
    let mut server = redis::Server::start(&settings).unwrap();
    let node = Node::open(server.url(), |_| {}).await;
    let store = node.store();
    add(store, "box").await;
    let bucket = key("box").bucket();
    let (outbox, counters, kept) = (format!("f:o{{{bucket}}}"), format!("f:c{{{bucket}}}"), format!("kept{{{bucket}}}"));
    let end_one = async || {
        let Ok(pushed) = node.push("box").await else { return false };
        let ended = store.settle(vec![settle_of(store, "box", pushed.id, Epoch(1))]).await.remove(0);
        ended.is_ok()
    };
    let receipts = async || {
        mover::round(store).await.unwrap();
        store.receipts(TENANT, 0, 1_000).await.unwrap()
    };
    // As it is between the two steps of a move: the log has a receipt, and the outbox has it still.
    loop {
        assert!(end_one().await);
        let copied: u8 = server.query(&["COPY", &outbox, &kept, "REPLACE"]).unwrap();
        let moved = receipts().await;
        assert!(moved.len() < 500, "receipts are always moved before they are seen");
        if copied == 1 {
            break;
        }
    }
    let before = receipts().await;
    let rows: i64 = server.query(&["LLEN", &kept]).unwrap();
    server.query::<()>(&["RENAME", &kept, &outbox]).unwrap();
    server.query::<i64>(&["HINCRBY", &counters, "t", &format!("-{rows}")]).unwrap();
    server.restart().unwrap();
    until("an answer", async || mover::round(store).await.is_ok()).await;
    store.shared.touch(bucket);
    assert_eq!(receipts().await, before);
    // What comes now is moved.
    until("an end", end_one).await;
    let after = receipts().await;
    assert!(after.len() > before.len() && after.starts_with(&before), "{after:?}");
}
