//! The boxes of a storm, in child processes that stand back for everything else on their core: what the sessions that stay up
//! feel is to be the server's doing, not the driver's.

use std::{collections::BTreeMap, time::Duration};

use loadtest::{
    Error, process,
    report::Times,
    storm::{Return, Storm},
};
use serde::{Deserialize, Serialize};

use super::{
    helper::{Helper, Parent},
    target::Recipe,
};

/// What a child is asked to do.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    LogIn {
        first: u64,
        last: u64,
        at_once: usize,
        coming_back: Return,
    },
    Cut,
    Lost,
    Look,
    Report,
}

/// How far the boxes are.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub struct Look {
    /// Boxes that are up.
    pub up: u64,
    /// Returns so far.
    pub back: u64,
}

/// What became of the boxes.
#[derive(Default, Serialize, Deserialize)]
struct Part {
    resumed: u64,
    back: Vec<(u64, u64)>,
    login: Vec<(u64, u64)>,
    failed: BTreeMap<String, u64>,
}

/// The same, of all of them.
#[derive(Default)]
pub struct Whole {
    pub resumed: u64,
    pub back: Times,
    pub login: Times,
    pub failed: BTreeMap<String, u64>,
    /// What the children used since the connections were lost.
    pub driver_cpu: Duration,
}

/// All boxes of a run.
pub struct Boxes {
    helpers: Vec<Helper>,
    cpu_before: Duration,
}

impl Boxes {
    /// Starts the child processes and logs in the boxes, at most `at_once` at the same time over all of them.
    pub async fn log_in(recipe: &Recipe, drivers: u64, boxes: u64, at_once: usize, coming_back: Return) -> Result<Self, Error> {
        let drivers = drivers.clamp(1, boxes.max(1));
        let each = boxes.div_ceil(drivers);
        let at_once = (at_once / usize::try_from(drivers).unwrap_or(1)).max(1);
        let mut helpers = Vec::new();
        for driver in 0..drivers {
            let mut helper = Helper::start("boxes", recipe).await?;
            let (first, last) = (driver * each, ((driver + 1) * each).min(boxes));
            let order = Order::LogIn {
                first,
                last,
                at_once,
                coming_back,
            };
            helper.order(&order).await?;
            helpers.push(helper);
        }
        for helper in &mut helpers {
            helper.reply::<Look>().await?;
        }
        Ok(Self {
            helpers,
            cpu_before: Duration::ZERO,
        })
    }

    /// Every box resets its connection now.
    pub async fn cut(&mut self) -> Result<(), Error> {
        self.all(&Order::Cut).await.map(drop)
    }

    /// The connections are lost now, by another's doing: boxes notice by themselves.
    pub async fn lost(&mut self) -> Result<(), Error> {
        self.all(&Order::Lost).await.map(drop)
    }

    /// How far they are.
    pub async fn look(&mut self) -> Result<Look, Error> {
        let looks = self.all(&Order::Look).await?;
        Ok(looks.into_iter().fold(Look::default(), |sum, one| Look {
            up: sum.up + one.up,
            back: sum.back + one.back,
        }))
    }

    async fn all(&mut self, order: &Order) -> Result<Vec<Look>, Error> {
        if matches!(order, Order::Cut | Order::Lost) {
            self.cpu_before = self.cpu();
        }
        for helper in &mut self.helpers {
            helper.order(order).await?;
        }
        let mut looks = Vec::new();
        for helper in &mut self.helpers {
            looks.push(helper.reply().await?);
        }
        Ok(looks)
    }

    fn cpu(&self) -> Duration {
        let pids = self.helpers.iter().filter_map(Helper::pid);
        // One that has ended is told of by its next reply.
        pids.filter_map(|pid| process::cpu(pid).ok()).sum()
    }

    /// What became of them.
    pub async fn report(&mut self) -> Result<Whole, Error> {
        let mut whole = Whole {
            driver_cpu: self.cpu().saturating_sub(self.cpu_before),
            ..Whole::default()
        };
        for helper in &mut self.helpers {
            helper.order(&Order::Report).await?;
            let part: Part = helper.reply().await?;
            whole.resumed += part.resumed;
            whole.back.add_counts(&part.back);
            whole.login.add_counts(&part.login);
            for (reason, times) in part.failed {
                *whole.failed.entry(reason).or_default() += times;
            }
        }
        Ok(whole)
    }
}

/// The life of a child process: takes orders until stdin ends.
pub async fn serve_parent() -> Result<(), Error> {
    process::stand_back()?;
    let mut parent = Parent::new();
    let recipe = parent.recipe().await?;
    let Some(Order::LogIn {
        first,
        last,
        at_once,
        coming_back,
    }) = parent.order().await?
    else {
        return Ok(());
    };
    let logged_in = Storm::log_in(&recipe.template()?, &recipe.prefix, first..last, at_once, coming_back).await;
    let storm = match logged_in {
        Ok(storm) => storm,
        Err(error) => return parent.reply::<Look>(Err(error)),
    };
    parent.reply(Ok(look(&storm)))?;
    while let Some(order) = parent.order().await? {
        match order {
            Order::Cut => storm.cut(),
            Order::Lost => storm.lost(),
            Order::LogIn { .. } | Order::Look => {}
            Order::Report => {
                let returned = storm.returned();
                parent.reply(Ok(Part {
                    resumed: returned.resumed,
                    back: returned.back.counts(),
                    login: returned.login.counts(),
                    failed: returned.failed.clone(),
                }))?;
                continue;
            }
        }
        parent.reply(Ok(look(&storm)))?;
    }
    Ok(())
}

fn look(storm: &Storm) -> Look {
    let returned = storm.returned();
    Look {
        up: returned.up,
        back: returned.back.count(),
    }
}
