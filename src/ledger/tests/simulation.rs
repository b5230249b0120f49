//! The virtual clock against the theory of polling.

use super::*;

/// 400 devices for 7 days, poll interval 900 s, events as a Poisson process.
async fn simulate(events_a_day: f64) -> Report {
    const DAYS: u64 = 7;
    let bench = bench();
    let mut random = Random(746);
    for device in 0..400 {
        let mut account = bench.open(&format!("tsn-{device}"), None, Polling::Off);
        let mut next_event = random.waiting_time(86_400.0 / events_a_day);
        for proof in 1..=DAYS * 86_400 / 300 {
            while next_event < (proof * 300) as f64 {
                let accepted = Timestamp(START.0 + (next_event * 1e3) as u64);
                bench
                    .ledger
                    .delivered(&mut account, Urgency::Normal, accepted, Timestamp(accepted.0 + 100));
                next_event += random.waiting_time(86_400.0 / events_a_day);
            }
            bench.ledger.proof(&mut account, after(proof * 300));
        }
    }
    bench.clock.advance(Duration::from_secs(DAYS * 86_400));
    bench.report().await
}

#[tokio::test]
async fn the_virtual_clock_agrees_with_the_theory_of_polling() {
    // (events a day, share of polls that find something: 1 − e^(−λT))
    for (events_a_day, share) in [(4.0, 0.0408), (96.0, 0.632)] {
        let report = simulate(events_a_day).await;
        let declared = report.baselines["declared"].as_ref().expect("there");
        assert!((declared.requests_avoided - 400.0 * 7.0 * 96.0).abs() < 1.0, "{declared:?}");
        let found = declared.requests_with_events / declared.requests_avoided;
        assert!((found / share - 1.0).abs() < 0.03, "{found} of the polls, not {share}");
        let wait = report.virtual_wait.mean_seconds.expect("deliveries");
        assert!((wait - 450.0).abs() < 9.0, "mean wait {wait}");
        let saved = report.latency_saved.mean_seconds.expect("deliveries");
        assert!((wait - saved - 0.1).abs() < 0.01, "{saved} of {wait}");
        assert_eq!(report.coverage, Some(1.0));
    }
}

#[test]
fn a_fixed_interval_is_the_careful_choice() {
    // Events meet a renewal process of polls: the mean wait is T/2 · (1 + c²), so a fixed interval (c = 0) claims least.
    let mut random = Random(900);
    let mut mean_wait = |interval: &mut dyn FnMut(&mut Random) -> f64| {
        let (mut weighted, mut time) = (0.0, 0.0);
        for _ in 0..400_000 {
            let interval = interval(&mut random);
            weighted += interval * interval / 2.0;
            time += interval;
        }
        weighted / time
    };
    let mut check = |interval: &mut dyn FnMut(&mut Random) -> f64, expected: f64| {
        let found = mean_wait(interval);
        assert!((found / expected - 1.0).abs() < 0.01, "{found}, not {expected}");
    };
    check(&mut |_| 900.0, 450.0);
    // Evenly within ±0.3·√3 of the mean: c = 0.3.
    check(
        &mut |random| 900.0 * (1.0 + 0.3 * 3_f64.sqrt() * (2.0 * random.even() - 1.0)),
        450.0 * 1.09,
    );
    check(&mut |random| random.waiting_time(900.0), 900.0);
}
