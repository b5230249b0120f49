//! Backends that post to all nodes and keep a list of what was accepted.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use loadtest::{Answer, Poster, dice::Dice};
use serde_json::{Value, json};

use crate::{
    crowd::PREFIX,
    stage::{LATE, Stage},
    support::block_on,
};

/// Devices that never come.
pub const AWAY: u64 = 5;
/// Two a node.
const POSTERS: usize = 6;
/// Between two events of a poster, so that the machine is loaded and not full.
const PACE: Duration = Duration::from_millis(40);
/// The longest that an answer may ask to wait for.
const RETRY_AFTER_MAX: u64 = 60;

/// What an event is like, and so how it may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Plain,
    Received,
    /// With the outcome that its device tells.
    Processed(&'static str),
    Collapsing,
    Cancelled,
    ShortLived,
    AwayShortLived,
    AwayCollapsing,
    AwayCancelled,
}

impl Kind {
    fn of(number: u64) -> Self {
        match number % 20 {
            0..8 => Self::Plain,
            8 | 9 => Self::Received,
            10 => Self::Processed("done"),
            11 => Self::Processed("rejected"),
            12 => Self::Processed("failed"),
            13 => Self::Processed("again"),
            14 | 15 => Self::Collapsing,
            16 => Self::Cancelled,
            17 => Self::ShortLived,
            18 => Self::AwayShortLived,
            _ if number.is_multiple_of(40) => Self::AwayCollapsing,
            _ => Self::AwayCancelled,
        }
    }

    /// The states of which it must end in one.
    pub fn ends(self) -> &'static [&'static str] {
        match self {
            Self::Plain | Self::Received => &["delivered"],
            Self::Processed("rejected") => &["rejected"],
            Self::Processed("failed") => &["failed"],
            Self::Processed(_) => &["processed"],
            Self::Collapsing => &["delivered", "replaced"],
            Self::Cancelled => &["delivered", "cancelled"],
            Self::ShortLived => &["delivered", "expired"],
            Self::AwayShortLived => &["expired"],
            Self::AwayCollapsing => &["expired", "replaced"],
            Self::AwayCancelled => &["cancelled"],
        }
    }

    fn is_cancelled(self) -> bool {
        matches!(self, Self::Cancelled | Self::AwayCancelled)
    }
}

/// An event that was accepted: its 2xx was read.
#[derive(Clone, Debug)]
pub struct Accepted {
    pub id: String,
    pub device: String,
    pub kind: Kind,
    /// Who posted it, and his how many-th it was.
    pub poster: usize,
    pub number: u64,
    /// Which node said so, and when, as its log has it.
    pub node: usize,
    pub at: String,
}

/// What backends have to tell.
#[derive(Debug, Default)]
pub struct Posted {
    pub accepted: Vec<Accepted>,
    /// Answers 429 and 503.
    pub refused: u64,
    /// Requests that got no answer.
    pub unanswered: u64,
    /// The longest time from the first try to the 2xx.
    pub longest: Duration,
}

/// The posters, at work.
pub struct Posts {
    over: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    posters: Vec<JoinHandle<Posted>>,
}

impl Posts {
    pub fn start<R>(stage: &Stage<R>, devices: u64, durability: &'static str, seed: u64) -> Self {
        let (over, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let posters = (0..POSTERS)
            .map(|poster| {
                let backend = Anywhere::new(stage, poster);
                let dice = Dice::new(seed).of(poster as u64 + 1_000_000);
                let (over, accepted) = (over.clone(), accepted.clone());
                std::thread::spawn(move || {
                    let mut at_work = AtWork {
                        backend,
                        poster,
                        devices,
                        durability,
                        dice,
                        posted: Posted::default(),
                    };
                    for number in 0.. {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        at_work.post(number);
                        accepted.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(PACE);
                    }
                    let mut posted = at_work.posted;
                    (posted.refused, posted.unanswered) = (at_work.backend.refused, at_work.backend.unanswered);
                    posted
                })
            })
            .collect();
        Self { over, accepted, posters }
    }

    /// How many were accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Each poster ends with an event that is accepted.
    pub fn end(self) -> Posted {
        self.over.store(true, Ordering::Relaxed);
        let mut all = Posted::default();
        for poster in self.posters {
            let posted = poster.join().expect("a poster met what it must not");
            all.accepted.extend(posted.accepted);
            all.refused += posted.refused;
            all.unanswered += posted.unanswered;
            all.longest = all.longest.max(posted.longest);
        }
        all
    }
}

/// A backend behind a balancer: it tries one node after the other, and waits as it is told.
pub struct Anywhere {
    posters: Vec<Poster>,
    at: usize,
    pub refused: u64,
    pub unanswered: u64,
}

impl Anywhere {
    pub fn new<R>(stage: &Stage<R>, first: usize) -> Self {
        let poster = |address: SocketAddr| Poster::new(address, Some(stage.key.clone()));
        Self {
            posters: stage.nodes.iter().map(|node| poster(node.http)).collect(),
            at: first,
            refused: 0,
            unanswered: 0,
        }
    }

