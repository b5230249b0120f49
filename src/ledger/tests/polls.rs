//! Polls of devices that are connected as well.

use super::{
    control::{poll, poller},
    *,
};
use crate::domain::{Carried, Cohort, Exchange, PollMeter, PollResult};

#[test]
fn a_box_that_polls_while_connected_earns_nothing() {
    let bench = bench();
    let box_1 = poller(1, Cohort::Push, None);
    let mut account = bench.open("box-1", None, Polling::Off);
    let credited = || bench.metric("unpoll_credited_connected_seconds_total", &[]);
    let polling = || bench.metric("unpoll_uncredited_connected_seconds_total", &[("reason", "polling_on")]);
    bench.ledger.proof(&mut account, after(300));
    assert_eq!(credited(), 300.0);
    // The stretch from the last proof to the poll is lost too, and so are 2 × 900 s after it.
    bench.ledger.polled(&box_1, poll(PollResult::Empty, after(500)));
    for proof in (600..=2_100).step_by(300) {
        bench.ledger.proof(&mut account, after(proof));
    }
    assert_eq!((credited(), polling()), (300.0, 1_800.0));
    bench.ledger.proof(&mut account, after(2_400));
    assert_eq!((credited(), polling()), (400.0, 2_000.0)); // 2,300 is the end of the hold
    bench.ledger.proof(&mut account, after(2_700));
    assert_eq!(credited(), 700.0);
    // It polls every 2,500 s: now the hold is twice that.
    bench.ledger.polled(&box_1, poll(PollResult::Empty, after(3_000)));
    for proof in (3_000..=8_000).step_by(250) {
        bench.ledger.proof(&mut account, after(proof));
    }
    assert_eq!(credited(), 700.0);
    bench.ledger.close(&mut account, after(8_100));
    assert_eq!(credited(), 700.0);
    assert_eq!(
        bench.metric("unpoll_legacy_polls_total", &[("cohort", "push"), ("result", "empty")]),
        2.0
    );
}

#[tokio::test]
async fn an_event_pushed_to_a_box_that_polls_claims_no_latency() {
    let bench = bench();
    let mut account = bench.open("box-1", None, Polling::Off);
    bench
        .ledger
        .polled(&poller(1, Cohort::Push, None), poll(PollResult::Empty, after(10)));
    bench.ledger.delivered(&mut account, Urgency::Normal, after(20), after(21));
    bench.ledger.expiring(&account, after(20), after(21));
    let report = bench.report().await;
    assert_eq!((report.latency_saved.deliveries, report.events_saved_from_expiry), (0.0, 0.0));
    assert_eq!(report.residual_polls, 1.0);
    assert!(words(&report).contains("subtract them"), "{}", words(&report));
}

#[test]
fn a_poll_holds_nobody_elses_credit() {
    let bench = bench();
    bench
        .ledger
        .polled(&poller(1, Cohort::Push, None), poll(PollResult::Empty, after(10)));
    let mut account = bench.open("box-2", None, Polling::Off);
    bench.ledger.proof(&mut account, after(300));
    assert_eq!(bench.metric("unpoll_credited_connected_seconds_total", &[]), 300.0);
}

#[test]
fn what_is_remembered_of_polling_devices_is_bounded_and_forgotten() {
    let tracker = tracker::Tracker::new(100);
    let device = |n: u64| crate::domain::stable_hash_of(n.to_le_bytes());
    let followed = (0..150).filter(|n| tracker.with(device(*n), START, |_| ()).is_some()).count();
    assert_eq!((followed, tracker.count()), (100, 100));
    assert!(tracker.with(device(3), START, |_| ()).is_some()); // a known one goes on
    for _ in 0..16 {
        tracker.sweep(after(86_399));
    }
    assert_eq!(tracker.count(), 100);
    tracker.with(device(3), after(50_000), |tracked| tracked.last = after(50_000));
    for _ in 0..16 {
        tracker.sweep(after(86_400));
    }
    assert_eq!(tracker.count(), 1);
    assert!(tracker.known(device(3), |_| ()).is_some() && tracker.known(device(4), |_| ()).is_none());
}

#[test]
fn bytes_find_the_poll_that_they_are_of() {
    let mut watch = tracker::Watch::default();
    watch.await_bytes(PollResult::Empty, None); // the first of a stretch: on neither side
    watch.await_bytes(PollResult::Empty, Some(7));
    watch.await_bytes(PollResult::Events, Some(8));
    assert_eq!(watch.bytes_came(PollResult::Events), Some(8));
    assert_eq!(watch.bytes_came(PollResult::Empty), None);
    assert_eq!(watch.bytes_came(PollResult::Empty), Some(7));
    assert_eq!(watch.bytes_came(PollResult::Empty), None);
    for predicted in 0..6 {
        watch.await_bytes(PollResult::NotModified, Some(predicted));
    }
    assert_eq!(watch.bytes_came(PollResult::NotModified), Some(2)); // the oldest were given up
}

#[tokio::test]
async fn polls_cost_bytes_by_the_packet_model_without_the_payload() {
    let bench = bench();
    let box_1 = poller(1, Cohort::Poll, None);
    let carried = |bytes, packets| Carried { bytes, packets };
    let (inward, outward) = (carried(1_000, 3), carried(5_000, 2));
    bench
        .ledger
        .poll_traffic(&box_1, Exchange::Poll(PollResult::Events), inward, outward, 4_000);
    bench
        .ledger
        .poll_traffic(&box_1, Exchange::Acks, carried(100, 1), carried(50, 1), 0);
    // 5 and 2 packets, each with its acknowledgement in the other direction: 52 bytes both ways.
    let report = bench.report().await;
    let bytes = report.cohorts["poll"].bytes;
    assert_eq!((bytes.inward, bytes.outward), (1_100.0 + 364.0, 1_050.0 + 364.0));
    assert_eq!(report.cohorts["poll"].devices, 50);
}
