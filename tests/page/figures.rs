//! What the page shows is what `/metrics` says, and it comes by itself.

use serde_json::json;

use crate::{
    browser::Browser,
    support::{Device, SOON, Service, Settings, wait_for},
};

/// What the page calls it, and the series on `/metrics` that it is the sum of.
const SAME: [(&str, &[&str]); 9] = [
    (
        "sessions",
        &[
            "unpoll_sessions{node=\"n1\",transport=\"xmpp\"}",
            "unpoll_sessions{node=\"n1\",transport=\"xmpps\"}",
        ],
    ),
    ("accepted", &["unpoll_events_accepted_total{durability=\"disk\"}"]),
    ("delivered", &["unpoll_deliveries_total{reason=\"none\",state=\"delivered\"}"]),
    ("queued", &["unpoll_queue_depth"]),
    ("disk_bytes", &["unpoll_store_disk_bytes"]),
    ("refused", &["unpoll_refusals_total"]),
    ("cost_bytes", &["unpoll_overhead_bytes_total"]),
    ("polls_avoided", &["unpoll_polls_avoided_total{baseline=\"declared\""]),
    (
        "net_bytes",
        &[
            "unpoll_poll_avoided_bytes_total{baseline=\"declared\"",
            "-unpoll_overhead_bytes_total",
        ],
    ),
];

/// The sum of all series that begin so; a leading `-` takes it off.
fn sum(metrics: &str, series: &[&str]) -> f64 {
    let of = |begin: &str| -> f64 {
        let lines = metrics.lines().filter(|line| line.starts_with(begin));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    series
        .iter()
        .map(|name| name.strip_prefix('-').map_or_else(|| of(name), |name| -of(name)))
        .sum()
}

fn busy() -> (Service, Vec<Device>) {
    let service = Service::start_with(Settings::default().set("UNPOLL_LEDGER_POLL_INTERVAL_SECS", "1"));
    let backend = service.backend();
    let devices = ["one", "two", "three"].map(|id| {
        backend.add_device(id, "secret");
        Device::online(&service, id, "secret")
    });
    // Devices earn by proofs of life: until the first poll is avoided, give them occasion.
    wait_for("a poll is avoided", SOON, || {
        push(&service, &devices);
        let metrics = service.metric("unpoll_polls_avoided_total{baseline=\"declared\",policy=\"1s\",result=\"events\"}");
        metrics.filter(|polls| *polls >= 3.0).map(drop)
    });
    (service, devices.into())
}

/// Posts an event for each device and waits until it was delivered; one request is refused.
fn push(service: &Service, devices: &[Device]) {
    let backend = service.backend();
    for (id, device) in ["one", "two", "three"].iter().zip(devices) {
        let event = backend.push(id, &json!({ "title": "電視" }));
        device.expect_event();
        device.acknowledge();
        wait_for("it is delivered", SOON, || (backend.state(&event) == "delivered").then_some(()));
    }
    backend.post(&json!({ "target": { "device": "nobody" }, "type": "t" })).expect(404);
}

/// All figures of the page are those of `/metrics`, at one moment.
#[track_caller]
fn agrees(service: &Service, browser: &mut Browser) {
    let metrics = crate::support::Backend {
        address: service.admin,
        key: String::new(),
    };
    let mut differ = Vec::new();
    let agreed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for("page and /metrics agree", SOON, || {
            let before = metrics.get("/metrics").expect(200).body;
            let shown = SAME.map(|(name, _)| browser.figure(name));
            differ = SAME
                .iter()
                .zip(shown)
                .filter(|((_, series), shown)| shown.is_none_or(|shown| (shown - sum(&before, series)).abs() > 1e-6))
                .map(|((name, series), shown)| format!("{name}: page {shown:?}, metrics {}", sum(&before, series)))
                .collect();
            differ.is_empty().then_some(())
        });
    }));
    assert!(agreed.is_ok(), "{differ:#?}");
}

