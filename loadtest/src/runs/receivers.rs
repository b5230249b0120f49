//! Devices of one node in a process of their own, with the times and numbers of what they receive.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use loadtest::{Error, crowd::Crowd, report::Times};
use serde::{Deserialize, Serialize};

use super::{
    board::{Bits, Board},
    helper::{Helper, Parent},
    target::Recipe,
};

/// What the process is asked to do; one line of JSON each, answered by one line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    LogIn {
        clock: Clock,
        first: u64,
        last: u64,
        at_once: usize,
    },
    /// From now on times count.
    Measure,
    Look,
    Report,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Done,
    Look(Look),
    Report(Report),
}

/// When the run began, for another process: in nanoseconds since 1970.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Clock(u64);

impl Clock {
    /// Of a run that begins now.
    pub fn now() -> (Instant, Self) {
        (Instant::now(), Self(since_1970()))
    }

    /// The same moment by the clock of this process.
    fn here(self) -> Instant {
        let now = Instant::now();
        now.checked_sub(Duration::from_nanos(since_1970().saturating_sub(self.0)))
            .unwrap_or(now)
    }
}

fn since_1970() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// What devices have seen so far.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Look {
    pub up: u64,
    pub received: u64,
}

/// All that they have seen.
#[derive(Default, Serialize, Deserialize)]
pub struct Report {
    pub received: Bits,
    pub repeats: u64,
    pub dropped: u64,
    pub acknowledgements: u64,
    pub times: Vec<(u64, u64)>,
    /// Why the first sessions ended.
    pub reasons: Vec<String>,
}

/// The devices of a run, a process for each node.
pub struct Receivers(Vec<Helper>);

impl Receivers {
    /// Logs in each share of the devices, one after the other. Answers the times of the logins, too.
    pub async fn log_in(clock: Clock, shares: Vec<(Recipe, std::ops::Range<u64>)>, at_once: usize) -> Result<Self, Error> {
        let mut helpers = Vec::new();
        for (recipe, range) in shares {
            let mut helper = Helper::start("receivers", &recipe).await?;
            let (first, last) = (range.start, range.end);
            helper
                .order(&Order::LogIn {
                    clock,
                    first,
                    last,
                    at_once,
                })
                .await?;
            helper.reply::<Reply>().await?;
            helpers.push(helper);
        }
        Ok(Self(helpers))
    }

    /// From now on times count.
    pub async fn measure(&mut self) -> Result<(), Error> {
        self.ask(&Order::Measure).await.map(drop)
    }

    /// What they have seen so far, all together.
    pub async fn look(&mut self) -> Result<Look, Error> {
        let mut all = Look::default();
        for reply in self.ask(&Order::Look).await? {
            if let Reply::Look(look) = reply {
                all.up += look.up;
                all.received += look.received;
            }
        }
        Ok(all)
    }

    /// All that they have seen, and the times from POST to device.
    pub async fn report(&mut self) -> Result<(Report, Times), Error> {
        let (mut all, mut times) = (Report::default(), Times::default());
        for reply in self.ask(&Order::Report).await? {
            if let Reply::Report(report) = reply {
                all.repeats += all.received.add(&report.received) + report.repeats;
                all.dropped += report.dropped;
                all.acknowledgements += report.acknowledgements;
                all.reasons.extend(report.reasons);
                times.add_counts(&report.times);
            }
        }
        Ok((all, times))
    }

    async fn ask(&mut self, order: &Order) -> Result<Vec<Reply>, Error> {
        for helper in &mut self.0 {
            helper.order(order).await?;
        }
        let mut replies = Vec::new();
        for helper in &mut self.0 {
            replies.push(helper.reply().await?);
        }
        Ok(replies)
    }
}

/// The life of such a process: takes orders until stdin ends.
pub async fn serve_parent() -> Result<(), Error> {
    let mut parent = Parent::new();
    let recipe = parent.recipe().await?;
    let mut share: Option<(Crowd, Arc<Board>)> = None;
    while let Some(order) = parent.order().await? {
        let reply = match (order, &share) {
            (
                Order::LogIn {
                    clock,
                    first,
                    last,
                    at_once,
                },
                _,
            ) => {
                let board = Arc::new(Board::new(clock.here(), Duration::ZERO));
                let seen = board.clone();
                let mut crowd = Crowd::new(recipe.template()?, &recipe.prefix, Arc::new(move |_, event| seen.arrived(event)));
                let done = crowd.log_in(first..last, at_once).await;
                share = Some((crowd, board));
                done.map(|_| Reply::Done)
            }
            (_, None) => Err(Error::NotConnected),
            (Order::Measure, Some((_, board))) => {
                board.tally().measured = true;
                Ok(Reply::Done)
            }
            (Order::Look, Some((crowd, board))) => Ok(Reply::Look(Look {
                up: crowd.seen().up.load(Relaxed),
                received: board.tally().received_count,
            })),
            (Order::Report, Some((crowd, board))) => {
                let (seen, mut tally) = (crowd.seen(), board.tally());
                let reasons = seen.reasons.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(Reply::Report(Report {
                    received: std::mem::take(&mut tally.received),
                    repeats: tally.repeats + seen.repeats.load(Relaxed),
                    dropped: seen.dropped.load(Relaxed),
                    acknowledgements: seen.acks.load(Relaxed),
                    times: tally.device.counts(),
                    reasons: reasons.iter().map(|(reason, times)| format!("{times} x {reason}")).collect(),
                }))
            }
        };
        parent.reply(reply)?;
    }
    Ok(())
}
