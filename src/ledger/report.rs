//! The report: what was avoided, what it cost, how sure that is.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{
    Ledger,
    cell::{DIRECTIONS, UNCREDITED},
    figures::{self, Baseline, Figures},
};
use crate::{
    domain::{Overhead, Timestamp},
    store::StoreError,
};

/// Polling avoided in a period.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Start of the period, a full minute.
    pub from: Timestamp,
    /// End of the period, not in it: a full minute, at most the one after this.
    pub to: Timestamp,
    /// The declared poll interval, in seconds, of devices without one of their own.
    pub poll_interval_seconds: u32,
    /// Connected time that earned.
    pub credited_seconds: f64,
    /// Connected time that did not, by reason.
    pub uncredited_seconds: std::collections::BTreeMap<String, f64>,
    /// Credited part of all connected time. `None`: nobody was connected.
    pub coverage: Option<f64>,
    /// What push is compared with, by name. `measured` is `null` until a control cohort polls.
    pub baselines: std::collections::BTreeMap<String, Option<BaselineReport>>,
    /// Bytes that push cost, by kind.
    pub overhead_bytes: std::collections::BTreeMap<String, Bytes>,
    /// Packets that push cost, both ways.
    pub overhead_packets: f64,
    /// How much sooner events came.
    pub latency_saved: Latency,
    /// How long they would have waited for a poll.
    pub virtual_wait: Latency,
    /// Acknowledged events that would have expired before the next poll.
    pub events_saved_from_expiry: f64,
    /// Whether a control cohort confirms the figures.
    pub validated: bool,
    /// How they were validated, or why not.
    pub validation: String,
    /// What the figures rest on, in words.
    pub assumptions: Vec<String>,
}

/// The comparison with one baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselineReport {
    /// Polls not made, gross.
    pub requests_avoided: f64,
    /// The same a second, over the whole period.
    pub requests_avoided_per_second: f64,
    /// How many of them would have found an event.
    pub requests_with_events: f64,
    /// Bytes of those polls, each one empty.
    pub gross_bytes: Bytes,
    /// Bytes that push cost.
    pub overhead_bytes: f64,
    /// The difference. Negative when push cost more.
    pub net_bytes: f64,
}

/// Bytes each way, seen from the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bytes {
    /// From devices.
    #[serde(rename = "in")]
    pub inward: f64,
    /// To devices.
    #[serde(rename = "out")]
    pub outward: f64,
}

impl Bytes {
    /// Both ways.
    pub fn total(self) -> f64 {
        self.inward + self.outward
    }
}

/// A latency over all deliveries that have one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many deliveries.
    pub deliveries: f64,
    /// In sum; may be negative.
    pub sum_seconds: f64,
    /// On average. `None`: no delivery.
    pub mean_seconds: Option<f64>,
}

impl Latency {
    fn of(deliveries: f64, sum_seconds: f64) -> Self {
        Self {
            deliveries,
            sum_seconds: rounded(sum_seconds),
            mean_seconds: (deliveries > 0.0).then(|| rounded(sum_seconds / deliveries)),
        }
    }
}

