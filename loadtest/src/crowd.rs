//! Many devices in one process, each with as little memory as a session allows.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    Error,
    event::{Incoming, Pushed, Reading},
    report::Times,
    sasl2::Token,
    session::{Login, Options, Session},
};

/// Called with the device's number and each event it applied, repeats left out.
pub type OnEvent = dyn Fn(u64, &Pushed) + Send + Sync;

/// What the crowd has seen.
#[derive(Default)]
pub struct Seen {
    /// Sessions that are up.
    pub up: AtomicU64,
    /// Sessions that ended, although nobody asked.
    pub dropped: AtomicU64,
    /// Events applied.
    pub applied: AtomicU64,
    /// Events dropped by their lane number.
    pub repeats: AtomicU64,
    /// Acknowledgements sent.
    pub acks: AtomicU64,
    /// Why the first sessions ended.
    pub reasons: Mutex<HashMap<String, u64>>,
}

/// Devices of one process. Dropping it ends them all.
pub struct Crowd {
    template: Options,
    prefix: String,
    on_event: Arc<OnEvent>,
    seen: Arc<Seen>,
    tasks: JoinSet<()>,
    /// For the next login of a device, by its number.
    tokens: HashMap<u64, Token>,
}

impl Crowd {
    /// A crowd of nobody yet. Device number n is called `{prefix}{n}` and is otherwise as the template says.
    pub fn new(template: Options, prefix: &str, on_event: Arc<OnEvent>) -> Self {
        let template = Options {
            reading: Reading::Light,
            ..template
        };
        Self {
            template,
            prefix: prefix.into(),
            on_event,
            seen: Arc::default(),
            tasks: JoinSet::new(),
            tokens: HashMap::new(),
        }
    }

    /// What it has seen so far.
    pub fn seen(&self) -> &Arc<Seen> {
        &self.seen
    }

    /// Logs in each device of the range with its password for a token (XEP-0484), and once by that, because the first use of a
    /// token is a change of its own. Both sessions are ended; the next login is as all that follow.
    ///
    /// # Errors
    /// The first login that fails; [`Error::NotOffered`] when the server gives no token.
    pub async fn earn(&mut self, range: std::ops::Range<u64>, at_once: usize) -> Result<(), Error> {
        let gate = Arc::new(Semaphore::new(at_once.max(1)));
        let mut logins: JoinSet<Result<(u64, Token), Error>> = JoinSet::new();
        for number in range {
            let ticket = gate.clone().acquire_owned().await.map_err(|e| Error::Machine(e.to_string()))?;
            let options = Options {
                login: Login::Sasl2,
                ..self.options(number)
            };
            logins.spawn(async move {
                let _ticket = ticket;
                let session = Session::log_in(Arc::new(options.clone())).await?;
                let token = session.token().cloned().ok_or(Error::NotOffered("a FAST token"))?;
                session.end().await?;
                let login = Login::Fast(token.clone());
                let session = Session::log_in(Arc::new(Options { login, ..options })).await?;
                let token = session.token().cloned().unwrap_or(token);
                session.end().await?;
                Ok((number, token))
            });
        }
        while let Some(done) = logins.join_next().await {
            let (number, token) = done.map_err(|e| Error::Machine(e.to_string()))??;
            self.tokens.insert(number, token);
        }
        Ok(())
    }

