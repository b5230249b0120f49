//! Devices that have several nodes to go to: each goes to the next one when its session ends, and now and then for no reason.
//!
//! They keep to the device guide: what was applied is remembered by lane and number, and what comes again is acknowledged and not
//! applied. All that they apply is said to whoever started them, before it is acknowledged.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Options, Password, Security, Session,
    crowd::spread,
    dice::Dice,
    event::{Incoming, NS_EVENT, Pushed},
    record::{Record, Verdict},
    xml::escape,
};

/// The longest pause after a login that failed; the shortest is a tenth.
const PAUSE: Duration = Duration::from_millis(500);

/// Which devices, and where they go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Where nodes take devices without TLS.
    pub nodes: Vec<SocketAddr>,
    /// The domain of the devices.
    pub domain: String,
    /// Device number n is called so, with n behind it.
    pub prefix: String,
    /// The password of all.
    pub password: String,
    /// How many.
    pub devices: u64,
    /// How long one stays at a node when nothing happens: up to twice that.
    pub stay: Duration,
    /// What decides when they go and how.
    pub seed: u64,
}

/// What devices say of themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// So many have a session.
    Up(u64),
    /// One acted on an event.
    Applied {
        /// Which device.
        device: u64,
        /// Which event.
        id: String,
        /// Its lane.
        lane: String,
        /// Its number there.
        seq: u64,
        /// Which delivery of it.
        attempt: u32,
    },
    /// One dropped an event that it had never seen, because its lane had gone on.
    Passed {
        /// Which device.
        device: u64,
        /// Which event.
        id: String,
    },
    /// They have ended, after so many sessions and repeats.
    Over {
        /// Sessions that there were.
        sessions: u64,
        /// Events that came again and were dropped by their number.
        repeats: u64,
    },
}

/// Takes what they say. Called by every device, in the order in which it acts.
pub type Say = dyn Fn(Said) + Send + Sync;

/// The devices. Dropping it ends them.
pub struct Wanderers {
    shared: Arc<Shared>,
    tasks: JoinSet<u64>,
}

struct Shared {
    plan: Plan,
    password: Arc<Password>,
    up: AtomicU64,
    sessions: AtomicU64,
    over: CancellationToken,
    say: Arc<Say>,
}

impl Wanderers {
    /// They begin to log in at once.
    pub fn start(plan: Plan, say: Arc<Say>) -> Self {
        let shared = Arc::new(Shared {
            password: Arc::new(Password::new(&plan.password)),
            up: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            over: CancellationToken::new(),
            say,
            plan,
        });
        let mut tasks = JoinSet::new();
        for number in 0..shared.plan.devices {
            tasks.spawn(Wanderer::new(number, shared.clone()).live());
        }
        Self { shared, tasks }
    }

    /// How many have a session.
    pub fn up(&self) -> u64 {
        self.shared.up.load(Relaxed)
    }

    /// Ends all sessions; what was read until then is said.
    ///
    /// # Errors
    /// The task of a device failed.
    pub async fn end(&mut self) -> Result<(), Error> {
        self.shared.over.cancel();
        let mut repeats = 0;
        while let Some(ended) = self.tasks.join_next().await {
            repeats += ended.map_err(|error| Error::Machine(format!("a device's task: {error}")))?;
        }
        let sessions = self.shared.sessions.load(Relaxed);
        (self.shared.say)(Said::Over { sessions, repeats });
        Ok(())
    }
}

/// What the data of an event asks its device to say of it.
#[derive(Deserialize)]
struct Asked {
    data: Option<AskedData>,
}

#[derive(Deserialize)]
struct AskedData {
    say: Option<String>,
}

/// The outcome that an event asks for, if it does: `again` at first, and `done` when it has come again.
fn outcome(event: &Pushed) -> Option<String> {
    event.require.as_ref().filter(|require| *require == "processed")?;
    let asked: Option<Asked> = serde_json::from_str(&event.json).ok();
    let say = asked.and_then(|asked| asked.data?.say).unwrap_or_else(|| "done".into());
    let (status, retry) = match say.as_str() {
        "again" if event.attempt.is_none_or(|attempt| attempt < 2) => ("failed", " retry='1'"),
        "again" => ("done", ""),
        other => (other, ""),
    };
    let (id, status) = (escape(&event.id), escape(status));
    Some(format!(
        "<iq type='set' id='o-{id}'><outcome xmlns='{NS_EVENT}' event='{id}' status='{status}'{retry}/></iq>"
    ))
}

struct Wanderer {
    number: u64,
    shared: Arc<Shared>,
    record: Record,
    dice: Dice,
    at: usize,
}

