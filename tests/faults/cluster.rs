//! Nodes on Redis Cluster: primaries die, one hands over, a slot moves, all under load.

use loadtest::redis;

use crate::{
    run::{Run, seed},
    stage::{Stage, settings},
};

const DEVICES: u64 = 60;
const SLOTS: u16 = 16_384;

#[test]
fn on_a_cluster_nothing_accepted_is_lost_when_a_primary_dies_hands_over_or_gives_a_slot_away() {
    let seed = seed();
    let redis = redis::Cluster::start().unwrap();
    let url = redis.url();
    let settings = settings(&url)
        .set("UNPOLL_REDIS_DURABILITY", "replicated")
        .set("UNPOLL_DISPATCH_SWEEP_SECS", "5");
    let mut stage = Stage::start(redis, vec![settings; 3]);
    let run = Run::start(&stage, DEVICES, "replicated", seed);
    run.wait_until_well(&stage);

    // The slot of what all nodes share, so that the table of nodes fails over, too.
    let shared = stage.slot_of("r");
    let dead = stage.redis.kill_primary_of(shared).expect("a primary");
    stage.redis.wait_for_failover(shared, dead).unwrap();
    stage.redis.restart_dead().unwrap();
    stage.redis.wait_until_healthy().unwrap();
    run.wait_until_well(&stage);

    // The slot of a device's bucket goes to another primary, key by key.
    let slot = stage.slot_of("226");
    let here = stage.redis.primary_of(slot);
    let there = (0..SLOTS)
        .step_by(100)
        .find(|other| stage.redis.primary_of(*other) != here)
        .expect("another primary");
    stage
        .redis
        .migrate(slot, there, || std::thread::sleep(std::time::Duration::from_millis(20)))
        .unwrap();
    assert_ne!(stage.redis.primary_of(slot), here);
    run.wait_until_well(&stage);

    stage.redis.fail_over(slot).unwrap();
    stage.redis.wait_until_healthy().unwrap();
    stage.nodes[1].kill();
    stage.nodes[1].run();
    run.wait_until_well(&stage);
    run.end(&stage, &url, &format!("4 faults on a cluster, {DEVICES} devices"));
}

impl Stage<redis::Cluster> {
    /// The slot of a hash tag, as Redis says.
    fn slot_of(&mut self, tag: &str) -> u16 {
        self.redis.servers()[0]
            .query(&["CLUSTER", "KEYSLOT", &format!("{{{tag}}}")])
            .unwrap()
    }
}
