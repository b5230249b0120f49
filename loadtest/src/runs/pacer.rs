//! An open loop: events are due at times of their own, however long the service takes for those before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use loadtest::Error;
use tokio::sync::{Mutex, mpsc};

/// Events that may be due and not posted yet, where a load is to be carried whole. Above it they are not offered.
pub const WAITING_MAX: usize = 4096;

/// An event that is due.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    pub number: u64,
    /// When, since the start.
    pub at: Duration,
}

/// Makes events due at random times, as those of many independent senders are (a Poisson process), on a thread of its own: the
/// timers of the posters' runtime would bundle them by the millisecond.
pub struct Pacer {
    stop: Arc<AtomicBool>,
    missed: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<u64>,
}

/// Where posters take what is due.
#[derive(Clone)]
pub struct Queue(Arc<Mutex<mpsc::Receiver<Due>>>);

impl Queue {
    /// The next event, when it is due; `None` after the end.
    pub async fn next(&self) -> Option<Due> {
        self.0.lock().await.recv().await
    }
}

impl Pacer {
    /// So many events a second on average, the first numbered 0. At most `waiting_max` are due and not posted yet; more are not offered.
    pub fn start(per_second: f64, waiting_max: usize, start: Instant) -> Result<(Self, Queue), Error> {
        let (due, queue) = mpsc::channel(waiting_max);
        let (stop, missed): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let (stopped, misses) = (stop.clone(), missed.clone());
        let thread = std::thread::Builder::new().name("pacer".into()).spawn(move || {
            let (mut at, mut number) = (start.elapsed(), 0);
            for round in 0.. {
                at += gap(round, per_second);
                std::thread::sleep(at.saturating_sub(start.elapsed()));
                if stopped.load(Relaxed) {
                    break;
                }
                match due.try_send(Due { number, at }) {
                    Ok(()) => number += 1,
                    Err(mpsc::error::TrySendError::Full(_)) => drop(misses.fetch_add(1, Relaxed)),
                    Err(mpsc::error::TrySendError::Closed(_)) => break,
                }
            }
            number
        })?;
        Ok((Self { stop, missed, thread }, Queue(Arc::new(Mutex::new(queue)))))
    }

    /// Ends it. Answers how many events were offered, and how many were not because too many waited for a poster.
    pub async fn stop(self) -> Result<(u64, u64), Error> {
        self.stop.store(true, Relaxed);
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        match joined {
            Ok(Ok(offered)) => Ok((offered, self.missed.load(Relaxed))),
            _ => Err(Error::Machine("the pacer failed".into())),
        }
    }
}

/// The time from one event to the next: exponential, at most 20 times the mean.
fn gap(round: u64, per_second: f64) -> Duration {
    // 53 bits: from just above 0 to 1.
    let part = ((scatter(round) >> 11) + 1) as f64 / (1u64 << 53) as f64;
    Duration::from_secs_f64((-part.ln()).min(20.0) / per_second.max(0.001))
}

/// A number for each number, as if drawn at random, and the same in each run (splitmix64).
pub fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_have_the_mean_that_was_asked_for_and_differ() {
        let gaps: Vec<Duration> = (0..10_000).map(|round| gap(round, 4000.0)).collect();
        let mean = gaps.iter().sum::<Duration>() / 10_000;
        assert!(mean.abs_diff(Duration::from_micros(250)) < Duration::from_micros(10), "{mean:?}");
        let short = gaps.iter().filter(|gap| **gap < Duration::from_micros(25)).count();
        assert!((800..1100).contains(&short), "of an exponential distribution a tenth: {short}");
    }

    #[tokio::test]
    async fn events_are_numbered_and_those_nobody_takes_are_counted() {
        let (pacer, queue) = Pacer::start(1e6, WAITING_MAX, Instant::now()).unwrap();
        for number in 0..100 {
            assert_eq!(queue.next().await.unwrap().number, number);
        }
        while pacer.missed.load(Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(pacer.stop().await.unwrap().1 > 0);
        let mut last = None;
        while let Some(due) = queue.next().await {
            last = Some(due.number);
        }
        assert!(last >= Some(WAITING_MAX as u64));
    }
}
