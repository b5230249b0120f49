//! What the demo shows: a few lines redrawn on a terminal, else a line a second; and the summary.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use serde_json::Value;

use super::{
    metrics::Metrics,
    tally::{Latency, Tally},
};
use crate::cli::{Failure, Outcome, report, say};

/// The poll interval that a fleet in the field is compared with, in seconds (the ledger's default).
const USUAL_INTERVAL_SECS: u64 = 900;
/// Lost events that are named.
const LOST_SHOWN: usize = 10;

/// The view of one run.
pub struct View {
    devices: u32,
    seconds: u64,
    interval_secs: u64,
    terminal: bool,
    /// Lines drawn on the terminal, to be drawn over.
    drawn: usize,
    /// The second that was logged last.
    logged: Option<u64>,
}

impl View {
    /// A view on what stdout is.
    pub fn new(devices: u32, seconds: u64, interval_secs: u64) -> Self {
        Self {
            devices,
            seconds,
            interval_secs,
            terminal: std::io::stdout().is_terminal(),
            drawn: 0,
            logged: None,
        }
    }

    /// Shows how things stand. A stdout that is gone is told by the summary.
    /// `nodes`: how many serve and how many there are, if there are several.
    pub fn show(&mut self, tally: &Tally, nodes: Option<(usize, usize)>, elapsed: Duration, posting: bool) {
        let mut out = std::io::stdout().lock();
        let facts = self.facts(tally, nodes);
        if self.terminal {
            let phase = if posting {
                format!("{} s of {} s", elapsed.as_secs(), self.seconds)
            } else {
                "the last events arrive".into()
            };
            let head = format!(
                "unpoll demo: {} boxes pushed to over TLS, {} that poll every {} s, {phase}",
                self.devices,
                tally.control(),
                self.interval_secs
            );
            let up = if self.drawn > 0 {
                format!("\x1b[{}A", self.drawn)
            } else {
                String::new()
            };
            let lines: String = std::iter::once(&head)
                .chain(&facts)
                .map(|line| format!("\x1b[2K{line}\n"))
                .collect();
            self.drawn = facts.len() + 1;
            let _ = write!(out, "{up}{lines}");
        } else if self.logged != Some(elapsed.as_secs()) {
            self.logged = Some(elapsed.as_secs());
            let _ = writeln!(out, "{:>3} s  {}", elapsed.as_secs(), facts.join("  |  "));
        }
        let _ = out.flush();
    }

    fn facts(&self, tally: &Tally, nodes: Option<(usize, usize)>) -> Vec<String> {
        let shown = |latency: Option<Latency>| {
            latency.map_or_else(
                || "-".into(),
                |latency| format!("p50 {} p99 {}", milliseconds(latency.p50), milliseconds(latency.p99)),
            )
        };
        let polls = tally.polls_avoided.map_or_else(|| "-".into(), |polls| format!("{polls:.0}"));
        let nodes = nodes.map(|(up, all)| format!("nodes: {up} of {all}"));
        let facts = [
            format!(
                "boxes: {} of {} online, {} cuts, {} power losses, {} sessions resumed",
                tally.online(),
                tally.devices,
                tally.cuts,
                tally.power_losses,
                tally.resumed
            ),
            format!(
                "events: {} accepted, {} applied, {} refused",
                tally.accepted(),
                tally.applied(),
                tally.refused().0
            ),
            format!("POST to applied: {}", shown(tally.latency())),
            format!(
                "control cohort: {} of {} poll every {} s, POST to applied {}",
                tally.polling(),
                tally.control(),
                self.interval_secs,
                shown(tally.polled_latency())
            ),
            format!("polls avoided: {polls} (declared interval {} s)", self.interval_secs),
        ];
        nodes.into_iter().chain(facts).collect()
    }

