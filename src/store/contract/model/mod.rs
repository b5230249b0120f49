//! The model test: steps in random order, killed nodes, lost hints and leaping clocks among them, on a real engine and on a small
//! [`Reference`](reference::Reference); after each step the two must agree.
//!
//! A sequence that fails is made shorter and printed. What it showed is mended, and the sequence goes into `cases.txt`, which is run
//! first from then on.
//!
//! `MODEL_SEED` repeats the sequence of a seed, `MODEL_CASE` a printed one; `MODEL_CASES` says how many sequences to run.

#![allow(missing_docs, reason = "what a step or a flaw is stands at it")]

mod agree;
mod calls;
mod ends;
mod interrupted;
mod known;
mod posts;
mod reference;
mod run;
mod seats;
mod session;
mod step;
mod upkeep;

use std::{
    env, fmt,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};

use super::{Arrival, ManualClock, Store};
use crate::domain::Limits;

pub use self::{calls::Flaw, run::devices, step::Step};
use self::{run::Run, step::Dice};

/// What is done while something happens to a node or a server.
pub type During = Option<BoxFuture<'static, ()>>;

/// An engine under the model: one node or two over one truth, with clocks that the test moves.
pub trait World: Send {
    /// How many nodes there are.
    const NODES: usize;
    /// A node that dies takes its seats along at once. Else they are there until it is found dead.
    const SEATS_DIE_WITH_THEIR_NODE: bool;
    /// There is a server, which can be killed.
    const HAS_SERVER: bool;

    /// The engine at a node.
    fn store(&self, node: usize) -> Arc<dyn Store>;
    /// Its name.
    fn name(&self, node: usize) -> Arc<str>;
    /// The clock of a node.
    fn clock(&self, node: usize) -> Arc<ManualClock>;
    /// What a node was told for its sessions: waits until there are so many, or for some seconds, and takes all there are.
    fn arrivals(&mut self, node: usize, at_least: usize) -> impl Future<Output = Vec<Arrival>> + Send;
    /// Kills a node and starts another in its place.
    fn crash(&mut self, node: usize, during: During) -> impl Future<Output = ()> + Send;
    /// Kills the server and starts it again; waits until all nodes can work.
    fn kill_server(&mut self, during: During) -> impl Future<Output = ()> + Send;
    /// The server forgets its scripts.
    fn flush_scripts(&mut self) -> impl Future<Output = ()> + Send;
    /// Waits until everything that is on its way has come to rest: receipts are in their log, totals are counted.
    fn rest(&mut self) -> impl Future<Output = ()> + Send;
}

/// The limits of an engine under the model: small, so that they are reached; receipts are never dropped.
pub fn limits() -> Limits {
    Limits {
        queue_max_events: 6,
        queue_max_bytes: 1_000,
        attempts_max: 3,
        idempotency_kept_secs: 600,
        state_kept_secs: 3_000,
        receipts_kept_secs: 3_000_000_000,
        ..Limits::default()
    }
}

/// How the two differ.
#[derive(Debug, Clone)]
pub struct Difference(String);

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn differ<T>(what: impl Into<String>) -> Result<T, Difference> {
    Err(Difference(what.into()))
}

/// Sequences that failed once, one a line.
const CASES: &str = include_str!("cases.txt");
/// Shorter sequences that are tried for one that fails, and for how long.
const SHORTER_MAX: usize = 400;
const SHORTER_WITHIN: Duration = Duration::from_secs(90);

