//! A simulated control cohort: the calibration confirms what is right, and finds out what is wrong.

use super::*;
use crate::domain::{Carried, Cohort, Exchange, PollMeter, PollResult, Polled, Poller};

/// Seconds between two polls of a device, out of chance.
type Interval = dyn Fn(&mut Random) -> f64;

/// An experiment: real time, as devices would behave in it.
pub struct ControlCohort<'a> {
    pub devices: u32,
    pub minutes: u64,
    /// The interval that is declared, in seconds.
    pub declared: u32,
    pub interval: &'a Interval,
    /// Mean time between two events of a device, in seconds.
    pub events_every: f64,
    /// How often a device goes away after a poll, and for how long, in seconds.
    pub away: (f64, f64),
    /// Bytes of an empty poll, in and out, and how much more one with events costs.
    pub bytes: (u64, u64, u64),
    pub seed: u64,
}

impl Default for ControlCohort<'_> {
    fn default() -> Self {
        Self {
            devices: 500,
            minutes: 10,
            declared: 10,
            interval: &|random| random.jittered(10.0, 0.1),
            events_every: 120.0,
            away: (0.01, 45.0),
            bytes: (700, 400, 0),
            seed: 1,
        }
    }
}

pub fn poller(n: u32, cohort: Cohort, interval: Option<u32>) -> Poller {
    Poller {
        tenant: TenantId(0),
        device: format!("box-{n}").parse().expect("a device id"),
        cohort,
        poll_interval_secs: interval,
    }
}

pub fn poll(result: PollResult, at: Timestamp) -> Polled {
    Polled {
        result,
        long: false,
        at,
        took: Duration::from_millis(2),
    }
}

impl ControlCohort<'_> {
    /// Lets all devices poll, each on its own; the flush comes at the end, in the minute of the end.
    pub fn run(&self, bench: &Bench) {
        let mut random = Random(self.seed);
        let end = self.minutes as f64 * 60.0;
        for n in 0..self.devices {
            let poller = poller(n, Cohort::Control, Some(self.declared));
            let mut waiting: VecDeque<f64> = VecDeque::new();
            let mut next_event = random.waiting_time(self.events_every);
            let mut now = random.even() * f64::from(self.declared);
            while now < end {
                while next_event < now {
                    waiting.push_back(next_event);
                    next_event += random.waiting_time(self.events_every);
                }
                self.one(bench, &poller, now, &mut waiting);
                now += (self.interval)(&mut random);
                if random.even() < self.away.0 {
                    now += random.waiting_time(self.away.1) + 3.0 * f64::from(self.declared);
                }
            }
        }
        bench.clock.advance(Duration::from_secs(self.minutes * 60));
    }

    fn one(&self, bench: &Bench, poller: &Poller, now: f64, waiting: &mut VecDeque<f64>) {
        let time = |secs: f64| Timestamp(START.0 + (secs * 1e3).round() as u64);
        let result = if waiting.is_empty() {
            PollResult::Empty
        } else {
            PollResult::Events
        };
        bench.ledger.polled(poller, poll(result, time(now)));
        let more = if waiting.is_empty() { 0 } else { self.bytes.2 };
        for accepted in waiting.drain(..) {
            let (accepted, acked) = (time(accepted), time(now + 0.005));
            bench.ledger.poll_delivered(poller, accepted, after(1_000_000), acked);
        }
        let carried = |bytes| Carried { bytes, packets: 0 };
        let (inward, outward, payload) = (carried(self.bytes.0), carried(self.bytes.1 + more + 5_000), 5_000);
        bench.ledger.poll_traffic(poller, Exchange::Poll(result), inward, outward, payload);
    }

    async fn report(&self) -> Report {
        let bench = bench();
        self.run(&bench);
        bench.report().await
    }
}

