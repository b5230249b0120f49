//! Credit of the real service against the test's own log of proofs: what was not proven is never earned, and what push costs is shown.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use support::{Backend, Device, Kill, Options, Poller, SOON, Service, Settings, wait_for, wait_for_presence};

const PING: &str = "<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>";
/// Between two pings of a session with stream management: answers that are not acknowledged are bounded.
const PAUSE: Duration = Duration::from_millis(300);
/// What the clocks of the test and of the service may differ by.
const TICK: f64 = 0.02;

/// A connected device, and what the test knows of its proofs of life: it sends nothing that is not noted here.
struct Proven {
    device: Device,
    known: Known,
}

/// Each happened between two times.
#[derive(Clone, Copy)]
struct Known {
    opened: (Instant, Instant),
    last_proof: (Instant, Instant),
}

impl Known {
    /// The seconds from the opening of the session to its last proof of life: at least, at most.
    fn seconds(self) -> (f64, f64) {
        let least = self.last_proof.0.saturating_duration_since(self.opened.1);
        let most = self.last_proof.1.duration_since(self.opened.0);
        (least.as_secs_f64() - TICK, most.as_secs_f64() + TICK)
    }
}

impl Proven {
    fn online(service: &Service, id: &str) -> Self {
        Self::with(Device::options(service, id, "secret"))
    }

    fn with(options: Options) -> Self {
        let before = Instant::now();
        let device = Device::connect(options).expect("it connects");
        let opened = (before, Instant::now());
        let known = Known {
            opened,
            last_proof: opened,
        };
        Self { device, known }
    }

    fn prove(&mut self) {
        let before = Instant::now();
        self.device.answer_to(PING);
        self.known.last_proof = (before, Instant::now());
    }

    fn prove_for(&mut self, seconds: u64) {
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            self.prove();
            thread::sleep(PAUSE);
        }
    }

    /// Ends the stream in good order, which is a proof of life, too; gives its seconds.
    fn close(self) -> (f64, f64) {
        let before = Instant::now();
        self.device.close();
        let last_proof = (before, Instant::now());
        Known { last_proof, ..self.known }.seconds()
    }
}

