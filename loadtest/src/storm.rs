//! Boxes that lose their connections all at once, and come back.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::{
    Error,
    crowd::spread,
    event::Reading,
    report::Times,
    session::{Login, Managed, Options, Session},
};

/// Steps of a login that fail lead to another try; this many steps double the pause.
const DOUBLINGS_MAX: u32 = 6;

/// How boxes come back.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Return {
    /// The first pause; it doubles with each failure. Zero: at once, and a tenth of a second after each failure.
    pub pause: Duration,
    /// The pause is drawn from zero up to itself (full jitter).
    pub jitter: bool,
    /// Go on with the old session where the server still has it.
    pub resume: bool,
}

/// What became of the boxes.
#[derive(Default)]
pub struct Returned {
    /// When the connections were lost.
    pub lost_at: Option<Instant>,
    /// Boxes that are up.
    pub up: u64,
    /// Of those that came back, the ones that resumed.
    pub resumed: u64,
    /// From the cut until a box was back.
    pub back: Times,
    /// From connecting to being up, for the tries that succeeded.
    pub login: Times,
    /// Tries that failed, by what they met.
    pub failed: BTreeMap<String, u64>,
}

/// Boxes of one process. Dropping it ends them all.
pub struct Storm {
    cut: watch::Sender<()>,
    returned: Arc<Mutex<Returned>>,
    tasks: JoinSet<()>,
}

impl Storm {
    /// Logs in the boxes of the range, at most `at_once` of them at the same time. Box number n is called `{prefix}{n}` and
    /// is otherwise as the template says.
    ///
    /// # Errors
    /// The first login that fails.
    pub async fn log_in(
        template: &Options,
        prefix: &str,
        range: std::ops::Range<u64>,
        at_once: usize,
        coming_back: Return,
    ) -> Result<Self, Error> {
        let (cut, watched) = watch::channel(());
        let returned: Arc<Mutex<Returned>> = Arc::default();
        let gate = Arc::new(Semaphore::new(at_once.max(1)));
        let mut logins: JoinSet<Result<Station, Error>> = JoinSet::new();
        for number in range {
            let ticket = gate.clone().acquire_owned().await.map_err(|e| Error::Machine(e.to_string()))?;
            let options = Arc::new(Options {
                user: format!("{prefix}{number}"),
                source: Some(spread(number)),
                reading: Reading::Light,
                ..template.clone()
            });
            let (returned, watched) = (returned.clone(), watched.clone());
            logins.spawn(async move {
                let _ticket = ticket;
                let session = Session::log_in(options.clone()).await?;
                Ok(Station {
                    options,
                    coming_back,
                    cut: watched,
                    returned,
                    session,
                })
            });
        }
        let mut tasks = JoinSet::new();
        while let Some(done) = logins.join_next().await {
            let one = done.map_err(|e| Error::Machine(e.to_string()))??;
            one.seen().up += 1;
            tasks.spawn(one.live());
        }
        Ok(Self { cut, returned, tasks })
    }

    /// Resets every connection now.
    pub fn cut(&self) {
        self.lost();
        self.cut.send_replace(());
    }

    /// The connections are lost now, by another's doing: boxes notice by themselves.
    pub fn lost(&self) {
        self.returned().lost_at = Some(Instant::now());
    }

    /// What became of them so far.
    pub fn returned(&self) -> MutexGuard<'_, Returned> {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many boxes there are.
    pub fn boxes(&self) -> usize {
        self.tasks.len()
    }
}

struct Station {
    options: Arc<Options>,
    coming_back: Return,
    cut: watch::Receiver<()>,
    returned: Arc<Mutex<Returned>>,
    session: Session,
}

impl Station {
    fn seen(&self) -> MutexGuard<'_, Returned> {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn live(mut self) {
        loop {
            let mut cut = self.cut.clone();
            tokio::select! {
                _ = attend(&mut self.session) => {}
                _ = cut.changed() => {}
            }
            self.cut.borrow_and_update();
            let since = {
                let mut seen = self.seen();
                seen.up -= 1;
                seen.lost_at.unwrap_or_else(Instant::now)
            };
            self = self.return_since(since).await;
        }
    }

    async fn return_since(self, since: Instant) -> Self {
        let Self {
            mut options,
            coming_back,
            cut,
            returned,
            session,
        } = self;
        if let Some(token) = session.token().cloned() {
            Arc::make_mut(&mut options).login = Login::Fast(token);
        }
        let (transport, managed, jid) = session.part();
        transport.reset();
        let mut past = managed.filter(|managed| coming_back.resume && managed.id.is_some());
        let mut failures = 0;
        loop {
            tokio::time::sleep(pause(&coming_back, failures)).await;
            let start = Instant::now();
            let tried = match past.clone() {
                Some(managed) => Session::resume(options.clone(), managed, jid.clone()).await,
                None => Session::log_in(options.clone()).await.map(|session| (session, false)),
            };
            let mut seen = returned.lock().unwrap_or_else(PoisonError::into_inner);
            match tried {
                Ok((session, resumed)) => {
                    seen.up += 1;
                    seen.resumed += u64::from(resumed);
                    seen.back.add(since.elapsed());
                    seen.login.add(start.elapsed());
                    drop(seen);
                    return Self {
                        options,
                        coming_back,
                        cut,
                        returned,
                        session,
                    };
                }
                Err(error) => {
                    if seen.failed.len() < 20 {
                        *seen.failed.entry(error.to_string()).or_default() += 1;
                    }
                    failures += 1;
                    if error.refusal().is_some() && options.login != Login::Sasl {
                        // The token is no longer good: the password earns another.
                        Arc::make_mut(&mut options).login = Login::Sasl2;
                    }
                    past = past.filter(|_: &Managed| !matches!(error, Error::NothingToResume));
                }
            }
        }
    }
}

/// Reads and answers until the connection ends.
async fn attend(session: &mut Session) -> Error {
    loop {
        let mut out = String::new();
        loop {
            match session.take() {
                Ok(Some(incoming)) => session.answer(&incoming, &mut out),
                Ok(None) => break,
                Err(error) => return error,
            }
        }
        if !out.is_empty()
            && let Err(error) = session.send(&out).await
        {
            return error;
        }
        if let Err(error) = session.fill().await {
            return error;
        }
    }
}

fn pause(coming_back: &Return, failures: u32) -> Duration {
    if coming_back.pause.is_zero() {
        return if failures == 0 {
            Duration::ZERO
        } else {
            Duration::from_millis(100)
        };
    }
    let whole = coming_back.pause * 2_u32.pow(failures.min(DOUBLINGS_MAX));
    let mut random = [0; 4];
    if !coming_back.jitter || rand::fill(&mut random).is_err() {
        return whole;
    }
    whole.mul_f64(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
}
