//! What a node promises when replicas come and go.

use loadtest::redis;
use serde_json::json;

use crate::{
    stage::{Stage, settings},
    support::{SOON, wait_for},
};

#[test]
fn the_level_rises_when_a_replica_comes_and_never_falls_unseen() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let of = format!("replicaof 127.0.0.1 {}", redis.port);
    let settings = settings(&redis.url());
    let stage = Stage::start(redis, vec![settings; 2]);
    stage.add_devices(["box".to_owned()]);
    let event = json!({"target": {"device": "box"}, "type": "test", "data": {}});
    let level = |node: usize| {
        let answer = stage.backend(node).post(&event);
        (answer.status, answer.header("push-durability").map(str::to_owned))
    };
    let at = |level: &str| (202, Some(level.to_owned()));
    assert_eq!(level(0), at("primary"));

    let mut replica = redis::Server::start(&redis::Settings::default().line(of).line("repl-diskless-sync-delay 0")).unwrap();
    for node in 0..2 {
        wait_for("the level to rise", SOON, || (level(node) == at("replicated")).then_some(()));
        assert_eq!(stage.nodes[node].metric("unpoll_redis_replicas"), Some(1.0));
    }

    // A promise is not weakened because the replica is gone: events are refused.
    replica.kill();
    for node in 0..2 {
        let refused = wait_for("a refusal", SOON, || {
            let answer = stage.backend(node).post(&event);
            assert!(
                answer.status == 503 || answer.header("push-durability") == Some("replicated"),
                "accepted at a lower level: {answer:?}"
            );
            (answer.status == 503).then_some(answer)
        });
        assert!(refused.header("retry-after").is_some(), "{refused:?}");
        wait_for("the nodes to say so", SOON, || {
            let (ready, said) = stage.readiness(node);
            (!ready && said.to_string().contains("the circuit breaker is open")).then_some(())
        });
    }
    replica.restart().unwrap();
    for node in 0..2 {
        wait_for("events to be taken again", SOON, || (level(node) == at("replicated")).then_some(()));
    }
    stage.wait_until_ready();
}