fn report(backend: &Backend) -> Value {
    backend.get("/v1/reports/polling-avoided").expect(200).json()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_half_open_connection_earns_nothing_after_its_last_proof_of_life() {
    // A proof vouches for 2 + 30 s, far longer than the test: only the rule keeps the silence from earning.
    let settings = Settings::default()
        .set("UNPOLL_XMPP_KEEPALIVE_SECS", "2")
        .set("UNPOLL_XMPP_OVERDUE_SECS", "2");
    let service = Service::start_with(settings);
    let backend = service.backend();
    backend.add_device("box", "secret");
    let mut proven = Proven::online(&service, "box");
    proven.prove_for(3);
    // The socket stays open; nobody reads it or writes to it any more.
    proven.device.kill(Kill::Silent);
    let silent_since = Instant::now();
    wait_for("the session is given up", SOON, || {
        (backend.presence("box") != "online").then_some(())
    });
    let silent = silent_since.elapsed().as_secs_f64();
    assert!(silent > 3.0, "it was probed, and its answer waited for: {silent} s");
    let found = report(&backend);
    let (least, most) = proven.known.seconds();
    let credited = number(&found["credited_seconds"]);
    assert!(
        (least..=most).contains(&credited),
        "{credited} s, proven were {least:.3} to {most:.3} s: {found}"
    );
    let no_proof = number(&found["uncredited_seconds"]["no_proof"]);
    assert!(
        (no_proof - silent).abs() < 1.5,
        "{no_proof} s without a proof, {silent} s of silence"
    );
    // Nor does the session earn while it waits to be resumed.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(number(&report(&backend)["credited_seconds"]), credited);
}

#[test]
fn a_box_that_polls_while_it_is_connected_earns_nothing() {
    let service = Service::start_with(Settings::default().set("UNPOLL_LEDGER_POLL_INTERVAL_SECS", "4"));
    let backend = service.backend();
    ["honest", "both"].into_iter().for_each(|id| backend.add_device(id, "secret"));
    let poller = Poller::new(&service, "both", "secret");
    let (mut honest, mut both) = (Proven::online(&service, "honest"), Proven::online(&service, "both"));
    let mut polls = 0.0;
    let first_poll = Instant::now();
    let until = first_poll + Duration::from_secs(8);
    while Instant::now() < until {
        poller.poll("").expect(200);
        polls += 1.0;
        honest.prove();
        both.prove();
        thread::sleep(PAUSE);
    }
    let before_it_polled = first_poll.duration_since(both.known.opened.0).as_secs_f64() + TICK;
    let (least, most) = honest.close();
    let connected = both.close().0;
    wait_for_presence(&backend, "both", "offline");
    let found = report(&backend);
    let credited = number(&found["credited_seconds"]);
    assert!(
        least <= credited && credited <= most + before_it_polled,
        "{credited} s; the honest box alone has {least:.3} to {most:.3} s, the other was up {before_it_polled:.3} s before it polled"
    );
    let polling_on = number(&found["uncredited_seconds"]["polling_on"]);
    assert!(polling_on >= connected - before_it_polled, "{polling_on} s: {found}");
    assert_eq!(number(&found["residual_polls"]), polls);
    assert_eq!(number(&found["cohorts"]["push"]["polls"]["empty"]), polls);
}

/// Runs a box for 12 s that pings at that pause, against a declared poll interval of 3 s: one second here is five minutes
/// elsewhere, so a pause of 0.2 s is a ping every minute against polls every 15 minutes. Gives the report, and its words.
fn pings_against_polls(pause: Duration) -> (Value, String) {
    let service = Service::start_with(Settings::default().set("UNPOLL_LEDGER_POLL_INTERVAL_SECS", "3"));
    let backend = service.backend();
    backend.add_device("box", "secret");
    let mut proven = Proven::with(Options {
        managed: false,
        ..Device::options(&service, "box", "secret")
    });
    let (start, mut pings) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(12) {
        let due = start + pause * pings;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        proven.prove();
        pings += 1;
    }
    proven.close();
    wait_for_presence(&backend, "box", "offline");
    let signs = service.metric("unpoll_keepalives_total").unwrap();
    // The end of the stream is a sign of life, too; on a busy machine two of them may be read at once.
    // What is read and written with the login, and packets that are divided among kinds, may add one or two.
    let (least, most) = (f64::from(pings) * 0.9, f64::from(pings) + 3.0);
    assert!((least..=most).contains(&signs), "{signs} signs of life for {pings} pings");
    let words = service.command().arg("report").output().unwrap();
    assert!(words.status.success(), "{words:?}");
    (report(&backend), String::from_utf8(words.stdout).unwrap())
}

#[test]
fn a_ping_every_minute_costs_more_bytes_than_a_poll_every_quarter_of_an_hour_and_the_report_says_so() {
    let often = thread::spawn(|| pings_against_polls(Duration::from_millis(200)));
    let (seldom, seldom_words) = pings_against_polls(Duration::from_secs(1));
    let (often, often_words) = often.join().unwrap();
    for (found, words) in [(&often, &often_words), (&seldom, &seldom_words)] {
        let declared = &found["baselines"]["declared"];
        let gross = number(&declared["gross_bytes"]["in"]) + number(&declared["gross_bytes"]["out"]);
        let kinds = found["overhead_bytes"].as_object().unwrap().values();
        let cost: f64 = kinds.map(|kind| number(&kind["in"]) + number(&kind["out"])).sum();
        let net = number(&declared["net_bytes"]);
        // Nothing is clamped, and nothing is left out.
        assert!((net - (gross - cost)).abs() < 1.0, "{found}");
        assert!((gross / number(&declared["requests_avoided"]) - 4213.0).abs() < 1.0, "{found}");
        assert!(words.contains("net "), "{words}");
    }
    let net = |found: &Value| number(&found["baselines"]["declared"]["net_bytes"]);
    assert!(net(&often) < 0.0, "15 pings for each poll: {often}");
    assert!(often_words.contains("= net -"), "{often_words}");
    assert!(
        often_words.contains("push cost MORE bytes than polling would have"),
        "{often_words}"
    );
    // Not because of the connect: the pings alone outweigh the polls, and the break-even lies above a ping each 0.2 s.
    let pings = &often["overhead_bytes"]["keepalive"];
    let declared = &often["baselines"]["declared"];
    assert!(
        number(&pings["in"]) + number(&pings["out"]) > number(&declared["gross_bytes"]["in"]) + number(&declared["gross_bytes"]["out"]),
        "{often}"
    );
    assert!(number(&declared["break_even_keepalive_seconds"]) > 0.2, "{often}");
    // At a ping each 5 minutes it pays.
    assert!(net(&seldom) > 0.0, "3 pings for each poll: {seldom}");
    let declared_words = seldom_words.split("against ").find(|words| words.starts_with("declared")).unwrap();
    assert!(!declared_words.contains("MORE"), "{seldom_words}");
}

#[test]
fn a_kill_adds_no_credit_and_at_most_ten_seconds_are_missing() {
    // With the default flush of 10 s; a proof of life may wait for a second before it is booked.
    const MISSING: f64 = 10.0 + 1.5;
    let mut service = Service::start();
    let backend = service.backend();
    let ids = ["box-0", "box-1", "box-2"];
    ids.into_iter().for_each(|id| backend.add_device(id, "secret"));
    let mut boxes: Vec<Proven> = ids.into_iter().map(|id| Proven::online(&service, id)).collect();
    let until = Instant::now() + Duration::from_secs(24);
    while Instant::now() < until {
        boxes.iter_mut().for_each(Proven::prove);
        thread::sleep(PAUSE);
    }
    service.kill();
    service.run();
    let credited = number(&report(&backend)["credited_seconds"]);
    let least: f64 = boxes.iter().map(|one| one.known.seconds().0).sum();
    let most: f64 = boxes.iter().map(|one| one.known.seconds().1).sum();
    assert!(credited <= most, "{credited} s were credited, {most:.3} s proven");
    assert!(credited >= least - 3.0 * MISSING, "{credited} s of {least:.3} s");
    // The time without a service is nobody's: a box that comes back begins anew.
    let mut back = Proven::online(&service, "box-0");
    back.prove_for(3);
    let (least, most) = back.close();
    wait_for_presence(&backend, "box-0", "offline");
    let since = number(&report(&backend)["credited_seconds"]) - credited;
    assert!(
        (least..=most).contains(&since),
        "{since} s since the kill, proven were {least:.3} to {most:.3} s"
    );
}
