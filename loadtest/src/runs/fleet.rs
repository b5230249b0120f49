//! The devices of a run, here or in child processes (a process may have 20,000 files open).

use std::{
    collections::HashSet,
    ops::Range,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
};

use loadtest::{Error, crowd::Crowd, report::Times};
use serde::{Deserialize, Serialize};

use super::{
    helper::{Helper, Parent},
    target::Recipe,
};

/// What the devices have seen, over all processes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Count {
    pub up: u64,
    pub dropped: u64,
    pub applied: u64,
    pub repeats: u64,
    /// Devices that applied at least one event.
    pub reached: u64,
    /// Why the first sessions ended.
    pub reasons: Vec<String>,
}

/// What a child is asked to do; one line of JSON each, answered by one line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    Earn { first: u64, last: u64, at_once: usize },
    LogIn { first: u64, last: u64, at_once: usize },
    Count,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Earned,
    Times(Vec<(u64, u64)>),
    Count(Count),
}

/// Devices in this process.
struct Share {
    crowd: Crowd,
    reached: Arc<Mutex<HashSet<u64>>>,
}

impl Share {
    fn new(recipe: &Recipe) -> Result<Self, Error> {
        let reached: Arc<Mutex<HashSet<u64>>> = Arc::default();
        let reach = reached.clone();
        let crowd = Crowd::new(
            recipe.template()?,
            &recipe.prefix,
            Arc::new(move |number, _| {
                reach.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
            }),
        );
        Ok(Self { crowd, reached })
    }

    fn count(&self) -> Count {
        let seen = self.crowd.seen();
        let reasons = seen.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        Count {
            up: seen.up.load(Relaxed),
            dropped: seen.dropped.load(Relaxed),
            applied: seen.applied.load(Relaxed),
            repeats: seen.repeats.load(Relaxed),
            reached: self.reached.lock().unwrap_or_else(PoisonError::into_inner).len() as u64,
            reasons: reasons.iter().map(|(reason, times)| format!("{times} x {reason}")).collect(),
        }
    }
}

/// All devices of a run.
pub struct Fleet {
    here: Option<Share>,
    helpers: Vec<Helper>,
}

impl Fleet {
    /// No device yet; `processes` above 1 starts that many children.
    pub async fn new(recipe: &Recipe, processes: u64) -> Result<Self, Error> {
        if processes <= 1 {
            return Ok(Self {
                here: Some(Share::new(recipe)?),
                helpers: Vec::new(),
            });
        }
        let mut helpers = Vec::new();
        for _ in 0..processes {
            helpers.push(Helper::start("crowd", recipe).await?);
        }
        Ok(Self { here: None, helpers })
    }

    /// The devices of the range earn a token each, for a login of the same range: only then is a device in the process that has
    /// its token.
    pub async fn earn(&mut self, range: Range<u64>, at_once: usize) -> Result<(), Error> {
        if let Some(share) = &mut self.here {
            return share.crowd.earn(range, at_once).await;
        }
        self.share_out(range, at_once, |first, last, at_once| Order::Earn { first, last, at_once })
            .await?;
        for helper in &mut self.helpers {
            helper.reply::<Reply>().await?;
        }
        Ok(())
    }

    /// Gives each process its part of the range.
    async fn share_out(&mut self, range: Range<u64>, at_once: usize, order: impl Fn(u64, u64, usize) -> Order) -> Result<(), Error> {
        let parts = self.helpers.len() as u64;
        let each = (range.end - range.start).div_ceil(parts.max(1));
        let at_once = (at_once / self.helpers.len().max(1)).max(1);
        let mut first = range.start;
        for helper in &mut self.helpers {
            let last = (first + each).min(range.end);
            helper.order(&order(first, last, at_once)).await?;
            first = last;
        }
        Ok(())
    }

    /// Logs in the devices of the range, at most `at_once` at the same time over all processes.
    pub async fn log_in(&mut self, range: Range<u64>, at_once: usize) -> Result<Times, Error> {
        if let Some(share) = &mut self.here {
            return share.crowd.log_in(range, at_once).await;
        }
        self.share_out(range, at_once, |first, last, at_once| Order::LogIn { first, last, at_once })
            .await?;
        let mut times = Times::default();
        for helper in &mut self.helpers {
            if let Reply::Times(counts) = helper.reply().await? {
                times.add_counts(&counts);
            }
        }
        Ok(times)
    }

    /// What they have seen so far.
    pub async fn count(&mut self) -> Result<Count, Error> {
        if let Some(share) = &self.here {
            return Ok(share.count());
        }
        let mut total = Count::default();
        for helper in &mut self.helpers {
            helper.order(&Order::Count).await?;
            if let Reply::Count(part) = helper.reply().await? {
                total.up += part.up;
                total.dropped += part.dropped;
                total.applied += part.applied;
                total.repeats += part.repeats;
                total.reached += part.reached;
                total.reasons.extend(part.reasons);
            }
        }
        Ok(total)
    }
}

/// The life of a child process: takes orders until stdin ends.
pub async fn serve_parent() -> Result<(), Error> {
    let mut parent = Parent::new();
    let mut share = Share::new(&parent.recipe().await?)?;
    while let Some(order) = parent.order().await? {
        parent.reply(match order {
            Order::Earn { first, last, at_once } => share.crowd.earn(first..last, at_once).await.map(|()| Reply::Earned),
            Order::LogIn { first, last, at_once } => {
                let times = share.crowd.log_in(first..last, at_once).await;
                times.map(|times| Reply::Times(times.counts()))
            }
            Order::Count => Ok(Reply::Count(share.count())),
        })?;
    }
    Ok(())
}
