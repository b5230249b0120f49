//! The states of the page: nothing there, not ready, lost and back, behind a key; and how sure it is of its figures.

use std::time::{Duration, Instant};

use serde_json::json;
use unpoll::admin::{Check, VIEWERS_MAX};

use crate::{
    browser::Browser,
    stage::{Stage, avoided, family, histogram},
    support::{Backend, SOON, Service, Settings, wait_for},
};

#[test]
fn an_empty_service_says_that_nothing_happened() {
    let service = Service::start();
    let mut browser = Browser::open(&format!("http://{}/", service.admin));
    browser.until_live();
    assert_eq!(browser.figure("polls_avoided"), Some(0.0));
    for (place, words) in [
        ("#polls-note", "no device has earned credit"),
        ("#bytes-note", "Nothing avoided, nothing spent"),
        ("#sooner-note", "No delivery to compare"),
        ("#verdict", "Not validated"),
        ("#sessions-note", "of 0 devices"),
        ("#latency-note", "no delivery yet"),
        ("#queued-note", "nothing waits"),
        ("#ready", "ready"),
        ("#refusals", "none"),
    ] {
        let text = browser.text(place);
        assert!(text.contains(words), "{place}: {text}");
    }
    browser.until("!document.getElementById('day-table').hidden");
    let all = browser.text("body");
    for wrong in ["NaN", "undefined", "null", "Infinity"] {
        assert!(!all.contains(wrong), "{wrong} in {all}");
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_lost_connection_is_said_with_the_age_of_the_figures_and_mended() {
    let mut service = Service::start();
    service.backend().add_device("box", "secret");
    let mut browser = Browser::open(&format!("http://{}/", service.admin));
    browser.until_live();
    let mut points = "document.querySelector('.plot[aria-label=\"Sessions\"] path').getAttribute('d').length > 20";
    browser.until(points);

    service.kill();
    browser.until("document.body.dataset.state === 'lost'");
    let said = browser.text("#state");
    assert!(said.starts_with("reconnecting: figures are ") && said.ends_with(" s old"), "{said}");
    assert!(browser.text("#notice").contains("lost"));
    assert!(browser.eval("document.title").as_str().unwrap().starts_with("lost"));
    browser.until("parseInt(document.getElementById('state').innerText.match(/\\d+/)[0]) >= 5");

    service.run();
    browser.until_live();
    assert_eq!(browser.eval("document.getElementById('notice').hidden"), true);
    browser.until("document.querySelector('[data-figure=\"uptime_seconds\"]').dataset.value < 30");
    points = "(document.querySelector('.plot[aria-label=\"Sessions\"] path:not(.area)').getAttribute('d').match(/M/g) ?? []).length === 2";
    browser.until(points); // what was before stays, with a gap

    // A stop in good order is not held up by who watches.
    let begin = Instant::now();
    assert_eq!(service.stop(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    browser.until("document.body.dataset.state === 'lost'");
    browser.until("document.getElementById('notice').innerText.includes('lost')");
}

#[test]
fn a_silent_service_is_told_from_a_lost_one() {
    let service = Service::start();
    let mut browser = Browser::open(&format!("http://{}/", service.admin));
    browser.until_live();
    service.signal(rustix::process::Signal::STOP);
    browser.until("document.body.dataset.state === 'silent'");
    let said = browser.text("#state");
    assert!(said.starts_with("no news: figures are "), "{said}");
    service.signal(rustix::process::Signal::CONT);
    browser.until_live();
}

#[test]
fn the_stream_outlives_the_clocks_of_its_connection() {
    let mut settings = Settings::default();
    for clock in ["HEAD", "IDLE", "BODY", "WRITE"] {
        settings = settings.set(&format!("UNPOLL_HTTP_{clock}_SECS"), "1");
    }
    let service = Service::start_with(settings);
    let mut browser = Browser::open(&format!("http://{}/", service.admin));
    browser.until_live();
    browser.until("document.querySelector('[data-figure=\"uptime_seconds\"]').dataset.value > 8");
    let lives = browser.requests().iter().filter(|url| url.ends_with("/live")).count();
    assert_eq!(lives, 1, "one stream for all the time");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_service_that_is_not_ready_says_why() {
    let checks = vec![
        Check::new("store", false, "takes no events: look at its <disk>"),
        Check::new("drain", true, "not stopping"),
    ];
    let stage = Stage::set(
        |registry| family(registry, "unpoll_store_writable", &[], &[(&[], 0.0)]),
        checks,
        None,
    );
    let mut browser = Browser::open(&stage.url());
    browser.until_live();
    assert_eq!(browser.text("#ready"), "not ready");
    assert_eq!(browser.text("#notice"), "Not ready. store: takes no events: look at its <disk>.");
    assert!(browser.eval("document.title").as_str().unwrap().starts_with("not ready"));
    assert_eq!(browser.figure("sessions"), None, "a metric that is not there has no figure");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn negative_net_bytes_are_said_in_words() {
    let stage = Stage::set(|registry| avoided(registry, 1_000.0, 4_000_000.0, 6_280_000.0), vec![], None);
    let mut browser = Browser::open(&stage.url());
    browser.until_live();
    assert_eq!(browser.text("[data-figure=net_bytes]"), "\u{2212}2.28 MB");
    let note = browser.text("#bytes-note");
    assert!(note.starts_with("Push moved 2.28 MB more than the polls would have"), "{note}");
}

#[test]
fn what_a_control_cohort_confirms_is_shown_with_its_intervals() {
    let fill = |registry: &prometheus::Registry| {
        avoided(registry, 1_234_567.0, 5.2e9, 1.1e9);
        let polls: [(&[&str], f64); 3] = [
            (&["push", "empty"], 4_567.0),
            (&["poll", "empty"], 10.0),
            (&["control", "empty"], 98_765.0),
        ];
        family(registry, "unpoll_legacy_polls_total", &["cohort", "result"], &polls);
        let devices: [(&[&str], f64); 3] = [(&["push"], 97_000.0), (&["poll"], 1_000.0), (&["control"], 2_000.0)];
        family(registry, "unpoll_cohort_devices", &["cohort"], &devices);
        for (name, values) in [
            ("unpoll_calibration_ratio", [1.012, 0.985, 1.26, f64::NAN]),
            ("unpoll_calibration_ratio_low", [0.991, 0.96, 1.14, f64::NAN]),
            ("unpoll_calibration_ratio_high", [1.034, 1.01, 1.38, f64::NAN]),
        ] {
            let values: Vec<([&str; 1], f64)> = [["requests"], ["bytes"], ["empty"], ["latency"]].into_iter().zip(values).collect();
            let values: Vec<(&[&str], f64)> = values.iter().map(|(of, value)| (of.as_slice(), *value)).collect();
            family(registry, name, &["quantity"], &values);
        }
        let buckets = [-60.0, 0.0, 300.0, 600.0, 900.0];
        let name = "unpoll_poll_latency_saved_seconds";
        histogram(
            registry,
            name,
            &["baseline"],
            &["measured"],
            &buckets,
            &[(200.0, 500), (500.0, 500)],
        );
    };
    let report = json!({
        "from": "2026-11-22T00:00:00.000Z", "to": "2026-11-23T00:00:00.000Z", "residual_polls": 12.0, "coverage": 0.987,
        "baselines": { "measured": null, "declared": { "requests_avoided": 5.0, "gross_bytes": { "in": 1.0, "out": 2.0 },
            "overhead_bytes": 9.0, "net_bytes": -6.0, "break_even_keepalive_seconds": 93.0 } },
        "latency_saved": { "deliveries": 3.0, "mean_seconds": 448.0, "p50_seconds": 450.0, "p95_seconds": 850.0, "p99_seconds": 890.0 },
        "events_saved_from_expiry": 1.0, "validated": true, "validation": "validated by 2,000 control devices", "assumptions": ["One.", "Two."],
    });
    let stage = Stage::set(fill, vec![], Some(report));
    let mut browser = Browser::open(&stage.url());
    browser.until_live();
    browser.until("document.getElementById('verdict').innerText === 'Validated'");
    assert_eq!(
        browser.eval("document.querySelector('#baseline :checked').value"),
        "measured",
        "the measured baseline comes first"
    );
    assert_eq!(browser.text("[data-figure=polls_avoided]"), "1,230,000");
    assert_eq!(browser.figure("polls_avoided"), Some(1_230_000.0));
    assert!(
        browser.text("#polls-note").contains("1,234,567 gross, less 4,567"),
        "{}",
        browser.text("#polls-note")
    );
    let ratios = browser.text("#ratios");
    assert!(
        ratios.contains("1.01 (0.99\u{2013}1.03)") && ratios.contains("not known"),
        "{ratios}"
    );
    assert_eq!(
        browser.eval("document.querySelectorAll('#ratios .off').length"),
        1,
        "1.26 does not agree"
    );
    assert_eq!(browser.text("[data-figure=sooner]"), "5.83 min");
    let day = browser.text(".day");
    for words in ["no control cohort", "\u{2212}6 B", "93 s", "98.7 %", "p95 14.2 min"] {
        assert!(day.contains(words), "no {words} in {day}");
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn beyond_loopback_a_browser_gives_the_key_as_its_password() {
    let stage = Stage::behind_the_gate("up_right");
    let anyone = Backend {
        address: stage.address,
        key: String::new(),
    };
    for path in ["/", "/live", "/assets/page.js", "/metrics"] {
        let refused = anyone.get(path).expect(401);
        let asked: Vec<&str> = refused
            .headers
            .iter()
            .filter(|(name, _)| name == "www-authenticate")
            .map(|(_, value)| value.as_str())
            .collect();
        assert!(asked.iter().any(|scheme| scheme.starts_with("Basic ")), "{path}: {asked:?}");
        if path != "/live" {
            anyone.with_key("up_right").get(path).expect(200);
        }
    }
    let mut browser = Browser::start();
    assert_eq!(browser.visit(&stage.url(), Some("up_right")), 200);
    browser.until_live();
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn too_many_viewers_are_told_and_let_in_when_there_is_room() {
    let stage = Stage::set(|_| (), vec![], None);
    let watch = || {
        let mut socket = std::net::TcpStream::connect(stage.address).unwrap();
        std::io::Write::write_all(&mut socket, b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut begin = [0; 12];
        std::io::Read::read_exact(&mut socket, &mut begin).unwrap();
        assert_eq!(&begin, b"HTTP/1.1 200");
        socket
    };
    let mut viewers: Vec<_> = (0..VIEWERS_MAX).map(|_| watch()).collect();
    let mut browser = Browser::open(&stage.url());
    wait_for("the page says why", SOON, || {
        browser.text("#notice").contains("64 viewers watch the page already").then_some(())
    });
    viewers.truncate(VIEWERS_MAX / 2);
    browser.until_live();
}
