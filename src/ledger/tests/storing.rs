//! What reaches the store.

use super::*;

#[tokio::test]
async fn each_amount_reaches_the_store_once_whatever_the_store_answers() {
    let bench = bench();
    let mut account = bench.open("tsn-1", None, Polling::Off);
    let faults = [
        vec![],
        vec![Fault::Busy],
        vec![Fault::AnswerLost],
        vec![],
        vec![Fault::RequestLost],
        vec![Fault::AnswerLost],
        vec![Fault::RequestLost, Fault::AnswerLost],
        vec![Fault::Busy, Fault::RequestLost],
    ];
    let mut proven = 0;
    for (round, faults) in faults.into_iter().enumerate() {
        bench.minutes.faults.lock().extend(faults);
        proven += 20;
        bench.clock.advance(Duration::from_secs(20));
        bench.ledger.proof(&mut account, after(proven));
        bench.ledger.flush().await;
        let report = bench.report().await;
        assert_eq!(report.credited_seconds, proven as f64, "round {round}");
    }
    while !bench.minutes.faults.lock().is_empty() {
        bench.ledger.flush().await;
    }
    bench.ledger.flush().await;
    let stored: f64 = bench.minutes.rows.lock().values().map(|row| row["credited_seconds"]).sum();
    assert_eq!(stored, proven as f64);
}

#[tokio::test]
async fn a_store_that_is_away_for_long_costs_bounded_memory_and_no_credit() {
    let bench = bench();
    let mut account = bench.open("tsn-1", None, Polling::Off);
    let rounds = 2_000;
    bench.minutes.faults.lock().extend(vec![Fault::Busy; rounds]);
    for round in 1..=rounds {
        bench.clock.advance(Duration::from_secs(60));
        bench.ledger.proof(&mut account, after(round as u64 * 60));
        bench.ledger.flush().await;
    }
    bench.ledger.flush().await;
    assert!(bench.minutes.rows.lock().len() <= 1_440);
    assert_eq!(bench.report().await.credited_seconds, rounds as f64 * 60.0);
}

#[tokio::test]
async fn a_report_of_a_store_that_does_not_answer_is_refused() {
    let bench = bench();
    bench.minutes.unreadable.store(true, Ordering::Relaxed);
    assert!(bench.ledger.report(START, after(60)).await.is_err());
}
