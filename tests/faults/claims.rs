//! Two nodes are asked for the seat of one device at once.

use loadtest::redis;
use serde_json::json;

use crate::{
    stage::{Stage, settings},
    support::{Device, SOON, wait_for},
};

const ROUNDS: usize = 30;

#[test]
fn of_two_logins_at_two_nodes_at_once_one_stays_and_every_node_says_which() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let settings = settings(&redis.url()).set("UNPOLL_XMPP_SEAT_CHANGES_MAX", "1000000");
    let stage = Stage::start(redis, vec![settings; 3]);
    stage.add_devices(["box".to_owned()]);
    let mut epoch = 0;
    let mut stayed: Option<Device> = None;
    let mut held = [0, 0];
    for round in 0..ROUNDS {
        let (one, two) = std::thread::scope(|scope| {
            let one = scope.spawn(|| Device::connect(stage.options(0, "box")));
            let two = scope.spawn(|| Device::connect(stage.options(1, "box")));
            (one.join().unwrap(), two.join().unwrap())
        });
        // The later one may throw the other out while it is still on its way in.
        let mut both = [one.ok(), two.ok()];
        assert!(both.iter().any(Option::is_some), "round {round}: both were thrown out");
        if let Some(mut before) = stayed.take() {
            assert!(before.ended().to_string().contains("conflict"), "round {round}");
        }
        let winner = wait_for("one of them to be thrown out", SOON, || {
            let up: Vec<usize> = (0..2)
                .filter(|number| both[*number].as_ref().is_some_and(Device::is_connected))
                .collect();
            assert!(!up.is_empty(), "round {round}: both were thrown out");
            (up.len() == 1).then(|| up[0])
        });
        held[winner] += 1;
        let name = stage.nodes[winner].ready["node"].clone();
        let seen = wait_for("all nodes to agree", SOON, || {
            let seen: Vec<_> = (0..3).map(|node| stage.presence(node, "box")).collect();
            let agree = seen.iter().all(|presence| {
                (&presence["state"], &presence["node"], &presence["session_epoch"]) == (&json!("online"), &name, &seen[0]["session_epoch"])
            });
            agree.then(|| seen[0]["session_epoch"].as_u64().unwrap())
        });
        assert!(seen > epoch, "round {round}: epochs rise");
        epoch = seen;
        let device = both[winner].take().unwrap();
        let id = stage.backend(2).push("box", &json!({ "round": round }));
        assert_eq!(device.expect_event().id, id, "round {round}");
        wait_for("the receipt", SOON, || (stage.backend(1).state(&id) == "delivered").then_some(()));
        if let Some(mut loser) = both[1 - winner].take() {
            assert!(loser.ended().to_string().contains("conflict"), "round {round}");
        }
        stayed = Some(device);
    }
    println!("of {ROUNDS} rounds the first node kept {}, the second {}", held[0], held[1]);
    stayed.unwrap().close();
}