impl Wanderer {
    fn new(number: u64, shared: Arc<Shared>) -> Self {
        let dice = Dice::new(shared.plan.seed).of(number);
        Self {
            at: usize::try_from(number).unwrap_or(0),
            record: Record::default(),
            number,
            shared,
            dice,
        }
    }

    /// Answers how many repeats it dropped.
    async fn live(mut self) -> u64 {
        let over = self.shared.over.clone();
        // Not all at once.
        let first = self.dice.up_to(Duration::from_secs(2));
        let _ = over.run_until_cancelled(tokio::time::sleep(first)).await;
        while !over.is_cancelled() {
            let Some(options) = self.options() else { break };
            let session = match over.run_until_cancelled(Session::log_in(Arc::new(options))).await {
                None => break,
                Some(Ok(session)) => session,
                // A node that starts, stops or has enough: the next one, then.
                Some(Err(_)) => {
                    let pause = PAUSE / 10 + self.dice.up_to(PAUSE);
                    let _ = over.run_until_cancelled(tokio::time::sleep(pause)).await;
                    continue;
                }
            };
            self.shared.up.fetch_add(1, Relaxed);
            self.shared.sessions.fetch_add(1, Relaxed);
            self.attend(session).await;
            self.shared.up.fetch_sub(1, Relaxed);
        }
        self.record.repeats()
    }

    /// The next node, and how to be there.
    fn options(&mut self) -> Option<Options> {
        let plan = &self.shared.plan;
        self.at += 1;
        let server = *plan.nodes.get(self.at.checked_rem(plan.nodes.len())?)?;
        let user = format!("{}{}", plan.prefix, self.number);
        Some(Options {
            source: server.is_ipv4().then(|| spread(self.number)),
            // One half could come back to its session, and does not: it is found elsewhere.
            resumable: self.number.is_multiple_of(2),
            ..Options::new(server, Security::Plain, &plan.domain, &user, self.shared.password.clone())
        })
    }

    /// Reads and answers until the session ends, the device feels like going, or all is over.
    async fn attend(&mut self, mut session: Session) {
        let goes_at = Instant::now() + self.dice.up_to(self.shared.plan.stay * 2);
        let over = self.shared.over.clone();
        loop {
            if self.act(&mut session).await.is_err() {
                return;
            }
            tokio::select! {
                biased;
                read = session.fill() => if read.is_err() {
                    // What came before the end counts.
                    let _ = self.act(&mut session).await;
                    return;
                },
                () = over.cancelled() => break,
                () = tokio::time::sleep_until(goes_at) => break,
            }
        }
        if self.dice.below(2) == 0 || over.is_cancelled() {
            // An orderly goodbye; else the connection is simply gone. The server may have ended it already.
            let _ = session.end().await;
        }
    }

    async fn act(&self, session: &mut Session) -> Result<(), Error> {
        let mut out = String::new();
        while let Some(incoming) = session.take()? {
            if let Incoming::Event(event) = &incoming {
                self.take(event);
                if let Some(outcome) = outcome(event) {
                    session.queue_stanza(outcome, &mut out);
                }
            }
            session.answer(&incoming, &mut out);
        }
        if out.is_empty() { Ok(()) } else { session.send(&out).await }
    }

    fn take(&self, event: &Pushed) {
        let said = match self.record.judge(event) {
            Verdict::Repeat => return,
            Verdict::Apply => Said::Applied {
                device: self.number,
                id: event.id.clone(),
                lane: event.lane.clone(),
                seq: event.seq,
                attempt: event.attempt.unwrap_or(1),
            },
            Verdict::OutOfOrder => Said::Passed {
                device: self.number,
                id: event.id.clone(),
            },
        };
        (self.shared.say)(said);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_says_of_an_event_what_its_data_asks_for() {
        let check = |require: Option<&str>, data: &str, attempt: u32, expected: Option<&str>| {
            let event = Pushed {
                id: "e".into(),
                require: require.map(str::to_owned),
                attempt: Some(attempt),
                json: format!("{{\"data\":{data}}}"),
                ..Pushed::default()
            };
            let said = outcome(&event);
            assert_eq!(said.is_some(), expected.is_some(), "{said:?}");
            assert!(said.unwrap_or_default().contains(expected.unwrap_or_default()));
        };
        check(None, "{\"say\":\"done\"}", 1, None);
        check(Some("received"), "{}", 1, None);
        check(Some("processed"), "{}", 1, Some("status='done'"));
        check(Some("processed"), "{\"say\":\"rejected\"}", 1, Some("status='rejected'"));
        check(Some("processed"), "{\"say\":\"again\"}", 1, Some("status='failed' retry='1'"));
        check(Some("processed"), "{\"say\":\"again\"}", 2, Some("status='done'"));
    }
}
