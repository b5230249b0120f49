//! Nodes and primaries of Redis are killed at random under load.

use loadtest::{dice::Dice, redis};

use crate::{
    run::{Run, seed},
    stage::{LATE, Stage, settings},
    support::{Service, wait_for},
};

/// What `tests/all` runs; `tests/long` sets more.
const FAULTS: u64 = 4;
const DEVICES: u64 = 1_500;
const NODES: usize = 3;
const TAKEOVERS: u64 = 2;

#[derive(Debug)]
enum Fault {
    /// `kill -9` of a node.
    Node(usize),
    /// `kill -9` of the primary.
    Primary,
    /// Both at once.
    NodeAndPrimary(usize),
    /// A replica becomes the primary while that one lives.
    FailOver,
    /// The primary forgets its scripts.
    ScriptFlush,
}

impl Fault {
    /// Each run has one of the first two kinds at least.
    fn of(number: u64, dice: &mut Dice) -> Self {
        let node = usize::try_from(dice.below(NODES as u64)).unwrap();
        match (number, dice.below(10)) {
            (0, _) | (_, 0..3) => Self::Primary,
            (1, _) | (_, 3..7) => Self::Node(node),
            (_, 7) => Self::NodeAndPrimary(node),
            (_, 8) => Self::FailOver,
            _ => Self::ScriptFlush,
        }
    }

    fn happen(&self, stage: &mut Stage<redis::Sentinels>) {
        match *self {
            Self::Node(node) => {
                stage.nodes[node].kill();
                stage.nodes[node].run();
            }
            Self::Primary => {
                let primary = stage.redis.kill_primary().expect("a primary");
                stage.redis.wait_for_failover(primary).unwrap();
            }
            Self::NodeAndPrimary(node) => {
                let primary = stage.redis.kill_primary().expect("a primary");
                stage.nodes[node].kill();
                stage.redis.wait_for_failover(primary).unwrap();
                stage.nodes[node].run();
            }
            Self::FailOver => stage.redis.fail_over().unwrap(),
            Self::ScriptFlush => {
                let primary = stage.redis.primary().expect("a primary");
                let () = stage.redis.data()[primary].query(&["FUNCTION", "FLUSH"]).unwrap();
            }
        }
        stage.redis.restart_dead().unwrap();
        stage.redis.wait_until_healthy().unwrap();
    }
}

fn number(name: &str, unset: u64) -> u64 {
    std::env::var(name).map_or(unset, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Healthy again: also, every node counts both replicas, which it learns at its heartbeat.
fn wait_until_well(run: &Run, stage: &Stage<redis::Sentinels>) {
    run.wait_until_well(stage);
    wait_for("every node to count the replicas", LATE, || {
        let both = |node: &Service| node.metric("unpoll_redis_replicas") == Some(2.0);
        stage.nodes.iter().all(both).then_some(())
    });
}

/// Three nodes on Sentinels under load, and one fault after the other.
fn run_with(devices: u64, faults: u64, fault: impl Fn(u64, &mut Dice) -> Fault) {
    let seed = seed();
    let redis = redis::Sentinels::start(2).unwrap();
    let url = redis.url();
    let settings = settings(&url)
        .set("UNPOLL_REDIS_DURABILITY", "replicated")
        .set("UNPOLL_DISPATCH_SWEEP_SECS", "5");
    let mut stage = Stage::start(redis, vec![settings; NODES]);
    let run = Run::start(&stage, devices, "replicated", seed);
    let mut dice = Dice::new(seed);
    for number in 0..faults {
        wait_until_well(&run, &stage);
        let fault = fault(number, &mut dice);
        println!("fault {}: {fault:?} at {}", number + 1, jiff::Timestamp::now());
        fault.happen(&mut stage);
    }
    wait_until_well(&run, &stage);
    run.end(&stage, &url, &format!("{faults} faults, {devices} devices"));
}

#[test]
fn nothing_accepted_is_lost_when_nodes_and_primaries_are_killed_at_random_under_load() {
    let (faults, devices) = (number("UNPOLL_TEST_FAULTS", FAULTS), number("UNPOLL_TEST_DEVICES", DEVICES));
    run_with(devices, faults, Fault::of);
}

#[test]
fn nothing_accepted_is_lost_when_a_replica_takes_over_while_the_primary_lives() {
    run_with(60, number("UNPOLL_TEST_TAKEOVERS", TAKEOVERS), |_, _| Fault::FailOver);
}
