//! What the demo counts: every accepted event, by its id, from the POST to the box.

use std::collections::{HashMap, HashSet};

use super::{backend::Posted, boxes::Report, fleet::Trouble};
use crate::cli::Failure;

/// Counts of one run.
#[derive(Debug, Default)]
pub struct Tally {
    /// Events with a 2xx answer, and when their POST was sent.
    accepted: HashMap<String, u64>,
    /// Events that a box applied, and when first.
    applied: HashMap<String, Application>,
    /// Of events pushed: from the POST sent to the event applied, in microseconds.
    times: Vec<u64>,
    twice: u64,
    refused: u64,
    last_refusal: Option<String>,
    /// How durable what was accepted last is, in the server's word.
    durability: String,
    online: HashSet<String>,
    /// Boxes that poll.
    control: HashSet<String>,
    /// Those of them that polled.
    polling: HashSet<String>,
    /// Of events applied by boxes that poll: from the POST sent.
    polled_times: Vec<u64>,
    /// Boxes that are pushed to.
    pub devices: usize,
    /// Connections cut so far.
    pub cuts: u64,
    /// Boxes that lost their power so far.
    pub power_losses: u64,
    /// Sessions that went on after a cut.
    pub resumed: u64,
    /// The server's own count, if it tells.
    pub polls_avoided: Option<f64>,
}

/// How an event was applied.
#[derive(Clone, Copy, Debug)]
struct Application {
    /// When, in microseconds since 1970.
    at_us: u64,
    /// By a box that polls.
    polled: bool,
}

/// Times from the POST to the box, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Half took at most this long.
    pub p50: u64,
    /// 99 of 100 took at most this long.
    pub p99: u64,
}

impl Tally {
    /// Nothing yet. `control`: the boxes that poll, beside `devices` that are pushed to.
    pub fn new(devices: usize, control: impl Iterator<Item = String>) -> Self {
        Self {
            devices,
            control: control.collect(),
            ..Self::default()
        }
    }

    /// A box reports. A box at its end is the end of the demo: none should be.
    pub fn report(&mut self, report: Report) -> Result<(), Failure> {
        match report {
            Report::Online { device, resumed } => {
                self.resumed += u64::from(resumed);
                if self.control.contains(&device) {
                    self.polling.insert(device);
                } else {
                    self.online.insert(device);
                }
            }
            Report::Away { device } => {
                self.online.remove(&device);
                self.polling.remove(&device);
            }
            Report::Applied { device, event, at_us } => {
                if self.applied.contains_key(&event) {
                    self.twice += 1;
                } else {
                    let polled = self.control.contains(&device);
                    let application = Application { at_us, polled };
                    if let Some(sent_us) = self.accepted.get(&event).copied() {
                        self.time(application, sent_us);
                    }
                    self.applied.insert(event, application);
                }
            }
            Report::Failed { device, why } => return Err(Failure::Failed(format!("{device} failed: {why}"))),
        }
        Ok(())
    }

    /// A POST was answered.
    pub fn posted(&mut self, posted: Posted) {
        match posted {
            Posted::Accepted {
                event,
                sent_us,
                durability,
            } => {
                self.durability = durability;
                if let Some(application) = self.applied.get(&event).copied() {
                    self.time(application, sent_us);
                }
                self.accepted.insert(event, sent_us);
            }
            Posted::Refused { why } => {
                self.refused += 1;
                self.last_refusal = Some(why);
            }
        }
    }

    fn time(&mut self, application: Application, sent_us: u64) {
        let times = if application.polled {
            &mut self.polled_times
        } else {
            &mut self.times
        };
        times.push(application.at_us.saturating_sub(sent_us));
    }

    /// A box was given trouble.
    pub fn troubled(&mut self, trouble: Option<Trouble>) {
        match trouble {
            Some(Trouble::Cut) => self.cuts += 1,
            Some(Trouble::PowerLoss) => self.power_losses += 1,
            None => {}
        }
    }

