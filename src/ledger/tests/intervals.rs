//! The 95 % intervals, and counters that never fall.

use proptest::prelude::*;

use super::{
    control::{ControlCohort, poll, poller},
    *,
};
use crate::domain::{Carried, Cohort, Exchange, PollMeter, PollResult, Polled};

#[tokio::test]
async fn intervals_hold_the_truth_about_as_often_as_they_say() {
    // Devices differ: half of a cohort polls every 9 s, half every 11 s, with jitter, so polls of one device depend on each
    // other. The truth: 10 s declared, and polls every 2 / (1/9 + 1/11) = 9.9 s on average.
    let (mut held, mut rounds) = (0, 0);
    for seed in 1..=300 {
        let bench = bench();
        let mut random = Random(seed * 7_919);
        for n in 0..200 {
            let mean = if random.even() < 0.5 { 9.0 } else { 11.0 };
            let interval = move |random: &mut Random| random.jittered(mean, 0.3);
            let poller = poller(n + seed as u32 * 1_000, Cohort::Control, Some(10));
            let mut at = random.even() * 10.0;
            while at < 600.0 {
                let at_ms = Timestamp(START.0 + (at * 1e3) as u64);
                bench.ledger.polled(&poller, poll(PollResult::Empty, at_ms));
                at += interval(&mut random);
            }
        }
        let observed = calibration::Observed::from(&bench.ledger.tally.sums());
        let ratio = observed.calibration().requests.expect("compared");
        rounds += 1;
        held += u32::from((ratio.low..=ratio.high).contains(&0.99));
    }
    let share = f64::from(held) / f64::from(rounds);
    assert!((0.92..=0.98).contains(&share), "{share}");
}

#[tokio::test]
async fn the_intervals_of_all_four_ratios_hold_the_truth() {
    let mut held = [0; 4];
    for seed in 1..=120 {
        let bench = bench();
        let cohort = ControlCohort {
            devices: 120,
            interval: &|random| random.jittered(10.0, 0.05),
            bytes: (700, 400, 0),
            away: (0.0, 0.0),
            seed,
            ..ControlCohort::default()
        };
        cohort.run(&bench);
        let observed = calibration::Observed::from(&bench.ledger.tally.sums());
        for (held, (_, ratio)) in held.iter_mut().zip(observed.calibration().all()) {
            let ratio = ratio.expect("compared");
            // The wait of jittered polls is longer by 1 + c² = 1.0025.
            *held += u32::from(ratio.low <= 1.0025 && ratio.high >= 0.9975);
        }
    }
    assert!(held.iter().all(|held| (106..=120).contains(held)), "{held:?} of 120");
}

/// Something that happens, at a device out of four.
#[derive(Clone, Debug)]
enum Step {
    Proof(usize),
    Delivered(usize, u64),
    Close(usize),
    Polled(usize, bool, bool),
    Traffic(usize, u64),
    Flush,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_usize..4).prop_map(Step::Proof),
        (0_usize..4, 0_u64..2_000).prop_map(|(device, before)| Step::Delivered(device, before)),
        (0_usize..4).prop_map(Step::Close),
        (0_usize..4, any::<bool>(), any::<bool>()).prop_map(|(device, found, long)| Step::Polled(device, found, long)),
        (0_usize..4, 0_u64..9_000).prop_map(|(device, bytes)| Step::Traffic(device, bytes)),
        Just(Step::Flush),
        (1_u64..2_000).prop_map(Step::Wait),
    ]
}

/// All counters, and the counts of histograms, by name and labels.
fn counters(bench: &Bench) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for family in bench.registry.gather() {
        for metric in family.get_metric() {
            let labels: Vec<String> = metric.get_label().iter().map(|pair| pair.value().to_owned()).collect();
            let name = format!("{} {labels:?}", family.name());
            match family.get_field_type() {
                prometheus::proto::MetricType::COUNTER => found.insert(name, metric.get_counter().get_value()),
                prometheus::proto::MetricType::HISTOGRAM => found.insert(name, metric.get_histogram().get_sample_count() as f64),
                _ => None,
            };
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn no_counter_ever_falls_and_no_second_counts_twice(steps in proptest::collection::vec(step(), 1..250)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let bench = bench();
        let cohorts = [Cohort::Push, Cohort::Push, Cohort::Control, Cohort::Control];
        let pollers: Vec<_> = (0..4).map(|n| poller(n, cohorts[n as usize], Some(60))).collect();
        let mut accounts: Vec<_> = (0..4).map(|n| bench.open(&format!("box-{n}"), Some(60), Polling::Off)).collect();
        let mut before = counters(&bench);
        for step in steps {
            let now = bench.clock.now();
            match step {
                Step::Proof(n) => bench.ledger.proof(&mut accounts[n], now),
                Step::Delivered(n, ago) => {
                    let accepted = Timestamp(now.0 - ago.min(now.0 - START.0));
                    bench.ledger.delivered(&mut accounts[n], Urgency::Normal, accepted, now);
                    bench.ledger.poll_delivered(&pollers[n], accepted, now, now);
                }
                Step::Close(n) => bench.ledger.close(&mut accounts[n], now),
                Step::Polled(n, found, long) => {
                    let result = if found { PollResult::Events } else { PollResult::Empty };
                    bench.ledger.polled(&pollers[n], Polled { long, ..poll(result, now) });
                }
                Step::Traffic(n, bytes) => {
                    let carried = Carried { bytes, packets: 1 };
                    bench.ledger.poll_traffic(&pollers[n], Exchange::Poll(PollResult::Empty), carried, carried, bytes / 2);
                }
                Step::Flush => runtime.block_on(bench.ledger.flush()),
                Step::Wait(ms) => bench.clock.advance(Duration::from_millis(ms * 20)),
            }
            let now = counters(&bench);
            for (name, value) in &before {
                prop_assert!(now[name] >= *value, "{name} fell from {value} to {}", now[name]);
            }
            before = now;
        }
        let lived = bench.clock.now().since(START).as_secs_f64() * 4.0;
        let credited = bench.metric("unpoll_credited_connected_seconds_total", &[]);
        let uncredited = bench.metric("unpoll_uncredited_connected_seconds_total", &[]);
        prop_assert!(credited + uncredited <= lived + 1e-6, "{credited} + {uncredited} of {lived}");
        let report = runtime.block_on(bench.report());
        prop_assert!((report.credited_seconds - credited).abs() < 1e-3);
        prop_assert!((report.residual_polls - bench.metric("unpoll_legacy_polls_total", &[("cohort", "push")])).abs() < 1e-9);
    }
}