    /// Logs in the devices of the range, at most `at_once` of them at the same time; they then stay in the crowd. The times are
    /// from connecting to initial presence.
    ///
    /// # Errors
    /// The first login that fails.
    pub async fn log_in(&mut self, range: std::ops::Range<u64>, at_once: usize) -> Result<Times, Error> {
        let gate = Arc::new(Semaphore::new(at_once.max(1)));
        let times = Arc::new(Mutex::new(Times::default()));
        let mut logins: JoinSet<Result<(u64, Session), Error>> = JoinSet::new();
        for number in range {
            let ticket = gate.clone().acquire_owned().await.map_err(|e| Error::Machine(e.to_string()))?;
            self.take_in(&mut logins, false).await?;
            let options = self.options(number);
            let times = times.clone();
            logins.spawn(async move {
                let _ticket = ticket;
                let start = Instant::now();
                let session = Session::log_in(Arc::new(options)).await?;
                times.lock().unwrap_or_else(PoisonError::into_inner).add(start.elapsed());
                Ok((number, session))
            });
        }
        self.take_in(&mut logins, true).await?;
        let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut times))
    }

    fn options(&self, number: u64) -> Options {
        let user = format!("{}{number}", self.prefix);
        let login = match self.tokens.get(&number) {
            Some(token) => Login::Fast(token.clone()),
            None => self.template.login.clone(),
        };
        let source = self.template.server.ip().is_loopback() && self.template.server.is_ipv4();
        Options {
            user,
            login,
            source: source.then(|| spread(number)),
            ..self.template.clone()
        }
    }

    async fn take_in(&mut self, logins: &mut JoinSet<Result<(u64, Session), Error>>, all: bool) -> Result<(), Error> {
        loop {
            let done = if all { logins.join_next().await } else { logins.try_join_next() };
            let Some(done) = done else { return Ok(()) };
            let (number, session) = done.map_err(|e| Error::Machine(e.to_string()))??;
            self.seen.up.fetch_add(1, Relaxed);
            let (seen, on_event) = (self.seen.clone(), self.on_event.clone());
            // A fresh task: that of the login was larger.
            self.tasks.spawn(async move {
                let reason = live(number, session, &seen, &*on_event).await;
                seen.up.fetch_sub(1, Relaxed);
                seen.dropped.fetch_add(1, Relaxed);
                let mut reasons = seen.reasons.lock().unwrap_or_else(PoisonError::into_inner);
                if reasons.len() < 20 {
                    *reasons.entry(reason.to_string()).or_default() += 1;
                }
            });
        }
    }
}

/// A source address for each 500 devices, so that no address runs out of ports.
pub(crate) fn spread(number: u64) -> IpAddr {
    let block = number / 500;
    let byte = |value: u64| u8::try_from(value % 250).unwrap_or(0);
    IpAddr::V4(Ipv4Addr::new(
        127,
        0,
        byte(block / 250).saturating_add(1),
        byte(block).saturating_add(1),
    ))
}

async fn live(number: u64, mut session: Session, seen: &Seen, on_event: &OnEvent) -> Error {
    let mut lanes: Vec<(String, u64)> = Vec::new();
    loop {
        if let Err(reason) = turn(number, &mut session, &mut lanes, seen, on_event).await {
            return reason;
        }
        if let Err(reason) = session.fill().await {
            return reason;
        }
    }
}

async fn turn(number: u64, session: &mut Session, lanes: &mut Vec<(String, u64)>, seen: &Seen, on_event: &OnEvent) -> Result<(), Error> {
    let mut out = String::new();
    while let Some(incoming) = session.take()? {
        session.answer(&incoming, &mut out);
        match &incoming {
            Incoming::Event(event) if is_new(lanes, event) => {
                seen.applied.fetch_add(1, Relaxed);
                on_event(number, event);
            }
            Incoming::Event(_) => {
                seen.repeats.fetch_add(1, Relaxed);
            }
            Incoming::AckRequested => {
                seen.acks.fetch_add(1, Relaxed);
            }
            _ => {}
        }
    }
    if out.is_empty() { Ok(()) } else { session.send(&out).await }
}

fn is_new(lanes: &mut Vec<(String, u64)>, event: &Pushed) -> bool {
    match lanes.iter_mut().find(|(lane, _)| *lane == event.lane) {
        Some((_, last)) if event.seq <= *last => false,
        Some((_, last)) => {
            *last = event.seq;
            true
        }
        None => {
            lanes.push((event.lane.clone(), event.seq));
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_loopback_and_hold_at_most_500_devices_each() {
        let mut devices: HashMap<IpAddr, u64> = HashMap::new();
        for number in 0..120_000 {
            let source = spread(number);
            assert!(source.is_loopback());
            *devices.entry(source).or_default() += 1;
        }
        assert!(devices.values().all(|count| *count <= 500), "{:?}", devices.values().max());
    }
}
