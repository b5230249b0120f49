//! The ways on which nodes tell one another of events are blocked, one after the other.

use std::{
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use loadtest::{proxy::Proxy, redis};
use serde_json::json;

use crate::{
    stage::{Stage, settings},
    support::{SOON, Settings, wait_for},
};

/// Nobody waits for the comparison with the store.
const NEVER: &str = "3600";
const RESYNC: Duration = Duration::from_secs(3);
const EVENTS: usize = 5;

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Where others look for it, nobody listens.
fn unreachable(url: &str) -> Settings {
    settings(url)
        .set("UNPOLL_CLUSTER_ADVERTISE", &free_address().to_string())
        .set("UNPOLL_CLUSTER_FALLBACK_AFTER_MS", "200")
}

#[test]
fn nodes_that_cannot_reach_one_another_tell_through_redis() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let settings = unreachable(&redis.url()).set("UNPOLL_DISPATCH_RESYNC_SECS", NEVER);
    let stage = Stage::start(redis, vec![settings; 2]);
    stage.add_devices(["box".to_owned()]);
    let mut device = stage.online(0, "box");
    for number in 0..EVENTS {
        let id = stage.backend(1).push("box", &json!({ "n": number }));
        assert_eq!(device.expect_event().id, id);
        wait_for("the receipt", SOON, || (stage.backend(1).state(&id) == "delivered").then_some(()));
    }
    let told = stage.nodes[1].metric("unpoll_cluster_fallback_total").unwrap_or_default();
    assert!(told >= EVENTS as f64, "{told} went through Redis");
    // A session that is displaced hears of it that way, too.
    let second = stage.online(1, "box");
    assert!(device.ended().to_string().contains("conflict"));
    second.close();
}

#[test]
fn without_any_way_between_nodes_events_come_with_the_next_comparison() {
    let redis = redis::Server::start(&redis::Settings::default().line("rename-command SPUBLISH \"\"")).unwrap();
    let settings = unreachable(&redis.url()).set("UNPOLL_DISPATCH_RESYNC_SECS", &RESYNC.as_secs().to_string());
    let stage = Stage::start(redis, vec![settings; 2]);
    stage.add_devices(["box".to_owned()]);
    let mut device = stage.online(0, "box");
    for number in 0..3 {
        let began = Instant::now();
        let id = stage.backend(1).push("box", &json!({ "n": number }));
        assert_eq!(device.expect_event().id, id);
        println!("without hints: {:.1} s", began.elapsed().as_secs_f64());
        assert!(began.elapsed() < RESYNC * 3, "{:?}", began.elapsed());
    }
    // And the session that lost its seat elsewhere ends by it.
    let second = stage.online(1, "box");
    assert!(device.ended().to_string().contains("conflict"));
    second.close();
}

#[test]
fn a_link_that_swallows_what_is_sent_delays_events_by_no_more_than_a_comparison() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let url = redis.url();
    let listen = free_address();
    let network = Proxy::start(listen).unwrap();
    let common = settings(&url).set("UNPOLL_DISPATCH_RESYNC_SECS", &RESYNC.as_secs().to_string());
    let behind = common
        .clone()
        .set("UNPOLL_CLUSTER_LISTEN", &listen.to_string())
        .set("UNPOLL_CLUSTER_ADVERTISE", &network.address.to_string());
    let stage = Stage::start(redis, [behind, common]);
    stage.add_devices(["box".to_owned()]);
    let device = stage.online(0, "box");
    let id = stage.backend(1).push("box", &json!({}));
    assert_eq!(device.expect_event().id, id);

    network.cut();
    let mut ids = Vec::new();
    for number in 0..EVENTS {
        let began = Instant::now();
        let id = stage.backend(1).push("box", &json!({ "n": number }));
        assert_eq!(device.expect_event().id, id);
        assert!(began.elapsed() < RESYNC * 3, "{:?}", began.elapsed());
        ids.push(id);
    }
    // What was swallowed comes late; nothing of it comes twice.
    network.mend();
    let last = stage.backend(1).push("box", &json!({}));
    assert_eq!(device.expect_event().id, last);
    for id in ids.iter().chain([&last]) {
        wait_for("the receipt", SOON, || (stage.backend(0).state(id) == "delivered").then_some(()));
    }
    assert_eq!((device.record().out_of_order(), device.record().applied_twice()), (vec![], vec![]));
    device.close();
}