impl Ledger {
    /// The report of the minutes that `from..to` touches, including what is not in the store yet.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn report(&self, from: Timestamp, to: Timestamp) -> Result<Report, StoreError> {
        let this_minute = self.clock.now().0 / 60_000;
        let from = from.0 / 60_000;
        let to = to.0.div_ceil(60_000).min(this_minute + 1).max(from);
        let figures = self.figures(from, to).await?;
        Ok(self.report_of(&figures, from, to))
    }

    fn report_of(&self, figures: &Figures, from: u64, to: u64) -> Report {
        let get = |name: &str| figures.get(name).copied().unwrap_or(0.0);
        let both_ways = |name: &dyn Fn(&str) -> String| {
            let [inward, outward] = DIRECTIONS.map(|(_, label)| rounded(get(&name(label))));
            Bytes { inward, outward }
        };
        let overhead: Vec<(Overhead, Bytes)> = Overhead::ALL
            .map(|kind| (kind, both_ways(&|direction| figures::overhead_bytes(kind, direction))))
            .into();
        let overhead_bytes: f64 = overhead.iter().map(|(_, bytes)| bytes.total()).sum();
        let packets = |kind| both_ways(&|direction| figures::overhead_packets(kind, direction)).total();
        let baseline = |baseline| {
            let gross_bytes = both_ways(&|direction| figures::bytes_avoided(baseline, direction));
            BaselineReport {
                requests_avoided: rounded(get(figures::POLLS)),
                requests_avoided_per_second: rounded(get(figures::POLLS) / (to.saturating_sub(from).max(1) * 60) as f64),
                requests_with_events: get(figures::EVENT_POLLS),
                gross_bytes,
                overhead_bytes,
                net_bytes: rounded(gross_bytes.total() - overhead_bytes),
            }
        };
        let credited = get(figures::CREDITED);
        let uncredited = UNCREDITED.map(|(_, why)| (why.to_owned(), rounded(get(&figures::uncredited(why)))));
        let connected = credited + uncredited.iter().map(|(_, seconds)| seconds).sum::<f64>();
        Report {
            from: Timestamp(from * 60_000),
            to: Timestamp(to * 60_000),
            poll_interval_seconds: self.config.interval_secs(),
            credited_seconds: rounded(credited),
            uncredited_seconds: uncredited.into(),
            coverage: (connected > 0.0).then(|| credited / connected),
            baselines: Baseline::ALL
                .map(|name| (name.as_str().to_owned(), (name != Baseline::Measured).then(|| baseline(name))))
                .into(),
            overhead_bytes: overhead
                .into_iter()
                .map(|(kind, bytes)| (kind.as_str().to_owned(), bytes))
                .collect(),
            overhead_packets: Overhead::ALL.into_iter().map(packets).sum(),
            latency_saved: Latency::of(get(figures::DELIVERIES), get(figures::SAVED)),
            virtual_wait: Latency::of(get(figures::DELIVERIES), get(figures::WAITED)),
            events_saved_from_expiry: get(figures::SAVED_FROM_EXPIRY),
            validated: false,
            validation: "not validated: no control cohort".to_owned(),
            assumptions: self.assumptions(),
        }
    }

    fn assumptions(&self) -> Vec<String> {
        let config = &self.config;
        let interval = config.interval_secs();
        let cold = (config.poll_bytes_in, config.poll_bytes_out);
        let warm = (config.efficient_poll_bytes_in, config.efficient_poll_bytes_out);
        let grace = config.grace_secs;
        let service = config.poll_service_ms;
        vec![
            format!(
                "Without push a device would poll every {interval} s, or at its own interval where it has one; this is declared, not measured."
            ),
            "A device of cohort push is taken not to poll; one that polls, or of which nobody knows, earns nothing.".to_owned(),
            format!(
                "A proof of life vouches for the time since the one before, at most for the keepalive interval and {grace} s; the time from the last proof to the end of a session earns nothing."
            ),
            format!(
                "declared: an empty poll costs {} B in and {} B out, TCP/IP headers included.",
                cold.0, cold.1
            ),
            format!(
                "efficient: an empty poll costs {} B in and {} B out; the number of polls is the same.",
                warm.0, warm.1
            ),
            format!(
                "push: bytes as counted at the socket, TLS included, and {} B of headers for every packet and its TCP acknowledgement.",
                config.packet_header_bytes
            ),
            format!("A poll is answered in {service} ms. Intervals do not vary; if they did, polling would be slower than shown."),
            "The payload of events is on neither side, and neither are polls at start-up, although push pays for every connect.".to_owned(),
            "Events accepted while the device was away claim no latency. Not seen: radio and battery, middleboxes, CDN costs, CPU."
                .to_owned(),
            "The figures are of the whole service. Polls that the same devices still make are not subtracted: none are served yet."
                .to_owned(),
        ]
    }
}

