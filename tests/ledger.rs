//! The ledger of the real service: over `kill -9`, and with cohorts that are drawn.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{Device, SOON, Service, Settings, wait_for};

const PING: &str = "<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>";
/// Between two pings: answers that are not acknowledged are bounded.
const PAUSE: Duration = Duration::from_millis(300);
const CREDITED: &str = "unpoll_credited_connected_seconds_total{policy=\"900s\"}";

#[test]
fn a_kill_in_the_middle_loses_at_most_one_flush_of_credit_and_adds_none() {
    const FLUSH: f64 = 1.0;
    let mut service = Service::start_with(Settings::default().set("UNPOLL_LEDGER_FLUSH_SECS", "1"));
    let backend = service.backend();
    let began = Instant::now();
    let devices: Vec<Device> = (0..3)
        .map(|n| {
            backend.add_device(&format!("box-{n}"), "secret");
            Device::online(&service, &format!("box-{n}"), "secret")
        })
        .collect();
    // Each answer to a ping is a proof of life.
    let mut shown = 0.0;
    while began.elapsed() < Duration::from_secs(5) {
        for device in &devices {
            device.answer_to(PING);
        }
        shown = service.metric(CREDITED).unwrap();
        std::thread::sleep(PAUSE);
    }
    service.kill();
    let earned = 3.0 * began.elapsed().as_secs_f64();
    assert!(shown > 9.0, "{shown} s of three devices");
    let mut kept = None;
    for kill in 1..3 {
        service.run();
        let report = backend.get("/v1/reports/polling-avoided").expect(200).json();
        let credited = report["credited_seconds"].as_f64().unwrap();
        assert!(
            credited <= earned,
            "kill {kill}: {credited} s, but three devices were there for {earned} s"
        );
        // Three devices, one flush each, and a proof of life may wait for a second.
        assert!(credited >= shown - 3.0 * (FLUSH + 1.5), "kill {kill}: {credited} s of {shown} s");
        assert_eq!(report["validation"], "not validated: no control cohort");
        // Nobody is connected, so nothing is earned.
        assert_eq!(service.metric(CREDITED), Some(0.0), "kill {kill}");
        assert_eq!(*kept.get_or_insert(credited), credited, "kill {kill}");
        service.kill();
    }
}

#[test]
fn devices_without_a_cohort_are_drawn_and_the_count_survives_a_restart() {
    let settings = Settings::default().set("UNPOLL_REGISTRY_CONTROL_PERCENT", "50");
    let mut service = Service::start_with(settings);
    let backend = service.backend();
    let put = |id: &str, body: serde_json::Value| {
        let answer = backend.request("PUT", &format!("/v1/devices/{id}"), &[], body.to_string().as_bytes());
        answer.json()["cohort"].as_str().unwrap().to_owned()
    };
    let drawn: Vec<String> = (0..40).map(|n| put(&format!("box-{n}"), json!({}))).collect();
    let control = drawn.iter().filter(|cohort| *cohort == "control").count();
    assert!((8..=32).contains(&control), "{drawn:?}");
    assert!(drawn.iter().all(|cohort| cohort == "control" || cohort == "push"));
    // By hand it is as given; without one it is the same draw again.
    let by_hand = |cohort: &str| put("box-0", json!({ "cohort": cohort }));
    assert_eq!(
        (by_hand("poll"), by_hand("push"), by_hand("control")),
        ("poll".into(), "push".into(), "control".into())
    );
    assert_eq!(put("box-0", json!({})), drawn[0]);
    assert_eq!(by_hand("poll"), "poll");
    let patch = |body: &str| {
        let answer = backend.request("PATCH", "/v1/devices/box-0", &[], body.as_bytes());
        answer.json()["cohort"].as_str().unwrap().to_owned()
    };
    assert_eq!(patch(r#"{"user":"family-9"}"#), "poll");
    assert_eq!(patch(r#"{"cohort":null}"#), drawn[0]);
    backend
        .request("PUT", "/v1/devices/box-40", &[], br#"{"cohort":"poll"}"#)
        .expect(201);
    backend
        .request("PUT", "/v1/devices/box-41", &[], br#"{"cohort":"poll"}"#)
        .expect(201);
    backend.request("DELETE", "/v1/devices/box-41", &[], b"").expect(204);
    for restarted in [false, true] {
        if restarted {
            service.kill();
            service.run();
        }
        let devices = |cohort: &str| service.metric(&format!("unpoll_cohort_devices{{cohort=\"{cohort}\"}}"));
        wait_for("all cohorts are counted", SOON, || {
            (service.metric("unpoll_devices") == Some(41.0)).then_some(())
        });
        assert_eq!(devices("control"), Some(control as f64), "restarted: {restarted}");
        assert_eq!((devices("poll"), devices("push")), (Some(1.0), Some((40 - control) as f64)));
    }
}

#[test]
fn a_device_that_says_that_it_polls_earns_nothing() {
    let service = Service::start();
    service.backend().add_device("box", "secret");
    let device = Device::online(&service, "box", "secret");
    let says = |polling: &str| {
        let json = format!(r#"{{"polling":"{polling}"}}"#);
        device.answer_to(&format!(
            "<presence><attributes xmlns='urn:unpoll:event:1'><json>{json}</json></attributes></presence>"
        ));
    };
    let uncredited = |reason: &str| {
        std::thread::sleep(PAUSE);
        device.answer_to(PING);
        service.metric(&format!("unpoll_uncredited_connected_seconds_total{{reason=\"{reason}\"}}"))
    };
    says("on");
    wait_for("time that earns nothing", SOON, || {
        uncredited("polling_on").filter(|seconds| *seconds > 1.0)
    });
    says("whatever");
    wait_for("time of an unknown mode", SOON, || {
        uncredited("mode_unknown").filter(|seconds| *seconds > 1.0)
    });
    let before = service.metric(CREDITED).unwrap();
    says("off");
    wait_for("time that earns again", SOON, || {
        uncredited("polling_on");
        service.metric(CREDITED).filter(|seconds| *seconds > before + 1.0)
    });
}
