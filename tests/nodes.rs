//! Several nodes on one Redis are one service.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use loadtest::{Acks, Options, redis};
use serde_json::json;
use support::{Backend, Device, SOON, Service, Settings, wait_for};

const NEVER: Duration = Duration::from_millis(300);

/// Acknowledges when the test says so.
fn manual(service: &Service) -> Device {
    let options = Options {
        acks: Acks::Never,
        ..Device::options(service, "box", "secret")
    };
    Device::connect(options).unwrap()
}

struct Nodes<R> {
    nodes: Vec<Service>,
    key: String,
    redis: R,
}

impl Nodes<redis::Server> {
    fn start(count: usize) -> Self {
        let redis = redis::Server::start(&redis::Settings::default()).unwrap();
        Self::on(redis.url(), redis, count, "primary")
    }
}

impl<R> Nodes<R> {
    fn on(url: String, redis: R, count: usize, durability: &str) -> Self {
        let settings = Settings::default()
            .set("UNPOLL_REDIS_URL", &url)
            .set("UNPOLL_REDIS_DURABILITY", durability)
            .set("UNPOLL_REDIS_HEARTBEAT_MS", "500")
            .set("UNPOLL_REDIS_NODE_LOST_SECS", "3");
        let nodes: Vec<Service> = (0..count).map(|_| Service::start_with(settings.clone())).collect();
        let key = nodes[0].admin_key();
        Self { nodes, key, redis }
    }

    fn backend(&self, node: usize) -> Backend {
        Backend {
            address: self.nodes[node].http,
            key: self.key.clone(),
        }
    }

    fn presence(&self, node: usize, device: &str) -> serde_json::Value {
        self.backend(node).get(&format!("/v1/devices/{device}/presence")).expect(200).json()
    }
}

#[test]
fn a_backend_posts_anywhere_and_a_device_connects_anywhere() {
    let nodes = Nodes::start(3);
    nodes.backend(1).add_device("box", "secret");
    let device = manual(&nodes.nodes[0]);

    // From every node, in order and at once: none waits for a comparison with the store.
    let began = Instant::now();
    for (number, node) in [0, 1, 2, 1, 0, 2].into_iter().enumerate() {
        let id = nodes.backend(node).push("box", &json!({ "n": number }));
        let event = device.expect_event();
        assert_eq!(event.id, id);
        device.acknowledge();
        wait_for("the receipt", SOON, || {
            (nodes.backend((node + 1) % 3).state(&id) == "delivered").then_some(())
        });
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());

    // What is written and not acknowledged is `dispatched`, whichever node is asked.
    let id = nodes.backend(2).push("box", &json!({ "n": "last" }));
    assert_eq!(device.expect_event().id, id);
    for node in 0..3 {
        assert_eq!(nodes.backend(node).state(&id), "dispatched", "asked of node {node}");
        let presence = nodes.presence(node, "box");
        assert_eq!(
            (&presence["state"], &presence["node"]),
            (&json!("online"), &json!("n1")),
            "asked of node {node}"
        );
    }
    device.close();
}

#[test]
fn the_newest_login_has_the_seat_and_a_dead_node_loses_nothing() {
    let mut nodes = Nodes::start(3);
    nodes.backend(0).add_device("box", "secret");
    let mut first = manual(&nodes.nodes[0]);
    let before = nodes.presence(2, "box")["session_epoch"].as_u64();

    let second = manual(&nodes.nodes[1]);
    assert!(
        first.ended().to_string().contains("conflict"),
        "the older session hears why it ends"
    );
    for node in 0..3 {
        let presence = nodes.presence(node, "box");
        assert_eq!(presence["node"], "n2", "asked of node {node}");
        assert!(presence["session_epoch"].as_u64() > before, "presence never goes back");
    }

    // An event on the wire of a node that dies is written again elsewhere, and so is what was posted meanwhile.
    let held = nodes.backend(2).push("box", &json!({ "n": 1 }));
    assert_eq!(second.expect_event().id, held);
    nodes.nodes[1].kill();
    let posted = nodes.backend(0).push("box", &json!({ "n": 2 }));
    wait_for("presence without the dead node", SOON, || {
        (nodes.presence(0, "box")["state"] == "offline").then_some(())
    });
    let third = manual(&nodes.nodes[2]);
    assert_eq!(third.expect_event().id, held);
    assert_eq!(third.expect_event().id, posted);
    third.acknowledge();
    for id in [&held, &posted] {
        wait_for("the receipt", SOON, || (nodes.backend(0).state(id) == "delivered").then_some(()));
    }
    assert!(third.event(NEVER).is_none(), "nothing comes twice");

    // The dead node comes back and is one of them again.
    nodes.nodes[1].run();
    let id = nodes.backend(1).push("box", &json!({ "n": 3 }));
    assert_eq!(third.expect_event().id, id);
    third.acknowledge();
    third.close();
}