    /// Sends a request until it has an answer other than 429 and 503, which must say when to come again.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < LATE, "{method} {path} was refused for {:?}", began.elapsed());
            let node = self.node();
            let Ok(answer) = block_on(self.posters[node].request(method, path, headers, body)) else {
                // It is down, or went down meanwhile: a balancer would choose another.
                self.unanswered += 1;
                self.at += 1;
                std::thread::sleep(Duration::from_millis(20));
                continue;
            };
            if !matches!(answer.status, 429 | 503) {
                return answer;
            }
            self.refused += 1;
            let wait = answer.header("retry-after").and_then(|after| after.parse().ok());
            let wait = wait.unwrap_or_else(|| panic!("{} without Retry-After: {}", answer.status, answer.text()));
            assert!(wait <= RETRY_AFTER_MAX, "come again in {wait} s: {}", answer.text());
            std::thread::sleep(Duration::from_secs(wait));
            self.at += 1;
        }
    }

    fn node(&self) -> usize {
        self.at % self.posters.len()
    }

    /// `unknown` when the service does not know it.
    pub fn state(&mut self, id: &str) -> String {
        let answer = self.request("GET", &format!("/v1/events/{id}"), &[], b"");
        if answer.status == 404 {
            return "unknown".to_owned();
        }
        assert_eq!(answer.status, 200, "{id}: {}", answer.text());
        answer.json().unwrap()["state"].as_str().unwrap().to_owned()
    }

    pub fn cancel(&mut self, id: &str) {
        let answer = self.request("DELETE", &format!("/v1/events/{id}"), &[], b"");
        assert_eq!(answer.status, 200, "{id}: {}", answer.text());
    }

    /// Posts with a key, and gives the id.
    pub fn post(&mut self, event: &Value, key: &str, durability: &str) -> String {
        let key = format!("\"{key}\"");
        let headers = [("content-type", "application/json"), ("idempotency-key", key.as_str())];
        let answer = self.request("POST", "/v1/events", &headers, event.to_string().as_bytes());
        assert!(matches!(answer.status, 200 | 202), "{}: {}", answer.status, answer.text());
        assert_eq!(answer.header("push-durability"), Some(durability), "{}", answer.text());
        answer.json().unwrap()["id"].as_str().unwrap().to_owned()
    }
}

struct AtWork {
    backend: Anywhere,
    poster: usize,
    devices: u64,
    durability: &'static str,
    dice: Dice,
    posted: Posted,
}

impl AtWork {
    fn post(&mut self, number: u64) {
        let kind = Kind::of(number + self.poster as u64 * 7);
        let (device, event) = self.event(kind, number);
        let began = Instant::now();
        let id = self.backend.post(&event, &format!("{}-{number}", self.poster), self.durability);
        self.posted.longest = self.posted.longest.max(began.elapsed());
        if kind.is_cancelled() {
            self.backend.cancel(&id);
        }
        self.posted.accepted.push(Accepted {
            id,
            device,
            kind,
            poster: self.poster,
            number,
            node: self.backend.node(),
            at: jiff::Timestamp::now().to_string(),
        });
        // The next one goes to another node.
        self.backend.at += 1;
    }

    fn event(&mut self, kind: Kind, number: u64) -> (String, Value) {
        let present = |number: u64| format!("{PREFIX}{number}");
        let away = |number: u64| format!("away{}", number % AWAY);
        let thrown = self.dice.below(self.devices);
        let urgency = ["low", "normal", "high"][usize::try_from(self.dice.below(3)).unwrap()];
        let mut event = json!({"type": "test", "urgency": urgency, "data": {"poster": self.poster, "number": number}});
        let mut set = |name: &str, value: Value| event[name] = value;
        let device = match kind {
            Kind::Plain | Kind::Cancelled => present(thrown),
            Kind::Received => {
                set("require", json!("received"));
                present(thrown)
            }
            Kind::Processed(say) => {
                set("require", json!("processed"));
                event["data"]["say"] = json!(say);
                present(thrown)
            }
            Kind::Collapsing => {
                set("collapse_key", json!("volume"));
                // Few, so that they meet.
                present(thrown % 8)
            }
            Kind::ShortLived => {
                set("ttl", json!(1));
                present(thrown)
            }
            Kind::AwayShortLived => {
                set("ttl", json!(2));
                away(number)
            }
            Kind::AwayCollapsing => {
                set("ttl", json!(10));
                set("collapse_key", json!("volume"));
                away(thrown)
            }
            Kind::AwayCancelled => away(thrown),
        };
        event["target"] = json!({ "device": device });
        (device, event)
    }
}