/// The report as a person reads it in a terminal.
pub fn words(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_words(&mut text, report);
    text
}

fn write_words(text: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(text, "Polling avoided from {} to {}", report.from, report.to)?;
    let uncredited: f64 = report.uncredited_seconds.values().sum();
    let coverage = report
        .coverage
        .map_or("nobody was connected".to_owned(), |part| format!("{:.1} % of all", part * 100.0));
    writeln!(
        text,
        "  connected time   {} credited, {} not ({coverage})",
        span(report.credited_seconds),
        span(uncredited)
    )?;
    for (name, baseline) in &report.baselines {
        let Some(baseline) = baseline else { continue };
        writeln!(text, "  against {name} polling every {} s", report.poll_interval_seconds)?;
        let (polls, found) = (baseline.requests_avoided, baseline.requests_with_events);
        writeln!(
            text,
            "    polls          {} avoided (gross); {} of them would have found an event",
            count(polls),
            count(found)
        )?;
        let (gross, cost, net) = (baseline.gross_bytes.total(), baseline.overhead_bytes, baseline.net_bytes);
        writeln!(
            text,
            "    bytes          {} avoided (gross) - {} for push = net {}",
            size(gross),
            size(cost),
            size(net)
        )?;
    }
    match (report.latency_saved.mean_seconds, report.virtual_wait.mean_seconds) {
        (Some(saved), Some(wait)) => writeln!(
            text,
            "  freshness        {} deliveries came {saved:.1} s sooner on average; a poll would have come after {wait:.1} s",
            count(report.latency_saved.deliveries)
        )?,
        _ => writeln!(text, "  freshness        no delivery to compare")?,
    }
    if report.events_saved_from_expiry > 0.0 {
        writeln!(
            text,
            "  expiry           {} events would have expired before the next poll",
            count(report.events_saved_from_expiry)
        )?;
    }
    writeln!(text, "  {}", report.validation)?;
    writeln!(text, "Assumptions:")?;
    report
        .assumptions
        .iter()
        .try_for_each(|assumption| writeln!(text, "  - {assumption}"))
}

/// `1,234.5`: a decimal only below 100,000.
fn count(number: f64) -> String {
    let text = if number.abs() < 100_000.0 && number.fract() != 0.0 {
        format!("{number:.1}")
    } else {
        format!("{number:.0}")
    };
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let digits = whole.trim_start_matches('-');
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let sign = if whole.starts_with('-') { "-" } else { "" };
    format!("{sign}{grouped}{rest}")
}

/// Bytes in decimal units.
fn size(bytes: f64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match units.iter().find(|(unit, _)| bytes.abs() >= *unit) {
        Some((unit, name)) => format!("{:.2} {name}", bytes / unit),
        None => format!("{bytes:.0} B"),
    }
}

/// Seconds in the largest unit that fits.
fn span(seconds: f64) -> String {
    let units = [(86_400.0, "d"), (3_600.0, "h"), (60.0, "min")];
    match units.iter().find(|(unit, _)| seconds >= *unit) {
        Some((unit, name)) => format!("{} {name}", count((seconds / unit * 10.0).round() / 10.0)),
        None => format!("{seconds:.1} s"),
    }
}

/// To thousandths.
fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_for_people() {
        assert_eq!(count(0.0), "0");
        assert_eq!(count(1_234.56), "1,234.6");
        assert_eq!(count(1_234_567.8), "1,234,568");
        assert_eq!(count(-1_000.0), "-1,000");
        assert_eq!(count(999.0), "999");
        assert_eq!(size(833.0), "833 B");
        assert_eq!(size(-4_213_000.0), "-4.21 MB");
        assert_eq!(span(59.0), "59.0 s");
        assert_eq!(span(90.0), "1.5 min");
        assert_eq!(span(400.0 * 604_800.0), "2,800 d");
    }
}