#[test]
fn the_page_agrees_with_the_metrics_and_moves_by_itself() {
    let (service, devices) = busy();
    let mut browser = Browser::open(&format!("http://{}/", service.admin));
    browser.until_live();
    browser.eval("window.neverReloaded = true");
    agrees(&service, &mut browser);
    assert_eq!(browser.figure("sessions"), Some(3.0));
    let accepted = browser.figure("accepted").unwrap();
    assert!(browser.figure("polls_avoided").unwrap() > 0.0);
    let refused = browser.figure("refused").unwrap();
    assert_eq!(browser.text("#refusals li"), format!("unknown-device\n{refused}"));

    push(&service, &devices);
    let more = accepted + 3.0;
    browser.until(&format!(
        "document.querySelector('[data-figure=\"accepted\"]').dataset.value === '{more}'"
    ));
    agrees(&service, &mut browser);
    drop(devices);
    browser.until("document.querySelector('[data-figure=\"sessions\"]').dataset.value === '0'");
    agrees(&service, &mut browser);
    assert_eq!(browser.eval("window.neverReloaded"), true);

    assert_eq!(browser.complaints(), Vec::<String>::new());
    let origin = format!("http://{}/", service.admin);
    let requests = browser.requests();
    assert!(requests.len() >= 9, "{requests:?}");
    let lives = requests.iter().filter(|url| url.ends_with("/live")).count();
    assert_eq!(lives, 1, "figures are pushed, not polled: {requests:?}");
    assert!(requests.iter().all(|url| url.starts_with(&origin)), "{requests:?}");
}

#[test]
fn a_page_that_is_opened_late_shows_what_was_before() {
    let (service, _devices) = busy();
    // Nobody watches, and some points are made.
    std::thread::sleep(std::time::Duration::from_secs(7));
    let mut browser = Browser::open(&format!("http://{}/", service.admin));
    browser.until_live();
    let path = "document.querySelector('.plot[aria-label=\"Sessions\"] path:not(.area)').getAttribute('d').split('L').length";
    let points = browser.eval(path).as_u64().unwrap();
    assert!(points >= 3, "{points} points at once");
}

#[test]
fn choices_switch_what_is_shown() {
    let (service, _devices) = busy();
    let mut browser = Browser::open(&format!("http://{}/", service.admin));
    browser.until_live();

    // The baseline.
    let declared = browser.figure("net_bytes").unwrap();
    browser.click("#baseline [value=efficient]");
    let efficient = browser.figure("net_bytes").unwrap();
    assert!(efficient < declared, "an efficient poll costs less: {efficient} {declared}");
    browser.click("#baseline [value=measured]");
    assert_eq!(browser.figure("polls_avoided"), Some(0.0));
    assert!(browser.text("#polls-note").contains("no control cohort"));

    // The period: the axis begins that much earlier.
    let ticks = "[...document.querySelectorAll('.plot[aria-label=\"Events\"] text')].map(text => text.textContent).filter(text => text.includes(':')).length";
    browser.click("#period [value='15']");
    assert!((2..=3).contains(&browser.eval(ticks).as_u64().unwrap()));
    browser.click("#period [value='2']");
    assert!((4..=5).contains(&browser.eval(ticks).as_u64().unwrap()));

    // The legend.
    let lines = "document.querySelectorAll('.plot[aria-label=\"Events\"] path:not(.area)').length";
    assert_eq!(browser.eval(lines), 2);
    browser.click(".plot[aria-label=Events] .legend button:first-child");
    assert_eq!(browser.eval(lines), 1);
    browser.click(".plot[aria-label=Events] .legend button:first-child");
    assert_eq!(browser.eval(lines), 2);

    // The hair line: all plots show the same moment, with a mouse and with keys.
    browser.until("document.querySelector('.plot[aria-label=\"Events\"] path').getAttribute('d').includes('L')");
    let crosses = "document.querySelectorAll('.cross').length";
    browser.hover(".plot[aria-label=Events] .canvas", 300, 40);
    assert_eq!(browser.eval(crosses), 5);
    assert!(browser.text("#picked").starts_with("at "));
    browser.hover("h1", 2, 2);
    assert_eq!((browser.eval(crosses), browser.text("#picked")), (json!(0), "now".into()));
    browser.focus(".plot[aria-label=Events] .canvas");
    browser.key("ArrowLeft");
    browser.key("ArrowLeft");
    assert_eq!(browser.eval(crosses), 5);
    let said = browser.eval("document.getElementById('spoken').textContent");
    assert!(said.as_str().unwrap().contains("Events: accepted"), "{said}");
    browser.key("Escape");
    assert_eq!(browser.eval(crosses), 0);

    // The colours, kept over a reload, as is the rest.
    let background = "getComputedStyle(document.body).backgroundColor";
    let light = browser.eval(background);
    browser.scheme("dark");
    let dark = browser.eval(background);
    assert_ne!(light, dark);
    browser.click("#theme");
    assert_eq!((browser.text("#theme").as_str(), browser.eval(background)), ("light", light));
    browser.click("#theme");
    browser.scheme("light");
    assert_eq!((browser.text("#theme").as_str(), browser.eval(background)), ("dark", dark.clone()));
    browser.reload();
    browser.until_live();
    assert_eq!(browser.eval(background), dark);
    assert_eq!(browser.eval("document.querySelector('#baseline :checked').value"), "measured");
    assert_eq!(browser.eval("document.querySelector('#period :checked').value"), "2");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