#[test]
fn while_redis_is_away_connections_stay_and_what_devices_said_is_settled_afterwards() {
    let nodes = Nodes::start(2);
    nodes.backend(0).add_device("box", "secret");
    let device = manual(&nodes.nodes[0]);
    let id = nodes.backend(1).push("box", &json!({ "n": 1 }));
    assert_eq!(device.expect_event().id, id);

    nodes.redis.pause();
    device.acknowledge();
    let event = json!({"target": {"device": "box"}, "type": "test", "data": {}});
    let refused = nodes.backend(1).send("POST", "/v1/events", &event).expect(503);
    assert!(refused.header("retry-after").is_some());
    wait_for("the breaker", SOON, || {
        (nodes.nodes[1].metric("unpoll_redis_breaker_open") == Some(1.0)).then_some(())
    });
    nodes.redis.go_on();

    wait_for("what was said meanwhile", SOON, || {
        // The breaker is open until something was answered.
        let answer = nodes.backend(1).get(&format!("/v1/events/{id}/deliveries"));
        (answer.status == 200 && answer.json()["items"][0]["state"] == "delivered").then_some(())
    });
    assert!(device.is_connected());
    // Each node finds out for itself that Redis is back.
    let id = wait_for("the other node", SOON, || {
        let answer = nodes.backend(0).post(&event);
        (answer.status == 202).then(|| answer.json()["id"].as_str().unwrap().to_owned())
    });
    // What was refused may have been stored all the same, since Redis answered too late: a key tells a backend that tries again.
    wait_for("the next event", SOON, || (device.expect_event().id == id).then_some(()));
    device.acknowledge();
    device.close();
}

/// A device that goes to the next node when its session ends, until all is over.
fn wander(nodes: &[Options], over: &AtomicBool) -> Vec<(String, String, u64)> {
    let mut got = Vec::new();
    let mut at = 0;
    while !over.load(Ordering::Relaxed) {
        at = (at + 1) % nodes.len();
        // Refused while it starts or stops: the next one, then.
        let Ok(device) = Device::connect(nodes[at].clone()) else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        // What was acknowledged is read to the end, though the session is over: it does not come again.
        loop {
            let goes_on = !over.load(Ordering::Relaxed) && device.is_connected();
            match device.event(NEVER) {
                Some(event) => got.push((event.id, event.lane, event.seq)),
                None if goes_on => {}
                None => break,
            }
        }
    }
    got
}

/// Twelve devices that wander and a backend that posts to all nodes, while there is trouble: nothing that was accepted is lost, nothing
/// is refused without saying when to come again, and order holds. Answers how many events were accepted.
fn under_load<R>(nodes: &mut Nodes<R>, trouble: impl FnOnce(&mut Nodes<R>)) -> usize {
    let devices: Vec<String> = (0..12).map(|number| format!("box{number}")).collect();
    for device in &devices {
        nodes.backend(0).add_device(device, "secret");
    }
    let over = Arc::new(AtomicBool::new(false));
    let wanderers: Vec<_> = devices
        .iter()
        .enumerate()
        .map(|(number, device)| {
            let mut options: Vec<Options> = nodes.nodes.iter().map(|node| Device::options(node, device, "secret")).collect();
            options.rotate_left(number % 3);
            let over = over.clone();
            std::thread::spawn(move || wander(&options, &over))
        })
        .collect();
    let backends: Vec<Backend> = (0..3).map(|node| nodes.backend(node)).collect();
    let restarted = Arc::new(AtomicBool::new(false));
    let poster = {
        let (devices, restarted) = (devices.clone(), restarted.clone());
        std::thread::spawn(move || {
            let mut accepted = Vec::new();
            for number in 0_usize.. {
                if restarted.load(Ordering::Relaxed) {
                    break;
                }
                let event = json!({"target": {"device": devices[number % devices.len()]}, "type": "test", "data": {"n": number}});
                let (body, key) = (event.to_string(), format!("\"{number}\""));
                let headers = [("content-type", "application/json"), ("idempotency-key", key.as_str())];
                for node in number.. {
                    // A node that is down refuses the connection: a balancer would not have chosen it.
                    let Ok(answer) = backends[node % 3].try_request("POST", "/v1/events", &headers, body.as_bytes()) else {
                        continue;
                    };
                    if matches!(answer.status, 200 | 202) {
                        accepted.push(answer.json()["id"].as_str().unwrap().to_owned());
                        break;
                    }
                    assert!(matches!(answer.status, 429 | 503), "{answer:?}");
                    assert!(answer.header("retry-after").is_some(), "{answer:?}");
                }
            }
            accepted
        })
    };
    trouble(nodes);
    restarted.store(true, Ordering::Relaxed);
    let accepted = poster.join().unwrap();
    for id in &accepted {
        wait_for("every receipt", SOON, || (nodes.backend(0).state(id) == "delivered").then_some(()));
    }
    over.store(true, Ordering::Relaxed);
    let mut got = BTreeSet::new();
    for wanderer in wanderers {
        let mut last = BTreeMap::new();
        for (id, lane, seq) in wanderer.join().unwrap() {
            // A device drops a repeat by its number; what is new comes in order.
            if last.get(&lane).is_none_or(|last| seq > *last) {
                last.insert(lane, seq);
                assert!(got.insert(id), "an event came again under a new number");
            }
        }
    }
    let lost: Vec<_> = accepted.iter().filter(|id| !got.contains(*id)).collect();
    assert!(lost.is_empty(), "{} of {} are lost", lost.len(), accepted.len());
    accepted.len()
}

#[test]
fn a_rolling_restart_loses_nothing_and_refuses_nothing_without_saying_when_to_come_again() {
    let mut nodes = Nodes::start(3);
    let accepted = under_load(&mut nodes, |nodes| {
        for node in &mut nodes.nodes {
            assert_eq!(node.stop(), Some(0));
            node.run();
        }
    });
    assert!(accepted > 30, "{accepted} events are no load");
}

#[test]
fn a_tenant_is_added_at_one_node_and_used_at_another() {
    let nodes = Nodes::start(2);
    support::stay_apart(&nodes.nodes[0], &nodes.nodes[1], &nodes.key, 2);
}
