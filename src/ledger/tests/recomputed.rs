//! The figures of the calibration against a second computation, from logs, as docs/guides/ledger.md describes it.

use std::collections::BTreeSet;

use super::{
    control::{poll, poller},
    *,
};
use crate::domain::{Cohort, PollMeter, PollResult, Polled, stable_hash_of};

/// Predicted, observed, found, ticks, ticks with events, latency, virtual latency.
type Seven = [f64; 7];

struct Log {
    polls: Vec<(f64, PollResult, bool)>,
    /// Accepted, acknowledged.
    events: Vec<(f64, f64)>,
}

/// Whole milliseconds, as the service's clock.
fn seconds(ms: f64) -> f64 {
    ms.round() / 1e3
}

/// A device that polls about every 10 s, goes away, is refused, polls long, and gets events; over midnight.
fn log(random: &mut Random) -> Log {
    let (mut polls, mut events, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
    let (mut now, mut next_event) = (random.even() * 10.0, random.waiting_time(7.0));
    while now < 7_200.0 {
        while next_event < now {
            waiting.push(seconds(next_event * 1e3));
            let mean = if random.even() < 0.5 { 2.0 } else { 30.0 };
            next_event += random.waiting_time(mean);
        }
        let at = seconds(now * 1e3);
        let refused = random.even() < 0.02;
        let result = match (refused, waiting.is_empty()) {
            (true, _) => PollResult::Error,
            (false, true) => PollResult::Empty,
            (false, false) => PollResult::Events,
        };
        polls.push((at, result, random.even() < 0.01));
        if !refused {
            let acked = seconds((now + 0.05) * 1e3);
            events.extend(waiting.drain(..).map(|accepted| (accepted, acked)));
        }
        now += random.jittered(10.0, 0.4);
        if random.even() < 0.02 {
            now += random.waiting_time(40.0);
        }
    }
    Log { polls, events }
}

/// From the guide: stretches first, then what lies in each.
fn recompute(log: &Log, device: &str, start: f64) -> Seven {
    const T: f64 = 10.0;
    let mut stretches: Vec<Vec<(f64, PollResult)>> = Vec::new();
    let mut open = false;
    for (at, result, long) in &log.polls {
        if *long || *result == PollResult::Error {
            open = false;
            continue;
        }
        match stretches.last_mut() {
            Some(stretch) if open && at - stretch[stretch.len() - 1].0 <= 3.0 * T => stretch.push((*at, *result)),
            _ => stretches.push(vec![(*at, *result)]),
        }
        open = true;
    }
    let mut sum = Seven::default();
    for stretch in &stretches {
        let (begin, end) = (stretch[0].0, stretch[stretch.len() - 1].0);
        let day = ((start + begin) / 86_400.0).floor() as u64;
        let bytes = [0, 0].into_iter().chain(day.to_le_bytes()).chain(device.bytes());
        let phase = (stable_hash_of(bytes) % 10_000) as f64 / 1e3;
        // Tick numbers since 1970; the small number is below a millisecond and takes rounding away.
        let up = |at: f64| ((start + at - phase) / T - 1e-6).ceil();
        let down = |at: f64| ((start + at - phase) / T + 1e-6).floor();
        sum[0] += (end - begin) / T;
        sum[1] += (stretch.len() - 1) as f64;
        sum[2] += stretch[1..].iter().filter(|(_, result)| *result == PollResult::Events).count() as f64;
        sum[3] += (down(end) - up(begin)).max(0.0);
        // An event is acknowledged right after the poll that brought it, which must be of this stretch.
        let acked = |ack: f64| stretch.iter().any(|(at, _)| (0.0..0.1).contains(&(ack - at)));
        let told: Vec<_> = log
            .events
            .iter()
            .filter(|(accepted, ack)| *accepted > begin && acked(*ack))
            .collect();
        for (accepted, ack) in &told {
            sum[5] += ack - accepted;
            sum[6] += up(*accepted) * T + phase - start - accepted;
        }
        let with_events: BTreeSet<i64> = told.iter().map(|(accepted, _)| up(*accepted) as i64).collect();
        let whole = with_events
            .iter()
            .filter(|tick| **tick as f64 > up(begin) && **tick as f64 <= down(end));
        sum[4] += whole.count() as f64;
    }
    sum
}

#[test]
fn a_second_computation_from_logs_gives_the_same_figures() {
    let bench = bench();
    let start = START.0 + 86_400_000 - 3_600_000; // an hour before midnight
    let mut random = Random(11);
    let mut expected = Seven::default();
    for n in 0..100 {
        let log = log(&mut random);
        let poller = poller(n, Cohort::Control, Some(10));
        let time = |secs: f64| Timestamp(start + (secs * 1e3).round() as u64);
        let mut events = log.events.iter().peekable();
        for (at, result, long) in &log.polls {
            let long = *long;
            bench.ledger.polled(
                &poller,
                Polled {
                    long,
                    ..poll(*result, time(*at))
                },
            );
            while let Some((accepted, acked)) = events.next_if(|(_, acked)| *acked < at + 0.1) {
                bench.ledger.poll_delivered(&poller, time(*accepted), time(1e9), time(*acked));
            }
        }
        let found = recompute(&log, poller.device.as_str(), start as f64 / 1e3);
        expected.iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
    }
    let observed = calibration::Observed::from(&bench.ledger.tally.sums());
    let figures = [
        cell::Control::Predicted,
        cell::Control::Observed,
        cell::Control::Found,
        cell::Control::Ticks,
        cell::Control::TicksFound,
        cell::Control::Latency,
        cell::Control::VirtualLatency,
    ];
    for (figure, expected) in figures.into_iter().zip(expected) {
        let found = observed.total(figure);
        assert!((found / expected - 1.0).abs() < 1e-6, "{figure:?}: {found}, recomputed {expected}");
        assert!(expected > 1_000.0, "{figure:?}: {expected}");
    }
}
