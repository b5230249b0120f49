//! The report as readers see it.

use super::{control::ControlCohort, *};

/// One device for a day, with a sign of life every `every` seconds that costs what the field notes measured: 436 bytes and 3
/// packets for a ping and its answer, headers included.
async fn a_day_of_pings(every: u64) -> Report {
    let bench = bench();
    let mut account = bench.open("tsn-1", None, Polling::Off);
    for at in (every..=86_400).step_by(every as usize) {
        // A ping out and a pong in: 155 and 125 bytes at the socket; two packets and their acknowledgements of 52 bytes.
        bench.ledger.overhead(Overhead::Keepalive, Direction::Out, 155, 1);
        bench.ledger.overhead(Overhead::Keepalive, Direction::In, 125, 1);
        bench.ledger.proof(&mut account, after(at));
    }
    bench.clock.advance(Duration::from_secs(86_400));
    bench.report().await
}

#[tokio::test]
async fn pings_every_minute_against_a_poll_every_quarter_of_an_hour_show_negative_net_bytes_plainly() {
    let report = a_day_of_pings(60).await;
    let declared = report.baselines["declared"].as_ref().expect("there");
    // 96 polls of 4,213 bytes; 1,440 pings of 155 + 125 + 4 · 52 bytes.
    assert!((declared.gross_bytes.total() - 96.0 * 4_213.0).abs() < 5.0, "{declared:?}");
    assert_eq!(declared.overhead_bytes, 1_440.0 * 488.0);
    assert!((declared.net_bytes + 298_272.0).abs() < 5.0, "{declared:?}");
    let text = words(&report);
    assert!(text.contains("= net -298.2"), "{text}");
    assert!(text.contains("push cost MORE bytes than polling would have"), "{text}");
    // 86,400 s · 488 B / 404,448 B.
    let break_even = declared.break_even_keepalive_seconds.expect("there is one");
    assert!((break_even - 104.25).abs() < 0.1, "{break_even}");
    assert!(text.contains("at a sign of life every 104 s"), "{text}");
    // Efficient polling: 833 bytes a poll.
    let efficient = report.baselines["efficient"].as_ref().expect("there");
    assert!((efficient.break_even_keepalive_seconds.expect("one") - 527.2).abs() < 0.5);
    // At that interval, net is nothing.
    let report = a_day_of_pings(104).await;
    let declared = report.baselines["declared"].as_ref().expect("there");
    assert!(declared.net_bytes.abs() < 0.01 * declared.overhead_bytes, "{declared:?}");
    let report = a_day_of_pings(300).await;
    assert!(report.baselines["declared"].as_ref().expect("there").net_bytes > 0.0);
    // Only against efficient polling.
    assert_eq!(words(&report).matches("MORE bytes").count(), 1, "{}", words(&report));
}

#[tokio::test]
async fn nothing_breaks_even_when_all_else_costs_more_than_polling() {
    let bench = bench();
    let mut account = bench.open("tsn-1", None, Polling::Off);
    bench.ledger.overhead(Overhead::Keepalive, Direction::In, 20, 1);
    bench.ledger.overhead(Overhead::Connect, Direction::In, 20_000, 10);
    bench.ledger.proof(&mut account, after(300));
    let report = bench.report().await;
    assert_eq!(
        report.baselines["declared"].as_ref().expect("there").break_even_keepalive_seconds,
        None
    );
}

#[test]
fn quantiles_come_from_the_buckets_of_the_period() {
    let bench = bench();
    let mut account = bench.open("tsn-1", None, Polling::Off);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for at in 1..=9_000 {
        bench.ledger.delivered(&mut account, Urgency::Normal, after(at), after(at));
    }
    let saved = runtime.block_on(bench.report()).latency_saved;
    let near = |found: Option<f64>, expected: f64| (found.expect("deliveries") - expected).abs() < 15.0;
    assert!(near(saved.p50_seconds, 450.0) && near(saved.p95_seconds, 855.0), "{saved:?}");
    assert!(near(saved.p99_seconds, 891.0), "{saved:?}");
}

/// `BLESS=1` writes it.
#[tokio::test]
async fn the_report_reads_as_written_down() {
    let bench = bench();
    ControlCohort {
        interval: &|_| 10.0,
        away: (0.0, 0.0),
        ..ControlCohort::default()
    }
    .run(&bench);
    bench.ledger.flush().await;
    let mut account = bench.open("tsn-1", None, Polling::Off);
    for at in 1..=24 {
        bench.ledger.overhead(Overhead::Keepalive, Direction::In, 48, 1);
        bench
            .ledger
            .delivered(&mut account, Urgency::Normal, after(at * 250), after(at * 250 + 1));
        bench.ledger.proof(&mut account, after(at * 300));
    }
    let mut report = bench.report().await;
    (report.overhead_cpu_seconds, report.connection_memory_bytes) = (1.5, Some(7_500_000.0));
    let text = format!("{}\n{}\n", words(&report), serde_json::to_string_pretty(&report).expect("JSON"));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ledger/tests/report.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &text).expect("written");
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap_or_default(), "BLESS=1 writes {path}");
    assert_eq!(
        serde_json::from_str::<Report>(&serde_json::to_string(&report).expect("JSON")).expect("read"),
        report
    );
}
