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
    applied: HashMap<String, u64>,
    /// From the POST sent to the event applied, in microseconds.
    times: Vec<u64>,
    twice: u64,
    refused: u64,
    last_refusal: Option<String>,
    online: HashSet<String>,
    /// Devices.
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

/// Times from the POST to the box, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Half took at most this long.
    pub p50: u64,
    /// 99 of 100 took at most this long.
    pub p99: u64,
}

impl Tally {
    /// Nothing yet.
    pub fn new(devices: usize) -> Self {
        Self {
            devices,
            ..Self::default()
        }
    }

    /// A box reports. A box at its end is the end of the demo: none should be.
    pub fn report(&mut self, report: Report) -> Result<(), Failure> {
        match report {
            Report::Online { device, resumed } => {
                self.resumed += u64::from(resumed);
                self.online.insert(device);
            }
            Report::Away { device } => {
                self.online.remove(&device);
            }
            Report::Applied { event, at_us, .. } => {
                if self.applied.contains_key(&event) {
                    self.twice += 1;
                } else {
                    self.times.extend(self.accepted.get(&event).map(|sent| at_us.saturating_sub(*sent)));
                    self.applied.insert(event, at_us);
                }
            }
            Report::Failed { device, why } => return Err(Failure::Failed(format!("{device} failed: {why}"))),
        }
        Ok(())
    }

    /// A POST was answered.
    pub fn posted(&mut self, posted: Posted) {
        match posted {
            Posted::Accepted { event, sent_us } => {
                self.times.extend(self.applied.get(&event).map(|at| at.saturating_sub(sent_us)));
                self.accepted.insert(event, sent_us);
            }
            Posted::Refused { why } => {
                self.refused += 1;
                self.last_refusal = Some(why);
            }
        }
    }

    /// A box was given trouble.
    pub fn troubled(&mut self, trouble: Option<Trouble>) {
        match trouble {
            Some(Trouble::Cut) => self.cuts += 1,
            Some(Trouble::PowerLoss) => self.power_losses += 1,
            None => {}
        }
    }

    /// Boxes that are connected.
    pub fn online(&self) -> usize {
        self.online.len()
    }

    /// Events accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.len()
    }

    /// Accepted events that a box applied.
    pub fn applied(&self) -> usize {
        self.times.len()
    }

    /// Accepted events that no box applied yet: how many.
    pub fn waiting(&self) -> usize {
        self.accepted.len().saturating_sub(self.times.len())
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

    /// From the POST sent to the event applied, over all so far.
    pub fn latency(&self) -> Option<Latency> {
        let mut times = self.times.clone();
        times.sort_unstable();
        Some(Latency {
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
        }
    }

    #[test]
    fn every_accepted_event_is_accounted_for() {
        let mut tally = Tally::new(1);
        tally.report(applied("a", 150)).unwrap(); // the box may be faster than the answer to the POST
        tally.posted(accepted("a", 100));
        tally.posted(accepted("b", 200));
        tally.posted(Posted::Refused { why: "429".into() });
        assert_eq!(tally.missing().collect::<Vec<_>>(), ["b"]);
        assert_eq!((tally.accepted(), tally.applied(), tally.refused()), (2, 1, (1, Some("429"))));
        tally.report(applied("b", 230)).unwrap();
        assert_eq!((tally.applied(), tally.applied_twice()), (2, 0));
        tally.report(applied("b", 900)).unwrap();
        assert_eq!((tally.applied(), tally.applied_twice()), (2, 1));
        assert_eq!(tally.latency(), Some(Latency { p50: 30, p99: 50 }));
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
        let mut tally = Tally::new(1);
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