    /// How durable what was accepted is, in words.
    pub fn durability(&self) -> &'static str {
        match self.durability.as_str() {
            "disk" => "durable on disk",
            "replicated" => "durable in Redis and at a replica",
            "primary" => "durable in Redis",
            _ => "accepted",
        }
    }

    /// Boxes that are connected.
    pub fn online(&self) -> usize {
        self.online.len()
    }

    /// Boxes that poll.
    pub fn polling(&self) -> usize {
        self.polling.len()
    }

    /// Boxes that are to poll.
    pub fn control(&self) -> usize {
        self.control.len()
    }

    /// Events accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.len()
    }

    /// Accepted events that a box applied.
    pub fn applied(&self) -> usize {
        self.times.len() + self.polled_times.len()
    }

    /// Accepted events that no box applied yet: how many.
    pub fn waiting(&self) -> usize {
        self.accepted.len().saturating_sub(self.applied())
    }

    /// Accepted events that no box applied yet: which.
    pub fn missing(&self) -> impl Iterator<Item = &String> {
        self.accepted.keys().filter(|event| !self.applied.contains_key(*event))
    }

    /// Events that a box applied more than once.
    pub fn applied_twice(&self) -> u64 {
        self.twice
    }

    /// POSTs that were refused or failed, and why the last one was.
    pub fn refused(&self) -> (u64, Option<&str>) {
        (self.refused, self.last_refusal.as_deref())
    }

    /// From the POST sent to the event applied, over all so far that were pushed.
    pub fn latency(&self) -> Option<Latency> {
        Latency::of(&self.times)
    }

    /// The same over all that were fetched by a poll.
    pub fn polled_latency(&self) -> Option<Latency> {
        Latency::of(&self.polled_times)
    }
}

impl Latency {
    fn of(times: &[u64]) -> Option<Self> {
        let mut times = times.to_vec();
        times.sort_unstable();
        Some(Self {
            p50: percentile(&times, 50)?,
            p99: percentile(&times, 99)?,
        })
    }
}

/// The smallest of the sorted times that `percent` of them do not exceed.
fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(event: &str, at_us: u64) -> Report {
        Report::Applied {
            device: "box".into(),
            event: event.into(),
            at_us,
        }
    }

    fn accepted(event: &str, sent_us: u64) -> Posted {
        Posted::Accepted {
            event: event.into(),
            sent_us,
            durability: "disk".into(),
        }
    }

    #[test]
    fn every_accepted_event_is_accounted_for() {
        let mut tally = Tally::new(1, std::iter::empty());
        tally.report(applied("a", 150)).unwrap(); // the box may be faster than the answer to the POST
        tally.posted(accepted("a", 100));
        tally.posted(accepted("b", 200));
        tally.posted(Posted::Refused { why: "429".into() });
        assert_eq!(tally.missing().collect::<Vec<_>>(), ["b"]);
        assert_eq!((tally.accepted(), tally.applied(), tally.refused()), (2, 1, (1, Some("429"))));
        assert_eq!(tally.durability(), "durable on disk");
        tally.report(applied("b", 230)).unwrap();
        assert_eq!((tally.applied(), tally.applied_twice()), (2, 0));
        tally.report(applied("b", 900)).unwrap();
        assert_eq!((tally.applied(), tally.applied_twice()), (2, 1));
        assert_eq!(tally.latency(), Some(Latency { p50: 30, p99: 50 }));
    }

    #[test]
    fn pushed_and_polled_events_have_times_of_their_own() {
        let mut tally = Tally::new(1, ["poller".to_owned()].into_iter());
        let polls = Report::Online {
            device: "poller".into(),
            resumed: false,
        };
        tally.report(polls).unwrap();
        assert_eq!((tally.online(), tally.polling(), tally.control()), (0, 1, 1));
        tally.posted(accepted("a", 100));
        tally.posted(accepted("b", 100));
        tally.report(applied("a", 150)).unwrap();
        assert_eq!(tally.waiting(), 1);
        let fetched = Report::Applied {
            device: "poller".into(),
            event: "b".into(),
            at_us: 1_100,
        };
        tally.report(fetched).unwrap();
        assert_eq!((tally.waiting(), tally.applied()), (0, 2));
        assert_eq!(tally.latency(), Some(Latency { p50: 50, p99: 50 }));
        assert_eq!(tally.polled_latency(), Some(Latency { p50: 1_000, p99: 1_000 }));
    }

    #[test]
    fn percentiles_are_times_that_occurred() {
        let check = |times: &[u64], percent, expected| assert_eq!(percentile(times, percent), expected, "{times:?} {percent}");
        check(&[], 50, None);
        check(&[7], 50, Some(7));
        check(&[7], 99, Some(7));
        check(&[1, 2, 3, 4], 50, Some(2));
        check(&(1..=100).collect::<Vec<_>>(), 99, Some(99));
        check(&(1..=1000).collect::<Vec<_>>(), 99, Some(990));
    }

    #[test]
    fn boxes_come_and_go() {
        let mut tally = Tally::new(1, std::iter::empty());
        let online = |resumed| Report::Online {
            device: "box".into(),
            resumed,
        };
        tally.report(online(false)).unwrap();
        tally.report(Report::Away { device: "box".into() }).unwrap();
        assert_eq!(tally.online(), 0);
        tally.report(online(true)).unwrap();
        assert_eq!((tally.online(), tally.resumed), (1, 1));
        assert!(
            tally
                .report(Report::Failed {
                    device: "box".into(),
                    why: "login".into()
                })
                .is_err()
        );
    }
}
