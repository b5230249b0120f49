//! The report in words.

use std::fmt::Write as _;

use super::{BaselineReport, Report};

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
        if let Some(baseline) = baseline {
            write_baseline(text, report, name, baseline)?;
        }
    }
    write_freshness(text, report)?;
    writeln!(
        text,
        "  CPU and memory   {} of CPU{}: all of the process, charged to push",
        span(report.overhead_cpu_seconds),
        report.connection_memory_bytes.map_or(String::new(), |bytes| format!(
            " and now {} more memory than at its start",
            size(bytes)
        ))
    )?;
    write_polls(text, report)?;
    writeln!(text, "  {}", report.validation)?;
    writeln!(text, "Assumptions:")?;
    report
        .assumptions
        .iter()
        .try_for_each(|assumption| writeln!(text, "  - {assumption}"))
}

fn write_baseline(text: &mut String, report: &Report, name: &str, baseline: &BaselineReport) -> std::fmt::Result {
    match (name, &report.control) {
        ("measured", Some(control)) => writeln!(
            text,
            "  against measured polling (cohort control polls every {:.1} s)",
            control.poll_interval_seconds.mean
        )?,
        _ => writeln!(text, "  against {name} polling every {} s", report.poll_interval_seconds)?,
    }
    if baseline.credited_seconds < 0.99 * report.credited_seconds {
        writeln!(
            text,
            "    only of        {}: before, nothing was measured",
            span(baseline.credited_seconds)
        )?;
    }
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
    if net < 0.0 {
        writeln!(text, "                   push cost MORE bytes than polling would have")?;
    }
    if let Some(seconds) = baseline.break_even_keepalive_seconds {
        writeln!(
            text,
            "    break-even     at a sign of life every {seconds:.0} s push costs as many bytes as polling"
        )?;
    }
    writeln!(text, "    CPU            {} avoided (gross)", span(baseline.cpu_seconds))
}

fn write_freshness(text: &mut String, report: &Report) -> std::fmt::Result {
    let saved = &report.latency_saved;
    match (saved.mean_seconds, report.virtual_wait.mean_seconds) {
        (Some(mean), Some(wait)) => writeln!(
            text,
            "  freshness        {} deliveries came {mean:.1} s sooner on average; a poll would have come after {wait:.1} s",
            count(saved.deliveries)
        )?,
        _ => writeln!(text, "  freshness        no delivery to compare")?,
    }
    if let (Some(p50), Some(p95), Some(p99)) = (saved.p50_seconds, saved.p95_seconds, saved.p99_seconds) {
        writeln!(
            text,
            "                   median {p50:.1} s, 95 % below {p95:.1} s, 99 % below {p99:.1} s"
        )?;
    }
    if report.events_saved_from_expiry > 0.0 {
        writeln!(
            text,
            "  expiry           {} events would have expired before the next poll",
            count(report.events_saved_from_expiry)
        )?;
    }
    Ok(())
}

fn write_polls(text: &mut String, report: &Report) -> std::fmt::Result {
    for (name, cohort) in &report.cohorts {
        let polls: f64 = cohort.polls.values().sum();
        writeln!(
            text,
            "  cohort {name:<9} {} devices, which made {} polls of {}",
            cohort.devices,
            count(polls),
            size(cohort.bytes.total())
        )?;
    }
    if report.residual_polls > 0.0 {
        writeln!(
            text,
            "  residual         {} polls were made by devices of cohort push all the same: subtract them",
            count(report.residual_polls)
        )?;
    }
    let Some(control) = &report.control else { return Ok(()) };
    let bytes = control
        .empty_poll_bytes
        .map_or(String::new(), |bytes| format!(", an empty poll costs {}", size(bytes.total())));
    let latency = control
        .latency_seconds
        .map_or(String::new(), |seconds| format!(", an event waits {seconds:.1} s"));
    writeln!(
        text,
        "  control          {} devices poll every {:.1} s (variation {:.2}), {:.1} % find nothing{bytes}{latency}",
        count(control.devices),
        control.poll_interval_seconds.mean,
        control.poll_interval_seconds.variation,
        control.empty_ratio * 100.0
    )?;
    writeln!(text, "  predicted / observed in cohort control (95 % interval)")?;
    for (quantity, ratio) in report.calibration.all() {
        match ratio {
            Some(ratio) => writeln!(
                text,
                "    {quantity:<14} {:.3} ({:.3} to {:.3})",
                ratio.ratio, ratio.low, ratio.high
            )?,
            None => writeln!(text, "    {quantity:<14} nothing to compare")?,
        }
    }
    Ok(())
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
        None if seconds < 1.0 && seconds > 0.0 => format!("{:.1} ms", seconds * 1e3),
        None => format!("{seconds:.1} s"),
    }
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
        assert_eq!(span(0.0), "0.0 s");
        assert_eq!(span(0.0012), "1.2 ms");
        assert_eq!(span(90.0), "1.5 min");
        assert_eq!(span(400.0 * 604_800.0), "2,800 d");
    }
}
