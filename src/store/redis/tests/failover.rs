//! Shards that fail over while they work.

use futures_util::future::join_all;
use loadtest::redis;

use super::faults::{Node, settle_of, until};
use crate::{
    domain::{DeliveryState, Epoch, EventId},
    store::{
        Mailbox, Records,
        contract::{TENANT, add, key},
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
    until("an answer of every shard", async || {
        let seats = join_all(devices.iter().map(async |device| node.store().seat(&key(device)).await.is_ok())).await;
        seats.into_iter().all(|answered| answered) && node.store().receipts(TENANT, 0, 1).await.is_ok()
    })
    .await;
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