#[tokio::test]
async fn a_control_cohort_that_polls_as_declared_validates_the_figures() {
    for seed in 1..=3 {
        let report = ControlCohort {
            seed,
            ..ControlCohort::default()
        }
        .report()
        .await;
        assert!(report.validated, "{}", report.validation);
        assert_eq!(report.validation, "validated by 500 control devices");
        for (quantity, ratio) in report.calibration.all() {
            let ratio = ratio.expect("compared");
            assert!((ratio.ratio - 1.0).abs() < 0.03, "{quantity}: {ratio:?}");
            assert!(ratio.low <= ratio.ratio && ratio.ratio <= ratio.high);
        }
        let control = report.control.expect("polled");
        assert!((control.poll_interval_seconds.mean - 10.0).abs() < 0.05, "{control:?}");
        assert!((control.poll_interval_seconds.variation - 0.1).abs() < 0.02, "{control:?}");
        assert_eq!(
            control.empty_poll_bytes.map(|bytes| (bytes.inward, bytes.outward)),
            Some((700.0, 400.0))
        );
    }
}

/// What is wrong, and which ratio says so, above or below 1.
async fn is_found_out(wrong: &str, quantity: &str, above: bool, cohort: ControlCohort<'_>) {
    let report = cohort.report().await;
    assert!(!report.validated, "{wrong}");
    let (_, ratio) = report
        .calibration
        .all()
        .into_iter()
        .find(|(name, _)| *name == quantity)
        .expect("listed");
    let ratio = ratio.expect("compared");
    let outside = if above { ratio.low > 1.1 } else { ratio.high < 0.9 };
    assert!(outside, "{wrong}: {quantity} {ratio:?}");
}

#[tokio::test]
async fn wrong_predictions_are_found_out() {
    let slow = |random: &mut Random| random.jittered(12.5, 0.1);
    is_found_out(
        "it polls less often than declared",
        "requests",
        true,
        ControlCohort {
            interval: &slow,
            ..ControlCohort::default()
        },
    )
    .await;
    let fast = |random: &mut Random| random.jittered(8.0, 0.1);
    is_found_out(
        "it polls more often than declared",
        "requests",
        false,
        ControlCohort {
            interval: &fast,
            ..ControlCohort::default()
        },
    )
    .await;
    // Same mean, but in bursts: an event waits longer, and polls after the first of a burst find nothing.
    let bursts = |random: &mut Random| if random.even() < 0.6 { 1.0 } else { 23.5 };
    let bursty = || ControlCohort {
        interval: &bursts,
        events_every: 8.0,
        minutes: 20,
        ..ControlCohort::default()
    };
    is_found_out("it polls in bursts", "latency", false, bursty()).await;
    is_found_out("it polls in bursts", "empty", false, bursty()).await;
    is_found_out(
        "polls with events cost more than empty ones",
        "bytes",
        false,
        ControlCohort {
            bytes: (700, 400, 900),
            events_every: 20.0,
            ..ControlCohort::default()
        },
    )
    .await;
}

#[tokio::test]
async fn few_control_devices_validate_nothing() {
    let report = ControlCohort {
        devices: 499,
        ..ControlCohort::default()
    }
    .report()
    .await;
    assert_eq!(report.validation, "not validated: only 499 control devices; 500 are needed");
    assert!(report.calibration.requests.is_some() && !report.validated);
    let report = bench().report().await;
    assert_eq!(
        (report.validation.as_str(), report.control),
        ("not validated: no control cohort", None)
    );
    assert_eq!(report.baselines["measured"], None);
}

#[tokio::test]
async fn without_events_there_is_no_latency_to_compare() {
    let report = ControlCohort {
        events_every: 1e12,
        ..ControlCohort::default()
    }
    .report()
    .await;
    assert_eq!(report.validation, "not validated: nothing to compare latency with yet");
}

#[tokio::test]
async fn refusals_and_long_polls_are_on_neither_side() {
    let bench = bench();
    let poller = poller(1, Cohort::Control, Some(10));
    let mut at = 0;
    let mut say = |result, long| {
        at += 10;
        bench.ledger.polled(
            &poller,
            Polled {
                long,
                ..poll(result, after(at))
            },
        );
    };
    for _ in 0..3 {
        say(PollResult::Empty, false); // begins a stretch
        say(PollResult::NotModified, false); // counts
        say(PollResult::Error, false);
        say(PollResult::Empty, false); // begins one
        say(PollResult::Events, true);
    }
    let observed = calibration::Observed::from(&bench.ledger.tally.sums());
    assert_eq!(observed.total(cell::Control::Observed), 3.0);
    assert_eq!(observed.total(cell::Control::Predicted), 3.0);
    assert_eq!(bench.metric("unpoll_legacy_polls_total", &[("cohort", "control")]), 15.0);
}

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
