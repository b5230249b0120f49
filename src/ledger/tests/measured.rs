//! What the control cohort teaches, over time, restarts and kills.

use super::{
    control::{ControlCohort, poll, poller},
    *,
};
use crate::domain::{Cohort, PollMeter, PollResult};

#[tokio::test]
async fn measured_follows_the_control_cohort_and_never_falls() {
    let bench = bench();
    let mut account = bench.open("tsn-1", None, Polling::Off);
    let measured = |name| bench.metric(name, &[("baseline", "measured")]);
    let mut before = (0.0, 0.0);
    let mut proven = 0;
    // First nobody polls, then it is every 12.5 s where 10 s are declared, then every 5 s with smaller polls.
    for (round, interval) in [(0, None), (1, Some((12.5, 800))), (2, Some((5.0, 100)))] {
        if let Some((interval, bytes)) = interval {
            let every = move |_: &mut Random| interval;
            ControlCohort {
                devices: 40,
                interval: &every,
                bytes: (bytes, bytes, 0),
                seed: round,
                ..ControlCohort::default()
            }
            .run(&bench);
            bench.ledger.flush().await;
        }
        proven += 300;
        bench.ledger.proof(&mut account, after(proven));
        let now = (measured("unpoll_polls_avoided_total"), measured("unpoll_poll_avoided_bytes_total"));
        match round {
            0 => assert_eq!(now, (0.0, 0.0)),
            1 => {
                // A third of a poll declared, at 1 made for 1.25 predicted, of 1,600 bytes.
                assert!((now.0 - 1.0 / 3.0 / 1.25).abs() < 0.003, "{now:?}");
                assert!((now.1 / now.0 - 1_600.0).abs() < 1.0, "{now:?}");
            }
            _ => assert!(now.0 > before.0 && now.1 > before.1, "{before:?} {now:?}"),
        }
        before = now;
    }
    let report = bench.report().await;
    let baseline = report.baselines["measured"].as_ref().expect("measured");
    assert_eq!((baseline.credited_seconds, report.credited_seconds), (600.0, 900.0));
    assert!((baseline.requests_avoided - before.0).abs() < 0.001);
    assert!(words(&report).contains("only of        10 min"), "{}", words(&report));
}

#[tokio::test]
async fn a_restart_keeps_what_the_control_cohort_taught() {
    let first = bench();
    ControlCohort::default().run(&first);
    first.ledger.flush().await;
    let told = first.report().await;
    // The same store, another process.
    let registry = prometheus::Registry::new();
    let second = Ledger::new(
        Config::default(),
        first.minutes.clone(),
        first.clock.clone(),
        &registry,
        "n1".into(),
        Arc::new(|| [900, 50, 50]),
    )
    .expect("no metric twice");
    assert_eq!(second.measured.parameters(), None);
    let crew = crate::crew::Crew::default();
    second.start(&crew);
    crew.dismiss(tokio::time::Instant::now() + Duration::from_secs(10)).await;
    assert_eq!(second.measured.parameters(), first.ledger.measured.parameters());
    let again = second
        .report(START, Timestamp(START.0 + 86_400_000))
        .await
        .expect("the store answers");
    assert_eq!((again.calibration, again.control), (told.calibration, told.control));
    assert_eq!(again.validation, "validated by 500 control devices");
}

#[tokio::test]
async fn a_kill_loses_what_was_not_flushed_and_adds_nothing() {
    let first = bench();
    let mut account = first.open("tsn-1", None, Polling::Off);
    ControlCohort::default().run(&first);
    first.ledger.proof(&mut account, after(300));
    first.ledger.flush().await;
    let told = first.report().await;
    // After the flush, and before the kill.
    first.ledger.proof(&mut account, after(310));
    first
        .ledger
        .polled(&poller(1, Cohort::Control, None), poll(PollResult::Empty, after(305)));
    let registry = prometheus::Registry::new();
    let (minutes, clock) = (first.minutes.clone(), first.clock.clone());
    let second = Ledger::new(Config::default(), minutes, clock, &registry, "n1".into(), Arc::new(|| [0; 3])).expect("no metric twice");
    drop(first);
    second.flush().await;
    let again = second
        .report(START, Timestamp(START.0 + 86_400_000))
        .await
        .expect("the store answers");
    assert_eq!(
        (again.credited_seconds, again.calibration),
        (told.credited_seconds, told.calibration)
    );
    assert_eq!((again.baselines, again.control), (told.baselines, told.control));
}

#[tokio::test]
async fn a_large_control_cohort_is_counted_by_a_sample_of_it() {
    let report = ControlCohort {
        devices: 20_000,
        minutes: 1,
        ..ControlCohort::default()
    }
    .report()
    .await;
    let devices = report.control.expect("polled").devices;
    assert!((devices / 20_000.0 - 1.0).abs() < 0.1, "{devices}");
}