    /// The last words. Each figure says who measured it.
    pub fn summary(
        &self,
        tally: &Tally,
        nodes: Option<usize>,
        pending: u64,
        lost: &[String],
        metrics: &Metrics,
        ledger: &Value,
    ) -> Outcome {
        let (refused, why) = tally.refused();
        say(format!(
            "\nEvents\n  {} accepted (each with a 2xx answer: {}), {} applied, {pending} still pending, {} lost, {} applied twice",
            tally.accepted(),
            tally.durability(),
            tally.applied(),
            lost.len(),
            tally.applied_twice()
        ))?;
        if refused > 0 {
            say(format!(
                "  {refused} POSTs were refused; the last one: {}",
                why.unwrap_or("no reason")
            ))?;
        }
        for event in lost.iter().take(LOST_SHOWN) {
            say(format!("  lost: {event}"))?;
        }
        say(format!(
            "Boxes\n  {} boxes pushed to, {} connections cut, {} power losses, {} sessions resumed; {} boxes that polled",
            tally.devices,
            tally.cuts,
            tally.power_losses,
            tally.resumed,
            tally.control()
        ))?;
        if let Some(nodes) = nodes {
            say(format!(
                "Nodes\n  {nodes} on one Redis; the backend posted to all of them, one was killed (SIGKILL) and came back"
            ))?;
        }
        say("Time, with the boxes that were away")?;
        if let Some(latency) = tally.latency() {
            say(format!(
                "  from the POST sent to the event applied by its box, measured by backend and boxes: p50 {}, p99 {}",
                milliseconds(latency.p50),
                milliseconds(latency.p99)
            ))?;
        }
        if let Some(latency) = tally.polled_latency() {
            say(format!(
                "  the same of the control cohort, which polled every {} s: p50 {}, p99 {}",
                self.interval_secs,
                milliseconds(latency.p50),
                milliseconds(latency.p99)
            ))?;
        }
        let bound = |quantile| {
            let secs = metrics.quantile_at_most("unpoll_delivery_latency_seconds", quantile)?;
            Some(if secs.is_finite() {
                format!("at most {:.1} ms", secs * 1_000.0)
            } else {
                "beyond the last bucket".into()
            })
        };
        if let (Some(p50), Some(p99)) = (bound(0.5), bound(0.99)) {
            say(format!(
                "  from accepted to acknowledged, pushed and polled, from the buckets of {}: p50 {p50}, p99 {p99}",
                if nodes.is_some() {
                    "the nodes' histograms (without the life that was killed)"
                } else {
                    "the server's histogram"
                }
            ))?;
        }
        self.polls(metrics, ledger)
    }

    fn polls(&self, metrics: &Metrics, ledger: &Value) -> Outcome {
        let Some(polls) = metrics.polls_avoided() else {
            return Err(Failure::Failed("the server's metrics tell no unpoll_polls_avoided_total".into()));
        };
        let scale = USUAL_INTERVAL_SECS / self.interval_secs.max(1);
        say(format!(
            "Polls\n  {polls:.0} polls avoided, by the server's ledger, if each pushed box had asked every {} s. The report below compares that with the boxes that did.\n  \
             The demo's interval is short to show something: boxes that ask every {USUAL_INTERVAL_SECS} s would have asked {scale} times less often.",
            self.interval_secs
        ))?;
        say(report::words(ledger))
    }
}

fn milliseconds(us: u64) -> String {
    let (ms, tenths) = (us / 1_000, us % 1_000 / 100);
    format!("{ms}.{tenths} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_tenth_of_a_millisecond() {
        assert_eq!(milliseconds(0), "0.0 ms");
        assert_eq!(milliseconds(12_345), "12.3 ms");
    }

    #[test]
    fn the_facts_say_what_is_not_known_yet() {
        let (view, tally) = (View::new(3, 20, 2), Tally::new(3, std::iter::empty()));
        let facts = view.facts(&tally, None);
        assert_eq!(facts[0], "boxes: 0 of 3 online, 0 cuts, 0 power losses, 0 sessions resumed");
        assert_eq!(facts[2], "POST to applied: -");
        assert_eq!(facts[3], "control cohort: 0 of 0 poll every 2 s, POST to applied -");
        assert_eq!(facts[4], "polls avoided: - (declared interval 2 s)");
        assert_eq!(view.facts(&tally, Some((2, 3)))[0], "nodes: 2 of 3");
    }
}
