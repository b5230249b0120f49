//! A node that is alone in not reaching Redis, or does not run for a while.

use std::time::{Duration, Instant};

use loadtest::{Acks, Options, proxy::Proxy, redis};
use rustix::process::Signal;
use serde_json::json;

use crate::{
    stage::{Stage, settings},
    support::{Device, SOON, Service, Settings, wait_for},
};

/// Acknowledges when the test says so.
fn manual(options: Options) -> Device {
    Device::connect(Options {
        acks: Acks::Never,
        ..options
    })
    .unwrap()
}

/// Of the devices at a node that was lost, one came back elsewhere and one waited: when the node is back, the session of the first ends
/// there and that of the second goes on.
fn check_return(stage: &Stage<redis::Server>, mut moved: Device, stays: Device, elsewhere: Device, waits: &str) {
    assert!(
        moved.ended().to_string().contains("conflict"),
        "the older session hears why it ends"
    );
    assert_eq!(stays.expect_event().id, waits);
    stays.acknowledge();
    wait_for("the receipt", SOON, || (stage.backend(1).state(waits) == "delivered").then_some(()));
    for (device, node) in [("moves", 1), ("stays", 0)] {
        let name = &stage.nodes[node].ready["node"];
        wait_for("all nodes to agree", SOON, || {
            (0..2)
                .all(|asked| {
                    let presence = stage.presence(asked, device);
                    (&presence["state"], &presence["node"]) == (&json!("online"), name)
                })
                .then_some(())
        });
    }
    let id = stage.backend(0).push("moves", &json!({}));
    assert_eq!(elsewhere.expect_event().id, id);
    elsewhere.acknowledge();
    wait_for("the receipt", SOON, || (stage.backend(0).state(&id) == "delivered").then_some(()));
    elsewhere.close();
    stays.close();
}

#[test]
fn a_node_that_is_cut_off_from_redis_says_so_keeps_its_connections_and_loses_its_seats() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let network = Proxy::start(redis.address().parse().unwrap()).unwrap();
    let nodes = [format!("redis://{}", network.address), redis.url()];
    let stage = Stage::start(redis, nodes.map(|url| settings(&url)));
    stage.add_devices(["moves", "stays", "other"].map(str::to_owned));
    let moved = manual(stage.options(0, "moves"));
    let stays = manual(stage.options(0, "stays"));
    let held = stage.backend(1).push("moves", &json!({}));
    assert_eq!(moved.expect_event().id, held);

    network.cut();
    let cut = Instant::now();
    wait_for("the node to say that it is not ready", SOON, || {
        (!stage.readiness(0).0).then_some(())
    });
    // It may be stored all the same, since Redis may hear of it too late.
    let refused = stage
        .backend(0)
        .post(&json!({"target": {"device": "other"}, "type": "test", "data": {}}))
        .expect(503);
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(stage.readiness(1).0, "the others go on");
    let waits = stage.backend(1).push("stays", &json!({}));
    wait_for("the others to count it as lost", SOON, || {
        (stage.presence(1, "moves")["state"] == "offline").then_some(())
    });
    assert!(cut.elapsed() >= Duration::from_secs(2), "it is not lost at once");
    let elsewhere = manual(stage.options(1, "moves"));
    assert_eq!(
        elsewhere.expect_event().id,
        held,
        "what was not acknowledged comes to the new session"
    );
    elsewhere.acknowledge();
    wait_for("the receipt", SOON, || (stage.backend(1).state(&held) == "delivered").then_some(()));
    assert!(moved.is_connected() && stays.is_connected(), "connections stay");

    network.mend();
    stage.wait_until_ready();
    check_return(&stage, moved, stays, elsewhere, &waits);
}

#[test]
fn a_node_that_did_not_run_for_a_while_finds_out_what_it_missed() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    // Nothing but its return may tell it.
    let settings = settings(&redis.url()).set("UNPOLL_DISPATCH_RESYNC_SECS", "3600");
    let stage = Stage::start(redis, vec![settings; 2]);
    stage.add_devices(["moves", "stays"].map(str::to_owned));
    let moved = manual(stage.options(0, "moves"));
    let stays = manual(stage.options(0, "stays"));

    stage.nodes[0].signal(Signal::STOP);
    wait_for("the other to count it as lost", SOON, || {
        (stage.presence(1, "moves")["state"] == "offline").then_some(())
    });
    let elsewhere = manual(stage.options(1, "moves"));
    // Stored while its device has no seat that counts: no hint tells of it.
    let waits = stage.backend(1).push("stays", &json!({}));

    stage.nodes[0].signal(Signal::CONT);
    stage.wait_until_ready();
    check_return(&stage, moved, stays, elsewhere, &waits);
}

#[test]
fn a_node_whose_name_was_given_away_stops_and_its_devices_go_elsewhere() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let network = Proxy::start(redis.address().parse().unwrap()).unwrap();
    let url = redis.url();
    // A name is free as soon as its node counts as lost. That it is taken is an error in the log of the node that had it.
    let quickly = |url: &str| Settings {
        expects_errors: true,
        ..settings(url).set("UNPOLL_REDIS_NAME_KEPT_SECS", "0")
    };
    let mut stage = Stage::start(redis, [quickly(&format!("redis://{}", network.address))]);
    stage.add_devices(["box".to_owned()]);
    let mut device = stage.online(0, "box");
    network.cut();
    wait_for("the node to count as lost", SOON, || {
        let said = stage.readiness(0).1.to_string();
        said.contains("the others count this node as lost").then_some(())
    });
    // One that is lost keeps its name for as long again.
    let heir = wait_for("the name to be given away", SOON, || {
        let heir = Service::start_with(quickly(&url));
        (heir.ready["node"] == stage.nodes[0].ready["node"]).then_some(heir)
    });
    stage.nodes.push(heir);
    network.mend();
    assert_eq!(stage.nodes[0].ended(), Some(0));
    assert!(device.ended().to_string().contains("system-shutdown"), "the device hears why");
    let device = stage.online(1, "box");
    let id = stage.backend(1).push("box", &json!({}));
    assert_eq!(device.expect_event().id, id);
    device.close();
}
