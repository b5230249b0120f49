//! A run under load: devices and backends at work from before the first fault until after the last.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    accounts::{check, wait_for_queued},
    crowd::{Crowd, PREFIX},
    posts::{AWAY, Anywhere, Posts},
    stage::{LATE, Redis, Stage},
    support::wait_for,
};

/// How long a device stays at a node when nothing happens.
const STAY: Duration = Duration::from_secs(60);
/// Events that are accepted between two faults, and that devices then act on.
const BETWEEN: usize = 40;
/// Events that wait at the end until they are cancelled, so that the counts are of something.
const PARKED: u64 = 25;

/// How to do a run again: the seed, given or thrown.
pub fn seed() -> u64 {
    let seed = std::env::var("UNPOLL_TEST_SEED").map_or_else(
        |_| {
            let mut seed = [0; 4];
            aws_lc_rs::rand::fill(&mut seed).unwrap();
            u64::from(u32::from_le_bytes(seed))
        },
        |seed| seed.parse().expect("UNPOLL_TEST_SEED is a number"),
    );
    println!("\nUNPOLL_TEST_SEED={seed}");
    seed
}

pub struct Run {
    crowd: Crowd,
    posts: Posts,
    durability: &'static str,
    began: Instant,
}

impl Run {
    /// Devices log in, and backends begin to post.
    pub fn start<R>(stage: &Stage<R>, devices: u64, durability: &'static str, seed: u64) -> Self {
        let present = (0..devices).map(|number| format!("{PREFIX}{number}"));
        let away = (0..AWAY).map(|number| format!("away{number}"));
        stage.add_devices(present.chain(away));
        let crowd = Crowd::start(stage, devices, STAY, seed);
        crowd.wait_until_up();
        let posts = Posts::start(stage, devices, durability, seed);
        Self {
            crowd,
            posts,
            durability,
            began: Instant::now(),
        }
    }

    /// Healthy again: nodes are ready, devices are back, and events come through.
    #[track_caller]
    pub fn wait_until_well<R>(&self, stage: &Stage<R>) {
        stage.wait_until_ready();
        self.crowd.wait_until_up();
        let (accepted, applied) = (self.posts.accepted() + BETWEEN, self.crowd.applied() + BETWEEN / 2);
        wait_for("the load goes on", LATE, || {
            (self.posts.accepted() >= accepted && self.crowd.applied() >= applied).then_some(())
        });
    }

    /// The load ends, everything is delivered, and all accounts agree.
    pub fn end<R: Redis>(self, stage: &Stage<R>, url: &str, what: &str) {
        let posted = self.posts.end();
        let took = self.began.elapsed();
        wait_for_queued(stage, 0);
        let mut backend = Anywhere::new(stage, 0);
        let parked: Vec<String> = (0..PARKED)
            .map(|number| {
                let event = json!({"target": {"device": format!("away{}", number % AWAY)}, "type": "parked", "data": number});
                backend.post(&event, &format!("parked-{number}"), self.durability)
            })
            .collect();
        wait_for_queued(stage, PARKED);
        parked.iter().for_each(|id| backend.cancel(id));
        wait_for_queued(stage, 0);
        let heard = self.crowd.end();
        let mut all = posted;
        all.accepted
            .extend(parked.into_iter().zip(0..).map(|(id, number)| crate::posts::Accepted {
                id,
                device: format!("away{}", number % AWAY),
                kind: crate::posts::Kind::AwayCancelled,
                poster: usize::MAX,
                number,
                node: 0,
                at: String::new(),
            }));
        let totals = check(stage, url, &all, &heard);
        let (sessions, repeats) = heard.over.expect("the devices have ended in good order");
        println!(
            "{} accepted, {what}, in {:.0} s: {totals:?}",
            all.accepted.len(),
            took.as_secs_f64()
        );
        println!(
            "{sessions} sessions, {} applied, {repeats} repeats and {} of nobody dropped, {} refused with Retry-After, {} unanswered, longest {:.1} s to a 2xx",
            heard.applied.len(),
            heard.passed.len(),
            all.refused,
            all.unanswered,
            all.longest.as_secs_f64()
        );
    }
}