/// Runs sequences on new worlds: those of `cases.txt`, then new ones, until there were `cases` or `within` is over. `test` is the
/// name of the test that calls.
pub async fn agrees<W: World>(test: &str, cases: usize, within: Duration, new: impl AsyncFn() -> W) {
    if let Ok(case) = env::var("MODEL_CASE") {
        let steps: Vec<Step> = serde_json::from_str(&case).expect("MODEL_CASE holds steps as they were printed");
        return judge(test, None, steps, &new).await;
    }
    if let Ok(seed) = env::var("MODEL_SEED") {
        let seed = seed.parse().expect("MODEL_SEED holds a number");
        return judge(test, Some(seed), sequence(seed), &new).await;
    }
    for line in CASES.lines().filter(|line| line.starts_with('[')) {
        judge(test, None, serde_json::from_str(line).expect("a case"), &new).await;
    }
    let asked = env::var("MODEL_CASES")
        .ok()
        .map(|cases| cases.parse().expect("MODEL_CASES holds a number"));
    let (cases, until) = match asked {
        Some(asked) => (asked, None),
        None => (cases, Some(Instant::now() + within)),
    };
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    let first = u64::from_be_bytes(bytes) >> 16;
    let mut done = 0;
    while done < cases && until.is_none_or(|until| Instant::now() < until) {
        let seed = first + done as u64;
        judge(test, Some(seed), sequence(seed), &new).await;
        done += 1;
    }
    println!("figure: {done} sequences agree with the model ({test}, from seed {first})");
    assert!(done > 0, "there was no time for a sequence");
}

/// Whether each flaw is found within so many sequences.
pub async fn finds_flaws<W: World>(cases: u64, new: impl AsyncFn() -> W) {
    for flaw in Flaw::ALL {
        let mut found = None;
        for seed in 0..cases {
            if let Err((at, why)) = run(new().await, &sequence(seed), Some(flaw)).await {
                found = Some((seed, at, why));
                break;
            }
        }
        let (seed, at, why) = found.unwrap_or_else(|| panic!("{flaw:?} is not found in {cases} sequences"));
        println!("{flaw:?}: sequence {}, step {}: {why}", seed + 1, at + 1);
    }
}

fn sequence(seed: u64) -> Vec<Step> {
    Dice::new(seed).sequence(10, 70)
}

/// Runs a sequence. Else: the index of the step at which it failed, and why.
async fn run<W: World>(world: W, steps: &[Step], flaw: Option<Flaw>) -> Result<(), (usize, Difference)> {
    let mut run = Run::new(world, flaw).await.map_err(|why| (0, why))?;
    for (index, step) in steps.iter().enumerate() {
        match AssertUnwindSafe(run.step(step)).catch_unwind().await {
            Ok(result) => result.map_err(|why| (index, why))?,
            Err(_) => return Err((index, Difference("a panic, printed above".into()))),
        }
    }
    run.finish().await.map_err(|why| (steps.len(), why))
}

/// Runs a sequence that must agree; one that does not is made shorter, and fails the test.
async fn judge<W: World>(test: &str, seed: Option<u64>, steps: Vec<Step>, new: &impl AsyncFn() -> W) {
    let Err((mut at, mut why)) = run(new().await, &steps, None).await else {
        return;
    };
    let (original, until) = (why.clone(), Instant::now() + SHORTER_WITHIN);
    let mut shortest = steps;
    shortest.truncate(at + 1);
    let (mut size, mut tries) = (shortest.len() / 2, 0);
    while size > 0 {
        let mut from = 0;
        while from < shortest.len() && tries < SHORTER_MAX && Instant::now() < until {
            let mut fewer = shortest.clone();
            fewer.drain(from..(from + size).min(fewer.len()));
            tries += 1;
            if let Err(found) = run(new().await, &fewer, None).await {
                (at, why) = found;
                fewer.truncate(at + 1);
                shortest = fewer;
            } else {
                from += size;
            }
        }
        size /= 2;
    }
    let again = match seed {
        Some(seed) => format!("MODEL_SEED={seed} cargo test -p unpoll --lib {test}"),
        None => "it is in cases.txt".to_owned(),
    };
    let case = serde_json::to_string(&shortest).unwrap();
    panic!(
        "the store and the model differ: {original}\nagain: {again}\nshortest ({} steps, {why}):\nMODEL_CASE='{case}' cargo test -p unpoll --lib {test}",
        shortest.len()
    );
}
